//! Arbitrary sequences of commands from a small vocabulary, so that ids and intents collide all the time.

use std::collections::{BTreeMap, BTreeSet};

use ciborium::Value;
use countersign_control_plane::state::{
    Actor, Addresses, Approval, ApprovalId, ApprovalState, Audience, Batch, Command, Event,
    HeldRequest, Open, Outcome, Payload, Position, Principal, Proof, Proposal, ReportedOutcome,
    Requirement, Role, State, Strength, VoteWord, Voter,
};
use proptest::prelude::*;
use proptest::sample::select;
use sha2::{Digest as _, Sha256};

use crate::chats::chats;
use crate::checkpoints::checkpointed;
use crate::nodes::add_key;
use crate::restores::{NEW, newcomer};
use crate::world::{
    MINUTE, PRINCIPALS, START, World, add_principal, beginning, command_id, create_agent,
    credential, encoded, node, open, requirement, sealed, shown, signed_trust, trust, vote,
};

#[derive(Clone, Debug)]
struct Step {
    wait: u64,
    actor: Actor,
    command: Command,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = prop_oneof![12 => step().prop_map(|step| vec![step]), 3 => story(), 1 => joining()];
    proptest::collection::vec(some, 1..40).prop_map(|some| some.concat())
}

/// A whole life with some of its steps left out: chance alone seldom gets as far as a report.
fn story() -> impl Strategy<Value = Vec<Step>> {
    let request = (1u8..4, select(vec!["ana", "ben", "cat"]), reported());
    (request, opening(), proptest::collection::vec(prop::bool::weighted(0.85), 4)).prop_map(
        |((n, person, outcome), opening, kept)| {
            let id = [n; 16];
            let commands = [
                Command::Open(Box::new(Open {
                    request_id: id,
                    approval: ApprovalId(id),
                    ..opening
                })),
                vote(person, VoteWord::Approve, ApprovalId(id)),
                Command::Claim { request_id: id, decision_id: [0x80 | n; 16], policy_version: 1 },
                Command::Report { request_id: id, outcome, status: 200 },
            ];
            let steps = commands.into_iter().zip(kept).filter(|(_, kept)| *kept);
            steps.map(|(command, _)| Step { wait: 0, actor: Actor::System, command }).collect()
        },
    )
}

