//! Three nodes through their real doors: begun, joined, led, left.

use std::fs;

use countersign_control_plane::node::ControlPlane;
use countersign_proto::v1;

use crate::start::get_from;
use crate::town::{Town, agent, files_below, invitation, name, refusal};

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
        assert!(get_from(town.node(place), "/readyz").await.starts_with("HTTP/1.1 200"));
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
