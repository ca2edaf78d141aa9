//! Vaults that are closed while the cluster serves.

use std::time::{Duration, Instant};

use countersign_proto::v1;
use countersign_tests::cluster_world::{
    ClusterWorld, Faults, Load, Mix, Plan, Seal, conclude, http_get,
};
use countersign_tests::invariants::Attempt;

use super::{SEED, my_turn};

fn seal(world: &ClusterWorld, node: usize) {
    let desk = world.desk(node);
    world.block_on(desk.client().seal(desk.ask(v1::SealRequest::default()))).unwrap();
}

fn answers(world: &ClusterWorld, node: usize) -> bool {
    world.block_on(async {
        let desk = world.desk(node);
        desk.approvals(v1::ApprovalState::Unspecified).await.is_ok()
    })
}

#[test]
fn r_21_a_sealed_node_neither_votes_nor_serves_and_wrong_words_do_not_open_it() {
    let _turn = my_turn();
    let plan = Plan { seal: Seal::Passphrase, edges: 2, ..Plan::default() };
    let mut world = ClusterWorld::with(plan);
    let mut load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    let mut attempts = Vec::new();

    // A follower, then whoever leads.
    for round in 0..2 {
        let leader = world.leader();
        let sealed = if round == 0 { world.others(leader)[0] } else { leader };
        seal(&world, sealed);
        faults.injected();
        attempts.push(Attempt {
            node: world.nodes[sealed].name().into(),
            shut_out: "sealed".into(),
            what: "listed approvals".into(),
            answered: answers(&world, sealed),
        });
        let ready = http_get(world.nodes[sealed].web, "/readyz").map(|(status, _)| status);
        assert_ne!(ready, Some(200));
        let before = load.count(true, 200);
        world
            .eventually("the others go on", || (load.count(true, 200) >= before + 2).then_some(()));
        assert_ne!(world.leader(), sealed);

        // It does not vote: with one of the others gone there is no majority.
        let others = world.others(sealed);
        world.nodes[others[0]].process.pause();
        world.never(Duration::from_secs(5), "a sealed node makes a majority", || {
            let served = world.block_on(async {
                let desk = world.desk(others[1]);
                let listed = desk.approvals(v1::ApprovalState::Pending);
                tokio::time::timeout(Duration::from_secs(2), listed).await
            });
            // A leader that has not noticed yet cannot serve either: reads ask the majority.
            matches!(served, Ok(Ok(_))).then_some(())
        });
        world.nodes[others[0]].process.resume();

        let desk = world.desk(sealed);
        let wrong = v1::UnsealRequest {
            passphrase: b"not the words of this vault".to_vec().into(),
            ..Default::default()
        };
        let opened = world.block_on(desk.client().unseal(desk.ask(wrong)));
        assert!(!opened.is_ok_and(|answer| !answer.into_inner().sealed), "wrong words opened it");
        assert!(!answers(&world, sealed));
        world.unseal(sealed);
        world.serving(sealed);
    }
    let healed = Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    let unfinished = load.finish(&world, Duration::from_secs(40));
    assert!(unfinished.is_empty(), "{unfinished:#?}");
    let mut gathered = world.gather(&[&load], services, healed);
    gathered.evidence.attempts = attempts;
    conclude("R-21", SEED, faults, &gathered);
    world.nodes.clear();
}
