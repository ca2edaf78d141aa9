//! Several nodes in one process, each with its folder, its listeners and its own life.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_control_plane::config::{ClusterConfig, Join};
use countersign_control_plane::node::{Config, ControlPlane, SealConfig};
use countersign_control_plane::sign::RootKey;
use countersign_proto::v1;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::world::{Admin, client_of, config};

/// Nodes that one key file opens, by their places; a place is empty while its node is stopped.
pub(crate) struct Town {
    pub(crate) nodes: Vec<Option<ControlPlane>>,
    pub(crate) folder: TempDir,
    pub(crate) token: String,
    /// Of a seal that takes several people.
    pub(crate) shares: Vec<v1::EncryptedShare>,
    seal: Option<SealConfig>,
}

impl Drop for Town {
    /// A node that ran on would end the whole process once its disk is taken from it.
    fn drop(&mut self) {
        let running: Vec<_> = self.nodes.iter_mut().filter_map(Option::take).collect();
        let ended = async {
            futures::future::join_all(running.into_iter().map(ControlPlane::shutdown)).await
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(ended));
    }
}

/// Long enough for an election on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(30);

#[allow(dead_code)]
impl Town {
    /// One node that can have peers.
    pub(crate) async fn of_one() -> Self {
        let mut town = Self::empty();
        let first = ControlPlane::start(town.config(0)).await.unwrap();
        town.token = first.admin_token().unwrap().to_string();
        town.nodes.push(Some(first));
        town
    }

    /// One node that can have peers, which waits to be told how it begins.
    pub(crate) async fn begun(seal: SealConfig, how: v1::InitClusterRequest) -> Self {
        let mut town = Self::empty();
        town.seal = Some(seal);
        let first = ControlPlane::start(town.config(0)).await.unwrap();
        let mut nobody = client_of(&first, "").await;
        let begun = nobody.init_cluster(how).await.unwrap().into_inner();
        town.nodes.push(Some(first));
        (town.token, town.shares) = (begun.admin_token, begun.shares);
        town
    }

    fn empty() -> Self {
        Self {
            nodes: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
            token: String::new(),
            shares: Vec::new(),
            seal: None,
        }
    }

    /// As many nodes, all voters, and all trusted by the bundle in force.
    pub(crate) async fn of(count: usize) -> Self {
        let mut town = Self::of_one().await;
        for _ in 1..count {
            town.add().await;
        }
        town.trust().await;
        town
    }

    /// Invites a node, starts it and waits until it votes.
    pub(crate) async fn add(&mut self) {
        let place = self.nodes.len();
        let invited = self.admin(0).await.add_node(invitation(&name(place))).await.unwrap();
        let config = self.joining(place, &invited.into_inner());
        let node = ControlPlane::start(config).await.unwrap();
        self.nodes.push(Some(node));
        self.until("the new node votes", async |town| {
            town.state_of(place).await == v1::NodeState::Voter
        })
        .await;
    }

    /// Signs the trust bundle that the members call for, until they call for none.
    pub(crate) async fn trust(&self) {
        self.trust_through(0).await;
    }

    pub(crate) async fn trust_through(&self, place: usize) {
        let root = fs::read_to_string(self.data_dir(0).join("trust-root.key")).unwrap();
        let root = RootKey::from_hex(&root).unwrap();
        loop {
            let mut admin = self.admin(place).await;
            let trust = admin.get_trust(v1::GetTrustRequest {}).await.unwrap().into_inner();
            if trust.proposed.is_empty() {
                return;
            }
            let request = v1::SetTrustRequest {
                envelope: Some(signed(&root, trust.proposed.to_vec())),
                ..Default::default()
            };
            admin.set_trust(request).await.unwrap();
        }
    }

    pub(crate) fn config(&self, place: usize) -> Config {
        let folder = self.folder.path();
        let seal = self.seal.clone().unwrap_or_else(|| SealConfig::KeyFile(folder.join("key")));
        Config {
            cluster: ClusterConfig {
                listen: Some("127.0.0.1:0".parse().unwrap()),
                name: name(place),
                ..ClusterConfig::default()
            },
            ..config(&self.data_dir(place), seal)
        }
    }

    /// To join with this invitation, through the first node.
    pub(crate) fn joining(&self, place: usize, invited: &v1::AddNodeResponse) -> Config {
        self.joining_through(place, 0, invited)
    }

