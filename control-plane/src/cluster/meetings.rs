//! Before two nodes say anything of Raft to each other, each shows the other how far it has come.
//!
//! A node that was put back to an earlier state of its disk has forgotten votes it gave and entries it acknowledged;
//! counted again, it could elect a leader that lacks what was committed. So:
//!
//! * Nothing of Raft is sent to, or taken from, a node that this process has not met. Meeting is one call, `Greet`,
//!   in either direction: both show starts, vote and end of log, and both compare with their marks.
//! * Having met lasts as long as both processes do. Every message says of which process it is; a process that is new
//!   has met nobody, and [`GREET_FIRST`] is the answer to one that was not compared.
//! * Whatever a node is seen to have reached is told to the others every [`TOLD`]: which of them leads, and which is
//!   there when somebody comes back, makes no difference.
//! * A start opens the gate only when every other member was met, or [`WAIT`] has passed: until then this node neither
//!   stands, nor votes, nor acknowledges, nor goes on leading. An unreachable member thus delays it and does not stop
//!   it; whenever that one appears, they meet before anything else. The wait is what makes two nodes of three that were
//!   put back together be told by the third, instead of electing one another first.
//! * Nor does a node stand before it has met as many as could elect it. A term that it began alone would make it look,
//!   to those who come later, like one that lost the end of its log in an election.
//! * A node that is told that it was rolled back stops Raft for good, and remembers that over restarts: its peers might
//!   not be there the next time. A node that finds a peer rolled back treats it as unreachable.
//! * Only an operator ends that: by removing the node and adding it anew, or by starting nodes with leave to forget
//!   the marks that they hold, and that they were told. This is also the way out when a majority was put back on purpose.
//!   A node that was started like that goes on in a new term, for it may have led the present one further than it
//!   knows; and it does not stand before it has what any member that it met has shown.
//!
//! What this does not notice: marks are written and told some time after they are seen, so one that was lost with a
//! crash is not missed; and members that were all put back to the same moment agree. Against the latter stands what edges saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_proto::v1;
use futures::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::acquaintances::{Acquaintances, Met};
use super::consensus::{LogId, Vote};
use super::log::LogStore;
use super::marks::{Marks, Shown, ballot};
use super::remembered::Remembered;
use super::roster::Roster;
use super::wire;
use crate::state::node::node_name;

/// How long a start waits for members that it cannot reach.
const WAIT: Duration = Duration::from_secs(2);
/// For the answer to one greeting, and between two.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);
/// Marks are on disk at most this much later, and with the others so much.
const SYNC: Duration = Duration::from_millis(200);
const TOLD: Duration = Duration::from_secs(1);

/// What a process is answered that was not compared.
pub(super) const GREET_FIRST: Code = Code::FailedPrecondition;

/// The log, until the node is shut down.
pub(super) type HeldLog = Arc<Mutex<Option<LogStore>>>;

/// Who was met, and what came of it; whether this node takes part.
pub(super) struct Meetings {
    roster: Arc<Roster>,
    log: HeldLog,
    disk: Remembered,
    acquaintances: Mutex<Acquaintances>,
    /// Random, of this start: every message says it.
    pub(super) process: u64,
    /// When a node last acknowledged something to this one as the leader.
    heard: Mutex<BTreeMap<u64, Instant>>,
    /// The furthest that any other member's log was seen to go.
    furthest: Mutex<Option<LogId>>,
    gate: watch::Sender<Gate>,
    /// Somebody is missed.
    wanted: Notify,
    /// When everyone was last asked about somebody unknown.
    asked_around: Mutex<Option<Instant>>,
    ask_around: AtomicBool,
}

/// Whether this node takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// It has not met everyone yet.
    Closed,
    Open,
    /// It was rolled back: why, as its peer put it.
    Shut(String),
}

impl Meetings {
    pub(super) fn new(roster: Arc<Roster>, log: HeldLog, disk: Remembered, marks: Marks) -> Self {
        let gate = disk.told.clone().map_or(Gate::Closed, Gate::Shut);
        Self {
            roster,
            log,
            disk,
            acquaintances: Mutex::new(Acquaintances::new(marks)),
            process: rand::random(),
            heard: Mutex::default(),
            furthest: Mutex::default(),
            gate: watch::Sender::new(gate),
            wanted: Notify::new(),
            asked_around: Mutex::default(),
            ask_around: AtomicBool::new(false),
        }
    }

