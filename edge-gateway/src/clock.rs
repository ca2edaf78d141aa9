//! The two clocks, as a value that is handed to whoever has to know the time. Deadlines are kept on the boot-time
//! clock, which goes on while the machine sleeps and which nobody can set; the wall clock only goes into what other
//! machines read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_gate::Now;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// Reads both clocks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// None: the machine's own clocks as they are.
    ahead: Option<watch::Receiver<Ahead>>,
}

/// Moves a [`Clock`] that is not the machine's own: hours pass at once.
#[derive(Debug)]
pub struct Hands(watch::Sender<Ahead>);

/// How far a clock with hands is ahead of the machine's.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    boottime_ms: u64,
    wall_ms: i64,
}

impl Clock {
    /// The machine's own clocks.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that starts as the machine's and is then moved by its hands.
    pub fn with_hands() -> (Self, Hands) {
        let (sender, ahead) = watch::channel(Ahead::default());
        (Self { ahead: Some(ahead) }, Hands(sender))
    }

    /// Milliseconds since boot, sleep included.
    pub fn boottime_ms(&self) -> u64 {
        let time = clock_gettime(ClockId::Boottime);
        let read = time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000;
        self.ahead.as_ref().map_or(read, |ahead| read.saturating_add(ahead.borrow().boottime_ms))
    }

    /// Milliseconds since 1970.
    pub fn wall_ms(&self) -> u64 {
        let read =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        self.ahead.as_ref().map_or(read, |ahead| read.saturating_add_signed(ahead.borrow().wall_ms))
    }

    /// Both readings at once, as the gate wants them.
    pub(crate) fn now(&self) -> Now {
        Now { boottime_ms: self.boottime_ms(), wall_ms: self.wall_ms() }
    }

    /// Returns when the boot-time clock has reached `deadline_ms`.
    pub(crate) async fn reached(&self, deadline_ms: u64) {
        self.passes(|| deadline_ms.saturating_sub(self.boottime_ms())).await;
    }

    /// Returns when the wall clock has reached `deadline_ms`.
    pub(crate) async fn wall_reached(&self, deadline_ms: u64) {
        self.passes(|| deadline_ms.saturating_sub(self.wall_ms())).await;
    }

    /// Timers stand still while the machine sleeps, so the clock is read again every now and then.
    async fn passes(&self, left_ms: impl Fn() -> u64) {
        const LOOK_AGAIN: Duration = Duration::from_secs(15);
        let mut moved = self.ahead.clone();
        loop {
            let left = left_ms();
            if left == 0 {
                return;
            }
            let pause = tokio::time::sleep(Duration::from_millis(left).min(LOOK_AGAIN));
            match &mut moved {
                None => pause.await,
                Some(hands) => {
                    let changed = tokio::time::timeout_at(pause.deadline(), hands.changed()).await;
                    if changed.is_ok_and(|changed| changed.is_err()) {
                        // The hands are gone, and move nothing any more.
                        moved = None;
                    }
                }
            }
        }
    }
}

impl Hands {
    /// Lets time pass: both clocks go on, as when the machine slept.
    pub fn advance(&self, by: Duration) {
        let by_ms = by.as_millis() as u64;
        self.0.send_modify(|ahead| {
            ahead.boottime_ms = ahead.boottime_ms.saturating_add(by_ms);
            ahead.wall_ms = ahead.wall_ms.saturating_add_unsigned(by_ms);
        });
    }

    /// Sets the wall clock alone, by so many milliseconds from where it is, as somebody who sets the date does.
    pub fn set_wall_by(&self, by_ms: i64) {
        self.0.send_modify(|ahead| ahead.wall_ms = ahead.wall_ms.saturating_add(by_ms));
    }
}
