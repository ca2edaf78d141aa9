//! An engine in memory that keeps what a disk would: whatever was not synced when the power went is gone.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{Acknowledgement, Change, Engine, Halted, Pair, Tree, Write};

/// Clones share the disk. A test moves the disk on by [`step`](Self::step), or lets every write go through at once.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Inner>>);

type Contents = BTreeMap<(Tree, Vec<u8>), Vec<u8>>;

#[derive(Default)]
struct Inner {
    written: Contents,
    durable: Contents,
    mark: Vec<u8>,
    by_hand: bool,
    /// Applied to `written`, not yet to `durable`, oldest first.
    pending: VecDeque<Pending>,
}

struct Pending {
    /// `None` once the changes are durable and only the mark is not.
    write: Option<Write>,
    mark: Option<Vec<u8>>,
    acknowledge: oneshot::Sender<Result<(), Halted>>,
}

impl Memory {
    /// A blank disk with this mark on it; every write is synced at once.
    pub fn new(mark: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Inner { mark, ..Inner::default() })))
    }

    /// From now on nothing is synced but by [`step`](Self::step).
    pub fn by_hand(&self) {
        self.inner().by_hand = true;
    }

    /// One sync: the oldest pending write's data, or else its mark and its acknowledgement. False when idle.
    pub fn step(&self) -> bool {
        self.inner().step()
    }

    /// The power goes. Of the writes that were not synced the oldest `survivors` are on the disk all the same, as
    /// happens; nobody is told anything.
    pub fn crash(&self, survivors: usize) {
        let mut inner = self.inner();
        let pending = std::mem::take(&mut inner.pending);
        for write in pending.into_iter().filter_map(|p| p.write).take(survivors) {
            change(&mut inner.durable, &write);
        }
        inner.written = inner.durable.clone();
        inner.by_hand = false;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn step(&mut self) -> bool {
        let Some(mut oldest) = self.pending.pop_front() else { return false };
        if let Some(write) = oldest.write.take() {
            change(&mut self.durable, &write);
            self.pending.push_front(oldest);
            return true;
        }
        if let Some(mark) = oldest.mark {
            self.mark = mark;
        }
        // A writer that no longer listens loses nothing.
        let _ = oldest.acknowledge.send(Ok(()));
        true
    }
}

impl Engine for Memory {
    fn submit(&self, write: Write) -> Acknowledgement {
        let (acknowledge, acknowledged) = oneshot::channel();
        let mut inner = self.inner();
        change(&mut inner.written, &write);
        inner.pending.push_back(Pending {
            mark: write.mark.clone(),
            write: Some(write),
            acknowledge,
        });
        if !inner.by_hand {
            while inner.step() {}
        }
        acknowledged
    }

    fn scan(&self, tree: Tree, keys: Range<Vec<u8>>) -> Result<Vec<Pair>, Halted> {
        let inner = self.inner();
        let range = inner.written.range((tree, keys.start)..(tree, keys.end));
        Ok(range.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn mark(&self) -> Vec<u8> {
        self.inner().mark.clone()
    }
}

fn change(contents: &mut Contents, write: &Write) {
    for change in &write.changes {
        match change {
            Change::Put(key, value) => {
                contents.insert((write.tree, key.clone()), value.clone());
            }
            Change::Remove(keys) => {
                contents.retain(|(tree, key), _| *tree != write.tree || !keys.contains(key));
            }
        }
    }
}
