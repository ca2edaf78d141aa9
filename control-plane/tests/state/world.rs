//! A small cluster's state and short words for what is asked of it.

use std::collections::BTreeSet;

use countersign_control_plane::state::{
    Actor, Addresses, ApprovalId, ApprovalState, Batch, Claim, Command, CommandId, Credential,
    Effect, Event, Fake, Genesis, KeySignature, Minting, Node, Open, Outcome, Payload, Position,
    Proof, Proposal, Refused, ReleaseClass, ReportedOutcome, Requirement, Role, Shown, SignedBytes,
    State, Strength, VoteWord, Voter,
};
use countersign_gate::{KeyState, NodeKey, TRUST_TYPE, Trust, sign};
use ed25519_dalek::SigningKey;

pub(crate) const CLUSTER: &str = "cluster-1";
/// Serial of the key that signs trust bundles.
pub(crate) const ROOT: u8 = 200;
pub(crate) const START: u64 = 1_700_000_000_000;
pub(crate) const MINUTE: u64 = 60_000;
pub(crate) const EXPIRES: u64 = 15 * MINUTE;
pub(crate) const UNUSED: u64 = 10 * MINUTE;
pub(crate) const HOLD: u64 = 60 * MINUTE;
pub(crate) const PRINCIPALS: [&str; 4] = ["ana", "ben", "cat", "dan"];

/// Edges `e1` and `e2` (attached, incarnation 1), agents `a1` (owned by dan) and `a2`, approvers ana and ben
/// (group `ops`), cat and dan, credential `c1` named stripe, policy version 1.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) now: u64,
    index: u64,
}

impl World {
    pub(crate) fn empty() -> Self {
        Self { state: State::default(), now: START, index: 0 }
    }

    pub(crate) fn begun() -> Self {
        let mut world = Self::empty();
        for command in beginning() {
            let outcome = world.system(command.clone());
            assert!(outcome.is_ok(), "{command:?}: {outcome:?}");
        }
        world
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.now += millis;
    }

    pub(crate) fn system(&mut self, command: Command) -> Outcome {
        self.act(Actor::System, command)
    }

    pub(crate) fn admin(&mut self, command: Command) -> Outcome {
        self.act(Actor::Principal("admin".into()), command)
    }

    pub(crate) fn act(&mut self, actor: Actor, command: Command) -> Outcome {
        self.index += 1;
        let id = command_id(self.index);
        self.propose(Proposal { id, actor, command })
    }

    pub(crate) fn propose(&mut self, proposal: Proposal) -> Outcome {
        let position = Position { term: 1, index: self.index };
        let batch = Batch { at: self.now, proposals: vec![proposal] };
        self.state.apply(position, &batch).pop().expect("one outcome for one proposal")
    }

    pub(crate) fn tick(&mut self) -> Vec<(ApprovalId, ApprovalState)> {
        match self.system(Command::Tick) {
            Ok(Event::Ticked { settled, .. }) => settled,
            other => panic!("a tick answers with what it settled, not {other:?}"),
        }
    }

    /// The approval that the request leads to, and whether it joined one.
    pub(crate) fn open(&mut self, open: Open) -> Result<(Option<ApprovalId>, bool), Refused> {
        match self.system(Command::Open(Box::new(open)))? {
            Event::Opened { approval, joined, .. } => Ok((approval, joined)),
            other => panic!("an open answers with what was opened, not {other:?}"),
        }
    }

    pub(crate) fn opened(&mut self, open: Open) -> ApprovalId {
        self.open(open).expect("opens").0.expect("has an approval")
    }

    pub(crate) fn vote(
        &mut self,
        principal: &str,
        word: VoteWord,
        id: ApprovalId,
    ) -> Result<ApprovalState, Refused> {
        match self.act(Actor::Principal(principal.into()), vote(principal, word, id))? {
            Event::Voted { state, .. } => Ok(state),
            other => panic!("a vote answers with a state, not {other:?}"),
        }
    }

    pub(crate) fn approve(
        &mut self,
        principal: &str,
        id: ApprovalId,
    ) -> Result<ApprovalState, Refused> {
        self.vote(principal, VoteWord::Approve, id)
    }

    pub(crate) fn deny(
        &mut self,
        principal: &str,
        id: ApprovalId,
    ) -> Result<ApprovalState, Refused> {
        self.vote(principal, VoteWord::Deny, id)
    }

    pub(crate) fn claim(&mut self, request: u8) -> Result<Claim, Refused> {
        let policy_version = self.state.policy().map_or(0, |p| p.version);
        self.claim_under(request, policy_version)
    }

