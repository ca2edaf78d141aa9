//! Snapshots all the time, and nodes that can catch up with nothing else.

use countersign_proto::v1;
use countersign_tests::cluster_world::{ClusterWorld, Desk, Faults, Load, Mix, Plan, is_long};
use futures::future::join_all;
use tonic::Code;

use super::crashes::settle;
use super::{SEED, my_turn};

/// Entries from one snapshot to the next, and as many are kept behind it.
const EVERY: usize = 50;
/// What a node misses: more than any log reaches back.
const MISSED: usize = 4 * EVERY;
/// Records in the state, so that a snapshot of it is some hundred kilobytes.
const RECORDS: u64 = 1500;
/// So slowly does a snapshot arrive, and after so much of it something happens.
const BYTES_PER_SECOND: u64 = 200 * 1024;
const PART: u64 = 100 * 1024;

#[test]
fn r_19_snapshots_all_the_time_and_transfers_that_are_cut_lose_nothing() {
    let _turn = my_turn();
    let every = ("COUNTERSIGN_CLUSTER_SNAPSHOT_EVERY".to_owned(), EVERY.to_string());
    let mut world = ClusterWorld::with(Plan { node_environment: vec![every], ..Plan::default() });
    fill(&world);
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    for round in 0..if is_long() { 9 } else { 3 } {
        let leader = world.leader();
        let followers = world.others(leader);
        let late = followers[round % followers.len()];
        let taken_over = times_taken_over(&world, late);
        world.nodes[late].process.kill();
        faults.injected();
        world.block_on(refused(world.desk(leader).as_person(&world.people[0]), MISSED));

        let whole = snapshots(&world, leader).into_iter().max();
        assert!(
            whole > Some(2 * PART),
            "the newest of the leader is too small to be cut: {whole:?}"
        );
        let name = |node: usize| world.nodes[node].name().to_owned();
        let (from, to) = (name(leader), name(late));
        world.network.change(&from, &to, |rules| {
            rules.forth.bytes_per_second = Some(BYTES_PER_SECOND);
        });
        let before = world.network.passed(&from, &to);
        world.start_node(late);
        world.eventually("a part of a snapshot has arrived", || {
            (world.network.passed(&from, &to) > before + PART).then_some(())
        });
        assert_eq!(times_taken_over(&world, late), taken_over, "a part is not installed");
        match round % 3 {
            0 => world.network.reset(&from, &to),
            1 => world.nodes[late].process.kill(),
            _ => world.nodes[leader].process.kill(),
        }
        faults.injected();
        world.heal();
        world.start_all();
        world.eventually("the whole is installed", || {
            (times_taken_over(&world, late) > taken_over).then_some(())
        });
        world.serving(late);
        world.serving(leader);
    }
    let (world, _load) = settle(world, load, "R-19", faults);
    for node in 0..world.nodes.len() {
        let kept = snapshots(&world, node);
        assert_eq!(kept.len(), 1, "node {node} keeps the newest snapshot alone: {kept:?}");
    }
}

/// Sizes of the snapshots on a node's disk, bytes.
fn snapshots(world: &ClusterWorld, node: usize) -> Vec<u64> {
    let files = world.nodes[node].files().into_iter();
    let snapshots = files.filter(|(path, _)| path.extension().is_some_and(|e| e == "snapshot"));
    snapshots.map(|(_, bytes)| bytes.len() as u64).collect()
}

fn fill(world: &ClusterWorld) {
    let desk = world.desk(world.leader());
    world.block_on(async {
        loop {
            let verify = desk.ask(v1::VerifyAuditRequest {});
            let verified = desk.client().verify_audit(verify).await.unwrap().into_inner();
            if verified.entries >= RECORDS {
                return;
            }
            join_all((0..16).map(|_| refused(desk.as_person(&world.people[0]), 10))).await;
        }
    });
}

/// Something that is refused: the cheapest thing that leaves a record. One after the other, so that each is an entry.
async fn refused(desk: Desk, times: usize) {
    for _ in 0..times {
        let refused = desk.client().seal(desk.ask(v1::SealRequest {})).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
}

/// How often a node said that it took the state over from another's snapshot.
fn times_taken_over(world: &ClusterWorld, node: usize) -> usize {
    world.nodes[node].process.log().matches("the state was taken over").count()
}