    pub(super) fn gate(&self) -> watch::Receiver<Gate> {
        self.gate.subscribe()
    }

    /// Why this node takes no part, if so.
    pub(super) fn absent(&self) -> Option<String> {
        match &*self.gate.borrow() {
            Gate::Open => None,
            Gate::Closed => Some("this node has not met the others yet".into()),
            Gate::Shut(why) => Some(why.clone()),
        }
    }

    /// What this node was told, if it was rolled back.
    pub(super) fn absent_for_good(&self) -> Option<String> {
        match &*self.gate.borrow() {
            Gate::Closed | Gate::Open => None,
            Gate::Shut(why) => Some(why.clone()),
        }
    }

    /// Meets every other member, and again whoever has to be met again, until told to stop.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let long_enough = Instant::now() + WAIT;
        let mut waits = true;
        let mut told = Instant::now();
        let mut written = tokio::time::interval(SYNC);
        loop {
            let asks = self.ask_around.swap(false, Ordering::SeqCst);
            let whom = if asks || told.elapsed() >= TOLD {
                told = Instant::now();
                self.others()
            } else {
                self.missed()
            };
            let greeting = join_all(whom.into_iter().map(|node| self.greet(node)));
            let greeted = async {
                greeting.await;
                self.open_gate(self.missed().is_empty());
                let _ = timeout(PAUSE, self.wanted.notified()).await;
            };
            let mut greeted = std::pin::pin!(greeted);
            loop {
                tokio::select! {
                    () = greeted.as_mut() => break,
                    _ = written.tick() => self.write_marks().await,
                    () = sleep_until(long_enough), if waits => {
                        waits = false;
                        self.open_gate(true);
                    }
                    () = stop.cancelled() => return self.write_marks().await,
                }
            }
        }
    }

    /// Opens the gate if nobody is missed any more and it is not shut.
    pub(super) fn open_gate(&self, complete: bool) {
        self.gate.send_if_modified(|gate| {
            let opens = complete && *gate == Gate::Closed;
            if opens {
                *gate = Gate::Open;
            }
            opens
        });
    }

    /// Whether this node may stand for election: not before it has met as many as could elect it, and, if it lost a
    /// part of its log and was forgiven, not before it has got that from those who have it still.
    pub(super) fn may_stand(&self) -> bool {
        let met = |id| id == self.roster.node_id || self.acquaintances().met(id) == Met::Well;
        if !self.roster.can_elect(met) {
            return false;
        }
        let furthest = *lock(&self.furthest);
        !self.disk.forgiven || self.shown().is_some_and(|own| own.last >= furthest)
    }

    /// Whether Raft may be spoken with that node.
    pub(super) fn check(&self, node: u64) -> Result<(), Status> {
        if let Some(why) = self.absent() {
            return Err(Status::unavailable(why));
        }
        match self.acquaintances().met(node) {
            Met::Well => Ok(()),
            Met::RolledBack => Err(Status::permission_denied(format!(
                "node {} was rolled back: remove it and add it anew",
                node_name(node)
            ))),
            Met::NotYet => {
                self.wanted.notify_one();
                Err(Status::new(GREET_FIRST, format!("node {} was not met yet", node_name(node))))
            }
        }
    }

    /// As [`check`](Self::check), of what a process says that has, or had, a log up to `last` under this leader.
    pub(super) fn take(
        &self,
        node: u64,
        process: u64,
        leader: &Vote,
        last: Option<LogId>,
    ) -> Result<(), Status> {
        self.check(node)?;
        if self.acquaintances().reached(node, process, ballot(leader), last) {
            return Ok(());
        }
        self.forget(node);
        self.check(node)
    }

    /// That node says that it does not know this process: it is another process than the one that was met.
    pub(super) fn forget(&self, node: u64) {
        self.acquaintances().forget(node);
        self.wanted.notify_one();
    }

    /// A node acknowledged something to this one as the leader.
    pub(super) fn hears(&self, node: u64) {
        lock(&self.heard).insert(node, Instant::now());
    }

    /// The last entry that a node is known to have acknowledged.
    pub(super) fn last_of(&self, node: u64) -> Option<u64> {
        self.acquaintances().marks.last_of(node)
    }

    /// Nodes that acknowledged something to this one as the leader, so lately.
    pub(super) fn heard_within(&self, lately: Duration) -> Vec<u64> {
        let heard = lock(&self.heard);
        heard.iter().filter(|(_, at)| at.elapsed() <= lately).map(|(id, _)| *id).collect()
    }

    /// Somebody came whom this node does not know: others may, and are asked, but not all the time.
    pub(super) fn who_is_that(&self) {
        let mut asked = lock(&self.asked_around);
        if asked.is_none_or(|at| at.elapsed() >= PATIENCE) {
            *asked = Some(Instant::now());
            self.ask_around.store(true, Ordering::SeqCst);
            self.wanted.notify_one();
        }
    }

    /// The other side's greeting, and this side's answer.
    pub(super) fn greeted(
        &self,
        from: u64,
        request: &v1::GreetRequest,
    ) -> Result<v1::GreetResponse, Status> {
        let theirs = Shown {
            boot: request.boot_counter,
            last: request.last_log.map(wire::to_log_id),
            vote: ballot(&wire::to_vote(request.vote)?),
        };
        let own = self.shown().ok_or_else(|| Status::unavailable("this node is stopping"))?;
        self.sees(&theirs);
        let mut acquaintances = self.acquaintances();
        let verdict = acquaintances.compare(from, request.process, &theirs);
        if verdict.is_ok() {
            acquaintances.hear(&request.seen);
        }
        Ok(v1::GreetResponse {
            node_id: self.roster.node_id,
            boot_counter: own.boot,
            last_log: own.last.map(wire::from_log_id),
            vote: Some(from_ballot(&own)),
            rolled_back: verdict.err().unwrap_or_default(),
            members: self.roster.belonging(),
            process: self.process,
        })
    }

    async fn greet(&self, node: u64) {
        let Some(mut client) = self.roster.client(node) else { return };
        let Some(own) = self.shown() else { return };
        let request = v1::GreetRequest {
            cluster_id: self.roster.cluster_id(),
            node_id: self.roster.node_id,
            boot_counter: own.boot,
            last_log: own.last.map(wire::from_log_id),
            vote: Some(from_ballot(&own)),
            process: self.process,
            seen: self.acquaintances().seen(),
        };
        let Ok(Ok(answer)) = timeout(PATIENCE, client.greet(request)).await else { return };
        let answer = answer.into_inner();
        if !answer.rolled_back.is_empty() {
            return self.shut(node, &answer.rolled_back).await;
        }
        let Ok(vote) = wire::to_vote(answer.vote) else { return };
        let theirs = Shown {
            boot: answer.boot_counter,
            last: answer.last_log.map(wire::to_log_id),
            vote: ballot(&vote),
        };
        self.sees(&theirs);
        // What it comes to is remembered; the other side learns of it when it greets.
        if answer.node_id == node
            && self.acquaintances().compare(node, answer.process, &theirs).is_ok()
        {
            self.roster.believe(node, &answer.members);
        }
    }

    fn sees(&self, shown: &Shown) {
        let mut furthest = lock(&self.furthest);
        *furthest = (*furthest).max(shown.last);
    }

    /// Members that were not met, and those that came back with less: they may have been repaired.
    fn missed(&self) -> Vec<u64> {
        let mut others = self.others();
        let acquaintances = self.acquaintances();
        others.retain(|id| acquaintances.met(*id) != Met::Well);
        others
    }

    fn others(&self) -> Vec<u64> {
        let mut members = self.roster.members();
        members.retain(|id| *id != self.roster.node_id);
        members
    }

    /// How far this node has come, as far as it is on disk.
    fn shown(&self) -> Option<Shown> {
        let (last, vote) = lock(&self.log).as_ref()?.reached();
        let applied = self.roster.applied();
        let vote = vote.map_or_else(Default::default, |vote| ballot(&vote));
        Some(Shown { boot: self.disk.boot, last: last.max(applied), vote })
    }

    async fn shut(&self, by: u64, why: &str) {
        let told = format!("node {} says: {why}", node_name(by));
        tracing::error!(told, "this node was rolled back: it takes no part any more");
        self.gate.send_replace(Gate::Shut(told.clone()));
        self.disk.keep_verdict(&told).await;
    }

    async fn write_marks(&self) {
        let unwritten = self.acquaintances().marks.unwritten();
        if let Some((path, bytes)) = unwritten {
            self.disk.write(path, bytes).await;
        }
    }

    fn acquaintances(&self) -> MutexGuard<'_, Acquaintances> {
        lock(&self.acquaintances)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn from_ballot(shown: &Shown) -> v1::RaftVote {
    let (term, node_id) = shown.vote;
    v1::RaftVote { term, node_id, committed: false }
}