    pub(crate) fn claim_under(
        &mut self,
        request: u8,
        policy_version: u64,
    ) -> Result<Claim, Refused> {
        let decision_id = (u128::from(self.index) + 1_000).to_be_bytes();
        match self.system(Command::Claim {
            request_id: [request; 16],
            decision_id,
            policy_version,
        })? {
            Event::Claimed { claim, .. } => Ok(claim),
            other => panic!("a claim answers with the claim, not {other:?}"),
        }
    }

    pub(crate) fn report(
        &mut self,
        request: u8,
        outcome: ReportedOutcome,
    ) -> Result<Option<ApprovalState>, Refused> {
        match self.system(Command::Report { request_id: [request; 16], outcome, status: 200 })? {
            Event::Reported { state, .. } => Ok(state),
            other => panic!("a report answers with a state, not {other:?}"),
        }
    }

    pub(crate) fn state_of(&self, id: ApprovalId) -> ApprovalState {
        self.state.approval(id).expect("is kept").state
    }

    pub(crate) fn set_policy(&mut self) -> u64 {
        match self.system(Command::SetPolicy {
            text: "# next".into(),
            sha256: [1; 32],
            expected_version: None,
            narrows: false,
        }) {
            Ok(Event::PolicyChanged { version }) => version,
            other => panic!("a policy is set, not {other:?}"),
        }
    }

    /// Audit actions since the record with that index.
    pub(crate) fn actions_since(&self, index: usize) -> Vec<&str> {
        self.state.audit().records()[index..].iter().map(|r| r.action.as_str()).collect()
    }

    pub(crate) fn records(&self) -> usize {
        self.state.audit().records().len()
    }
}

pub(crate) fn beginning() -> Vec<Command> {
    beginning_with(genesis())
}

pub(crate) fn beginning_with(genesis: Genesis) -> Vec<Command> {
    let mut commands = vec![Command::Genesis(Box::new(genesis))];
    for name in PRINCIPALS {
        let groups: &[&str] = if matches!(name, "ana" | "ben") { &["ops"] } else { &[] };
        commands.push(add_principal(name, &[Role::Approver], groups));
    }
    commands.extend([
        create_agent("a1", "mailer", Some("dan")),
        create_agent("a2", "builder", None),
        Command::EnrollEdge { id: "e1".into(), name: "east".into(), key_sha256: [1; 32] },
        Command::EnrollEdge { id: "e2".into(), name: "west".into(), key_sha256: [2; 32] },
        Command::AttachEdge { id: "e1".into(), incarnation: [1; 16] },
        Command::AttachEdge { id: "e2".into(), incarnation: [1; 16] },
        Command::CreateCredential(Box::new(credential("c1", "stripe"))),
        Command::SetPolicy {
            text: "# first".into(),
            sha256: [1; 32],
            expected_version: Some(0),
            narrows: false,
        },
    ]);
    commands
}

pub(crate) fn command_id(n: u64) -> CommandId {
    CommandId { client: u128::from(n).to_be_bytes(), serial: 1 }
}

