//! A mixed load: agents that read and change things, and people who answer them, both as impatient as real ones.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::Full;
use tokio::task::JoinHandle;

use super::evidence::AFTER;
use super::people::{Desk, Person, tap};
use super::robot::{Errand, Robot, Way};
use super::{CANARY, ClusterWorld, HOST, READ_KEY, WRITE_KEY};
use crate::history::Journal;
use crate::invariants::Harmless;
use crate::origin::{HANG_UP, Origin};

/// What of everything there is how much.
#[derive(Clone, Debug)]
pub struct Mix {
    pub agents: usize,
    /// Of 100 requests, so many change something.
    pub risky: u32,
    /// Between two requests of an agent.
    pub think: Duration,
    /// People answer after up to this long.
    pub hesitate: Duration,
    /// Of 100 answers: so many deny, so many are given twice at once, so many are contradicted at once by another
    /// person. The rest approves.
    pub deny: u32,
    pub double: u32,
    pub contradict: u32,
    /// Whether people leave what others than these agents ask to others.
    pub own: bool,
    /// What the dice are thrown with.
    pub seed: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            agents: 6,
            risky: 20,
            think: Duration::from_millis(150),
            hesitate: Duration::from_millis(800),
            deny: 15,
            double: 10,
            contradict: 10,
            own: false,
            seed: 1,
        }
    }
}

/// How an errand of an agent went.
#[derive(Clone, Debug)]
pub struct Went {
    pub risky: bool,
    pub first_asked: Instant,
    pub tries: u32,
    /// Times that the connection broke.
    pub breaks: u32,
    /// Status and problem code of the first answer, and when it came.
    pub first: Option<(u16, String, Instant)>,
    /// Of the last one.
    pub last: Option<(u16, String, Instant)>,
}

/// A load under way.
pub struct Load {
    calling: Arc<Shared>,
    agents: Vec<JoinHandle<()>>,
    people: Vec<JoinHandle<()>>,
}

struct Shared {
    mix: Mix,
    dice: AtomicU64,
    /// No new errands.
    closing: AtomicBool,
    /// Nor answers, nor further tries.
    closed: AtomicBool,
    went: Mutex<BTreeMap<String, Went>>,
    harmless: Mutex<Vec<Harmless>>,
    answered: Mutex<HashSet<String>>,
    journal: Journal,
}

impl Shared {
    /// Below `limit`: splitmix64, so that a seed names a run as far as timing lets it.
    fn roll(&self, limit: u64) -> u64 {
        let mut z = self.dice.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

/// Answers whoever brings a real key, records all; what is called `/drop/…` is recorded and hung up on.
pub(super) fn upstream(address: Ipv4Addr) -> Origin {
    Origin::at(address, &[HOST], |seen| {
        if seen.target.contains("/drop/") {
            return Response::builder().header(HANG_UP, "1").body(Full::default()).unwrap();
        }
        let keyed = seen.carries(READ_KEY) || seen.carries(WRITE_KEY);
        Response::builder()
            .status(if keyed { 200 } else { 401 })
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(if keyed { b"{\"ok\":true}" } else { b"{}" })))
            .unwrap()
    })
}

