//! The CAs of what nodes show: changed while nodes go over to the new one, and ended with the last of them.

use countersign_control_plane::state::{
    Actor, Audience, Command, Event, Outcome, Refused, Role, State,
};

use crate::nodes::three_nodes;
use crate::restores::{NEW, newcomer};
use crate::world::{World, add_principal, encoded, node, sealed};

const FIRST: &str = "-----BEGIN CERTIFICATE-----";

const NODES: Audience = Audience::Nodes;

fn rotate(number: u64) -> Command {
    rotate_of(NODES, number)
}

fn rotate_of(to: Audience, number: u64) -> Command {
    Command::RotateCa {
        to,
        number,
        certificate_pem: format!("CA {number}"),
        bridge_pem: format!("CA {number}, by the one before"),
        key: sealed(9),
    }
}

fn renew(world: &mut World, id: u64, number: u64) -> Outcome {
    world.system(Command::RenewNode { id, to: NODES, number })
}

fn changed(number: u64) -> Outcome {
    Ok(Event::CaChanged { to: NODES, number })
}

fn renewed(id: u64) -> Outcome {
    Ok(Event::NodeRenewed { id })
}

fn to_renew(state: &State) -> Vec<&str> {
    state.nodes_to_renew(NODES).map(|node| node.name.as_str()).collect()
}

fn trusted(state: &State) -> String {
    state.shown_ca(NODES).expect("there is one").trusted_pem()
}

#[test]
fn both_count_until_the_last_node_has_gone_over_and_from_then_on_the_new_one_alone() {
    let mut world = three_nodes();
    assert_eq!(trusted(&world.state), format!("{FIRST}\n"));
    assert!(to_renew(&world.state).is_empty());
    assert_eq!(renew(&mut world, 1, 1), renewed(1), "nobody waits for that");

    let before = world.records();
    assert_eq!(world.admin(rotate(2)), changed(2));
    assert_eq!(trusted(&world.state), format!("CA 2\n{FIRST}\n"));
    let ca = world.state.shown_ca(NODES).expect("there is one").into_owned();
    assert_eq!(ca.bridge_pem.as_deref(), Some("CA 2, by the one before"));
    assert_eq!(to_renew(&world.state), ["first", "second", "third"]);

    assert_eq!(renew(&mut world, 3, 2), renewed(3));
    assert_eq!(renew(&mut world, 3, 2), renewed(3), "may be said again");
    assert_eq!(renew(&mut world, 1, 1), renewed(1), "is of the one before");
    assert_eq!(renew(&mut world, 1, 3), renewed(1), "there is no such CA");
    assert_eq!(to_renew(&world.state), ["first", "second"]);
    assert_eq!(renew(&mut world, 1, 2), renewed(1));
    assert_eq!(trusted(&world.state), format!("CA 2\n{FIRST}\n"), "the second needs it");
    assert_eq!(renew(&mut world, 2, 2), changed(2));
    assert_eq!(trusted(&world.state), "CA 2\n");
    assert!(to_renew(&world.state).is_empty());
    assert_eq!(renew(&mut world, 2, 2), renewed(2));
    assert_eq!(
        world.actions_since(before),
        ["node_ca.rotate", "node.renew", "node.renew", "node.renew"],
        "one record for each change, none for what changed nothing"
    );
    let last = world.state.audit().records().last().expect("there is one");
    assert_eq!(last.detail("former_ca").map(String::as_str), Some("ended"));
    let ca = world.state.shown_ca(NODES).expect("there is one").into_owned();
    assert!(ca.bridge_pem.is_some(), "whoever was away may know the former one alone");
    assert_eq!(world.admin(rotate(3)), changed(3));
    assert_eq!(trusted(&world.state), "CA 3\nCA 2\n");
}

