//! One edge's session: what it says is taken in here, in order, and what was committed is told it.
//!
//! Everything that takes time (opening, claiming, lending, reporting) runs beside the session and comes back to it as
//! [`Done`]; the session itself never waits for a commit. It keeps a few words for each waiting request and nothing
//! that the state does not know better: whatever a session forgets, the next one finds again.

mod outbox;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_proto::v1;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::announced::{Caller, request_id};
use super::identity::{self, PeerEdge};
use super::open::{Opening, open};
use super::release::{Recipient, Releasing, release};
use super::spool::{Spooled, Spools};
use super::waiting::{RequestId, Waiting};
use super::{Attached, ConnectedEdge, Rooms, actor, bundle, lease};
use crate::cluster::{Committed, ProposeError};
use crate::state::{ApprovalId, ApprovalState, Command, Event, Refused, ReportedOutcome};
use outbox::Outbox;
use v1::SettledReason as Reason;
use v1::attach_request::Message as In;
use v1::attach_response::Message as Out;

/// Before Hello: whose session it will be.
pub(super) struct Session {
    rooms: Arc<Rooms>,
    edge: PeerEdge,
    outbox: Outbox,
}

/// After Hello.
struct Open {
    rooms: Arc<Rooms>,
    recipient: Arc<Recipient>,
    outbox: Outbox,
    events: broadcast::Receiver<Arc<Committed<Event>>>,
    spools: Spools,
    /// Being opened; true when it was cancelled meanwhile.
    opening: BTreeMap<RequestId, bool>,
    waiting: Waiting,
    /// Approvals, and requests without one, for which a claim is under way.
    claiming: HashSet<Claimant>,
    /// Decisions that the edge has carried out or refused already, by what it said in Hello.
    settled: HashSet<RequestId>,
    /// Policy version of the bundle that was sent last.
    told: u64,
    heard: Instant,
    work: JoinSet<Done>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Claimant {
    Approval(ApprovalId),
    Request(RequestId),
}

/// What came of work beside the session.
enum Done {
    Opened(RequestId, Opening),
    Released(Claimant, RequestId, Releasing),
    Lent(String, Result<v1::Lease, String>),
    /// The message of this number needs no more: it may be acknowledged.
    Recorded(u64),
    /// A record of the message of this number may not have been committed.
    Unrecorded,
}

const HELLO: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(15);
/// An edge that answers no ping for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// So much work beside the session; then it reads no further until some is done.
const AT_ONCE: usize = 512;
const LONGEST_DETAIL: usize = 1000;
/// As many settled requests as a Hello is believed about.
const SETTLED: usize = 16_384;

impl Session {
    pub(super) fn new(
        rooms: Arc<Rooms>,
        edge: PeerEdge,
        sender: mpsc::Sender<Result<v1::AttachResponse, Status>>,
    ) -> Self {
        Self { rooms, edge, outbox: Outbox::new(sender) }
    }

    /// Serves until either side ends it. The last word is why.
    pub(super) async fn run(self, mut incoming: Streaming<v1::AttachRequest>) {
        let sender = self.outbox.sender();
        let edge = self.edge.id.clone();
        let closing = self.rooms.closing.clone();
        let ended = tokio::select! {
            Err(ended) = self.attach(&mut incoming) => ended,
            () = closing.cancelled() => Status::unavailable("sealed or going down: attach again"),
        };
        tracing::info!(edge, why = ended.message(), "an edge's session ended");
        // Nobody may be there to hear it any more.
        drop(sender.try_send(Err(ended)));
    }

