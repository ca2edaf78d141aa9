//! Connections that wait for the next request of the same agent with the same credential to the same destination.
//! Nothing else ever gets one: what one request leaves behind on a connection cannot reach anyone else's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_gate::Destination;
use hyper::client::conn::http2;
use tokio::time::Instant;

use super::connection::{Connection, Watched};

const IDLE_LIMIT: Duration = Duration::from_secs(60);
const SWEEP_EVERY: Duration = Duration::from_secs(10);
const IDLE_PER_KEY: usize = 64;

#[derive(Default)]
pub(super) struct Pool(Mutex<Shelves>);

#[derive(Default)]
struct Shelves {
    shelves: HashMap<(Destination, Box<str>), Shelf>,
    swept: Option<Instant>,
}

#[derive(Default)]
struct Shelf {
    /// HTTP/1.1: one request at a time, the last one back is the first one out.
    idle: Vec<(Connection, Instant)>,
    /// HTTP/2: shared by all requests, with the time of the last.
    shared: Option<(http2::SendRequest<Watched>, Instant)>,
}

impl Pool {
    pub(super) fn take(&self, destination: &Destination, key: &str) -> Option<Connection> {
        let now = Instant::now();
        let mut shelves = self.lock();
        shelves.sweep(now);
        let shelf = shelves.shelves.get_mut(&(destination.clone(), key.into()))?;
        if let Some((sender, used)) = &mut shelf.shared {
            if !sender.is_closed() {
                *used = now;
                return Some(Connection::Two(sender.clone()));
            }
            shelf.shared = None;
        }
        while let Some((connection, since)) = shelf.idle.pop() {
            if !connection.is_closed() && now.duration_since(since) < IDLE_LIMIT {
                return Some(connection);
            }
        }
        None
    }

    /// Lets others use a new HTTP/2 connection at once, unless there is one already.
    pub(super) fn share(&self, destination: &Destination, key: &str, connection: &Connection) {
        let Connection::Two(sender) = connection else { return };
        match self.lock().shelves.entry((destination.clone(), key.into())) {
            Entry::Occupied(mut shelf)
                if shelf.get().shared.as_ref().is_none_or(|(old, _)| old.is_closed()) =>
            {
                shelf.get_mut().shared = Some((sender.clone(), Instant::now()));
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(Shelf {
                    idle: Vec::new(),
                    shared: Some((sender.clone(), Instant::now())),
                });
            }
        }
    }

    /// Takes an HTTP/1.1 connection back once its answer has been read to the end; until then it is nobody's.
    pub(super) fn keep(
        self: &Arc<Self>,
        destination: Destination,
        key: &str,
        connection: Connection,
    ) {
        let Connection::One(mut sender) = connection else { return };
        let pool = Arc::downgrade(self);
        let key = (destination, Box::from(key));
        tokio::spawn(async move {
            // An answer that is dropped half-read closes the connection, and this fails.
            if sender.ready().await.is_err() {
                return;
            }
            let Some(pool) = pool.upgrade() else { return };
            let mut shelves = pool.lock();
            let idle = &mut shelves.shelves.entry(key).or_default().idle;
            if idle.len() < IDLE_PER_KEY {
                idle.push((Connection::One(sender), Instant::now()));
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        // A panic while it was held left a map of whole entries: there is nothing to repair.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelves {
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.duration_since(swept) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        let fresh = |since: &Instant| now.duration_since(*since) < IDLE_LIMIT;
        self.shelves.retain(|_, shelf| {
            shelf.idle.retain(|(connection, since)| fresh(since) && !connection.is_closed());
            shelf.shared =
                shelf.shared.take().filter(|(sender, used)| fresh(used) && !sender.is_closed());
            !shelf.idle.is_empty() || shelf.shared.is_some()
        });
    }
}
