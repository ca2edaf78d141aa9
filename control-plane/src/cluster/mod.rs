//! The room that agrees: what was proposed, in which order, at what log time, and that it is not lost.
//!
//! It alone knows openraft and sled. It knows the state only as something to apply batches to and to snapshot, and
//! its commands only as bytes behind the [`Barrier`].

mod barrier;
mod clock;
mod consensus;
mod data_dir;
pub mod engine;
mod log;
mod machine;
mod network;
mod proposer;
mod snapshot;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::{BasicNode, Config, Raft, SnapshotPolicy};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use barrier::{Barrier, NotAdopted, Purpose, Tampered};
pub use clock::{Clock, SystemClock};
pub use consensus::{Applied, Chain, Entry, LogId, Sealed, StorageError, Types, Vote};
pub use data_dir::{DataDir, StartError};
pub use log::{Anchor, LogStore, Tip};
pub use machine::{Builder, Machine, View};

use crate::state::{Actor, Command, CommandId, Event, Millis, Position, Proposal, Refused, State};
use engine::{Disk, FailStop, Fsync, OsFsync, clear_aside, compact};
use proposer::{LARGEST, Proposer, QUEUE, Queued};

/// How often the leader looks whether something is due: expiries are this late at most.
const TICK: Duration = Duration::from_millis(250);
/// Entries that stay in the log behind a snapshot, for followers that are a little late; never more than lie between
/// two snapshots.
const KEPT: u64 = 1000;
/// For the first election, and for applying what a start found in the log.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something that is committed and applied here: only the cluster makes these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    value: T,
    position: Position,
    at: Millis,
}

impl<T> Committed<T> {
    fn new(value: T, id: LogId, at: Millis) -> Self {
        Self { value, position: Position { term: id.leader_id.term, index: id.index }, at }
    }

    /// Where in the log.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Log time of its entry.
    pub fn at(&self) -> Millis {
        self.at
    }
}

impl<T> Deref for Committed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

pub struct Settings {
    pub data_dir: PathBuf,
    /// Entries from one snapshot to the next.
    pub snapshot_every: u64,
}

/// What a node does not make itself: tests bring their own.
pub struct Surroundings {
    pub clock: Arc<dyn Clock>,
    pub fsync: Arc<dyn Fsync>,
    pub fail: FailStop,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), fsync: Arc::new(OsFsync), fail: FailStop::abort() }
    }
}

/// Why a proposal has no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was committed and did nothing.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The outcome is unknown; never "it did not happen". Propose it again under the same id to learn it.
    #[error("the outcome is unknown: {0}")]
    Unavailable(String),
}

/// A read that could not be made sure to be up to date.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state cannot be read up to date now: {0}")]
pub struct Unavailable(String);

/// A running node. Clones are the same node.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: u64,
    raft: Raft<Types>,
    view: View,
    proposals: mpsc::Sender<Queued>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Taken at shutdown, so that the log is let go of at a known time.
    log: Mutex<Option<LogStore>>,
    _stop_when_dropped: DropGuard,
}

impl Cluster {
    /// Locks the data directory, checks and replays what is in it, and leads. A fresh directory gets a node id and
    /// becomes a cluster of this one node. Everything committed is applied when this returns.
    ///
    /// # Errors
    /// One sentence: what is wrong, where, and what to do. Nothing was deleted.
    pub async fn start(settings: Settings, barrier: Arc<dyn Barrier>) -> Result<Self, StartError> {
        Self::start_in(settings, barrier, Surroundings::default()).await
    }

