//! Networks that are cut, in one direction or both, and links that come and go.

use std::time::{Duration, Instant};

use countersign_proto::v1::ApprovalState;
use countersign_tests::cluster_world::{
    ClusterWorld, Errand, Faults, HOST, Load, Mix, Plan, Timing, conclude, is_long, tap,
};
use countersign_tests::history::Told;
use http::Method;

use super::crashes::settle;
use super::{SEED, my_turn};

#[test]
fn r_5_a_leader_and_an_edge_cut_off_from_the_majority_release_nothing() {
    let _turn = my_turn();
    nothing_leaves_a_minority(ClusterWorld::start(), "R-5", |world, leader| {
        for other in world.others(leader) {
            let other = world.nodes[other].name();
            world.network.part(world.nodes[leader].name(), other);
            world.network.part("e1", other);
        }
    });
}

/// `cut_off` is told the place of the leader, and parts it and the first edge from all other nodes.
pub(super) fn nothing_leaves_a_minority(
    world: ClusterWorld,
    scenario: &str,
    cut_off: impl Fn(&ClusterWorld, usize),
) {
    let robot = world.robot("cut-off");
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    for _ in 0..if is_long() { 4 } else { 1 } {
        let leader = world.leader();
        cut_off(&world, leader);
        faults.injected();
        let start = Instant::now();
        // With the minority: asked and approved there, and yet nothing leaves.
        let path = format!("/minority/{}", faults.0);
        let errand = Errand::new(Method::DELETE, HOST, &path).waiting(Duration::from_secs(8));
        let way = world.edges[0].way().unwrap();
        let (sender, mine) = (robot.clone(), errand.clone());
        let client = world.runtime.spawn(async move { sender.send(&way, &mine).await });
        // With the majority, after its election: everything as ever.
        let before = load.count(true, 200);
        world.eventually("the majority goes on", || {
            (load.count(true, 200) >= before + 2).then_some(())
        });
        let at_minority = [world.desk(leader).as_person(&world.people[0])];
        world.block_on(async {
            let listed = at_minority[0].approvals(ApprovalState::Pending);
            let listed = tokio::time::timeout(Duration::from_secs(2), listed).await;
            assert!(
                !matches!(listed, Ok(Ok(_))),
                "a node without a majority reads nothing that could be stale: {listed:?}"
            );
        });
        let answer = world.block_on(client).unwrap();
        let status = answer.as_ref().map_or(503, |reply| reply.status);
        assert_eq!(status, 503, "{answer:?}");
        assert!(
            !world.origin.seen().iter().any(|seen| seen.target == path),
            "nothing left the minority"
        );
        assert!(start.elapsed() < Duration::from_secs(40));
        world.heal();
        world.serving(leader);
    }
    settle(world, load, scenario, faults);
}

#[test]
fn r_6_a_leader_that_is_heard_and_does_not_hear_acknowledges_nothing() {
    let _turn = my_turn();
    nothing_is_acknowledged_by_the_deaf(ClusterWorld::start(), "R-6", |world, leader| {
        for other in world.others(leader) {
            world.network.cut(world.nodes[other].name(), world.nodes[leader].name());
        }
    });
}

/// `deafen` is told the place of the leader, which hears no other node from then on.
pub(super) fn nothing_is_acknowledged_by_the_deaf(
    world: ClusterWorld,
    scenario: &str,
    deafen: impl Fn(&ClusterWorld, usize),
) {
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    for _ in 0..if is_long() { 4 } else { 1 } {
        let leader = world.leader();
        deafen(&world, leader);
        faults.injected();
        // Whatever is under way when it falls deaf may still be known to be committed; after that nothing is.
        std::thread::park_timeout(Duration::from_millis(500));
        let deaf = world.desk(leader).as_person(&world.people[0]);
        let pending = world.journal.operations().last().map(|o| o.approval.clone());
        if let Some(id) = pending {
            let told = world.block_on(tap(
                std::slice::from_ref(&deaf),
                &world.journal,
                &id,
                true,
                Duration::ZERO,
            ));
            assert_ne!(told, Some(Told::Accepted), "a deaf leader acknowledged a vote");
        }
        std::thread::park_timeout(Duration::from_secs(4));
        world.heal();
    }
    settle(world, load, scenario, faults);
}

#[test]
fn long_r_7_a_bridge_between_two_halves_lets_nothing_through_that_was_not_agreed() {
    let _turn = my_turn();
    let world = ClusterWorld::with(Plan { nodes: 5, ..Plan::default() });
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    for round in 0..3 {
        // Two on each side hear only their own and the bridge.
        let bridge = round % 5;
        let sides: Vec<usize> = world.others(bridge);
        for one in &sides[..2] {
            for other in &sides[2..] {
                world.network.part(world.nodes[*one].name(), world.nodes[*other].name());
            }
        }
        faults.injected();
        // Whether it serves meanwhile is not promised; that it lies about nothing is.
        std::thread::park_timeout(Duration::from_secs(15));
        world.network.heal();
        world.leader();
    }
    settle(world, load, "R-7", faults);
}

