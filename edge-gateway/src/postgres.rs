//! The Postgres gate: an agent's `postgres://` ends here. TLS and SCRAM-SHA-256 with the agent, TLS and SCRAM-SHA-256 with
//! the real server, and between them every message is read, and each statement is a request like any other.
//!
//! ```text
//! accept          listens; postgres/startup, scram: who is it?
//! postgres/admit  may it connect, as whom: the connection itself is a request, and carries the password
//! postgres/session  THE STORY of a connection that is open
//! postgres/outward  what the agent says: judged, held, sent; postgres/weigh: by what does that with every request
//! postgres/back     what the server says
//! postgres/ledger   what is answered next, and what names stand for; deed: what people released, and what came of it
//! postgres/figures  how many rows there are in the tables that people are asked about
//! postgres/statement  message → request, and what came out of the gate → message
//! postgres/message  the bytes; report: errors and notices
//! ```
//!
//! A server is reached at the one place that the edge's configuration names for a listener. What an agent says never
//! chooses where it goes.

mod admit;
mod back;
mod deed;
mod figures;
mod ledger;
pub(crate) mod message;
mod outward;
mod report;
mod scram;
mod session;
mod startup;
mod statement;
mod weigh;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use countersign_gate::Destination;
use countersign_policy::Head;
use http::Method;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::doorway::Doorway;
use crate::rooms::{Place, Rooms};
use crate::upstream::CancelKey;
use session::Session;
use startup::CancelRequest;

pub(crate) use figures::ROWS;
pub use scram::password;

/// The header that says as which role.
pub(crate) const ROLE: &str = "postgres-role";
/// The header of a connection's request that holds the role's password, once it has one.
pub(crate) const PASSWORD: &str = "postgres-password";

/// Whether a request is a statement, which goes over a connection that was opened before and has no key of its own.
pub(crate) fn is_statement(head: &Head<'_>) -> bool {
    head.destination.scheme() == countersign_gate::Scheme::Postgres && *head.method == Method::POST
}

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// For fuzzers: whether these bytes are a startup packet, and whether they begin SCRAM.
pub(crate) fn beginnings(bytes: &[u8]) -> [bool; 2] {
    let begun = scram::Exchange::begin(bytes, b"salt", "nonce");
    let ended = begun.map(|(exchange, _)| exchange.end(bytes, &[]).is_err());
    [startup::parse(bytes).is_ok(), ended == Ok(true)]
}

/// One listener, and the server behind it.
pub(crate) struct Gate {
    rooms: Arc<Rooms>,
    destination: Destination,
    /// Under which it is reached, besides `localhost` and its address.
    names: Vec<String>,
    lines: Mutex<HashMap<CancelRequest, Line>>,
    verifiers: scram::Verifiers,
}

/// How an open connection is cancelled.
#[derive(Clone)]
struct Line {
    session: Weak<Session>,
    key: Option<CancelKey>,
}

impl Gate {
    pub(crate) fn new(rooms: Arc<Rooms>, destination: Destination, names: Vec<String>) -> Self {
        let verifiers = scram::Verifiers::new(Zeroizing::new(rand::random()));
        Self { rooms, destination, names, lines: Mutex::default(), verifiers }
    }

    /// Gives the agent something to cancel this session with, for as long as the guard lives.
    fn line(&self, session: &Arc<Session>, key: Option<CancelKey>) -> (Entered<'_>, CancelRequest) {
        let line = Line { session: Arc::downgrade(session), key };
        let mut lines = lock(&self.lines);
        loop {
            // A process id is positive, as clients show it.
            let process = i32::from_be_bytes(rand::random()) & i32::MAX;
            let request = CancelRequest { process, secret: i32::from_be_bytes(rand::random()) };
            if request.process != 0 && !lines.contains_key(&request) {
                lines.insert(request, line);
                return (Entered { gate: self, request }, request);
            }
        }
    }

    /// Takes back what is held on that connection; asks the server to cancel what runs there, if nothing is held.
    async fn cancel(&self, request: &CancelRequest) {
        let line = lock(&self.lines).get(request).cloned();
        let Some(Line { session, key }) = line else { return };
        let held = session.upgrade().is_some_and(|session| session.cancel_held());
        if let (false, Some(key)) = (held, key)
            && let Err(why) = self.rooms.upstream.cancel_postgres(&self.destination, &key).await
        {
            tracing::warn!(%why, "a running statement could not be cancelled");
        }
    }
}

/// A connection among those that can be cancelled.
struct Entered<'a> {
    gate: &'a Gate,
    request: CancelRequest,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        lock(&self.gate.lines).remove(&self.request);
    }
}

/// Accepts connections until `stop`, then lets those that are open end.
pub(crate) async fn accept(
    listener: TcpListener,
    gate: Arc<Gate>,
    stop: CancellationToken,
    open: TaskTracker,
) {
    let most = gate.rooms.limits.max_connections;
    let places = Arc::new(Semaphore::new(most));
    let doorway = Doorway::new(most);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(why) => {
                // Out of file descriptors, most likely: they come back when others close.
                tracing::warn!(%why, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Shed: one that there is no place for is closed at once.
        let Ok(permit) = Arc::clone(&places).try_acquire_owned() else { continue };
        if let Err(why) = prepare(&stream) {
            tracing::debug!(%why, "a connection was gone before it began");
            continue;
        }
        let place = Place::new(Arc::clone(&gate.rooms.metrics), permit);
        let (gate, stranger) = (Arc::clone(&gate), doorway.enter());
        open.spawn(async move { Box::pin(admit::serve(&gate, stream, place, stranger)).await });
    }
}

/// Small answers leave at once, and a connection that waits stays known to the boxes on its way.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl};
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, KEEP_ALIVE)?;
    set_tcp_keepintvl(stream, KEEP_ALIVE)?;
    Ok(())
}

/// What a panic left behind is whole: nothing here is changed in more than one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
