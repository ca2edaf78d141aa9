//! An attached edge: what it says is taken in here, in order, and what was committed is told it.
//!
//! Everything that takes time (opening, claiming, lending, reporting) runs beside the session and comes back to it as
//! [`Done`]; the session itself never waits for a commit. It keeps a few words for each waiting request and nothing
//! that the state does not know better: whatever a session forgets, the next one finds again.

mod inbox;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_proto::v1;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Instrument as _;

use super::news::News;
use super::outbox::Outbox;
use super::{Place, unknown};
use crate::cluster::Committed;
use crate::intake::announced::{Caller, request_id};
use crate::intake::open::Opening;
use crate::intake::release::{Recipient, Releasing, decide, release};
use crate::intake::spool::Spools;
use crate::intake::waiting::{RequestId, Waiting};
use crate::intake::{Rooms, identity};
use crate::sign::SignedBundle;
use crate::state::{ApprovalId, ApprovalState, Claim, Command, Event, Position, Refused, State};
use crate::telemetry;
use inbox::Allowance;
use v1::SettledReason as Reason;
use v1::attach_response::Message as Out;

/// A session after its Hello.
pub(super) struct Session {
    rooms: Arc<Rooms>,
    place: Place,
    /// Where it was committed that this process is attached: whatever attaches it later ends this session.
    since: Position,
    recipient: Arc<Recipient>,
    outbox: Outbox,
    newest: watch::Receiver<Option<Arc<SignedBundle>>>,
    /// Number of the message and revision of each bundle that the edge has not acknowledged.
    bundles: VecDeque<(u64, u64)>,
    events: broadcast::Receiver<Arc<Committed<Event>>>,
    spools: Spools,
    /// Being opened; true when it was cancelled meanwhile.
    opening: BTreeMap<RequestId, bool>,
    waiting: Waiting,
    /// Approvals, and requests without one, for which a claim is under way.
    claiming: HashSet<Claimant>,
    /// Decisions that the edge has carried out or refused already, by what it said in Hello.
    settled: HashSet<RequestId>,
    /// Revision of the bundle that was sent last.
    told: u64,
    /// Epoch of the trust bundle that was sent last.
    trusting: u64,
    /// To be asked for again once a bundle of this revision is sent.
    reopening: Vec<(RequestId, u64)>,
    /// Releases that came to nothing yet, and when they are tried again.
    again: Vec<Again>,
    again_at: Instant,
    heard: Instant,
    alarms: Allowance,
    work: JoinSet<Done>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Claimant {
    Approval(ApprovalId),
    Request(RequestId),
}

/// A release that is tried again: from the claim on, or from the signatures on.
enum Again {
    Claim(Claimant, RequestId),
    Sign(Claimant, RequestId, Box<Committed<Event>>),
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

const PING: Duration = Duration::from_secs(15);
/// An edge that answers no ping for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// So much work beside the session; then it reads no further until some is done.
const AT_ONCE: usize = 512;
/// Before a release is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// As many settled requests as a Hello is believed about.
const SETTLED: usize = 16_384;

impl Session {
    pub(super) fn new(
        place: Place,
        since: Position,
        recipient: Recipient,
        hello: &v1::EdgeHello,
        outbox: Outbox,
        events: broadcast::Receiver<Arc<Committed<Event>>>,
    ) -> Self {
        let settled = hello.settled_request_ids.iter().take(SETTLED);
        Self {
            newest: place.rooms.signer.bundles(),
            rooms: Arc::clone(&place.rooms),
            place,
            since,
            recipient: Arc::new(recipient),
            outbox,
            bundles: VecDeque::new(),
            events,
            spools: Spools::default(),
            opening: BTreeMap::new(),
            waiting: Waiting::default(),
            claiming: HashSet::new(),
            settled: settled.filter_map(|id| request_id(id).ok()).collect(),
            told: 0,
            trusting: 0,
            reopening: Vec::new(),
            again: Vec::new(),
            again_at: Instant::now(),
            heard: Instant::now(),
            alarms: Allowance::alarms(),
            work: JoinSet::new(),
        }
    }

