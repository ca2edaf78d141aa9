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

/// What log time was when, on this machine's own clock; it has gone on since as that clock has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogTime {
    known: Millis,
    known_since_boot: Duration,
    /// Whether an entry that was new has been applied here. Of those that were in the log already, or in a snapshot,
    /// nobody here knows how long ago they were.
    witnessed: bool,
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
    /// As a snapshot, or nothing yet, has it.
    pub(super) fn begin(known: Millis, known_since_boot: Duration) -> Self {
        Self { known, known_since_boot, witnessed: false }
    }

    /// An entry was applied now, which says that log time is `at`. It was stamped a while ago: what has passed on this
    /// machine's own clock since an earlier entry counts for more, where it is more. Otherwise log time would lose, with
    /// each entry, as long as it takes to commit one.
    pub(super) fn applied(&self, at: Millis, since_boot: Duration, witnessed: bool) -> Self {
        if self.steady(since_boot) > at {
            return Self { witnessed: self.witnessed || witnessed, ..*self };
        }
        Self { known: at, known_since_boot: since_boot, witnessed }
    }

    /// Never less than what passed since the last entry, whatever happens to the wall clock.
    pub(super) fn stamp(&self, clock: &dyn Clock) -> Stamp {
        let wall = clock.wall();
        if crate::planted::planted(4) {
            return Stamp { at: wall, jumped: None };
        }
        let steady = self.steady(clock.since_boot());
        let ahead = wall.saturating_sub(steady);
        let jumped = (self.witnessed && ahead > BELIEVED).then_some(ahead);
        Stamp { at: steady.max(wall), jumped }
    }

    fn steady(&self, since_boot: Duration) -> Millis {
        let passed = since_boot.saturating_sub(self.known_since_boot);
        self.known.saturating_add(passed.as_millis() as Millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn i_14_a_commit_that_takes_its_time_costs_log_time_nothing() {
        // The wall clock is far behind; each entry takes 30 of every 100 ms to be applied.
        let mut time = LogTime::begin(1_000_000, boot(0)).applied(1_000_000, boot(0), true);
        for round in 1..=100_u64 {
            let stamped = time.steady(boot(round * 100));
            time = time.applied(stamped, boot(round * 100 + 30), true);
        }
        assert_eq!(time.steady(boot(10_030)), 1_010_030);
    }

    #[test]
    fn i_14_another_nodes_later_time_is_taken_and_an_earlier_one_turns_nothing_back() {
        let time = LogTime::begin(1_000, boot(0));
        let ahead = time.applied(50_000, boot(10), true);
        assert_eq!(ahead.steady(boot(20)), 50_010);
        let behind = ahead.applied(50_001, boot(500), true);
        assert_eq!(behind.steady(boot(500)), 50_490);
    }
}
