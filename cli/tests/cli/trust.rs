//! What is signed with the root key, and what is not.

use countersign_control_plane::sign::RootKey;
use countersign_gate::{KeyState, NodeKey, Signed, TRUST_TYPE, Trust};
use countersign_proto::v1;
use serde_json::json;

use super::control_plane::{Authority, ControlPlane};
use super::run::Place;

/// The trust root of these tests.
const ROOT: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

fn root() -> RootKey {
    RootKey::from_hex(ROOT).unwrap()
}

fn key(node: u64) -> NodeKey {
    NodeKey { node, public: [u8::try_from(node).unwrap(); 32], state: KeyState::Active }
}

fn trust(epoch: u64, threshold: u32, keys: Vec<NodeKey>) -> Trust {
    Trust { cluster: "c1".into(), epoch, threshold, keys }
}

fn with_both() -> Trust {
    trust(2, 1, vec![key(1), key(2)])
}

fn signed(root: &RootKey, trust: &Trust) -> v1::Envelope {
    let signed = root.sign(trust.encode());
    let signatures = signed.signatures.into_iter().map(|signature| v1::Signature {
        key_id: signature.key_id.into(),
        signature: signature.signature.into(),
    });
    v1::Envelope {
        payload_type: TRUST_TYPE.into(),
        signatures: signatures.collect(),
        payload: signed.payload.into(),
    }
}

fn node(id: u64, state: v1::NodeState) -> v1::ClusterNode {
    v1::ClusterNode {
        node_id: format!("{id:016x}"),
        name: format!("n{id}"),
        state: state.into(),
        ..Default::default()
    }
}

fn cluster(nodes: Vec<v1::ClusterNode>) -> v1::GetClusterResponse {
    v1::GetClusterResponse { nodes, ..Default::default() }
}

/// n1 is in force. The words that come with what is proposed say something else: nobody should rely on them.
fn answer(proposed: &Trust) -> v1::GetTrustResponse {
    v1::GetTrustResponse {
        current: Some(signed(&root(), &trust(1, 1, vec![key(1)]))),
        proposed: proposed.encode().into(),
        changes: vec!["nothing to see here".into()],
        root_public_key: root().public().to_vec().into(),
    }
}

fn proposes(control_plane: ControlPlane, proposed: &Trust) -> ControlPlane {
    let voters = vec![node(1, v1::NodeState::Voter), node(2, v1::NodeState::Voter)];
    control_plane
        .answers("GetTrust", &[answer(proposed)])
        .answers("GetCluster", &[cluster(voters)])
        .answers("SetTrust", &[v1::SetTrustResponse { epoch: 2 }])
        .answers(
            "AddNode",
            &[v1::AddNodeResponse { token: "cs_join_once".into(), ..Default::default() }],
        )
}

fn place(control_plane: &ControlPlane) -> Place {
    let place = Place::knowing(control_plane);
    place.write("root.key", &format!("{ROOT}\n"));
    place
}

const SIGN: [&str; 5] = ["cluster", "trust", "--root-key", "root.key", "--yes"];
const ADD: [&str; 8] =
    ["cluster", "add", "n2", "--token-file", "token", "--root-key", "root.key", "--yes"];
const REMOVE: [&str; 6] = ["cluster", "remove", "n2", "--root-key", "root.key", "--yes"];

#[test]
fn cluster_trust_shows_what_is_in_force_and_what_the_proposed_bytes_would_change() {
    let control_plane = proposes(ControlPlane::start(), &with_both());
    let place = place(&control_plane);
    let shown = place.run(&["cluster", "trust", "-o", "json"]).json();
    assert_eq!(shown["root_public_key"], hex::encode(root().public()));
    assert_eq!(
        shown["current"],
        json!({"epoch": 1, "threshold": 1, "keys": [
            {"node_id": "0000000000000001", "name": "n1", "public_key": "01".repeat(32), "state": "active"}
        ]})
    );
    assert_eq!(shown["proposed"]["epoch"], 2);
    let change = "+ n2 (0000000000000002) signs with key 0202020202020202…";
    assert_eq!(shown["changes"], json!([change]));
    let told = place.run(&["cluster", "trust"]).ok();
    assert!(told.contains(change) && !told.contains("nothing to see"), "{told}");
    assert!(!control_plane.was_asked("SetTrust"));
}

