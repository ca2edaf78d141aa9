//! The replicated state as openraft sees it: entries are opened, applied, told; snapshots are taken and restored.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use openraft::storage::{RaftStateMachine, Snapshot as RaftSnapshot, SnapshotMeta};
use openraft::{
    AnyError, BasicNode, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError,
};
use tokio::sync::{broadcast, watch};

use super::Committed;
use super::barrier::{Barrier, Purpose};
use super::checkpoint::Fingerprints;
use super::clock::{Clock, LogTime, Stamp};
use super::consensus::{
    Applied, Chain, Entry, LogId, Members, Sealed, StorageError, Types, encode_entry,
};
use super::data_dir::{DataDir, StartError};
use super::engine::{FailStop, Fsync};
use super::log::{Anchor, Tip};
use super::snapshot::{Snapshot, Snapshots};
use crate::state::{Actor, Batch, Command, Event, Millis, Position, State};

/// Events that a slow receiver can be behind before it has to read the state anew.
const EVENTS: usize = 65_536;

/// openraft's end of the state machine. Everyone else reads through [`View`].
pub struct Machine {
    view: View,
    barrier: Arc<dyn Barrier>,
    snapshots: Snapshots,
    anchor: Anchor,
    fail: FailStop,
    /// Index of the last entry that was in the log when the node started.
    found: u64,
}

/// The state as applied here, and what has just been applied.
#[derive(Clone)]
pub struct View {
    held: Arc<RwLock<Held>>,
    events: broadcast::Sender<Arc<Committed<Event>>>,
    /// Index of the last applied entry, raised once its events were sent.
    applied: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Held {
    /// Copied on the next write while a snapshot of it is being taken.
    state: Arc<State>,
    tip: Option<Tip>,
    members: Members,
    time: LogTime,
    fingerprints: Fingerprints,
}

impl Machine {
    /// Restores the newest snapshot.
    ///
    /// # Errors
    /// When the snapshot is damaged or cannot be read.
    pub fn open(
        directory: &DataDir,
        barrier: Arc<dyn Barrier>,
        clock: Arc<dyn Clock>,
        fsync: Arc<dyn Fsync>,
        fail: FailStop,
    ) -> Result<Self, StartError> {
        let snapshots =
            Snapshots::open(&directory.snapshots(), barrier.clone(), fsync, fail.clone())?;
        let newest = snapshots.newest()?;
        let anchor = Arc::new(watch::Sender::new(newest.as_ref().map(|s| s.tip)));
        let held = newest.map_or_else(Held::default, Held::of).timed(clock.as_ref());
        let view = View {
            applied: watch::Sender::new(held.tip.map_or(0, |tip| tip.id.index)),
            held: Arc::new(RwLock::new(held)),
            events: broadcast::Sender::new(EVENTS),
            clock,
        };
        Ok(Self { view, barrier, snapshots, anchor, fail, found: 0 })
    }

    /// Entries up to this one are of an earlier run.
    pub(super) fn goes_on_after(&mut self, index: u64) {
        self.found = index;
    }

    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Shared with the log, which goes on from an installed snapshot.
    pub fn anchor(&self) -> Anchor {
        self.anchor.clone()
    }

    /// Where snapshots are kept, and checked when they come from other nodes.
    pub(super) fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// Last entry of the newest snapshot.
    pub fn restored(&self) -> Option<Tip> {
        *self.anchor.borrow()
    }

