//! Who knocks at the door for nodes, and what one node that lies can bring about.

use std::net::SocketAddr;
use std::time::Duration;

use countersign_proto::v1;
use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use countersign_tests::cluster_world::{ClusterWorld, Errand, HOST, Plan, tap};
use countersign_tests::origin::certificate;
use http::Method;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::my_turn;
use super::relay::Relay;

/// The files of a node's identity towards other nodes, and its id.
struct Node {
    id: String,
    certificate: String,
    key: String,
    ca: String,
}

fn identity(world: &ClusterWorld, node: usize) -> Node {
    let tls = world.nodes[node].data_dir().join("tls");
    let read = |name: &str| std::fs::read_to_string(tls.join(name)).unwrap();
    let id = world.block_on(world.desk(node).status()).unwrap().node_id;
    Node { id, certificate: read("node.pem"), key: read("node.key"), ca: read("node-ca.pem") }
}

fn dial(
    world: &ClusterWorld,
    at: SocketAddr,
    server: &Node,
    client: Option<(&str, &str)>,
) -> ClusterServiceClient<Channel> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&server.ca))
        .domain_name(format!("{}.node.countersign", server.id));
    if let Some((certificate, key)) = client {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let _in = world.runtime.enter();
    let channel = Endpoint::from_shared(format!("https://{at}"))
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .timeout(Duration::from_secs(5))
        .connect_lazy();
    ClusterServiceClient::new(channel)
}

fn number(id: &str) -> u64 {
    u64::from_str_radix(id, 16).unwrap()
}

fn vote(term: u64, node: &Node) -> Option<v1::RaftVote> {
    Some(v1::RaftVote { term, node_id: number(&node.id), committed: false })
}

#[test]
fn c_4_raft_listens_to_members_that_speak_for_themselves_and_to_nobody_else() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let nodes: Vec<Node> = (0..3).map(|node| identity(&world, node)).collect();
    let cluster_id = world.block_on(world.desk(0).status()).unwrap().cluster_id;
    let (target, at) = (&nodes[0], world.nodes[0].cluster_itself());
    let before = world.term();
    let ask = |cluster: &str, candidate: &Node| v1::RequestVoteRequest {
        cluster_id: cluster.to_owned(),
        vote: vote(before + 1_000, candidate),
        last_log: Some(v1::RaftLogId {
            term: 900_000,
            node_id: number(&candidate.id),
            index: 1 << 40,
        }),
        process: 0,
    };

    // Who is no node.
    let edge = |name: &str| std::fs::read_to_string(world.root().join("e1").join(name)).unwrap();
    let (edge_certificate, edge_key) = (edge("edge-cert.pem"), edge("edge-key.pem"));
    let member = format!("{}.node.countersign", nodes[1].id);
    let (_, forged, forged_key) = certificate(&[&member]);
    let strangers = [
        ("nobody", None),
        ("an edge", Some((edge_certificate.as_str(), edge_key.as_str()))),
        ("a node of another CA", Some((forged.as_str(), forged_key.as_str()))),
    ];
    for (who, shown) in strangers {
        let mut stranger = dial(&world, at, target, shown);
        let voted = world.block_on(stranger.request_vote(ask(&cluster_id, &nodes[1])));
        assert!(voted.is_err(), "{who} got an answer: {voted:?}");
    }

    // A member that speaks for another, or of another cluster.
    let shown = Some((nodes[1].certificate.as_str(), nodes[1].key.as_str()));
    let mut second = dial(&world, at, target, shown);
    let spoofed = world.block_on(second.request_vote(ask(&cluster_id, &nodes[2])));
    assert_eq!(spoofed.unwrap_err().code(), Code::PermissionDenied);
    let elsewhere = world.block_on(second.request_vote(ask("another-cluster", &nodes[1])));
    assert!(elsewhere.is_err(), "{elsewhere:?}");
    let append = v1::AppendEntriesRequest {
        cluster_id: cluster_id.clone(),
        vote: Some(v1::RaftVote {
            term: before + 1_000,
            node_id: number(&nodes[2].id),
            committed: true,
        }),
        previous: None,
        entries: Vec::new(),
        leader_commit: None,
        process: 0,
    };
    let appended = world.block_on(second.append_entries(append));
    assert_eq!(appended.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(world.term(), before, "none of it was taken for an election");

    // A member that was removed.
    let root_key = world.root_key();
    let root_key = root_key.to_str().unwrap();
    world.add_node();
    let leaving = *world.others(world.leader()).iter().find(|node| **node < 3).unwrap();
    let gone = identity(&world, leaving);
    let name = world.nodes[leaving].name().to_owned();
    world.cli_ok(&["cluster", "remove", &name, "--root-key", root_key, "--yes"]);
    world.nodes[leaving].process.kill();
    let staying = *world.others(leaving).first().unwrap();
    let (target, at) = (&identity(&world, staying), world.nodes[staying].cluster_itself());
    let mut removed = dial(&world, at, target, Some((&gone.certificate, &gone.key)));
    world.eventually("a removed node is refused", || {
        let voted = world.block_on(removed.request_vote(ask(&cluster_id, &gone)));
        voted.is_err().then_some(())
    });
    world.nodes.remove(leaving);
    assert!(world.term() < before + 1_000, "nobody's impossible term was taken over");
}

