//! What nodes show, and to whom they open.

use std::fs;

use countersign_control_plane::node::{Config, ControlPlane, SealConfig};
use countersign_proto::v1;
use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use crate::town::{Town, agent};
use crate::world::World;

/// Whether the API shows a certificate with this name.
async fn is_shown(node: &ControlPlane, name: &str) -> bool {
    let ca = fs::read_to_string(node.api_ca_path()).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(name);
    let endpoint = Endpoint::from_shared(format!("https://{}", node.api_addr())).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_name_takes_another_certificate_once_the_vault_is_open() {
    let world = World::start_sealed().await;
    let open = || v1::UnsealRequest { passphrase: "correct horse".into(), ..Default::default() };
    world.client("").await.unseal(open()).await.unwrap();
    assert!(!is_shown(&world.node, "cp.example").await);
    let World { node, folder } = world;
    let config = Config {
        server_names: vec!["cp.example".into(), "10.1.2.3".into()],
        gateway_advertise: Some("edges.example:8444".into()),
        ..crate::world::config(&folder.path().join("data"), SealConfig::Passphrase)
    };
    node.shutdown().await;
    let node = ControlPlane::start(config).await.unwrap();
    let world = World { node, folder };
    // A sealed node shows what it has.
    assert!(is_shown(&world.node, "localhost").await);
    assert!(!is_shown(&world.node, "cp.example").await);
    world.client("").await.unseal(open()).await.unwrap();
    for name in ["localhost", "cp.example", "10.1.2.3", "edges.example"] {
        assert!(is_shown(&world.node, name).await, "{name}");
    }
}

/// The listener for nodes of one node, and how it is known.
struct Door {
    address: String,
    name: String,
    ca: String,
    cluster_id: String,
}

impl Door {
    async fn of(town: &Town, place: usize) -> Self {
        let said = town.cluster(place).await.unwrap();
        Self {
            address: format!("https://{}", town.node(place).cluster_addr().unwrap()),
            name: format!("{}.node.countersign", said.node_id),
            ca: read(town, place, "tls/node-ca.pem"),
            cluster_id: said.cluster_id,
        }
    }

    /// What it answers to somebody with this certificate and key.
    async fn asked_by(&self, identity: Option<(String, String)>) -> Result<(), Status> {
        let ca = Certificate::from_pem(&self.ca);
        let mut tls = ClientTlsConfig::new().ca_certificate(ca).domain_name(&self.name);
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(self.address.clone()).unwrap();
        let channel: Channel = endpoint.tls_config(tls).unwrap().connect_lazy();
        let (cluster_id, snapshot_id) = (self.cluster_id.clone(), String::new());
        let asked = v1::SnapshotOffsetRequest { cluster_id, snapshot_id };
        ClusterServiceClient::new(channel).snapshot_offset(asked).await.map(drop)
    }
}

fn read(town: &Town, place: usize, file: &str) -> String {
    fs::read_to_string(town.data_dir(place).join(file)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c_4_the_listener_for_nodes_is_for_nodes_alone_and_closed_while_sealed() {
    let town = Town::of(2).await;
    let door = Door::of(&town, 0).await;
    let second = || (read(&town, 1, "tls/node.pem"), read(&town, 1, "tls/node.key"));
    door.asked_by(Some(second())).await.unwrap();

    let other_town = Town::of(2).await;
    let edge = crate::edge::Enrolled::with_key(&mut town.admin(0).await, "edge").await;
    let shown_to_operators = (read(&town, 1, "tls/server.pem"), read(&town, 1, "tls/server.key"));
    let of_another_cluster =
        (read(&other_town, 1, "tls/node.pem"), read(&other_town, 1, "tls/node.key"));
    for (who, identity) in [
        ("nobody", None),
        ("an edge", Some(edge)),
        ("a node's server certificate", Some(shown_to_operators)),
        ("a node of another cluster", Some(of_another_cluster)),
    ] {
        assert!(door.asked_by(identity).await.is_err(), "{who}");
    }

    // I8: sealed, it answers its peers that it is.
    town.admin(0).await.seal(v1::SealRequest {}).await.unwrap();
    let refused = door.asked_by(Some(second())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().starts_with("sealed"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r_16_a_node_that_was_put_back_says_so_and_takes_no_part() {
    let mut town = Town::of(3).await;
    let follower = town.follower().await;
    let config = town.stop(follower).await;
    let (dir, kept) = (town.data_dir(follower), town.folder.path().join("kept"));
    copy(&dir, &kept);
    town.start(follower, config).await;
    let other = (0..3).find(|place| *place != follower).unwrap();
    for number in 0..50 {
        town.admin(follower).await.create_agent(agent(&format!("bot-{number}"))).await.unwrap();
    }
    let config = town.stop(follower).await;
    fs::remove_dir_all(&dir).unwrap();
    copy(&kept, &dir);
    town.start(follower, config).await;
    town.until("it is told", async |town| {
        crate::start::get_from(town.node(follower), "/readyz").await.contains("rolled back")
    })
    .await;
    let said = town.cluster(follower).await.unwrap();
    assert!(!said.rolled_back.is_empty());
    let refused = town.admin(follower).await.create_agent(agent("bot")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    // The others go on, and take it out.
    town.admin(other).await.create_agent(agent("bot")).await.unwrap();
    let remove = v1::RemoveNodeRequest {
        node: crate::town::name(follower),
        reason: "put back".into(),
        ..Default::default()
    };
    town.admin(other).await.remove_node(remove).await.unwrap();
    town.trust_through(other).await;
    town.admin(other).await.create_agent(agent("after")).await.unwrap();
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|it| (it.path(), it.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}
