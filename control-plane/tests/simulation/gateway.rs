//! A simulated edge: it holds requests with the real gate, says and hears the real protocol, and carries out what the
//! gate lets go of. A crash takes everything that it held; the next start is another process.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use countersign_control_plane::cluster::Clock as _;
use countersign_control_plane::state::ApprovalId;
use countersign_gate::{Circumstances, Held, Now, Outcome, Unverified, verify};
use countersign_proto::v1;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tonic::{Code, Status};
use v1::attach_request::Message as In;
use v1::attach_response::Message as Out;

use crate::edge::{self, Process, Remembered, Session};
use crate::ledger::{Ledger, RequestId};
use crate::network;
use crate::time::Watch;
use crate::world::Enrolled;

const ATTACHING: Duration = Duration::from_secs(4);
const HOLD_MS: u64 = 120_000;

/// An edge's machine.
pub(crate) struct Gateway {
    pub(crate) name: String,
    pub(crate) nodes: Vec<String>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) enrolled: OnceLock<Enrollment>,
    /// What agents ask for, shared by all edges: sometimes the same twice.
    pub(crate) wishes: Arc<Wishes>,
    dice: Mutex<StdRng>,
}

pub(crate) struct Enrollment {
    pub(crate) enrolled: Enrolled,
    pub(crate) api_ca_pem: String,
    pub(crate) root: [u8; 32],
}

/// Amounts of refunds.
#[derive(Default)]
pub(crate) struct Wishes {
    latest: Mutex<(u32, VecDeque<u32>)>,
    /// No more of them.
    over: AtomicBool,
}

impl Wishes {
    fn next(&self, dice: &mut StdRng) -> Option<u32> {
        if self.over.load(Ordering::SeqCst) {
            return None;
        }
        let mut latest = self.latest.lock().unwrap();
        let (count, recent) = &mut *latest;
        if !recent.is_empty() && dice.random_bool(0.4) {
            return Some(recent[dice.random_range(0..recent.len())]);
        }
        *count += 1;
        recent.push_back(*count);
        if recent.len() > 3 {
            recent.pop_front();
        }
        Some(*count)
    }