    async fn attach(
        mut self,
        incoming: &mut Streaming<v1::AttachRequest>,
    ) -> Result<Infallible, Status> {
        // First, so that nothing is missed between attaching and listening.
        let events = self.rooms.cluster.subscribe();
        let first = timeout(HELLO, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let first = first.ok_or_else(|| Status::cancelled("the edge left before its Hello"))?;
        let sequence = first.sequence;
        self.outbox.take_in(sequence)?;
        let Some(In::Hello(hello)) = first.message else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        let caller = self.introduce(&hello).await?;
        self.outbox.settle(sequence);
        let Self { rooms, edge, outbox } = self;
        let ended = CancellationToken::new();
        let _place = Place::take(&rooms, &caller, &hello, ended.clone());
        tracing::info!(edge = edge.id, version = hello.version, "an edge attached");
        let open = Open {
            recipient: Arc::new(Recipient { caller, hpke_public_key: hello.hpke_public_key }),
            rooms: Arc::clone(&rooms),
            outbox,
            events,
            spools: Spools::default(),
            opening: BTreeMap::new(),
            waiting: Waiting::default(),
            claiming: HashSet::new(),
            settled: hello
                .settled_request_ids
                .iter()
                .take(SETTLED)
                .filter_map(|id| request_id(id).ok())
                .collect(),
            told: 0,
            heard: Instant::now(),
            work: JoinSet::new(),
        };
        open.serve(incoming, &ended).await
    }

    /// Commits that this process of the edge is the one that counts.
    async fn introduce(&self, hello: &v1::EdgeHello) -> Result<Caller, Status> {
        let incarnation: [u8; 16] = (hello.incarnation.as_ref().try_into())
            .map_err(|_| Status::invalid_argument("Hello: incarnation must be 16 bytes"))?;
        if hello.hpke_public_key.len() != 32 {
            return Err(Status::invalid_argument("Hello: hpke_public_key must be 32 bytes"));
        }
        let attach = Command::AttachEdge { id: self.edge.id.clone(), incarnation };
        match self.rooms.cluster.propose(actor(&self.edge.id), attach).await {
            Ok(_) => {}
            Err(ProposeError::Refused(refused)) => {
                return Err(Status::permission_denied(refused.to_string()));
            }
            Err(ProposeError::Unavailable(_)) => return Err(unknown()),
        }
        let signer = &self.rooms.signer;
        Ok(Caller {
            cluster: signer.cluster_id().to_owned(),
            org: signer.org_id().to_owned(),
            edge: self.edge.clone(),
            incarnation,
        })
    }
}

impl Open {
    async fn serve(
        mut self,
        incoming: &mut Streaming<v1::AttachRequest>,
        ended: &CancellationToken,
    ) -> Result<Infallible, Status> {
        self.greet()?;
        let mut ping = interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        let sender = self.outbox.sender();
        loop {
            tokio::select! {
                () = ended.cancelled() => return Err(Status::aborted("a newer session of this edge replaced this one")),
                () = sender.closed() => return Err(Status::cancelled("the edge is gone")),
                event = self.events.recv() => self.hear(event)?,
                Some(done) = self.work.join_next() => {
                    self.take_back(done.map_err(|_| Status::internal("work for this session failed"))?)?;
                }
                message = incoming.message(), if self.work.len() < AT_ONCE => {
                    let message = message?.ok_or_else(|| Status::cancelled("the edge ended the session"))?;
                    self.take_in(message)?;
                }
                _ = ping.tick() => self.ping()?,
            }
        }
    }

    fn greet(&mut self) -> Result<(), Status> {
        let signer = &self.rooms.signer;
        let ack = v1::HelloAck {
            cluster_id: signer.cluster_id().to_owned(),
            org_id: signer.org_id().to_owned(),
            edge_id: self.recipient.caller.edge.id.clone(),
            trust_bundle: Some(signer.trust_bundle()),
        };
        self.outbox.send(Out::HelloAck(ack))?;
        self.send_bundle()
    }

    fn send_bundle(&mut self) -> Result<(), Status> {
        let state = bundle::of_state(&self.rooms);
        self.told = state.policy_version;
        self.outbox.send(Out::Bundle(v1::EdgeBundle {
            envelope: Some(self.rooms.signer.edge_bundle(&state)),
        }))
    }

