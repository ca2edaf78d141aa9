//! Several nodes: what one of them cannot take, the next one is asked.

use countersign_proto::v1;
use tonic::Status;
use v1::ApprovalState::{Approved, Denied, Pending};

use super::control_plane::{Authority, ControlPlane};
use super::run::Place;

fn agents(name: &str) -> v1::ListAgentsResponse {
    let agents = vec![v1::Agent { name: name.into(), ..v1::Agent::default() }];
    v1::ListAgentsResponse { agents, ..Default::default() }
}

fn two() -> (ControlPlane, ControlPlane) {
    let authority = Authority::new();
    (ControlPlane::of(&authority), ControlPlane::of(&authority))
}

fn listed(place: &Place) -> String {
    place.run(&["agent", "list", "-o", "json"]).json()[0]["agent"].as_str().unwrap().to_owned()
}

#[test]
fn a_node_that_is_down_is_passed_over() {
    let up = ControlPlane::start().answers("ListAgents", &[agents("robot")]);
    let mut place = Place::knowing(&up);
    place.set("COUNTERSIGN_ADDR", &format!("https://127.0.0.1:1, {}", up.addr()));
    assert_eq!(listed(&place), "robot");
}

#[test]
fn a_node_without_a_leader_or_with_a_sealed_vault_is_passed_over() {
    for why in ["no leader", "sealed: unseal it with `countersign seal unseal`"] {
        let (cannot, can) = two();
        let cannot = cannot.refuses("ListAgents", Status::unavailable(why));
        let can = can.answers("ListAgents", &[agents("robot")]);
        assert_eq!(listed(&Place::knowing_all(&[&cannot, &can])), "robot");
        assert!(cannot.was_asked("ListAgents"));
    }
}

#[test]
fn a_no_is_a_no_and_nobody_else_is_asked() {
    let (first, second) = two();
    let first = first.refuses("ListAgents", Status::permission_denied("that takes the role admin"));
    let second = second.answers("ListAgents", &[agents("robot")]);
    Place::knowing_all(&[&first, &second]).run(&["agent", "list"]).fails(1, &["the role admin"]);
    assert!(second.was_asked_nothing());
}

#[test]
fn a_mutation_keeps_its_identity_at_the_next_node() {
    let (first, second) = two();
    let first = first.refuses("CreateAgent", Status::unavailable("no leader"));
    let agent = Some(v1::Agent { name: "robot".into(), ..v1::Agent::default() });
    let made = v1::CreateAgentResponse { agent, token: "cs_agt_x".into() };
    let second = second.answers("CreateAgent", &[made]);
    let mut place = Place::knowing_all(&[&first, &second]);
    place.set("COUNTERSIGN_EDGE", "http://127.0.0.1:40001");
    place.run(&["agent", "create", "robot"]).ok();
    let asked: [v1::CreateAgentRequest; 2] =
        [first.asked("CreateAgent"), second.asked("CreateAgent")];
    assert_eq!(asked[0], asked[1]);
}

#[test]
fn when_none_takes_it_the_reason_is_told() {
    let (first, _) = two();
    let first = first.refuses("ListAgents", Status::unavailable("sealed: unseal it"));
    let mut place = Place::knowing(&first);
    place.set("COUNTERSIGN_ADDR", &format!("{},https://127.0.0.1:1", first.addr()));
    place.run(&["agent", "list"]).fails(1, &["sealed"]);
    place.set("COUNTERSIGN_ADDR", "https://127.0.0.1:1,https://127.0.0.1:2");
    place
        .run(&["agent", "list"])
        .fails(3, &["https://127.0.0.1:1 cannot", "https://127.0.0.1:2 cannot"]);
    place.set("COUNTERSIGN_ADDR", &format!("{},http://127.0.0.1:2", first.addr()));
    place.run(&["agent", "list"]).fails(2, &["http://127.0.0.1:2"]);
}