    pub(crate) fn joining_through(
        &self,
        place: usize,
        through: usize,
        invited: &v1::AddNodeResponse,
    ) -> Config {
        let write = |name: String, text: &str| {
            let path = self.folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let mut config = self.config(place);
        config.cluster.join = Some(Join {
            api: format!("https://{}", self.node(through).api_addr()),
            token_file: write(format!("token-{place}"), &invited.token),
            ca_file: write(format!("ca-{place}"), &invited.api_ca_pem),
        });
        config
    }

    pub(crate) fn data_dir(&self, place: usize) -> PathBuf {
        self.folder.path().join(name(place))
    }

    pub(crate) fn node(&self, place: usize) -> &ControlPlane {
        self.nodes[place].as_ref().unwrap()
    }

    /// Stops it; gives the configuration that starts it again where it was found before.
    pub(crate) async fn stop(&mut self, place: usize) -> Config {
        let node = self.nodes[place].take().unwrap();
        let mut config = self.config(place);
        config.api_listen = node.api_addr();
        config.gateway_listen = node.gateway_addr();
        config.cluster.listen = node.cluster_addr();
        node.shutdown().await;
        config
    }

    /// From what is on its disk.
    pub(crate) async fn start(&mut self, place: usize, config: Config) {
        self.nodes[place] = Some(ControlPlane::start(config).await.unwrap());
    }

    pub(crate) async fn admin(&self, place: usize) -> Admin {
        client_of(self.node(place), &self.token).await
    }

    /// Of the first node that runs.
    pub(crate) async fn any_admin(&self) -> Admin {
        let place = self.nodes.iter().position(Option::is_some).unwrap();
        self.admin(place).await
    }

    /// What the node in this place says of the cluster.
    pub(crate) async fn cluster(&self, place: usize) -> Result<v1::GetClusterResponse, Status> {
        let mut admin = self.admin(place).await;
        admin.get_cluster(v1::GetClusterRequest {}).await.map(tonic::Response::into_inner)
    }

    /// The standing of the node in this place, as any says that runs.
    pub(crate) async fn state_of(&self, place: usize) -> v1::NodeState {
        let mut admin = self.any_admin().await;
        let Ok(cluster) = admin.get_cluster(v1::GetClusterRequest {}).await else {
            return v1::NodeState::Unspecified;
        };
        let cluster = cluster.into_inner();
        let named = cluster.nodes.iter().filter(|node| node.name == name(place));
        let states = named.map(v1::ClusterNode::state);
        // A name is taken again by whoever comes after the one that was removed.
        states.min_by_key(|it| *it == v1::NodeState::Removed).unwrap_or_default()
    }

    /// The place of the node that leads, as the one in `place` says.
    pub(crate) async fn leader(&self, place: usize) -> Option<usize> {
        let cluster = self.cluster(place).await.ok()?;
        let leader = cluster.nodes.iter().find(|node| node.leader)?;
        (0..self.nodes.len()).find(|place| name(*place) == leader.name)
    }

    /// A place that runs and does not lead.
    pub(crate) async fn follower(&self) -> usize {
        let running = self.nodes.iter().position(Option::is_some).unwrap();
        let leader =
            self.until_some("somebody leads", async |town| town.leader(running).await).await;
        (0..self.nodes.len()).find(|it| *it != leader && self.nodes[*it].is_some()).unwrap()
    }

    /// The whole audit log, as the node in this place has it.
    pub(crate) async fn records(&self, place: usize) -> Vec<v1::AuditRecord> {
        let mut admin = self.admin(place).await;
        let (mut records, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListAuditRequest { page_size: 1000, page_token };
            let page = admin.list_audit(request).await.unwrap().into_inner();
            records.extend(page.records);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return records;
            }
        }
    }

    pub(crate) async fn until(&self, what: &str, mut is: impl AsyncFnMut(&Self) -> bool) {
        self.until_some(what, async |town| is(town).await.then_some(())).await;
    }

    pub(crate) async fn until_some<T>(
        &self,
        what: &str,
        mut found: impl AsyncFnMut(&Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(self).await {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

pub(crate) fn name(place: usize) -> String {
    format!("n{place}")
}

pub(crate) fn invitation(name: &str) -> v1::AddNodeRequest {
    v1::AddNodeRequest { name: name.into(), ..Default::default() }
}

pub(crate) fn agent(name: &str) -> v1::CreateAgentRequest {
    v1::CreateAgentRequest { name: name.into(), ..Default::default() }
}

/// A trust bundle as whoever has the root key ships it.
pub(crate) fn signed(root: &RootKey, trust: Vec<u8>) -> v1::Envelope {
    let signed = root.sign(trust);
    v1::Envelope {
        payload_type: countersign_gate::TRUST_TYPE.into(),
        payload: signed.payload.into(),
        signatures: signed
            .signatures
            .into_iter()
            .map(|it| v1::Signature { key_id: it.key_id.into(), signature: it.signature.into() })
            .collect(),
    }
}

/// Why a node did not start.
pub(crate) async fn refusal(config: Config) -> String {
    match ControlPlane::start(config).await {
        Ok(_) => panic!("it started"),
        Err(error) => format!("{error:#}"),
    }
}

/// Every file below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}