    /// [`start`](Self::start) with a clock and a disk of the caller's choice.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_in(
        settings: Settings,
        barrier: Arc<dyn Barrier>,
        surroundings: Surroundings,
    ) -> Result<Self, StartError> {
        let Settings { data_dir, snapshot_every } = settings;
        let opening = {
            let (data_dir, barrier, runtime) =
                (data_dir.clone(), barrier.clone(), Handle::current());
            // Reading and checking everything takes its time, and syncs.
            tokio::task::spawn_blocking(move || {
                runtime.block_on(open(&data_dir, barrier, surroundings))
            })
        };
        let (machine, log) = opening.await.map_err(|_panicked| StartError::Damaged {
            path: data_dir,
            what: "its files do not fit together (sled panicked while they were checked)".into(),
        })??;

        let node_id = log.node_id();
        let fresh = log.is_blank();
        let view = machine.view();
        let config = Arc::new(
            config(snapshot_every).validate().map_err(|e| StartError::Raft(e.to_string()))?,
        );
        let raft = Raft::new(node_id, config, network::Alone, log.clone(), machine).await;
        let raft = raft.map_err(|e| StartError::Raft(e.to_string()))?;
        if fresh {
            let only_me = BTreeMap::from([(node_id, BasicNode::default())]);
            raft.initialize(only_me).await.map_err(|e| StartError::Raft(e.to_string()))?;
        }
        let leading =
            raft.wait(Some(PATIENCE)).current_leader(node_id, "the only node leads").await;
        leading.map_err(|e| StartError::Raft(e.to_string()))?;

        let stop = CancellationToken::new();
        let (proposals, queue) = mpsc::channel(QUEUE);
        let proposer =
            Proposer { raft: raft.clone(), view: view.clone(), barrier, stopped: stop.clone() };
        // Entries of an earlier term commit only together with one of this term.
        proposer.commit(Vec::new()).await;
        raft.ensure_linearizable().await.map_err(|e| StartError::Raft(e.to_string()))?;

        let tasks = TaskTracker::new();
        tasks.spawn(proposer.run(queue));
        let inner = Inner {
            node_id,
            raft,
            view,
            proposals,
            tasks,
            log: Mutex::new(Some(log)),
            _stop_when_dropped: stop.clone().drop_guard(),
            stop: stop.clone(),
        };
        let cluster = Self { inner: Arc::new(inner) };
        cluster.inner.tasks.spawn(tick(Arc::downgrade(&cluster.inner), stop));
        cluster.inner.tasks.close();
        Ok(cluster)
    }

    /// Commits a command under a new identity.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(
        &self,
        actor: Actor,
        command: Command,
    ) -> Result<Committed<Event>, ProposeError> {
        self.propose_as(CommandId { client: rand::random(), serial: 0 }, actor, command).await
    }

    /// Commits a command under an identity that the caller can use again to learn the outcome.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_as(
        &self,
        id: CommandId,
        actor: Actor,
        command: Command,
    ) -> Result<Committed<Event>, ProposeError> {
        let queued = Queued::new(&Proposal { id, actor, command });
        let (queued, answered) = queued.map_err(|size| {
            Refused::Invalid(format!(
                "nothing was changed: a command of {size} bytes is larger than {LARGEST}"
            ))
        })?;
        let stopped = || ProposeError::Unavailable("this node is stopping".into());
        self.inner.proposals.send(queued).await.map_err(|_| stopped())?;
        let answer = answered.await.map_err(|_| stopped())?;
        let (log_id, at, outcome) = answer.map_err(ProposeError::Unavailable)?;
        Ok(Committed::new(outcome?, log_id, at))
    }

    /// Reads the state as of now or later: everything that anyone was told is committed is in it. What authorises
    /// reads this way. Nothing is applied while `f` runs, so it should be short, and must not read again.
    ///
    /// # Errors
    /// When this node cannot make sure that it still leads.
    pub async fn read<T>(&self, f: impl FnOnce(&State) -> T) -> Result<T, Unavailable> {
        self.inner.raft.ensure_linearizable().await.map_err(|e| Unavailable(e.to_string()))?;
        Ok(self.inner.view.read(f))
    }

    /// Reads what is applied here, perhaps stale: for metrics and hints.
    pub fn peek<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        self.inner.view.read(f)
    }

    /// Events from now on, in the order of the log. A receiver that lags reads the state again.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Committed<Event>>> {
        self.inner.view.subscribe()
    }

    pub fn node_id(&self) -> u64 {
        self.inner.node_id
    }

    /// As far as this node knows.
    pub fn is_leader(&self) -> bool {
        self.inner.raft.metrics().borrow().current_leader == Some(self.inner.node_id)
    }

    /// Index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.inner.view.tip().map_or(0, |tip| tip.id.index)
    }

    /// The chain over the whole log up to the last applied entry: equal on all nodes that applied as much.
    pub fn chain(&self) -> Chain {
        self.inner.view.tip().map_or_else(Chain::default, |tip| tip.chain)
    }

    /// Log time as it would be stamped now.
    pub fn log_time(&self) -> Millis {
        self.inner.view.now()
    }

    /// Ends the tasks, Raft, then the log; the data directory is free when this returns. Proposals under way learn
    /// that their outcome is unknown.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.wait().await;
        if let Err(e) = self.inner.raft.shutdown().await {
            tracing::error!(error = %e, "raft did not end in order");
        }
        let log = self.inner.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Closing syncs, and waits for the thread that does.
        if let Err(e) = tokio::task::spawn_blocking(move || drop(log)).await {
            tracing::error!(error = %e, "the log was not closed in order");
        }
    }
}

