//! Simulated time, and what a machine's clocks make of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use countersign_control_plane::cluster::Clock;

/// Milliseconds since 1970 when a simulation begins.
const EPOCH: u64 = 1_800_000_000_000;

/// Milliseconds since the simulation began. Clones are the same time.
#[derive(Clone, Default)]
pub(crate) struct Time(Arc<AtomicU64>);

impl Time {
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn is(&self, now: Duration) {
        self.0.store(now.as_millis() as u64, Ordering::SeqCst);
    }
}

/// The clocks of one machine: one that only goes on, at its own rate, and one that people set.
pub(crate) struct Watch {
    time: Time,
    /// Of a thousand.
    rate: u64,
    booted: AtomicU64,
    ahead: AtomicI64,
}

impl Watch {
    pub(crate) fn new(time: Time, rate: u64) -> Arc<Self> {
        Arc::new(Self { time, rate, booted: AtomicU64::new(0), ahead: AtomicI64::new(0) })
    }

    pub(crate) fn jump(&self, milliseconds: i64) {
        self.ahead.fetch_add(milliseconds, Ordering::SeqCst);
    }

    /// Sets the wall clock.
    pub(crate) fn set(&self, wall: u64) {
        self.jump(wall.cast_signed() - self.wall().cast_signed());
    }

    /// The machine was without power: what counts from its start counts anew.
    pub(crate) fn boot(&self) {
        self.booted.store(self.ticked(), Ordering::SeqCst);
    }

    fn ticked(&self) -> u64 {
        self.time.now() * self.rate / 1000
    }

    pub(crate) fn boottime_ms(&self) -> u64 {
        self.ticked() - self.booted.load(Ordering::SeqCst)
    }
}

impl Clock for Watch {
    fn since_boot(&self) -> Duration {
        Duration::from_millis(self.boottime_ms())
    }

    fn wall(&self) -> u64 {
        (EPOCH + self.ticked()).saturating_add_signed(self.ahead.load(Ordering::SeqCst))
    }
}
