//! The replicated state machine: pure and deterministic.
//!
//! `State::apply` takes what was committed and says what happened. It knows no clock (time is in the entry), no
//! randomness (ids and nonces are in the commands), no protobuf, no Raft, no disk. Every rule about who may do
//! what to an approval is enforced here, where it is applied, and nowhere else.

mod answered;
mod deadline;
mod genesis;
mod lease;
mod name;
mod open;
mod release;
mod tick;
mod vote;

pub mod agent;
pub mod approval;
pub mod approver;
pub mod audit;
pub mod credential;
pub mod edge;
pub mod held;
pub mod policy;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

pub use agent::Agent;
pub use approval::{
    Approval, ApprovalId, ApprovalState, Claim, Requirement, Shown, Vote, VoteWord,
};
pub use approver::{Principal, Role};
pub use audit::Record;
pub use credential::{Credential, Fake, Payload, ReleaseClass};
pub use edge::Edge;
pub use held::HeldRequest;
pub use policy::PolicyVersion;

use answered::Answered;
use audit::Entry;
use deadline::Deadlines;

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

    AddPrincipal {
        name: String,
        roles: BTreeSet<Role>,
        groups: BTreeSet<String>,
        token_sha256: [u8; 32],
    },
    RotatePrincipal {
        name: String,
        token_sha256: [u8; 32],
    },
    RemovePrincipal {
        name: String,
    },

    CreateAgent {
        id: String,
        name: String,
        owner: Option<String>,
        token_sha256: [u8; 32],
    },
    RotateAgent {
        name: String,
        token_sha256: [u8; 32],
    },
    RevokeAgent {
        name: String,
    },

    CreateCredential(Box<Credential>),
    RotateCredential {
        name: String,
        expected_version: u64,
        payload: Payload,
    },
    RevokeCredential {
        name: String,
    },

    SetPolicy {
        text: String,
        sha256: [u8; 32],
        expected_version: Option<u64>,
    },

    EnrollEdge {
        id: String,
        name: String,
        key_sha256: [u8; 32],
    },
    /// A process start of an edge; earlier incarnations can claim nothing any more.
    AttachEdge {
        id: String,
        incarnation: [u8; 16],
    },
    EvictEdge {
        name: String,
        reason: String,
    },

    /// A held request: joins the live approval of the same intent, or opens one. Upsert by request id.
    Open(Box<Open>),
    Vote {
        approval: ApprovalId,
        principal: String,
        word: VoteWord,
        channel: String,
        reason: String,
        intent_digest: Option<[u8; 32]>,
    },
    Cancel {
        approval: ApprovalId,
        reason: String,
    },
    /// The request is gone (agent or hold ended); the approval goes on.
    Detach {
        request_id: [u8; 16],
        reason: String,
    },
    /// The release event: at most one per approval.
    Claim {
        request_id: [u8; 16],
        decision_id: [u8; 16],
        policy_version: u64,
    },
    Report {
        request_id: [u8; 16],
        outcome: ReportedOutcome,
        status: u16,
    },
    /// The current policy no longer permits it.
    Revoke {
        approval: ApprovalId,
        reason: String,
    },

    /// A key on loan to an edge process for what the policy allows (class C0).
    Lease {
        id: [u8; 16],
        edge: String,
        incarnation: [u8; 16],
        credential: String,
        version: u64,
        agent: String,
        ttl_ms: u64,
    },

    /// Time passes: whatever is due expires.
    Tick,
    /// Worth a record, changes nothing else (alarms, refused votes, seal attempts).
    Note {
        action: String,
        subject: String,
        details: Vec<(String, String)>,
    },
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

impl std::fmt::Display for ReportedOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::NotSent => "not sent",
            Self::Unknown => "unknown",
        })
    }
}

/// What a command did. Read the state for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Began,
    PrincipalChanged {
        name: String,
    },
    AgentChanged {
        id: String,
    },
    CredentialChanged {
        id: String,
        version: u64,
    },
    PolicyChanged {
        version: u64,
    },
    EdgeChanged {
        id: String,
    },
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
    /// Approvals that this tick settled, and the state that each reached.
    Ticked {
        settled: Vec<(ApprovalId, ApprovalState)>,
    },
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
    /// By agent and intent: the youngest approval, live or not. Another agent's same bytes are another intent.
    youngest: BTreeMap<(String, [u8; 32]), ApprovalId>,
    /// Approvals that came to an end, oldest first: what retention drops.
    ended: VecDeque<ApprovalId>,
    held: BTreeMap<[u8; 16], HeldRequest>,
    attached: BTreeSet<(ApprovalId, [u8; 16])>,
    deadlines: Deadlines,
    audit: audit::Log,
    answered: Answered,
}

