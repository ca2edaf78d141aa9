//! Single promises, each with the deed that would break it. One node is mostly enough; each of these is also what must
//! catch a fault that is planted for it.

use std::time::{Duration, Instant};

use countersign_proto::v1::ApprovalState;
use countersign_tests::cluster_world::{
    ClusterWorld, Desk, Errand, HOST, POLICY, Plan, Reply, Robot, seen, tap,
};
use countersign_tests::history::{Seen, Told};
use countersign_tests::invariants::demand;
use http::Method;

use super::my_turn;

fn small(edges: usize) -> ClusterWorld {
    ClusterWorld::with(Plan { nodes: 1, edges, ..Plan::default() })
}

fn delete(target: &str) -> Errand {
    Errand::new(Method::DELETE, HOST, target)
}

/// Sends it through an edge, and gives the answer.
async fn send(world: &ClusterWorld, edge: usize, robot: &Robot, errand: &Errand) -> Reply {
    robot.send(&world.edges[edge].way().unwrap(), errand).await.unwrap()
}

/// The approval of this path, once it is there.
async fn asked_for(desk: &Desk, path: &str) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let listed = desk.approvals(ApprovalState::Unspecified).await.unwrap();
        if let Some(approval) = listed.into_iter().find(|approval| approval.path == path) {
            return approval.approval_id;
        }
        assert!(Instant::now() < until, "nobody was asked about {path}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn arrived(world: &ClusterWorld, path: &str) -> usize {
    world.origin.seen().iter().filter(|seen| seen.target.starts_with(path)).count()
}

/// The checker has the last word.
fn conclude(world: &ClusterWorld, quorum: usize) {
    let mut gathered = world.gather(&[], Vec::new(), Instant::now());
    gathered.evidence.quorum = quorum;
    demand(&gathered.evidence);
}

#[test]
fn a_2_one_approval_and_the_same_request_at_two_edges_is_carried_out_once() {
    let _turn = my_turn();
    let world = small(2);
    let robot = world.robot("robot");
    world.block_on(async {
        let desk = world.desk(0).as_person(&world.people[0]);
        for round in 0..5 {
            let errand = delete(&format!("/once/{round}"));
            let ((first, second), ()) = tokio::join!(
                async {
                    tokio::join!(send(&world, 0, &robot, &errand), send(&world, 1, &robot, &errand))
                },
                async {
                    let id = asked_for(&desk, &errand.target).await;
                    while desk.approval(&id).await.unwrap().waiting < 2 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    tap(std::slice::from_ref(&desk), &world.journal, &id, true, Duration::ZERO)
                        .await;
                }
            );
            let mut statuses = [first.status, second.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 409], "{first:?} {second:?}");
            assert_eq!(arrived(&world, &errand.target), 1);
        }
    });
    conclude(&world, 1);
}

#[test]
fn a_20_an_acknowledged_vote_is_there_for_whoever_looks_next() {
    let _turn = my_turn();
    let world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let robot = world.robot("robot");
    let leader = world.leader();
    let far = world.others(leader)[0];
    let ids = world.block_on(async {
        let mut ids = Vec::new();
        for number in 0..6 {
            let errand = delete(&format!("/seen/{number}")).waiting(Duration::from_secs(1));
            let held = send(&world, 0, &robot, &errand).await;
            ids.push(held.approval().unwrap().to_owned());
        }
        ids
    });
    // What this node has acknowledged and not yet passed on is nowhere else for that long.
    let (from, to) = (world.nodes[far].name(), world.nodes[leader].name());
    world.network.change(from, to, |rules| rules.forth.latency = Duration::from_millis(200));
    world.block_on(async {
        let voter = world.desk(far).as_person(&world.people[0]);
        let readers = world.others(far).into_iter().map(|node| world.desk(node));
        for (id, reader) in ids.iter().zip(readers.collect::<Vec<_>>().iter().cycle()) {
            assert_eq!(voter.tap(&world.journal, id, true).await, Some(Told::Accepted));
            reader.look(&world.journal, id).await.unwrap();
        }
    });
    world.network.resume();
    conclude(&world, 1);
}

#[test]
fn a_released_request_that_got_no_answer_is_not_sent_again() {
    let _turn = my_turn();
    let world = small(1);
    let robot = world.robot("robot");
    let errand = delete("/drop/it");
    world.block_on(async {
        let desk = world.desk(0).as_person(&world.people[0]);
        let (reply, ()) = tokio::join!(send(&world, 0, &robot, &errand), async {
            let id = asked_for(&desk, &errand.target).await;
            tap(std::slice::from_ref(&desk), &world.journal, &id, true, Duration::ZERO).await;
        });
        assert_eq!((reply.status, &*reply.code()), (409, "outcome_unknown"), "{reply:?}");
        let again = send(&world, 0, &robot, &errand).await;
        assert_eq!((again.status, &*again.code()), (409, "outcome_unknown"), "{again:?}");
    });
    assert_eq!(arrived(&world, "/drop/it"), 1, "it was sent again");
    conclude(&world, 1);
}