impl Load {
    pub fn start(world: &ClusterWorld, mix: Mix) -> Self {
        let shared = Arc::new(Shared {
            dice: AtomicU64::new(mix.seed.wrapping_mul(0xD605_1F5B_B4D4_7D3B)),
            mix,
            closing: AtomicBool::default(),
            closed: AtomicBool::default(),
            went: Mutex::default(),
            harmless: Mutex::default(),
            answered: Mutex::default(),
            journal: world.journal.clone(),
        });
        let agents = (0..shared.mix.agents).map(|number| {
            let name = format!("robot-{}-{number}", shared.mix.seed);
            let robot = world.robot(&name);
            let edge = &world.edges[number % world.edges.len()];
            let (listen, ca) = (edge.listen, edge.process.dir().join("edge-ca.pem"));
            world.runtime.spawn(agent(Arc::clone(&shared), robot, listen, ca))
        });
        let agents = agents.collect();
        let people = world.people.iter().map(|person| {
            let other = world.people.iter().find(|other| other.name != person.name);
            let (directory, ca) = (Arc::clone(&world.directory), world.api_ca().to_owned());
            let (person, other) = (person.clone(), other.cloned());
            let desks = move |known: usize| {
                let nodes = directory.lock().unwrap();
                let of = |person: &Person| -> Vec<Desk> {
                    nodes.iter().map(|(name, api)| Desk::new(name, *api, &ca, person)).collect()
                };
                (nodes.len() != known).then(|| (of(&person), other.as_ref().map(of)))
            };
            world.runtime.spawn(answers(Arc::clone(&shared), desks))
        });
        let people = people.collect();
        Self { calling: shared, agents, people }
    }

    /// How every errand went so far, by its name.
    pub fn went(&self) -> BTreeMap<String, Went> {
        self.calling.went.lock().unwrap().clone()
    }

    pub fn harmless(&self) -> Vec<Harmless> {
        self.calling.harmless.lock().unwrap().clone()
    }

    /// Errands of this kind that were answered with this status.
    pub fn count(&self, risky: bool, status: u16) -> usize {
        let went = self.calling.went.lock().unwrap();
        went.values()
            .filter(|w| w.risky == risky && w.last.as_ref().is_some_and(|l| l.0 == status))
            .count()
    }

    /// No new errands; those under way get `patience` to come to their end. Gives the names of those that did not.
    pub fn finish(&mut self, world: &ClusterWorld, patience: Duration) -> Vec<String> {
        self.calling.closing.store(true, Ordering::Relaxed);
        let until = Instant::now() + patience;
        while self.agents.iter().any(|agent| !agent.is_finished()) && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        self.calling.closed.store(true, Ordering::Relaxed);
        for task in self.agents.drain(..).chain(self.people.drain(..)) {
            // A tap under way is still written down.
            world.block_on(async {
                let abort = task.abort_handle();
                if tokio::time::timeout(Duration::from_secs(12), task).await.is_err() {
                    abort.abort();
                }
            });
        }
        self.went()
            .into_iter()
            .filter(|(_, went)| {
                went.risky && !went.last.as_ref().is_some_and(|(status, ..)| is_final(*status))
            })
            .map(|(name, went)| format!("{name}: {went:?}"))
            .collect()
    }
}

/// Whether an agent stops asking.
fn is_final(status: u16) -> bool {
    matches!(status, 200 | 403 | 409)
}

async fn agent(
    shared: Arc<Shared>,
    robot: Robot,
    listen: std::net::SocketAddr,
    ca: std::path::PathBuf,
) {
    // Whether this edge process has lent its key for this agent's reads before.
    let mut leased = false;
    for number in 0_u64.. {
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
        let think = shared.mix.think.as_millis() as u64;
        tokio::time::sleep(Duration::from_millis(think / 2 + shared.roll(think))).await;
        let risky = shared.roll(100) < u64::from(shared.mix.risky);
        let errand = if risky {
            let target = format!("/{CANARY}/{}/{number}", robot.name);
            let body = format!(r#"{{"by":"{}","number":{number}}}"#, robot.name);
            Errand::new(Method::DELETE, HOST, &target).with(body)
        } else {
            Errand::new(Method::GET, HOST, &format!("/items/{}/{number}", robot.name))
        };
        let first_asked = Instant::now();
        let went = Went { risky, first_asked, tries: 0, breaks: 0, first: None, last: None };
        let name = errand.operation.clone();
        shared.went.lock().unwrap().insert(name.clone(), went);
        loop {
            let way =
                tokio::fs::read_to_string(&ca).await.map(|ca_pem| Way { proxy: listen, ca_pem });
            let sent = match &way {
                Ok(way) => robot.send(way, &errand).await.map_err(|_| ()),
                Err(_) => Err(()),
            };
            shared.went.lock().unwrap().entry(name.clone()).and_modify(|went| {
                went.tries += 1;
                match &sent {
                    Ok(reply) => {
                        went.last = Some((reply.status, reply.code(), reply.answered));
                        went.first = went.first.take().or_else(|| went.last.clone());
                    }
                    Err(()) => went.breaks += 1,
                }
            });
            leased &= sent.is_ok();
            if !risky && let Ok(reply) = &sent {
                let what = format!("GET of {name}");
                let harmless = Harmless { what, leased, status: reply.status };
                shared.harmless.lock().unwrap().push(harmless);
                leased |= reply.status == 200;
            }
            let done = match sent {
                Ok(reply) => is_final(reply.status) || !risky,
                Err(()) => !risky,
            };
            if done || shared.closed.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200 + shared.roll(300))).await;
        }
    }
}