    /// Serves until either side ends it.
    pub(super) async fn serve(
        mut self,
        bundle: &SignedBundle,
        incoming: &mut Streaming<v1::AttachRequest>,
        ended: &CancellationToken,
    ) -> Result<Infallible, Status> {
        self.greet(bundle)?;
        let mut ping = interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        let sender = self.outbox.sender();
        loop {
            tokio::select! {
                () = ended.cancelled() => return Err(Status::aborted("a newer session of this edge replaced this one")),
                () = sender.closed() => return Err(Status::cancelled("the edge is gone")),
                event = self.events.recv() => self.hear(event)?,
                changed = self.newest.changed() => {
                    changed.map_err(|_| Status::unavailable("going down: attach again"))?;
                    self.send_newest()?;
                }
                Some(done) = self.work.join_next() => {
                    self.take_back(done.map_err(|_| Status::internal("work for this session failed"))?)?;
                }
                message = incoming.message(), if self.work.len() < AT_ONCE => {
                    let message = message?.ok_or_else(|| Status::cancelled("the edge ended the session"))?;
                    self.take_in(message)?;
                }
                () = sleep_until(self.again_at), if !self.again.is_empty() => self.try_again(),
                _ = ping.tick() => self.ping()?,
            }
        }
    }

    fn greet(&mut self, bundle: &SignedBundle) -> Result<(), Status> {
        let signer = &self.rooms.signer;
        let (epoch, trust_bundle) = signer.trust_bundle().ok_or_else(unknown)?;
        let gateway_addresses = self.rooms.cluster.peek(|state| {
            let nodes = state.nodes().filter(|node| !node.removed);
            let addresses = nodes.map(|node| node.addresses.gateway.clone());
            addresses.filter(|address| !address.is_empty()).collect()
        });
        let ack = v1::HelloAck {
            cluster_id: signer.cluster_id().to_owned(),
            org_id: signer.org_id().to_owned(),
            edge_id: self.recipient.caller.edge.id.clone(),
            trust_bundle: Some(trust_bundle),
            gateway_addresses,
        };
        self.trusting = epoch;
        self.tell(Out::HelloAck(ack))?;
        self.send_bundle(bundle)
    }

    fn send_newest(&mut self) -> Result<(), Status> {
        let newest = self.newest.borrow_and_update().clone();
        newest.map_or(Ok(()), |newest| self.send_bundle(&newest))
    }

    /// A bundle that was only signed anew, because others are trusted now, is in force already.
    fn send_bundle(&mut self, bundle: &SignedBundle) -> Result<(), Status> {
        if bundle.revision <= self.told {
            return Ok(());
        }
        self.send_trust()?;
        let envelope = Some(bundle.envelope.clone());
        let number = self.outbox.send(Out::Bundle(v1::EdgeBundle { envelope }))?;
        self.told = bundle.revision;
        self.bundles.push_back((number, bundle.revision));
        let (now, later) =
            self.reopening.drain(..).partition(|(_, revision)| *revision <= bundle.revision);
        self.reopening = later;
        let now: Vec<_> = now;
        now.into_iter().try_for_each(|(id, _)| self.reopen(id))
    }

    /// Before anything that only a newer trust bundle makes count.
    fn send_trust(&mut self) -> Result<(), Status> {
        let Some((epoch, envelope)) = self.rooms.signer.trust_bundle() else { return Ok(()) };
        if epoch <= self.trusting {
            return Ok(());
        }
        self.trusting = epoch;
        self.tell(Out::TrustBundle(envelope))
    }

    fn tell(&mut self, message: Out) -> Result<(), Status> {
        self.outbox.send(message).map(|_| ())
    }