/// A node joins and is trusted, with some of the steps left out, and some others after.
fn joining() -> impl Strategy<Value = Vec<Step>> {
    let rest = proptest::collection::vec(nodes(), 0..4);
    (2u8..4, 2u64..4, proptest::collection::vec(prop::bool::weighted(0.9), 3), rest).prop_map(
        |(id, epoch, kept, rest)| {
            let name = if id == 2 { "second" } else { "third" };
            let keys = [(1, 1), (u64::from(id), id)];
            let commands = [
                Command::InviteNode { name: name.into(), token_sha256: [1; 32] },
                Command::JoinNode { token_sha256: [1; 32], node: node(id, name) },
                Command::SetTrust(signed_trust(&trust(epoch, 1, &keys))),
            ];
            let kept = commands.into_iter().zip(kept).filter(|(_, kept)| *kept);
            let commands = kept.map(|(command, _)| command).chain(rest);
            commands.map(|command| Step { wait: 0, actor: Actor::System, command }).collect()
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![
        24 => Just(0u64),
        4 => Just(30_000),
        2 => Just(3 * MINUTE),
        2 => Just(8 * MINUTE),
        1 => Just(20 * MINUTE),
    ];
    (wait, actor(), command()).prop_map(|(wait, actor, command)| {
        // People vote for themselves most of the time: else hardly any vote would count.
        let actor = match (&command, actor) {
            (Command::Vote { by: Voter::Principal(name), .. }, Actor::Principal(_)) => {
                Actor::Principal(name.clone())
            }
            (Command::Tick, _) => Actor::System,
            (_, actor) => actor,
        };
        Step { wait, actor, command }
    })
}

fn actor() -> impl Strategy<Value = Actor> {
    prop_oneof![
        16 => Just(Actor::System),
        1 => select(vec!["e1", "e2"]).prop_map(|e| Actor::Edge(e.into())),
        2 => select(vec!["admin", "ana", "ben"]).prop_map(|p| Actor::Principal(p.into())),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let request = || (1u8..4).prop_map(|n| [n; 16]);
    let approval = || (1u8..4).prop_map(|n| ApprovalId([n; 16]));
    let person = || select(PRINCIPALS.to_vec());
    prop_oneof![
        14 => opening().prop_map(|open| Command::Open(Box::new(open))),
        14 => (person(), word(), approval()).prop_map(|(p, w, id)| vote(p, w, id)),
        12 => (request(), any::<u128>(), prop_oneof![6 => Just(1u64), 1 => Just(2), 1 => Just(3)]).prop_map(|(request_id, decision, policy_version)| {
            Command::Claim { request_id, decision_id: decision.to_be_bytes(), policy_version }
        }),
        5 => (request(), reported()).prop_map(|(request_id, outcome)| {
            Command::Report { request_id, outcome, status: 200 }
        }),
        3 => Just(Command::Tick),
        1 => approval().prop_map(|approval| Command::Cancel { approval, reason: String::new() }),
        1 => approval().prop_map(|approval| Command::Revoke { approval, reason: String::new() }),
        1 => request().prop_map(|request_id| Command::Detach { request_id, reason: String::new() }),
        1 => (select(vec!["e1", "e2"]), 1u8..3).prop_map(|(id, n)| {
            Command::AttachEdge { id: id.into(), incarnation: [n; 16] }
        }),
        1 => person().prop_map(|name| Command::RemovePrincipal { name: name.into() }),
        1 => (person(), any::<bool>()).prop_map(|(name, ops)| {
            add_principal(name, &[Role::Approver], if ops { &["ops"] } else { &[] })
        }),
        1 => rare(),
        3 => nodes(),
        6 => chats(),
    ]
}

fn rare() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::SetPolicy {
            text: "# p".into(),
            sha256: [0; 32],
            expected_version: None,
            narrows: false
        }),
        (0u64..4).prop_map(|v| Command::SetPolicy {
            text: String::new(),
            sha256: [0; 32],
            expected_version: Some(v),
            narrows: v == 2,
        }),
        Just(Command::RevokeAgent { name: "mailer".into() }),
        Just(create_agent("a1", "mailer", None)),
        Just(create_agent("a3", "mailer", Some("ana"))),
        Just(Command::RotateAgent { name: "mailer".into(), token_sha256: [7; 32] }),
        Just(Command::RotatePrincipal { name: "ana".into(), token_sha256: [7; 32] }),
        Just(Command::RevokeCredential { name: "stripe".into() }),
        Just(Command::CreateCredential(Box::new(credential("c2", "stripe")))),
        (0u64..3).prop_map(|expected_version| Command::RotateCredential {
            name: "stripe".into(),
            expected_version,
            payload: sealed(3),
        }),
        (2u64..4).prop_map(|number| Command::RotateEdgeCa {
            number,
            certificate_pem: "CA".into(),
            key: sealed(3),
        }),
        Just(Command::FinishEdgeCa),
        Just(Command::RenewEdge { id: "e1".into() }),
        (0u64..3, 1u8..4, 1u64..4).prop_map(|(version, former, keyring_term)| {
            Command::ResealCredential {
                id: "c1".into(),
                version,
                former_sha256: sealed(former).sha256(),
                payload: Payload::Sealed { keyring_term, wrapped_key: vec![], ciphertext: vec![] },
            }
        }),
        Just(Command::EvictEdge { name: "west".into(), reason: String::new() }),
        Just(Command::EnrollEdge { id: "e3".into(), name: "east".into(), key_sha256: [7; 32] }),
        Just(Command::SuspectClock { by_ms: 2 * 60 * MINUTE }),
        Just(Command::ConfirmClock),
        Just(Command::ConfirmClock),
        Just(Command::Note { action: "n".into(), subject: "s".into(), details: vec![] }),
        Just(Command::Lease {
            id: [1; 16],
            edge: "e1".into(),
            incarnation: [1; 16],
            credential: "c1".into(),
            version: 1,
            agent: "a1".into(),
            ttl_ms: 1,
        }),
    ]
}

