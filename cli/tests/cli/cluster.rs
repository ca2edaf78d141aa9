//! Beginning a cluster, and changing who is in it. What is signed with the root key is in `trust`.

use countersign_proto::v1;
use prost_types::Timestamp;
use serde_json::json;
use tonic::Status;
use v1::seal_parameters::Provider;

use super::control_plane::{Authority, ControlPlane};
use super::run::Place;

const TOKEN: &str = "cs_adm_shown_once";

fn root_key() -> String {
    "5a".repeat(32)
}

fn begun(shares: u32) -> v1::InitClusterResponse {
    let share = |id| v1::EncryptedShare {
        id,
        recipient: format!("age1{id}"),
        encrypted: format!("-----BEGIN AGE ENCRYPTED FILE-----\n{id}\n"),
    };
    v1::InitClusterResponse {
        cluster_id: "c1".into(),
        node_id: "0000000000000001".into(),
        admin_token: TOKEN.into(),
        root_private_key: root_key(),
        root_public_key: vec![7; 32].into(),
        shares: (1..=shares).map(share).collect(),
    }
}

fn node(name: &str, state: v1::NodeState) -> v1::ClusterNode {
    v1::ClusterNode {
        node_id: format!("{:016x}", name.bytes().map(u64::from).sum::<u64>()),
        name: name.into(),
        state: state.into(),
        leader: name == "n1",
        matched_index: Some(1000),
        trusted: true,
        cluster_address: format!("{name}.example:8446"),
        gateway_address: format!("{name}.example:8444"),
        ..Default::default()
    }
}

/// Nobody has a token before the cluster begins.
fn without_token(control_plane: &ControlPlane) -> Place {
    let mut place = Place::knowing(control_plane);
    place.set("COUNTERSIGN_TOKEN", "");
    place
}

#[test]
fn cluster_init_puts_what_is_shown_once_into_private_files_and_says_none_of_it() {
    let control_plane = ControlPlane::start().answers("InitCluster", &[begun(3)]);
    let place = without_token(&control_plane);
    let files = ["--admin-token-file", "admin-token", "--root-key-file", "root.key"];
    let seal = ["--seal", "shamir", "--threshold", "2", "--shares-dir", "shares"];
    let recipients = ["--recipient=age11", "--recipient=age12", "--recipient=age13"];
    let ran = place.run(&[&["cluster", "init"][..], &files, &seal, &recipients].concat());
    assert!(!ran.said.contains(TOKEN) && !ran.said.contains(&root_key()), "{}", ran.said);
    let said = ran.ok();
    assert!(said.contains(&"07".repeat(32)) && said.contains("shares/share-2.age"), "{said}");
    for secret in [TOKEN, &root_key(), "BEGIN AGE"] {
        assert!(!said.contains(secret), "{said}");
    }
    assert_eq!(place.read("admin-token"), format!("{TOKEN}\n"));
    assert_eq!(place.read("root.key"), format!("{}\n", root_key()));
    for file in ["admin-token", "root.key", "shares/share-1.age", "shares/share-3.age"] {
        assert_eq!(place.mode(file), 0o600, "{file}");
    }
    assert_eq!(place.mode("shares"), 0o700);
    let asked: Vec<v1::InitClusterRequest> = control_plane.all_asked_without_token("InitCluster");
    let Some(Provider::Shamir(seal)) = asked[0].seal.clone().unwrap().provider else {
        panic!("not shamir")
    };
    assert_eq!((seal.threshold, seal.recipients.join(" ")), (2, "age11 age12 age13".into()));
}