    /// Whatever is wished for next is greater than this, unless it was wished for lately.
    pub(crate) fn greatest(&self) -> u32 {
        self.latest.lock().unwrap().0
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

impl Gateway {
    pub(crate) fn new(
        name: String,
        nodes: Vec<String>,
        watch: Arc<Watch>,
        ledger: Arc<Ledger>,
        wishes: Arc<Wishes>,
        seed: u64,
    ) -> Arc<Self> {
        let dice = Mutex::new(StdRng::seed_from_u64(seed));
        Arc::new(Self { name, nodes, watch, ledger, enrolled: OnceLock::new(), wishes, dice })
    }

    /// What the machine does from its start on.
    pub(crate) async fn live(self: Arc<Self>) -> turmoil::Result {
        let enrollment = loop {
            match self.enrolled.get() {
                Some(enrollment) => break enrollment,
                None => sleep(Duration::from_millis(50)).await,
            }
        };
        let dice = StdRng::seed_from_u64(self.dice.lock().unwrap().random());
        let mut life = Life {
            gateway: &self,
            process: Process::new(enrollment.enrolled.clone()),
            enrollment,
            dice,
            held: BTreeMap::new(),
            receipts: Vec::new(),
            next_wish: Instant::now(),
        };
        loop {
            let node = life.dice.random_range(0..self.nodes.len());
            let ended = match timeout(ATTACHING, life.attach(&self.nodes[node])).await {
                Ok(Ok(session)) => match life.serve(session).await {
                    Err(ended) => ended,
                    Ok(never) => match never {},
                },
                Ok(Err(refused)) => refused,
                Err(_) => Status::deadline_exceeded("no answer"),
            };
            if ended.code() == Code::FailedPrecondition {
                self.ledger.violated(format!("I3: {} was told: {}", self.name, ended.message()));
            }
            tracing::debug!(edge = self.name, why = ended.message(), "a session ended");
            sleep(Duration::from_millis(life.dice.random_range(20..400))).await;
        }
    }
}

/// One process.
struct Life<'a> {
    gateway: &'a Gateway,
    enrollment: &'a Enrollment,
    process: Process,
    dice: StdRng,
    held: BTreeMap<RequestId, Waiting>,
    /// Said again in every session: a report that was taken changes nothing the second time.
    receipts: Vec<v1::ExecutionReceipt>,
    next_wish: Instant,
}

struct Waiting {
    held: Held,
    /// By the clock that goes on.
    since_ms: u64,
}

impl Life<'_> {
    async fn attach(&self, node: &str) -> Result<Session, Status> {
        let Enrollment { enrolled, api_ca_pem, root } = self.enrollment;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(api_ca_pem))
            .identity(Identity::from_pem(&enrolled.certificate_pem, &enrolled.key_pem))
            .domain_name("localhost");
        let channel = network::to_gateway(node.to_owned(), tls).await;
        let channel = channel.map_err(|why| Status::unavailable(why.to_string()))?;
        let held = self.held.keys().map(|id| Bytes::copy_from_slice(id)).collect();
        let settled = self.receipts.iter().map(|receipt| receipt.request_id.clone()).collect();
        self.process.attach_over(channel, *root, Remembered { held, settled }, Vec::new()).await
    }

    async fn serve(&mut self, mut session: Session) -> Result<Infallible, Status> {
        self.see(&session);
        for Waiting { held, .. } in self.held.values() {
            announce(&mut session, held).await?;
        }
        for receipt in self.receipts.clone() {
            session.try_to_say(In::ExecutionReceipt(receipt)).await?;
        }
        loop {
            tokio::select! {
                heard = session.hear() => self.take(heard?, &mut session).await?,
                () = sleep_until(self.next_wish) => {
                    let pause = self.dice.random_range(200..2500);
                    self.next_wish = Instant::now() + Duration::from_millis(pause);
                    if let Some(amount) = self.gateway.wishes.next(&mut self.dice) {
                        self.ask_for(amount, &mut session).await?;
                        self.lose_patience(&mut session).await?;
                    }
                }
            }
        }
    }

    async fn ask_for(&mut self, amount: u32, session: &mut Session) -> Result<(), Status> {
        let watch = &self.gateway.watch;
        let circumstances = Circumstances {
            request_id: rand::random(),
            edge: self.process.enrolled.id.clone(),
            edge_key: self.process.enrolled.key_sha256,
            incarnation: self.process.incarnation,
            protocol: "h1".into(),
            policy_version: session.version(),
            started_ms: watch.wall(),
            hold_ms: HOLD_MS,
            nonce: rand::random(),
        };
        let held =
            self.process.hold_in(edge::refund(amount), edge::approve("refunds"), circumstances);
        let id = held.ticket().circumstances.request_id;
        self.gateway.ledger.announce(id);
        let waiting = Waiting { held, since_ms: watch.boottime_ms() };
        let waiting = self.held.entry(id).or_insert(waiting);
        announce(session, &waiting.held).await
    }

    /// Agents that wait sometimes go away.
    async fn lose_patience(&mut self, session: &mut Session) -> Result<(), Status> {
        let calm = self.gateway.ledger.inner().everyone_agrees;
        if calm || !self.dice.random_bool(0.08) {
            return Ok(());
        }
        let Some((id, _)) = self.held.pop_first() else { return Ok(()) };
        let request_id = Bytes::copy_from_slice(&id);
        let reason = "the agent went away".into();
        session.try_to_say(In::HeldCancelled(v1::HeldCancelled { request_id, reason })).await
    }

    /// What this process has seen committed: a cluster that is behind it lost something.
    fn see(&mut self, session: &Session) {
        let (_, _, revision, epoch) = &mut self.process.seen;
        *revision = session.bundle.revision.max(*revision);
        *epoch = session.trust.epoch.max(*epoch);
    }

    async fn take(&mut self, message: Out, session: &mut Session) -> Result<(), Status> {
        match message {
            Out::Opened(opened) => {
                if let Ok(id) = opened.approval_id.as_ref().try_into() {
                    self.gateway.ledger.opened(ApprovalId(id));
                }
            }
            Out::Decision(decision) => {
                if let Some(receipt) = self.decided(&decision, session) {
                    self.receipts.push(receipt.clone());
                    session.try_to_say(In::ExecutionReceipt(receipt)).await?;
                }
            }
            Out::Settled(settled) => {
                if let Ok(id) = RequestId::try_from(settled.request_id.as_ref()) {
                    self.held.remove(&id);
                }
            }
            Out::Reopen(reopen) => {
                let id = RequestId::try_from(reopen.request_id.as_ref());
                if let Some(waiting) = id.ok().and_then(|id| self.held.get(&id)) {
                    announce(session, &waiting.held).await?;
                }
            }
            Out::Bundle(_) | Out::TrustBundle(_) => {
                self.see(session);
                let edge_unix_ms = self.gateway.watch.wall();
                session.try_to_say(In::Pong(v1::Pong { edge_unix_ms })).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What the gate makes of a decision; a release is carried out at once.
    fn decided(
        &mut self,
        decision: &v1::Decision,
        session: &Session,
    ) -> Option<v1::ExecutionReceipt> {
        let id: RequestId = decision.request_id.as_ref().try_into().ok()?;
        let Waiting { held, since_ms } = self.held.remove(&id)?;
        let watch = &self.gateway.watch;
        let now = Now {
            boottime_ms: watch.boottime_ms().saturating_sub(since_ms),
            wall_ms: watch.wall(),
        };
        let said = edge::decoded(decision);
        let keys: Option<Vec<_>> = decision
            .sealed_credentials
            .iter()
            .map(|sealed| self.process.open(&held, &said.decision_id, sealed))
            .collect();
        let signed = edge::signed(decision.envelope.as_ref()?);
        let outcome = match verify(held, &signed, &session.trust, now) {
            Outcome::Release(released) => {
                let (term, index, _, _) = &mut self.process.seen;
                (*term, *index) = (said.term.max(*term), said.index.max(*index));
                match keys.map(|keys| released.with_keys(keys)) {
                    Some(Ok(outbound)) => {
                        self.gateway.ledger.arrived(&self.process, outbound);
                        v1::ExecutionOutcome::Completed
                    }
                    _ => {
                        let name = &self.gateway.name;
                        self.gateway.ledger.violated(format!(
                            "I1: {name} was sent a release whose keys do not fit it"
                        ));
                        v1::ExecutionOutcome::NotSent
                    }
                }
            }
            // The clocks are too far apart, or it came after the hold.
            Outcome::Ignore(_, Unverified::Expired) | Outcome::Deny(_) => {
                v1::ExecutionOutcome::NotSent
            }
            Outcome::Ignore(_, why) => {
                let name = &self.gateway.name;
                self.gateway
                    .ledger
                    .violated(format!("I1: {name} was sent a decision that is none: {why:?}"));
                v1::ExecutionOutcome::NotSent
            }
        };
        let status = if outcome == v1::ExecutionOutcome::Completed { 200 } else { 0 };
        Some(v1::ExecutionReceipt {
            request_id: decision.request_id.clone(),
            outcome: outcome.into(),
            status,
            ..v1::ExecutionReceipt::default()
        })
    }
}

async fn announce(session: &mut Session, held: &Held) -> Result<(), Status> {
    let (head, pieces) = edge::announcement(held);
    session.try_to_say(In::OpenHead(head)).await?;
    for piece in pieces {
        session.try_to_say(In::OpenBody(piece)).await?;
    }
    Ok(())
}
