//! How fresh what we know is, by the boot-time clock: when the control plane was last heard, since when it has been
//! away, and whether its clock and ours agree.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Clock;

/// A session in which nothing was heard for so long is no basis for asking people.
const LONGEST_SILENCE: Duration = Duration::from_secs(10 * 60);
/// A bundle that nobody confirmed for so long lends no keys any more.
const OLDEST_BUNDLE: Duration = Duration::from_secs(24 * 60 * 60);
/// Our wall clock may be so far from the log's time.
const LARGEST_SKEW_MS: u64 = 30_000;

pub(super) struct Freshness {
    clock: Clock,
    /// The last message of a session.
    heard_ms: AtomicU64,
    /// The last message of a session that has sent its bundle: had there been a newer one, it would have come.
    confirmed_ms: AtomicU64,
    /// The end of the last session.
    lost_ms: AtomicU64,
    clock_off: AtomicBool,
}

impl Freshness {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            heard_ms: AtomicU64::new(0),
            confirmed_ms: AtomicU64::new(0),
            lost_ms: AtomicU64::new(0),
            clock_off: AtomicBool::new(false),
        }
    }

    /// A message came in a session; `confirmed` when the session's bundle is the one in force.
    pub(super) fn heard(&self, confirmed: bool) {
        let now = self.clock.boottime_ms();
        self.heard_ms.store(now, Relaxed);
        if confirmed {
            self.confirmed_ms.store(now, Relaxed);
        }
    }

    /// The session ended.
    pub(super) fn lost(&self) {
        self.lost_ms.store(self.clock.boottime_ms(), Relaxed);
    }

    /// Boot-time milliseconds at which the last session ended; 0 if none did.
    pub(super) fn lost_ms(&self) -> u64 {
        self.lost_ms.load(Relaxed)
    }

    /// Whether the control plane was heard lately enough for high risk.
    pub(super) fn in_contact(&self) -> bool {
        self.younger(&self.heard_ms, LONGEST_SILENCE)
    }

    /// Whether the bundle in force was confirmed lately enough to lend keys by it.
    pub(super) fn bundle_counts(&self) -> bool {
        self.younger(&self.confirmed_ms, OLDEST_BUNDLE)
    }

    /// The control plane told its time. Answers how far ours is off (milliseconds), when that is news: too far since
    /// now.
    pub(super) fn told_time(&self, log_time_ms: u64) -> Option<u64> {
        let skew = self.clock.wall_ms().abs_diff(log_time_ms);
        let off = skew > LARGEST_SKEW_MS;
        let before = self.clock_off.swap(off, Relaxed);
        (off && !before).then_some(skew)
    }

    /// Whether our wall clock is too far off to be believed.
    pub(super) fn clock_off(&self) -> bool {
        self.clock_off.load(Relaxed)
    }

    fn younger(&self, event_ms: &AtomicU64, than: Duration) -> bool {
        let age = self.clock.boottime_ms().saturating_sub(event_ms.load(Relaxed));
        age <= than.as_millis() as u64
    }
}
