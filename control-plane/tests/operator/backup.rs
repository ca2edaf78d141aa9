//! A copy of everything, and a cluster out of it.

use std::fs;

use bytes::Bytes;
use countersign_control_plane::config::ClusterConfig;
use countersign_control_plane::node::{Config, ControlPlane, Restoration, SealConfig};
use countersign_control_plane::sign::RootKey;
use countersign_control_plane::vault::Unsealing;
use countersign_proto::v1;
use tonic::Code;

use crate::town::{Town, agent, signed};
use crate::world::{Admin, client_of};

async fn backup(admin: &mut Admin) -> Vec<u8> {
    let mut chunks = admin.backup_cluster(v1::BackupClusterRequest {}).await.unwrap().into_inner();
    let mut whole = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert!(chunk.data.len() <= 256 * 1024);
        whole.extend(chunk.data);
    }
    whole
}

fn why<T>(restored: anyhow::Result<T>) -> String {
    format!("{:#}", restored.err().expect("it was restored"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_taken_while_serving_becomes_a_cluster_of_one_new_node() {
    let mut town = Town::of(3).await;
    for number in 0..20 {
        town.admin(0).await.create_agent(agent(&format!("bot-{number}"))).await.unwrap();
    }
    let before = town.cluster(0).await.unwrap();
    let taken = backup(&mut town.admin(town.follower().await).await).await;
    let root = fs::read_to_string(town.data_dir(0).join("trust-root.key")).unwrap();
    let root = RootKey::from_hex(&root).unwrap();
    let ca = fs::read(town.node(0).api_ca_path()).unwrap();
    let token = town.token.clone();
    for place in 0..3 {
        town.stop(place).await;
    }

    let key_file = town.folder.path().join("key");
    let config = |folder: &str| Config {
        data_dir: town.folder.path().join(folder),
        cluster: ClusterConfig { name: "phoenix".into(), ..town.config(0).cluster },
        ..town.config(0)
    };
    // What is not whole, or not opened, makes nothing.
    assert!(
        why(Restoration::begin(config("a"), taken[..taken.len() - 1].to_vec()))
            .contains("nothing was restored")
    );
    let mut changed = taken.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    if let Ok(restoration) = Restoration::begin(config("b"), changed) {
        let refused = restoration.finish(Unsealing::KeyFile(key_file.clone())).await;
        assert!(why(refused).contains("nothing was restored"));
    }
    let wrong_key = town.folder.path().join("wrong-key");
    fs::write(&wrong_key, "ab".repeat(32)).unwrap();
    fs::set_permissions(&wrong_key, fs::metadata(&key_file).unwrap().permissions()).unwrap();
    let restoration = Restoration::begin(config("c"), taken.clone()).unwrap();
    let refused = restoration.finish(Unsealing::KeyFile(wrong_key)).await;
    assert!(why(refused).contains("not the one"));
    for folder in ["a", "b", "c"] {
        assert!(!town.folder.path().join(folder).join("cluster").exists(), "{folder}");
    }
    let occupied = Config { data_dir: town.data_dir(0), ..config("d") };
    assert!(why(Restoration::begin(occupied, taken.clone())).contains("has lived in"));

    // The directory of an attempt that failed will do.
    let restoration = Restoration::begin(config("c"), taken).unwrap();
    assert_eq!(restoration.seal().unwrap().provider, "key-file");
    let unsealing = restoration.unattended().unwrap().unwrap();
    let restored = restoration.finish(unsealing).await.unwrap();
    assert_eq!(restored.cluster_id, before.cluster_id);
    let node = ControlPlane::start(config("c")).await.unwrap();
    assert_eq!(fs::read(node.api_ca_path()).unwrap(), ca);
    let mut admin = client_of(&node, &token).await;
    let cluster = admin.get_cluster(v1::GetClusterRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (cluster.node_id, cluster.cluster_id),
        (restored.node_id.clone(), before.cluster_id)
    );
    for node in &cluster.nodes {
        let (own, state) = (node.node_id == restored.node_id, node.state());
        assert_eq!(own, state == v1::NodeState::Voter, "{node:?}");
        assert_eq!(own, state != v1::NodeState::Removed, "{node:?}");
        assert_eq!(own, !before.nodes.iter().any(|it| it.node_id == node.node_id));
    }
    let own = cluster.nodes.iter().find(|node| node.node_id == restored.node_id).unwrap();
    assert_eq!((own.name.as_str(), own.trusted), ("phoenix", false));
    assert_eq!(own.api_address, node.api_addr().to_string());
    let agents = admin.list_agents(v1::ListAgentsRequest::default()).await.unwrap().into_inner();
    assert_eq!(agents.agents.len(), 20);
    let verified = admin.verify_audit(v1::VerifyAuditRequest {}).await.unwrap().into_inner();
    assert!(verified.ok, "{verified:?}");

    // Two nodes had to sign before, so two have to now, and the holder of the root key says which.
    let trust = admin.get_trust(v1::GetTrustRequest {}).await.unwrap().into_inner();
    assert!(trust.changes.iter().any(|line| line.starts_with("+ node phoenix")), "{trust:?}");
    let request = v1::SetTrustRequest {
        envelope: Some(signed(&root, trust.proposed.to_vec())),
        ..Default::default()
    };
    let alone = admin.set_trust(request).await.unwrap_err();
    assert_eq!(alone.code(), Code::InvalidArgument, "{alone}");
    assert!(alone.message().contains("2 nodes"), "{alone}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_is_opened_by_what_opened_the_vault_when_it_was_taken() {
    let how = v1::InitClusterRequest {
        seal: Some(v1::SealParameters {
            provider: Some(v1::seal_parameters::Provider::Passphrase(v1::PassphraseSeal {
                passphrase: Bytes::from_static(b"correct horse"),
            })),
        }),
    };
    let town = Town::begun(SealConfig::Passphrase, how).await;
    let taken = backup(&mut town.admin(0).await).await;
    let config = Config { data_dir: town.folder.path().join("anew"), ..town.config(0) };
    let restoration = Restoration::begin(config.clone(), taken.clone()).unwrap();
    assert_eq!(restoration.seal().unwrap().provider, "passphrase");
    assert!(restoration.unattended().unwrap().is_none());
    let open = |text: &str| Unsealing::Passphrase(text.to_owned().into());
    assert!(why(restoration.finish(open("correct hose")).await).contains("wrong passphrase"));
    let restoration = Restoration::begin(config.clone(), taken).unwrap();
    restoration.finish(open("correct horse")).await.unwrap();
    let node = ControlPlane::start(config).await.unwrap();
    let mut admin = client_of(&node, &town.token).await;
    assert_eq!(admin.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err().code(), Code::Unavailable);
    let request = v1::UnsealRequest { passphrase: "correct horse".into(), ..Default::default() };
    assert!(!admin.unseal(request).await.unwrap().into_inner().sealed);
    admin.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    // It alone signs, once the bundle says so.
    let trust = admin.get_trust(v1::GetTrustRequest {}).await.unwrap().into_inner();
    assert!(!trust.proposed.is_empty());
    node.shutdown().await;
}
