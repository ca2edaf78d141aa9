//! A state out of a backup: nothing of it is used twice, and the new node can go on with it.

use countersign_control_plane::state::{
    Addresses, ApprovalState, Command, Event, Newcomer, Open, Position, Refused, ReportedOutcome,
    State,
};
use countersign_gate::TRUST_TYPE;

use crate::nodes::three_nodes;
use crate::world::{
    MINUTE, World, encoded, node, open, public_key, shown, signed, signed_trust, trust,
};

pub(crate) const NEW: u64 = 77;
const AHEAD: Position = Position { term: 1_000_000, index: 1 << 40 };

pub(crate) fn newcomer() -> Newcomer {
    Newcomer { name: "first".into(), addresses: Addresses::default(), public_key: public_key(77) }
}

/// The world goes on as one that was restored from what it was.
fn restored(mut world: World) -> World {
    world.state.restore_for(NEW, &newcomer(), AHEAD).expect("is restored");
    world
}

/// Of three nodes: request 1 waits for approval, 2 is approved, 3 is released, 4 is completed, and 5 is allowed by
/// policy and released.
fn busy() -> World {
    let mut world = three_nodes();
    for n in 1..=4 {
        world.opened(Open { shown: shown(n), ..open(n) });
    }
    world.open(Open { requirements: vec![], shown: shown(5), ..open(5) }).expect("opens");
    for n in 2..=4 {
        world.approve("ana", open(n).approval).expect("counts");
    }
    for n in 3..=5 {
        world.claim(n).expect("is released");
    }
    world.report(4, ReportedOutcome::Completed).expect("is taken");
    world
}

#[test]
fn what_was_open_or_approved_is_revoked_and_what_was_released_is_unknown() {
    let world = restored(busy());
    let states = [1, 2, 3, 4].map(|n| world.state_of(open(n).approval));
    use ApprovalState::{Completed, Revoked, Unknown};
    assert_eq!(states, [Revoked, Revoked, Unknown, Completed]);
    for n in [1, 2] {
        let approval = world.state.approval(open(n).approval).expect("is kept");
        assert_eq!(approval.reason, "restored from a backup");
        assert!(approval.settled_at.is_some());
    }
    assert!(world.state.next_due().is_none_or(|due| due > world.now));
}

#[test]
fn i_2_nothing_of_the_lost_cluster_is_released_again() {
    let before = busy();
    let claim_again = |world: &mut World, request: u8| world.claim(request).err();
    let mut world = restored(busy());
    for n in 1..=5 {
        assert!(claim_again(&mut world, n).is_some(), "request {n}");
    }
    // Not under the very identity that was answered with the release, either.
    let id = before.state.audit().records().len() as u64;
    let mut replayed = 0;
    for serial in 1..=id + 40 {
        let proposal = countersign_control_plane::state::Proposal {
            id: crate::world::command_id(serial),
            actor: countersign_control_plane::state::Actor::System,
            command: Command::Claim {
                request_id: [3; 16],
                decision_id: [0; 16],
                policy_version: 1,
            },
        };
        replayed += usize::from(world.propose(proposal).is_ok());
    }
    assert_eq!(replayed, 0);
    // Nor does the edge's process of that time open anything: it has to attach again.
    let outcome = world.open(Open { shown: shown(9), ..open(9) });
    assert!(matches!(outcome, Err(Refused::Precondition(_))), "{outcome:?}");
}

#[test]
fn people_are_asked_again_when_the_agent_tries_again() {
    let mut world = restored(busy());
    world.system(Command::AttachEdge { id: "e1".into(), incarnation: [2; 16] }).expect("attaches");
    let again = Open { incarnation: [2; 16], shown: shown(2), ..open(12) };
    let id = world.opened(again);
    assert_eq!((id, world.state_of(id)), (open(12).approval, ApprovalState::Pending));
    world.approve("ben", id).expect("counts");
    let claim = world.claim(12).expect("is released");
    assert!(claim.position.index < AHEAD.index, "the test counts for itself");
    // What was released in the lost cluster can still be told.
    assert_eq!(world.report(3, ReportedOutcome::Completed), Ok(Some(ApprovalState::Completed)));
}