    /// Says why not, when the entry cannot be applied.
    fn apply_one(&self, entry: Entry) -> Result<Applied, String> {
        let id = entry.log_id;
        let encoded = encode_entry(&entry);
        let batch = match &entry.payload {
            EntryPayload::Normal(sealed) => Some(opened(self.barrier.as_ref(), sealed)?),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        };

        let mut held = self.view.held.write().unwrap_or_else(PoisonError::into_inner);
        let mut applied = Applied::default();
        if let Some(batch) = &batch {
            let position = Position { term: id.leader_id.term, index: id.index };
            let state = Arc::make_mut(&mut held.state);
            // A state half applied must not be read by anyone, so there is no going on from here.
            applied.outcomes = catch_unwind(AssertUnwindSafe(|| state.apply(position, batch)))
                .map_err(|_panic| {
                    self.fail.trip(format!("applying entry {} panicked", id.index)).0
                })?;
        } else if let EntryPayload::Membership(membership) = entry.payload {
            held.members = Members::new(Some(id), membership);
        }
        if batch.is_some() {
            // Only these have a time: what passed since the last one of them has passed still.
            let (at, witnessed) = (held.state.log_time(), id.index > self.found);
            held.time = held.time.applied(at, self.view.clock.since_boot(), witnessed);
        }
        applied.at = held.state.log_time();
        let before = held.tip.map_or_else(Chain::default, |tip| tip.chain);
        let tip = Tip { id, chain: before.then(id.index, &encoded) };
        held.tip = Some(tip);
        let Held { state, fingerprints, .. } = &mut *held;
        fingerprints.note(&tip, state);
        for (index, chain) in batch.iter().flat_map(checkpoints) {
            fingerprints.compare(index, chain).map_err(|why| self.fail.trip(why).0)?;
        }
        let seal_file = applied
            .outcomes
            .contains(&Ok(Event::SealChanged))
            .then(|| held.state.seal_file().to_vec());
        drop(held);

        // Before the next entry, which may be sealed with what this one brings.
        if let Some(seal_file) = seal_file {
            self.barrier.adopt(&seal_file).map_err(|e| {
                let what = format!("the seal that entry {} brings was not taken in", id.index);
                self.fail.trip(format!("{what}: {e}")).0
            })?;
        }
        let proposals = batch.iter().flat_map(|batch| &batch.proposals);
        for (proposal, outcome) in proposals.zip(&applied.outcomes) {
            // A checkpoint is no news to anybody.
            if let Ok(event) = outcome
                && !matches!(proposal.command, Command::Checkpoint { .. })
            {
                self.view.tell(event.clone(), id, applied.at);
            }
        }
        self.view.applied.send_replace(id.index);
        Ok(applied)
    }
}

impl View {
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Committed<Event>>> {
        self.events.subscribe()
    }

    /// Returns once this entry, or a later one, is applied.
    pub(super) async fn applied(&self, index: u64) {
        // It cannot close: this holds the other end.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= index).await;
    }

    fn tell(&self, event: Event, id: LogId, at: Millis) {
        // Nobody listening is no failure.
        let _ = self.events.send(Arc::new(Committed::new(event, id, at)));
    }

