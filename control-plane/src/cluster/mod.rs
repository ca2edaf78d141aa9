//! The room that agrees: what was proposed, in which order, at what log time, and that it is not lost.
//!
//! It alone knows openraft and sled. It knows the state only as something to apply batches to and to snapshot, and
//! its commands only as bytes behind the [`Barrier`]; other nodes it knows by their ids, through a [`Transport`].

mod acquaintances;
mod backup;
mod barrier;
mod checkpoint;
mod clock;
mod consensus;
mod data_dir;
pub mod engine;
mod forward;
mod log;
mod machine;
mod marks;
mod meetings;
mod network;
mod opening;
mod proposer;
mod receiving;
mod remembered;
mod roster;
mod rounds;
mod rpc;
mod sealed_state;
mod sending;
mod snapshot;
mod steward;
mod transfer;
mod transport;
mod wire;

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::{BasicNode, Raft};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

pub use backup::{AboutBackup, RestoreError, about_backup, restore};
pub use barrier::{Barrier, NotAdopted, Purpose, Tampered};
pub use clock::{Clock, SystemClock};
pub use consensus::{Applied, Chain, Entry, LogId, Sealed, StorageError, Types, Vote};
pub use data_dir::{DataDir, StartError};
pub use log::{Anchor, LogStore, Tip};
pub use machine::{Builder, Machine, View};
pub use rpc::ClusterRpc;
pub use transport::{NoPeers, Transport};

use crate::state::{Actor, Command, CommandId, Event, Millis, Position, Proposal, Refused, State};
use engine::{FailStop, Fsync, OpenEngine, OsFsync};
use meetings::{Gate, HeldLog, Meetings};
use network::Network;
use opening::Opened;
use proposer::{Encoded, Failed, LARGEST, Proposer, QUEUE, Queued};
use receiving::Receiving;
use roster::Roster;
use rounds::Rounds;

/// How often the leader looks whether something is due: expiries are this late at most.
const TICK: Duration = Duration::from_millis(250);
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
    /// What an empty data directory becomes.
    pub start: Start,
    pub transport: Arc<dyn Transport>,
    /// Of which cluster messages have to be. While it is empty, before the cluster began, that is not asked.
    pub cluster_id: String,
    pub timing: Timing,
    /// An operator's leave to forget how far others had come, and that this node was told it had been rolled back.
    pub accept_rollback: bool,
}

impl Settings {
    /// For a node that has no others beside it.
    pub fn alone(data_dir: PathBuf, snapshot_every: u64) -> Self {
        Self {
            data_dir,
            snapshot_every,
            start: Start::Found,
            transport: Arc::new(NoPeers),
            cluster_id: String::new(),
            timing: Timing::default(),
            accept_rollback: false,
        }
    }
}

/// What a node with an empty data directory is to be. Any other directory says itself what its node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first node of a new cluster.
    Found,
    /// A node of a cluster that there is already: it waits until the leader calls it.
    Join { node_id: u64 },
}

/// How soon nodes notice that one is gone. Equal on all nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one sign of life of the leader to the next; also the patience for an answer to one.
    pub heartbeat: Duration,
    /// Without a sign of life of the leader for longer than the end of this, and then for a random time within it,
    /// a node stands for election. At least twice the heartbeat.
    pub election: Range<Duration>,
}

impl Default for Timing {
    /// A leader that is gone is replaced in less than three seconds.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election: Duration::from_millis(600)..Duration::from_millis(1200),
        }
    }
}

/// A node in the newest membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// Whether its vote counts, also where the membership is between two memberships: as long as it counts in one of them
    /// alone, losing a node may still stop the cluster. It is a learner otherwise, and catches up.
    pub voter: bool,
    /// Index of the last entry that it is known to have. Only the leader knows.
    pub matched: Option<u64>,
}

/// What a node does not make itself: tests bring their own.
pub struct Surroundings {
    pub clock: Arc<dyn Clock>,
    pub fsync: Arc<dyn Fsync>,
    pub fail: FailStop,
    /// What the log stands on, in place of the disk.
    pub engine: Option<OpenEngine>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            fsync: Arc::new(OsFsync),
            fail: FailStop::abort(),
            engine: None,
        }
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
    roster: Arc<Roster>,
    meetings: Arc<Meetings>,
    timing: Timing,
    /// Whether this node is handing leadership over.
    silent: AtomicBool,
    /// The term in which it led before it was started, and may go on leading, until it has committed something; 0 for
    /// none.
    resumed: AtomicU64,
    /// Reads that ask how far they have to be: this node as the leader, and the leader elsewhere.
    reads_here: Rounds<Result<Option<LogId>, Failed>>,
    reads_elsewhere: Rounds<Result<Option<LogId>, Failed>>,
    barrier: Arc<dyn Barrier>,
    receiving: Receiving,
    proposals: mpsc::Sender<Queued>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Taken at shutdown, so that the log is let go of at a known time.
    log: HeldLog,
    _stop_when_dropped: DropGuard,
}

