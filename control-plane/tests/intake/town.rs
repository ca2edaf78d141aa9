//! Several nodes in one process, over mutual TLS, each with its own intake; their co-signers do as they are told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use countersign_control_plane::cluster::{Cluster, NoPeers, Settings, Start, Transport};
use countersign_control_plane::intake::IntakeSettings;
use countersign_control_plane::peers::{self, MutualTls, NodeIdentity};
use countersign_control_plane::sign::{self, CoSigner, RootKey, Witness};
use countersign_control_plane::state::{Actor, Audience, Command, Genesis, State};
use countersign_control_plane::vault::Vault;
use countersign_proto::v1;
use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Certificate, Channel, Identity, Server, ServerTlsConfig};
use zeroize::Zeroizing;

use crate::world::{Ground, World, arriving, beginning, member, request};

const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes, and the people of the tests.
pub(crate) struct Town {
    pub(crate) nodes: Vec<Citizen>,
}

/// One node of a town.
pub(crate) struct Citizen {
    pub(crate) world: World,
    pub(crate) manners: Arc<Manners>,
    stop: CancellationToken,
}

impl std::ops::Deref for Citizen {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Town {
    pub(crate) async fn of(count: usize) -> Self {
        let town = Self::untrusted(count).await;
        town.nodes[0].sign_next_trust().await;
        town.level().await;
        town
    }

    /// All members, and edges trust the first alone.
    pub(crate) async fn untrusted(count: usize) -> Self {
        let root_hex = RootKey::generate().to_hex();
        let root = || RootKey::from_hex(&root_hex).unwrap();
        let (ground, street) = (Ground::new(), Street::new().await);
        let cluster = ground.start(street.settings(&ground, Start::Found)).await;
        let address = street.address.to_string();
        let genesis =
            beginning(&ground.vault, &root(), &ground.keys(), cluster.node_id(), &address);
        cluster.propose(Actor::System, Command::Genesis(Box::new(genesis.clone()))).await.unwrap();
        let mut joining = Vec::new();
        for number in 2..=count {
            joining.push(invite(&cluster, &ground, number).await);
        }
        let first = street.open(ground, cluster, genesis.clone(), root()).await;
        let mut nodes = vec![first];
        for (ground, street, id) in joining {
            let cluster = ground.start(street.settings(&ground, Start::Join { node_id: id })).await;
            nodes.push(street.open(ground, cluster, genesis.clone(), root()).await);
        }
        let town = Self { nodes };
        town.agreed(|cluster| {
            let members = cluster.members();
            members.len() == count && members.iter().all(|member| member.voter)
        })
        .await;
        town.nodes[0].populate().await;
        town.level().await;
        town
    }

    /// Waits until it is so on every node that is up.
    pub(crate) async fn agreed(&self, is_so: impl Fn(&Cluster) -> bool) {
        let all = async {
            while !self.up().all(|node| is_so(&node.cluster)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("the nodes did not agree");
    }

    /// Waits until every node has applied what the furthest one has.
    pub(crate) async fn level(&self) {
        let furthest = self.up().map(|node| node.cluster.applied_index()).max().unwrap();
        self.agreed(|cluster| cluster.applied_index() >= furthest).await;
    }

    fn up(&self) -> impl Iterator<Item = &Citizen> {
        self.nodes.iter().filter(|node| !node.stop.is_cancelled())
    }

    pub(crate) fn leader(&self) -> usize {
        let leads = |node: &Citizen| !node.stop.is_cancelled() && node.cluster.is_leader();
        self.nodes.iter().position(leads).expect("nobody leads")
    }

    /// Two that do not lead.
    pub(crate) fn followers(&self) -> [usize; 2] {
        let leader = self.leader();
        let mut others = (0..self.nodes.len()).filter(|number| *number != leader);
        [others.next().unwrap(), others.next().unwrap()]
    }
}

async fn invite(cluster: &Cluster, ground: &Ground, number: usize) -> (Ground, Street, u64) {
    let (ground, street, name) = (ground.beside(), Street::new().await, format!("node-{number}"));
    let (id, token_sha256) = (rand::random(), Sha256::digest(&name).into());
    let keys = vec![ground.keys().newest_public()];
    let node = member(id, &name, &street.address.to_string(), keys);
    for command in
        [Command::InviteNode { name, token_sha256 }, Command::JoinNode { token_sha256, node }]
    {
        cluster.propose(Actor::System, command).await.unwrap();
    }
    (ground, street, id)
}

impl Citizen {
    /// Ends it as a crash would look to others.
    pub(crate) async fn kill(&self) {
        self.stop.cancel();
        self.world.intake.close();
        self.world.cluster.shutdown().await;
    }

    /// What another node would ask, by the door for nodes.
    pub(crate) async fn asks(
        &self,
        other: &Self,
        request: v1::CoSignRequest,
    ) -> Result<v1::CoSignResponse, Status> {
        let channel = self.cluster.channel_to(other.cluster.node_id()).unwrap();
        let mut client = ClusterServiceClient::new(channel);
        Ok(client.co_sign(request).await?.into_inner())
    }
}

/// Where a node listens for others, and its way to them once it has a certificate.
struct Street {
    listener: TcpListener,
    address: SocketAddr,
    way: Arc<Way>,
}

#[derive(Default)]
struct Way(OnceLock<MutualTls>);

impl Transport for Way {
    fn channel(&self, node: u64, address: &str) -> Channel {
        self.0
            .get()
            .map_or_else(|| NoPeers.channel(node, address), |way| way.channel(node, address))
    }
}

impl Street {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), listener, way: Arc::default() }
    }

