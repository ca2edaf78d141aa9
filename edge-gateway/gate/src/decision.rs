//! A decision on the wire: one encoding, one reading.

use std::fmt;

use crate::encoding::{Digest, Reader, Writer, list};

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Cancel,
    Deny,
    Expire,
    Release,
}

/// Who decided, as far as the audit of an edge needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    pub principal: String,
    pub channel: String,
    /// Log time of the vote, milliseconds since 1970.
    pub at_ms: u64,
}

/// A key that comes with the decision: SHA-256 of `encapsulated key ‖ ciphertext`, since HPKE's base mode does
/// not authenticate its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRef {
    pub credential: String,
    pub version: u64,
    pub sha256: Digest,
}

/// What the control plane signs. Every node derives the same bytes from the same committed claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub cluster: String,
    pub decision_id: [u8; 16],
    pub word: Word,
    /// None when the policy allowed it and nobody was asked.
    pub approval_id: Option<[u8; 16]>,
    pub request_id: [u8; 16],
    pub request_digest: Digest,
    pub intent_digest: Digest,
    pub edge: String,
    pub incarnation: [u8; 16],
    /// Raft term and index of the claim: a fence that only grows.
    pub term: u64,
    pub index: u64,
    pub policy_version: u64,
    pub approvers: Vec<Approver>,
    /// Log time, milliseconds since 1970.
    pub not_before_ms: u64,
    pub expires_ms: u64,
    pub sealed: Vec<SealedRef>,
    /// Epoch of the trust bundle that the signer knew.
    pub epoch: u64,
}

/// Bytes that are not the encoding of a decision or of a trust bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not in the one encoding that is accepted")
    }
}

impl std::error::Error for Malformed {}

impl Decision {
    pub fn encode(&self) -> Vec<u8> {
        let approver = |a: &Approver| {
            Writer::new(5).field(1, &a.principal).field(2, &a.channel).number(3, a.at_ms).finish()
        };
        let sealed = |s: &SealedRef| {
            Writer::new(6).field(1, &s.credential).number(2, s.version).field(3, s.sha256).finish()
        };
        Writer::new(4)
            .field(1, &self.cluster)
            .field(2, self.decision_id)
            .field(3, [self.word as u8])
            .option(4, self.approval_id)
            .field(5, self.request_id)
            .field(6, self.request_digest)
            .field(7, self.intent_digest)
            .field(8, &self.edge)
            .field(9, self.incarnation)
            .number(10, self.term)
            .number(11, self.index)
            .number(12, self.policy_version)
            .field(13, list(self.approvers.iter().map(approver)))
            .number(14, self.not_before_ms)
            .number(15, self.expires_ms)
            .field(16, list(self.sealed.iter().map(sealed)))
            .number(17, self.epoch)
            .finish()
    }

    /// # Errors
    /// [`Malformed`] for whatever `encode` would not have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::read(bytes).ok_or(Malformed)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let approver = |bytes: &[u8]| {
            let mut r = Reader::new(bytes, 5)?;
            let value =
                Approver { principal: r.text(1)?, channel: r.text(2)?, at_ms: r.number(3)? };
            r.end(value)
        };
        let sealed = |bytes: &[u8]| {
            let mut r = Reader::new(bytes, 6)?;
            let value =
                SealedRef { credential: r.text(1)?, version: r.number(2)?, sha256: r.array(3)? };
            r.end(value)
        };
        let mut r = Reader::new(bytes, 4)?;
        let decision = Self {
            cluster: r.text(1)?,
            decision_id: r.array(2)?,
            word: match r.array(3)? {
                [0] => Word::Cancel,
                [1] => Word::Deny,
                [2] => Word::Expire,
                [3] => Word::Release,
                _ => return None,
            },
            approval_id: match r.option(4)? {
                Some(id) => Some(id.try_into().ok()?),
                None => None,
            },
            request_id: r.array(5)?,
            request_digest: r.array(6)?,
            intent_digest: r.array(7)?,
            edge: r.text(8)?,
            incarnation: r.array(9)?,
            term: r.number(10)?,
            index: r.number(11)?,
            policy_version: r.number(12)?,
            approvers: r.list(13, approver)?,
            not_before_ms: r.number(14)?,
            expires_ms: r.number(15)?,
            sealed: r.list(16, sealed)?,
            epoch: r.number(17)?,
        };
        r.end(decision)
    }
}

/// HPKE `info`: a key sealed to one process start of one edge opens nowhere else (RFC 9180 §5.1).
pub fn seal_info(cluster: &str, edge: &str, incarnation: &[u8; 16]) -> Vec<u8> {
    Writer::new(7).field(1, cluster).field(2, edge).field(3, incarnation).finish()
}

/// HPKE `aad` of a key that comes with a decision.
pub fn seal_context(
    request_digest: &Digest,
    decision_id: &[u8; 16],
    credential: &str,
    version: u64,
) -> Vec<u8> {
    Writer::new(8)
        .field(1, request_digest)
        .field(2, decision_id)
        .field(3, credential)
        .number(4, version)
        .finish()
}

/// HPKE `aad` of a leased key.
pub fn lease_context(lease_id: &[u8; 16], credential: &str, version: u64) -> Vec<u8> {
    Writer::new(9).field(1, lease_id).field(2, credential).number(3, version).finish()
}