#[test]
fn t4_forge_decision_one_node_that_lies_makes_no_edge_release_and_no_node_co_sign() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let robot = world.robot("robot");
    let trust = world.block_on(world.desk(0).cluster()).unwrap();
    assert_eq!(trust.trust_threshold, 2, "two nodes of three have to sign");

    // The lying node is all that the edge can reach. It has everything that node n1 has on its disk for edges.
    let relay = Relay::start(&world, 0, 1);
    world.edges[0].process.kill();
    let address = relay.address().to_string();
    world.edges[0].process.variable("COUNTERSIGN_EDGE_CONTROL_PLANE_ADDRESSES", &address);
    world.start_edge(0);
    let desks = world.desks(&world.people[0]);
    let ask = |path: &str| {
        let errand = Errand::new(Method::DELETE, HOST, path).waiting(Duration::from_secs(4));
        let (robot, way) = (robot.clone(), world.edges[0].way().unwrap());
        world.runtime.spawn(async move { robot.send(&way, &errand).await })
    };
    let approve = |path: &str| {
        let id = world.eventually("an approval", || {
            let asked = world.desk(1);
            let listed = asked.approvals(v1::ApprovalState::Pending);
            let listed = world.block_on(listed).ok()?;
            Some(listed.into_iter().find(|a| a.path == path)?.approval_id)
        });
        world.block_on(tap(&desks, &world.journal, &id, true, Duration::from_secs(10)));
    };
    let arrived = |path: &str| world.origin.seen().iter().filter(|s| s.target == path).count();

    // As it is meant to be: what follows would prove nothing if this did not pass.
    let client = ask("/honest");
    approve("/honest");
    assert_eq!(world.block_on(client).unwrap().unwrap().status, 200);
    assert_eq!(arrived("/honest"), 1);

    // One signature is what one node has; twice the same is still one; and one over other bytes is none.
    for (path, lie) in [
        ("/one", Relay::one_signature as fn(&Relay)),
        ("/twice", Relay::one_twice),
        ("/other", Relay::other_bytes),
    ] {
        lie(&relay);
        let client = ask(path);
        approve(path);
        world.eventually("the edge got the lie", || (relay.lies() > 0).then_some(()));
        let answer = world.block_on(client).unwrap();
        assert!(!answer.as_ref().is_ok_and(|reply| reply.status == 200), "{path}: {answer:?}");
        assert_eq!(arrived(path), 0, "{path} was released");
        relay.honest();
    }

    // Nor does another node lend its signature to what its own state does not say.
    let (request_id, payload, payload_type) = relay.last_decision();
    let (liar, honest) = (identity(&world, 0), identity(&world, 1));
    let shown = Some((liar.certificate.as_str(), liar.key.as_str()));
    let mut door = dial(&world, world.nodes[1].cluster_itself(), &honest, shown);
    let status = world.block_on(world.desk(1).status()).unwrap();
    let mut co_sign = |request_id: &[u8], payload: Vec<u8>| {
        let request = v1::CoSignRequest {
            cluster_id: status.cluster_id.clone(),
            index: status.applied_index,
            payload_type: payload_type.clone(),
            payload: payload.into(),
            subject: Some(v1::co_sign_request::Subject::RequestId(request_id.to_vec().into())),
        };
        world.block_on(door.co_sign(request)).map(|answer| answer.into_inner().signatures)
    };
    let mut forged = payload.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for (what, request_id, payload) in
        [("other bytes", request_id, forged), ("another request", vec![7; 16], payload)]
    {
        let signed = co_sign(&request_id, payload);
        assert!(!signed.is_ok_and(|signatures| !signatures.is_empty()), "{what} was co-signed");
    }
}