#[test]
fn cluster_trust_signs_here_and_the_key_goes_nowhere() {
    let control_plane = proposes(ControlPlane::start(), &with_both());
    let ran = place(&control_plane).run(&SIGN);
    assert!(!ran.out.contains(ROOT) && !ran.said.contains(ROOT));
    let said = ran.ok();
    assert!(said.contains("+ n2") && said.contains("Trust bundle 2 is in force: 1 of 2"), "{said}");
    let asked: v1::SetTrustRequest = control_plane.asked("SetTrust");
    assert_eq!(asked.request_id.len(), 32);
    let envelope = asked.envelope.unwrap();
    let signed = Signed {
        payload_type: envelope.payload_type,
        payload: envelope.payload.to_vec(),
        signatures: vec![envelope.signatures[0].signature.as_ref().try_into().unwrap()],
    };
    assert_eq!(Trust::accept(&signed, &root().public(), None).unwrap(), with_both());
    let json = place(&control_plane).run(&[&SIGN[..], &["-o", "json"]].concat()).json();
    assert_eq!(json, json!({"epoch": 2}));
}

#[test]
fn where_nobody_can_be_asked_nothing_is_signed_without_a_yes() {
    let control_plane = proposes(ControlPlane::start(), &with_both());
    let place = place(&control_plane);
    for command in
        [&SIGN[..], &ADD, &REMOVE, &["cluster", "rotate-key", "--root-key", "root.key", ""]]
    {
        let (_, without) = command.split_last().unwrap();
        place.run(without).fails(2, &["nobody to ask", "--yes"]);
    }
    assert!(control_plane.was_asked_nothing(), "half of a change is none");
}

#[test]
fn whoever_is_asked_sees_what_would_change_and_nothing_but_a_yes_is_one() {
    let control_plane = proposes(ControlPlane::start(), &with_both());
    let place = place(&control_plane);
    let (_, ask) = SIGN.split_last().unwrap();
    for no in ["n\n", "\n", "maybe\n"] {
        let ran = place.run_on_a_terminal(ask, no);
        assert_eq!(ran.code, Some(1), "{}", ran.out);
        assert!(ran.out.contains("+ n2 (0000000000000002)"), "{}", ran.out);
        assert!(ran.out.contains("Sign trust bundle 2? [y/N]"), "{}", ran.out);
        assert!(ran.out.contains("nothing was signed"), "{}", ran.out);
    }
    assert!(!control_plane.was_asked("SetTrust"));
    let ran = place.run_on_a_terminal(ask, "y\n");
    assert!(ran.ok().contains("Trust bundle 2 is in force"));
    assert!(control_plane.was_asked("SetTrust"));
}

#[test]
fn another_root_key_signs_nothing() {
    let control_plane = proposes(ControlPlane::start(), &with_both());
    let place = place(&control_plane);
    place.write("root.key", &"5b".repeat(32));
    place.run(&SIGN).fails(1, &["another trust root"]);
    place.write("root.key", "not a key");
    place.run(&SIGN).fails(2, &["one word"]);
    place.write("root.key", "5b5b");
    place.run(&SIGN).fails(2, &["root.key does not hold the key of a trust root"]);
    assert!(!control_plane.was_asked("SetTrust"));
}

#[test]
fn nothing_is_signed_when_nothing_is_called_for() {
    let nothing = v1::GetTrustResponse { proposed: Default::default(), ..answer(&with_both()) };
    let control_plane = ControlPlane::start()
        .answers("GetTrust", &[nothing])
        .answers("GetCluster", &[cluster(vec![node(1, v1::NodeState::Voter)])]);
    let place = place(&control_plane);
    assert!(place.run(&SIGN).ok().contains("nothing was signed"));
    assert_eq!(place.run(&[&SIGN[..], &["-o", "json"]].concat()).json(), json!({"epoch": null}));
}

#[test]
fn t4_what_could_not_follow_is_not_signed() {
    for (bad, why) in [
        (trust(1, 1, vec![key(1), key(2)]), "the epoch 1 once more"),
        (trust(2, 1, vec![key(1), key(2), key(3)]), "demands 1 signatures of 3 nodes"),
        (trust(2, 3, vec![key(1), key(2)]), "demands 3 signatures of 2 nodes"),
        (trust(2, 0, vec![key(1)]), "could follow"),
        (Trust { cluster: "c2".into(), ..with_both() }, "could follow"),
    ] {
        let control_plane = proposes(ControlPlane::start(), &bad);
        place(&control_plane).run(&SIGN).fails(1, &["nothing was signed", why]);
        assert!(!control_plane.was_asked("SetTrust"));
    }
}