#[test]
fn a_node_that_joins_needs_the_new_one_alone_and_one_that_is_removed_needs_none() {
    let mut world = three_nodes();
    world.admin(rotate(2)).expect("is changed");
    let token_sha256 = [0x71; 32];
    let invite = Command::InviteNode { name: "fourth".into(), token_sha256 };
    world.admin(invite).expect("is invited");
    let join = Command::JoinNode { token_sha256, node: node(4, "fourth") };
    assert_eq!(world.system(join), Ok(Event::NodeChanged { id: 4 }));
    assert_eq!(to_renew(&world.state), ["first", "second", "third"]);
    for id in [1, 2] {
        assert_eq!(renew(&mut world, id, 2), renewed(id));
    }
    assert_eq!(trusted(&world.state), format!("CA 2\n{FIRST}\n"));

    let before = world.records();
    let remove = Command::RemoveNode { id: 3, reason: "its disk died".into() };
    assert_eq!(world.admin(remove), Ok(Event::NodeChanged { id: 3 }));
    assert_eq!(trusted(&world.state), "CA 2\n");
    assert_eq!(world.actions_since(before), ["node.remove"]);
    let removal = world.state.audit().records().last().expect("there is one");
    let ended = removal.detail("former_ca").map(String::as_str);
    assert_eq!(ended, Some("the nodes' CA ended"));
    assert!(matches!(renew(&mut world, 3, 2), Err(Refused::NotFound(_))));
}

#[test]
fn whoever_ends_the_former_one_leaves_nodes_out_and_it_stays_known_which() {
    let mut world = three_nodes();
    world.admin(rotate(2)).expect("is changed");
    renew(&mut world, 1, 2).expect("is renewed");
    let before = world.records();
    assert_eq!(world.admin(Command::FinishCa { to: NODES }), changed(2));
    assert_eq!(trusted(&world.state), "CA 2\n");
    assert_eq!(to_renew(&world.state), ["second", "third"]);
    assert_eq!(world.admin(Command::FinishCa { to: NODES }), changed(2), "once more does nothing");
    assert_eq!(world.actions_since(before), ["node_ca.finish"]);
    let record = world.state.audit().records().last().expect("there is one");
    assert_eq!(record.subject, "1");
    assert_eq!(record.detail("left").map(String::as_str), Some("2"));
}

#[test]
fn two_who_change_it_at_once_change_it_once_and_while_two_count_there_is_no_third() {
    let mut world = three_nodes();
    assert!(matches!(world.admin(rotate(3)), Err(Refused::Precondition(_))));
    assert!(matches!(world.admin(rotate(1)), Err(Refused::Precondition(_))));
    world.admin(rotate(2)).expect("is changed");
    renew(&mut world, 1, 2).expect("is renewed");
    for number in [2, 3] {
        let Err(Refused::Precondition(why)) = world.admin(rotate(number)) else {
            panic!("it was changed again")
        };
        assert!(why.contains("second, third") && !why.contains("first,"), "{why}");
    }
    world.admin(Command::FinishCa { to: NODES }).expect("is finished");
    assert!(matches!(world.admin(rotate(2)), Err(Refused::Precondition(_))));
    for (certificate_pem, bridge_pem) in [("", "by"), ("CA 3", "")] {
        let nothing = Command::RotateCa {
            to: NODES,
            number: 3,
            certificate_pem: certificate_pem.into(),
            bridge_pem: bridge_pem.into(),
            key: sealed(9),
        };
        assert!(matches!(world.admin(nothing), Err(Refused::Invalid(_))));
    }
}

#[test]
fn administrators_change_it_and_nobody_outside_says_what_a_node_shows() {
    let mut world = World::begun();
    world.admin(add_principal("eve", &[Role::Approver, Role::Auditor], &[])).expect("is added");
    for actor in [Actor::Principal("eve".into()), Actor::Edge("e1".into())] {
        for command in [rotate(2), Command::FinishCa { to: NODES }] {
            assert!(matches!(world.act(actor.clone(), command), Err(Refused::Denied(_))));
        }
    }
    world.admin(rotate(2)).expect("is changed");
    for actor in ["eve", "admin"].map(|name| Actor::Principal(name.into())) {
        let told = Command::RenewNode { id: 1, to: NODES, number: 2 };
        assert!(matches!(world.act(actor, told), Err(Refused::Denied(_))));
    }
    let told = Command::RenewNode { id: 1, to: NODES, number: 2 };
    assert!(matches!(world.act(Actor::Edge("e1".into()), told), Err(Refused::Denied(_))));
    assert_eq!(to_renew(&world.state), ["first"]);
    assert!(matches!(renew(&mut world, 9, 2), Err(Refused::NotFound(_))));
    assert_eq!(renew(&mut world, 1, 2), changed(2), "of one node, it is the last");
}

