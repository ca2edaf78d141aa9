//! The fourteen invariants, checked after the fact over everything that was observed.
//!
//! Ground truth is what the upstream received, what people tapped and were told, and the audit logs that the nodes
//! export; never what the product counts about itself. Each check is a function of [`Evidence`] alone, so that a
//! violated history can be written down and must be found.

mod canary;
mod intent;
mod record;
mod releases;
mod service;

pub use canary::{forms, holds};
pub use record::{Record, parse_export};
pub use service::SETTLED_WITHIN;

use std::time::{Duration, Instant};

use crate::history::{self, Fault, Operation, Seen};

/// One request as the upstream got it.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub at: Instant,
    pub method: String,
    /// Path and query, as written.
    pub target: String,
    /// In hex, of the whole body.
    pub body_sha256: String,
    pub body_bytes: u64,
    /// What it was addressed to.
    pub host: String,
    /// Without those that belong to one connection, and without the one that the key was in.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Where the key was, if it was in a header.
    pub slot: Option<Slot>,
    /// Whether it carried a real key.
    pub keyed: bool,
    /// Whether the policy of the run demands an approval for it.
    pub risky: bool,
}

/// A header that a key was in, and what stood around the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub before: Vec<u8>,
    pub after: Vec<u8>,
}

/// An approval as one node shows it at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    pub id: String,
    pub state: Seen,
    /// What people were shown, in the shape of an [`Arrival`].
    pub method: String,
    pub target: String,
    pub body_sha256: String,
    pub intent_digest: String,
    /// Milliseconds since 1970, of the cluster's time.
    pub expires_at: u64,
    /// Released, and nobody has said what became of it.
    pub open_ended: bool,
}

impl Card {
    fn shows(&self, arrival: &Arrival) -> bool {
        (&self.method, &self.target, &self.body_sha256)
            == (&arrival.method, &arrival.target, &arrival.body_sha256)
    }
}

/// What one node says at the end.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub cards: Vec<Card>,
    pub audit: Vec<Record>,
}

/// An attempt to get something out of a node that is sealed, evicted or rolled back.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub node: String,
    /// Why it must not answer.
    pub shut_out: String,
    pub what: String,
    pub answered: bool,
}

/// A request after all faults are over.
#[derive(Clone, Debug)]
pub struct Service {
    pub what: String,
    pub healed: Instant,
    pub completed: Option<Instant>,
}

/// A harmless request during an outage.
#[derive(Clone, Debug)]
pub struct Harmless {
    pub what: String,
    /// Whether the edge had a valid lease for it all the time.
    pub leased: bool,
    pub status: u16,
}

/// All that was observed.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The cluster's id.
    pub cluster: String,
    pub arrivals: Vec<Arrival>,
    pub operations: Vec<Operation>,
    /// So many people have to agree, in this run's policy.
    pub quorum: usize,
    pub nodes: Vec<Node>,
    /// Every place where bytes end up, save the upstream: name and contents.
    pub sinks: Vec<(String, Vec<u8>)>,
    /// Real keys.
    pub secrets: Vec<String>,
    pub attempts: Vec<Attempt>,
    pub services: Vec<Service>,
    pub harmless: Vec<Harmless>,
    /// How long before the final reading all faults were over.
    pub healed_for: Duration,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// 1 to 14.
    pub invariant: u8,
    pub what: String,
}

impl Violation {
    fn new(invariant: u8, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "I{}: {}", self.invariant, self.what)
    }
}

/// Checks all fourteen; none is left out because another one failed.
pub fn check(evidence: &Evidence) -> Vec<Violation> {
    let checks: [fn(&Evidence) -> Vec<Violation>; 14] = [
        releases::approved_bytes_only,
        releases::at_most_once,
        releases::decisions_stay,
        releases::no_means_no,
        record::audited,
        linearizable,
        canary::keys_stay_inside,
        service::shut_out_is_out,
        releases::revocation_is_immediate,
        record::replicas_agree,
        service::serves_again,
        service::leases_outlive_an_outage,
        service::no_orphans,
        record::time_goes_on,
    ];
    checks.iter().flat_map(|check| check(evidence)).collect()
}

/// Passes, or fails the test with every violation.
pub fn demand(evidence: &Evidence) {
    let found: Vec<String> = check(evidence).iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

fn linearizable(evidence: &Evidence) -> Vec<Violation> {
    let Err(faults) = history::check(&evidence.operations, evidence.quorum) else {
        return Vec::new();
    };
    let told = |fault: &Fault| match fault {
        Fault::NotLinearizable { approval, history } => Violation::new(
            6,
            format!("approval {approval} is no single object:\n    {}", history.join("\n    ")),
        ),
        Fault::TooWide { approval, calls } => Violation::new(
            6,
            format!("approval {approval} has {calls} calls at once, too many to be checked"),
        ),
    };
    faults.iter().map(told).collect()
}

#[cfg(test)]
mod tests;
