//! A line of an export: JSON, with what it is in `type`.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_control_plane::state::audit::{self, CHECKPOINT_TYPE, Record, SignedCheckpoint};
use countersign_control_plane::state::{KeySignature, SignedBytes};
use countersign_proto::v1;
use countersign_proto::v1::export_audit_response::Item;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::print;

/// What an export says.
#[derive(Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Line {
    Checkpoint(Checkpoint),
    Preamble(Preamble),
    Record(Entry),
}

/// Whose log it is, and everybody who was ever trusted to sign it. First of all.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Preamble {
    pub(super) cluster_id: String,
    /// Hexadecimal.
    pub(super) root_public_key: String,
    pub(super) trust_bundles: Vec<Envelope>,
}

/// Signed over the chain up to one of the records before it.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checkpoint {
    pub(super) index: u64,
    pub(super) head: String,
    /// Of the trust bundle whose keys signed it.
    pub(super) epoch: u64,
    pub(super) envelope: Envelope,
}

/// DSSE; bytes are base64.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    key_id: String,
    signature: String,
}

/// One record: also an element of `audit list -o json`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(super) index: u64,
    pub(super) at: String,
    pub(super) actor: String,
    pub(crate) action: String,
    pub(super) subject: String,
    pub(super) details: Vec<Detail>,
    pub(super) previous_hash: String,
    pub(super) hash: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Detail {
    pub(super) name: String,
    pub(super) value: String,
}

impl Line {
    /// None for what is no line of an export. Exports once held records alone, which did not say so.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        if value.get("type").is_none() {
            return serde_json::from_value(value).ok().map(Self::Record);
        }
        serde_json::from_value(value).ok()
    }
}

impl Checkpoint {
    /// As nodes signed it; None when it says another thing than what is signed.
    pub(super) fn signed(&self) -> Option<SignedCheckpoint> {
        let SignedBytes { payload, signatures } = self.envelope.signed(CHECKPOINT_TYPE)?;
        let checkpoint = audit::Checkpoint::decode(&payload)?;
        let same = checkpoint.index == self.index && hex::encode(checkpoint.head) == self.head;
        same.then_some(SignedCheckpoint { checkpoint, epoch: self.epoch, signatures })
    }
}

impl Envelope {
    /// None when it is of another type, or not base64.
    pub(super) fn signed(&self, payload_type: &str) -> Option<SignedBytes> {
        let signature = |signature: &Signature| {
            Some(KeySignature {
                key_id: STANDARD.decode(&signature.key_id).ok()?,
                signature: STANDARD.decode(&signature.signature).ok()?,
            })
        };
        (self.payload_type == payload_type).then_some(SignedBytes {
            payload: STANDARD.decode(&self.payload).ok()?,
            signatures: self.signatures.iter().map(signature).collect::<Option<_>>()?,
        })
    }
}

impl TryFrom<v1::ExportAuditResponse> for Line {
    type Error = Failure;

    fn try_from(answer: v1::ExportAuditResponse) -> Result<Self, Failure> {
        let unknown = || {
            Failure::refused(
                "the control plane sent something that is no part of an audit log: is it newer than this `countersign`?",
            )
        };
        Ok(match answer.item.ok_or_else(unknown)? {
            Item::Record(record) => Self::Record(record.into()),
            Item::Checkpoint(checkpoint) => Self::Checkpoint(Checkpoint {
                index: checkpoint.index,
                head: checkpoint.head,
                epoch: checkpoint.epoch,
                envelope: checkpoint.envelope.ok_or_else(unknown)?.into(),
            }),
            Item::Preamble(preamble) => Self::Preamble(Preamble {
                cluster_id: preamble.cluster_id,
                root_public_key: hex::encode(preamble.root_public_key),
                trust_bundles: preamble.trust_bundles.into_iter().map(Into::into).collect(),
            }),
        })
    }
}

impl From<v1::Envelope> for Envelope {
    fn from(envelope: v1::Envelope) -> Self {
        let signatures = envelope.signatures.into_iter().map(|signature| Signature {
            key_id: STANDARD.encode(signature.key_id),
            signature: STANDARD.encode(signature.signature),
        });
        Self {
            payload_type: envelope.payload_type,
            payload: STANDARD.encode(envelope.payload),
            signatures: signatures.collect(),
        }
    }
}

impl From<v1::AuditRecord> for Entry {
    fn from(record: v1::AuditRecord) -> Self {
        let details = record
            .details
            .into_iter()
            .map(|v1::AuditDetail { name, value }| Detail { name, value });
        Self {
            index: record.index,
            at: print::time_or_dash(record.at.as_ref()),
            actor: record.actor,
            action: record.action,
            subject: record.subject,
            details: details.collect(),
            previous_hash: record.previous_hash,
            hash: record.hash,
        }
    }
}

impl Entry {
    /// When, who, what, about what.
    pub(crate) fn brief(&self) -> Vec<String> {
        vec![self.at.clone(), self.actor.clone(), self.action.clone(), self.subject.clone()]
    }

    /// Whether it is about this subject, or says so in its details.
    pub(crate) fn names(&self, subject: &str) -> bool {
        self.subject == subject || self.details.iter().any(|detail| detail.value == subject)
    }

    /// As the state machine hashed it; None when a field is not what an export writes.
    pub(super) fn record(&self) -> Option<Record> {
        let hash = |text: &str| hex::decode(text).ok()?.try_into().ok();
        let at =
            humantime::parse_rfc3339(&self.at).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Record {
            index: self.index,
            at: at.as_millis().try_into().ok()?,
            actor: self.actor.clone(),
            action: self.action.clone(),
            subject: self.subject.clone(),
            details: self
                .details
                .iter()
                .map(|detail| (detail.name.clone(), detail.value.clone()))
                .collect(),
            previous: hash(&self.previous_hash)?,
            hash: hash(&self.hash)?,
        })
    }
}
