//! Connections that have not said yet whose they are. There are so many of them at most: when another one comes, the one
//! that has been silent for longest is sent away, so that a crowd of silent ones keeps nobody out who says what it wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Of all places, the part that strangers may have.
const PART: usize = 4;

/// Where they wait.
pub(crate) struct Doorway {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// The one that has waited for longest is the first.
    strangers: BTreeMap<u64, CancellationToken>,
}

/// One of them, until it is dropped.
pub(crate) struct Stranger {
    doorway: Arc<Doorway>,
    number: u64,
    sent_away: CancellationToken,
}

impl Doorway {
    /// The doorway of a door behind which there are so many places.
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { most: (places / PART).max(1), waiting: Mutex::default() })
    }

    /// One more comes.
    pub(crate) fn enter(self: &Arc<Self>) -> Stranger {
        let sent_away = CancellationToken::new();
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.strangers.insert(number, sent_away.clone());
        if waiting.strangers.len() > self.most
            && let Some((_, longest)) = waiting.strangers.pop_first()
        {
            longest.cancel();
        }
        drop(waiting);
        Stranger { doorway: Arc::clone(self), number, sent_away }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A panic while it was held left a map of whole entries.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stranger {
    /// Cancelled when it has to go. Never, once it has been dropped.
    pub(crate) fn sent_away(&self) -> CancellationToken {
        self.sent_away.clone()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.doorway.waiting().strangers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_the_one_that_was_silent_for_longest_goes_first_and_who_is_known_stays() {
        let doorway = Doorway::new(12);
        let known = doorway.enter();
        let stays = known.sent_away();
        let waiting: Vec<Stranger> = (0..2).map(|_| doorway.enter()).collect();
        drop(known);
        let tokens: Vec<_> = waiting.iter().map(Stranger::sent_away).collect();
        let later: Vec<Stranger> = (0..2).map(|_| doorway.enter()).collect();
        assert!(tokens[0].is_cancelled() && !tokens[1].is_cancelled());
        assert!(!stays.is_cancelled());
        assert!(later.iter().all(|stranger| !stranger.sent_away().is_cancelled()));
    }

    #[test]
    fn a_door_with_one_place_has_room_for_one_stranger() {
        let doorway = Doorway::new(1);
        let first = doorway.enter();
        assert!(!first.sent_away().is_cancelled());
        let _second = doorway.enter();
        assert!(first.sent_away().is_cancelled());
    }
}