#[test]
fn cluster_init_says_its_secrets_to_whoever_asks_for_json_and_files_for_none_of_them() {
    let control_plane = ControlPlane::start().answers("InitCluster", &[begun(0)]);
    let place = without_token(&control_plane);
    assert_eq!(
        place.run(&["cluster", "init", "-o", "json"]).json(),
        json!({
            "cluster_id": "c1", "node_id": "0000000000000001", "admin_token": TOKEN, "root_private_key": root_key(),
            "root_public_key": "07".repeat(32), "shares": []
        })
    );
    let files = ["--admin-token-file", "a", "--root-key-file", "r"];
    let printed = place.run(&[&["cluster", "init", "-o", "json"][..], &files].concat()).json();
    assert_eq!(printed["admin_token_file"], "a");
    assert!(printed.get("admin_token").is_none() && printed.get("root_private_key").is_none());
    let asked: Vec<v1::InitClusterRequest> = control_plane.all_asked_without_token("InitCluster");
    assert!(asked[0].seal.is_none(), "as the node is configured");
}

#[test]
fn cluster_init_begins_nothing_without_a_place_for_what_is_shown_once() {
    let control_plane = ControlPlane::start().answers("InitCluster", &[begun(0)]);
    let place = without_token(&control_plane);
    place.run(&["cluster", "init"]).fails(2, &["--admin-token-file", "--root-key-file"]);
    place.write("there", "mine");
    let to = |token, root| {
        place.run(&["cluster", "init", "--admin-token-file", token, "--root-key-file", root])
    };
    to("there", "root.key").fails(1, &["there is there already", "nothing was done"]);
    to("token", "there").fails(1, &["there is there already"]);
    to("token", "nowhere/root.key").fails(1, &["nowhere/root.key"]);
    assert_eq!(place.read("there"), "mine");
    assert_eq!(place.names(), ["api-ca.pem", "there"], "no empty files are left");
    assert!(control_plane.was_asked_nothing());
}

#[test]
fn cluster_init_leaves_no_files_behind_when_it_is_refused() {
    let control_plane = ControlPlane::start()
        .refuses("InitCluster", Status::failed_precondition("this node has begun already"));
    let place = without_token(&control_plane);
    place
        .run(&["cluster", "init", "--admin-token-file", "t", "--root-key-file", "r"])
        .fails(1, &["has begun already"]);
    assert_eq!(place.names(), ["api-ca.pem"]);
}

#[test]
fn cluster_init_takes_a_passphrase_from_standard_input() {
    let control_plane = ControlPlane::start().answers("InitCluster", &[begun(0)]);
    let place = without_token(&control_plane);
    let init = ["cluster", "init", "--seal", "passphrase", "-o", "json"];
    place.run_with(&init, "correct horse\n").ok();
    let asked: Vec<v1::InitClusterRequest> = control_plane.all_asked_without_token("InitCluster");
    let Some(Provider::Passphrase(seal)) = asked[0].seal.clone().unwrap().provider else {
        panic!("not a passphrase")
    };
    assert_eq!(seal.passphrase.as_ref(), b"correct horse");
}