/// What a command did, and what the audit log says about it: no record means that nothing changed.
struct Done {
    event: Event,
    records: Vec<Entry>,
}

impl Done {
    fn changed(event: Event, entry: Entry) -> Self {
        Self { event, records: vec![entry] }
    }

    fn unchanged(event: Event) -> Self {
        Self { event, records: Vec::new() }
    }
}

impl State {
    /// Applies one entry's commands in order; one outcome for each. Never panics, whatever the commands hold.
    ///
    /// A refused command changes nothing but the memory of having refused it (and, for votes and claims, the
    /// audit log). Every command that changes something appends exactly one audit record in the same step; `Tick`
    /// appends one for each approval and each released request that it settles.
    pub fn apply(&mut self, position: Position, batch: &Batch) -> Vec<Outcome> {
        self.position = position;
        self.log_time = self.log_time.max(batch.at);
        batch.proposals.iter().map(|proposal| self.answer(proposal)).collect()
    }

    fn answer(&mut self, proposal: &Proposal) -> Outcome {
        if let Some(outcome) = self.answered.recall(proposal.id) {
            return outcome;
        }
        let outcome = match self.carry_out(&proposal.actor, &proposal.command) {
            Ok(done) => {
                for entry in done.records {
                    self.audit.append(self.log_time, &proposal.actor, entry);
                }
                Ok(done.event)
            }
            Err(refused) => {
                if let Some(entry) = worth_a_record(&proposal.command, &refused) {
                    self.audit.append(self.log_time, &proposal.actor, entry);
                }
                Err(refused)
            }
        };
        self.answered.remember(proposal.id, outcome.clone(), self.log_time);
        outcome
    }

