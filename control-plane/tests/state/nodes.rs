//! Nodes: who may join, once, and what is burned when one is removed.

use countersign_control_plane::state::node::{NEW_KEY_TYPE, new_key_payload};
use countersign_control_plane::state::{
    Actor, Addresses, Command, Event, Node, Outcome, Refused, Role,
};
use countersign_gate::{KeyState, sign};

use crate::world::{
    CLUSTER, MINUTE, World, add_principal, node, public_key, signed_trust, signing_key, trust,
};

const TOKEN: [u8; 32] = [0x70; 32];

fn invite(name: &str) -> Command {
    Command::InviteNode { name: name.into(), token_sha256: TOKEN }
}

fn join(node: Node) -> Command {
    Command::JoinNode { token_sha256: TOKEN, node }
}

fn join_with(token_sha256: [u8; 32], node: Node) -> Command {
    Command::JoinNode { token_sha256, node }
}

fn remove(id: u64) -> Command {
    Command::RemoveNode { id, reason: "broken".into() }
}

/// The command by which node `id` gets the key of serial `new`, signed with that of serial `former`.
pub(crate) fn add_key(id: u8, new: u8, former: u8) -> Command {
    let payload = new_key_payload(CLUSTER, id.into(), &public_key(new));
    let by_former = sign(&signing_key(former), NEW_KEY_TYPE, &payload).to_vec();
    Command::AddNodeKey { id: id.into(), public_key: public_key(new), by_former }
}

fn refused_join(outcome: &Outcome, name: &str) -> bool {
    *outcome == Ok(Event::JoinRefused { name: name.into() })
}

/// Nodes 1, 2 and 3, all trusted, two of which must sign.
pub(crate) fn three_nodes() -> World {
    let mut world = World::begun();
    for (id, name) in [(2, "second"), (3, "third")] {
        world.admin(invite(name)).expect("is invited");
        assert_eq!(world.system(join(node(id, name))), Ok(Event::NodeChanged { id: id.into() }));
    }
    let bundle = signed_trust(&trust(2, 2, &[(1, 1), (2, 2), (3, 3)]));
    assert_eq!(world.admin(Command::SetTrust(bundle)), Ok(Event::TrustChanged { epoch: 2 }));
    world
}

#[test]
fn c_16_an_invitation_is_used_once() {
    let mut world = World::begun();
    let records = world.records();
    world.admin(invite("second")).expect("is invited");
    assert_eq!(world.state.invitations().count(), 1);
    assert_eq!(world.system(join(node(2, "second"))), Ok(Event::NodeChanged { id: 2 }));
    assert_eq!(world.state.node(2).map(|n| (n.joined_at, n.removed)), Some((world.now, false)));
    assert_eq!(world.state.invitations().count(), 0);
    assert!(refused_join(&world.system(join(node(3, "second"))), "second"));
    assert!(world.state.node(3).is_none());
    assert_eq!(world.actions_since(records), ["node.invite", "node.join"]);
}

#[test]
fn c_16_an_invitation_is_for_one_name() {
    let mut world = World::begun();
    world.admin(invite("second")).expect("is invited");
    assert!(refused_join(&world.system(join(node(2, "third"))), "third"));
    assert!(world.system(join(node(2, "second"))).is_ok());
}

#[test]
fn c_16_an_invitation_is_open_for_ten_minutes() {
    let mut world = World::begun();
    for (wait, id, joins) in [(10 * MINUTE - 1, 2, true), (10 * MINUTE, 3, false)] {
        let name = format!("n{id}");
        let invited = world.admin(invite(&name));
        let expires_at = world.now + 10 * MINUTE;
        assert_eq!(invited, Ok(Event::NodeInvited { name: name.clone(), expires_at }));
        world.pass(wait);
        let outcome = world.system(join(node(id, &name)));
        assert_eq!(outcome == Ok(Event::NodeChanged { id: id.into() }), joins, "{outcome:?}");
        assert_eq!(world.state.invitations().count(), 0);
    }
}

