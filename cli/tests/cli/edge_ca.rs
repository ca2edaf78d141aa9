//! `countersign edge rotate-ca`: begun, watched, finished.

use countersign_proto::v1;
use prost_types::Timestamp;
use serde_json::json;

use super::control_plane::ControlPlane;
use super::run::Place;

fn ca(counts: bool, to_renew: &[&str]) -> v1::EdgeCa {
    v1::EdgeCa {
        number: 2,
        former_until: counts.then_some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        edges_to_renew: to_renew.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn changing(to_renew: &[&str]) -> ControlPlane {
    let cluster =
        v1::GetClusterResponse { edge_ca: Some(ca(true, to_renew)), ..Default::default() };
    let finished = v1::FinishEdgeCaRotationResponse { edge_ca: Some(ca(false, to_renew)) };
    ControlPlane::start()
        .answers("GetCluster", &[cluster])
        .answers("FinishEdgeCaRotation", &[finished])
}

#[test]
fn it_says_until_when_the_former_ca_counts_and_that_a_backup_is_due() {
    let rotated = v1::RotateEdgeCaResponse { edge_ca: Some(ca(true, &["east", "west"])) };
    let control_plane = ControlPlane::start().answers("RotateEdgeCa", &[rotated]);
    let place = Place::knowing(&control_plane);
    let told = place.run(&["edge", "rotate-ca"]).ok();
    assert!(told.contains("CA 2 signs") && told.contains("2023-11-14T22:13:20"), "{told}");
    assert!(told.contains("--finish") && told.contains("backup"), "{told}");
    assert_eq!(
        place.run(&["edge", "rotate-ca", "-o", "json"]).json(),
        json!({
            "number": 2, "former_until": "2023-11-14T22:13:20.000Z", "edges_to_renew": ["east", "west"]
        })
    );
    let asked: Vec<v1::RotateEdgeCaRequest> = control_plane.all_asked("RotateEdgeCa");
    assert!(asked.iter().all(|request| request.request_id.len() == 32));
}

#[test]
fn it_is_finished_at_once_when_no_edge_needs_the_former_ca() {
    let control_plane = changing(&[]);
    let place = Place::knowing(&control_plane);
    let told = place.run(&["edge", "rotate-ca", "--finish"]).ok();
    assert!(told.contains("CA 2 alone") && !told.contains("enrolled again"), "{told}");
    assert!(!control_plane.was_asked("RotateEdgeCa"));
    let finished = place.run(&["edge", "rotate-ca", "--finish", "-o", "json"]).json();
    assert_eq!(finished, json!({"number": 2, "former_until": null, "edges_to_renew": []}));
}

#[test]
fn edges_are_shut_out_only_by_whoever_says_so() {
    let control_plane = changing(&["west"]);
    let place = Place::knowing(&control_plane);
    place.run(&["edge", "rotate-ca", "--finish"]).fails(1, &["west", "--yes"]);
    let asked = place.run_on_a_terminal(&["edge", "rotate-ca", "--finish"], "n\n");
    assert_eq!(asked.code, Some(1), "{}", asked.out);
    assert!(asked.out.contains("west would have to be enrolled again"), "{}", asked.out);
    assert!(!control_plane.was_asked("FinishEdgeCaRotation"));
    let told = place.run(&["edge", "rotate-ca", "--finish", "--yes"]).ok();
    assert!(told.contains("To be enrolled again: west."), "{told}");
    let alone = place.run(&["edge", "rotate-ca", "--yes"]);
    assert_eq!(alone.code, Some(2), "{}", alone.said);
}