impl Cluster {
    /// Locks the data directory and checks what is in it. A fresh directory becomes what [`Settings::start`] says; any
    /// other one's node goes on as what it was.
    ///
    /// A node that is alone leads when this returns, and everything committed is applied. One that has others beside
    /// it may be without a leader still: then proposals and reads wait for one, for a while.
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
        let Settings {
            data_dir,
            snapshot_every,
            start,
            transport,
            cluster_id,
            timing,
            accept_rollback,
        } = settings;
        let config = Arc::new(opening::config(snapshot_every, &timing)?);
        let opening = {
            let (data_dir, barrier, runtime) =
                (data_dir.clone(), barrier.clone(), Handle::current());
            // Reading and checking everything takes its time, and syncs.
            tokio::task::spawn_blocking(move || {
                runtime.block_on(opening::open(
                    &data_dir,
                    start,
                    accept_rollback,
                    barrier,
                    surroundings,
                ))
            })
        };
        let opened = opening.await.map_err(|_panicked| StartError::Damaged {
            path: data_dir,
            what: "its files do not fit together (sled panicked while they were checked)".into(),
        })?;
        let Opened { machine, log, remembered, marks, begins } = opened?;

        let node_id = log.node_id();
        let resumed = log.reached().1.filter(|vote| vote.committed);
        let resumed = resumed.filter(|vote| vote.leader_id.node_id == node_id);
        let mut resumed = resumed.map_or(0, |vote| vote.leader_id.term);
        let view = machine.view();
        let receiving = Receiving::new(machine.snapshots());
        let roster = Arc::new(Roster::new(node_id, transport, view.clone(), cluster_id));
        let held_log: HeldLog = Arc::new(Mutex::new(Some(log.clone())));
        let meetings = Meetings::new(roster.clone(), held_log.clone(), remembered, marks);
        let meetings = Arc::new(meetings);
        let network = Network { roster: roster.clone(), meetings: meetings.clone() };
        let raft = Raft::new(node_id, config, network, log, machine).await;
        let raft = raft.map_err(|e| StartError::Raft(e.to_string()))?;
        if begins {
            let only_me = BTreeMap::from([(node_id, BasicNode::default())]);
            raft.initialize(only_me).await.map_err(|e| StartError::Raft(e.to_string()))?;
        }

        let stop = CancellationToken::new();
        let (proposals, queue) = mpsc::channel(QUEUE);
        let proposer = Proposer {
            raft: raft.clone(),
            view: view.clone(),
            barrier: barrier.clone(),
            stopped: stop.clone(),
        };
        let members = raft.with_raft_state(|state| {
            state.membership_state.effective().nodes().map(|(id, _)| *id).collect::<Vec<_>>()
        });
        let members = members.await.map_err(|e| StartError::Raft(e.to_string()))?;
        roster.follow(raft.metrics());
        if members == [node_id] && meetings.absent_for_good().is_none() {
            meetings.open_gate(true);
            raft.runtime_config().elect(true);
            let leading =
                raft.wait(Some(PATIENCE)).current_leader(node_id, "alone, it leads").await;
            leading.map_err(|e| StartError::Raft(e.to_string()))?;
            // Entries of an earlier term commit only together with one of this term.
            proposer.commit(Vec::new()).await;
            raft.ensure_linearizable().await.map_err(|e| StartError::Raft(e.to_string()))?;
            resumed = 0;
        }

        let tasks = TaskTracker::new();
        tasks.spawn(proposer.run(queue));
        let inner = Inner {
            node_id,
            raft,
            view,
            roster,
            meetings: meetings.clone(),
            timing,
            silent: AtomicBool::new(false),
            resumed: AtomicU64::new(resumed),
            reads_here: Rounds::default(),
            reads_elsewhere: Rounds::default(),
            barrier,
            receiving,
            proposals,
            tasks,
            log: held_log,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop: stop.clone(),
        };
        let cluster = Self { inner: Arc::new(inner) };
        let raft = cluster.inner.raft.clone();
        cluster.inner.tasks.spawn(take_part(raft, meetings.clone(), stop.clone()));
        cluster.inner.tasks.spawn(meetings.run(stop.clone()));
        let held_weakly = Arc::downgrade(&cluster.inner);
        cluster.inner.tasks.spawn(steward::run(held_weakly.clone(), stop.clone()));
        cluster.inner.tasks.spawn(checkpoint::run(held_weakly.clone(), stop.clone()));
        cluster.inner.tasks.spawn(tick(held_weakly, stop));
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