pub(crate) fn add_principal(name: &str, roles: &[Role], groups: &[&str]) -> Command {
    Command::AddPrincipal {
        name: name.into(),
        roles: roles.iter().copied().collect(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect::<BTreeSet<_>>(),
        token_sha256: [3; 32],
    }
}

pub(crate) fn create_agent(id: &str, name: &str, owner: Option<&str>) -> Command {
    Command::CreateAgent {
        id: id.into(),
        name: name.into(),
        owner: owner.map(Into::into),
        token_sha256: [4; 32],
    }
}

pub(crate) fn vote(principal: &str, word: VoteWord, approval: ApprovalId) -> Command {
    Command::Vote {
        approval,
        by: Voter::Principal(principal.into()),
        word,
        channel: "cli".into(),
        reason: String::new(),
        intent_digest: None,
        strength: Strength::L2,
        proof: Proof::None,
        breaks_glass: false,
    }
}

pub(crate) fn sealed(byte: u8) -> Payload {
    Payload::Sealed { keyring_term: 1, wrapped_key: vec![byte; 4], ciphertext: vec![byte; 8] }
}

pub(crate) fn credential(id: &str, name: &str) -> Credential {
    Credential {
        id: id.into(),
        name: name.into(),
        version: 7,
        host: "api.stripe.com".into(),
        port: 443,
        slot: "header:authorization".into(),
        template: "Bearer {key}".into(),
        class: ReleaseClass::Auto,
        fakes: vec![Fake { key: format!("fake-of-{id}"), active: true }],
        payload: sealed(1),
        active: false,
        created_at: 0,
        acts_as: None,
        mint: None,
        minting: Minting::default(),
    }
}

pub(crate) fn genesis() -> Genesis {
    let trust = signed_trust(&trust(1, 1, &[(1, 1)]));
    Genesis {
        cluster_id: CLUSTER.into(),
        org_id: "org-1".into(),
        node: node(1, "first"),
        root_public_key: signing_key(ROOT).verifying_key().to_bytes(),
        trust,
        seal_file: b"seal 1".to_vec(),
        edge_ca_pem: "-----BEGIN CERTIFICATE-----".into(),
        edge_ca_key: sealed(4),
        node_ca_pem: "-----BEGIN CERTIFICATE-----".into(),
        node_ca_key: sealed(5),
        api_ca_pem: "-----BEGIN CERTIFICATE-----".into(),
        api_ca_key: sealed(6),
        admin_token_sha256: [9; 32],
    }
}

/// As [`genesis`], by a node of another id.
pub(crate) fn genesis_of(id: u64) -> Genesis {
    let trust = signed_trust(&trust(1, 1, &[(id, 1)]));
    Genesis { node: Node { id, ..node(1, "first") }, trust, ..genesis() }
}

/// Node `id` with the one key that has its number.
pub(crate) fn node(id: u8, name: &str) -> Node {
    Node {
        id: id.into(),
        name: name.into(),
        addresses: Addresses { cluster: format!("10.0.0.{id}:9443"), ..Addresses::default() },
        public_keys: vec![public_key(id)],
        removed: false,
        joined_at: 0,
    }
}

pub(crate) fn signing_key(serial: u8) -> SigningKey {
    SigningKey::from_bytes(&[serial; 32])
}

pub(crate) fn public_key(serial: u8) -> [u8; 32] {
    signing_key(serial).verifying_key().to_bytes()
}

/// A bundle of active keys: (node, serial of the key).
pub(crate) fn trust(epoch: u64, threshold: u32, keys: &[(u64, u8)]) -> Trust {
    let key = |(node, serial): &(u64, u8)| NodeKey {
        node: *node,
        public: public_key(*serial),
        state: KeyState::Active,
    };
    Trust { cluster: CLUSTER.into(), epoch, threshold, keys: keys.iter().map(key).collect() }
}

/// By the root key.
pub(crate) fn signed_trust(trust: &Trust) -> SignedBytes {
    signed(TRUST_TYPE, trust.encode(), &[ROOT])
}

pub(crate) fn signed(payload_type: &str, payload: Vec<u8>, signers: &[u8]) -> SignedBytes {
    let signatures = signers.iter().map(|serial| {
        let key_id = vec![*serial];
        let signature = sign(&signing_key(*serial), payload_type, &payload).to_vec();
        KeySignature { key_id, signature }
    });
    SignedBytes { signatures: signatures.collect(), payload }
}

pub(crate) fn requirement(approvers: &[&str], quorum: u32) -> Requirement {
    Requirement::of("payments", approvers, quorum)
}

/// Request `request` of agent a1 at edge e1, with the bytes of intent 1, asking for one approver, under policy 1.
/// The approval that it would bring about has the request's number.
pub(crate) fn open(request: u8) -> Open {
    Open {
        approval: ApprovalId([request; 16]),
        request_id: [request; 16],
        edge: "e1".into(),
        incarnation: [1; 16],
        agent: "a1".into(),
        request_digest: [request; 32],
        policy_version: 1,
        rule: "payments".into(),
        requirements: vec![requirement(&["*"], 1)],
        credentials: vec![("c1".into(), 1)],
        shown: shown(1),
        expires_ms: EXPIRES,
        unused_ms: UNUSED,
        cool_down_ms: MINUTE,
        remind_ms: None,
        most_pending: 1_000,
        observed: Vec::new(),
        hold_ms: HOLD,
        traceparent: String::new(),
    }
}

pub(crate) fn shown(intent: u8) -> Shown {
    Shown {
        intent_digest: [intent; 32],
        method: "POST".into(),
        scheme: "https".into(),
        host: "api.stripe.com".into(),
        port: 443,
        path: "/v1/charges".into(),
        query: None,
        headers: vec![("content-type".into(), "application/json".into())],
        body_bytes: 13,
        body_sha256: [5; 32],
        body_preview: b"canary-body-7".to_vec(),
        uninspectable: false,
        effect: Effect::Unknown,
    }
}

pub(crate) fn encoded(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(state, &mut bytes).expect("a state encodes");
    bytes
}
