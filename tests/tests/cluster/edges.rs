//! Edges, people and keys that are taken out of service while requests wait.

use std::time::{Duration, Instant};

use countersign_proto::v1;
use countersign_tests::cluster_world::{
    ClusterWorld, Errand, Faults, HOST, Load, Mix, POLICY, Person, Plan, WRITE_KEY, conclude, tap,
};
use countersign_tests::history::{Seen, Told};
use countersign_tests::invariants::Attempt;
use http::Method;

use super::{SEED, my_turn};

/// How long an edge that was evicted may go on.
const OUT_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn t3_evict_whatever_is_revoked_while_requests_wait_releases_none_of_them() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let request = v1::AddApproverRequest { name: "cy".into(), ..Default::default() };
    let desk = world.desk(0);
    let made = world.block_on(desk.client().add_approver(desk.ask(request))).unwrap();
    let cy = Person { name: "cy".into(), token: made.into_inner().token };
    world.set_policy(&POLICY.replace("\"bo\"]", "\"bo\", \"cy\"]"));
    // Everybody else goes through the first edge.
    let mut load = Load::start(&world, Mix { seed: SEED, own: true, ..Mix::default() });
    let lost = world.add_edge();
    let robot = world.robot("robot");
    let mut faults = Faults::default();

    // An edge.
    let way = world.edges[lost].way().unwrap();
    let errand = |n: usize| Errand::new(Method::DELETE, HOST, &format!("/evicted/{n}"));
    let clients: Vec<_> = (0..50)
        .map(|n| {
            let (robot, way, errand) = (robot.clone(), way.clone(), errand(n));
            world.runtime.spawn(async move { robot.send(&way, &errand).await })
        })
        .collect();
    let held = world.eventually("all are held", || {
        let pending = world.block_on(desk.approvals(v1::ApprovalState::Pending)).ok()?;
        let mut held = pending;
        held.retain(|approval| approval.path.starts_with("/evicted/") && approval.waiting > 0);
        (held.len() == 50).then_some(held)
    });
    let name = world.edges[lost].name().to_owned();
    let request = v1::EvictEdgeRequest { name: name.clone(), ..Default::default() };
    world.block_on(desk.client().evict_edge(desk.ask(request))).unwrap();
    let evicted = Instant::now();
    faults.injected();
    let desks = world.desks(&world.people[0]);
    world.block_on(async {
        // Approved after all, and too late for that edge.
        for approval in &held[..10] {
            let id = &approval.approval_id;
            let told = tap(&desks, &world.journal, id, true, Duration::from_secs(10)).await;
            assert_eq!(told, Some(Told::Accepted));
        }
        for client in clients {
            let reply = client.await.unwrap().unwrap();
            assert_eq!((reply.status, &*reply.code()), (503, "edge_evicted"), "{reply:?}");
        }
    });
    assert!(evicted.elapsed() < OUT_WITHIN, "{:?}", evicted.elapsed());
    // Nor does another process of it come into possession of what was approved meanwhile.
    world.edges[lost].process.kill();
    world.edges[lost].process.start();
    let ca = world.edges[lost].process.dir().join("edge-ca.pem");
    world.eventually("it listens again", || {
        let way = world.edges[lost].way().filter(|_| ca.exists())?;
        std::net::TcpStream::connect(way.proxy).ok()
    });
    let again = world.block_on(async {
        let way = world.edges[lost].way().unwrap();
        let errand = errand(0).waiting(Duration::from_secs(2));
        tokio::time::timeout(Duration::from_secs(10), robot.send(&way, &errand)).await
    });
    let served = matches!(&again, Ok(Ok(reply)) if reply.status != 503);
    let attempts = vec![Attempt {
        node: name,
        shut_out: "evicted".into(),
        what: format!("{again:?}"),
        answered: served,
    }];
    world.never(Duration::from_secs(2), "an evicted edge releases", || {
        world.origin.seen().into_iter().find(|seen| seen.target.starts_with("/evicted/"))
    });
    world.edges[lost].process.kill();

    // An approver.
    let way = world.edges[0].way().unwrap();
    let short =
        |path: &str| Errand::new(Method::DELETE, HOST, path).waiting(Duration::from_secs(1));
    let by_cy = short("/left/by-cy");
    world.block_on(async {
        let held = robot.send(&way, &by_cy).await.unwrap();
        let id = held.approval().unwrap().to_owned();
        let cy = world.desk(0).as_person(&cy);
        assert_eq!(cy.tap(&world.journal, &id, true).await, Some(Told::Accepted));
        assert_eq!(cy.look(&world.journal, &id).await, Some(Seen::Approved));
        let request = v1::RemoveApproverRequest { name: "cy".into(), ..Default::default() };
        desk.client().remove_approver(desk.ask(request)).await.unwrap();
        faults.injected();
        let again = robot.send(&way, &by_cy).await.unwrap();
        assert_eq!(again.code(), "approval_pending", "a word of somebody who left: {again:?}");
        assert_eq!(cy.tap(&world.journal, &id, true).await, None, "cy has no word any more");
        let ana = [world.desk(0).as_person(&world.people[0])];
        tap(&ana, &world.journal, &id, true, Duration::from_secs(10)).await;
        assert_eq!(robot.send(&way, &by_cy).await.unwrap().status, 200);
    });

    // A key: what was approved with its former version needs another word.
    let by_former_key = short("/left/by-former-key");
    world.block_on(async {
        let ana = world.desk(0).as_person(&world.people[0]);
        let held = robot.send(&way, &by_former_key).await.unwrap();
        let id = held.approval().unwrap().to_owned();
        assert_eq!(ana.tap(&world.journal, &id, true).await, Some(Told::Accepted));
        let request = v1::RotateCredentialRequest {
            name: "writer".into(),
            value: WRITE_KEY.as_bytes().to_vec().into(),
            ..Default::default()
        };
        desk.client().rotate_credential(desk.ask(request)).await.unwrap();
        faults.injected();
        let again = robot.send(&way, &by_former_key).await.unwrap();
        assert_eq!(again.status, 503, "{again:?}");
    });
    assert!(!world.origin.seen().iter().any(|seen| seen.target == by_former_key.target));

    let healed = Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    let unfinished = load.finish(&world, Duration::from_secs(40));
    assert!(unfinished.is_empty(), "{unfinished:#?}");
    let mut gathered = world.gather(&[&load], services, healed);
    gathered.evidence.attempts = attempts;
    conclude("T3-EVICT", SEED, faults, &gathered);
}
