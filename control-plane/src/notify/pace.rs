//! No faster than a platform takes: so many calls a second, and so many into one place.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When the next call may leave. Calls that wait do so in the order in which they asked.
pub(crate) struct Pace {
    every: Duration,
    every_in_place: Duration,
    next: Mutex<Next>,
}

struct Next {
    anywhere: Instant,
    in_place: HashMap<String, Instant>,
}

/// Places that are remembered before the quiet ones are forgotten.
const PLACES: usize = 1024;

impl Pace {
    pub(crate) fn new(per_second: f64, per_second_and_place: f64) -> Self {
        let every = |rate: f64| Duration::from_secs_f64(1.0 / rate.max(0.001));
        let next = Next { anywhere: Instant::now(), in_place: HashMap::new() };
        Self {
            every: every(per_second),
            every_in_place: every(per_second_and_place),
            next: Mutex::new(next),
        }
    }

    /// Returns when it is this call's turn.
    pub(crate) async fn turn(&self, place: &str) {
        let at = self.take(place, Instant::now());
        tokio::time::sleep_until(at).await;
    }

    /// Nothing leaves before then: the platform has said so.
    pub(crate) fn hold_back(&self, until: Instant) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.anywhere = next.anywhere.max(until);
    }

    fn take(&self, place: &str, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next.in_place.len() >= PLACES {
            next.in_place.retain(|_, at| *at > now);
        }
        let here = next.in_place.get(place).copied().unwrap_or(now);
        let at = now.max(next.anywhere).max(here);
        next.anywhere = at + self.every;
        next.in_place.insert(place.to_owned(), at + self.every_in_place);
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
}
