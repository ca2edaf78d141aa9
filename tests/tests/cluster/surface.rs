//! Every node answers everything, and no disk and no wire can be read.

use std::process::Command;
use std::time::{Duration, Instant};

use countersign_proto::v1::ApprovalState;
use countersign_tests::cluster_world::{
    CANARY, ClusterWorld, Errand, Faults, HOST, Load, Mix, Plan, conclude, is_long,
};
use countersign_tests::invariants::holds;
use countersign_tests::peers::tools;
use http::Method;

use super::{SEED, my_turn};

#[test]
fn a_quiet_cluster_keeps_its_leader_and_every_promise() {
    let _turn = my_turn();
    let world = ClusterWorld::start();
    let before = world.term();
    let mut load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let length = Duration::from_secs(if is_long() { 60 } else { 10 });
    std::thread::park_timeout(length);
    let changes = world.term() - before;
    assert!(changes <= 1, "{changes} elections although nothing was wrong");
    let unfinished = load.finish(&world, Duration::from_secs(30));
    assert!(unfinished.is_empty(), "{unfinished:#?}");
    for (name, went) in load.went() {
        assert_eq!(went.breaks, 0, "{name}: {went:?}");
    }
    let healed = Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    let gathered = world.gather(&[&load], services, healed);
    conclude("quiet", SEED, Faults(0), &gathered);
}

#[test]
fn every_node_lists_approvals_followers_included_and_grpcurl_finds_them_by_reflection() {
    let _turn = my_turn();
    let world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let robot = world.robot("robot");
    let errand = Errand::new(Method::DELETE, HOST, "/listed").waiting(Duration::from_secs(1));
    let held = world.block_on(robot.send(&world.edges[0].way().unwrap(), &errand)).unwrap();
    let id = held.approval().unwrap().to_owned();
    let leader = world.leader();
    let ca = world.root().join("api-ca.pem");
    std::fs::write(&ca, world.api_ca()).unwrap();
    for node in 0..world.nodes.len() {
        // Right after the answer to the client, at any node: nothing stale.
        let listed = world.block_on(world.desk(node).approvals(ApprovalState::Pending)).unwrap();
        assert!(listed.iter().any(|a| a.approval_id == id), "{}", world.nodes[node].name());
        let status = world.block_on(world.desk(node).status()).unwrap();
        assert_eq!(status.leader, node == leader, "{status:?}");

        let grpcurl = tools().join("bin/grpcurl");
        assert!(grpcurl.exists(), "grpcurl is missing: ./tests/run installs it");
        let call = |arguments: &[&str]| {
            let output = Command::new(&grpcurl)
                .args(["-cacert", ca.to_str().unwrap(), "-max-time", "20", "-H"])
                .arg(format!("authorization: Bearer {}", world.admin.token))
                .arg(world.nodes[node].api.to_string())
                .args(arguments)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            said
        };
        assert!(call(&["list"]).contains("countersign.v1.AdminService"));
        assert!(call(&["countersign.v1.AdminService/ListApprovals"]).contains(&id));
    }
}

#[test]
fn s_disk_grep_no_disk_no_log_and_no_wire_between_nodes_can_be_read() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { tapped: true, ..Plan::default() });
    let mut load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    world.eventually("things are done", || (load.count(true, 200) >= 5).then_some(()));
    load.finish(&world, Duration::from_secs(30));
    let gathered = world.gather(&[&load], Vec::new(), Instant::now());
    conclude("S-DISK-GREP", SEED, Faults(0), &gathered);
    let words = [CANARY.to_owned(), "robot-".into(), world.admin.token.clone()];
    for node in &mut world.nodes {
        node.process.kill();
    }
    let captured = world.network.captured();
    assert!(captured.len() > 10_000, "the wiretap has {} bytes", captured.len());
    let mut sinks = vec![("the wire".to_owned(), captured)];
    for node in &world.nodes {
        for (path, bytes) in node.files() {
            // The first node writes the first token down, for its owner alone, until it is removed.
            if !path.ends_with("admin-token") {
                sinks.push((path.display().to_string(), bytes));
            }
        }
        let root_key = std::fs::read_to_string(world.root_key()).unwrap();
        assert!(!node.process.log().contains(root_key.trim()), "the root key is logged");
        assert!(!node.process.log().contains(&world.admin.token), "the token is logged");
    }
    assert!(sinks.len() > 10, "{} files", sinks.len());
    for (name, bytes) in &sinks {
        for word in &words {
            assert!(!holds(bytes, word), "{word} is readable in {name}");
        }
        assert!(!holds(bytes, HOST), "the upstream's name is readable in {name}");
    }
}
