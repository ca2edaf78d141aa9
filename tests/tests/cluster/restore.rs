//! A cluster that is lost, but for a backup.

use std::time::{Duration, Instant};

use countersign_tests::cluster_world::{ClusterWorld, Faults, Load, Mix, Plan, conclude};

use super::{SEED, my_turn};

#[test]
fn long_a_cluster_of_three_comes_back_from_its_backup_and_releases_again() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let mut load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    world.eventually("things are done", || (load.count(true, 200) >= 5).then_some(()));
    let unfinished = load.finish(&world, Duration::from_secs(30));
    assert!(unfinished.is_empty(), "{unfinished:#?}");
    let backup = world.root().join("backup");
    world.cli_ok(&["cluster", "backup", backup.to_str().unwrap()]);

    // Edges of the former cluster would find that the new one is behind.
    world.edges[0].process.kill();
    world.restore(&backup, 3);
    let cluster = world.block_on(world.desk(2).cluster()).unwrap();
    assert_eq!(cluster.trust_threshold, 2, "{cluster:?}");
    world.add_edge();

    let healed = Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    assert_eq!(services.len(), 1);
    let gathered = world.gather(&[&load], services, healed);
    conclude("restore", SEED, Faults(3), &gathered);
}
