//! Before two nodes say anything of Raft to each other, each shows the other how far it has come.
//!
//! A node that was put back to an earlier state of its disk has forgotten votes it gave and entries it acknowledged;
//! counted again, it could elect a leader that lacks what was committed. So:
//!
//! * Nothing of Raft is sent to, or taken from, a node that this process has not met. Meeting is one call, `Greet`,
//!   in either direction: both show starts, vote and end of log, and both compare with their [`Marks`].
//! * Having met lasts as long as both processes do. A process that is new has met nobody, and answers with
//!   [`GREET_FIRST`] to one who believes that they have.
//! * A start opens the gate only when every other member was met, or [`WAIT`] has passed: until then this node neither
//!   stands, nor votes, nor acknowledges, nor goes on leading. An unreachable member thus delays it and does not stop
//!   it; whenever that one appears, they meet before anything else. The wait is what makes two nodes of three that were
//!   put back together be told by the third, instead of electing one another first.
//! * A node that is told that it was rolled back stops Raft for good, and remembers that over restarts: its peers might
//!   not be there the next time. A node that finds a peer rolled back treats it as unreachable.
//! * Only an operator ends that: by removing the node and adding it anew, or by starting nodes with leave to forget
//!   the marks that they hold, and that they were told. This is also the way out when a majority was put back on purpose.
//!
//! What this does not notice: marks are written some time after they are seen, so one that was lost with a crash is not
//! missed; and members that were all put back to the same moment agree. Against the latter stands what edges saw.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_proto::v1;
use futures::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::consensus::{LogId, Vote};
use super::data_dir::StartError;
use super::engine::{FailStop, Fsync};
use super::log::LogStore;
use super::machine::on_disk;
use super::marks::{Marks, Shown, ballot, count_start, write_whole};
use super::roster::Roster;
use super::wire;
use crate::state::node::node_name;

/// How long a start waits for members that it cannot reach.
const WAIT: Duration = Duration::from_secs(2);
/// For the answer to one greeting, and between two.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);
/// Marks are on disk at most this much later.
const SYNC: Duration = Duration::from_millis(200);

/// What a process answers to one whom it has not met.
pub(super) const GREET_FIRST: Code = Code::FailedPrecondition;

/// The log, until the node is shut down.
pub(super) type HeldLog = Arc<Mutex<Option<LogStore>>>;

/// Whom this process has met, and what came of it.
pub(super) struct Meetings {
    roster: Arc<Roster>,
    log: HeldLog,
    disk: Remembered,
    marks: Mutex<Marks>,
    met: Mutex<BTreeMap<u64, Acquaintance>>,
    /// Random, of this start.
    process: u64,
    /// When a node last acknowledged something to this one as the leader.
    heard: Mutex<BTreeMap<u64, Instant>>,
    gate: watch::Sender<Gate>,
    /// Somebody is missed.
    wanted: Notify,
    /// When everyone was last greeted again because of somebody unknown.
    asked_around: Mutex<Option<Instant>>,
    ask_around: AtomicBool,
}

/// What of meetings lies in the data directory.
pub(super) struct Remembered {
    boot: u64,
    verdict: PathBuf,
    /// What this node was told before.
    told: Option<String>,
    fsync: Arc<dyn Fsync>,
    fail: FailStop,
}