#[test]
fn a_snapshot_carries_it_and_a_state_of_before_there_was_another_has_the_first() {
    let mut world = three_nodes();
    let old = encoded(&world.state);
    world.admin(rotate(2)).expect("is changed");
    renew(&mut world, 1, 2).expect("is renewed");
    let bytes = encoded(&world.state);
    let mut read: State = ciborium::from_reader(bytes.as_slice()).expect("a state decodes");
    assert_eq!(encoded(&read), bytes);
    assert_eq!(trusted(&read), trusted(&world.state));
    assert_eq!(to_renew(&read), ["second", "third"]);
    std::mem::swap(&mut world.state, &mut read);
    renew(&mut world, 2, 2).expect("is renewed");
    assert_eq!(renew(&mut world, 3, 2), changed(2));

    let mut fields: ciborium::Value = ciborium::from_reader(old.as_slice()).expect("decodes");
    let ciborium::Value::Map(named) = &mut fields else { panic!("a state is a map") };
    let all = named.len();
    named.retain(|(name, _)| name.as_text() != Some("node_ca"));
    assert_eq!(named.len(), all - 1);
    world.state = fields.deserialized().expect("a state of before decodes");
    assert_eq!(trusted(&world.state), format!("{FIRST}\n"));
    assert_eq!(world.admin(rotate(2)), changed(2));
}

#[test]
fn the_apis_changes_by_itself_and_edges_are_told_with_their_next_bundle() {
    let mut world = three_nodes();
    let api = Audience::Clients;
    let told = |world: &World| {
        let ca = world.state.shown_ca(api).expect("there is one");
        (ca.trusted_pem(), world.state.bundle_revision())
    };
    let (first, before) = told(&world);
    assert_eq!(first, format!("{FIRST}\n"));
    assert_eq!(world.admin(rotate_of(api, 2)), Ok(Event::CaChanged { to: api, number: 2 }));
    let (both, begun) = told(&world);
    assert_eq!(both, format!("CA 2\n{FIRST}\n"));
    assert!(begun > before);
    assert_eq!(trusted(&world.state), format!("{FIRST}\n"), "of the nodes' it says nothing");
    assert!(to_renew(&world.state).is_empty());

    for id in [1, 2] {
        world.system(Command::RenewNode { id, to: api, number: 2 }).expect("is renewed");
        assert_eq!(told(&world), (both.clone(), begun), "edges go on with the same");
    }
    let last = Command::RenewNode { id: 3, to: api, number: 2 };
    assert_eq!(world.system(last), Ok(Event::CaChanged { to: api, number: 2 }));
    let (new, ended) = told(&world);
    assert_eq!(new, "CA 2\n");
    assert!(ended > begun);
    let records = world.state.audit().records();
    let said: Vec<_> = records.iter().filter_map(|record| record.detail("ca")).collect();
    assert_eq!(said, ["the API's CA 2"; 3]);
}

#[test]
fn of_a_restored_cluster_the_newer_one_alone_counts() {
    let mut world = three_nodes();
    world.admin(rotate(2)).expect("is changed");
    renew(&mut world, 1, 2).expect("is renewed");
    let position = world.state.position();
    world.state.restore_for(NEW, &newcomer(), position).expect("is restored");
    assert_eq!(trusted(&world.state), "CA 2\n");
    assert!(to_renew(&world.state).is_empty());
    assert_eq!(world.admin(rotate(3)), changed(3));
}