#[test]
fn r_8_an_edge_whose_line_comes_and_goes_asks_about_nothing_twice() {
    let _turn = my_turn();
    let world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let robot = world.robot("robot");
    let errands = 8;
    let way = world.edges[0].way().unwrap();
    let clients: Vec<_> = (0..errands)
        .map(|n| {
            let (robot, way) = (robot.clone(), way.clone());
            let errand = Errand::new(Method::DELETE, HOST, &format!("/flapping/{n}"));
            world.runtime.spawn(async move { robot.send(&way, &errand).await })
        })
        .collect();
    let mut faults = Faults::default();
    let start = Instant::now();
    let length = Duration::from_secs(if is_long() { 30 } else { 5 });
    while start.elapsed() < length {
        for node in &world.nodes {
            world.network.change("e1", node.name(), |rules| rules.refuse = true);
            world.network.reset("e1", node.name());
        }
        faults.injected();
        std::thread::park_timeout(Duration::from_millis(200));
        world.network.resume();
        std::thread::park_timeout(Duration::from_millis(200));
    }
    let pending = world.eventually("everything is asked about", || {
        let listed = world.block_on(world.desk(0).approvals(ApprovalState::Unspecified)).ok()?;
        (listed.len() >= errands).then_some(listed)
    });
    assert_eq!(pending.len(), errands, "each request has one approval");
    let desks = world.desks(&world.people[0]);
    world.block_on(async {
        for approval in &pending {
            let id = &approval.approval_id;
            tap(&desks, &world.journal, id, true, Duration::from_secs(10)).await;
        }
    });
    for client in clients {
        let reply = world.block_on(client).unwrap().expect("no client loses its connection");
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    assert_eq!(world.origin.seen().len(), errands);
    let gathered = world.gather(&[], Vec::new(), Instant::now());
    conclude("R-8", SEED, faults, &gathered);
}

#[test]
fn an_acknowledgement_needs_a_majority() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let robot = world.robot("robot");
    let errand = Errand::new(Method::DELETE, HOST, "/acknowledged").waiting(Duration::from_secs(1));
    let way = world.edges[0].way().unwrap();
    let held = world.block_on(robot.send(&way, &errand)).unwrap();
    let id = held.approval().unwrap().to_owned();
    let leader = world.leader();
    let others = world.others(leader);
    for other in &others {
        world.nodes[*other].process.pause();
    }
    let desk = world.desk(leader).as_person(&world.people[0]);
    let told = world.block_on(async {
        let tapped = tap(std::slice::from_ref(&desk), &world.journal, &id, true, Duration::ZERO);
        tokio::time::timeout(Duration::from_secs(5), tapped).await.ok().flatten()
    });
    assert_eq!(told, None, "nobody but the leader has it");
    world.nodes[leader].process.kill();
    for other in &others {
        world.nodes[*other].process.resume();
    }
    world.start_all();
    let gathered = world.gather(&[], Vec::new(), Instant::now());
    conclude("an acknowledgement needs a majority", SEED, Faults(2), &gathered);
}

/// Between any two nodes, in each direction.
const FAR: Duration = Duration::from_millis(30);
const FARTHER: Duration = Duration::from_millis(70);

#[test]
fn long_r_1_nodes_that_are_far_apart_lose_a_leader_again_and_again() {
    let _turn = my_turn();
    let timing = Timing { heartbeat_ms: 500, election_ms: 2500 };
    let mut world = ClusterWorld::with(Plan { timing, ..Plan::default() });
    for one in &world.nodes {
        for other in world.nodes.iter().filter(|other| other.name() != one.name()) {
            world.network.change(one.name(), other.name(), |rules| {
                for flow in [&mut rules.forth, &mut rules.back] {
                    (flow.latency, flow.jitter) = (FAR, FARTHER);
                }
            });
        }
    }
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    for _ in 0..6 {
        let before = load.count(true, 200);
        world.eventually("things are done from afar", || {
            (load.count(true, 200) >= before + 3).then_some(())
        });
        let leader = world.leader();
        world.nodes[leader].process.kill();
        faults.injected();
        let others = world.others(leader);
        world
            .eventually("another leader", || world.leader_now().filter(|new| others.contains(new)));
        world.start_node(leader);
        world.serving(leader);
    }
    settle(world, load, "R-1, far apart", faults);
}