/// Nodes 2 and 3 come and go, keys change, and bundles and checkpoints are signed by some of them.
fn nodes() -> impl Strategy<Value = Command> {
    let id = || 2u8..4;
    let audience = || select(Audience::ALL.to_vec());
    let name = || select(vec!["second", "third"]);
    let token = || prop_oneof![4 => Just([1; 32]), 1 => Just([2; 32])];
    let bundles = vec![
        vec![(1, 1)],
        vec![(1, 1), (2, 2)],
        vec![(1, 1), (2, 2), (3, 3)],
        vec![(1, 1), (2, 12), (2, 2)],
    ];
    let checkpoints = World::begun();
    prop_oneof![
        3 => (name(), token()).prop_map(|(name, token_sha256)| {
            Command::InviteNode { name: name.into(), token_sha256 }
        }),
        4 => (id(), name(), token()).prop_map(|(id, name, token_sha256)| {
            Command::JoinNode { token_sha256, node: node(id, name) }
        }),
        1 => (1u64..4, "[a-z]{0,3}").prop_map(|(id, api)| {
            Command::DescribeNode { id, addresses: Addresses { api, ..Addresses::default() } }
        }),
        1 => (id(), 11u8..14, select(vec![2u8, 12, 13])).prop_map(|(id, new, former)| {
            add_key(id, new, former)
        }),
        1 => (audience(), 2u64..4).prop_map(|(to, number)| Command::RotateCa {
            to,
            number,
            certificate_pem: "CA".into(),
            bridge_pem: "bridge".into(),
            key: sealed(3),
        }),
        3 => (1u64..4, audience(), 2u64..4).prop_map(|(id, to, number)| Command::RenewNode {
            id,
            to,
            number
        }),
        1 => audience().prop_map(|to| Command::FinishCa { to }),
        1 => (1u64..4).prop_map(|id| Command::RemoveNode { id, reason: String::new() }),
        4 => (2u64..5, 1u32..3, select(bundles)).prop_map(|(epoch, threshold, keys)| {
            Command::SetTrust(signed_trust(&trust(epoch, threshold, &keys)))
        }),
        1 => (1u8..4, 1u8..4).prop_map(|(former, next)| Command::SetSeal {
            seal_file: format!("seal {next}").into_bytes(),
            former_sha256: Sha256::digest(format!("seal {former}")).into(),
            what: "rekey".into(),
        }),
        1 => any::<u64>().prop_map(|index| Command::Checkpoint { index, chain: [0; 32] }),
        2 => (1u64..10, 1u64..4, select(vec![vec![1], vec![1, 2], vec![3]])).prop_map(
            move |(index, epoch, signers)| {
                Command::CheckpointAudit(checkpointed(&checkpoints, index, epoch, &signers))
            }
        ),
    ]
}

fn opening() -> impl Strategy<Value = Open> {
    (
        1u8..4,
        prop_oneof![3 => Just(None), 1 => (1u8..4).prop_map(Some)],
        select(vec!["e1", "e1", "e1", "e2"]),
        select(vec!["a1", "a1", "a1", "a2"]),
        1u8..3,
        requirements(),
        prop_oneof![6 => Just(1u64), 2 => Just(2), 1 => Just(3)],
        select(vec![0u64, 2 * MINUTE, 15 * MINUTE, 15 * MINUTE, 15 * MINUTE]),
    )
        .prop_map(
            |(request, approval, edge, agent, intent, requirements, policy_version, hold_ms)| {
                Open {
                    approval: ApprovalId([approval.unwrap_or(request); 16]),
                    edge: edge.into(),
                    agent: agent.into(),
                    shown: shown(intent),
                    requirements,
                    policy_version,
                    hold_ms,
                    expires_ms: 10 * MINUTE,
                    unused_ms: 5 * MINUTE,
                    ..open(request)
                }
            },
        )
}

