//! The two clocks. Deadlines are kept on the boot-time clock, which goes on while the machine sleeps and which
//! nobody can set; the wall clock only goes into what other machines read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_gate::Now;
use rustix::time::{ClockId, clock_gettime};

/// Both readings at once, as the gate wants them.
pub(crate) fn now() -> Now {
    Now { boottime_ms: boottime_ms(), wall_ms: wall_ms() }
}

/// Milliseconds since boot, sleep included.
pub(crate) fn boottime_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000
}

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Returns when the boot-time clock has reached `deadline_ms`. Timers stand still while the machine sleeps, so the
/// clock is read again every now and then.
pub(crate) async fn reached(deadline_ms: u64) {
    const LOOK_AGAIN: Duration = Duration::from_secs(15);
    loop {
        let left = deadline_ms.saturating_sub(boottime_ms());
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(left).min(LOOK_AGAIN)).await;
    }
}