#[test]
fn a_leap_of_the_epoch_is_told_and_not_signed_by_the_way() {
    let leap = trust(1002, 1, vec![key(1), key(2)]);
    let control_plane = proposes(ControlPlane::start(), &leap);
    let place = place(&control_plane);
    let ran = place.run(&ADD);
    assert_eq!(ran.code, Some(1), "{}", ran.out);
    let line = "~ it is bundle 1002, and the one in force is 1   (not asked for)";
    assert!(ran.out.contains(line), "{}", ran.out);
    assert!(!control_plane.was_asked("SetTrust"));
    place.run(&SIGN).ok();
    assert!(control_plane.was_asked("SetTrust"));
}

#[test]
fn t4_a_bundle_in_force_that_the_root_did_not_sign_is_told() {
    let other = RootKey::from_hex(&"5b".repeat(32)).unwrap();
    let forged = v1::GetTrustResponse {
        current: Some(signed(&other, &trust(1, 1, vec![key(1)]))),
        ..answer(&with_both())
    };
    let control_plane = ControlPlane::start()
        .answers("GetTrust", &[forged])
        .answers("GetCluster", &[cluster(vec![])]);
    place(&control_plane).run(&SIGN).fails(1, &["not signed by the root key"]);
}

#[test]
fn t4_nothing_is_signed_that_one_node_proposes_and_another_does_not() {
    let authority = Authority::new();
    let honest = proposes(ControlPlane::of(&authority), &with_both());
    let liar = proposes(ControlPlane::of(&authority), &trust(2, 2, vec![key(1), key(2), key(3)]));
    for nodes in [[&honest, &liar], [&liar, &honest]] {
        let place = Place::knowing_all(&nodes);
        place.write("root.key", ROOT);
        place.run(&SIGN).fails(1, &["proposes another trust bundle", nodes[1].addr()]);
    }
    assert!(!honest.was_asked("SetTrust") && !liar.was_asked("SetTrust"));
}

#[test]
fn cluster_add_waits_until_the_node_votes_and_signs_then() {
    let first = node(1, v1::NodeState::Voter);
    let with = |state| cluster(vec![first.clone(), node(2, state)]);
    let control_plane = proposes(ControlPlane::start(), &with_both()).answers_in_turn(
        "GetCluster",
        &[cluster(vec![first.clone()]), with(v1::NodeState::Pending), with(v1::NodeState::Learner)],
    );
    let printed = place(&control_plane).run(&[&ADD[..], &["-o", "json"]].concat()).json();
    assert_eq!(
        printed,
        json!({
            "node": "n2", "token_file": "token", "expires_at": null, "node_id": "0000000000000002", "trust_epoch": 2
        })
    );
    let looks: Vec<v1::GetClusterRequest> = control_plane.all_asked("GetCluster");
    assert!(looks.len() > 3, "it looked until the node voted");
    let asked: v1::SetTrustRequest = control_plane.asked("SetTrust");
    assert_eq!(asked.envelope.unwrap().payload, with_both().encode());
}

#[test]
fn t4_cluster_add_and_remove_sign_what_they_are_about_and_nothing_else() {
    let more = trust(2, 2, vec![key(1), key(2), key(3)]);
    let removed = v1::RemoveNodeResponse { node: Some(node(2, v1::NodeState::Removed)) };
    let control_plane = proposes(ControlPlane::start(), &more).answers("RemoveNode", &[removed]);
    let place = place(&control_plane);
    for (command, unasked) in [(&ADD[..], "+ ? (0000000000000003)"), (&REMOVE, "+ n2")] {
        let ran = place.run(command);
        assert_eq!(ran.code, Some(1), "{}", ran.out);
        let line = ran.out.lines().find(|line| line.starts_with(unasked)).unwrap();
        assert!(line.ends_with("(not asked for)"), "{line}");
        assert!(ran.said.contains("more would change than what was asked for"), "{}", ran.said);
    }
    assert!(!control_plane.was_asked("SetTrust"));
}

#[test]
fn a_key_that_another_took_the_place_of_is_dropped_by_the_way() {
    let retired = NodeKey { public: [9; 32], state: KeyState::Retired, ..key(1) };
    let before = v1::GetTrustResponse {
        current: Some(signed(&root(), &trust(1, 1, vec![retired, key(1)]))),
        ..answer(&with_both())
    };
    let control_plane =
        proposes(ControlPlane::start(), &with_both()).answers("GetTrust", &[before]);
    let said = place(&control_plane).run(&ADD).ok();
    assert!(said.contains("- n1 (0000000000000001) signs no more with key 0909"), "{said}");
    assert!(control_plane.was_asked("SetTrust"));
}