    fn ping(&mut self) -> Result<(), Status> {
        if self.heard.elapsed() > SILENCE {
            return Err(Status::deadline_exceeded("the edge has not said a word for a minute"));
        }
        self.outbox.send(Out::Ping(v1::Ping { log_time_unix_ms: self.rooms.cluster.log_time() }))
    }

    // What the edge says.

    fn take_in(&mut self, message: v1::AttachRequest) -> Result<(), Status> {
        self.heard = Instant::now();
        let number = message.sequence;
        self.outbox.take_in(number)?;
        match message.message {
            Some(In::OpenHead(head)) => self.begin(head)?,
            Some(In::OpenBody(piece)) => self.add(&piece)?,
            Some(In::HeldCancelled(cancelled)) => return self.cancelled(number, cancelled),
            Some(In::ExecutionReceipt(receipt)) => return self.receipt(number, &receipt),
            Some(In::Alarm(alarm)) => {
                self.alarm(number, alarm);
                return Ok(());
            }
            Some(In::LeaseRequest(asked)) => self.lend(asked),
            Some(In::Hello(_)) => {
                return Err(Status::invalid_argument("a second Hello: attach again instead"));
            }
            Some(In::Pong(_)) | None => {}
        }
        self.outbox.settle(number);
        Ok(())
    }

    fn begin(&mut self, head: v1::OpenHead) -> Result<(), Status> {
        let id = read_id(&head.request_id)?;
        if self.settled.contains(&id) {
            return self.settle(
                id,
                None,
                Reason::AlreadyExecuted,
                "it was carried out or refused before",
            );
        }
        if self.opening.contains_key(&id) {
            // The answer to the first announcement is on its way.
            return Ok(());
        }
        let most = self.rooms.settings.max_body_bytes;
        if head.body_bytes > most {
            return self.settle(
                id,
                None,
                Reason::Invalid,
                &format!("a body of more than {most} bytes cannot be held"),
            );
        }
        if self.waiting.len() + self.opening.len() >= self.rooms.settings.max_waiting {
            return self.settle(
                id,
                None,
                Reason::Overloaded,
                "too many requests of this edge are waiting",
            );
        }
        if head.body_bytes == 0 {
            self.open(id, head, Bytes::new());
        } else if !self.spools.begin(id, head) {
            return self.settle(id, None, Reason::Overloaded, "too many bodies are on their way");
        }
        Ok(())
    }

    fn add(&mut self, piece: &v1::OpenBody) -> Result<(), Status> {
        let id = read_id(&piece.request_id)?;
        match self.spools.add(id, piece) {
            Spooled::Part | Spooled::Unknown => Ok(()),
            Spooled::Whole(head, body) => {
                self.open(id, *head, body);
                Ok(())
            }
            Spooled::Wrong(why) => self.settle(id, None, Reason::Invalid, why),
        }
    }

    fn open(&mut self, id: RequestId, head: v1::OpenHead, body: Bytes) {
        self.waiting.remove(&id);
        self.opening.insert(id, false);
        let (rooms, recipient) = (Arc::clone(&self.rooms), Arc::clone(&self.recipient));
        self.work.spawn(async move {
            Done::Opened(id, open(&rooms, &recipient.caller, head, body).await)
        });
    }

    fn cancelled(&mut self, number: u64, cancelled: v1::HeldCancelled) -> Result<(), Status> {
        let id = read_id(&cancelled.request_id)?;
        if let Some(gone) = self.opening.get_mut(&id) {
            *gone = true;
        }
        self.spools.forget(&id);
        self.waiting.remove(&id);
        let reason = clipped(cancelled.reason);
        self.record(number, Command::Detach { request_id: id, reason });
        Ok(())
    }

