//! The session with the control plane. This file and those under it are the only ones that know proto: everything
//! else sees bundles, answers and leases.
//!
//! What is to be sent waits in the outbox, so that no request ever waits for the wire. A session that ends is
//! followed by another: what is held is announced again, and what was not acknowledged is sent again. Every message
//! is idempotent by its request id.

mod lease;
mod session;
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
use crate::config;
use crate::telemetry::Metrics;
use crate::unseal::{Incarnation, Sealed};

pub(crate) use lease::NotLeased;

/// The edge's end of the session.
pub(crate) struct Control {
    incarnation: Incarnation,
    /// SHA-256 of our certificate's SubjectPublicKeyInfo.
    edge_key: [u8; 32],
    in_force: watch::Sender<Option<Arc<InForce>>>,
    link: watch::Sender<Link>,
    trust: Mutex<Option<Arc<Trust>>>,
    held: Mutex<HashMap<RequestId, Entry>>,
    settled: Mutex<Settled>,
    leases: lease::Leases,
    outbox: Mutex<VecDeque<Out>>,
    outbox_filled: Notify,
    metrics: Arc<Metrics>,
}

pub(crate) type RequestId = [u8; 16];

/// What state the session is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Attached,
    Down,
    /// The control plane answers, but its vault is sealed.
    Sealed,
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
    Expired,
    Invalid,
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

/// A held request's line to the control plane. Dropped before it is finished, it says that the agent went away.
pub(crate) struct Opening {
    request_id: RequestId,
    answers: mpsc::Receiver<Box<Answer>>,
    control: Arc<Control>,
    fate: Option<Fate>,
}

/// What became of a held request at this edge. One that was dropped here was certainly not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Carried,
    Dropped,
}

/// A held request as it is announced, as often as sessions begin.
struct Entry {
    head: Arc<pb::OpenHead>,
    body: Bytes,
    answers: mpsc::Sender<Box<Answer>>,
}

/// What waits to be sent.
enum Out {
    Kept(Kept),
    Lease { credential_id: String, agent_id: String },
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
/// How many settled requests are remembered, to tell a late decision from a stray one.
const SETTLED: usize = 8_192;

impl Control {
    /// Starts the session, which goes on until `stop`.
    pub(crate) fn start(
        gateway: config::Gateway,
        identity: &config::Identity,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let dialler = session::Dialler::new(gateway, identity)?;
        let control = Arc::new(Self {
            incarnation: Incarnation::new(),
            edge_key: identity.key_digest()?,
            in_force: watch::Sender::new(None),
            link: watch::Sender::new(Link::Down),
            trust: Mutex::default(),
            held: Mutex::default(),
            settled: Mutex::default(),
            leases: lease::Leases::default(),
            outbox: Mutex::default(),
            outbox_filled: Notify::new(),
            metrics,
        });
        tokio::spawn(session::keep_attached(Arc::clone(&control), dialler, stop));
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

    pub(crate) fn link(&self) -> Link {
        *self.link.borrow()
    }

    pub(crate) fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    pub(crate) fn edge_key(&self) -> [u8; 32] {
        self.edge_key
    }

    /// Whose signatures count right now.
    pub(crate) fn trust(&self) -> Option<Arc<Trust>> {
        lock(&self.trust).clone()
    }

    /// Waits for the session, for as long as a new request may: a second.
    ///
    /// # Errors
    /// The state that it is in instead.
    pub(crate) async fn attached(&self) -> Result<(), Link> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let mut link = self.link.subscribe();
        let waiting = link.wait_for(|link| *link != Link::Down);
        let link = match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Ok(link)) => *link,
            Ok(Err(_)) | Err(_) => Link::Down,
        };
        if link == Link::Attached { Ok(()) } else { Err(link) }
    }

    /// Announces a held request.
    pub(crate) fn open(self: &Arc<Self>, held: &Held, why: &Why) -> Opening {
        let request_id = held.ticket().circumstances.request_id;
        let answers = self.announce(held, why);
        Opening { request_id, answers, control: Arc::clone(self), fate: None }
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

impl Opening {
    /// The next thing said of it.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        self.answers.recv().await.map(|answer| *answer)
    }

    /// Announces the same request anew, judged by a newer policy.
    pub(crate) fn again(&mut self, held: &Held, why: &Why) {
        self.answers = self.control.announce(held, why);
    }

    /// A decision released it: it is being carried out.
    pub(crate) fn carried(mut self) {
        self.fate = Some(Fate::Carried);
    }

    /// The control plane said no, and needs no telling.
    pub(crate) fn refused(mut self) {
        self.fate = Some(Fate::Dropped);
    }

    /// This edge gives up waiting.
    pub(crate) fn given_up(self, reason: &str) {
        self.control.cancel(self.request_id, reason);
        self.refused();
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        lock(&self.control.held).remove(&self.request_id);
        let fate = self.fate.unwrap_or(Fate::Dropped);
        lock(&self.control.settled).remember(self.request_id, fate);
        if self.fate.is_none() {
            self.control.cancel(self.request_id, "the agent went away");
        }
    }
}

impl Control {
    fn cancel(&self, request_id: RequestId, reason: &str) {
        let message = pb::HeldCancelled {
            request_id: Bytes::copy_from_slice(&request_id),
            reason: reason.to_owned(),
        };
        self.push(Out::Kept(Kept::Cancelled(message)));
        // While nobody listens it may have been claimed, and its decision lost on the way. Said of a request that
        // was not claimed, this changes nothing.
        if self.link() != Link::Attached {
            self.receipt(request_id, None, Receipt::NotSent, &Bytes::new());
        }
    }

    /// A decision that nobody waits for any more. If this edge dropped its request, nothing was sent, and saying so
    /// frees the approval; if it was carried out, its receipt says so already.
    fn orphan(&self, request_id: RequestId, approval_id: Option<[u8; 16]>) {
        let fate = lock(&self.settled).fate(&request_id);
        self.metrics.decisions_ignored.with_label_values(&["orphan"]).inc();
        match fate {
            Some(Fate::Carried) => {}
            Some(Fate::Dropped) => {
                self.receipt(request_id, approval_id, Receipt::NotSent, &Bytes::new())
            }
            None => self.alarm(Alarm {
                kind: "orphan_decision",
                agent_id: String::new(),
                credential_id: String::new(),
                host: String::new(),
                detail: format!(
                    "a decision about request {}, which this edge never held",
                    hex::encode(request_id)
                ),
            }),
        }
    }
}

/// The last requests that were settled here, oldest first.
#[derive(Default)]
struct Settled {
    fates: HashMap<RequestId, Fate>,
    order: VecDeque<RequestId>,
}

impl Settled {
    fn remember(&mut self, request_id: RequestId, fate: Fate) {
        if self.fates.insert(request_id, fate).is_none() {
            self.order.push_back(request_id);
        }
        while self.order.len() > SETTLED {
            if let Some(oldest) = self.order.pop_front() {
                self.fates.remove(&oldest);
            }
        }
    }

    fn fate(&self, request_id: &RequestId) -> Option<Fate> {
        self.fates.get(request_id).copied()
    }
}

/// A poisoned lock guards plain data that every writer leaves whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