fn requirements() -> impl Strategy<Value = Vec<Requirement>> {
    prop_oneof![
        6 => Just(vec![requirement(&["*"], 1)]),
        3 => Just(vec![requirement(&["*"], 2)]),
        2 => Just(vec![requirement(&["ops"], 1)]),
        2 => Just(vec![requirement(&["ops"], 1), requirement(&["cat", "dan"], 1)]),
        1 => Just(vec![requirement(&["nobody"], 1)]),
        2 => Just(vec![]),
    ]
}

pub(crate) fn word() -> impl Strategy<Value = VoteWord> {
    prop_oneof![5 => Just(VoteWord::Approve), 1 => Just(VoteWord::Deny)]
}

fn reported() -> impl Strategy<Value = ReportedOutcome> {
    select(vec![ReportedOutcome::Completed, ReportedOutcome::NotSent, ReportedOutcome::Unknown])
}

/// The steps as log entries, after the beginning.
fn log(steps: &[Step]) -> Vec<Batch> {
    let mut at = START;
    let begun =
        beginning().into_iter().map(|command| Step { wait: 0, actor: Actor::System, command });
    begun
        .chain(steps.iter().cloned())
        .enumerate()
        .map(|(n, step)| {
            at += step.wait;
            let proposal =
                Proposal { id: command_id(n as u64 + 1), actor: step.actor, command: step.command };
            Batch { at, proposals: vec![proposal] }
        })
        .collect()
}

fn apply(state: &mut State, batches: &[Batch], from: usize) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (n, batch) in batches.iter().enumerate() {
        outcomes.extend(state.apply(Position { term: 1, index: (from + n) as u64 }, batch));
    }
    outcomes
}

/// What an onlooker holds against every step, counting for itself.
#[derive(Default)]
struct Onlooker {
    /// Where each approval was released.
    released: BTreeMap<ApprovalId, BTreeSet<Position>>,
    ended: BTreeMap<ApprovalId, ApprovalState>,
}

impl Onlooker {
    fn check(&mut self, before: &State, after: &State, command: &Command, outcome: &Outcome) {
        assert!(after.log_time() >= before.log_time(), "I14");
        check_nodes(before, after);
        if let Ok(Event::Claimed { approval: Some(id), claim, .. }) = outcome {
            let fresh = self.released.entry(*id).or_default().insert(claim.position);
            assert_eq!(self.released[id].len(), 1, "I2: two releases of {id}");
            if fresh {
                let approval = before.approval(*id).expect("was there");
                assert_eq!(before.clock_jump(), None, "released by a clock that jumped");
                assert_eq!(approval.state, ApprovalState::Approved, "I4");
                assert!(after.log_time() < approval.due, "I4: claimed when due");
                assert!(
                    approval.votes.iter().all(|v| v.word == VoteWord::Approve),
                    "deny beats approve"
                );
                assert!(recount(before, approval), "I1: released without enough who may approve");
                assert!(claim.at < claim.expires_at);
            }
        }
        if let (Command::Vote { word: VoteWord::Deny, .. }, Ok(Event::Voted { approval, state })) =
            (command, outcome)
        {
            assert_eq!(*state, ApprovalState::Denied, "one denial of {approval} is enough");
        }
        for approval in after.approvals() {
            self.check_approval(before, after, approval);
        }
        if matches!(command, Command::Tick) {
            assert!(
                after.next_due().is_none_or(|due| due > after.log_time()),
                "a tick leaves nothing due"
            );
        }
    }

