//! The edge gateway: it intercepts what agents send, freezes what is risky until people or the policy release it,
//! swaps fake keys for real ones, and forwards. It writes nothing to disk save its authority's certificate and, when it is renewed, its own.
//!
//! # Layout
//!
//! A file imports those below it:
//!
//! ```text
//! main    config, then run until told to stop
//! lib     Edge: start, ready, shutdown
//! accept  listen, bounded connections, CONNECT, drain; doorway: those that have not said whose they are
//! serve   THE STORY: one request, start to end
//! judge   policy and keys → pass, hold, refuse; carry, bounded: what was released, out and back
//! socket, tunnel  what is more than one request; channel: its bounds and its end
//! postgres  statements to a database are requests as well; a listener and a server for each
//! park    a held request that outlives its client; local: what an agent may know of its approvals
//! rooms   everything that a request meets on its way
//! agent   proxy credential → Agent; unknown is refused
//! mitm    leaf certificate for the asked name, TLS on the agent's side
//! pace    how long a client may take over what it sends; frames: what HTTP/2 is flooded with
//! ahead   sockets of TLS are read in large pieces; tls: what TLS is made of
//! freeze  what is frozen is what leaves, save the key
//! inject  where a key goes; tripwire: where a fake key must never be
//! wait    a held request and signed decisions → Released, or not
//! upstream, addresses  the only dialler, and its guard
//! redact  no real key reaches the agent
//! refuse  every way to say no; the only table of statuses
//! control the only files that know proto; unseal: the key that keys are sealed to; bundle: what is decided with
//! identity  who we are to the control plane; config, clock, telemetry
//! ```

mod accept;
mod doorway;

mod serve;

mod agent;
mod ahead;
mod bounded;
mod carry;
mod channel;
mod frames;
mod freeze;
mod inject;
mod judge;
mod local;
pub mod mitm;
mod names;
mod pace;
mod park;
pub mod postgres;
pub mod redact;
mod refuse;
mod rooms;
mod socket;
mod tls;
mod token;
mod tripwire;
mod tunnel;
pub mod upstream;
mod wait;

pub mod addresses;
mod bundle;
mod control;
mod unseal;

pub mod clock;
pub mod config;
#[doc(hidden)]
pub mod fuzz;
mod identity;
mod planted;
pub mod telemetry;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Config;
use crate::control::Control;
use crate::rooms::Rooms;
use crate::telemetry::Metrics;
use crate::upstream::{Resolve, SystemResolver};

/// A running edge.
pub struct Edge {
    rooms: Arc<Rooms>,
    proxy_addr: SocketAddr,
    postgres_addrs: Vec<SocketAddr>,
    metrics_addr: Option<SocketAddr>,
    /// No new connections, and no new requests on old ones.
    stop: CancellationToken,
    /// The session with the control plane, which ends last.
    detach: CancellationToken,
    open: TaskTracker,
}

/// What an edge asks its machine for.
pub struct Surroundings {
    pub clock: Clock,
    pub resolver: Arc<dyn Resolve>,
}

impl Default for Surroundings {
    /// The machine's own.
    fn default() -> Self {
        Self { clock: Clock::system(), resolver: Arc::new(SystemResolver) }
    }
}

/// How long a shutdown waits for answers that are under way.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs an edge until `shutdown` completes, then drains it.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let edge = Edge::start(config).await?;
    tracing::info!(proxy = %edge.proxy_addr(), "the edge listens");
    for address in edge.postgres_addrs() {
        tracing::info!(postgres = %address, "the edge listens for clients of Postgres");
    }
    shutdown.await;
    tracing::info!("the edge goes down");
    edge.shutdown().await;
    Ok(())
}

