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
//! The chain shows any edit, removal and reordering inside it. That its last records were dropped shows only beside
//! a head that was kept elsewhere.
//!
//! Records carry digests, names and ids; never tokens, bodies or fake keys.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Actor, Done, Event, KeySignature, Millis, Refused, State};

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

impl Record {
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

/// What a quorum of nodes signs about the audit log: up to this record, it was this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub cluster_id: String,
    pub index: u64,
    pub head: [u8; 32],
    /// Of the record.
    pub at: Millis,
}

/// DSSE payload type of an encoded [`Checkpoint`].
pub const CHECKPOINT_TYPE: &str = "application/vnd.countersign.audit-checkpoint.v1";
const CHECKPOINT_DOMAIN: &[u8] = b"countersign/v1/audit-checkpoint\0";

impl Checkpoint {
    /// `"countersign/v1/audit-checkpoint" ‖ 0x00 ‖ text(cluster_id) ‖ index ‖ head ‖ at`, as records are encoded.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = CHECKPOINT_DOMAIN.to_vec();
        put_text(&mut out, &self.cluster_id);
        out.extend(self.index.to_be_bytes());
        out.extend(self.head);
        out.extend(self.at.to_be_bytes());
        out
    }

    /// None for whatever [`encode`](Self::encode) would not have written.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.strip_prefix(CHECKPOINT_DOMAIN)?.split_first_chunk::<4>()?;
        let (cluster_id, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let (index, rest) = rest.split_first_chunk::<8>()?;
        let (head, rest) = rest.split_first_chunk::<32>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        rest.is_empty().then_some(Self {
            cluster_id: std::str::from_utf8(cluster_id).ok()?.to_owned(),
            index: u64::from_be_bytes(*index),
            head: *head,
            at: u64::from_be_bytes(*at),
        })
    }
}

/// A checkpoint and who signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCheckpoint {
    pub checkpoint: Checkpoint,
    /// Epoch of the trust bundle whose keys signed it.
    pub epoch: u64,
    pub signatures: Vec<KeySignature>,
}

impl State {
    /// The record so far as a quorum can sign it; None while nothing was recorded.
    pub fn checkpoint_at(&self, index: u64) -> Option<Checkpoint> {
        let record = self.audit.records.get(usize::try_from(index.checked_sub(1)?).ok()?)?;
        let cluster_id = self.genesis()?.cluster_id.clone();
        Some(Checkpoint { cluster_id, index, head: record.hash, at: record.at })
    }

    /// Every checkpoint that was committed, oldest first.
    pub fn audit_checkpoints(&self) -> &[SignedCheckpoint] {
        &self.audit.checkpoints
    }

    pub(super) fn checkpoint(&self, actor: &Actor) -> Result<Done, Refused> {
        // The cluster compares the chain where it applies the entry; the state has nothing to do with it.
        self.demand_role(actor, &[])?;
        Ok(Done::unchanged(Event::Noted))
    }

    /// Appends no record: it would need a checkpoint of its own.
    pub(super) fn checkpoint_audit(
        &mut self,
        actor: &Actor,
        signed: &SignedCheckpoint,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[])?;
        let index = signed.checkpoint.index;
        if self.checkpoint_at(index).as_ref() != Some(&signed.checkpoint) {
            return Err(Refused::Invalid(format!(
                "the checkpoint was not taken: record {index} is another one here"
            )));
        }
        if self.audit.checkpoints.last().is_some_and(|last| last.checkpoint.index >= index) {
            return Ok(Done::unchanged(Event::AuditCheckpointed { index }));
        }
        let bytes = super::SignedBytes {
            payload: signed.checkpoint.encode(),
            signatures: signed.signatures.clone(),
        };
        let trust = self.trust().filter(|trust| trust.epoch == signed.epoch);
        let trusted = trust.is_some_and(|trust| {
            trust.check(&bytes.as_type(CHECKPOINT_TYPE), CHECKPOINT_TYPE).is_ok()
        });
        if !trusted {
            return Err(Refused::Denied(
                "the checkpoint was not taken: too few nodes of the trust bundle in force signed it".into(),
            ));
        }
        self.audit.checkpoints.push(signed.clone());
        Ok(Done::unchanged(Event::AuditCheckpointed { index }))
    }
}

/// Append-only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Log {
    records: Vec<Record>,
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

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_count(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

/// Nothing that is replicated comes near 4 GiB; a longer text would keep its bytes and a saturated count.
fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}