    fn ping(&mut self) -> Result<(), Status> {
        if self.heard.elapsed() > SILENCE {
            return Err(Status::deadline_exceeded("the edge has not said a word for a minute"));
        }
        self.tell(Out::Ping(v1::Ping { log_time_unix_ms: self.rooms.cluster.log_time() }))
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
        let changed = news.edges.get(&self.recipient.caller.edge.id).copied();
        if news.missed || changed.is_some_and(|at| at > self.since) {
            self.check_place()?;
        }
        if changed.is_some_and(|at| at > self.since) {
            return Err(Status::aborted("a newer session of this edge replaced this one"));
        }
        if news.trust {
            self.send_trust()?;
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
            self.tell(Out::Evicted(v1::Evicted { reason: why.to_owned() }))?;
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
        claim: &Claim,
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
        if self.claiming.insert(claimant) {
            self.release(Again::Claim(claimant, id));
        }
    }

    fn release(&mut self, release_this: Again) {
        let (Again::Claim(claimant, id) | Again::Sign(claimant, id, _)) = release_this;
        let (rooms, recipient) = (Arc::clone(&self.rooms), Arc::clone(&self.recipient));
        let span = tracing::info_span!("intake.release", request = %hex::encode(id));
        let span = match claimant {
            Claimant::Approval(approval) => telemetry::in_trace(
                span,
                &rooms.cluster.peek(|state| {
                    state
                        .approval(approval)
                        .map(|approval| approval.traceparent.clone())
                        .unwrap_or_default()
                }),
            ),
            Claimant::Request(_) => span,
        };
        let releasing = async move {
            let came_of_it = match release_this {
                Again::Claim(..) => release(&rooms, &recipient, id).await,
                Again::Sign(_, _, claimed) => decide(&rooms, &recipient, *claimed).await,
            };
            Done::Released(claimant, id, came_of_it)
        };
        self.work.spawn(releasing.instrument(span));
    }

    fn later(&mut self, again: Again) {
        if self.again.is_empty() {
            self.again_at = Instant::now() + PAUSE;
        }
        self.again.push(again);
    }

    fn try_again(&mut self) {
        for again in std::mem::take(&mut self.again) {
            self.release(again);
        }
    }

    // What came of it.

    fn take_back(&mut self, done: Done) -> Result<(), Status> {
        match done {
            Done::Opened(id, opening) => self.opened(id, opening),
            Done::Released(claimant, id, releasing) => self.released(claimant, id, releasing),
            Done::Lent(_, Ok(lease)) => self.tell(Out::Lease(lease)),
            Done::Lent(credential_id, Err(detail)) => {
                self.tell(Out::LeaseRefused(v1::LeaseRefused { credential_id, detail }))
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
                self.tell(Out::Opened(v1::Opened {
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
        // It may have been cancelled meanwhile: then the edge says what became of the decision.
        let waited = self.waiting.contains(&id);
        match &releasing {
            Releasing::Unsigned(claimed) => {
                self.later(Again::Sign(claimant, id, claimed.clone()));
                return Ok(());
            }
            Releasing::Unknown if waited => {
                self.later(Again::Claim(claimant, id));
                return Ok(());
            }
            _ => {}
        }
        self.claiming.remove(&claimant);
        let approval = match claimant {
            Claimant::Approval(approval) => Some(approval),
            Claimant::Request(_) => None,
        };
        match releasing {
            Releasing::Released(decision) => {
                self.waiting.remove(&id);
                self.send_trust()?;
                self.tell(Out::Decision(*decision))?;
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
            Releasing::Unknown | Releasing::Unsigned(_) => {}
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
        let found = approval.and_then(|approval| {
            self.rooms.cluster.peek(|state| {
                let approval = state.approval(approval)?;
                let own = approval.claim.as_ref().is_some_and(|claim| claim.request_id == id);
                Some((approval.state, own))
            })
        });
        let reason = match (found, &refused) {
            // Released to this very request, and too late to release it again: to look again would find the same.
            (Some((ApprovalState::Released, true)), _) => Reason::OutcomeUnknown,
            // The state of the approval says more than the refusal does.
            (Some((state, _)), _) if state.is_terminal() || state == ApprovalState::Pending => {
                return Ok(());
            }
            (_, Refused::AlreadyUsed) => Reason::AlreadyExecuted,
            (_, Refused::Denied(_)) => Reason::PolicyDenied,
            (_, Refused::Expired(_) | Refused::NotFound(_)) => Reason::Expired,
            (_, Refused::Precondition(_)) => Reason::Revoked,
            (_, Refused::AlreadyExists(_) | Refused::Invalid(_) | Refused::PolicyChanged) => {
                Reason::Invalid
            }
        };
        self.waiting.remove(&id);
        self.settle(id, approval, reason, &refused.to_string())
    }

    /// Asks for it again, judged by the newest bundle, which is sent before.
    fn reopen(&mut self, id: RequestId) -> Result<(), Status> {
        let newest = self.rooms.cluster.peek(State::bundle_revision);
        if newest > self.told {
            self.reopening.push((id, newest));
            return Ok(());
        }
        self.tell(Out::Reopen(v1::Reopen { request_id: Bytes::copy_from_slice(&id) }))
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
        self.tell(Out::Settled(v1::Settled {
            request_id: Bytes::copy_from_slice(&id),
            approval_id: approval.map(|id| Bytes::copy_from_slice(&id.0)).unwrap_or_default(),
            reason: reason.into(),
            detail: detail.to_owned(),
        }))
    }
}