#[test]
fn c_16_the_fifth_wrong_token_closes_the_invitation_and_each_is_recorded() {
    let mut world = World::begun();
    world.admin(invite("second")).expect("is invited");
    world.admin(invite("third")).expect("is invited");
    let records = world.records();
    for _ in 0..5 {
        assert!(refused_join(&world.system(join_with([1; 32], node(2, "second"))), "second"));
    }
    assert_eq!(world.actions_since(records), ["node.join_refused"; 5]);
    assert!(refused_join(&world.system(join(node(2, "second"))), "second"), "the right one");
    assert!(world.system(join(node(3, "third"))).is_ok(), "another invitation is as it was");
    // Four wrong ones leave a try.
    world.admin(invite("second")).expect("is invited again");
    for _ in 0..4 {
        world.system(join_with([1; 32], node(2, "second"))).expect("is answered");
    }
    assert!(world.system(join(node(2, "second"))).is_ok());
}

#[test]
fn c_16_who_was_not_invited_cannot_make_the_audit_log_grow() {
    let mut world = World::begun();
    let records = world.records();
    for name in ["second", "", &"x".repeat(100_000)] {
        assert!(world.system(join(node(2, name))).is_ok());
    }
    assert_eq!(world.records(), records);
}

#[test]
fn c_16_the_state_keeps_no_token_and_no_record_says_its_hash() {
    let mut world = World::begun();
    world.admin(invite("second")).expect("is invited");
    world.system(join_with([0x71; 32], node(2, "second"))).expect("is answered");
    let said = format!("{:?}", world.state.audit().records());
    assert!(!said.contains(&hex::encode(TOKEN)) && !said.contains(&hex::encode([0x71; 32])));
}

#[test]
fn c_16_only_so_many_invitations_are_open_at_a_time() {
    let mut world = World::begun();
    for n in 0..64 {
        world.admin(invite(&format!("n{n}"))).expect("is invited");
    }
    assert!(matches!(world.admin(invite("n64")), Err(Refused::Precondition(_))));
    world.admin(invite("n7")).expect("the same name again takes the place of its invitation");
    world.pass(10 * MINUTE);
    world.admin(invite("n64")).expect("the others have expired");
    assert_eq!(world.state.invitations().count(), 1);
}

#[test]
fn only_admins_invite_remove_and_trust_and_only_the_control_plane_joins() {
    let mut world = three_nodes();
    world.admin(add_principal("eve", &[Role::Auditor], &[])).expect("is added");
    let bundle = signed_trust(&trust(3, 2, &[(1, 1), (2, 2)]));
    let commands = [
        invite("fourth"),
        remove(3),
        add_key(2, 12, 2),
        Command::SetTrust(bundle),
        Command::SetSeal { seal_file: vec![1], former_sha256: [0; 32], what: "rekey".into() },
    ];
    let nobody = [
        Actor::Principal("eve".into()),
        Actor::Principal("ana".into()),
        Actor::Principal("nobody".into()),
        Actor::Edge("e1".into()),
    ];
    for actor in &nobody {
        for command in &commands {
            let outcome = world.act(actor.clone(), command.clone());
            assert!(matches!(outcome, Err(Refused::Denied(_))), "{actor:?} {command:?}");
        }
    }
    let own = [
        join(node(4, "fourth")),
        Command::DescribeNode { id: 1, addresses: Addresses::default() },
        Command::Checkpoint { index: 1, chain: [0; 32] },
    ];
    for actor in nobody.iter().chain([&Actor::Principal("admin".into())]) {
        for command in &own {
            let outcome = world.act(actor.clone(), command.clone());
            assert!(matches!(outcome, Err(Refused::Denied(_))), "{actor:?} {command:?}");
        }
    }
}

#[test]
fn c_5_a_removed_nodes_id_and_key_are_never_used_again_and_its_name_is() {
    let mut world = three_nodes();
    assert_eq!(world.admin(remove(3)), Ok(Event::NodeChanged { id: 3 }));
    assert!(world.state.node(3).is_some_and(|n| n.removed));
    assert!(world.state.node_named("third").is_none());

    world.admin(invite("third")).expect("the name is free");
    let same_id = Node { public_keys: vec![public_key(30)], ..node(3, "third") };
    assert!(matches!(world.system(join(same_id)), Err(Refused::AlreadyExists(_))));
    let same_key = Node { id: 4, ..node(3, "third") };
    assert!(matches!(world.system(join(same_key)), Err(Refused::AlreadyExists(_))));
    assert!(world.system(join(node(4, "third"))).is_ok(), "the invitation was not used up");
    assert_eq!(world.state.node_named("third").map(|n| n.id), Some(4));
    assert!(world.state.node(3).is_some_and(|n| n.removed), "still burned");

    for again in [
        remove(3),
        Command::DescribeNode { id: 3, addresses: Addresses::default() },
        add_key(3, 33, 3),
    ] {
        assert!(matches!(world.system(again), Err(Refused::NotFound(_))));
    }
}