    fn receipt(&mut self, number: u64, receipt: &v1::ExecutionReceipt) -> Result<(), Status> {
        let request_id = read_id(&receipt.request_id)?;
        let outcome = match receipt.outcome() {
            v1::ExecutionOutcome::Completed => ReportedOutcome::Completed,
            v1::ExecutionOutcome::NotSent => ReportedOutcome::NotSent,
            v1::ExecutionOutcome::Unknown | v1::ExecutionOutcome::Unspecified => {
                ReportedOutcome::Unknown
            }
        };
        let status = receipt.status.try_into().unwrap_or(0);
        self.record(number, Command::Report { request_id, outcome, status });
        Ok(())
    }

    fn alarm(&mut self, number: u64, alarm: v1::Alarm) {
        let v1::Alarm { kind, agent_id, credential_id, host, detail } = alarm;
        tracing::warn!(edge = self.recipient.caller.edge.id, kind, host, "an edge raised an alarm");
        let details = [
            ("agent", agent_id),
            ("credential", credential_id),
            ("host", host),
            ("detail", detail),
        ];
        let details =
            details.into_iter().map(|(name, text)| (name.to_owned(), clipped(text))).collect();
        self.record(
            number,
            Command::Note { action: "edge.alarm".into(), subject: clipped(kind), details },
        );
    }

    fn lend(&mut self, asked: v1::LeaseRequest) {
        let (rooms, recipient) = (Arc::clone(&self.rooms), Arc::clone(&self.recipient));
        self.work.spawn(async move {
            let lent = lease::lend(&rooms, &recipient, &asked).await;
            Done::Lent(asked.credential_id, lent)
        });
    }

    /// Commits what needs no answer but its acknowledgement. A refusal is final: saying it again changes nothing.
    fn record(&mut self, number: u64, command: Command) {
        let (rooms, edge) = (Arc::clone(&self.rooms), self.recipient.caller.edge.id.clone());
        self.work.spawn(async move {
            match rooms.cluster.propose(actor(&edge), command).await {
                Ok(_) => Done::Recorded(number),
                Err(ProposeError::Refused(why)) => {
                    tracing::debug!(edge, %why, "what an edge reported changed nothing");
                    Done::Recorded(number)
                }
                Err(ProposeError::Unavailable(_)) => Done::Unrecorded,
            }
        });
    }

    // What was committed.

