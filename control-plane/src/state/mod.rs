//! The replicated state machine: pure and deterministic.
//!
//! `State::apply` takes what was committed and says what happened. It knows no clock (time is in the entry), no
//! randomness (ids and nonces are in the commands), no protobuf, no Raft, no disk. Every rule about who may do
//! what to an approval is enforced here, where it is applied, and nowhere else.

mod answered;
mod attention;
mod clock;
mod consent;
mod deadline;
mod dispatch;
mod genesis;
mod given;
mod lease;
mod name;
mod open;
mod release;
mod restore;
mod tap;
mod tick;
mod vote;

pub mod command;
pub mod event;

pub mod account;
pub mod agent;
pub mod approval;
pub mod approver;
pub mod audit;
pub mod away;
pub mod change;
pub mod channel;
pub mod credential;
pub mod delivery;
pub mod edge;
pub mod edge_ca;
pub mod grant;
pub mod held;
pub mod mint;
pub mod node;
pub mod policy;
pub mod requirement;
pub mod shown_ca;
pub mod trust;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

pub use account::Account;
pub use agent::Agent;
pub use approval::{Approval, ApprovalId, ApprovalState, Claim, Effect, Shown, Vote, VoteWord};
pub use approver::{Principal, Role};
pub use attention::{Announced, Nudge};
pub use audit::Record;
pub use away::Away;
pub use change::Change;
pub use channel::Channel;
pub use clock::ClockJump;
pub use command::{
    Actor, Batch, Command, CommandId, Genesis, Open, Position, Proposal, ReportedOutcome, Voter,
};
pub use credential::{Credential, Fake, Payload, ReleaseClass};
pub use delivery::{Attempt, Delivery, DeliveryId, DeliveryStatus, Message, Recipient};
pub use edge::Edge;
pub use edge_ca::{EdgeCa, FormerCa};
pub use event::{Event, Outcome, Refused};
pub use given::Given;
pub use grant::{Grant, GrantId, GrantUse, GrantWish, Scope};
pub use held::HeldRequest;
pub use mint::{
    Attempt as MintAttempt, ClientAuth, Mint, MintFailure, Minted, Minting, NewToken, OAuthGrant,
    Successor,
};
pub use node::{Addresses, Invitation, Node};
pub use policy::PolicyVersion;
pub use requirement::{Escalation, Panel, Proof, Requirement, Strength};
pub use restore::Newcomer;
pub use shown_ca::{Audience, ShownCa};
pub use tap::Tap;
pub use trust::{KeySignature, SignedBytes};

use answered::Answered;
use audit::Entry;
use deadline::Deadlines;

/// Milliseconds since 1970 in log time: stamped into entries by the leader, never decreasing.
pub type Millis = u64;

/// Everything that is replicated.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    genesis: Option<Box<Genesis>>,
    log_time: Millis,
    #[serde(default)]
    clock_jump: Option<ClockJump>,
    position: Position,
    principals: BTreeMap<String, Principal>,
    agents: BTreeMap<String, Agent>,
    edges: BTreeMap<String, Edge>,
    edge_ca: Option<Box<EdgeCa>>,
    credentials: BTreeMap<String, Credential>,
    policies: Vec<PolicyVersion>,
    nodes: BTreeMap<u64, Node>,
    /// None while they are those that the cluster began with.
    #[serde(default)]
    api_ca: Option<Box<ShownCa>>,
    #[serde(default)]
    node_ca: Option<Box<ShownCa>>,
    invitations: BTreeMap<String, Invitation>,
    trust_bundles: Vec<SignedBytes>,
    /// Bundles of an epoch below this one are refused: the edges may know higher ones.
    least_trust_epoch: u64,
    seal_file: Vec<u8>,
    /// Index of the last entry that changed what edges decide with.
    bundle_revision: u64,
    approvals: BTreeMap<ApprovalId, Approval>,
    /// By agent and intent: the youngest approval, live or not. Another agent's same bytes are another intent.
    youngest: BTreeMap<(String, [u8; 32]), ApprovalId>,
    /// Approvals that came to an end, oldest first: what retention drops.
    ended: VecDeque<ApprovalId>,
    held: BTreeMap<[u8; 16], HeldRequest>,
    attached: BTreeSet<(ApprovalId, [u8; 16])>,
    /// By agent: its approvals that wait for people.
    pending_of: BTreeMap<String, BTreeSet<ApprovalId>>,
    grants: BTreeMap<GrantId, Grant>,
    /// What waits for a second administrator.
    changes: BTreeMap<u64, Change>,
    last_change: u64,
    offers: account::Offers,
    attention: attention::Attention,
    #[serde(default)]
    channels: BTreeMap<String, Channel>,
    #[serde(default)]
    outbox: delivery::Outbox,
    #[serde(default)]
    heard: tap::HeardEvents,
    /// By channel: how far it was listened to, where nobody calls us.
    #[serde(default)]
    cursors: BTreeMap<String, String>,
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
                if !done.records.is_empty() && done.event.changes_bundle() {
                    self.bundle_revision = self.position.index;
                }
                for entry in done.records {
                    self.audit.append(self.log_time, &proposal.actor, entry);
                }
                Ok(done.event)
            }
            Err(refused) => {
                if let Some(entry) = dispatch::worth_a_record(&proposal.command, &refused) {
                    self.audit.append(self.log_time, &proposal.actor, entry);
                }
                Err(refused)
            }
        };
        self.answered.remember(proposal.id, outcome.clone(), self.log_time);
        outcome
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

    /// Keys in force that are sealed under an earlier term of the keyring than this one.
    pub fn credentials_under_older_terms(&self, term: u64) -> impl Iterator<Item = &Credential> {
        self.credentials.values().filter(move |it| it.active && it.payload.keyring_term() < term)
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

    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values()
    }

    pub fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.grants.get(&id)
    }

    /// What waits for a second administrator, oldest first.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.values()
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

    /// Index of the last entry that changed what edges decide with: equal states have it equal, and it only grows.
    pub fn bundle_revision(&self) -> u64 {
        self.bundle_revision
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
