//! Nodes that come and go for good.

use std::time::Instant;

use countersign_tests::cluster_world::{ClusterWorld, Faults, Load, Mix, conclude, is_long};

use super::{SEED, my_turn};

#[test]
fn r_18_nodes_are_replaced_one_by_one_under_load() {
    let _turn = my_turn();
    let mut world = ClusterWorld::start();
    let mut load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    let root_key = world.root_key();
    let root_key = root_key.to_str().unwrap();
    // The leader first; in the long tier everybody.
    for _ in 0..if is_long() { 3 } else { 1 } {
        let before = load.count(true, 200);
        let place = world.add_node();
        world.serving(place);
        let originals: Vec<usize> =
            (0..3).filter(|node| world.nodes[*node].process.is_running()).collect();
        let leaving = originals.iter().copied().find(|n| *n == world.leader());
        let leaving = leaving.unwrap_or(originals[0]);
        let name = world.nodes[leaving].name().to_owned();
        world.cli_ok(&["cluster", "remove", &name, "--root-key", root_key, "--yes"]);
        faults.injected();
        world.eventually("things are done without it", || {
            (load.count(true, 200) >= before + 3).then_some(())
        });
        // Whatever it does, it leads nobody in the end: one that is started again before it has handed over does so
        // then, and its peers do not know it any more.
        world.nodes[leaving].process.kill();
        let network = std::sync::Arc::clone(&world.network);
        world.nodes[leaving].start(&network);
        let another = |world: &ClusterWorld| world.leader_now().filter(|now| *now != leaving);
        world.eventually("that another one leads", || another(&world));
        let before = load.count(true, 200);
        world.eventually("things are done beside it", || {
            (load.count(true, 200) >= before + 3).then_some(())
        });
        assert_ne!(world.leader(), leaving, "a removed node leads nobody");
        world.nodes[leaving].process.kill();
    }
    let healed = Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    let unfinished = load.finish(&world, std::time::Duration::from_secs(40));
    assert!(unfinished.is_empty(), "{unfinished:#?}");
    let gathered = world.gather(&[&load], services, healed);
    conclude("R-18", SEED, faults, &gathered);
}

#[test]
fn c_5_a_cluster_begins_once_and_only_administrators_change_it() {
    let _turn = my_turn();
    let world = ClusterWorld::start();
    let admin = world.desk(1);
    world.block_on(async {
        use countersign_proto::v1;
        let again = admin.client().init_cluster(admin.ask(v1::InitClusterRequest::default())).await;
        assert!(again.is_err(), "{again:?}");
        for person in &world.people {
            let desk = admin.as_person(person);
            let request = v1::AddNodeRequest { name: "mine".into(), ..Default::default() };
            let added = desk.client().add_node(desk.ask(request)).await;
            assert_eq!(added.unwrap_err().code(), tonic::Code::PermissionDenied);
            let request = v1::RemoveNodeRequest { node: "n1".into(), ..Default::default() };
            let removed = desk.client().remove_node(desk.ask(request)).await;
            assert_eq!(removed.unwrap_err().code(), tonic::Code::PermissionDenied);
            let request = v1::TransferLeadershipRequest::default();
            let moved = desk.client().transfer_leadership(desk.ask(request)).await;
            assert_eq!(moved.unwrap_err().code(), tonic::Code::PermissionDenied);
        }
        // An id is used once: the same node's record is still there after a removal, and nobody has two.
        let cluster = admin.cluster().await.unwrap();
        let mut ids: Vec<_> = cluster.nodes.iter().map(|node| node.node_id.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        assert_eq!(cluster.nodes.iter().filter(|node| node.leader).count(), 1);
    });
    assert!(world.term() < 20, "nobody's attempts disturb the cluster");
}