#[test]
fn an_edge_is_connected_whichever_node_it_is_attached_to() {
    let authority = Authority::new();
    let node = |id: &str, connected: bool| {
        let edge = |edge_id: &str, connected| v1::Edge {
            edge_id: edge_id.into(),
            connected,
            ca: 2,
            ..v1::Edge::default()
        };
        let edges = vec![edge("east", connected), edge("west", false)];
        let status = v1::GetStatusResponse {
            node_id: id.into(),
            connected_edges: connected.into(),
            ..Default::default()
        };
        ControlPlane::of(&authority)
            .answers("ListEdges", &[v1::ListEdgesResponse { edges, ..Default::default() }])
            .answers("GetStatus", &[status])
            .answers("WhoAmI", &[v1::WhoAmIResponse::default()])
    };
    let (first, second) = (node("1", false), node("2", true));
    let place = Place::knowing_all(&[&first, &second]);
    let listed = place.run(&["edge", "list", "-o", "json"]).json();
    assert_eq!(listed[0]["ca"], 2);
    assert_eq!((&listed[0]["connected"], &listed[1]["connected"]), (&true.into(), &false.into()));
    assert_eq!(place.run(&["status", "-o", "json"]).json()["connected_edges"], 1);
    assert!(!place.run(&["doctor"]).out.contains("none is connected"));
}

#[test]
fn doctor_names_the_node_that_is_down() {
    let up = ControlPlane::start().answers("GetStatus", &[v1::GetStatusResponse::default()]);
    let mut place = Place::knowing(&up);
    place.set("COUNTERSIGN_ADDR", &format!("{},https://127.0.0.1:1", up.addr()));
    let told = place.run(&["doctor"]).out;
    assert!(told.contains("BAD   node: https://127.0.0.1:1 cannot be reached"), "{told}");
    assert!(!told.contains(&format!("BAD   node: {}", up.addr())), "{told}");
}

#[test]
fn login_remembers_every_address() {
    let (first, second) = two();
    let me = v1::WhoAmIResponse { principal: "ana".into(), ..v1::WhoAmIResponse::default() };
    let first = first.answers("WhoAmI", &[me]);
    let second = second.answers("ListAgents", &[agents("robot")]);
    let place = Place::empty();
    let ca = place.write("ca.pem", first.ca_pem());
    let addr = format!("{},{}", first.addr(), second.addr());
    place.run_with(&["login", "--addr", &addr, "--ca", &ca], "cs_adm_right\n").ok();
    drop(first);
    assert_eq!(listed(&place), "robot");
}

#[test]
fn login_waits_for_a_node_that_is_only_starting() {
    let me = v1::WhoAmIResponse { principal: "ana".into(), ..v1::WhoAmIResponse::default() };
    let control_plane = ControlPlane::start().answers("WhoAmI", &[me]);
    let place = Place::empty();
    let login = |wait: &str| {
        let addr = control_plane.addr();
        let files = ["--ca", "api-ca.pem", "--token-file", "admin-token"];
        place.run(&[&["login", "--addr", addr, "--wait", wait][..], &files].concat())
    };
    login("300ms").fails(1, &["admin-token"]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| login("1m").ok());
        place.write("admin-token", "cs_adm_right\n");
        place.write("api-ca.pem", control_plane.ca_pem());
        assert!(waiting.join().unwrap().contains("Logged in as ana"));
    });
}

#[test]
fn a_watch_goes_on_at_another_node_and_misses_nothing() {
    let approval = |id: &str, state: v1::ApprovalState| v1::Approval {
        approval_id: id.into(),
        state: state.into(),
        ..v1::Approval::default()
    };
    let change = |id, state| v1::WatchApprovalsResponse { approval: Some(approval(id, state)) };
    let list = |approvals| v1::ListApprovalsResponse { approvals, ..Default::default() };
    let (first, second) = two();
    let first = first
        .answers("ListApprovals", &[list(vec![approval("old", Pending)])])
        .answers_in_turn("WatchApprovals", &[change("a", Pending)]);
    // Meanwhile, "a" was answered and "b" came.
    let meanwhile = vec![approval("b", Pending), approval("a", Approved), approval("old", Pending)];
    let second = second
        .answers("ListApprovals", &[list(meanwhile)])
        .answers_in_turn("WatchApprovals", &[change("b", Denied)]);
    let ran = Place::knowing_all(&[&first, &second]).run(&["approval", "watch"]);
    let lines: Vec<String> = ran
        .out
        .lines()
        .map(|l| l.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines, ["a pending", "a approved", "b pending", "b denied"]);
    assert_eq!(ran.code, Some(1), "the first node no longer knows what is asked: {}", ran.said);
}