#[test]
fn c_5_a_node_joins_under_an_id_and_a_key_that_nobody_has() {
    let mut world = World::begun();
    world.admin(invite("second")).expect("is invited");
    for (wrong, why) in [
        (Node { id: 0, ..node(2, "second") }, "no id"),
        (Node { id: 1, ..node(2, "second") }, "the first node's id"),
        (Node { public_keys: vec![public_key(1)], ..node(2, "second") }, "the first node's key"),
        (Node { public_keys: vec![], ..node(2, "second") }, "no key"),
        (Node { public_keys: vec![public_key(2), public_key(3)], ..node(2, "second") }, "two keys"),
        (
            Node {
                addresses: Addresses { api: "x".repeat(301), ..Addresses::default() },
                ..node(2, "second")
            },
            "a long address",
        ),
        (
            Node {
                addresses: Addresses { own: vec![String::new(); 257], ..Addresses::default() },
                ..node(2, "second")
            },
            "many addresses",
        ),
    ] {
        assert!(world.system(join(wrong)).is_err(), "{why}");
    }
    let said = Node { removed: true, joined_at: 7, ..node(2, "second") };
    assert!(world.system(join(said)).is_ok());
    assert_eq!(world.state.node(2).map(|n| (n.removed, n.joined_at)), Some((false, world.now)));
}

#[test]
fn nobody_is_invited_under_the_name_of_a_node() {
    let mut world = World::begun();
    assert!(matches!(world.admin(invite("first")), Err(Refused::AlreadyExists(_))));
    assert!(matches!(world.admin(invite("no name")), Err(Refused::Invalid(_))));
}

#[test]
fn a_node_says_where_it_is_and_edges_learn_of_it_once() {
    let mut world = World::begun();
    let addresses = Addresses { api: "10.0.0.1:8443".into(), ..Addresses::default() };
    let describe = Command::DescribeNode { id: 1, addresses: addresses.clone() };
    let before = world.state.bundle_revision();
    assert_eq!(world.system(describe.clone()), Ok(Event::NodeChanged { id: 1 }));
    let told = world.state.bundle_revision();
    assert!(told > before);
    assert_eq!(world.state.node(1).map(|n| &n.addresses), Some(&addresses));
    let records = world.records();
    assert_eq!(world.system(describe), Ok(Event::NodeChanged { id: 1 }));
    assert_eq!((world.state.bundle_revision(), world.records()), (told, records));
}

#[test]
fn the_last_node_stays() {
    let mut world = World::begun();
    assert!(matches!(world.admin(remove(1)), Err(Refused::Precondition(_))));
}

#[test]
fn a_removed_node_counts_no_more_among_nodes_and_edges_are_told_with_the_next_bundle() {
    let mut world = three_nodes();
    assert!(world.state.next_trust().is_none(), "nothing to sign");
    world.admin(remove(2)).expect("is removed");
    let nodes =
        |keys: &[countersign_gate::NodeKey]| keys.iter().map(|k| k.node).collect::<Vec<_>>();
    assert_eq!(nodes(&world.state.trust().expect("is set").keys), [1, 2, 3], "as edges have it");
    assert_eq!(nodes(&world.state.signers().expect("is set").keys), [1, 3]);
    let next = world.state.next_trust().expect("is called for");
    assert_eq!((next.epoch, next.threshold, nodes(&next.keys)), (3, 2, vec![1, 3]));
    let outcome = world.admin(Command::SetTrust(signed_trust(&next)));
    assert_eq!(outcome, Ok(Event::TrustChanged { epoch: 3 }));
    assert!(world.state.next_trust().is_none());
}

