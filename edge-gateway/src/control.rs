//! The session with the control plane. This file and those under it are the only ones that know proto: everything
//! else sees bundles, answers and leases.
//!
//! What is to be sent waits in the outbox, so that no request ever waits for the wire. A session that ends is
//! followed by another: what is held is announced again, and what was not acknowledged is sent again. Every message
//! is idempotent by its request id.

mod asking;
mod attaching;
mod authorities;
mod freshness;
mod lease;
mod nodes;
mod opening;
mod renewal;
mod session;
mod unanswered;
mod verified;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use countersign_gate::{Held, Signed, Trust};
use countersign_proto::v1 as pb;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bundle::InForce;
use crate::clock::Clock;
use crate::config;
use crate::identity::Passport;
use crate::telemetry::Metrics;
use crate::unseal::{Incarnation, Sealed};

pub(crate) use asking::{Approval, Standing};
pub(crate) use lease::NotLeased;
pub(crate) use opening::Opening;

/// The edge's end of the session.
pub(crate) struct Control {
    incarnation: Incarnation,
    passport: Passport,
    authorities: authorities::Authorities,
    /// The control plane wants the certificate renewed now.
    renewal_asked: watch::Sender<bool>,
    /// Where the session's node said that all of them are now.
    named: Mutex<Vec<String>>,
    clock: Clock,
    in_force: watch::Sender<Option<Arc<InForce>>>,
    link: watch::Sender<Link>,
    verified: verified::Verified,
    freshness: freshness::Freshness,
    passes_when_away: bool,
    held: Mutex<HashMap<RequestId, Entry>>,
    settled: Mutex<opening::Settled>,
    leases: lease::Leases,
    asks: asking::Asks,
    outbox: Mutex<VecDeque<Out>>,
    outbox_filled: Notify,
    metrics: Arc<Metrics>,
}

pub(crate) type RequestId = [u8; 16];

/// What state the session is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Attached,
    Down,
    /// A node said so.
    Evicted,
    /// Every node that answers says that its vault is sealed.
    Sealed,
}

/// Why the control plane cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    /// It can be, but our clock and its own are too far apart.
    ClockOff,
    Evicted,
    Sealed,
    Unreachable,
}

/// What the control plane says of a held request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It waits. None: the policy allows it, nobody is asked.
    Opened { approval_id: Option<String> },
    /// The policy changed: judge it again by the newest bundle.
    Reopen,
    /// No, unsigned: it needs no authority.
    Settled { reason: Reason, approval_id: Option<String>, detail: String },
    /// A decision, not checked yet, and the keys that came with it.
    Signed { signed: Signed, sealed: Vec<Sealed> },
}

/// Kinds of an unsigned no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    AlreadyExecuted,
    Cancelled,
    Denied,
    Evicted,
    Expired,
    Invalid,
    /// Its key is a token, and none could be had.
    NoToken,
    OutcomeUnknown,
    Overloaded,
    PolicyDenied,
    Revoked,
    Unavailable,
}

/// Why a request is held.
#[derive(Clone, Debug)]
pub(crate) struct Why {
    /// The rule that decided.
    pub(crate) rule: String,
    /// The policy allows it, and only the key is wanted: nobody is asked.
    pub(crate) allowed: bool,
    /// W3C trace context of the agent's request.
    pub(crate) traceparent: String,
}

/// How a released request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    Completed { status: u16 },
    NotSent,
    Unknown,
}

/// Something that a person should look at.
#[derive(Clone, Debug)]
pub(crate) struct Alarm {
    pub(crate) kind: &'static str,
    pub(crate) agent_id: String,
    pub(crate) credential_id: String,
    pub(crate) host: String,
    pub(crate) detail: String,
}

impl Alarm {
    /// One that is about no agent.
    fn of_the_edge(kind: &'static str, detail: String) -> Self {
        let nobody = String::new;
        Self { kind, agent_id: nobody(), credential_id: nobody(), host: nobody(), detail }
    }
}

/// A held request as it is announced, as often as sessions begin.
struct Entry {
    head: Arc<pb::OpenHead>,
    body: Bytes,
    answers: mpsc::Sender<Box<Answer>>,
}

/// What waits to be sent.
enum Out {
    /// A question of an agent, by its id.
    Ask(u64),
    Kept(Kept),
    Lease {
        credential_id: String,
        agent_id: String,
    },
    Open(RequestId),
    Pong,
}

/// What is sent again until it is acknowledged.
#[derive(Clone)]
enum Kept {
    Alarm(pb::Alarm),
    Cancelled(pb::HeldCancelled),
    Receipt(pb::ExecutionReceipt),
}

/// The outbox never grows beyond this: opens and receipts are bounded by the seats, alarms are not.
const OUTBOX: usize = 100_000;
/// Answers that one held request may have waiting.
const ANSWERS: usize = 16;