impl Edge {
    /// Listens, and begins to attach to the control plane. Until the first verified bundle everything is refused.
    ///
    /// # Errors
    /// When an address is taken, the CA file cannot be written, or a certificate cannot be read or has ended.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_in(config, Surroundings::default()).await
    }

    /// The same, with another clock and another way to find addresses.
    ///
    /// # Errors
    /// As [`Edge::start`].
    pub async fn start_in(config: Config, surroundings: Surroundings) -> anyhow::Result<Self> {
        let Surroundings { clock, resolver } = surroundings;
        let Config {
            listen,
            metrics_listen,
            ca_file,
            identity,
            gateway,
            mut upstream,
            postgres,
            limits,
        } = config;
        let (stop, drain, detach) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let metrics = Metrics::new()?;
        let authority = mitm::Authority::generate(&identity.name)?;
        if let Some(path) = &ca_file {
            write_whole(path, authority.ca_pem())
                .with_context(|| format!("writing {}", path.display()))?;
        }
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
        accept::prepare(&listener).with_context(|| format!("listening on {listen}"))?;
        let proxy_addr = listener.local_addr()?;
        let mut databases = Vec::new();
        for server in postgres {
            let listen = server.listen;
            let listener = TcpListener::bind(listen)
                .await
                .with_context(|| format!("listening on {listen}"))?;
            databases.push((listener.local_addr()?, listener, server));
        }
        let postgres_addrs: Vec<SocketAddr> = databases.iter().map(|(at, ..)| *at).collect();
        let metrics_addr = match metrics_listen {
            None => None,
            Some(listen) => {
                Some(telemetry::serve_metrics(listen, Arc::clone(&metrics), detach.clone()).await?)
            }
        };
        let ours = [proxy_addr].into_iter().chain(metrics_addr);
        upstream.forbidden.extend(ours.chain(postgres_addrs.iter().copied()));
        let control =
            Control::start(gateway, identity, clock, Arc::clone(&metrics), detach.clone())?;
        let shelf = Arc::new(park::Shelf::new(&limits, control.clock().clone()));
        let rooms = Arc::new(Rooms {
            authority,
            control,
            upstream: upstream::Upstream::with_resolver(upstream, resolver)?,
            hall: agent::Hall::new(limits),
            limits,
            metrics,
            shelf,
            drain,
            carried: TaskTracker::new(),
        });
        let open = TaskTracker::new();
        tokio::spawn(accept::accept(listener, Arc::clone(&rooms), stop.clone(), open.clone()));
        for (_, listener, server) in databases {
            let gate = postgres::Gate::new(Arc::clone(&rooms), server.upstream, server.names);
            let gate = Arc::new(gate);
            tokio::spawn(postgres::accept(listener, gate, stop.clone(), open.clone()));
        }
        Ok(Self { rooms, proxy_addr, postgres_addrs, metrics_addr, stop, detach, open })
    }

    /// Where agents reach it.
    pub fn proxy_addr(&self) -> SocketAddr {
        self.proxy_addr
    }

    /// Where clients of Postgres reach it, in the order of its configuration.
    pub fn postgres_addrs(&self) -> &[SocketAddr] {
        &self.postgres_addrs
    }

    /// Where its metrics are, if they are served.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// The certificate that agents are to trust.
    pub fn ca_pem(&self) -> &str {
        self.rooms.authority.ca_pem()
    }

    /// Returns once the first verified bundle is in force.
    pub async fn ready(&self) {
        let _ = self.rooms.control.bundles().wait_for(Option::is_some).await;
    }

    /// Goes down: nothing new is taken, what is held is sent away to ask again, what was released is finished and
    /// reported.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.rooms.drain.cancel();
        self.open.close();
        self.rooms.carried.close();
        let drained = async {
            self.rooms.carried.wait().await;
            self.open.wait().await;
            self.rooms.control.flushed().await;
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("some answers were still under way when the edge went down");
        }
        self.detach.cancel();
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop.cancel();
        self.rooms.drain.cancel();
        self.detach.cancel();
    }
}

/// Written beside it and renamed, so that nobody reads half a file.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}
