//! An attached edge: what it says is taken in here, in order, and what was committed is told it.
//!
//! Everything that takes time (opening, claiming, lending, reporting) runs beside the session and comes back to it as
//! [`Done`]; the session itself never waits for a commit. It keeps a few words for each waiting request and nothing
//! that the state does not know better: whatever a session forgets, the next one finds again.

mod asking;
mod inbox;
mod releasing;
mod told;

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

use super::news::News;
use super::outbox::Outbox;
use super::{Place, unknown};
use crate::cluster::Committed;
use crate::intake::announced::{Caller, request_id};
use crate::intake::lease::NotLent;
use crate::intake::open::Opening;
use crate::intake::release::{Recipient, Releasing};
use crate::intake::spool::Spools;
use crate::intake::waiting::{RequestId, Waiting};
use crate::intake::{Rooms, identity};
use crate::sign::SignedBundle;
use crate::state::{ApprovalId, Command, Event, Position};
use asking::{Ask, Asks};
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
    /// To be asked for again once the newest bundle is sent.
    reopening: Vec<RequestId>,
    /// Releases that came to nothing yet, and when they are tried again.
    again: Vec<Again>,
    again_at: Instant,
    heard: Instant,
    alarms: Allowance,
    /// What became of requests, on its way into the log.
    reports: Vec<CancellationToken>,
    /// Agents that wait to hear of their approvals.
    asks: Asks,
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
    Lent(String, Result<v1::Lease, NotLent>),
    /// None: the state cannot be read now.
    LookedUp(Ask, Option<Vec<v1::AgentApproval>>),
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
            reports: Vec::new(),
            asks: Asks::default(),
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
                    changed.map_err(|_| Status::unavailable("sealed or going down: attach again"))?;
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
                () = sleep_until(self.asks.next()), if !self.asks.is_empty() => self.tell_patient_askers()?,
                _ = ping.tick() => self.ping()?,
            }
        }
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
        if news.edge_ca {
            self.send_renewal()?;
        }
        if news.nodes {
            self.send_nodes()?;
        }
        if news.agents {
            self.dismiss_revoked()?;
        }
        self.tell_askers(news.approvals.iter().copied(), news.everything)?;
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

    fn take_back(&mut self, done: Done) -> Result<(), Status> {
        match done {
            Done::Opened(id, opening) => self.opened(id, opening),
            Done::Released(claimant, id, releasing) => self.released(claimant, id, releasing),
            Done::Lent(_, Ok(lease)) => self.tell(Out::Lease(lease)),
            Done::Lent(credential_id, Err(NotLent { detail, for_now })) => {
                self.tell(Out::LeaseRefused(v1::LeaseRefused { credential_id, detail, for_now }))
            }
            Done::LookedUp(ask, found) => self.looked_up(ask, found),
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
            Opening::Opened { approval, expires_at, unsigned } => {
                let approval_id =
                    approval.map(|id| Bytes::copy_from_slice(&id.0)).unwrap_or_default();
                self.waiting.insert(id, approval);
                if unsigned.is_some_and(|unsigned| !self.waiting.keep(id, unsigned)) {
                    self.waiting.remove(&id);
                    let why = "too many requests of this edge wait to be signed".to_owned();
                    self.record(0, Command::Detach { request_id: id, reason: why.clone() });
                    return self.settle(id, approval, Reason::Overloaded, &why);
                }
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
}
