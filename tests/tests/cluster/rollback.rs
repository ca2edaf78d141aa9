//! Old disks that come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_proto::v1;
use countersign_tests::cluster_world::{ClusterWorld, Faults, Plan, conclude, http_get};
use countersign_tests::invariants::Attempt;

use super::{SEED, my_turn};

/// Commits so many things.
fn commit(world: &ClusterWorld, node: usize, count: usize) {
    let desk = world.desk(node);
    world.block_on(async {
        for number in 0..count {
            let name = format!("agent-{node}-{number}-{}", world.journal.operations().len());
            let request = v1::CreateAgentRequest {
                name: format!("{name}-{:x}", rand::random::<u64>()),
                ..Default::default()
            };
            desk.client().create_agent(desk.ask(request)).await.unwrap();
        }
    });
}

fn caught_up(world: &ClusterWorld, node: usize, index: u64) {
    world.eventually("it has caught up", || {
        let status = world.block_on(world.desk(node).status()).ok()?;
        (status.applied_index >= index).then_some(())
    });
}

/// Whether this node does anything at all for an administrator.
fn serves(world: &ClusterWorld, node: usize) -> bool {
    world.block_on(async {
        let desk = world.desk(node);
        let listed = desk.approvals(v1::ApprovalState::Unspecified);
        matches!(tokio::time::timeout(Duration::from_secs(2), listed).await, Ok(Ok(_)))
    })
}

/// What the node says about itself, if it says it was found to be behind what it acknowledged.
fn rolled_back(world: &ClusterWorld, node: usize) -> Option<String> {
    let asked = async {
        let desk = world.desk(node);
        tokio::time::timeout(Duration::from_secs(2), desk.cluster()).await
    };
    let said = world.block_on(asked).ok()?.ok()?.rolled_back;
    (!said.is_empty()).then_some(said)
}

#[test]
fn r_16_a_node_on_an_old_copy_of_its_disk_is_found_out_and_takes_no_part() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let old = world.root().join("old-copy");
    let victim = world.others(world.leader())[0];
    world.nodes[victim].process.kill();
    world.nodes[victim].copy_data(&old);
    world.start_node(victim);
    world.serving(victim);
    let steady = world.others(victim)[0];
    commit(&world, steady, 50);
    // It has acknowledged all of that by now.
    let applied = world.block_on(world.desk(steady).status()).unwrap().applied_index;
    caught_up(&world, victim, applied);
    world.nodes[victim].process.kill();
    world.nodes[victim].restore_data(&old);
    world.start_node(victim);

    let why = world.eventually("it says that it was rolled back", || rolled_back(&world, victim));
    println!("{why}");
    let web = world.nodes[victim].web;
    let ready = http_get(web, "/readyz").map(|(status, _)| status);
    assert_ne!(ready, Some(200), "it is not ready");
    let attempt = Attempt {
        node: world.nodes[victim].name().into(),
        shut_out: "rolled back".into(),
        what: "listed approvals".into(),
        answered: serves(&world, victim),
    };
    // Nor does it vote: with one of the others gone there is no majority.
    let other = *world.others(victim).last().unwrap();
    world.nodes[other].process.kill();
    let alone = world.others(victim)[0];
    world.never(Duration::from_secs(6), "a node and a rolled-back one make a majority", || {
        serves(&world, alone).then_some(())
    });
    world.start_node(other);
    world.serving(other);
    commit(&world, alone, 3);

    // It comes back as a new node.
    let root_key = world.root_key();
    let name = world.nodes[victim].name().to_owned();
    world.cli_ok(&["cluster", "remove", &name, "--root-key", root_key.to_str().unwrap(), "--yes"]);
    world.nodes[victim].process.kill();
    let place = world.add_node();
    assert!(serves(&world, place));
    let healed = Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    let mut gathered = world.gather(&[], services, healed);
    gathered.evidence.attempts.push(attempt);
    conclude("R-16", SEED, Faults(1), &gathered);
}

#[test]
fn r_17_two_nodes_of_three_on_old_disks_elect_nobody() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let copy = |world: &ClusterWorld, node: usize| world.root().join(format!("old-{node}"));
    for node in &mut world.nodes {
        node.process.kill();
    }
    for (place, node) in world.nodes.iter().enumerate() {
        node.copy_data(&copy(&world, place));
    }
    world.start_all();
    commit(&world, 0, 50);
    let applied = world.block_on(world.desk(0).status()).unwrap().applied_index;
    for node in 0..3 {
        caught_up(&world, node, applied);
    }
    // Whoever leads has seen what the others acknowledged, and writes it down before it ends.
    let steady = world.leader();
    let victims = world.others(steady);
    world.nodes[steady].process.terminate();
    for victim in &victims {
        world.nodes[*victim].process.kill();
        world.nodes[*victim].restore_data(&copy(&world, *victim));
    }
    for node in 0..3 {
        world.start_node(node);
    }
    for victim in &victims {
        world.eventually("it says that it was rolled back", || rolled_back(&world, *victim));
    }
    world.never(Duration::from_secs(8), "a cluster of old disks serves", || {
        (0..3).find(|node| serves(&world, *node))
    });
    let attempts: Vec<Attempt> = (0..3)
        .map(|node| Attempt {
            node: world.nodes[node].name().into(),
            shut_out: "one of a cluster that was rolled back".into(),
            what: "listed approvals".into(),
            answered: serves(&world, node),
        })
        .collect();

    // An operator accepts it, and the node that was not put back brings everything along.
    let network = Arc::clone(&world.network);
    for node in &mut world.nodes {
        node.process.kill();
        node.start_with(&network, &["--accept-rollback"]);
    }
    for node in 0..3 {
        world.serving(node);
    }
    let healed = Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    let mut gathered = world.gather(&[], services, healed);
    gathered.evidence.attempts = attempts;
    for node in &gathered.evidence.nodes {
        let made = node.audit.iter().filter(|record| record.action == "agent.create").count();
        assert_eq!(made, 51, "{} lost what was committed", node.name);
    }
    conclude("R-17", SEED, Faults(2), &gathered);
}