#[test]
fn no_node_goes_when_too_few_would_be_left_to_sign() {
    let mut world = three_nodes();
    world.admin(remove(2)).expect("two are left, and two must sign");
    let outcome = world.admin(remove(3));
    assert!(matches!(outcome, Err(Refused::Precondition(_))), "{outcome:?}");
    assert!(world.state.node(3).is_some_and(|n| !n.removed));
    // A fourth that edges do not count yet does not help; one that they count does.
    world.admin(invite("fourth")).expect("is invited");
    world.system(join(node(4, "fourth"))).expect("joins");
    assert!(matches!(world.admin(remove(3)), Err(Refused::Precondition(_))));
    let next = world.state.next_trust().expect("is called for");
    world.admin(Command::SetTrust(signed_trust(&next))).expect("is set");
    assert!(world.admin(remove(3)).is_ok());
    // One that edges never counted can always go.
    world.admin(invite("fifth")).expect("is invited");
    world.system(join(node(5, "fifth"))).expect("joins");
    assert!(world.admin(remove(5)).is_ok());
}

#[test]
fn only_a_node_itself_names_another_key_for_it() {
    let mut world = three_nodes();
    let mut forged = add_key(2, 12, 2);
    if let Command::AddNodeKey { by_former, .. } = &mut forged {
        by_former[10] ^= 1;
    }
    let mut cut = add_key(2, 12, 2);
    if let Command::AddNodeKey { by_former, .. } = &mut cut {
        by_former.pop();
    }
    let mut moved = add_key(3, 12, 2);
    if let Command::AddNodeKey { id, .. } = &mut moved {
        *id = 2;
    }
    // By another node's key, by the new key itself, by no key.
    for command in [add_key(2, 12, 1), add_key(2, 12, 12), forged, cut, moved] {
        assert!(matches!(world.system(command), Err(Refused::Denied(_))));
    }
    assert_eq!(world.state.node(2).map(|n| n.public_keys.len()), Some(1));
    assert!(matches!(world.system(add_key(2, 3, 2)), Err(Refused::AlreadyExists(_))));

    assert_eq!(world.system(add_key(2, 12, 2)), Ok(Event::NodeChanged { id: 2 }));
    let keys = world.state.node(2).map(|n| n.public_keys.clone());
    assert_eq!(keys, Some(vec![public_key(2), public_key(12)]), "oldest first");
    let records = world.records();
    assert_eq!(world.system(add_key(2, 12, 2)), Ok(Event::NodeChanged { id: 2 }));
    assert_eq!(world.records(), records, "the same again changes nothing");
}

#[test]
fn a_key_is_changed_in_two_bundles() {
    let mut world = three_nodes();
    world.system(add_key(2, 12, 2)).expect("is added");
    let keys = |world: &World| {
        let next = world.state.next_trust().expect("is called for");
        let of_second = next.keys.iter().filter(|k| k.node == 2).map(|k| (k.public, k.state));
        let keys: Vec<_> = of_second.collect();
        (next, keys)
    };
    let (next, of_second) = keys(&world);
    assert_eq!(of_second, [(public_key(2), KeyState::Retired), (public_key(12), KeyState::Active)]);
    assert_eq!(next.threshold, 2);
    world.admin(Command::SetTrust(signed_trust(&next))).expect("is set");
    let (last, of_second) = keys(&world);
    assert_eq!(of_second, [(public_key(12), KeyState::Active)]);
    world.admin(Command::SetTrust(signed_trust(&last))).expect("is set");
    assert!(world.state.next_trust().is_none());
}

#[test]
fn of_three_keys_one_goes_that_no_edge_needs() {
    let mut world = three_nodes();
    let keys = |world: &World| {
        let keys = world.state.node(2).expect("is there").public_keys.clone();
        let serial = |key: &[u8; 32]| (0..=255).find(|s| public_key(*s) == *key).expect("is ours");
        keys.iter().map(serial).collect::<Vec<u8>>()
    };
    // Nobody signed a bundle with 12: it goes, not the one that edges count.
    world.system(add_key(2, 12, 2)).expect("is added");
    world.system(add_key(2, 13, 2)).expect("is added");
    assert_eq!(keys(&world), [2, 13]);
    // 2 is retired: it goes.
    let next = world.state.next_trust().expect("is called for");
    world.admin(Command::SetTrust(signed_trust(&next))).expect("is set");
    world.system(add_key(2, 14, 13)).expect("is added");
    assert_eq!(keys(&world), [13, 14]);
    // Both count: none can go.
    let both = trust(4, 2, &[(1, 1), (2, 13), (2, 14), (3, 3)]);
    world.admin(Command::SetTrust(signed_trust(&both))).expect("is set");
    assert!(matches!(world.system(add_key(2, 15, 14)), Err(Refused::Precondition(_))));
    assert_eq!(keys(&world), [13, 14]);
}
