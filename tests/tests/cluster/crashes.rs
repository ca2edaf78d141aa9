//! Processes that die, stop, and come back, under load.

use std::time::{Duration, Instant};

use countersign_proto::v1::ApprovalState;
use countersign_tests::cluster_world::{
    ClusterWorld, Errand, Faults, HOST, Load, Mix, Plan, conclude, is_long, tap,
};
use countersign_tests::history::Told;
use http::Method;

use super::{SEED, my_turn};

/// How long a client that was held when the leader died may wait for the next answer.
const FAILOVER: Duration = Duration::from_secs(5);
/// A request this old has reached its hold.
const REACHED: Duration = Duration::from_millis(500);

/// After the faults: everything runs, serves, and is checked.
pub(super) fn settle(
    mut world: ClusterWorld,
    mut load: Load,
    scenario: &str,
    faults: Faults,
) -> (ClusterWorld, Load) {
    world.heal();
    world.start_all();
    let healed = Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    let unfinished = load.finish(&world, Duration::from_secs(40));
    assert!(unfinished.is_empty(), "{scenario}: never came to an end: {unfinished:#?}");
    let gathered = world.gather(&[&load], services, healed);
    assert!(gathered.histories > 0, "{scenario}: nothing happened");
    conclude(scenario, SEED, faults, &gathered);
    (world, load)
}

