//! The replicated state machine: pure and deterministic.
//!
//! `State::apply` takes what was committed and says what happened. It knows no clock (time is in the entry), no
//! randomness (ids and nonces are in the commands), no protobuf, no Raft, no disk. Every rule about who may do
//! what to an approval is enforced here, where it is applied, and nowhere else.

pub mod agent;
pub mod approval;
pub mod approver;
pub mod audit;
pub mod credential;
pub mod edge;
pub mod policy;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use agent::Agent;
pub use approval::{Approval, ApprovalId, ApprovalState, Claim, HeldRequest, Requirement, Shown, Vote, VoteWord};
pub use approver::{Principal, Role};
pub use audit::Record;
pub use credential::{Credential, Fake, Payload, ReleaseClass};
pub use edge::Edge;
pub use policy::PolicyVersion;

/// Milliseconds since 1970 in log time: stamped into entries by the leader, never decreasing.
pub type Millis = u64;

/// One Raft entry's worth: commands that were proposed together, and the log time they share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batch {
    pub at: Millis,
    pub proposals: Vec<Proposal>,
}

/// A command, who proposes it, and the identity that makes proposing it again harmless.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proposal {
    pub id: CommandId,
    pub actor: Actor,
    pub command: Command,
}

/// `(client, serial)`. Applying the same one again gives the first outcome and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommandId {
    pub client: [u8; 16],
    pub serial: u64,
}

/// Where a command was committed: the fence that signed decisions carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub term: u64,
    pub index: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// Edge id.
    Edge(String),
    /// Principal's name.
    Principal(String),
    /// The control plane itself: ticks, genesis.
    System,
}

/// Everything that can be asked of the state. Secret values arrive sealed ([`Payload`]) or hashed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster's life; refused ever after. Creates the principal `admin` with every role.
    Genesis(Box<Genesis>),

    AddPrincipal { name: String, roles: BTreeSet<Role>, groups: BTreeSet<String>, token_sha256: [u8; 32] },
    RotatePrincipal { name: String, token_sha256: [u8; 32] },
    RemovePrincipal { name: String },

    CreateAgent { id: String, name: String, owner: Option<String>, token_sha256: [u8; 32] },
    RotateAgent { name: String, token_sha256: [u8; 32] },
    RevokeAgent { name: String },

    CreateCredential(Box<Credential>),
    RotateCredential { name: String, expected_version: u64, payload: Payload },
    RevokeCredential { name: String },

    SetPolicy { text: String, sha256: [u8; 32], expected_version: Option<u64> },

    EnrollEdge { id: String, name: String, key_sha256: [u8; 32] },
    /// A process start of an edge; earlier incarnations can claim nothing any more.
    AttachEdge { id: String, incarnation: [u8; 16] },
    EvictEdge { name: String, reason: String },

    /// A held request: joins the live approval of the same intent, or opens one. Upsert by request id.
    Open(Box<Open>),
    Vote { approval: ApprovalId, principal: String, word: VoteWord, channel: String, reason: String, intent_digest: Option<[u8; 32]> },
    Cancel { approval: ApprovalId, reason: String },
    /// The request is gone (agent or hold ended); the approval goes on.
    Detach { request_id: [u8; 16], reason: String },
    /// The release event: at most one per approval.
    Claim { request_id: [u8; 16], decision_id: [u8; 16], policy_version: u64 },
    Report { request_id: [u8; 16], outcome: ReportedOutcome, status: u16 },
    /// The current policy no longer permits it.
    Revoke { approval: ApprovalId, reason: String },

    /// A key on loan to an edge process for what the policy allows (class C0).
    Lease { id: [u8; 16], edge: String, incarnation: [u8; 16], credential: String, version: u64, agent: String, ttl_ms: u64 },

    /// Time passes: whatever is due expires.
    Tick,
    /// Worth a record, changes nothing else (alarms, refused votes, seal attempts).
    Note { action: String, subject: String, details: Vec<(String, String)> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Genesis {
    pub cluster_id: String,
    pub org_id: String,
    pub node_id: u64,
    /// Ed25519: of this node (signs decisions and edge bundles), and of the cluster's root (signs trust bundles).
    pub node_public_key: [u8; 32],
    pub node_private_key: Payload,
    pub root_public_key: [u8; 32],
    pub root_private_key: Payload,
    /// CA that signs edge certificates: PEM, and its sealed key (PEM).
    pub edge_ca_pem: String,
    pub edge_ca_key: Payload,
    pub admin_token_sha256: [u8; 32],
}

/// What intake found out about a held request: digests recomputed, policy evaluated, card material bounded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    /// Taken when no live approval has this intent.
    pub approval: ApprovalId,
    pub request_id: [u8; 16],
    pub edge: String,
    pub incarnation: [u8; 16],
    pub agent: String,
    pub request_digest: [u8; 32],
    pub policy_version: u64,
    pub rule: String,
    /// Empty: the policy allows it and only the key is per request; no approval comes about.
    pub requirements: Vec<Requirement>,
    /// (credential id, version) in the plan's order.
    pub credentials: Vec<(String, u64)>,
    pub shown: Shown,
    /// The approval's life, and how long an approved one that nobody used stays usable.
    pub expires_ms: u64,
    pub unused_ms: u64,
    pub hold_ms: u64,
    pub traceparent: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportedOutcome {
    Completed,
    NotSent,
    Unknown,
}

/// What a command did. Read the state for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Began,
    PrincipalChanged { name: String },
    AgentChanged { id: String },
    CredentialChanged { id: String, version: u64 },
    PolicyChanged { version: u64 },
    EdgeChanged { id: String },
    /// `approval` is None for a request that policy allows.
    Opened { request_id: [u8; 16], approval: Option<ApprovalId>, joined: bool },
    Voted { approval: ApprovalId, state: ApprovalState },
    /// Cancelled or revoked.
    Settled { approval: ApprovalId, state: ApprovalState },
    Detached { request_id: [u8; 16] },
    Claimed { request_id: [u8; 16], approval: Option<ApprovalId>, claim: Claim },
    Reported { request_id: [u8; 16], approval: Option<ApprovalId>, state: Option<ApprovalState> },
    Leased { id: [u8; 16], edge: String, credential: String, version: u64 },
    /// Approvals that this tick settled, and the state that each reached.
    Ticked { settled: Vec<(ApprovalId, ApprovalState)> },
    Noted,
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

/// Everything that is replicated.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    genesis: Option<Box<Genesis>>,
    log_time: Millis,
    position: Position,
    principals: BTreeMap<String, Principal>,
    agents: BTreeMap<String, Agent>,
    edges: BTreeMap<String, Edge>,
    credentials: BTreeMap<String, Credential>,
    policies: Vec<PolicyVersion>,
    approvals: BTreeMap<ApprovalId, Approval>,
    held: BTreeMap<[u8; 16], HeldRequest>,
    audit: audit::Log,
    answered: BTreeMap<[u8; 16], (u64, Outcome, Millis)>,
}

