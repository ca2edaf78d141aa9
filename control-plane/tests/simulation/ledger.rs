//! What everyone in a simulation writes down, for the oracle to read at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use countersign_control_plane::cluster::{Chain, Cluster};
use countersign_control_plane::state::{ApprovalId, State, VoteWord};
use countersign_gate::Outbound;

use crate::edge;
use crate::history::{Journal, Op, Operation, Told};
use crate::world::STRIPE_KEY;

pub(crate) type RequestId = [u8; 16];

/// One request as it arrived upstream.
pub(crate) struct Execution {
    pub(crate) request: RequestId,
    pub(crate) approval: ApprovalId,
    /// Made again from what arrived.
    pub(crate) intent: [u8; 32],
    pub(crate) amount: u32,
    /// By its id.
    pub(crate) edge: String,
}

/// A vote that was acknowledged.
pub(crate) struct Vote {
    pub(crate) approval: ApprovalId,
    pub(crate) principal: &'static str,
    pub(crate) word: VoteWord,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) journal: Journal,
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) executions: Vec<Execution>,
    pub(crate) votes: Vec<Vote>,
    /// When each request was first announced, and what for.
    pub(crate) announced: BTreeMap<RequestId, Instant>,
    /// In the order in which edges heard of them.
    pub(crate) approvals: Vec<ApprovalId>,
    known: BTreeSet<ApprovalId>,
    /// The chain at each applied entry, whoever applied it.
    chains: BTreeMap<u64, Chain>,
    pub(crate) violations: BTreeSet<String>,
    /// Whether every approval is wanted now.
    pub(crate) everyone_agrees: bool,
}

impl Ledger {
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn violated(&self, what: impl Into<String>) {
        self.inner().violations.insert(what.into());
    }

    pub(crate) fn announce(&self, request: RequestId) {
        self.inner().announced.entry(request).or_insert_with(Instant::now);
    }

    pub(crate) fn opened(&self, approval: ApprovalId) {
        let mut inner = self.inner();
        if inner.known.insert(approval) {
            inner.approvals.push(approval);
        }
    }

    /// The upstream: takes what is sent to it, and knows nothing else.
    pub(crate) fn arrived(&self, process: &edge::Process, outbound: Outbound) {
        let (approval, request) = (outbound.approval_id().copied(), outbound.request_id().copied());
        let sent = outbound.into_parts();
        let key = [b"Bearer ", STRIPE_KEY].concat();
        if sent.headers.get("authorization").is_none_or(|value| value.as_bytes() != key) {
            self.violated("I1: a request arrived with another key than the one that was released");
        }
        let countersign_gate::Payload::Whole(body) = sent.payload else { return };
        let digits: String =
            String::from_utf8_lossy(&body).chars().filter(char::is_ascii_digit).collect();
        let amount = digits.parse().unwrap_or_default();
        // Another incarnation's hold of the same bytes: the intent is of the bytes alone.
        let again = process.hold(edge::refund(amount), edge::approve("refunds"), 0);
        let (Some(approval), Some(request)) = (approval.map(ApprovalId), request) else {
            return self.violated("I1: a request arrived that no approval released");
        };
        let intent = again.ticket().intent_digest;
        let mut inner = self.inner();
        inner.executions.push(Execution {
            request,
            approval,
            intent,
            amount,
            edge: process.enrolled.id.clone(),
        });
        let announced = inner.announced.get(&request).copied().unwrap_or_else(Instant::now);
        drop(inner);
        self.journal.add(Operation {
            approval: approval.to_string(),
            op: Op::Claim(hex::encode(request)),
            at: process.enrolled.id.clone(),
            invoked: announced,
            returned: Some((Instant::now(), Told::Accepted)),
        });
    }

    /// Two nodes that applied as much have the same history, and so has one node at two times; what a node stamps next
    /// is not earlier than what it stamped; and none that kept what it acknowledged is told that it did not.
    pub(crate) fn watch(&self, name: &str, cluster: &Cluster) {
        let (index, chain) = (cluster.applied_index(), cluster.chain());
        if index == 0 {
            return;
        }
        let mut inner = self.inner();
        if *inner.chains.entry(index).or_insert(chain) != chain {
            inner
                .violations
                .insert(format!("I10: {name} has another history up to entry {index} than others"));
        }
        drop(inner);
        if cluster.log_time() < cluster.peek(State::log_time) {
            self.violated(format!("I14: {name} would stamp an earlier time than what it applied"));
        }
        if let Some(why) = cluster.rolled_back() {
            self.violated(format!("I3: {name} came back with less than it acknowledged: {why}"));
        }
    }
}

impl Inner {
    /// How many entries nodes were compared at.
    pub(crate) fn compared(&self) -> usize {
        self.chains.len()
    }
}
