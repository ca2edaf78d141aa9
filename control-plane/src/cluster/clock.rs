//! The one door to the clocks, and log time, which is made from them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::state::Millis;

/// What the leader reads before it stamps an entry.
pub trait Clock: Send + Sync + 'static {
    /// Since this machine booted, suspend included; never set, never back.
    fn since_boot(&self) -> Duration;
    /// Milliseconds since 1970 as this machine believes; people and NTP set it.
    fn wall(&self) -> Millis;
}

/// `CLOCK_BOOTTIME` and the system's time.
pub struct SystemClock;

impl Clock for SystemClock {
    fn since_boot(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
    }

    fn wall(&self) -> Millis {
        // Before 1970 counts as 1970: log time then goes on from what it was.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
    }
}

/// Log time as of the last applied entry, and when on this machine's own clock that was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogTime {
    pub(super) applied: Millis,
    pub(super) applied_since_boot: Duration,
}

impl LogTime {
    /// Never less than what passed since the last entry, whatever happens to the wall clock.
    pub(super) fn now(&self, clock: &dyn Clock) -> Millis {
        if crate::planted::planted(4) {
            return clock.wall();
        }
        let passed = clock.since_boot().saturating_sub(self.applied_since_boot);
        self.applied.saturating_add(passed.as_millis() as Millis).max(clock.wall())
    }
}