async fn open(
    data_dir: &Path,
    barrier: Arc<dyn Barrier>,
    surroundings: Surroundings,
) -> Result<(Machine, LogStore), StartError> {
    let Surroundings { clock, fsync, fail } = surroundings;
    let mut directory = DataDir::lock(data_dir)?;
    let path = directory.log();
    let machine = Machine::open(&directory, barrier.clone(), clock, fsync.clone(), fail.clone())?;
    let legible = |sealed: &Sealed| machine::opened(barrier.as_ref(), sealed).is_ok();
    let mut compacted = false;
    loop {
        let first_mark = || LogStore::first_mark(rand::random());
        let disk = Arc::new(Disk::open(directory, first_mark, fsync.clone(), fail.clone())?);
        let log = LogStore::open(disk.clone(), &path, machine.anchor(), legible).await?;
        fits(&machine, &log, &path)?;
        let bloated = disk.is_bloated();
        let bloated = bloated.map_err(|source| StartError::Io {
            doing: "read",
            path: path.clone(),
            source,
        })?;
        if compacted || !bloated {
            disk.directory().map_or(Ok(()), clear_aside)?;
            return Ok((machine, log));
        }
        drop(log);
        let closed = Arc::into_inner(disk).and_then(Disk::close);
        directory = closed.ok_or_else(|| StartError::Raft("the log could not be closed".into()))?;
        if let Err(e) = compact(&directory, fsync.as_ref(), &fail) {
            tracing::warn!(error = %e, "the log stays larger than it need be");
        }
        compacted = true;
    }
}

/// The log must go on where the snapshot ends, from the same history.
fn fits(machine: &Machine, log: &LogStore, path: &Path) -> Result<(), StartError> {
    let damaged = |what| StartError::Damaged { path: path.to_owned(), what };
    let restored = machine.restored();
    let after = restored.map_or(0, |tip| tip.id.index + 1);
    if log.first_index() > after {
        let first = log.first_index();
        return Err(damaged(match restored {
            Some(tip) => format!(
                "it starts with entry {first} and the newest snapshot ends with entry {}",
                tip.id.index
            ),
            None => format!(
                "it starts with entry {first} and the snapshot of what came before is missing"
            ),
        }));
    }
    let Some(tip) = restored else { return Ok(()) };
    match log.tip_at(tip.id.index).map_err(|e| damaged(e.to_string()))? {
        Some(same) if same != tip => {
            Err(damaged(format!("its entry {} is not the one in the snapshot", tip.id.index)))
        }
        _ => Ok(()),
    }
}

fn config(snapshot_every: u64) -> Config {
    Config {
        cluster_name: "countersign".into(),
        heartbeat_interval: 100,
        election_timeout_min: 400,
        election_timeout_max: 800,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: KEPT.min(snapshot_every),
        ..Config::default()
    }
}

/// Lets time pass in the state: approvals expire although nobody asks.
async fn tick(cluster: std::sync::Weak<Inner>, stop: CancellationToken) {
    let mut looks = tokio::time::interval(TICK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let Some(inner) = cluster.upgrade() else { return };
        let cluster = Cluster { inner };
        let due = cluster.peek(State::next_due).is_some_and(|due| due <= cluster.log_time());
        if due && cluster.is_leader() {
            let ticked = tokio::select! {
                () = stop.cancelled() => return,
                ticked = cluster.propose(Actor::System, Command::Tick) => ticked,
            };
            if let Err(e) = ticked {
                tracing::warn!(error = %e, "time did not pass in the state");
            }
        }
    }
}
