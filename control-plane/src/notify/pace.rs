//! No faster than a platform takes: so many calls a second, and so many into one place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// When the next call may leave. Calls into one place do so in the order in which they asked; a place that has many holds up
/// no other one.
pub(crate) struct Pace {
    every: Duration,
    every_in_place: Duration,
    anywhere: Mutex<Instant>,
    /// From when on the next call may leave into a place; whoever holds it is next there.
    in_place: Mutex<HashMap<String, Arc<AsyncMutex<Instant>>>>,
}

/// Places that are remembered before the quiet ones are forgotten.
const PLACES: usize = 1024;

impl Pace {
    pub(crate) fn new(per_second: f64, per_second_and_place: f64) -> Self {
        let every = |rate: f64| Duration::from_secs_f64(1.0 / rate.max(0.001));
        Self {
            every: every(per_second),
            every_in_place: every(per_second_and_place),
            anywhere: Mutex::new(Instant::now()),
            in_place: Mutex::default(),
        }
    }

    /// Returns when it is this call's turn.
    pub(crate) async fn turn(&self, place: &str) {
        let here = self.here(place);
        let mut next = here.lock().await;
        tokio::time::sleep_until(*next).await;
        // Only now, or what waits for its place would keep others from theirs.
        let at = self.take(Instant::now());
        *next = at + self.every_in_place;
        drop(next);
        tokio::time::sleep_until(at).await;
    }

    /// Nothing leaves before then: the platform has said so.
    pub(crate) fn hold_back(&self, until: Instant) {
        let mut anywhere = self.anywhere.lock().unwrap_or_else(PoisonError::into_inner);
        *anywhere = (*anywhere).max(until);
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

    fn take(&self, now: Instant) -> Instant {
        let mut anywhere = self.anywhere.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now.max(*anywhere);
        *anywhere = at + self.every;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn d_a_thousand_calls_never_leave_faster_than_the_rates() {
        let pace = Pace::new(20.0, 1.0);
        let start = Instant::now();
        let places: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        let mut left = Vec::new();
        for n in 0..1000 {
            let place = &places[n % places.len()];
            pace.turn(place).await;
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
        let pace = Arc::new(Pace::new(80.0, 1.0 / 6.0));
        let start = Instant::now();
        let left = Arc::new(Mutex::new(Vec::new()));
        let busy = (0..3).map(|n| {
            let (pace, left) = (pace.clone(), left.clone());
            tokio::spawn(async move {
                pace.turn("busy").await;
                left.lock().unwrap().push((n, (Instant::now() - start).as_secs()));
            })
        });
        let busy: Vec<_> = busy.collect();
        tokio::task::yield_now().await;
        pace.turn("quiet").await;
        assert!(Instant::now() - start < Duration::from_millis(50));
        for call in busy {
            call.await.unwrap();
        }
        assert_eq!(*left.lock().unwrap(), [(0, 0), (1, 6), (2, 12)]);
    }
}
