//! Everything that a request meets on its way, made once at the start.

use std::sync::{Arc, OnceLock};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Hall, Seat};
use crate::config::Limits;
use crate::control::Control;
use crate::mitm::Authority;
use crate::park::Shelf;
use crate::telemetry::Metrics;
use crate::upstream::Upstream;

/// A connection's place among all of them, as long as it or what became of it is open.
pub(crate) struct Place {
    metrics: Arc<Metrics>,
    /// Among the connections of the agent whose it is, once that is known.
    pub(crate) seat: OnceLock<Seat>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    pub(crate) fn new(metrics: Arc<Metrics>, permit: OwnedSemaphorePermit) -> Self {
        metrics.connections.inc();
        Self { metrics, seat: OnceLock::new(), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// Everything that a request meets on its way.
pub(crate) struct Rooms {
    pub(crate) authority: Authority,
    pub(crate) control: Arc<Control>,
    pub(crate) upstream: Upstream,
    pub(crate) hall: Hall,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shelf: Arc<Shelf>,
    /// Set when the edge goes down: what is held is sent away.
    pub(crate) drain: CancellationToken,
    /// Released requests on their way, which a shutdown waits for.
    pub(crate) carried: TaskTracker,
}
