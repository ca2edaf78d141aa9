//! Checkpoints: what a quorum of nodes signs about the audit log, so that a stranger sees where it was cut or forked.

use countersign_gate::Trust;
use serde::{Deserialize, Serialize};

use super::put_text;
use crate::state::{Actor, Done, Event, KeySignature, Millis, Refused, SignedBytes, State};

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

impl SignedCheckpoint {
    /// Whether enough of the nodes that this bundle counts signed it, under this bundle.
    pub fn counts(&self, trust: &Trust) -> bool {
        let bytes =
            SignedBytes { payload: self.checkpoint.encode(), signatures: self.signatures.clone() };
        self.epoch == trust.epoch
            && self.checkpoint.cluster_id == trust.cluster
            && trust.check(&bytes.as_type(CHECKPOINT_TYPE), CHECKPOINT_TYPE).is_ok()
    }
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

    pub(in crate::state) fn checkpoint(&self, actor: &Actor) -> Result<Done, Refused> {
        // The cluster compares the chain where it applies the entry; the state has nothing to do with it.
        self.demand_role(actor, &[])?;
        Ok(Done::unchanged(Event::Noted))
    }

    /// Appends no record: it would need a checkpoint of its own.
    pub(in crate::state) fn checkpoint_audit(
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
        if !self.signers().is_some_and(|signers| signed.counts(&signers)) {
            return Err(Refused::Denied(
                "the checkpoint was not taken: too few nodes of the trust bundle in force signed it".into(),
            ));
        }
        self.audit.checkpoints.push(signed.clone());
        Ok(Done::unchanged(Event::AuditCheckpointed { index }))
    }
}
