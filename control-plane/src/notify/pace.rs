//! No faster than a platform takes: so many calls in a while, and so many into one place.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// When the next call may leave. Calls into one place do so in the order in which they asked; a place that has many holds up
/// no other one.
pub(crate) struct Pace {
    anywhere: Mutex<Anywhere>,
    /// From when on the next call may leave into a place; whoever holds it is next there.
    in_place: Mutex<HashMap<String, Arc<AsyncMutex<Instant>>>>,
}

/// Calls to the platform, wherever they go.
struct Anywhere {
    /// So many at most within this.
    most: usize,
    within: Duration,
    /// When the last so many leave, oldest first.
    leave: VecDeque<Instant>,
    /// The platform has said that it takes none before.
    not_before: Instant,
}

/// Places that are remembered before the quiet ones are forgotten.
const PLACES: usize = 1024;

impl Pace {
    /// `burst` calls may leave at once, and no more in the time that they take at this rate.
    pub(crate) fn new(per_second: f64, burst: u32) -> Self {
        let most = burst.max(1);
        let anywhere = Anywhere {
            most: most as usize,
            within: every(per_second) * most,
            leave: VecDeque::new(),
            not_before: Instant::now(),
        };
        Self { anywhere: Mutex::new(anywhere), in_place: Mutex::default() }
    }

    /// Returns when it is this call's turn.
    pub(crate) async fn turn(&self, place: &str, per_second_in_place: f64) {
        let here = self.here(place);
        let mut next = here.lock().await;
        tokio::time::sleep_until(*next).await;
        // Only now, or what waits for its place would keep others from theirs.
        loop {
            let at = self.anywhere().take(Instant::now());
            tokio::time::sleep_until(at).await;
            // Meanwhile the platform may have had enough.
            if self.anywhere().not_before <= at {
                break;
            }
        }
        *next = Instant::now() + every(per_second_in_place);
    }

    /// Nothing leaves before then: the platform has said so.
    pub(crate) fn hold_back(&self, until: Instant) {
        let mut anywhere = self.anywhere();
        anywhere.not_before = anywhere.not_before.max(until);
    }

    fn anywhere(&self) -> std::sync::MutexGuard<'_, Anywhere> {
        self.anywhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self, place: &str) -> Arc<AsyncMutex<Instant>> {
        let mut places = self.in_place.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if places.len() >= PLACES {
            // Nobody gets hold of one meanwhile: that takes this lock.
            let waits = |here: &AsyncMutex<Instant>| here.try_lock().is_ok_and(|next| *next > now);
            places.retain(|_, here| Arc::strong_count(here) > 1 || waits(here));
        }
        places.entry(place.to_owned()).or_insert_with(|| Arc::new(AsyncMutex::new(now))).clone()
    }
}

impl Anywhere {
    /// When a call that asks now leaves.
    fn take(&mut self, now: Instant) -> Instant {
        let full = self.leave.len() >= self.most;
        let oldest = if full { self.leave.pop_front() } else { None };
        let at = oldest.map_or(now, |oldest| oldest + self.within).max(now).max(self.not_before);
        self.leave.push_back(at);
        at
    }
}

fn every(per_second: f64) -> Duration {
    Duration::from_secs_f64(1.0 / per_second.max(0.001))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn d_a_thousand_calls_never_leave_faster_than_the_rates() {
        let pace = Pace::new(20.0, 1);
        let start = Instant::now();
        let places: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        let mut left = Vec::new();
        for n in 0..1000 {
            let place = &places[n % places.len()];
            pace.turn(place, 1.0).await;
            left.push((Instant::now() - start, place));
        }
        for window in left.windows(21) {
            assert!(window[20].0 - window[0].0 >= Duration::from_secs(1));
        }
        for place in &places {
            let here: Vec<_> =
                left.iter().filter(|(_, there)| *there == place).map(|(at, _)| *at).collect();
            assert!(here.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(1)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_waits_holds_up_no_other_one_and_keeps_its_order() {
        let pace = Arc::new(Pace::new(80.0, 1));
        let start = Instant::now();
        let left = Arc::new(Mutex::new(Vec::new()));
        let busy = (0..3).map(|n| {
            let (pace, left) = (pace.clone(), left.clone());
            tokio::spawn(async move {
                pace.turn("busy", 1.0 / 6.0).await;
                left.lock().unwrap().push((n, (Instant::now() - start).as_secs()));
            })
        });
        let busy: Vec<_> = busy.collect();
        tokio::task::yield_now().await;
        pace.turn("quiet", 1.0 / 6.0).await;
        assert!(Instant::now() - start < Duration::from_millis(50));
        for call in busy {
            call.await.unwrap();
        }
        assert_eq!(*left.lock().unwrap(), [(0, 0), (1, 6), (2, 12)]);
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_as_the_platform_takes_at_once_leave_at_once_and_no_more_in_that_time() {
        let pace = Pace::new(15.0 / 900.0, 15);
        let start = Instant::now();
        let mut left = Vec::new();
        for n in 0..100 {
            pace.turn(&n.to_string(), 1.0).await;
            left.push(Instant::now() - start);
        }
        assert_eq!(left[14], Duration::ZERO);
        for window in left.windows(16) {
            assert!(window[15] - window[0] >= Duration::from_secs(900), "{window:?}");
        }
        assert_eq!(left[99].as_secs(), 900 * 6, "and none waits longer than it has to");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_leaves_while_the_platform_has_had_enough_not_even_what_had_its_turn() {
        let pace = Arc::new(Pace::new(1.0, 1));
        let start = Instant::now();
        pace.turn("a", 1.0).await;
        let waiting: Vec<_> = (0..3)
            .map(|n: u32| {
                let pace = pace.clone();
                tokio::spawn(async move {
                    pace.turn(&n.to_string(), 1.0).await;
                    (Instant::now() - start).as_secs()
                })
            })
            .collect();
        tokio::task::yield_now().await;
        pace.hold_back(start + Duration::from_secs(30));
        let mut left = Vec::new();
        for call in waiting {
            left.push(call.await.unwrap());
        }
        left.sort_unstable();
        assert!(left[0] >= 30 && left.windows(2).all(|pair| pair[1] > pair[0]), "{left:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_may_have_a_pace_of_its_own() {
        let pace = Pace::new(30.0, 1);
        let start = Instant::now();
        for _ in 0..21 {
            pace.turn("-100", 20.0 / 60.0).await;
        }
        assert!(Instant::now() - start >= Duration::from_secs(60));
    }
}
