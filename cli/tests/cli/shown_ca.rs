//! `countersign cluster rotate-ca`: begun, watched, finished.

use countersign_proto::v1;
use serde_json::json;

use super::control_plane::ControlPlane;
use super::run::Place;

const FINISH: [&str; 4] = ["cluster", "rotate-ca", "nodes", "--finish"];

fn ca(former_counts: bool, to_renew: &[&str]) -> v1::ShownCa {
    v1::ShownCa {
        number: 2,
        former_counts,
        nodes_to_renew: to_renew.iter().map(|name| (*name).to_owned()).collect(),
        trusted_pem: "CA 2".into(),
    }
}

fn standing(ca: v1::ShownCa) -> v1::GetClusterResponse {
    v1::GetClusterResponse {
        node_ca: Some(ca.clone()),
        api_ca: Some(v1::ShownCa { number: 7, ..ca }),
        ..Default::default()
    }
}

#[test]
fn it_says_that_nodes_go_over_by_themselves_and_where_to_see_how_far_they_are() {
    let rotated = v1::RotateCaResponse { ca: Some(ca(true, &["n1", "n2", "n3"])) };
    let control_plane = ControlPlane::start().answers("RotateCa", &[rotated]);
    let place = Place::knowing(&control_plane);
    let told = place.run(&["cluster", "rotate-ca", "nodes"]).ok();
    assert!(told.contains("CA 2 signs what nodes show to each other"), "{told}");
    assert!(told.contains("3 to go") && told.contains("rotate-ca nodes --finish"), "{told}");
    assert!(told.contains("cluster status") && !told.contains("pin"), "{told}");
    assert_eq!(
        place.run(&["cluster", "rotate-ca", "nodes", "-o", "json"]).json(),
        json!({
            "number": 2, "former_counts": true, "nodes_to_renew": ["n1", "n2", "n3"], "trusted_pem": "CA 2"
        })
    );
    let told = place.run(&["cluster", "rotate-ca", "api"]).ok();
    assert!(told.contains("show to operators and edges") && told.contains("backup"), "{told}");
    assert!(told.contains(".api_ca.trusted_pem"), "{told}");
    let asked: Vec<v1::RotateCaRequest> = control_plane.all_asked("RotateCa");
    let (nodes, api) = (v1::ShownCaKind::Nodes, v1::ShownCaKind::Api);
    let kinds: Vec<_> = asked.iter().map(v1::RotateCaRequest::ca).collect();
    assert_eq!(kinds, [nodes, nodes, api]);
    assert!(asked.iter().all(|request| request.request_id.len() == 32));
    assert_eq!(place.run(&["cluster", "rotate-ca"]).code, Some(2), "one of the two must be meant");
}

#[test]
fn the_status_says_who_needs_a_former_ca_who_is_shut_out_and_what_to_pin() {
    let place = |ca| {
        let control_plane = ControlPlane::start().answers("GetCluster", &[standing(ca)]);
        let place = Place::knowing(&control_plane);
        (control_plane, place)
    };
    let status = |ca| {
        let (_control_plane, place) = place(ca);
        place.run(&["cluster", "status"]).out
    };
    let changing = status(ca(true, &["n3"]));
    for number in [2, 7] {
        let said = format!("{number}; the one before counts until n3 shows one of it");
        assert!(changing.contains(&said), "{changing}");
    }
    assert!(!changing.contains("no certificate of"), "{changing}");
    let left = status(ca(false, &["n3"]));
    assert!(left.contains("n3 shows no certificate of the nodes' CA"), "{left}");
    assert!(left.contains("n3 shows edges no certificate that they know"), "{left}");
    let done = status(ca(false, &[]));
    assert!(done.contains("nodes' ca") && !done.contains("the one before"), "{done}");
    assert!(!done.contains("no certificate"), "{done}");
    let (_control_plane, place) = place(ca(false, &[]));
    let json = place.run(&["cluster", "status", "-o", "json"]).json();
    assert_eq!(json["api_ca"]["trusted_pem"], "CA 2");
}

#[test]
fn nodes_are_shut_out_only_by_whoever_says_so() {
    let finished = v1::FinishCaRotationResponse { ca: Some(ca(false, &["n3"])) };
    let control_plane = ControlPlane::start()
        .answers("GetCluster", &[standing(ca(true, &["n3"]))])
        .answers("FinishCaRotation", &[finished]);
    let place = Place::knowing(&control_plane);
    place.run(&FINISH).fails(1, &["removed and added anew: n3", "--yes"]);
    let api = ["cluster", "rotate-ca", "api", "--finish"];
    place.run(&api).fails(1, &["until they are unsealed: n3", "--yes"]);
    let asked = place.run_on_a_terminal(&FINISH, "n\n");
    assert_eq!(asked.code, Some(1), "{}", asked.out);
    assert!(asked.out.contains("n3 would have to be removed and added anew"), "{}", asked.out);
    assert!(!control_plane.was_asked("FinishCaRotation"));
    let told = place.run(&[&FINISH[..], &["--yes"]].concat()).ok();
    assert!(told.contains("CA 2 alone") && told.contains("empty data directory: n3."), "{told}");
    let told = place.run(&[&api[..], &["--yes"]].concat()).ok();
    assert!(told.contains("To be unsealed: n3."), "{told}");
    let asked: Vec<v1::FinishCaRotationRequest> = control_plane.all_asked("FinishCaRotation");
    let kinds: Vec<_> = asked.iter().map(v1::FinishCaRotationRequest::ca).collect();
    assert_eq!(kinds, [v1::ShownCaKind::Nodes, v1::ShownCaKind::Api]);
    assert!(!control_plane.was_asked("RotateCa"));
    let alone = place.run(&["cluster", "rotate-ca", "nodes", "--yes"]);
    assert_eq!(alone.code, Some(2), "{}", alone.said);
}

#[test]
fn once_no_node_needs_the_former_ca_there_is_nothing_to_ask() {
    let finished = v1::FinishCaRotationResponse { ca: Some(ca(false, &[])) };
    let control_plane = ControlPlane::start()
        .answers("GetCluster", &[standing(ca(false, &[]))])
        .answers("FinishCaRotation", &[finished]);
    let told = Place::knowing(&control_plane).run(&FINISH).ok();
    assert!(told.contains("CA 2 alone") && !told.contains("added anew"), "{told}");
}
