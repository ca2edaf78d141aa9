//! The audit log: a hash chain of records, one for every command that did something.
//!
//! A record's hash is
//!
//! ```text
//! SHA-256( "countersign/v1/audit" ‖ 0x00 ‖ index ‖ at ‖ text(actor) ‖ text(action) ‖ text(subject)
//!          ‖ count(details) ‖ (text(name) ‖ text(value))* ‖ previous )
//! ```
//!
//! with `index` and `at` as unsigned 64-bit numbers, `count` as an unsigned 32-bit number, `text` as an unsigned
//! 32-bit number of bytes followed by that many bytes of UTF-8, all numbers big-endian, and `previous` as the 32
//! bytes of the hash before (zeros for record 1). Every field has its length before it, so two different records
//! never have the same bytes: a stranger who has the exported records can verify them with nothing but SHA-256.
//!
//! The chain shows any edit, removal and reordering inside it. That its last records were dropped, or that all of it
//! was written anew, shows beside a [`Checkpoint`] that nodes signed.
//!
//! Records carry digests, names and ids; never tokens, bodies or fake keys.

mod checkpoint;
mod verify;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use checkpoint::{CHECKPOINT_TYPE, Checkpoint, SignedCheckpoint};
pub use verify::{Export, Fault, Known, Verdict, verify_export};

use super::{Actor, Millis};

const DOMAIN: &[u8] = b"countersign/v1/audit\0";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// From 1, without gaps.
    pub index: u64,
    pub at: Millis,
    /// "principal:NAME", "edge:ID" or "system".
    pub actor: String,
    /// "noun.verb", such as "approval.vote", "request.claim", "credential.rotate".
    pub action: String,
    pub subject: String,
    pub details: Vec<(String, String)>,
    pub previous: [u8; 32],
    pub hash: [u8; 32],
}

/// Actions of the records that say which trust bundle came into force.
const TRUST_ACTIONS: [&str; 2] = ["cluster.begin", "trust.set"];

/// What only the commands of those names record. No note may say it: who reads that something was claimed or trusted
/// must be able to believe it.
const OWN: [&str; 71] = [
    "account.link",
    "account.offer",
    "account.refused",
    "account.unlink",
    "agent.create",
    "agent.owner",
    "agent.revoke",
    "agent.rotate",
    "api_ca.finish",
    "api_ca.rotate",
    "approval.break_glass",
    "approval.cancel",
    "approval.deny",
    "approval.escalate",
    "approval.expire",
    "approval.remind",
    "approval.reopen",
    "approval.revoke",
    "approval.unknown",
    "approval.vote",
    "change.confirm",
    "change.expire",
    "change.propose",
    "change.reject",
    "claim.refused",
    "clock.confirm",
    "clock.jump",
    "cluster.begin",
    "cluster.restore",
    "credential.create",
    "credential.lease",
    "credential.mint",
    "credential.mint_attempt",
    "credential.mint_failed",
    "credential.reseal",
    "credential.revoke",
    "credential.rotate",
    "edge.attach",
    "edge.enroll",
    "edge.evict",
    "edge.renew",
    "edge_ca.finish",
    "edge_ca.rotate",
    "grant.ask",
    "grant.expire",
    "grant.revoke",
    "grant.support",
    "node.describe",
    "node.invite",
    "node.join",
    "node.join_refused",
    "node.key",
    "node.remove",
    "node.renew",
    "node_ca.finish",
    "node_ca.rotate",
    "policy.set",
    "principal.add",
    "principal.away",
    "principal.back",
    "principal.groups",
    "principal.remove",
    "principal.rotate",
    "request.claim",
    "request.detach",
    "request.open",
    "request.report",
    "request.unknown",
    "seal.change",
    "trust.set",
    "vote.refused",
];

pub(super) fn is_own(action: &str) -> bool {
    OWN.contains(&action)
}

impl Record {
    /// The value of a detail; the first, should there be more of that name.
    pub fn detail(&self, name: &str) -> Option<&String> {
        self.details.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// What its hash must be, given all that it says.
    pub fn computed_hash(&self) -> [u8; 32] {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(DOMAIN);
        bytes.extend_from_slice(&self.index.to_be_bytes());
        bytes.extend_from_slice(&self.at.to_be_bytes());
        put_text(&mut bytes, &self.actor);
        put_text(&mut bytes, &self.action);
        put_text(&mut bytes, &self.subject);
        put_count(&mut bytes, self.details.len());
        for (name, value) in &self.details {
            put_text(&mut bytes, name);
            put_text(&mut bytes, value);
        }
        bytes.extend_from_slice(&self.previous);
        Sha256::digest(&bytes).into()
    }
}

/// The index of the first record that does not fit what comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log is broken at record {0}: it, or what comes before it, was changed")]
pub struct BrokenAt(pub u64);

/// Verifies a chain, or a stretch of one that begins later: the `previous` of its first record is then taken on trust.
pub fn verify_records(records: &[Record]) -> Result<(), BrokenAt> {
    let Some(first) = records.first() else { return Ok(()) };
    if first.index == 0 || (first.index == 1 && first.previous != [0; 32]) {
        return Err(BrokenAt(first.index));
    }
    let (mut index, mut previous) = (first.index, first.previous);
    for record in records {
        if record.index != index
            || record.previous != previous
            || record.hash != record.computed_hash()
        {
            return Err(BrokenAt(index));
        }
        index = index.saturating_add(1);
        previous = record.hash;
    }
    Ok(())
}

/// Append-only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Log {
    records: Vec<Record>,
    /// Ascending.
    checkpoints: Vec<SignedCheckpoint>,
}

impl Log {
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Hash of the last record; zeros before the first.
    pub fn head(&self) -> [u8; 32] {
        self.records.last().map_or([0; 32], |r| r.hash)
    }

    /// Whether this log is whole from record 1 on.
    pub fn verify(&self) -> Result<(), BrokenAt> {
        match self.records.first() {
            Some(first) if first.index != 1 => Err(BrokenAt(1)),
            _ => verify_records(&self.records),
        }
    }

    pub(super) fn append(&mut self, at: Millis, actor: &Actor, entry: Entry) {
        let mut record = Record {
            index: self.records.len() as u64 + 1,
            at,
            actor: actor.to_string(),
            action: entry.action,
            subject: entry.subject,
            details: entry.details,
            previous: self.head(),
            hash: [0; 32],
        };
        record.hash = record.computed_hash();
        self.records.push(record);
    }
}

/// What a record says, before it has its place in the chain.
pub(super) struct Entry {
    pub(super) action: String,
    pub(super) subject: String,
    pub(super) details: Vec<(String, String)>,
}

impl Entry {
    pub(super) fn new(action: &str, subject: impl std::fmt::Display) -> Self {
        Self { action: action.to_owned(), subject: subject.to_string(), details: Vec::new() }
    }

    pub(super) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.details.push((name.to_owned(), value.to_string()));
        self
    }
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Edge(id) => write!(f, "edge:{id}"),
            Self::Principal(name) => write!(f, "principal:{name}"),
            Self::System => f.write_str("system"),
        }
    }
}

pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_count(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

/// Nothing that is replicated comes near 4 GiB; a longer text would keep its bytes and a saturated count.
fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}