#[test]
fn cluster_add_says_who_did_not_come() {
    let control_plane = proposes(ControlPlane::start(), &with_both());
    let place = place(&control_plane);
    let mut add = ADD.map(|word| if word == "n2" { "n7" } else { word }).to_vec();
    add.extend(["--timeout", "600ms"]);
    let ran = place.run(&add);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.said.contains("n7 has not joined") && ran.said.contains("cluster trust"),
        "{}",
        ran.said
    );
    assert!(!control_plane.was_asked("SetTrust"));
    let late = ["cluster", "add", "n2", "--root-key", "root.key", "--yes", "-o", "json"];
    place.run(&late).fails(2, &["--token-file"]);
}

#[test]
fn cluster_remove_signs_what_takes_the_node_out() {
    let both = v1::GetTrustResponse {
        current: Some(signed(&root(), &with_both())),
        proposed: trust(3, 1, vec![key(1)]).encode().into(),
        ..answer(&with_both())
    };
    let removed = v1::RemoveNodeResponse { node: Some(node(2, v1::NodeState::Removed)) };
    let control_plane = ControlPlane::start()
        .answers("RemoveNode", &[removed])
        .answers("GetTrust", &[both])
        .answers("GetCluster", &[cluster(vec![node(1, v1::NodeState::Voter)])])
        .answers("SetTrust", &[v1::SetTrustResponse { epoch: 3 }]);
    let ran = place(&control_plane).run(&[&REMOVE[..], &["-o", "json"]].concat());
    assert_eq!(ran.json(), json!({"node_id": "0000000000000002", "name": "n2", "trust_epoch": 3}));
}

#[test]
fn cluster_trust_revoke_is_made_here_from_what_the_root_key_signed_and_from_nothing_else() {
    let three = trust(7, 2, vec![key(1), key(2), key(3)]);
    let nodes = (1..4).map(|id| node(id, v1::NodeState::Voter)).collect();
    // A node in other hands proposes what it likes.
    let liar = v1::GetTrustResponse {
        current: Some(signed(&root(), &three)),
        proposed: trust(u64::MAX, 1, vec![key(9)]).encode().into(),
        root_public_key: vec![7; 32].into(),
        ..Default::default()
    };
    let control_plane = ControlPlane::start()
        .answers("GetTrust", &[liar])
        .answers("GetCluster", &[cluster(nodes)])
        .answers("SetTrust", &[v1::SetTrustResponse { epoch: 8 }]);
    let place = place(&control_plane);
    let told = place.run(&[&SIGN[..], &["--revoke", "n2"]].concat()).ok();
    let change = "- n2 (0000000000000002) signs no more with key 0202020202020202…";
    assert!(told.contains(change) && told.contains("bundle 8 is in force: 2 of 2"), "{told}");
    let asked: v1::SetTrustRequest = control_plane.asked("SetTrust");
    let envelope = asked.envelope.unwrap();
    let made = Signed {
        payload_type: envelope.payload_type,
        payload: envelope.payload.to_vec(),
        signatures: vec![envelope.signatures[0].signature.as_ref().try_into().unwrap()],
    };
    let revoked = NodeKey { state: KeyState::Revoked, ..key(2) };
    assert_eq!(
        Trust::accept(&made, &root().public(), Some(&three)).unwrap(),
        trust(8, 2, vec![key(1), revoked, key(3)])
    );
    place.run(&[&SIGN[..], &["--revoke", "n9"]].concat()).fails(1, &["no key of \"n9\""]);
    let unsigned = place.run(&["cluster", "trust", "--revoke", "n2"]);
    assert!(unsigned.code == Some(2) && unsigned.said.contains("--root-key"), "{}", unsigned.said);
}

#[test]
fn cluster_trust_revoke_leaves_enough_who_can_sign() {
    let two = v1::GetTrustResponse {
        current: Some(signed(&root(), &trust(3, 2, vec![key(1), key(2)]))),
        ..Default::default()
    };
    let nodes = (1..3).map(|id| node(id, v1::NodeState::Voter)).collect();
    let control_plane =
        ControlPlane::start().answers("GetTrust", &[two]).answers("GetCluster", &[cluster(nodes)]);
    let ran = place(&control_plane).run(&[&SIGN[..], &["--revoke", "n2"]].concat());
    ran.fails(1, &["demands 2 signatures of 1 nodes"]);
    assert!(!control_plane.was_asked("SetTrust"));
}
