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
    /// Whether that entry was new when it was applied here. Of one that was in the log already, or in a snapshot,
    /// nobody here knows how long ago it was.
    pub(super) witnessed: bool,
}

/// What an entry is stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) at: Millis,
    /// How much the wall clock is ahead of log time and what passed since, if that is too much to be believed.
    pub(super) jumped: Option<Millis>,
}

/// What clocks drift apart between two settings, and nobody need look at.
const BELIEVED: Millis = 60 * 60 * 1000;

impl LogTime {
    /// Never less than what passed since the last entry, whatever happens to the wall clock.
    pub(super) fn stamp(&self, clock: &dyn Clock) -> Stamp {
        let wall = clock.wall();
        if crate::planted::planted(4) {
            return Stamp { at: wall, jumped: None };
        }
        let passed = clock.since_boot().saturating_sub(self.applied_since_boot);
        let steady = self.applied.saturating_add(passed.as_millis() as Millis);
        let ahead = wall.saturating_sub(steady);
        let jumped = (self.witnessed && ahead > BELIEVED).then_some(ahead);
        Stamp { at: steady.max(wall), jumped }
    }
}