    fn settings(&self, ground: &Ground, start: Start) -> Settings {
        let transport = self.way.clone();
        Settings { start, transport, ..Settings::alone(ground.data_dir(), 10_000) }
    }

    async fn open(
        self,
        ground: Ground,
        cluster: Cluster,
        genesis: Genesis,
        root: RootKey,
    ) -> Citizen {
        let identity = identity(&genesis, &ground.vault, cluster.node_id());
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&identity.certificate_pem, identity.key_pem.as_str()))
            .client_ca_root(Certificate::from_pem(&identity.ca_pem));
        assert!(self.way.0.set(MutualTls::new(&identity).unwrap()).is_ok());
        let manners =
            Arc::new(Manners { witness: ground.witness(&cluster), manner: AtomicU8::new(HONEST) });
        let (stop, service) =
            (CancellationToken::new(), peers::service(cluster.clone(), manners.clone(), None));
        let server = Server::builder().tls_config(tls).unwrap().add_service(service);
        let incoming = arriving(self.listener);
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                served = server.serve_with_incoming(incoming) => served.unwrap(),
                () = stopped.cancelled() => {}
            }
        });
        let begun = async {
            while cluster.peek(|state: &State| state.genesis().is_none()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, begun).await.expect("the node was not called");
        let world = World::settle(ground, cluster, genesis, root, IntakeSettings::default()).await;
        Citizen { world, manners, stop }
    }
}

fn identity(genesis: &Genesis, vault: &Vault, node: u64) -> NodeIdentity {
    let (csr, key) = request();
    NodeIdentity {
        certificate_pem: sign::issue_node_certificate(
            &genesis.cluster_id,
            &genesis.shown_ca(Audience::Nodes),
            vault,
            &csr,
            node,
        )
        .unwrap(),
        key_pem: Zeroizing::new(key),
        ca_pem: genesis.node_ca_pem.clone(),
    }
}

const HONEST: u8 = 0;
const MUTE: u8 = 1;
const LYING: u8 = 2;

/// A co-signer that can be told to be silent, or to lie.
pub(crate) struct Manners {
    witness: Witness,
    manner: AtomicU8,
}

impl Manners {
    pub(crate) fn be_honest(&self) {
        self.manner.store(HONEST, Ordering::SeqCst);
    }

    pub(crate) fn be_mute(&self) {
        self.manner.store(MUTE, Ordering::SeqCst);
    }

    /// Answers at once, with signatures that are none.
    pub(crate) fn lie(&self) {
        self.manner.store(LYING, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl CoSigner for Manners {
    async fn co_sign(
        &self,
        from: u64,
        request: v1::CoSignRequest,
    ) -> Result<v1::CoSignResponse, Status> {
        match self.manner.load(Ordering::SeqCst) {
            MUTE => Err(Status::unavailable("not now")),
            LYING => {
                let bytes = |length| bytes::Bytes::from(vec![7; length]);
                let signature =
                    |length| v1::Signature { key_id: bytes(8), signature: bytes(length) };
                Ok(v1::CoSignResponse { signatures: vec![signature(64), signature(3)] })
            }
            _ => self.witness.co_sign(from, request).await,
        }
    }
}
