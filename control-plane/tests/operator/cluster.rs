//! Three nodes through their real doors: begun, joined, led, left.

use std::fs;

use countersign_control_plane::config::ClusterConfig;
use countersign_control_plane::node::{Config, ControlPlane, SealConfig};
use countersign_control_plane::sign::SigningKeys;
use countersign_proto::v1;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use tonic::Code;

use crate::start::get_from;
use crate::town::{Town, agent, files_below, invitation, name, refusal};
use crate::world::client_of;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_nodes_come_together_and_any_of_them_answers_for_all() {
    let town = Town::of(3).await;
    let first = town.cluster(0).await.unwrap();
    assert_eq!(first.nodes.len(), 3);
    for place in 0..3 {
        let said = town.cluster(place).await.unwrap();
        assert_eq!(said.cluster_id, first.cluster_id);
        assert_eq!((said.trust_epoch, said.trust_threshold), (first.trust_epoch, 2));
        assert_eq!(said.rolled_back, "");
        for node in &said.nodes {
            assert_eq!(node.state(), v1::NodeState::Voter, "{}", node.name);
            assert!(node.trusted && !node.cluster_address.is_empty() && node.node_id.len() == 16);
        }
        let status = town.admin(place).await.get_status(v1::GetStatusRequest {}).await.unwrap();
        let status = status.into_inner();
        let own = said.nodes.iter().find(|node| node.name == name(place)).unwrap();
        assert_eq!((&status.node_id, &said.node_id), (&own.node_id, &own.node_id));
        assert_eq!(said.nodes.iter().filter(|node| node.leader).count(), 1);
        town.until("it is ready", async |town| {
            get_from(town.node(place), "/readyz").await.starts_with("HTTP/1.1 200")
        })
        .await;
    }
    // Every node names every gateway, its own first.
    let enrolled = crate::edge::Enrolled::answer(&mut town.admin(1).await, "edge").await;
    assert_eq!(enrolled.gateway_addresses.len(), 3);
    assert_eq!(enrolled.gateway_addresses[0], town.node(1).gateway_addr().to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_changed_through_a_follower_is_read_at_once_on_every_node() {
    let town = Town::of(3).await;
    let follower = town.follower().await;
    for number in 0..5 {
        let named = format!("bot-{number}");
        town.admin(follower).await.create_agent(agent(&named)).await.unwrap();
        for place in 0..3 {
            let mut admin = town.admin(place).await;
            let agents = admin.list_agents(v1::ListAgentsRequest::default()).await;
            let agents = agents.unwrap().into_inner().agents;
            assert!(agents.iter().any(|agent| agent.name == named), "{named} on {place}");
        }
    }
    // A request that is repeated on another node is done once.
    let request = v1::CreateAgentRequest { request_id: "once".into(), ..agent("twice") };
    let first = town.admin(0).await.create_agent(request.clone()).await.unwrap().into_inner();
    let again = town.admin(2).await.create_agent(request).await.unwrap().into_inner();
    assert_eq!(first, again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leadership_is_handed_over_and_a_node_that_is_removed_is_out() {
    let mut town = Town::of(3).await;
    let leader = town.leader(0).await.unwrap();
    let follower = town.follower().await;
    let to = v1::TransferLeadershipRequest { node: name(follower) };
    // The one that leads is the one to ask, and the others say which that is.
    let refused = town.admin(follower).await.transfer_leadership(to.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&town.node(leader).api_addr().to_string()), "{refused}");
    town.admin(leader).await.transfer_leadership(to).await.unwrap();
    town.until("the follower leads", async |town| town.leader(0).await == Some(follower)).await;
    let nobody = v1::TransferLeadershipRequest { node: "n9".into() };
    let refused = town.admin(follower).await.transfer_leadership(nobody).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);

    // Two of three have to sign: with one gone there must be a bundle without its key.
    let gone = (0..3).find(|place| *place != follower).unwrap();
    let remove =
        v1::RemoveNodeRequest { node: name(gone), reason: "old".into(), ..Default::default() };
    let removed = town.admin(follower).await.remove_node(remove).await.unwrap().into_inner();
    assert_eq!(removed.node.unwrap().state(), v1::NodeState::Removed);
    town.until("the membership is without it", async |town| {
        let cluster = town.cluster(follower).await.unwrap();
        cluster
            .nodes
            .iter()
            .all(|node| node.state() != v1::NodeState::Voter || node.name != name(gone))
    })
    .await;
    town.trust_through(follower).await;
    town.admin(follower).await.create_agent(agent("after")).await.unwrap();
    town.stop(gone).await;
    town.admin(follower).await.create_agent(agent("without-it")).await.unwrap();

    // Its name can be taken again, by another node; its id cannot.
    let before = town.cluster(follower).await.unwrap();
    let old = before.nodes.iter().find(|node| node.name == name(gone)).unwrap().node_id.clone();
    let invited = town.admin(follower).await.add_node(invitation(&name(gone))).await.unwrap();
    let mut config = town.joining_through(gone, follower, &invited.into_inner());
    config.data_dir = town.folder.path().join("anew");
    let anew = ControlPlane::start(config).await.unwrap();
    town.until("it votes", async |town| town.state_of(gone).await == v1::NodeState::Voter).await;
    let after = town.cluster(follower).await.unwrap();
    assert_eq!(after.nodes.iter().filter(|node| node.name == name(gone)).count(), 2);
    assert!(
        after
            .nodes
            .iter()
            .any(|node| node.node_id == old && node.state() == v1::NodeState::Removed)
    );
    anew.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_goes_on_without_one_node_and_that_one_catches_up() {
    let mut town = Town::of(3).await;
    let follower = town.follower().await;
    let config = town.stop(follower).await;
    let other = (0..3).find(|place| *place != follower).unwrap();
    for number in 0..20 {
        town.admin(other).await.create_agent(agent(&format!("bot-{number}"))).await.unwrap();
    }
    town.start(follower, config).await;
    let agents = town
        .until_some("it reads", async |town| {
            let mut admin = town.admin(follower).await;
            Some(
                admin.list_agents(v1::ListAgentsRequest::default()).await.ok()?.into_inner().agents,
            )
        })
        .await;
    assert_eq!(agents.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_is_found_elsewhere_tells_the_others() {
    let mut town = Town::of(3).await;
    let follower = town.follower().await;
    let config = town.stop(follower).await;
    let any = "127.0.0.1:0".parse().unwrap();
    let cluster = ClusterConfig { listen: Some(any), ..config.cluster };
    town.start(follower, Config { api_listen: any, cluster, ..config }).await;
    let listens = town.node(follower).cluster_addr().unwrap().to_string();
    town.until("the others know where it is", async |town| {
        let cluster = town.cluster(follower).await;
        cluster.is_ok_and(|it| it.nodes.iter().any(|node| node.cluster_address == listens))
    })
    .await;
    town.admin(follower).await.create_agent(agent("bot")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_alone_says_what_it_waits_for_and_serves_nothing() {
    let mut town = Town::of(3).await;
    let second = town.stop(1).await;
    town.stop(2).await;
    town.until("nobody leads", async |town| {
        get_from(town.node(0), "/readyz").await.contains("no leader")
    })
    .await;
    let refused = town.admin(0).await.create_agent(agent("bot")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    // How the cluster is can be asked still, by whom it knew.
    let cluster = town.cluster(0).await.unwrap();
    assert_eq!(cluster.nodes.len(), 3);
    assert!(!cluster.nodes.iter().any(|node| node.leader));
    let stranger = client_of(town.node(0), "cs_adm_made-up").await;
    let refused = { stranger }.get_cluster(v1::GetClusterRequest {}).await.unwrap_err();
    assert!(matches!(refused.code(), Code::Unauthenticated | Code::Unavailable), "{refused}");
    // It starts alone too, and is there to be asked.
    let first = town.stop(0).await;
    town.start(0, first).await;
    assert!(get_from(town.node(0), "/readyz").await.contains("no leader"));
    assert_eq!(town.cluster(0).await.unwrap().nodes.len(), 3);
    town.start(1, second).await;
    town.until("two of three lead", async |town| town.leader(0).await.is_some()).await;
    town.admin(0).await.create_agent(agent("bot")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c_16_an_invitation_is_for_one_name_one_time_and_five_tries() {
    let mut town = Town::of_one().await;
    let invited = town.admin(0).await.add_node(invitation("n1")).await.unwrap().into_inner();
    assert!(invited.token.starts_with("cs_join_") && invited.token.len() == 8 + 43);
    // The token itself is nowhere on disk.
    for file in files_below(&town.data_dir(0)) {
        let bytes = fs::read(&file).unwrap();
        let found = bytes.windows(invited.token.len()).any(|it| it == invited.token.as_bytes());
        assert!(!found, "{}", file.display());
    }
    // Another name has nothing from it.
    let other = v1::AddNodeResponse { ..invited.clone() };
    let mut config = town.joining(1, &other);
    config.cluster.name = "n7".into();
    config.data_dir = town.folder.path().join("n7");
    assert!(refusal(config).await.contains("was not let in"));
    assert!(!town.folder.path().join("n7/seal.json").exists());

    // Used once.
    let config = town.joining(1, &invited);
    town.nodes.push(Some(ControlPlane::start(config).await.unwrap()));
    let mut again = town.joining(1, &invited);
    again.data_dir = town.folder.path().join("thief");
    assert!(refusal(again).await.contains("was not let in"));
    assert_eq!(town.cluster(0).await.unwrap().nodes.len(), 2);

    // Five wrong ones, and the right one is worth nothing.
    let invited = town.admin(0).await.add_node(invitation("n2")).await.unwrap().into_inner();
    for number in 0..5 {
        let guessed = v1::AddNodeResponse { token: format!("cs_join_{number}"), ..invited.clone() };
        let mut config = town.joining(2, &guessed);
        config.data_dir = town.folder.path().join(format!("guess-{number}"));
        assert!(refusal(config).await.contains("was not let in"));
    }
    assert!(refusal(town.joining(2, &invited)).await.contains("was not let in"));
    assert!(town.cluster(0).await.unwrap().invited.is_empty());
    let records = town.records(0).await;
    let refused = records.iter().filter(|record| record.action == "node.join_refused");
    assert_eq!(refused.count(), 5);
    assert_eq!(town.cluster(0).await.unwrap().nodes.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_joins_nobody_but_who_it_was_told_and_waits_while_nobody_answers() {
    let mut town = Town::of_one().await;
    let invited = town.admin(0).await.add_node(invitation("n1")).await.unwrap().into_inner();
    let stranger = Town::of_one().await;
    let ca = fs::read_to_string(stranger.node(0).api_ca_path()).unwrap();
    let wrong = v1::AddNodeResponse { api_ca_pem: ca, ..invited.clone() };
    let why = refusal(town.joining(1, &wrong)).await;
    assert!(why.contains("cluster.join_ca_file"), "{why}");
    let keyless = SealConfig::KeyFile(town.folder.path().join("nowhere"));
    let why = refusal(Config { seal: keyless, ..town.joining(1, &invited) }).await;
    assert!(why.contains("copy that file"), "{why}");

    // Stopped, the first node lets nobody in; started again, it does, and the token was not used up by waiting.
    let config = town.joining(1, &invited);
    let mut join = config.cluster.join.clone();
    join.as_mut().unwrap().api = "https://127.0.0.1:1".into();
    let first = town.stop(0).await;
    let waiting = tokio::spawn(ControlPlane::start(config));
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert!(!waiting.is_finished());
    town.start(0, first).await;
    let joined = waiting.await.unwrap().unwrap();
    town.nodes.push(Some(joined));
    town.until("it votes", async |town| town.state_of(1).await == v1::NodeState::Voter).await;

    // A member that is started again asks nobody: neither token nor CA are read.
    let again = town.stop(1).await;
    for file in ["token-1", "ca-1"] {
        fs::remove_file(town.folder.path().join(file)).unwrap();
    }
    town.start(1, Config { cluster: ClusterConfig { join, ..again.cluster }, ..again }).await;
    town.until("it reads", async |town| {
        town.admin(1).await.who_am_i(v1::WhoAmIRequest {}).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_whose_answer_was_lost_is_answered_again_to_the_same_keys_only() {
    let mut town = Town::of_one().await;
    let invited = town.admin(0).await.add_node(invitation("n1")).await.unwrap().into_inner();
    // What a node does before it asks; then it asks, and the answer is lost.
    let dir = town.data_dir(1);
    fs::create_dir_all(dir.join("tls")).unwrap();
    let request_of = |name: &str| {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        fs::write(dir.join("tls").join(name), key.serialize_pem()).unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
    };
    let lost = v1::JoinClusterRequest {
        token: invited.token.clone(),
        name: "n1".into(),
        node_csr_pem: request_of("node.key"),
        server_csr_pem: request_of("server.key"),
        public_key: SigningKeys::prepare(&dir).unwrap().to_vec().into(),
        ..Default::default()
    };
    let mut nobody = client_of(town.node(0), "").await;
    let first = nobody.join_cluster(lost.clone()).await.unwrap().into_inner();
    // Who has seen it all, and asks for keys of its own, gets nothing.
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let node_csr_pem =
        CertificateParams::default().serialize_request(&other).unwrap().pem().unwrap();
    let stolen = v1::JoinClusterRequest { node_csr_pem, ..lost };
    let refused = nobody.join_cluster(stolen).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    town.nodes.push(Some(ControlPlane::start(town.joining(1, &invited)).await.unwrap()));
    town.until("it votes", async |town| town.state_of(1).await == v1::NodeState::Voter).await;
    let cluster = town.cluster(0).await.unwrap();
    assert_eq!(cluster.nodes.len(), 2);
    assert!(cluster.nodes.iter().any(|node| node.node_id == first.node_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_8_a_sealed_node_neither_votes_nor_serves_and_the_others_go_on() {
    let town = Town::of(3).await;
    let leader = town.leader(0).await.unwrap();
    assert!(town.admin(leader).await.seal(v1::SealRequest {}).await.unwrap().into_inner().sealed);
    let other = (0..3).find(|place| *place != leader).unwrap();
    town.until("another one leads", async |town| {
        town.leader(other).await.is_some_and(|now| now != leader)
    })
    .await;
    town.admin(other).await.create_agent(agent("bot")).await.unwrap();

    let refused = town.admin(leader).await.list_agents(v1::ListAgentsRequest::default()).await;
    assert!(refused.unwrap_err().message().starts_with("sealed"));
    assert!(get_from(town.node(leader), "/readyz").await.contains("sealed"));
    assert!(get_from(town.node(leader), "/metrics").await.contains("countersign_sealed 1"));

    let open = v1::UnsealRequest::default();
    assert!(!town.admin(leader).await.unseal(open).await.unwrap().into_inner().sealed);
    town.until("it serves again", async |town| {
        let agents = town.admin(leader).await.list_agents(v1::ListAgentsRequest::default()).await;
        agents.is_ok_and(|agents| agents.into_inner().agents.len() == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn figures_say_who_leads_how_far_the_others_are_and_how_many_are_unsealed() {
    let town = Town::of(3).await;
    let leader = town.leader(0).await.unwrap();
    town.until("all are known to be unsealed", async |town| {
        get_from(town.node(leader), "/metrics").await.contains("countersign_unsealed_nodes 3")
    })
    .await;
    let metrics = get_from(town.node(leader), "/metrics").await;
    for line in
        ["countersign_raft_leader 1", "countersign_leader 1", "countersign_nodes{role=\"voter\"} 3"]
    {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert_eq!(metrics.matches("countersign_raft_peer_lag{").count(), 2, "{metrics}");
    let follower = get_from(town.node(town.follower().await), "/metrics").await;
    assert!(
        follower.contains("countersign_leader 0") && follower.contains("countersign_raft_leader 1")
    );
    assert!(!follower.contains("countersign_raft_peer_lag{"));
}