#[test]
fn c_5_every_node_there_was_is_burned_and_invitations_are_void() {
    let mut before = busy();
    let token_sha256 = [1; 32];
    before.admin(Command::InviteNode { name: "late".into(), token_sha256 }).expect("is invited");
    let mut world = restored(before);
    let members: Vec<_> = world.state.nodes().filter(|n| !n.removed).map(|n| n.id).collect();
    assert_eq!(members, [NEW]);
    assert_eq!(world.state.nodes().count(), 4, "kept for ever");
    assert_eq!(world.state.invitations().count(), 0);
    let late = Command::JoinNode { token_sha256, node: node(9, "late") };
    assert_eq!(world.system(late), Ok(Event::JoinRefused { name: "late".into() }));
    for id in 1..4 {
        let addresses = Addresses::default();
        assert!(world.system(Command::DescribeNode { id, addresses }).is_err());
    }

    for (id, key, why) in [(0, 77, "no id"), (2, 77, "an id of before"), (78, 2, "a key of before")]
    {
        let newcomer = Newcomer { public_key: public_key(key), ..newcomer() };
        let outcome = busy().state.restore_for(id, &newcomer, AHEAD);
        assert!(matches!(outcome, Err(Refused::AlreadyExists(_))), "{why}");
    }
    let nobody = Newcomer { name: "No Name".into(), ..newcomer() };
    assert!(matches!(busy().state.restore_for(NEW, &nobody, AHEAD), Err(Refused::Invalid(_))));
    let mut never_begun = State::default();
    let outcome = never_begun.restore_for(NEW, &newcomer(), AHEAD);
    assert!(matches!(outcome, Err(Refused::Precondition(_))));
}

#[test]
fn trust_goes_on_beyond_what_edges_saw_and_the_threshold_stays() {
    let mut world = restored(busy());
    // The lost cluster may have got to epoch 3 and further; nobody of its nodes counts here any more.
    let epoch = world.state.next_trust_epoch();
    assert!(epoch >= 1_000);
    assert_eq!(world.state.signers().map(|trust| trust.keys.len()), Some(0));
    let own = |epoch, threshold, keys: &[(u64, u8)]| {
        Command::SetTrust(signed_trust(&trust(epoch, threshold, keys)))
    };
    assert!(world.admin(own(3, 2, &[(NEW, 77)])).is_err());
    assert!(world.admin(own(epoch, 1, &[(NEW, 77)])).is_err(), "edges would refuse it");
    assert!(world.admin(own(epoch, 2, &[(NEW, 77)])).is_err(), "two must sign");
    let token_sha256 = [1; 32];
    world.admin(Command::InviteNode { name: "second".into(), token_sha256 }).expect("is invited");
    world.system(Command::JoinNode { token_sha256, node: node(8, "second") }).expect("joins");
    let next = world.state.next_trust().expect("is called for");
    assert_eq!(next, trust(epoch, 2, &[(8, 8), (NEW, 77)]));
    assert_eq!(
        world.admin(Command::SetTrust(signed(TRUST_TYPE, next.encode(), &[crate::world::ROOT]))),
        Ok(Event::TrustChanged { epoch })
    );
    assert_eq!(world.state.next_trust_epoch(), epoch + 1, "one by one from there");
}

#[test]
fn of_a_single_node_the_next_bundle_is_the_new_ones() {
    let mut world = restored(World::begun());
    let next = world.state.next_trust().expect("is called for");
    assert_eq!((next.threshold, next.keys.len()), (1, 1));
    assert!(world.admin(Command::SetTrust(signed_trust(&next))).is_ok());
}

#[test]
fn the_audit_log_goes_on_and_says_what_became_of_everything() {
    let before = busy();
    let records = before.records();
    let world = restored(before);
    assert_eq!(
        world.actions_since(records),
        [
            "cluster.restore",
            "approval.revoke",
            "approval.revoke",
            "approval.unknown",
            "request.unknown"
        ]
    );
    assert_eq!(world.state.verify_audit(None).fault, None);
    let record = &world.state.audit().records()[records];
    assert_eq!(record.actor, "system");
    assert_eq!(record.detail("position"), Some(&"1000000.1099511627776".to_owned()));
}

#[test]
fn log_time_and_everything_else_go_on() {
    let before = busy();
    let (time, policy) = (before.state.log_time(), before.state.policy().map(|p| p.version));
    let revision = before.state.bundle_revision();
    let mut world = restored(before);
    assert_eq!(world.state.log_time(), time);
    assert_eq!(world.state.policy().map(|p| p.version), policy);
    assert!(world.state.bundle_revision() > revision, "edges take what it decides with");
    assert!(world.state.principal("admin").is_some_and(|p| p.active));
    world.pass(MINUTE);
    assert!(world.tick().is_empty());
}

#[test]
fn the_same_backup_gives_the_same_state() {
    let [one, two] = [busy(), busy()].map(restored);
    assert!(encoded(&one.state) == encoded(&two.state));
    let again: State = ciborium::from_reader(encoded(&one.state).as_slice()).expect("decodes");
    assert!(encoded(&again) == encoded(&one.state));
}
