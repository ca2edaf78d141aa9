//! One node of a build that lies: it releases, and tells itself, what nobody has approved. Only `tests/planted` has
//! such a build.

use std::time::Duration;

use countersign_proto::v1::ApprovalState;
use countersign_tests::cluster_world::{ClusterWorld, Errand, HOST, Plan, tap};
use http::Method;

use super::my_turn;

#[test]
fn t4_forge_decision_a_leader_of_a_build_that_lies_makes_no_edge_release() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let robot = world.robot("robot");
    let (liar, honest) = (0, 1);
    world.nodes[liar].process.kill();
    world.nodes[liar].process.variable("COUNTERSIGN_PLANTED_BUG", "13");
    world.start_node(liar);
    world.serving(liar);
    let name = world.nodes[liar].name().to_owned();
    world.eventually("that the liar leads", || {
        if world.leader_now() == Some(liar) {
            return Some(());
        }
        world.cli(&["cluster", "transfer", &name]).output().ok().and(None)
    });
    // It is also the node that the edge hears.
    world.edges[0].process.kill();
    let address = world.nodes[liar].gateway.to_string();
    world.edges[0].process.variable("COUNTERSIGN_EDGE_CONTROL_PLANE_ADDRESSES", &address);
    world.start_edge(0);

    let errand = Errand::new(Method::DELETE, HOST, "/lie").waiting(Duration::from_secs(6));
    let (asking, way) = (robot.clone(), world.edges[0].way().unwrap());
    let held = {
        let errand = errand.clone();
        world.runtime.spawn(async move { asking.send(&way, &errand).await })
    };
    let state_at = |world: &ClusterWorld, node: usize| {
        let desk = world.desk(node);
        let all = world.block_on(desk.approvals(ApprovalState::Unspecified)).ok()?;
        let found = all.into_iter().find(|approval| approval.path == "/lie")?;
        Some((found.state(), found.approval_id))
    };
    let (_, id) = world.eventually("that it tells itself so", || {
        state_at(&world, liar).filter(|(state, _)| *state == ApprovalState::Released)
    });
    let answer = world.block_on(held).unwrap();
    assert!(!answer.as_ref().is_ok_and(|reply| reply.status == 200), "{answer:?}");
    assert!(world.origin.seen().is_empty(), "an edge released what one node made up");

    // Without the liar it is what it was: a request that waits for people.
    world.nodes[liar].process.kill();
    let truth = world.eventually("what the others say", || state_at(&world, honest));
    assert_eq!(truth, (ApprovalState::Pending, id.clone()));
    world.edges[0].process.kill();
    let address = world.nodes[honest].gateway.to_string();
    world.edges[0].process.variable("COUNTERSIGN_EDGE_CONTROL_PLANE_ADDRESSES", &address);
    world.start_edge(0);
    let desks: Vec<_> = world
        .desks(&world.people[0])
        .into_iter()
        .enumerate()
        .filter_map(|(node, desk)| (node != liar).then_some(desk))
        .collect();
    world.block_on(tap(&desks, &world.journal, &id, true, Duration::from_secs(20)));
    let way = world.edges[0].way().unwrap();
    let answer = world.eventually("that it is carried out", || {
        let reply = world.block_on(robot.send(&way, &errand)).ok()?;
        (reply.status == 200).then_some(reply.status)
    });
    assert_eq!(answer, 200);
    assert_eq!(world.origin.seen().iter().filter(|seen| seen.target == "/lie").count(), 1);
}