#[test]
fn a_denial_after_an_approval_that_nobody_used_is_the_last_word() {
    let _turn = my_turn();
    let world = small(1);
    let robot = world.robot("robot");
    let errand = delete("/changed/mind").waiting(Duration::from_secs(1));
    world.block_on(async {
        let [ana, bo] = [0, 1].map(|person| world.desk(0).as_person(&world.people[person]));
        let held = send(&world, 0, &robot, &errand).await;
        assert_eq!(held.code(), "approval_pending", "{held:?}");
        let id = held.approval().unwrap().to_owned();
        assert_eq!(ana.tap(&world.journal, &id, true).await, Some(Told::Accepted));
        assert_eq!(ana.look(&world.journal, &id).await, Some(Seen::Approved));
        assert_eq!(bo.tap(&world.journal, &id, false).await, Some(Told::Accepted));
        let last = bo.look(&world.journal, &id).await;
        assert_eq!(last, Some(Seen::Denied), "the denial was passed over");
        let refused = send(&world, 0, &robot, &errand).await;
        assert_eq!((refused.status, &*refused.code()), (403, "approval_denied"), "{refused:?}");
    });
    assert_eq!(arrived(&world, "/changed"), 0);
    conclude(&world, 1);
}

#[test]
fn a_10_one_person_on_two_channels_is_one_person() {
    let _turn = my_turn();
    let policy = POLICY
        .replace("approvers = [\"ana\", \"bo\"]", "approvers = [\"ana\", \"bo\"]\nquorum = 2");
    let world = ClusterWorld::with(Plan { nodes: 1, edges: 1, policy, ..Plan::default() });
    let robot = world.robot("robot");
    let errand = delete("/two/people").waiting(Duration::from_secs(1));
    let (ana, id) = world.block_on(async {
        let ana = world.desk(0).as_person(&world.people[0]);
        let held = send(&world, 0, &robot, &errand).await;
        let id = held.approval().unwrap().to_owned();
        assert_eq!(ana.tap(&world.journal, &id, true).await, Some(Told::Accepted));
        (ana, id)
    });
    let by_cli = world
        .cli(&["approval", "approve", &id])
        .env("COUNTERSIGN_TOKEN", &world.people[0].token)
        .output()
        .unwrap();
    assert!(by_cli.status.success(), "{}", String::from_utf8_lossy(&by_cli.stderr));
    world.block_on(async {
        let state = ana.approval(&id).await.unwrap().state();
        assert_eq!(seen(state), Seen::Pending, "one person, however often");
        let still = send(&world, 0, &robot, &errand).await;
        assert_eq!(still.code(), "approval_pending", "{still:?}");
        assert_eq!(arrived(&world, "/two"), 0);
        let bo = world.desk(0).as_person(&world.people[1]);
        assert_eq!(bo.tap(&world.journal, &id, true).await, Some(Told::Accepted));
        assert_eq!(send(&world, 0, &robot, &errand).await.status, 200);
    });
    conclude(&world, 2);
}

#[test]
fn p_3_a_path_in_another_spelling_meets_the_rule_that_denies_it() {
    let _turn = my_turn();
    let world = small(1);
    let robot = world.robot("robot");
    for path in ["/vault/gold", "/%76ault/gold", "/v%61ult/gold"] {
        for method in [Method::GET, Method::DELETE] {
            let errand = Errand::new(method, HOST, path).waiting(Duration::from_secs(1));
            let reply = world.block_on(send(&world, 0, &robot, &errand));
            assert_eq!(reply.status, 403, "{path}: {reply:?}");
        }
    }
    assert!(world.origin.seen().is_empty());
}

#[test]
fn the_hash_that_people_are_shown_is_that_of_the_whole_body() {
    let _turn = my_turn();
    let world = small(1);
    let robot = world.robot("robot");
    let body = format!(r#"{{"note":"{}","amount":1000000}}"#, "x".repeat(20 * 1024));
    let errand = delete("/large").with(body);
    world.block_on(async {
        let desk = world.desk(0).as_person(&world.people[0]);
        let (reply, ()) = tokio::join!(send(&world, 0, &robot, &errand), async {
            let id = asked_for(&desk, &errand.target).await;
            tap(std::slice::from_ref(&desk), &world.journal, &id, true, Duration::ZERO).await;
        });
        assert_eq!(reply.status, 200, "{reply:?}");
    });
    conclude(&world, 1);
}

#[test]
fn a_14_an_approval_under_a_policy_that_was_replaced_releases_nothing() {
    let _turn = my_turn();
    let world = small(1);
    let robot = world.robot("robot");
    let errand = delete("/replaced").waiting(Duration::from_secs(20));
    let id = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| world.block_on(send(&world, 0, &robot, &errand)));
        let desk = world.desk(0).as_person(&world.people[0]);
        let id = world.block_on(asked_for(&desk, &errand.target));
        // The edge hears nothing of the policy, and the node nothing of the edge, until the approval is there.
        world.network.part("e1", "n1");
        world.network.part("n1", "e1");
        world.set_policy(&POLICY.replace("then = \"approve\"", "then = \"deny\"").replace(
            "credential = \"writer\"\napprovers = [\"ana\", \"bo\"]",
            "reason = \"not any more\"",
        ));
        // What was asked under the former policy may still be answered; it must not come to a release.
        world.block_on(desk.tap(&world.journal, &id, true));
        world.network.heal();
        let reply = waiting.join().unwrap();
        assert_ne!(reply.status, 200, "{reply:?}");
        id
    });
    assert_eq!(arrived(&world, "/replaced"), 0);
    let state = world.block_on(world.desk(0).approval(&id)).unwrap().state();
    assert_ne!(seen(state), Seen::Released, "claimed under another policy than is in force");
    conclude(&world, 1);
}
