//! What a command did, or why it did nothing.

use serde::{Deserialize, Serialize};

use super::{
    ApprovalId, ApprovalState, Audience, Claim, ClockJump, DeliveryId, GrantId, Millis, Nudge,
};

/// What a command did. Read the state for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Began,
    /// `approvals`: those that this opened again or approved, or denied because too few are left to approve them.
    PrincipalChanged {
        name: String,
        approvals: Vec<ApprovalId>,
    },
    /// `approvals` as with a principal.
    AgentChanged {
        id: String,
        approvals: Vec<ApprovalId>,
    },
    /// It waits for a second administrator.
    ChangeProposed {
        id: u64,
    },
    /// It was rejected; a change that is confirmed gives the event of what it does.
    ChangeSettled {
        id: u64,
    },
    LinkOffered {
        principal: String,
        expires_at: Millis,
    },
    /// The code was wrong, or too old.
    LinkRefused,
    /// `approvals`: those that it approved, or that wait for people again.
    GrantChanged {
        id: GrantId,
        approvals: Vec<ApprovalId>,
    },
    ChannelChanged {
        name: String,
    },
    DeliveryChanged {
        id: DeliveryId,
    },
    CredentialChanged {
        id: String,
        version: u64,
    },
    /// The same key, sealed anew: nothing that edges decide with.
    CredentialResealed {
        id: String,
    },
    MintBegun {
        id: String,
    },
    /// Read `State::credential`, or the held request that it is for.
    TokenMinted {
        id: String,
        version: u64,
    },
    MintFailed {
        id: String,
    },
    PolicyChanged {
        version: u64,
    },
    EdgeChanged {
        id: String,
    },
    /// Read `State::edge_ca`.
    EdgeCaChanged {
        number: u64,
    },
    EdgeRenewed {
        id: String,
    },
    NodeInvited {
        name: String,
        expires_at: Millis,
    },
    NodeChanged {
        id: u64,
    },
    /// Read `State::shown_ca`.
    CaChanged {
        to: Audience,
        number: u64,
    },
    NodeRenewed {
        id: u64,
    },
    /// The token was wrong, or there is no invitation of that name.
    JoinRefused {
        name: String,
    },
    TrustChanged {
        epoch: u64,
    },
    /// Read `State::seal_file`.
    SealChanged,
    ClockSuspected(ClockJump),
    ClockConfirmed,
    AuditCheckpointed {
        index: u64,
    },
    /// A snapshot took the place of the state: everything may have changed. No command gives this.
    Restored,
    /// `approval` is None for a request that policy allows.
    Opened {
        request_id: [u8; 16],
        approval: Option<ApprovalId>,
        joined: bool,
    },
    Voted {
        approval: ApprovalId,
        state: ApprovalState,
    },
    /// Cancelled or revoked.
    Settled {
        approval: ApprovalId,
        state: ApprovalState,
    },
    Detached {
        request_id: [u8; 16],
    },
    Claimed {
        request_id: [u8; 16],
        approval: Option<ApprovalId>,
        claim: Claim,
        /// Those that rested on the same grant, which has no more uses.
        reopened: Vec<ApprovalId>,
    },
    Reported {
        request_id: [u8; 16],
        approval: Option<ApprovalId>,
        state: Option<ApprovalState>,
    },
    Leased {
        id: [u8; 16],
        edge: String,
        credential: String,
        version: u64,
    },
    /// Approvals that this tick settled or opened again, and the state that each reached; and those that people are
    /// told of again.
    Ticked {
        settled: Vec<(ApprovalId, ApprovalState)>,
        nudged: Vec<(ApprovalId, Nudge)>,
    },
    Noted,
}

impl Event {
    /// Whether edges decide with what this changed.
    pub fn changes_bundle(&self) -> bool {
        matches!(
            self,
            Self::AgentChanged { .. }
                | Self::Began
                | Self::CaChanged { to: Audience::Clients, .. }
                | Self::CredentialChanged { .. }
                | Self::NodeChanged { .. }
                | Self::PolicyChanged { .. }
                | Self::Restored
        )
    }
}

/// Why a command did nothing. The text is for the person or the edge that asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    AlreadyExists(String),
    /// The approval's one claim is taken by another request.
    #[error("already carried out for another identical request")]
    AlreadyUsed,
    #[error("{0}")]
    Denied(String),
    /// There is too much of it already.
    #[error("{0}")]
    Exhausted(String),
    #[error("{0}")]
    Expired(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    /// Judged under a policy version that is not the current one.
    #[error("the policy changed meanwhile")]
    PolicyChanged,
    #[error("{0}")]
    Precondition(String),
}

/// The answer to one proposal.
pub type Outcome = Result<Event, Refused>;
