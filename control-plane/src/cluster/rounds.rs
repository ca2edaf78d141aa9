//! One question that many ask at once is put once: whoever comes while it is under way waits for the next round.
//!
//! A read has to see what was committed before it began, so a leader has to be confirmed after that; one confirmation
//! is after all reads that it found waiting (D. Ongaro, "Consensus: Bridging Theory and Practice", 2014, §6.4).

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// Rounds of one question. Each answers everybody who came before it began.
pub(super) struct Rounds<T> {
    /// How many have begun.
    begun: AtomicU64,
    /// The newest round that was answered, and its answer. Locked while a round is under way.
    answered: Mutex<(u64, Option<T>)>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self { begun: AtomicU64::new(0), answered: Mutex::new((0, None)) }
    }
}

impl<T: Clone> Rounds<T> {
    /// What comes of a round that began after this was called: `ask` is asked unless somebody else's was meanwhile.
    /// Whoever gives up while asking leaves the question to the next one who waits.
    pub(super) async fn join(&self, ask: impl Future<Output = T>) -> T {
        // Those that have begun may have missed what this one's caller knows of.
        let soon_enough = self.begun.load(Ordering::SeqCst) + 1;
        let mut answered = self.answered.lock().await;
        if let (round, Some(answer)) = &*answered
            && *round >= soon_enough
        {
            return answer.clone();
        }
        let round = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = ask.await;
        *answered = (round, Some(answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use futures::FutureExt as _;
    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    /// A question whose answers are numbered, and come when they are let go.
    struct Asked {
        rounds: Rounds<u32>,
        times: AtomicU32,
        answers: Semaphore,
    }

    impl Asked {
        fn nothing() -> Self {
            Self { rounds: Rounds::default(), times: AtomicU32::new(0), answers: Semaphore::new(0) }
        }

        async fn join(&self) -> u32 {
            let ask = async {
                let time = self.times.fetch_add(1, Ordering::SeqCst) + 1;
                self.answers.acquire().await.unwrap().forget();
                time
            };
            self.rounds.join(ask).await
        }
    }

    #[tokio::test]
    async fn whoever_comes_during_a_round_is_not_answered_by_it() {
        let asked = Asked::nothing();
        let mut first = Box::pin(asked.join());
        assert_eq!((&mut first).now_or_never(), None);
        let mut second = Box::pin(asked.join());
        assert_eq!((&mut second).now_or_never(), None);
        asked.answers.add_permits(1);
        assert_eq!(first.await, 1);
        assert_eq!((&mut second).now_or_never(), None, "its own round was not answered yet");
        asked.answers.add_permits(1);
        assert_eq!(second.await, 2);
    }

    #[tokio::test]
    async fn all_who_wait_for_a_round_share_it() {
        let asked = Asked::nothing();
        let mut first = Box::pin(asked.join());
        assert_eq!((&mut first).now_or_never(), None);
        let mut waiting = Box::pin(join_all((0..64).map(|_| asked.join())));
        assert_eq!((&mut waiting).now_or_never(), None);
        asked.answers.add_permits(2);
        assert_eq!(first.await, 1);
        assert_eq!(waiting.await, vec![2; 64]);
        assert_eq!(asked.times.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_the_question_to_the_next() {
        let asked = Asked::nothing();
        let mut first = Box::pin(asked.join());
        assert_eq!((&mut first).now_or_never(), None);
        let mut second = Box::pin(asked.join());
        assert_eq!((&mut second).now_or_never(), None);
        drop(first);
        asked.answers.add_permits(1);
        assert_eq!(second.await, 2);
        assert_eq!(asked.times.load(Ordering::SeqCst), 2);
    }
}
