//! An approval's life: pending, votes, at most one claim, an outcome.

use serde::{Deserialize, Serialize};

use super::{Millis, Position, ReportedOutcome};

/// 128 random bits, chosen by intake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ApprovalId(pub [u8; 16]);

impl std::fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for ApprovalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ApprovalState {
    Pending,
    Approved,
    Denied,
    Expired,
    Cancelled,
    /// Policy took it back.
    Revoked,
    Released,
    Completed,
    /// Released, and nobody knows whether it arrived. Never carried out again by itself.
    Unknown,
}

impl ApprovalState {
    /// Neither votes nor claims change it any more (a report may still follow a release).
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending | Self::Approved)
    }
}

/// So many distinct principals of those named; "*" is whoever has the approver role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    pub rule: String,
    pub approvers: Vec<String>,
    pub quorum: u32,
}

/// What people are shown: made from the frozen bytes, never from what an agent says about them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    pub intent_digest: [u8; 32],
    pub method: String,
    pub scheme: String,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub query: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body_bytes: u64,
    pub body_sha256: [u8; 32],
    /// At most 16 KiB of the body.
    #[serde(with = "serde_bytes")]
    pub body_preview: Vec<u8>,
    pub uninspectable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VoteWord {
    Approve,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    pub principal: String,
    pub word: VoteWord,
    pub channel: String,
    pub reason: String,
    pub at: Millis,
}

/// The release event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub request_id: [u8; 16],
    pub decision_id: [u8; 16],
    pub edge: String,
    pub incarnation: [u8; 16],
    pub position: Position,
    pub policy_version: u64,
    pub at: Millis,
    /// Log time after which no edge acts on it.
    pub expires_at: Millis,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Approval {
    pub id: ApprovalId,
    pub state: ApprovalState,
    pub agent: String,
    pub rule: String,
    pub policy_version: u64,
    pub requirements: Vec<Requirement>,
    pub credentials: Vec<(String, u64)>,
    pub shown: Shown,
    pub created_at: Millis,
    /// Until when it can be voted on, and, once approved, used.
    pub due: Millis,
    pub unused_ms: u64,
    pub votes: Vec<Vote>,
    pub claim: Option<Claim>,
    pub outcome: Option<(ReportedOutcome, u16, Millis)>,
    /// Why it was denied, cancelled or revoked.
    pub reason: String,
    pub traceparent: String,
}

/// One concrete request at one edge process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldRequest {
    pub request_id: [u8; 16],
    /// None when the policy allows it.
    pub approval: Option<ApprovalId>,
    pub edge: String,
    pub incarnation: [u8; 16],
    pub agent: String,
    pub intent_digest: [u8; 32],
    pub request_digest: [u8; 32],
    pub policy_version: u64,
    pub rule: String,
    pub credentials: Vec<(String, u64)>,
    pub opened_at: Millis,
    pub hold_ms: u64,
    /// Set by a claim of this very request.
    pub claim: Option<Claim>,
    pub outcome: Option<ReportedOutcome>,
}