    fn check_approval(&mut self, before: &State, after: &State, approval: &Approval) {
        use ApprovalState::{Completed, Released, Unknown};
        let voters: BTreeSet<_> = approval.votes.iter().map(|v| &v.principal).collect();
        assert_eq!(voters.len(), approval.votes.len(), "one vote for each principal");
        assert!(voters.len() <= after.principals().count(), "votes ≤ principals");
        let was_used = matches!(approval.state, Released | Completed | Unknown);
        assert_eq!(approval.claim.is_some(), was_used, "{:?}", approval.state);
        assert_eq!(approval.settled_at.is_some(), approval.state.is_terminal());
        if let Some(ended) = self.ended.get(&approval.id) {
            let told = matches!(
                (*ended, approval.state),
                (Released, Completed | Unknown) | (Unknown, Completed)
            );
            assert!(*ended == approval.state || told, "{ended:?} became {:?}", approval.state);
        }
        if approval.state.is_terminal() {
            self.ended.insert(approval.id, approval.state);
        }
        if approval.state == ApprovalState::Pending {
            assert!(can_be_met(after, approval), "waits for what nobody can say");
        }
        if approval.state == ApprovalState::Approved {
            assert!(recount(after, approval), "approved without enough who may approve");
        }
        if !approval.state.is_terminal() {
            assert!(after.next_due().is_some_and(|due| due <= approval.due), "falls due");
        }
        let held: BTreeSet<_> = after.held_for(approval.id).map(|h| h.request_id).collect();
        assert!(
            held.iter().all(|id| after.held(id).is_some_and(|h| h.approval == Some(approval.id)))
        );
        if before.approval(approval.id).is_none() {
            assert!(approval.votes.is_empty() && approval.claim.is_none());
        }
    }
}

/// C-5: a node stays what it was, and gone once gone; bundles only follow; enough are left to sign.
fn check_nodes(before: &State, after: &State) {
    for node in before.nodes() {
        let now = after.node(node.id).expect("ids are kept for ever");
        assert!(now.removed >= node.removed && now.name == node.name);
    }
    for to in Audience::ALL {
        let former_counts = after.shown_ca(to).is_some_and(|ca| ca.former_pem.is_some());
        assert!(!former_counts || after.nodes_to_renew(to).next().is_some(), "nobody needs it");
    }
    assert!(after.trust_bundles().starts_with(before.trust_bundles()));
    assert!(after.audit_checkpoints().starts_with(before.audit_checkpoints()));
    let (Some(was), Some(is)) = (before.trust(), after.trust()) else { return };
    assert!(is.epoch >= was.epoch && is.threshold >= was.threshold);
    let signers: BTreeSet<_> =
        after.signers().expect("is set").keys.iter().map(|k| k.node).collect();
    assert!(signers.len() >= is.threshold as usize, "nothing can be signed any more");
}

/// Whether the requirements are met, counted from scratch.
fn recount(state: &State, approval: &Approval) -> bool {
    let votes = approval.votes.iter().filter(|v| v.word == VoteWord::Approve && !v.withdrawn);
    let people: Vec<_> = votes.filter_map(|v| state.principal(&v.principal)).collect();
    enough(state, approval, &people)
}

/// Whether they would be if everybody approved.
fn can_be_met(state: &State, approval: &Approval) -> bool {
    enough(state, approval, &state.principals().collect::<Vec<_>>())
}

fn enough(state: &State, approval: &Approval, people: &[&Principal]) -> bool {
    let owner = state.agent(&approval.agent).and_then(|a| a.owner.clone());
    approval.requirements.iter().all(|r| {
        let counted: BTreeSet<_> = people
            .iter()
            .filter(|p| {
                p.active && p.roles.contains(&Role::Approver) && Some(&p.name) != owner.as_ref()
            })
            .filter(|p| {
                let of = &r.panels[0].of;
                of.iter().any(|a| a == "*" || *a == p.name || p.groups.contains(a))
            })
            .map(|p| &p.name)
            .collect();
        counted.len() >= r.panels[0].quorum as usize
    })
}

fn denied(state: &State) -> usize {
    state.approvals().filter(|a| a.state == ApprovalState::Denied).count()
}