#[test]
fn cluster_status_has_its_shape_and_says_what_is_wrong() {
    let authority = Authority::new();
    let sealed = v1::GetSealStatusResponse { sealed: true, ..Default::default() };
    let second = ControlPlane::of(&authority).answers("GetSealStatus", &[sealed]);
    let mut n1 = node("n1", v1::NodeState::Voter);
    n1.api_address = "127.0.0.1:1".into();
    let mut n2 = node("n2", v1::NodeState::Voter);
    n2.api_address = second.address().into();
    n2.matched_index = Some(400);
    let cluster = v1::GetClusterResponse {
        cluster_id: "c1".into(),
        node_id: n1.node_id.clone(),
        term: 3,
        commit_index: 1000,
        nodes: vec![n1, n2],
        trust_epoch: 2,
        trust_threshold: 1,
        invited: vec!["n3".into()],
        rolled_back: String::new(),
        edge_ca: Some(v1::EdgeCa {
            number: 2,
            former_until: Some(Default::default()),
            edges_to_renew: vec!["east".into()],
        }),
        node_ca: Some(v1::ShownCa {
            number: 3,
            former_counts: true,
            nodes_to_renew: vec!["n2".into()],
            trusted_pem: "CA".into(),
        }),
        api_ca: Some(v1::ShownCa { number: 1, ..Default::default() }),
        clock_jump: Some(v1::ClockJump { at: None, by_ms: 125 * 60_000 }),
    };
    let first = ControlPlane::of(&authority).answers("GetCluster", &[cluster]);
    let place = Place::knowing(&first);
    let shown = place.run(&["cluster", "status", "-o", "json"]).json();
    assert_eq!(
        shown["nodes"][1],
        json!({
            "node_id": "00000000000000a0", "name": "n2", "state": "voter", "leader": false, "matched_index": 400,
            "behind": 600, "trusted": true, "sealed": true, "cluster_address": "n2.example:8446",
            "api_address": second.address(), "gateway_address": "n2.example:8444", "public_keys": []
        })
    );
    assert_eq!(shown["nodes"][0]["sealed"], json!(null), "it cannot be reached from here");
    for (field, value) in [
        ("cluster_id", json!("c1")),
        ("term", json!(3)),
        ("commit_index", json!(1000)),
        ("trust_epoch", json!(2)),
        ("trust_threshold", json!(1)),
        ("invited", json!(["n3"])),
        ("rolled_back", json!(null)),
        (
            "edge_ca",
            json!({
                "number": 2, "former_until": "1970-01-01T00:00:00.000Z", "edges_to_renew": ["east"]
            }),
        ),
        (
            "node_ca",
            json!({
                "number": 3, "former_counts": true, "nodes_to_renew": ["n2"], "trusted_pem": "CA"
            }),
        ),
        (
            "api_ca",
            json!({"number": 1, "former_counts": false, "nodes_to_renew": [], "trusted_pem": ""}),
        ),
        ("clock_jump_ms", json!(7_500_000)),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    assert_eq!(
        shown["troubles"][0]["found"],
        "the cluster's clock jumped ahead by 2 h 5 min: nothing is released"
    );
    assert_eq!(shown["troubles"][1]["found"], "n2 is sealed: it neither votes nor serves");
    let told = place.run(&["cluster", "status"]).ok();
    assert!(told.contains("countersign cluster confirm-clock"), "{told}");
    assert!(
        told.contains("BAD   n2 is sealed") && told.contains("countersign seal unseal"),
        "{told}"
    );
    assert!(told.contains("and 1 still need it: east"), "{told}");
    assert!(told.contains("COUNTERSIGN_CA; then"), "its address is not among those known: {told}");
    let asked: Vec<v1::GetSealStatusRequest> = second.all_asked_without_token("GetSealStatus");
    assert_eq!(asked.len(), 2, "no token goes where the control plane points");
}

#[test]
fn status_and_doctor_know_what_is_wrong_with_the_cluster() {
    let mut n1 = node("n1", v1::NodeState::Voter);
    n1.leader = false;
    let cluster = v1::GetClusterResponse {
        commit_index: 1000,
        nodes: vec![n1, v1::ClusterNode { trusted: false, ..node("n2", v1::NodeState::Voter) }],
        ..Default::default()
    };
    let status = v1::GetStatusResponse {
        node_id: "0000000000000001".into(),
        leader_node_id: "0000000000000002".into(),
        ..Default::default()
    };
    let control_plane = ControlPlane::start()
        .answers("GetStatus", &[status])
        .answers("WhoAmI", &[v1::WhoAmIResponse::default()])
        .answers(
            "GetTrust",
            &[v1::GetTrustResponse { proposed: "a bundle".into(), ..Default::default() }],
        )
        .answers("GetCluster", &[cluster]);
    let place = Place::knowing(&control_plane);
    let told = place.run(&["status"]).ok();
    assert!(told.contains("BAD   another trust bundle is called for"), "{told}");
    assert!(
        told.contains("2 voters, nobody leads") && told.contains("there is no leader"),
        "{told}"
    );
    let shown = place.run(&["status", "-o", "json"]).json();
    assert_eq!(shown["leader_node_id"], "0000000000000002");
    assert_eq!(shown["troubles"][1]["found"], "n2 votes, and its signature does not count");
    let ran = place.run(&["doctor"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("BAD   cluster: n2 votes, and its signature"), "{}", ran.out);
    assert!(ran.out.contains("countersign cluster trust --root-key"), "{}", ran.out);
}

#[test]
fn status_is_told_also_to_those_who_may_not_see_the_cluster() {
    let control_plane = ControlPlane::start()
        .answers("GetStatus", &[v1::GetStatusResponse::default()])
        .answers("WhoAmI", &[v1::WhoAmIResponse { principal: "ana".into(), ..Default::default() }])
        .refuses("GetCluster", Status::permission_denied("that takes the role admin"));
    let told = Place::knowing(&control_plane).run(&["status"]).ok();
    assert!(told.contains("ana"), "{told}");
}

#[test]
fn cluster_add_prints_the_token_or_keeps_it_in_a_private_file() {
    let invitation = v1::AddNodeResponse {
        token: "cs_join_once".into(),
        expires_at: Some(Timestamp { seconds: 1_700_000_600, nanos: 0 }),
        api_ca_pem: "CA".into(),
    };
    let control_plane = ControlPlane::start().answers("AddNode", &[invitation]);
    let place = Place::knowing(&control_plane);
    assert_eq!(
        place.run(&["cluster", "add", "n2", "-o", "json"]).json(),
        json!({"node": "n2", "token": "cs_join_once", "expires_at": "2023-11-14T22:23:20.000Z"})
    );
    let add = ["cluster", "add", "n2", "--token-file", "token", "--ca-file", "ca.pem"];
    let said = place.run(&add).ok();
    assert!(!said.contains("cs_join_once") && said.contains("in token"), "{said}");
    assert_eq!((place.read("token").as_str(), place.mode("token")), ("cs_join_once\n", 0o600));
    assert_eq!(place.read("ca.pem"), "CA");
    place
        .run(&["cluster", "add", "n3", "--token-file", "token"])
        .fails(1, &["token is there already"]);
    let asked: Vec<v1::AddNodeRequest> = control_plane.all_asked("AddNode");
    assert_eq!(asked.len(), 2, "nothing is asked for that has no place");
    assert_eq!(asked[0].name, "n2");
}

#[test]
fn cluster_remove_has_its_shape() {
    let removed = node("n3", v1::NodeState::Removed);
    let id = removed.node_id.clone();
    let control_plane = ControlPlane::start()
        .answers("RemoveNode", &[v1::RemoveNodeResponse { node: Some(removed) }]);
    let place = Place::knowing(&control_plane);
    let remove = ["cluster", "remove", "n3", "--reason", "its disk died"];
    assert_eq!(
        place.run(&[&remove[..], &["-o", "json"]].concat()).json(),
        json!({"node_id": id, "name": "n3"})
    );
    let said = place.run(&remove).ok();
    assert!(said.contains("counts until a trust bundle says otherwise"), "{said}");
    let asked: Vec<v1::RemoveNodeRequest> = control_plane.all_asked("RemoveNode");
    assert_eq!((asked[0].node.as_str(), asked[0].reason.as_str()), ("n3", "its disk died"));
}

#[test]
fn cluster_transfer_asks_the_leader() {
    let authority = Authority::new();
    let nodes = [node("n1", v1::NodeState::Voter), node("n2", v1::NodeState::Voter)];
    let one = |it: &v1::ClusterNode| {
        let (nodes, node_id) = (nodes.to_vec(), it.node_id.clone());
        let status = v1::GetStatusResponse { node_id: node_id.clone(), ..Default::default() };
        let moved = v1::TransferLeadershipResponse { leader_node_id: nodes[1].node_id.clone() };
        ControlPlane::of(&authority)
            .answers(
                "GetCluster",
                &[v1::GetClusterResponse { nodes, node_id, ..Default::default() }],
            )
            .answers("GetStatus", &[status])
            .answers("TransferLeadership", &[moved])
    };
    let (leader, follower) = (one(&nodes[0]), one(&nodes[1]));
    let place = Place::knowing_all(&[&follower, &leader]);
    assert_eq!(
        place.run(&["cluster", "transfer", "n2", "-o", "json"]).json(),
        json!({"leader_node_id": nodes[1].node_id, "name": "n2"})
    );
    let asked: v1::TransferLeadershipRequest = leader.asked("TransferLeadership");
    assert_eq!(asked.node, "n2");
    assert!(!follower.was_asked("TransferLeadership"));
}

#[test]
fn cluster_confirm_clock_lets_releases_go_on() {
    let there =
        ControlPlane::of(&Authority::new()).answers("ConfirmClock", &[v1::ConfirmClockResponse {}]);
    let place = Place::knowing(&there);
    let told = place.run(&["cluster", "confirm-clock"]).ok();
    assert_eq!(told, "The clock is confirmed: releases go on.\n");
    let asked: v1::ConfirmClockRequest = there.asked("ConfirmClock");
    assert!(!asked.request_id.is_empty());
    let shown = place.run(&["cluster", "confirm-clock", "-o", "json"]).json();
    assert_eq!(shown, json!({"confirmed": true}));
}

#[test]
fn cluster_rotate_key_asks_the_node_that_is_meant_and_no_other() {
    let authority = Authority::new();
    let cluster = v1::GetClusterResponse {
        nodes: vec![node("n1", v1::NodeState::Voter), node("n2", v1::NodeState::Voter)],
        ..Default::default()
    };
    let one = |name: &str| {
        let it = node(name, v1::NodeState::Voter);
        let status = v1::GetStatusResponse { node_id: it.node_id.clone(), ..Default::default() };
        ControlPlane::of(&authority)
            .answers("GetCluster", std::slice::from_ref(&cluster))
            .answers("GetStatus", &[status])
            .answers("RotateSigningKey", &[v1::RotateSigningKeyResponse { node: Some(it) }])
    };
    let (first, second) = (one("n1"), one("n2"));
    let place = Place::knowing_all(&[&first, &second]);
    let said = place.run(&["cluster", "rotate-key", "n2"]).ok();
    assert!(said.contains("n2") && said.contains("once a trust bundle names it"), "{said}");
    assert!(!first.was_asked("RotateSigningKey") && second.was_asked("RotateSigningKey"));
    place.run(&["cluster", "rotate-key", "n9"]).fails(1, &["there is no node \"n9\""]);
    let alone = Place::knowing(&first);
    alone.run(&["cluster", "rotate-key", "n2"]).fails(2, &["COUNTERSIGN_ADDR"]);
    assert!(!first.was_asked("RotateSigningKey"));
}

fn part(data: &'static [u8]) -> v1::BackupClusterResponse {
    v1::BackupClusterResponse { data: data.into() }
}

#[test]
fn cluster_backup_has_its_name_once_it_is_whole() {
    let control_plane =
        ControlPlane::start().answers("BackupCluster", &[part(b"first "), part(b"second")]);
    let place = Place::knowing(&control_plane);
    let printed = place.run(&["cluster", "backup", "copy", "-o", "json"]).json();
    assert_eq!((&printed["file"], &printed["bytes"]), (&json!("copy"), &json!(12)));
    assert_eq!((place.read("copy").as_str(), place.mode("copy")), ("first second", 0o600));
    assert_eq!(place.names(), ["api-ca.pem", "copy"]);
    place.run(&["cluster", "backup", "copy"]).fails(1, &["copy is there already"]);
    assert_eq!(place.read("copy"), "first second");
}

#[test]
fn cluster_backup_that_breaks_off_leaves_nothing_that_looks_like_one() {
    let lost = Status::unavailable("going down");
    let control_plane = ControlPlane::start().breaks_off("BackupCluster", &[part(b"first ")], lost);
    let place = Place::knowing(&control_plane);
    place.run(&["cluster", "backup", "copy"]).fails(3, &["going down"]);
    assert_eq!(place.names(), ["api-ca.pem"]);
    let nothing = ControlPlane::start().answers("BackupCluster", &[part(b"")]);
    let place = Place::knowing(&nothing);
    place.run(&["cluster", "backup", "copy"]).fails(1, &["sent nothing"]);
    assert_eq!(place.names(), ["api-ca.pem"]);
}
