//! What was asked in a session and not answered yet. A node that is cut off from its peers still takes everything
//! in, and can commit none of it: it is left for another.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::{RequestId, lock};

/// A node that has something to answer, and answers nothing at all for so long, cannot.
const PATIENCE: Duration = Duration::from_secs(6);

pub(super) struct Unanswered(Mutex<Waiting>);

/// What a node owes an answer to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Lease { credential_id: String },
    Open(RequestId),
}

struct Waiting {
    asked: HashSet<Asked>,
    /// When something was answered last, or nothing was left to answer.
    since: Instant,
}

impl Unanswered {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Waiting { asked: HashSet::new(), since: Instant::now() }))
    }

    /// Something was asked, and all of it was written.
    pub(super) fn asked(&self, asked: Asked) {
        let mut waiting = lock(&self.0);
        if waiting.asked.is_empty() {
            waiting.since = Instant::now();
        }
        waiting.asked.insert(asked);
    }

    /// Something was said about it.
    pub(super) fn answered(&self, asked: &Asked) {
        let mut waiting = lock(&self.0);
        if waiting.asked.remove(asked) {
            waiting.since = Instant::now();
        }
    }

    /// Nothing has to be said about it any more.
    pub(super) fn cancelled(&self, asked: &Asked) {
        lock(&self.0).asked.remove(asked);
    }

    /// Returns once the node has had its time.
    pub(super) async fn too_long(&self) {
        loop {
            let until = {
                let waiting = lock(&self.0);
                let since = if waiting.asked.is_empty() { Instant::now() } else { waiting.since };
                since + PATIENCE
            };
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}