#[test]
fn r_1_the_leader_is_killed_again_and_again_and_held_requests_survive() {
    let _turn = my_turn();
    let mut world = ClusterWorld::start();
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    let mut kills = Vec::new();
    let start = Instant::now();
    let length = Duration::from_secs(if is_long() { 120 } else { 30 });
    while start.elapsed() < length {
        let round = Instant::now();
        let leader = world.leader();
        // Something is held when it dies.
        world.eventually("a request is held", || {
            let waits = load
                .went()
                .values()
                .any(|w| w.risky && w.first.is_none() && w.first_asked.elapsed() > REACHED);
            waits.then_some(())
        });
        world.nodes[leader].process.kill();
        kills.push(Instant::now());
        faults.injected();
        let others = world.others(leader);
        world.within(Duration::from_secs(10), "another leader", || {
            world.leader_now().filter(|new| others.contains(new))
        });
        world.start_node(leader);
        world.serving(leader);
        std::thread::park_timeout(Duration::from_secs(7).saturating_sub(round.elapsed()));
    }
    let (_world, load) = settle(world, load, "R-1", faults);
    let (mut spanning, mut slowest) = (0, Duration::ZERO);
    for (name, went) in load.went() {
        assert_eq!(went.breaks, 0, "{name}: no client loses its connection: {went:?}");
        let Some((status, code, at)) = went.first.clone().filter(|_| went.risky) else { continue };
        for kill in &kills {
            if went.first_asked + REACHED < *kill && *kill < at {
                spanning += 1;
                slowest = slowest.max(at - *kill);
                assert!(
                    status == 200 || status == 403,
                    "{name} was held when the leader died, and got {status} {code}"
                );
            }
        }
    }
    assert!(spanning > 0, "nothing was held when a leader died");
    println!("{spanning} held requests outlived a leader, the slowest by {slowest:?}");
    assert!(slowest < FAILOVER + Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn r_2_a_follower_is_killed_and_comes_back() {
    let _turn = my_turn();
    let mut world = ClusterWorld::start();
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    for round in 0..if is_long() { 8 } else { 2 } {
        let followers = world.others(world.leader());
        let follower = followers[round % followers.len()];
        world.nodes[follower].process.kill();
        faults.injected();
        let before = load.count(true, 200);
        world.eventually("things are done without it", || {
            (load.count(true, 200) >= before + 2).then_some(())
        });
        world.start_node(follower);
        world.serving(follower);
    }
    settle(world, load, "R-2", faults);
}

#[test]
fn r_3_all_nodes_are_killed_at_once_and_nothing_acknowledged_is_lost() {
    let _turn = my_turn();
    let mut world = ClusterWorld::start();
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    for round in 0..if is_long() { 20_u64 } else { 3 } {
        let before = load.count(true, 200);
        world.eventually("things are done", || (load.count(true, 200) > before).then_some(()));
        // At another moment each time.
        std::thread::park_timeout(Duration::from_millis((round * 137 + 53) % 400));
        let at = Instant::now();
        for node in &mut world.nodes {
            node.process.kill_soon();
        }
        assert!(at.elapsed() < Duration::from_millis(50), "{:?}", at.elapsed());
        for node in &mut world.nodes {
            node.process.reap();
        }
        faults.injected();
        world.start_all();
    }
    settle(world, load, "R-3", faults);
}

#[test]
fn r_4_a_leader_that_was_stopped_comes_back_as_nothing_but_a_follower() {
    let _turn = my_turn();
    let world = ClusterWorld::start();
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    let stops: &[u64] = if is_long() { &[5, 20, 5, 20] } else { &[5] };
    for seconds in stops {
        let leader = world.leader();
        let (start, before) = (Instant::now(), load.count(true, 200));
        world.nodes[leader].process.pause();
        faults.injected();
        let others = world.others(leader);
        let asks = |node: &usize| {
            let asked = async {
                let desk = world.desk(*node);
                tokio::time::timeout(Duration::from_millis(800), desk.cluster()).await
            };
            let cluster = world.block_on(asked).ok()?.ok()?;
            cluster.nodes.iter().any(|n| n.leader && n.node_id == cluster.node_id).then_some(())
        };
        world.eventually("another leader", || others.iter().find_map(asks));
        world.eventually("things are done without it", || {
            (load.count(true, 200) > before).then_some(())
        });
        std::thread::park_timeout(Duration::from_secs(*seconds).saturating_sub(start.elapsed()));
        world.nodes[leader].process.resume();
        world.serving(leader);
    }
    settle(world, load, "R-4", faults);
}

#[test]
fn i_12_reads_go_on_while_no_node_is_there_and_changes_are_refused_soon() {
    let _turn = my_turn();
    let mut world = ClusterWorld::start();
    let robot = world.robot("robot");
    let read = |n: usize| Errand::new(Method::GET, HOST, &format!("/items/{n}"));
    let way = world.edges[0].way().unwrap();
    assert_eq!(world.block_on(robot.send(&way, &read(0))).unwrap().status, 200, "now it is lent");
    for node in &mut world.nodes {
        node.process.kill();
    }
    let outage = Duration::from_secs(if is_long() { 120 } else { 8 });
    let start = Instant::now();
    let mut reads = 0;
    while start.elapsed() < outage {
        reads += 1;
        let reply = world.block_on(robot.send(&way, &read(reads))).unwrap();
        assert_eq!(reply.status, 200, "read {reads}: {reply:?}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let change = Errand::new(Method::DELETE, HOST, "/not/now");
    let asked = Instant::now();
    let reply = world.block_on(robot.send(&way, &change)).unwrap();
    assert_eq!((reply.status, &*reply.code()), (503, "control_plane_unavailable"), "{reply:?}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let other = world.edges[1].way().unwrap();
    let unlent = world.block_on(robot.send(&other, &read(0))).unwrap();
    assert_eq!(unlent.status, 503, "an edge that was lent nothing has nothing: {unlent:?}");
    assert_eq!(world.origin.count(&Method::DELETE), 0);
    world.start_all();
    let healed = Instant::now();
    let services = world.serve_again(&robot, healed);
    let gathered = world.gather(&[], services, healed);
    conclude("I-12", SEED, Faults(3), &gathered);
}

#[test]
fn r_9_an_edge_that_dies_while_requests_are_held_takes_them_with_it_and_their_approvals_stay() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let robot = world.robot("robot");
    let held = if is_long() { 50 } else { 15 };
    let errands: Vec<Errand> =
        (0..held).map(|n| Errand::new(Method::DELETE, HOST, &format!("/held/{n}"))).collect();
    let way = world.edges[0].way().unwrap();
    let clients: Vec<_> = errands
        .iter()
        .map(|errand| {
            let (robot, way, errand) = (robot.clone(), way.clone(), errand.clone());
            world.runtime.spawn(async move { robot.send(&way, &errand).await })
        })
        .collect();
    let pending = || {
        let listed = world.block_on(world.desk(0).approvals(ApprovalState::Pending)).ok()?;
        (listed.len() == held).then_some(listed)
    };
    let pending = world.eventually("all are held", pending);
    world.edges[0].process.kill();
    for client in clients {
        assert!(
            world.block_on(client).unwrap().is_err(),
            "the clients see their connections break"
        );
    }
    world.start_edge(0);
    let desks = world.desks(&world.people[0]);
    world.block_on(async {
        for approval in &pending {
            let id = &approval.approval_id;
            let told = tap(&desks, &world.journal, id, true, Duration::from_secs(10)).await;
            assert_eq!(told, Some(Told::Accepted), "an approval outlives its edge's process");
        }
    });
    world.never(Duration::from_secs(2), "a request of the former process is carried out", || {
        (!world.origin.seen().is_empty()).then_some(world.origin.seen().len())
    });
    // The identical request again is what the approval lets through, once.
    let way = world.edges[0].way().unwrap();
    world.block_on(async {
        for errand in &errands {
            let reply = robot.send(&way, errand).await.unwrap();
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    });
    assert_eq!(world.origin.seen().len(), held);
    let gathered = world.gather(&[], Vec::new(), Instant::now());
    conclude("R-9", SEED, Faults(1), &gathered);
}

#[test]
fn r_10_an_edge_that_was_stopped_across_the_end_of_a_hold_does_not_act_on_what_came_meanwhile() {
    let _turn = my_turn();
    let world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let robot = world.robot("robot");
    let errand = Errand::new(Method::DELETE, HOST, "/too/late").waiting(Duration::from_secs(4));
    let way = world.edges[0].way().unwrap();
    let start = Instant::now();
    let (sender, mine) = (robot, errand);
    let client = world.runtime.spawn(async move { sender.send(&way, &mine).await });
    let id = world.eventually("the approval", || {
        let listed = world.block_on(world.desk(0).approvals(ApprovalState::Pending)).ok()?;
        Some(listed.first()?.approval_id.clone())
    });
    world.edges[0].process.pause();
    let desks = world.desks(&world.people[0]);
    let told = world.block_on(tap(&desks, &world.journal, &id, true, Duration::from_secs(10)));
    assert_eq!(told, Some(Told::Accepted));
    // Its own clock runs on while it stands still.
    std::thread::park_timeout(Duration::from_secs(6).saturating_sub(start.elapsed()));
    world.edges[0].process.resume();
    let answer = world.block_on(client).unwrap();
    assert!(!answer.is_ok_and(|reply| reply.status == 200), "the hold was over");
    world.never(Duration::from_secs(2), "a late decision is acted on", || {
        (!world.origin.seen().is_empty()).then_some(())
    });
    let gathered = world.gather(&[], Vec::new(), Instant::now());
    conclude("R-10", SEED, Faults(1), &gathered);
}