impl State {
    /// Applies one entry's commands in order; one outcome for each. Never panics, whatever the commands hold.
    pub fn apply(&mut self, position: Position, batch: &Batch) -> Vec<Outcome> {
        self.position = position;
        self.log_time = self.log_time.max(batch.at);
        batch.proposals.iter().map(|_| Err(Refused::Invalid("nothing is applied yet".into()))).collect()
    }

    pub fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_deref()
    }

    pub fn log_time(&self) -> Millis {
        self.log_time
    }

    pub fn position(&self) -> Position {
        self.position
    }

    pub fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.principals.values()
    }

    pub fn principal(&self, name: &str) -> Option<&Principal> {
        self.principals.get(name)
    }

    pub fn principal_by_token(&self, token_sha256: &[u8; 32]) -> Option<&Principal> {
        self.principals.values().find(|p| p.active && p.token_sha256 == *token_sha256)
    }

    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// By id.
    pub fn agent(&self, id: &str) -> Option<&Agent> {
        self.agents.get(id)
    }

    pub fn agent_named(&self, name: &str) -> Option<&Agent> {
        self.agents.values().find(|a| a.name == name)
    }

    pub fn edges(&self) -> impl Iterator<Item = &Edge> {
        self.edges.values()
    }

    pub fn edge(&self, id: &str) -> Option<&Edge> {
        self.edges.get(id)
    }

    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.values()
    }

    pub fn credential(&self, id: &str) -> Option<&Credential> {
        self.credentials.get(id)
    }

    pub fn credential_named(&self, name: &str) -> Option<&Credential> {
        self.credentials.values().find(|c| c.name == name)
    }

    /// The policy in force; none before the first was set.
    pub fn policy(&self) -> Option<&PolicyVersion> {
        self.policies.last()
    }

    pub fn approvals(&self) -> impl DoubleEndedIterator<Item = &Approval> {
        self.approvals.values()
    }

    pub fn approval(&self, id: ApprovalId) -> Option<&Approval> {
        self.approvals.get(&id)
    }

    pub fn held(&self, request_id: &[u8; 16]) -> Option<&HeldRequest> {
        self.held.get(request_id)
    }

    /// Requests attached to an approval.
    pub fn held_for(&self, approval: ApprovalId) -> impl Iterator<Item = &HeldRequest> {
        self.held.values().filter(move |h| h.approval == Some(approval))
    }

    pub fn audit(&self) -> &audit::Log {
        &self.audit
    }

    /// The earliest log time at which a `Tick` would settle something.
    pub fn next_due(&self) -> Option<Millis> {
        self.approvals.values().filter(|a| !a.state.is_terminal()).map(|a| a.due).min()
    }
}
