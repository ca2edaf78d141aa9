//! What can be asked of the state, by whom, and where it was committed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::audit::SignedCheckpoint;
use super::{
    Account, Addresses, ApprovalId, Audience, Channel, Credential, DeliveryId, GrantId, GrantWish,
    Millis, NewToken, Node, Payload, Proof, Recipient, Requirement, Role, Shown, SignedBytes,
    Strength, Tap, VoteWord,
};

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
    /// All the groups that a principal belongs to from now on.
    SetGroups {
        name: String,
        groups: BTreeSet<String>,
    },
    /// Out of office until then; None: back again. `stand_in` votes in their place meanwhile.
    SetAway {
        name: String,
        until: Option<Millis>,
        stand_in: Option<String>,
        reason: String,
    },
    /// The actor is about to prove that an account of this platform is theirs.
    OfferLink {
        platform: String,
        code_sha256: [u8; 32],
    },
    /// This account has said the code of that hash.
    LinkAccount {
        code_sha256: [u8; 32],
        account: Account,
    },
    UnlinkAccount {
        principal: String,
        account: Account,
    },

    /// What waits for a second administrator is done.
    ConfirmChange {
        id: u64,
    },
    RejectChange {
        id: u64,
        reason: String,
    },

    /// Makes a channel, or changes the one of that name: `version` is one more than the one that is there.
    SetChannel(Box<Channel>),
    /// The same secrets under another term of the keyring.
    ResealChannel {
        name: String,
        former_sha256: [u8; 32],
        secrets: Payload,
    },
    RemoveChannel {
        name: String,
    },
    /// A harmless card.
    TestChannel {
        channel: String,
        to: Recipient,
    },
    /// A delivery is about to be attempted.
    AttemptDelivery {
        delivery: DeliveryId,
        handle: [u8; 16],
        place: String,
        /// It will show all of the request.
        #[serde(default)]
        whole: bool,
    },
    Delivered {
        handle: [u8; 16],
        place: String,
        message: String,
        rendered_sha256: [u8; 32],
        face: [u8; 32],
    },
    NotDelivered {
        delivery: DeliveryId,
        why: String,
        not_before: Option<Millis>,
        for_good: bool,
    },
    /// The platform shows this face now; or will not, and why.
    Faced {
        delivery: DeliveryId,
        face: [u8; 32],
        why_not: String,
    },
    /// An account has answered a card.
    Tap(Box<Tap>),
    /// An account has typed a code that is no card's.
    WrongCode {
        account: Account,
    },
    /// A channel was listened to until there.
    SetCursor {
        channel: String,
        cursor: String,
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
    SetOwner {
        agent: String,
        owner: Option<String>,
    },

    CreateCredential(Box<Credential>),
    RotateCredential {
        name: String,
        expected_version: u64,
        payload: Payload,
    },
    /// The same key under another term of the keyring, in the place of that very payload and of no other.
    ResealCredential {
        id: String,
        version: u64,
        former_sha256: [u8; 32],
        payload: Payload,
    },
    RevokeCredential {
        name: String,
    },
    /// A call for a token is about to leave: no other leaves while this one is under way.
    BeginMint {
        id: String,
        version: u64,
        attempt: [u8; 16],
    },
    /// What it brought.
    KeepToken(Box<NewToken>),
    /// It brought nothing.
    FailMint {
        id: String,
        version: u64,
        attempt: [u8; 16],
        why: String,
        for_good: bool,
    },

    SetPolicy {
        text: String,
        sha256: [u8; 32],
        expected_version: Option<u64>,
        /// The node that proposes it has compared it with the one in force of version `expected_version`: it lets
        /// nothing more through, and asks no fewer people. Without an expected version it says nothing.
        narrows: bool,
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
    /// An edge is about to be given a certificate of the newest CA, for the key that it has.
    RenewEdge {
        id: String,
    },
    EvictEdge {
        name: String,
        reason: String,
    },

    /// From now on this CA signs edges' certificates; those of the one before count until that is finished.
    RotateEdgeCa {
        number: u64,
        certificate_pem: String,
        key: Payload,
    },
    FinishEdgeCa,

    InviteNode {
        name: String,
        token_sha256: [u8; 32],
    },
    /// From now on this CA signs what nodes show; certificates of the one before count until every node shows one of this,
    /// or that is finished.
    RotateCa {
        to: Audience,
        number: u64,
        certificate_pem: String,
        /// The same CA, signed by the one before.
        bridge_pem: String,
        key: Payload,
    },
    /// A node shows a certificate of the CA of this number, and trusts that CA.
    RenewNode {
        id: u64,
        to: Audience,
        number: u64,
    },
    FinishCa {
        to: Audience,
    },

    /// A node shows its token and says who it is. `removed` and `joined_at` of the record are not read.
    JoinNode {
        token_sha256: [u8; 32],
        node: Node,
    },
    DescribeNode {
        id: u64,
        addresses: Addresses,
    },
    /// A node's own doing: `by_former` is the signature of a key that it has, over `node::new_key_payload`.
    AddNodeKey {
        id: u64,
        public_key: [u8; 32],
        #[serde(with = "serde_bytes")]
        by_former: Vec<u8>,
    },
    RemoveNode {
        id: u64,
        reason: String,
    },
    /// A trust bundle (`countersign_gate::Trust`), signed with the root key.
    SetTrust(SignedBytes),
    /// Another wrapping of the root key, or another term of the keyring.
    SetSeal {
        seal_file: Vec<u8>,
        /// SHA-256 of the one that it replaces.
        former_sha256: [u8; 32],
        what: String,
    },
    /// Log time went on by so much more than the clock since boot of the leader that stamps this very entry.
    SuspectClock {
        by_ms: u64,
    },
    /// An operator has looked at the clocks.
    ConfirmClock,
    /// What the leader came to after the entry `index` (a fingerprint that the cluster room makes): a node that came
    /// to something else stops.
    Checkpoint {
        index: u64,
        chain: [u8; 32],
    },
    /// The audit log up to a record, signed by a quorum.
    CheckpointAudit(SignedCheckpoint),

    /// A held request: joins the live approval of the same intent, or opens one. Upsert by request id.
    Open(Box<Open>),
    /// One principal's word. With an account, that of whoever it is linked to when this is applied.
    Vote {
        approval: ApprovalId,
        by: Voter,
        word: VoteWord,
        channel: String,
        reason: String,
        intent_digest: Option<[u8; 32]>,
        strength: Strength,
        proof: Proof,
        /// Alone, in an emergency: needs a reason.
        breaks_glass: bool,
    },
    AskGrant(Box<GrantWish>),
    SupportGrant {
        id: GrantId,
        principal: String,
        channel: String,
        reason: String,
        strength: Strength,
        proof: Proof,
    },
    RevokeGrant {
        id: GrantId,
        reason: String,
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

/// Who votes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Voter {
    /// By an adapter that has verified that it was this account.
    Account(Account),
    /// By name, from a session of theirs.
    Principal(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Genesis {
    pub cluster_id: String,
    pub org_id: String,
    /// The node that the cluster begins with.
    pub node: Node,
    /// Ed25519: signs trust bundles. Its private half is in no state and no vault.
    pub root_public_key: [u8; 32],
    /// The first trust bundle: this node alone.
    pub trust: SignedBytes,
    /// `seal.json` as it is now.
    pub seal_file: Vec<u8>,
    /// The first CA that signs edge certificates: PEM, and its sealed key (PEM).
    pub edge_ca_pem: String,
    pub edge_ca_key: Payload,
    /// CA of what nodes show to each other.
    pub node_ca_pem: String,
    pub node_ca_key: Payload,
    /// CA of what every node shows to operators and edges.
    pub api_ca_pem: String,
    pub api_ca_key: Payload,
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
    /// For so long after a denial the same intent meets the denial.
    pub cool_down_ms: u64,
    /// People are reminded when so much of `expires_ms` is left.
    pub remind_ms: Option<u64>,
    /// As many approvals of this agent may be pending at once, this one included.
    pub most_pending: u32,
    /// Rules that only observe, and that this is about.
    pub observed: Vec<String>,
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