impl Control {
    /// Starts the session, which goes on until `stop`.
    ///
    /// # Errors
    /// A certificate that cannot be read or has ended, and an address that cannot be dialled.
    pub(crate) fn start(
        gateway: config::Gateway,
        identity: config::Identity,
        clock: Clock,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let passport = Passport::new(identity, clock.wall_ms())?;
        let until = i64::try_from(passport.until_ms() / 1_000).unwrap_or(i64::MAX);
        metrics.certificate_until.set(until);
        let control = Arc::new(Self {
            incarnation: Incarnation::new(),
            passport,
            authorities: authorities::Authorities::new(
                gateway.ca_pem.clone(),
                gateway.ca_file.clone(),
            ),
            renewal_asked: watch::Sender::new(false),
            named: Mutex::default(),
            clock: clock.clone(),
            in_force: watch::Sender::new(None),
            link: watch::Sender::new(Link::Down),
            verified: verified::Verified::new(gateway.root_key),
            freshness: freshness::Freshness::new(clock),
            passes_when_away: gateway.passthrough_when_disconnected,
            held: Mutex::default(),
            settled: Mutex::default(),
            leases: lease::Leases::default(),
            asks: asking::Asks::default(),
            outbox: Mutex::default(),
            outbox_filled: Notify::new(),
            metrics,
        });
        control.metrics.add(lease::Remaining::new(&control)?)?;
        let (dialler, nodes) = attaching::Dialler::new(gateway, &control)?;
        tokio::spawn(attaching::keep_attached(Arc::clone(&control), dialler, nodes, stop));
        Ok(control)
    }

    /// The bundle in force; none before the first verified one, and none after an eviction.
    pub(crate) fn in_force(&self) -> Option<Arc<InForce>> {
        self.in_force.borrow().clone()
    }

    /// Changes of the bundle in force.
    pub(crate) fn bundles(&self) -> watch::Receiver<Option<Arc<InForce>>> {
        self.in_force.subscribe()
    }

    fn link(&self) -> Link {
        *self.link.borrow()
    }

    /// Why it cannot be asked, if so.
    pub(crate) fn away(&self) -> Option<Away> {
        match self.link() {
            Link::Attached if self.freshness.clock_off() => Some(Away::ClockOff),
            Link::Attached if self.freshness.in_contact() && self.freshness.bundle_counts() => None,
            Link::Attached | Link::Down => Some(Away::Unreachable),
            Link::Evicted => Some(Away::Evicted),
            Link::Sealed => Some(Away::Sealed),
        }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    pub(crate) fn edge_key(&self) -> [u8; 32] {
        self.passport.key_digest()
    }

    /// Whose signatures count right now.
    pub(crate) fn trust(&self) -> Option<Arc<Trust>> {
        self.verified.trust()
    }

    /// Changes of whose signatures count.
    pub(crate) fn changes_of_trust(&self) -> watch::Receiver<Option<Arc<Trust>>> {
        self.verified.changes_of_trust()
    }

    /// A decision verified.
    pub(crate) fn saw_decision(&self, payload: &[u8]) {
        self.verified.decision(payload);
    }

    /// Waits until people can be asked, for as long as a new request may: a second.
    ///
    /// # Errors
    /// Why they cannot be.
    pub(crate) async fn attached(&self) -> Result<(), Away> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let mut link = self.link.subscribe();
        // Whether in time or not, what is the case then is what counts.
        let _ = tokio::time::timeout(PATIENCE, link.wait_for(|link| *link != Link::Down)).await;
        self.away().map_or(Ok(()), Err)
    }

    /// Whether a request that the policy allows, and that wants no key, may go on.
    ///
    /// # Errors
    /// Why not: the control plane is away, and the edge is told to wait for it even so.
    pub(crate) async fn lets_through(&self) -> Result<(), Away> {
        if self.passes_when_away || self.link() == Link::Attached {
            return Ok(());
        }
        match self.attached().await {
            Err(Away::ClockOff) | Ok(()) => Ok(()),
            Err(away) => Err(away),
        }
    }

    /// Announces a held request.
    pub(crate) fn open(self: &Arc<Self>, held: &Held, why: &Why) -> Opening {
        let request_id = held.ticket().circumstances.request_id;
        let answers = self.announce(held, why);
        Opening::new(request_id, answers, Arc::clone(self))
    }

    /// Says how a released request ended.
    pub(crate) fn receipt(
        &self,
        request_id: RequestId,
        approval_id: Option<[u8; 16]>,
        receipt: Receipt,
        body: &Bytes,
    ) {
        self.push(Out::Kept(Kept::Receipt(wire::receipt(request_id, approval_id, receipt, body))));
    }

    /// Raises an alarm.
    pub(crate) fn alarm(&self, alarm: Alarm) {
        self.metrics.alarms.with_label_values(&[alarm.kind]).inc();
        tracing::warn!(
            kind = alarm.kind,
            agent = alarm.agent_id,
            host = alarm.host,
            detail = alarm.detail,
            "alarm"
        );
        self.push(Out::Kept(Kept::Alarm(wire::alarm(alarm))));
    }

    /// Returns once everything was handed to the wire, or the session is down.
    pub(crate) async fn flushed(&self) {
        while self.link() == Link::Attached && !lock(&self.outbox).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // What was handed over still has to leave this machine.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    fn announce(&self, held: &Held, why: &Why) -> mpsc::Receiver<Box<Answer>> {
        let request_id = held.ticket().circumstances.request_id;
        let (sender, answers) = mpsc::channel(ANSWERS);
        let (head, body) = wire::open(held, why);
        lock(&self.held).insert(request_id, Entry { head: Arc::new(head), body, answers: sender });
        self.push(Out::Open(request_id));
        answers
    }

    fn push(&self, out: Out) {
        let mut outbox = lock(&self.outbox);
        if outbox.len() >= OUTBOX {
            outbox.pop_front();
            self.metrics.outbox_dropped.inc();
        }
        outbox.push_back(out);
        drop(outbox);
        self.outbox_filled.notify_one();
    }
}

/// A poisoned lock guards plain data that every writer leaves whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
