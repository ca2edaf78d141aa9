//! The CA of edges' certificates: changed while edges go over to the new one, and finished.

use countersign_control_plane::state::edge_ca::FORMER_CA_MS;
use countersign_control_plane::state::{Actor, Command, EdgeCa, Event, Refused, Role, State};

use crate::world::{World, add_principal, encoded, sealed};

fn rotate(number: u64) -> Command {
    Command::RotateEdgeCa { number, certificate_pem: format!("CA {number}"), key: sealed(9) }
}

fn renew(world: &mut World, id: &str) -> Result<Event, Refused> {
    world.act(Actor::Edge(id.into()), Command::RenewEdge { id: id.into() })
}

fn to_renew(state: &State) -> Vec<&str> {
    state.edges_to_renew().map(|edge| edge.name.as_str()).collect()
}

fn trusted(state: &State) -> String {
    state.edge_ca().map(EdgeCa::trusted_pem).expect("there is one")
}

#[test]
fn both_count_until_every_edge_has_gone_over_and_that_is_finished() {
    let mut world = World::begun();
    assert_eq!(trusted(&world.state), "-----BEGIN CERTIFICATE-----\n");
    assert!(to_renew(&world.state).is_empty());

    let before = world.records();
    assert_eq!(world.admin(rotate(2)), Ok(Event::EdgeCaChanged { number: 2 }));
    assert_eq!(trusted(&world.state), "CA 2\n-----BEGIN CERTIFICATE-----\n");
    assert_eq!(to_renew(&world.state), ["east", "west"]);

    assert_eq!(renew(&mut world, "e1"), Ok(Event::EdgeRenewed { id: "e1".into() }));
    renew(&mut world, "e1").expect("may be said again");
    assert_eq!(to_renew(&world.state), ["west"]);
    let again = Command::EnrollEdge { id: "e9".into(), name: "west".into(), key_sha256: [7; 32] };
    world.admin(again).expect("is enrolled again");
    assert!(to_renew(&world.state).is_empty(), "its certificate is of the newest CA");

    assert_eq!(world.admin(Command::FinishEdgeCa), Ok(Event::EdgeCaChanged { number: 2 }));
    assert_eq!(trusted(&world.state), "CA 2\n");
    assert_eq!(world.state.next_due(), None);
    assert_eq!(world.admin(Command::FinishEdgeCa), Ok(Event::EdgeCaChanged { number: 2 }));
    assert_eq!(
        world.actions_since(before),
        ["edge_ca.rotate", "edge.renew", "edge.enroll", "edge_ca.finish"],
        "one record for each change, none for what changed nothing"
    );
    assert_eq!(world.admin(rotate(3)), Ok(Event::EdgeCaChanged { number: 3 }));
}

#[test]
fn the_former_one_ends_by_itself_once_every_certificate_of_it_has_ended() {
    let mut world = World::begun();
    world.admin(rotate(2)).expect("is changed");
    world.pass(FORMER_CA_MS - 1);
    world.tick();
    assert!(trusted(&world.state).ends_with("CERTIFICATE-----\n"));
    world.pass(1);
    assert_eq!(world.state.next_due(), Some(world.now));
    let before = world.records();
    world.tick();
    assert_eq!(trusted(&world.state), "CA 2\n");
    assert_eq!(world.actions_since(before), ["edge_ca.finish"]);
    let record = world.state.audit().records().last().expect("there is one");
    assert_eq!(record.detail("left").map(String::as_str), Some("2"), "two edges were left out");
    assert_eq!(world.state.next_due(), None);
}

#[test]
fn two_who_change_it_at_once_change_it_once_and_a_change_that_is_not_finished_is_finished_first() {
    let mut world = World::begun();
    assert!(matches!(world.admin(rotate(3)), Err(Refused::Precondition(_))));
    world.admin(rotate(2)).expect("is changed");
    assert!(matches!(world.admin(rotate(2)), Err(Refused::Precondition(_))));
    assert!(matches!(world.admin(rotate(3)), Err(Refused::Precondition(_))));
    world.admin(Command::FinishEdgeCa).expect("is finished");
    assert!(matches!(world.admin(rotate(2)), Err(Refused::Precondition(_))));
    let nothing =
        Command::RotateEdgeCa { number: 3, certificate_pem: String::new(), key: sealed(9) };
    assert!(matches!(world.admin(nothing), Err(Refused::Invalid(_))));
}

#[test]
fn administrators_change_it_and_an_edge_renews_itself_alone() {
    let mut world = World::begun();
    world.admin(add_principal("eve", &[Role::Approver, Role::Auditor], &[])).expect("is added");
    for actor in [Actor::Principal("eve".into()), Actor::Edge("e1".into())] {
        for command in [rotate(2), Command::FinishEdgeCa] {
            assert!(matches!(world.act(actor.clone(), command), Err(Refused::Denied(_))));
        }
    }
    world.admin(rotate(2)).expect("is changed");
    let other = Command::RenewEdge { id: "e2".into() };
    assert!(matches!(world.act(Actor::Edge("e1".into()), other), Err(Refused::Denied(_))));
    assert!(matches!(renew(&mut world, "e7"), Err(Refused::NotFound(_))));
    world.admin(Command::EvictEdge { name: "west".into(), reason: String::new() }).expect("is out");
    assert_eq!(to_renew(&world.state), ["east"], "nobody waits for an edge that was evicted");
    assert!(matches!(renew(&mut world, "e2"), Err(Refused::Denied(_))));
}

#[test]
fn a_snapshot_carries_it() {
    let mut world = World::begun();
    world.admin(rotate(2)).expect("is changed");
    renew(&mut world, "e1").expect("is renewed");
    let bytes = encoded(&world.state);
    let mut read: State = ciborium::from_reader(bytes.as_slice()).expect("a state decodes");
    assert_eq!(encoded(&read), bytes);
    assert_eq!(trusted(&read), trusted(&world.state));
    assert_eq!(to_renew(&read), ["west"]);
    std::mem::swap(&mut world.state, &mut read);
    world.pass(FORMER_CA_MS);
    world.tick();
    assert_eq!(trusted(&world.state), "CA 2\n");
}