    fn hear(&mut self, event: Result<Arc<Committed<Event>>, RecvError>) -> Result<(), Status> {
        let mut news = News::default();
        match event {
            Ok(event) => news.add(&event),
            Err(RecvError::Lagged(_)) => news = News::everything(),
            Err(RecvError::Closed) => return Err(unknown()),
        }
        // A burst of changes makes one bundle.
        loop {
            match self.events.try_recv() {
                Ok(event) => news.add(&event),
                Err(TryRecvError::Lagged(_)) => news = News::everything(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if news.edges {
            self.check_place()?;
        }
        if news.bundle {
            self.send_bundle()?;
        }
        if news.agents {
            self.dismiss_revoked()?;
        }
        let approvals = if news.everything {
            self.waiting.approvals()
        } else {
            news.approvals.into_iter().collect()
        };
        approvals.into_iter().try_for_each(|approval| self.look(approval))
    }

    /// Whether this edge may still be here, and whether this is still its process.
    fn check_place(&mut self) -> Result<(), Status> {
        let Caller { edge, incarnation, .. } = &self.recipient.caller;
        let (refusal, current) = self.rooms.cluster.peek(|state| {
            let current =
                state.edge(&edge.id).is_some_and(|known| known.incarnation == Some(*incarnation));
            (identity::refusal(state, edge), current)
        });
        if let Some(why) = refusal {
            self.outbox.send(Out::Evicted(v1::Evicted { reason: why.to_owned() }))?;
            return Err(Status::permission_denied(why));
        }
        if !current {
            return Err(Status::aborted("another process of this edge attached since"));
        }
        Ok(())
    }

    /// Requests of agents that were revoked meanwhile get their no at once.
    fn dismiss_revoked(&mut self) -> Result<(), Status> {
        let waiting = &self.waiting;
        let revoked: Vec<_> = self.rooms.cluster.peek(|state| {
            let active = |id: &RequestId| {
                let agent = state.held(id).and_then(|held| state.agent(&held.agent));
                agent.is_none_or(|agent| agent.active)
            };
            waiting
                .requests()
                .filter(|(id, _)| !active(id))
                .map(|(id, approval)| (*id, approval))
                .collect()
        });
        for (id, approval) in revoked {
            self.waiting.remove(&id);
            self.settle(id, approval, Reason::PolicyDenied, "the agent was revoked")?;
        }
        Ok(())
    }

    /// What the state says of an approval, told to every request of this session that waits for it.
    fn look(&mut self, approval: ApprovalId) -> Result<(), Status> {
        if self.waiting.of(approval).is_empty()
            || self.claiming.contains(&Claimant::Approval(approval))
        {
            return Ok(());
        }
        let found = self.rooms.cluster.peek(|state| {
            let found = state.approval(approval)?;
            Some((found.state, found.reason.clone(), found.claim.clone()))
        });
        let Some((state, reason, claim)) = found else {
            return self.settle_all(approval, Reason::Expired, "the approval is not kept any more");
        };
        match state {
            ApprovalState::Pending => Ok(()),
            ApprovalState::Approved => {
                // The youngest has the most of its hold left.
                if let Some(youngest) = self.waiting.of(approval).last().copied() {
                    self.claim(Claimant::Approval(approval), youngest);
                }
                Ok(())
            }
            ApprovalState::Denied => self.settle_all(approval, Reason::Denied, &reason),
            ApprovalState::Expired => self.settle_all(approval, Reason::Expired, &reason),
            ApprovalState::Cancelled => self.settle_all(approval, Reason::Cancelled, &reason),
            ApprovalState::Revoked => self.settle_all(approval, Reason::Revoked, &reason),
            ApprovalState::Released | ApprovalState::Completed | ApprovalState::Unknown => {
                let Some(claim) = claim else { return Ok(()) };
                self.look_at_released(approval, state, &claim)
            }
        }
    }

    fn look_at_released(
        &mut self,
        approval: ApprovalId,
        state: ApprovalState,
        claim: &crate::state::Claim,
    ) -> Result<(), Status> {
        for id in self.waiting.of(approval).to_vec() {
            if id == claim.request_id && state == ApprovalState::Released {
                self.claim(Claimant::Approval(approval), id);
                continue;
            }
            let opened_at =
                self.rooms.cluster.peek(|state| state.held(&id).map(|held| held.opened_at));
            let waited = opened_at.is_none_or(|at| at <= claim.at);
            self.waiting.remove(&id);
            if state == ApprovalState::Completed || (waited && id != claim.request_id) {
                self.settle(
                    id,
                    Some(approval),
                    Reason::AlreadyExecuted,
                    "an identical request was carried out",
                )?;
            } else {
                let detail =
                    "an identical request was released, and it is not known whether it arrived";
                self.settle(id, Some(approval), Reason::OutcomeUnknown, detail)?;
            }
        }
        Ok(())
    }

    fn claim(&mut self, claimant: Claimant, id: RequestId) {
        if !self.claiming.insert(claimant) {
            return;
        }
        let (rooms, recipient) = (Arc::clone(&self.rooms), Arc::clone(&self.recipient));
        self.work.spawn(async move {
            Done::Released(claimant, id, release(&rooms, &recipient, id).await)
        });
    }

    // What came of it.

    fn take_back(&mut self, done: Done) -> Result<(), Status> {
        match done {
            Done::Opened(id, opening) => self.opened(id, opening),
            Done::Released(claimant, id, releasing) => self.released(claimant, id, releasing),
            Done::Lent(_, Ok(lease)) => self.outbox.send(Out::Lease(lease)),
            Done::Lent(credential_id, Err(detail)) => {
                self.outbox.send(Out::LeaseRefused(v1::LeaseRefused { credential_id, detail }))
            }
            Done::Recorded(number) => {
                self.outbox.settle(number);
                Ok(())
            }
            Done::Unrecorded => Err(unknown()),
        }
    }

    fn opened(&mut self, id: RequestId, opening: Opening) -> Result<(), Status> {
        let gone = self.opening.remove(&id).unwrap_or_default();
        match opening {
            Opening::Opened { .. } if gone => {
                // It was cancelled before it was open: what was opened is let go of again.
                self.record(
                    0,
                    Command::Detach {
                        request_id: id,
                        reason: "it was cancelled while it was opened".into(),
                    },
                );
                Ok(())
            }
            _ if gone => Ok(()),
            Opening::Opened { approval, expires_at } => {
                let approval_id =
                    approval.map(|id| Bytes::copy_from_slice(&id.0)).unwrap_or_default();
                self.waiting.insert(id, approval);
                self.outbox.send(Out::Opened(v1::Opened {
                    request_id: Bytes::copy_from_slice(&id),
                    approval_id,
                    expires_at_unix_ms: expires_at,
                }))?;
                match approval {
                    // What happened while it was opened was not heard for this request.
                    Some(approval) => self.look(approval),
                    None => {
                        self.claim(Claimant::Request(id), id);
                        Ok(())
                    }
                }
            }
            Opening::Reopen => self.reopen(id),
            Opening::Settled { approval, reason, detail } => {
                self.settle(id, approval, reason, &detail)
            }
            Opening::Unknown => Err(unknown()),
        }
    }

    fn released(
        &mut self,
        claimant: Claimant,
        id: RequestId,
        releasing: Releasing,
    ) -> Result<(), Status> {
        self.claiming.remove(&claimant);
        let approval = match claimant {
            Claimant::Approval(approval) => Some(approval),
            Claimant::Request(_) => None,
        };
        // It may have been cancelled meanwhile: then the edge says what became of the decision.
        let waited = self.waiting.contains(&id);
        match releasing {
            Releasing::Released(decision) => {
                self.waiting.remove(&id);
                self.outbox.send(Out::Decision(*decision))?;
            }
            Releasing::Reopen if waited => {
                self.waiting.remove(&id);
                self.reopen(id)?;
            }
            Releasing::Reopen => {}
            Releasing::Refused(refused) if waited => self.refused(id, approval, refused)?,
            Releasing::Refused(_) => {}
            Releasing::Failed => {
                self.waiting.remove(&id);
                self.settle(
                    id,
                    approval,
                    Reason::Unavailable,
                    "its key could not be opened or sealed",
                )?;
            }
            Releasing::Unknown => return Err(unknown()),
        }
        // The others that wait for the same approval: too late for them, or now it is their turn.
        approval.map_or(Ok(()), |approval| self.look(approval))
    }

    /// A refused claim: of this request alone, or of its approval, which `look` then tells.
    fn refused(
        &mut self,
        id: RequestId,
        approval: Option<ApprovalId>,
        refused: Refused,
    ) -> Result<(), Status> {
        let state =
            approval.and_then(|id| self.rooms.cluster.peek(|s| s.approval(id).map(|a| a.state)));
        let reason = match &refused {
            // The state of the approval says more than the refusal does.
            _ if state
                .is_some_and(|state| state.is_terminal() || state == ApprovalState::Pending) =>
            {
                return Ok(());
            }
            Refused::AlreadyUsed => Reason::AlreadyExecuted,
            Refused::Denied(_) => Reason::PolicyDenied,
            Refused::Expired(_) | Refused::NotFound(_) => Reason::Expired,
            Refused::Precondition(_) => Reason::Revoked,
            Refused::AlreadyExists(_) | Refused::Invalid(_) | Refused::PolicyChanged => {
                Reason::Invalid
            }
        };
        self.waiting.remove(&id);
        self.settle(id, approval, reason, &refused.to_string())
    }

    /// Asks for it again, judged by the newest bundle, which is sent before.
    fn reopen(&mut self, id: RequestId) -> Result<(), Status> {
        let current =
            self.rooms.cluster.peek(|state| state.policy().map_or(0, |policy| policy.version));
        if current != self.told {
            self.send_bundle()?;
        }
        self.outbox.send(Out::Reopen(v1::Reopen { request_id: Bytes::copy_from_slice(&id) }))
    }

    fn settle_all(
        &mut self,
        approval: ApprovalId,
        reason: Reason,
        detail: &str,
    ) -> Result<(), Status> {
        let all = self.waiting.remove_all(approval);
        all.into_iter().try_for_each(|id| self.settle(id, Some(approval), reason, detail))
    }

    fn settle(
        &mut self,
        id: RequestId,
        approval: Option<ApprovalId>,
        reason: Reason,
        detail: &str,
    ) -> Result<(), Status> {
        self.outbox.send(Out::Settled(v1::Settled {
            request_id: Bytes::copy_from_slice(&id),
            approval_id: approval.map(|id| Bytes::copy_from_slice(&id.0)).unwrap_or_default(),
            reason: reason.into(),
            detail: detail.to_owned(),
        }))
    }
}

/// What a run of events is about, as far as a session is concerned.
#[derive(Default)]
struct News {
    approvals: BTreeSet<ApprovalId>,
    agents: bool,
    bundle: bool,
    edges: bool,
    /// Something was missed, or could have changed any approval.
    everything: bool,
}

impl News {
    fn everything() -> Self {
        Self {
            approvals: BTreeSet::new(),
            agents: true,
            bundle: true,
            edges: true,
            everything: true,
        }
    }

    fn add(&mut self, event: &Event) {
        match event {
            Event::AgentChanged { .. } => {
                self.agents = true;
                self.bundle = true;
                self.everything = true;
            }
            Event::CredentialChanged { .. } | Event::PolicyChanged { .. } => self.bundle = true,
            Event::PrincipalChanged { .. } => self.everything = true,
            Event::EdgeChanged { .. } => {
                self.edges = true;
                self.everything = true;
            }
            Event::Opened { approval, .. }
            | Event::Claimed { approval, .. }
            | Event::Reported { approval, .. } => {
                self.approvals.extend(*approval);
            }
            Event::Voted { approval, .. } | Event::Settled { approval, .. } => {
                self.approvals.insert(*approval);
            }
            Event::Ticked { settled } => {
                self.approvals.extend(settled.iter().map(|(approval, _)| *approval))
            }
            Event::Began | Event::Detached { .. } | Event::Leased { .. } | Event::Noted => {}
        }
    }
}

/// An edge's place among the attached; given up when dropped, unless a newer session has it.
struct Place {
    rooms: Arc<Rooms>,
    edge: String,
    number: u64,
}

impl Place {
    fn take(
        rooms: &Arc<Rooms>,
        caller: &Caller,
        hello: &v1::EdgeHello,
        ended: CancellationToken,
    ) -> Self {
        let edge = caller.edge.id.clone();
        let connected = ConnectedEdge {
            id: edge.clone(),
            version: clipped(hello.version.clone()),
            incarnation: caller.incarnation,
        };
        let mut attached = rooms.attached();
        let number = attached.get(&edge).map_or(0, |former| former.number + 1);
        let former = attached.insert(edge.clone(), Attached { edge: connected, ended, number });
        drop(attached);
        if let Some(former) = former {
            former.ended.cancel();
        }
        Self { rooms: Arc::clone(rooms), edge, number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut attached = self.rooms.attached();
        if attached.get(&self.edge).is_some_and(|current| current.number == self.number) {
            attached.remove(&self.edge);
        }
    }
}

fn read_id(bytes: &Bytes) -> Result<RequestId, Status> {
    request_id(bytes).map_err(|invalid| Status::invalid_argument(invalid.0))
}

fn clipped(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST_DETAIL));
    text
}

/// Nothing may be told as if it were known; the next session finds out.
fn unknown() -> Status {
    Status::unavailable("the outcome of something is unknown: attach again")
}