/// One person: looks at what is pending, at any node, and answers what nobody has answered yet. `at_all` gives a desk at
/// every node, for this person and for another one, if there are others than so many.
async fn answers(
    shared: Arc<Shared>,
    at_all: impl Fn(usize) -> Option<(Vec<Desk>, Option<Vec<Desk>>)>,
) {
    let mut taps = tokio::task::JoinSet::new();
    let (mut desks, mut others) = (Vec::new(), None);
    while !shared.closed.load(Ordering::Relaxed) {
        if let Some(now) = at_all(desks.len()) {
            (desks, others) = now;
        }
        tokio::time::sleep(Duration::from_millis(100 + shared.roll(150))).await;
        let desk = &desks[shared.roll(desks.len() as u64) as usize];
        let pending = countersign_proto::v1::ApprovalState::Pending;
        let asked = tokio::time::timeout(Duration::from_secs(3), desk.approvals(pending)).await;
        let Ok(Ok(pending)) = asked else { continue };
        let own = format!("/{CANARY}/");
        for approval in pending {
            // What is asked to see whether everything serves again is approved by whoever looks, and denied by nobody.
            if approval.path.starts_with(AFTER)
                || (shared.mix.own && !approval.path.starts_with(&own))
            {
                continue;
            }
            let id = approval.approval_id;
            if !shared.answered.lock().unwrap().insert(id.clone()) {
                continue;
            }
            let shared = Arc::clone(&shared);
            let mut mine = desks.clone();
            let turn = shared.roll(mine.len() as u64) as usize;
            mine.rotate_left(turn);
            let other = others.clone().unwrap_or_default();
            taps.spawn(async move { answer(&shared, &mine, &other, &id).await });
        }
        while taps.try_join_next().is_some() {}
    }
    while taps.join_next().await.is_some() {}
}

async fn answer(shared: &Shared, mine: &[Desk], other: &[Desk], id: &str) {
    let hesitate = shared.mix.hesitate.as_millis() as u64;
    tokio::time::sleep(Duration::from_millis(shared.roll(hesitate))).await;
    let (journal, patience) = (&shared.journal, Duration::from_secs(20));
    let (deny, double, contradict) = (shared.mix.deny, shared.mix.double, shared.mix.contradict);
    let roll = shared.roll(100) as u32;
    if roll < deny {
        tap(mine, journal, id, false, patience).await;
    } else if roll < deny + double {
        let mut again = mine.to_vec();
        again.rotate_left(1);
        tokio::join!(
            tap(mine, journal, id, true, patience),
            tap(&again, journal, id, true, patience)
        );
    } else if roll < deny + double + contradict && !other.is_empty() {
        tokio::join!(
            tap(mine, journal, id, true, patience),
            tap(other, journal, id, false, patience)
        );
    } else {
        tap(mine, journal, id, true, patience).await;
    }
    let desk = &mine[shared.roll(mine.len() as u64) as usize];
    let _ = tokio::time::timeout(Duration::from_secs(5), desk.look(journal, id)).await;
}