    /// Nothing is applied while `f` runs.
    pub fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self.held().state)
    }

    /// The state as it is, and stays while others go on changing it. None before anything was applied.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        let held = self.held();
        let (members, state) = (held.members.clone(), held.state.clone());
        held.tip.map(|tip| Snapshot { tip, members, state })
    }

    /// Last applied entry, with the chain over the whole log up to it.
    pub fn tip(&self) -> Option<Tip> {
        self.held().tip
    }

    /// The newest fingerprint of this node's history, and the entry after which it was taken: equal on all nodes at
    /// the same entry. None before the first.
    pub fn fingerprint(&self) -> Option<(u64, [u8; 32])> {
        self.held().fingerprints.newest()
    }

    /// The newest entry of which a leader has said what it came to there.
    pub(super) fn checkpointed(&self) -> u64 {
        self.held().fingerprints.said()
    }

    /// The newest fingerprint, unless a leader has said it already.
    pub(super) fn unsaid(&self) -> Option<(u64, [u8; 32])> {
        self.held().fingerprints.unsaid()
    }

    /// Log time as it would be stamped now.
    pub fn now(&self) -> Millis {
        self.stamp().at
    }

    pub(super) fn stamp(&self) -> Stamp {
        let time = self.held().time;
        time.stamp(self.clock.as_ref())
    }

    /// Whether something in the state ends by this time.
    pub(super) fn is_due(&self, at: Millis) -> bool {
        self.held().state.next_due().is_some_and(|due| due <= at)
    }

    fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn of(snapshot: Snapshot) -> Self {
        let Snapshot { tip, members, state } = snapshot;
        let mut fingerprints = Fingerprints::default();
        fingerprints.note(&tip, &state);
        Self { state, tip: Some(tip), members, time: LogTime::default(), fingerprints }
    }

    fn timed(mut self, clock: &dyn Clock) -> Self {
        self.time = LogTime::begin(self.state.log_time(), clock.since_boot());
        self
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Members), StorageError> {
        let held = self.view.held();
        Ok((held.tip.map(|tip| tip.id), held.members.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut applied = Vec::new();
        for entry in entries {
            let id = entry.log_id;
            let one = self.apply_one(entry);
            applied.push(one.map_err(|why| StorageIOError::apply(id, AnyError::error(why)))?);
        }
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let snapshot = self.view.snapshot();
        Builder { snapshot, snapshots: self.snapshots.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<tokio::fs::File>, StorageError> {
        let file = self
            .snapshots
            .receive()
            .map_err(|e| StorageIOError::write_snapshot(None, AnyError::new(&e)))?;
        Ok(Box::new(tokio::fs::File::from_std(file)))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        file: Box<tokio::fs::File>,
    ) -> Result<(), StorageError> {
        let mut file = file.into_std().await;
        let snapshots = self.snapshots.clone();
        let announced = meta.clone();
        let snapshot = on_disk(move || {
            let mut encoded = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut encoded)?;
            let snapshot = snapshots.decode(&encoded).map_err(io::Error::other)?;
            if snapshot.meta() != announced {
                return Err(io::Error::other(
                    "what was received is not the snapshot that was announced",
                ));
            }
            snapshots.save(&snapshot, &encoded)?;
            Ok(snapshot)
        });
        let snapshot = snapshot.await.map_err(|e| {
            StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(&e))
        })?;
        self.anchor.send_replace(Some(snapshot.tip));
        let (id, at) = (snapshot.tip.id, snapshot.state.log_time());
        let held = Held::of(snapshot).timed(self.view.clock.as_ref());
        *self.view.held.write().unwrap_or_else(PoisonError::into_inner) = held;
        tracing::info!(index = id.index, "the state was taken over from another node's snapshot");
        self.view.tell(Event::Restored, id, at);
        self.view.applied.send_replace(id.index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot<Types>>, StorageError> {
        let snapshots = self.snapshots.clone();
        let current = on_disk(move || snapshots.current()).await;
        let current =
            current.map_err(|e| StorageIOError::read_snapshot(None, AnyError::new(&e)))?;
        Ok(current.map(|(meta, file)| sendable(meta, file)))
    }
}

/// Takes one snapshot, of the state as it was when this was made.
pub struct Builder {
    snapshot: Option<Snapshot>,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<RaftSnapshot<Types>, StorageError> {
        let failed = |e: io::Error| StorageIOError::write_snapshot(None, AnyError::new(&e));
        let Some(snapshot) = self.snapshot.clone() else {
            // Of nothing, and kept nowhere.
            let empty = self.snapshots.receive().map_err(failed)?;
            return Ok(sendable(SnapshotMeta::default(), empty));
        };
        let snapshots = self.snapshots.clone();
        let built = on_disk(move || {
            let file = snapshots.save(&snapshot, &snapshots.encode(&snapshot)?)?;
            Ok(sendable(snapshot.meta(), file))
        });
        Ok(built.await.map_err(failed)?)
    }
}

fn sendable(meta: SnapshotMeta<u64, BasicNode>, file: File) -> RaftSnapshot<Types> {
    RaftSnapshot { meta, snapshot: Box::new(tokio::fs::File::from_std(file)) }
}

/// Whether the log may hold this entry: it can be opened, or says that an entry before it brings the key.
pub(super) fn legible(barrier: &dyn Barrier, sealed: &Sealed) -> bool {
    opened(barrier, sealed).is_ok() || barrier.is_ahead(&sealed.0)
}

/// The batch in an entry.
fn opened(barrier: &dyn Barrier, sealed: &Sealed) -> Result<Batch, String> {
    let plaintext = barrier.open(Purpose::Entry, &sealed.0).map_err(|e| e.to_string())?;
    ciborium::from_reader(plaintext.as_slice())
        .map_err(|e| format!("its commands cannot be read: {e}"))
}

/// What the leader says that the log came to.
fn checkpoints(batch: &Batch) -> impl Iterator<Item = (u64, &[u8; 32])> {
    batch.proposals.iter().filter_map(|proposal| match &proposal.command {
        Command::Checkpoint { index, chain } if proposal.actor == Actor::System => {
            Some((*index, chain))
        }
        _ => None,
    })
}

pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