    /// Commits a command under an identity that the caller can use again to learn the outcome. On any node: the
    /// leader is given it, through changes of the leader, for ten seconds.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_as(
        &self,
        id: CommandId,
        actor: Actor,
        command: Command,
    ) -> Result<Committed<Event>, ProposeError> {
        let encoded = encoded(id, actor, command)?;
        let done = self.commit(encoded).await;
        let (log_id, at, outcome) = done.map_err(|e| ProposeError::Unavailable(e.0))?;
        Ok(Committed::new(outcome?, log_id, at))
    }

    /// Reads the state as of now or later: everything that anyone was told is committed is in it. What authorises
    /// reads this way. Nothing is applied while `f` runs, so it should be short, and must not read again.
    ///
    /// # Errors
    /// When within five seconds no leader that a majority follows says how far this node has to be, or this node
    /// does not get there.
    pub async fn read<T>(&self, f: impl FnOnce(&State) -> T) -> Result<T, Unavailable> {
        self.catch_up().await?;
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
        self.leader() == Some(self.inner.node_id)
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<u64> {
        self.inner.raft.metrics().borrow().current_leader
    }

    /// The newest term that this node knows of.
    pub fn term(&self) -> u64 {
        self.inner.raft.metrics().borrow().current_term
    }

    /// The newest membership, committed or not.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters = membership.get_joint_config();
        let votes = |id| voters.iter().all(|set| set.contains(&id));
        let matched = |id| metrics.replication.as_ref()?.get(&id)?.map(|matched| matched.index);
        let members = membership.nodes().map(|(id, _)| *id);
        members.map(|id| Member { id, voter: votes(id), matched: matched(id) }).collect()
    }

    /// A channel to another node, wherever it is found now; it connects when it is used. None for this node, for one
    /// that was removed, and for one without an address.
    pub fn channel_to(&self, node: u64) -> Option<Channel> {
        self.inner.roster.channel(node)
    }

    /// From now on messages have to be of this cluster.
    pub fn set_cluster_id(&self, id: &str) {
        self.inner.roster.set_cluster_id(id);
    }

    /// What this node was told when it came back with less than it had acknowledged: it takes no part any more, and
    /// has to be removed and added anew.
    pub fn rolled_back(&self) -> Option<String> {
        self.inner.meetings.absent_for_good()
    }

    /// The last entry that another node acknowledged, as far as this one saw or was told: with less than that it does
    /// not come back.
    pub fn acknowledged_by(&self, node: u64) -> Option<u64> {
        self.inner.meetings.last_of(node)
    }

    /// Of which cluster this node is; empty before it began.
    pub fn cluster_id(&self) -> String {
        self.inner.roster.cluster_id()
    }

    /// What other nodes may ask of this one.
    pub fn rpc(&self) -> ClusterRpc {
        ClusterRpc { cluster: self.clone() }
    }

    /// Index of the last entry that this node knows to be committed.
    pub fn commit_index(&self) -> u64 {
        let log = self.inner.log.lock().unwrap_or_else(PoisonError::into_inner);
        let committed = log.as_ref().and_then(LogStore::committed).map_or(0, |id| id.index);
        committed.max(self.applied_index())
    }

    /// Returns once this entry, or a later one, is applied here.
    ///
    /// # Errors
    /// When that took too long, or the node is stopping.
    pub async fn wait_applied(&self, index: u64, patience: Duration) -> Result<(), Unavailable> {
        self.applied_within(index, Instant::now() + patience).await
    }

    /// Index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.inner.view.tip().map_or(0, |tip| tip.id.index)
    }

    /// The chain over the whole log up to the last applied entry: equal on all nodes that applied as much.
    pub fn chain(&self) -> Chain {
        self.inner.view.tip().map_or_else(Chain::default, |tip| tip.chain)
    }

    /// Up to which entry the nodes that applied as much have compared their histories.
    pub fn checkpointed(&self) -> u64 {
        self.inner.view.checkpointed()
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
        let snapshots = self.inner.receiving.snapshots();
        // Closing syncs, and waits for the thread that does, and for a snapshot that is being written.
        let close = move || {
            snapshots.close();
            // Replication to a node that does not answer ends later, and has a hold on the log until then.
            if let Some(log) = log {
                log.close();
            }
        };
        if let Err(e) = tokio::task::spawn_blocking(close).await {
            tracing::error!(error = %e, "the log was not closed in order");
        }
    }
}

fn encoded(id: CommandId, actor: Actor, command: Command) -> Result<Encoded, Refused> {
    Encoded::new(&Proposal { id, actor, command }).map_err(|size| {
        Refused::Invalid(format!(
            "nothing was changed: a command of {size} bytes is larger than {LARGEST}"
        ))
    })
}

/// Stands for election only after the others were met, and ends Raft if they remember more than this node does.
async fn take_part(raft: Raft<Types>, meetings: Arc<Meetings>, stop: CancellationToken) {
    let mut gate = meetings.gate();
    let mut stands = false;
    loop {
        match &*gate.borrow_and_update() {
            Gate::Closed => {}
            Gate::Open if !stands => {
                stands = meetings.may_stand();
                raft.runtime_config().elect(stands);
            }
            Gate::Open => {}
            Gate::Shut(_) => break,
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = gate.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(TICK), if !stands => {}
        }
    }
    if let Err(e) = raft.shutdown().await {
        tracing::error!(error = %e, "raft did not end in order");
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
            let id = CommandId { client: rand::random(), serial: 0 };
            let Ok(tick) = encoded(id, Actor::System, Command::Tick) else { continue };
            let ticked = tokio::select! {
                () = stop.cancelled() => return,
                ticked = cluster.commit_here(tick) => ticked,
            };
            if let Err(Failed::Again(why) | Failed::Stopped(why)) = ticked {
                tracing::warn!(why, "time did not pass in the state");
            }
        }
    }
}