/// Everything of a state but its log, its memory of commands and of what was heard, its position and its time.
fn substance(state: &State) -> Value {
    let mut value = Value::serialized(state).expect("a state encodes");
    if let Value::Map(fields) = &mut value {
        let aside = ["audit", "answered", "cursors", "heard", "position", "log_time"];
        fields.retain(|(name, _)| !name.as_text().is_some_and(|name| aside.contains(&name)));
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i_2_i_4_whatever_is_asked_nothing_is_released_twice_or_without_consent(steps in steps()) {
        let mut state = State::default();
        let mut onlooker = Onlooker::default();
        for (n, batch) in log(&steps).iter().enumerate() {
            let before = state.clone();
            let outcome = state.apply(Position { term: 1, index: n as u64 }, batch).pop().expect("one");
            onlooker.check(&before, &state, &batch.proposals[0].command, &outcome);
        }
        prop_assert_eq!(state.audit().verify(), Ok(()));
    }

    #[test]
    fn idempotence_the_same_commands_again_change_nothing(steps in steps(), again in any::<u64>()) {
        let log = log(&steps);
        let mut state = State::default();
        let first = apply(&mut state, &log, 0);
        let whole = encoded(&state);
        // Everything again, some of it twice, at the time of the last: as after an unknown outcome.
        let last = log.last().expect("the beginning").at;
        let second: Vec<_> = log
            .iter()
            .map(|batch| {
                let times = 1 + usize::from(again & (batch.proposals[0].id.client[15] as u64) != 0);
                let batch = Batch { at: last, proposals: vec![batch.proposals[0].clone(); times] };
                let outcomes = state.apply(state.position(), &batch);
                assert!(outcomes.iter().all(|o| *o == outcomes[0]));
                outcomes[0].clone()
            })
            .collect();
        prop_assert_eq!(first, second);
        prop_assert!(encoded(&state) == whole, "the state changed");
    }

    #[test]
    fn a_snapshot_and_the_rest_of_the_log_is_the_whole_log(steps in steps(), cut in any::<prop::sample::Index>()) {
        let log = log(&steps);
        let mut whole = State::default();
        let outcomes = apply(&mut whole, &log, 0);

        let cut = cut.index(log.len());
        let mut prefix = State::default();
        let mut both = apply(&mut prefix, &log[..cut], 0);
        let mut restored: State = ciborium::from_reader(encoded(&prefix).as_slice()).expect("decodes");
        prop_assert!(encoded(&restored) == encoded(&prefix), "the snapshot lost something");
        both.extend(apply(&mut restored, &log[cut..], cut));

        prop_assert_eq!(outcomes, both);
        prop_assert!(encoded(&restored) == encoded(&whole), "the states differ");
    }

    #[test]
    fn i_2_whatever_was_asked_nothing_of_it_is_released_after_a_restore(steps in steps()) {
        let log = log(&steps);
        let mut state = State::default();
        apply(&mut state, &log, 0);
        let held: Vec<_> = (1u8..4).map(|n| [n; 16]).filter(|id| state.held(id).is_some()).collect();
        let position = Position { term: 1 << 20, index: 1 << 40 };
        state.restore_for(NEW, &newcomer(), position).expect("is restored");
        prop_assert_eq!(state.audit().verify(), Ok(()));
        for approval in state.approvals() {
            prop_assert!(approval.state.is_terminal() && approval.state != ApprovalState::Released);
        }
        prop_assert_eq!(state.nodes().filter(|node| !node.removed).count(), 1);

        // Everything again, by those who asked before; and claims of all that was held.
        let claims = held.iter().flat_map(|id| (1..4).map(|version| Command::Claim {
            request_id: *id,
            decision_id: [9; 16],
            policy_version: version,
        }));
        let claims = claims.enumerate().map(|(n, command)| Batch {
            at: state.log_time(),
            proposals: vec![Proposal { id: command_id(1_000 + n as u64), actor: Actor::System, command }],
        });
        let again: Vec<_> = claims.chain(log.iter().filter(|batch| {
            matches!(batch.proposals[0].command, Command::Claim { .. })
        }).cloned()).collect();
        for outcome in apply(&mut state, &again, 0) {
            prop_assert!(outcome.is_err(), "{:?}", outcome);
        }
        let restored: State = ciborium::from_reader(encoded(&state).as_slice()).expect("decodes");
        prop_assert!(encoded(&restored) == encoded(&state));
    }

    #[test]
    fn i_5_what_changes_something_appends_exactly_one_record_and_nothing_else_does(steps in steps()) {
        let mut state = State::default();
        for (n, batch) in log(&steps).iter().enumerate() {
            let (before, records) = (substance(&state), state.audit().records().len());
            let denied_before = denied(&state);
            let outcome = state.apply(Position { term: 1, index: n as u64 }, batch).pop().expect("one");
            let changed = substance(&state) != before;
            let appended = state.audit().records().len() - records;
            let command = &batch.proposals[0].command;
            match (command, &outcome) {
                // A tick may also forget requests, and lose track of some that no approval was needed for.
                (Command::Tick, Ok(Event::Ticked { settled, .. })) => {
                    prop_assert!(appended >= settled.len());
                    prop_assert!(changed || appended == 0);
                }
                // One for the principal, and one for each approval that too few are left to approve.
                (Command::RemovePrincipal { .. }, Ok(_)) => {
                    prop_assert_eq!(appended, 1 + denied(&state) - denied_before);
                }
                (Command::Note { .. } | Command::Lease { .. }, Ok(_)) => {
                    prop_assert_eq!((changed, appended), (false, 1), "nothing but a record");
                }
                // Possibly to the very token, key or jump that was there.
                (
                    Command::EnrollEdge { .. }
                    | Command::InviteNode { .. }
                    | Command::RotateAgent { .. }
                    | Command::RotatePrincipal { .. }
                    | Command::SuspectClock { .. },
                    Ok(_),
                ) => prop_assert_eq!(appended, 1),
                (_, Ok(_)) => prop_assert_eq!(appended, usize::from(changed), "{:?}", command),
                (Command::Tap(_) | Command::Vote { .. } | Command::Claim { .. }, Err(_)) => {
                    prop_assert_eq!((changed, appended), (false, 1));
                }
                (_, Err(_)) => prop_assert_eq!((changed, appended), (false, 0), "{:?}", command),
            }
        }
    }

    #[test]
    fn the_order_of_approvals_does_not_matter(
        requirements in requirements(),
        votes in Just(PRINCIPALS.to_vec()).prop_shuffle(),
        count in 0usize..=4,
    ) {
        prop_assume!(!requirements.is_empty());
        let settle = |votes: &[&str]| {
            let mut world = World::begun();
            let id = world.opened(Open { requirements: requirements.clone(), ..open(1) });
            for principal in votes {
                let _ = world.approve(principal, id);
            }
            let approval = world.state.approval(id).expect("is there").clone();
            let voters: BTreeSet<_> = approval.votes.into_iter().map(|v| v.principal).collect();
            (approval.state, approval.due, voters, world.claim(1).is_ok())
        };
        let mut sorted = votes[..count].to_vec();
        sorted.sort_unstable();
        prop_assert_eq!(settle(&votes[..count]), settle(&sorted));
    }

    #[test]
    fn i_14_log_time_never_decreases(times in proptest::collection::vec(any::<u64>(), 1..50)) {
        let mut state = State::default();
        let mut latest = 0;
        for at in times {
            latest = latest.max(at);
            state.apply(Position::default(), &Batch { at, proposals: vec![] });
            prop_assert_eq!(state.log_time(), latest);
        }
    }

    #[test]
    fn nothing_that_is_asked_makes_it_panic(wild in proptest::collection::vec(wild(), 1..40)) {
        let mut state = State::default();
        apply(&mut state, &log(&[]), 0);
        for (n, (at, actor, command)) in wild.into_iter().enumerate() {
            let id = command_id(n as u64 % 7);
            state.apply(
                Position { term: u64::MAX, index: u64::MAX },
                &Batch { at, proposals: vec![Proposal { id, actor, command }, Proposal {
                    id: command_id(1_000 + n as u64),
                    actor: Actor::System,
                    command: Command::Tick,
                }] },
            );
            let _ = state.next_due();
        }
        prop_assert_eq!(state.audit().verify(), Ok(()));
        let restored: State = ciborium::from_reader(encoded(&state).as_slice()).expect("decodes");
        prop_assert!(encoded(&restored) == encoded(&state));
    }
}

/// Extreme numbers, strange texts, and times that jump.
fn wild() -> impl Strategy<Value = (u64, Actor, Command)> {
    let number = || prop_oneof![Just(0u64), Just(1), Just(START), Just(u64::MAX), any::<u64>()];
    let text = || {
        prop_oneof![
            Just(String::new()),
            Just("ana".to_owned()),
            Just("é".repeat(600)),
            any::<String>()
        ]
    };
    let strange = prop_oneof![
        (text(), text()).prop_map(|(id, name)| create_agent(&id, &name, None)),
        (text(), text()).prop_map(|(name, group)| add_principal(&name, &[Role::Admin], &[&group])),
        (text(), number()).prop_map(|(text, v)| Command::SetPolicy {
            text,
            sha256: [0; 32],
            expected_version: Some(v),
            narrows: false,
        }),
        (text(), text()).prop_map(|(id, name)| Command::EnrollEdge {
            id,
            name,
            key_sha256: [0; 32]
        }),
        (text(), number()).prop_map(|(name, expected_version)| Command::RotateCredential {
            name,
            expected_version,
            payload: sealed(0),
        }),
        (number(), number(), number(), any::<u32>()).prop_map(
            |(expires_ms, unused_ms, hold_ms, quorum)| {
                let requirements = vec![requirement(&["*"], quorum)];
                Command::Open(Box::new(Open {
                    expires_ms,
                    unused_ms,
                    hold_ms,
                    requirements,
                    ..open(1)
                }))
            }
        ),
        (number(), text()).prop_map(|(ttl_ms, agent)| Command::Lease {
            id: [0; 16],
            edge: "e1".into(),
            incarnation: [1; 16],
            credential: "c1".into(),
            version: 1,
            agent,
            ttl_ms,
        }),
        (text(), text(), text()).prop_map(|(principal, channel, reason)| Command::Vote {
            approval: ApprovalId([1; 16]),
            by: Voter::Principal(principal),
            word: VoteWord::Deny,
            channel,
            reason,
            intent_digest: None,
            strength: Strength::L2,
            proof: Proof::None,
            breaks_glass: false,
        }),
        command(),
    ];
    (number(), actor(), strange)
}

#[test]
fn the_vocabulary_reaches_every_state() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut reached = BTreeSet::new();
    let mut claimed_without_approval = false;
    let mut releases = 0;
    let mut of_nodes = [0; 4];
    for _ in 0..300 {
        let steps = steps().new_tree(&mut runner).expect("grows").current();
        let mut state = State::default();
        for (n, batch) in log(&steps).iter().enumerate() {
            let outcomes = state.apply(Position { term: 1, index: n as u64 }, batch);
            let changed = match outcomes[..] {
                [Ok(Event::NodeChanged { .. })] => Some(0),
                [Ok(Event::TrustChanged { .. })] => Some(1),
                [Ok(Event::AuditCheckpointed { .. })] => Some(2),
                [Ok(Event::SealChanged)] => Some(3),
                _ => None,
            };
            of_nodes[changed.unwrap_or(0)] += usize::from(changed.is_some());
            releases +=
                usize::from(matches!(outcomes[..], [Ok(Event::Claimed { approval: Some(_), .. })]));
            reached.extend(state.approvals().map(|a| a.state));
            claimed_without_approval |= (1u8..4).any(|r| {
                matches!(
                    state.held(&[r; 16]),
                    Some(HeldRequest { approval: None, claim: Some(_), .. })
                )
            });
        }
    }
    assert_eq!(reached.len(), 9, "{reached:?}");
    assert!(claimed_without_approval);
    assert!(releases > 100, "{releases} releases in 300 sequences");
    assert!(of_nodes.iter().all(|times| *times > 5), "{of_nodes:?}");
}
