//! Nothing is wrong: what everything else is compared with.

use std::time::{Duration, Instant};

use countersign_tests::cluster_world::{ClusterWorld, Load, Mix, Plan};
use countersign_tests::invariants::demand;

use super::my_turn;

#[test]
fn one_node_under_load_keeps_every_promise() {
    let _turn = my_turn();
    let world = ClusterWorld::with(Plan { nodes: 1, edges: 1, ..Plan::default() });
    let mut load = Load::start(&world, Mix { agents: 4, ..Mix::default() });
    world.within(Duration::from_secs(20), "five things are done", || {
        (load.count(true, 200) >= 5 && load.count(true, 403) >= 1).then_some(())
    });
    let unfinished = load.finish(&world, Duration::from_secs(20));
    assert!(unfinished.is_empty(), "{unfinished:?}");
    let healed = Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    let gathered = world.gather(&[&load], services, healed);
    assert!(gathered.histories > 5, "{} histories", gathered.histories);
    demand(&gathered.evidence);
}