#[derive(Default)]
struct Acquaintance {
    met: Met,
    /// The process that had lost nothing when it was compared. What it shows later it may have sent before: it can
    /// be overtaken by what it acknowledged meanwhile.
    process: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Met {
    #[default]
    NotYet,
    RolledBack,
    Well,
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

impl Remembered {
    /// Counts the start. `forget` is an operator's leave to forget marks, and the verdict.
    pub(super) fn open(
        directory: &Path,
        forget: bool,
        fsync: Arc<dyn Fsync>,
        fail: FailStop,
    ) -> Result<(Self, Marks), StartError> {
        let verdict = directory.join("rolled-back");
        let io = |doing| {
            let path = verdict.clone();
            move |source| StartError::Io { doing, path, source }
        };
        if forget && verdict.exists() {
            fs::remove_file(&verdict).map_err(io("remove"))?;
        }
        let told = match fs::read_to_string(&verdict) {
            Ok(told) => Some(told),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io("read")(e)),
        };
        let marks = Marks::open(directory.join("peers.mark"), forget)?;
        let boot = count_start(&directory.join("starts"), fsync.as_ref())?;
        Ok((Self { boot, verdict, told, fsync, fail }, marks))
    }
}

impl Meetings {
    pub(super) fn new(roster: Arc<Roster>, log: HeldLog, disk: Remembered, marks: Marks) -> Self {
        let gate = disk.told.clone().map_or(Gate::Closed, Gate::Shut);
        Self {
            roster,
            log,
            disk,
            marks: Mutex::new(marks),
            met: Mutex::default(),
            process: rand::random(),
            heard: Mutex::default(),
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
        let mut written = tokio::time::interval(SYNC);
        loop {
            let everyone = self.ask_around.swap(false, Ordering::SeqCst);
            let whom = if everyone { self.others() } else { self.missed() };
            let greeting = join_all(whom.into_iter().map(|node| self.greet(node)));
            let greeted = async {
                greeting.await;
                self.open_gate(self.missed().is_empty());
                let _ = tokio::time::timeout(PAUSE, self.wanted.notified()).await;
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

    /// Whether Raft may be spoken with that node.
    pub(super) fn check(&self, node: u64) -> Result<(), Status> {
        if let Some(why) = self.absent() {
            return Err(Status::unavailable(why));
        }
        match self.met(node) {
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

    /// That node says that it does not know this process: it is another process than the one that was met.
    pub(super) fn forget(&self, node: u64) {
        self.lock(&self.met).entry(node).or_default().met = Met::NotYet;
        self.wanted.notify_one();
    }

    /// Somebody came whom this node does not know: others may, and are asked, but not all the time.
    pub(super) fn who_is_that(&self) {
        let mut asked = self.lock(&self.asked_around);
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
        let verdict = self.compare(from, request.process, &theirs);
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

    /// A node acknowledged entries up to `last` to this leader.
    pub(super) fn acknowledged(&self, node: u64, leader: &Vote, last: Option<LogId>) {
        self.marks().acknowledged(node, ballot(leader), last);
        self.lock(&self.heard).insert(node, Instant::now());
    }

    /// Nodes that acknowledged something to this one as the leader, so lately.
    pub(super) fn heard_within(&self, lately: Duration) -> Vec<u64> {
        let heard = self.lock(&self.heard);
        heard.iter().filter(|(_, at)| at.elapsed() <= lately).map(|(id, _)| *id).collect()
    }

    /// A node's vote was seen.
    pub(super) fn voted(&self, node: u64, vote: &Vote) {
        self.marks().voted(node, ballot(vote));
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
        };
        let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, client.greet(request)).await else {
            return;
        };
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
        // What it comes to is remembered; the other side learns of it when it greets.
        if answer.node_id == node && self.compare(node, answer.process, &theirs).is_ok() {
            self.roster.believe(node, &answer.members);
        }
    }

    /// Members that were not met, and those that came back with less: they may have been repaired.
    fn missed(&self) -> Vec<u64> {
        let mut others = self.others();
        others.retain(|id| self.met(*id) != Met::Well);
        others
    }

    fn others(&self) -> Vec<u64> {
        let mut members = self.roster.members();
        members.retain(|id| *id != self.roster.node_id);
        members
    }

    fn compare(&self, node: u64, process: u64, theirs: &Shown) -> Result<(), String> {
        let mut met = self.lock(&self.met);
        let known = met.entry(node).or_default();
        if known.process == Some(process) {
            self.marks().saw(node, theirs);
            known.met = Met::Well;
            return Ok(());
        }
        match self.marks().compare(node, theirs) {
            Ok(()) => {
                *known = Acquaintance { met: Met::Well, process: Some(process) };
                Ok(())
            }
            Err(what) => {
                let what = format!(
                    "node {} {what}: its disk was put back to an earlier state; remove the node and add it anew",
                    node_name(node)
                );
                if std::mem::replace(&mut known.met, Met::RolledBack) != Met::RolledBack {
                    tracing::error!(what, "a node was rolled back, and is not listened to");
                }
                Err(what)
            }
        }
    }

    /// How far this node has come, as far as it is on disk.
    fn shown(&self) -> Option<Shown> {
        let (last, vote) = self.lock(&self.log).as_ref()?.reached();
        let applied = self.roster.applied();
        let vote = vote.map_or_else(Default::default, |vote| ballot(&vote));
        Some(Shown { boot: self.disk.boot, last: last.max(applied), vote })
    }

    async fn shut(&self, by: u64, why: &str) {
        let told = format!("node {} says: {why}", node_name(by));
        tracing::error!(told, "this node was rolled back: it takes no part any more");
        self.gate.send_replace(Gate::Shut(told.clone()));
        let (path, fsync, fail) =
            (self.disk.verdict.clone(), self.disk.fsync.clone(), self.disk.fail.clone());
        write(path, told.into_bytes(), fsync, fail).await;
    }

    async fn write_marks(&self) {
        let Some((path, bytes)) = self.marks().unwritten() else { return };
        write(path, bytes, self.disk.fsync.clone(), self.disk.fail.clone()).await;
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.lock(&self.marks)
    }

    fn met(&self, node: u64) -> Met {
        self.lock(&self.met).get(&node).map_or(Met::NotYet, |known| known.met)
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was not remembered would be forgotten silently, so a disk that fails stops the node.
async fn write(path: PathBuf, bytes: Vec<u8>, fsync: Arc<dyn Fsync>, fail: FailStop) {
    let shown = path.display().to_string();
    let written = on_disk(move || write_whole(&path, &bytes, fsync.as_ref())).await;
    if let Err(e) = written {
        fail.trip(format!("writing {shown} failed: {e}"));
    }
}

fn from_ballot(shown: &Shown) -> v1::RaftVote {
    let (term, node_id) = shown.vote;
    v1::RaftVote { term, node_id, committed: false }
}
