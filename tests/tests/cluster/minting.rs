//! Tokens that are minted by a cluster: one call for all that need one, whichever node they are at, and a leader that goes
//! takes none with it.

use std::time::Duration;

use countersign_proto::v1;
use countersign_tests::cluster_world::{ClusterWorld, Errand, HOST, POLICY, Plan};
use countersign_tests::issuer::{AUTH, CLIENT_ID, Issuer, client_value};
use http::Method;

use super::my_turn;

#[test]
fn sixty_four_needs_at_every_node_make_one_call_and_the_token_outlives_the_leader() {
    let _turn = my_turn();
    let issuer = Issuer::start();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("issuer-ca.pem");
    std::fs::write(&ca, issuer.origin.ca_pem()).unwrap();
    let way = format!("{AUTH}:443:{}", issuer.origin.address());
    let mut world = ClusterWorld::with(Plan {
        edges: 3,
        policy: POLICY.replace("credential = \"reader\"", "credential = \"minted\""),
        node_environment: vec![
            ("COUNTERSIGN_MINT_CA_FILES".into(), ca.to_str().unwrap().into()),
            ("COUNTERSIGN_MINT_CONNECT_TO".into(), way),
        ],
        ..Plan::default()
    });
    let desk = world.desk(0);
    let mint = v1::OauthMint {
        grant: v1::OauthGrant::RefreshToken.into(),
        token_url: format!("https://{AUTH}/token"),
        client_id: CLIENT_ID.into(),
        ..Default::default()
    };
    let request = v1::CreateCredentialRequest {
        name: "minted".into(),
        host: HOST.into(),
        slot: "header".into(),
        value: client_value().into_bytes().into(),
        mint: Some(v1::Mint { kind: Some(v1::mint::Kind::Oauth(mint)) }),
        ..Default::default()
    };
    let made = world.block_on(desk.client().create_credential(desk.ask(request))).unwrap();
    std::fs::write(world.root().join("reader.fake"), made.into_inner().fake_key).unwrap();
    let robot = world.robot("reads");

    // What the upstream is reached with is enough here: it takes only its own key, and says 401 to others.
    let read = |world: &ClusterWorld, from: usize, count: usize| {
        let sent: Vec<_> = (from..from + count)
            .map(|n| {
                let way = world.edges[n % world.edges.len()].way().unwrap();
                let (robot, errand) =
                    (robot.clone(), Errand::new(Method::GET, HOST, &format!("/minted/{n}")));
                world.runtime.spawn(async move { robot.send(&way, &errand).await })
            })
            .collect();
        world.block_on(async {
            for reply in sent {
                let reply = reply.await.unwrap().unwrap();
                assert_eq!(reply.status, 401, "it was sent, with the token: {reply:?}");
            }
        });
    };
    read(&world, 0, 64);
    assert_eq!(issuer.calls(), 1, "one call for 64 needs at three edges");
    let used = |world: &ClusterWorld| -> Vec<String> {
        let seen =
            world.origin.seen().into_iter().filter(|seen| seen.target.starts_with("/minted/"));
        seen.filter_map(|seen| seen.credential().map(str::to_owned)).collect()
    };
    let token = format!("Bearer {}", issuer.issued()[0]);
    assert_eq!(used(&world), vec![token.clone(); 64]);

    // The leader that minted it is gone; edges attach elsewhere, and new processes of theirs need it anew.
    let leader = world.leader();
    world.nodes[leader].process.kill();
    world.eventually("another leader", || world.leader_now().filter(|it| *it != leader));
    for edge in 0..world.edges.len() {
        world.edges[edge].process.kill();
        world.start_edge(edge);
    }
    read(&world, 64, 12);
    assert_eq!(issuer.calls(), 1, "another leader uses what was minted");
    assert_eq!(used(&world)[64..], vec![token; 12]);

    // What was used up is replaced on every node: whichever leads mints with the next one.
    world.start_all();
    let renewed = world.within(Duration::from_secs(30), "the next token", || {
        let desk = world.desk(world.leader());
        let request = v1::RotateCredentialRequest {
            name: "minted".into(),
            value: client_value().replace("-1\"", "-2\"").into_bytes().into(),
            ..Default::default()
        };
        world.block_on(desk.client().rotate_credential(desk.ask(request))).ok()
    });
    assert_eq!(renewed.into_inner().credential.unwrap().version, 2);
    // Whoever rotates has heard from the edges at that node; one at another node may lend out the former token until it hears.
    world.eventually("the next token is used", || {
        let robot = robot.clone();
        let way = world.edges[0].way()?;
        let errand = Errand::new(Method::GET, HOST, "/next");
        let reply = world.block_on(async { robot.send(&way, &errand).await }).ok()?;
        (reply.status == 401 && issuer.calls() > 1).then_some(())
    });
    assert_eq!(issuer.calls(), 2);
    assert!(issuer.ledger.lock().unwrap().calls[1].1, "it was the right one");
}