    fn carry_out(&mut self, actor: &Actor, command: &Command) -> Result<Done, Refused> {
        if self.genesis.is_none()
            && !matches!(command, Command::Genesis(_) | Command::Note { .. } | Command::Tick)
        {
            return Err(Refused::Precondition(
                "this cluster has not begun yet: the genesis comes first".into(),
            ));
        }
        match command {
            Command::Genesis(genesis) => self.begin(genesis),

            Command::AddPrincipal { name, roles, groups, token_sha256 } => {
                self.add_principal(actor, name, roles, groups, token_sha256)
            }
            Command::RotatePrincipal { name, token_sha256 } => {
                self.rotate_principal(actor, name, token_sha256)
            }
            Command::RemovePrincipal { name } => self.remove_principal(actor, name),

            Command::CreateAgent { id, name, owner, token_sha256 } => {
                self.create_agent(actor, id, name, owner.as_deref(), token_sha256)
            }
            Command::RotateAgent { name, token_sha256 } => {
                self.rotate_agent(actor, name, token_sha256)
            }
            Command::RevokeAgent { name } => self.revoke_agent(actor, name),

            Command::CreateCredential(credential) => self.create_credential(actor, credential),
            Command::RotateCredential { name, expected_version, payload } => {
                self.rotate_credential(actor, name, *expected_version, payload)
            }
            Command::RevokeCredential { name } => self.revoke_credential(actor, name),

            Command::SetPolicy { text, sha256, expected_version } => {
                self.set_policy(actor, text, sha256, *expected_version)
            }

            Command::EnrollEdge { id, name, key_sha256 } => {
                self.enroll_edge(actor, id, name, key_sha256)
            }
            Command::AttachEdge { id, incarnation } => self.attach_edge(actor, id, incarnation),
            Command::EvictEdge { name, reason } => self.evict_edge(actor, name, reason),

            Command::Open(open) => self.open(actor, open),
            Command::Vote { approval, principal, word, channel, reason, intent_digest } => {
                let vote = Vote {
                    principal: principal.clone(),
                    word: *word,
                    channel: name::clipped(channel, name::CHANNEL_BYTES),
                    reason: name::clipped(reason, name::REASON_BYTES),
                    at: self.log_time,
                    withdrawn: false,
                };
                self.vote(actor, *approval, vote, intent_digest.as_ref())
            }
            Command::Cancel { approval, reason } => self.cancel(actor, *approval, reason),
            Command::Detach { request_id, reason } => self.detach(actor, request_id, reason),
            Command::Claim { request_id, decision_id, policy_version } => {
                self.claim(actor, request_id, decision_id, *policy_version)
            }
            Command::Report { request_id, outcome, status } => {
                self.report(actor, request_id, *outcome, *status)
            }
            Command::Revoke { approval, reason } => self.revoke(actor, *approval, reason),

            Command::Lease { id, edge, incarnation, credential, version, agent, ttl_ms } => {
                let loan = lease::Loan {
                    id,
                    edge,
                    incarnation,
                    credential,
                    version: *version,
                    agent,
                    ttl_ms: *ttl_ms,
                };
                self.lease(actor, &loan)
            }

            Command::Tick => self.tick(actor),
            Command::Note { action, subject, details } => Ok(Done::changed(
                Event::Noted,
                Entry {
                    action: action.clone(),
                    subject: subject.clone(),
                    details: details.clone(),
                },
            )),
        }
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

    /// The active one of that name, else the youngest revoked one: a revoked name can be taken again.
    pub fn agent_named(&self, name: &str) -> Option<&Agent> {
        self.agents.values().filter(|a| a.name == name).max_by_key(|a| (a.active, a.created_at))
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

    /// The active one of that name, else the youngest revoked one: a revoked name can be taken again.
    pub fn credential_named(&self, name: &str) -> Option<&Credential> {
        self.credentials
            .values()
            .filter(|c| c.name == name)
            .max_by_key(|c| (c.active, c.created_at))
    }

    /// The policy in force; none before the first was set.
    pub fn policy(&self) -> Option<&PolicyVersion> {
        self.policies.last()
    }

    /// Every version that was ever in force, oldest first.
    pub fn policies(&self) -> impl DoubleEndedIterator<Item = &PolicyVersion> {
        self.policies.iter()
    }

    /// In the order of their ids, which is no order in time.
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
        self.attached
            .range((approval, [0; 16])..=(approval, [0xff; 16]))
            .filter_map(|(_, request_id)| self.held.get(request_id))
    }

    pub fn audit(&self) -> &audit::Log {
        &self.audit
    }

    /// The earliest log time at which a `Tick` would settle or forget something.
    pub fn next_due(&self) -> Option<Millis> {
        self.deadlines.next()
    }

    /// Whether this actor may do what needs one of these roles, at this very place in the log: a principal who was
    /// removed meanwhile may not.
    fn demand_role(&self, actor: &Actor, roles: &[Role]) -> Result<(), Refused> {
        match actor {
            Actor::System => Ok(()),
            Actor::Edge(id) => {
                Err(Refused::Denied(format!("edge {id} may not do what only people do")))
            }
            Actor::Principal(name) => match self.principals.get(name) {
                Some(p) if p.active && roles.iter().any(|role| p.roles.contains(role)) => Ok(()),
                Some(p) if p.active => Err(Refused::Denied(format!(
                    "{name} has not the role that this needs: ask an administrator to do it"
                ))),
                _ => Err(Refused::Denied(format!(
                    "there is no active principal {name}: it may have been removed"
                ))),
            },
        }
    }

    /// Whether this actor speaks for that edge.
    fn demand_edge(&self, actor: &Actor, edge: &str) -> Result<(), Refused> {
        match actor {
            Actor::System => Ok(()),
            Actor::Edge(id) if id == edge => Ok(()),
            Actor::Edge(id) => {
                Err(Refused::Denied(format!("edge {id} may not speak for edge {edge}")))
            }
            Actor::Principal(name) => {
                Err(Refused::Denied(format!("{name} may not speak for edge {edge}")))
            }
        }
    }
}

/// Refused votes and claims are what an auditor looks for first.
fn worth_a_record(command: &Command, refused: &Refused) -> Option<Entry> {
    match command {
        Command::Vote { approval, principal, word, channel, .. } => Some(
            Entry::new("vote.refused", approval)
                .with("principal", name::clipped(principal, name::REASON_BYTES))
                .with("word", word)
                .with("channel", name::clipped(channel, name::CHANNEL_BYTES))
                .with("why", refused),
        ),
        Command::Claim { request_id, decision_id, policy_version } => Some(
            Entry::new("claim.refused", hex::encode(request_id))
                .with("decision", hex::encode(decision_id))
                .with("policy_version", policy_version)
                .with("why", refused),
        ),
        _ => None,
    }
}
