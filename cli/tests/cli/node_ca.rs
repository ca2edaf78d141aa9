//! `countersign cluster rotate-ca`: begun, watched, finished.

use countersign_proto::v1;
use serde_json::json;

use super::control_plane::ControlPlane;
use super::run::Place;

const FINISH: [&str; 3] = ["cluster", "rotate-ca", "--finish"];

fn ca(former_counts: bool, to_renew: &[&str]) -> v1::NodeCa {
    v1::NodeCa {
        number: 2,
        former_counts,
        nodes_to_renew: to_renew.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn standing(ca: v1::NodeCa) -> v1::GetClusterResponse {
    v1::GetClusterResponse { node_ca: Some(ca), ..Default::default() }
}

#[test]
fn it_says_that_nodes_go_over_by_themselves_and_where_to_see_how_far_they_are() {
    let rotated = v1::RotateNodeCaResponse { node_ca: Some(ca(true, &["n1", "n2", "n3"])) };
    let control_plane = ControlPlane::start().answers("RotateNodeCa", &[rotated]);
    let place = Place::knowing(&control_plane);
    let told = place.run(&["cluster", "rotate-ca"]).ok();
    assert!(told.contains("CA 2 signs") && told.contains("3 to go"), "{told}");
    assert!(told.contains("--finish") && told.contains("cluster status"), "{told}");
    assert_eq!(
        place.run(&["cluster", "rotate-ca", "-o", "json"]).json(),
        json!({"number": 2, "former_counts": true, "nodes_to_renew": ["n1", "n2", "n3"]})
    );
    let asked: Vec<v1::RotateNodeCaRequest> = control_plane.all_asked("RotateNodeCa");
    assert!(asked.len() == 2 && asked.iter().all(|request| request.request_id.len() == 32));
}

#[test]
fn the_status_says_who_needs_the_former_ca_and_who_is_shut_out() {
    let status = |ca| {
        let control_plane = ControlPlane::start().answers("GetCluster", &[standing(ca)]);
        Place::knowing(&control_plane).run(&["cluster", "status"]).out
    };
    let changing = status(ca(true, &["n3"]));
    assert!(changing.contains("2; the one before counts until n3 shows one of it"), "{changing}");
    assert!(!changing.contains("shut out"), "{changing}");
    let left = status(ca(false, &["n3"]));
    assert!(left.contains("n3 shows no certificate of the nodes' CA"), "{left}");
    let done = status(ca(false, &[]));
    assert!(done.contains("nodes' ca") && !done.contains("the one before"), "{done}");
}

#[test]
fn nodes_are_shut_out_only_by_whoever_says_so() {
    let finished = v1::FinishNodeCaRotationResponse { node_ca: Some(ca(false, &["n3"])) };
    let control_plane = ControlPlane::start()
        .answers("GetCluster", &[standing(ca(true, &["n3"]))])
        .answers("FinishNodeCaRotation", &[finished]);
    let place = Place::knowing(&control_plane);
    place.run(&FINISH).fails(1, &["n3", "--yes"]);
    let asked = place.run_on_a_terminal(&FINISH, "n\n");
    assert_eq!(asked.code, Some(1), "{}", asked.out);
    assert!(asked.out.contains("n3 would have to be removed and added anew"), "{}", asked.out);
    assert!(!control_plane.was_asked("FinishNodeCaRotation"));
    let told = place.run(&[&FINISH[..], &["--yes"]].concat()).ok();
    assert!(told.contains("CA 2 alone") && told.contains("empty data directory: n3."), "{told}");
    assert!(!control_plane.was_asked("RotateNodeCa"));
    let alone = place.run(&["cluster", "rotate-ca", "--yes"]);
    assert_eq!(alone.code, Some(2), "{}", alone.said);
}

#[test]
fn once_no_node_needs_the_former_ca_there_is_nothing_to_ask() {
    let finished = v1::FinishNodeCaRotationResponse { node_ca: Some(ca(false, &[])) };
    let control_plane = ControlPlane::start()
        .answers("GetCluster", &[standing(ca(false, &[]))])
        .answers("FinishNodeCaRotation", &[finished]);
    let told = Place::knowing(&control_plane).run(&FINISH).ok();
    assert!(told.contains("CA 2 alone") && !told.contains("added anew"), "{told}");
}
