//! One node's life: sealed, unsealed, sealed again; and the listeners that go on through all of it.
//!
//! ```text
//! start ─▶ sealed ──unseal──▶ vault opens ─▶ cluster leads ─▶ (first time: genesis) ─▶ unsealed ──seal──▶ sealed …
//! ```
//!
//! While a node is sealed there is no vault, no Raft and no state in the process: `Unsealed` is all three, and
//! whoever wants one of them has to be given it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign_proto::v1::admin_service_server::AdminServiceServer;
use sha2::{Digest as _, Sha256};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use zeroize::Zeroizing;

pub use crate::config::{Config, SealConfig};

use crate::access::Access;
use crate::cluster::{
    Clock as _, Cluster, Committed, DataDir, ProposeError, Settings, SystemClock,
};
use crate::intake::{Intake, IntakeSettings};
use crate::listen::{self, Door};
use crate::operator::{self, Operator, refuse};
use crate::sign::{self, RootKey, Signer, SigningKeys};
use crate::state::{self, Actor, Command, Event, Role};
use crate::telemetry::{Metrics, Snapshot};
use crate::tls::{ServerIdentity, write_private, write_public};
use crate::vault::{NewSeal, SealError, Unsealing, Vault};
use crate::web;

const ENTRIES_PER_SNAPSHOT: u64 = 10_000;
const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// A running node. Dropping it stops the listeners; [`ControlPlane::shutdown`] also waits until all is on disk.
pub struct ControlPlane {
    node: Arc<Node>,
    api_address: SocketAddr,
    web_address: Option<SocketAddr>,
    servers: TaskTracker,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl ControlPlane {
    /// Listens, and unseals the node unless a person has to. The first start makes the vault, the cluster with its
    /// keys and its principal `admin`, and writes that one's token to `data_dir/admin-token` (0600).
    ///
    /// # Errors
    /// One sentence: what could not be done, where, and what to do. What was there before is there still.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let lock = DataDir::lock(&config.data_dir)?;
        let (api, api_address) = listen::bind(config.api_listen, "api.listen").await?;
        let (gateway, gateway_address) =
            listen::bind(config.gateway_listen, "gateway.listen").await?;
        let web = match config.web_listen {
            Some(address) => Some(listen::bind(address, "web.listen").await?),
            None => None,
        };
        let listened_on = [api_address, gateway_address].map(|address| address.ip()).into_iter();
        let names = listened_on.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
        let names: Vec<_> = config.server_names.iter().cloned().chain(names).collect();
        let identity = ServerIdentity::open(&config.data_dir, &names)?;

        let stop = CancellationToken::new();
        let (health, health_service) = tonic_health::server::health_reporter();
        let (door, gateway_door) = watch::channel(Door {
            tls: None,
            service: sealed_gateway(),
            cut: CancellationToken::new(),
        });
        let node = Arc::new(Node {
            metrics: Metrics::new()?,
            config,
            identity,
            api_address,
            gateway_address,
            ports: [api_address, gateway_address]
                .into_iter()
                .chain(web.as_ref().map(|(_, address)| *address))
                .map(|address| address.port())
                .collect(),
            names,
            gateway: door,
            health,
            life: RwLock::new(Life::Sealed { by: None, refused: 0 }),
            changing: Mutex::new(()),
            _lock: lock,
        });
        node.close_gateway();
        node.tell_health(ServingStatus::NotServing).await;
        node.begin().await?;

        let admin = AdminServiceServer::new(Operator::new(node.clone()))
            .max_decoding_message_size(MESSAGE_BYTES);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(countersign_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name("countersign.v1.AdminService")
                .with_service_name("grpc.health.v1.Health")
        };
        let routes = Routes::new(admin)
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .prepare();
        let service = Access::around(routes, node.clone());
        let api_door =
            Door { tls: Some(node.identity.for_tokens()?), service, cut: CancellationToken::new() };

        let servers = TaskTracker::new();
        servers.spawn(listen::serve(api, watch::channel(api_door).1, stop.clone()));
        servers.spawn(listen::serve(gateway, gateway_door, stop.clone()));
        let web_address = web.map(|(listener, address)| {
            servers.spawn(web::serve(listener, node.clone(), stop.clone()));
            address
        });
        servers.close();
        let sealed = node.unsealed().is_none();
        tracing::info!(%api_address, %gateway_address, web_address = web_address.map(tracing::field::display), sealed, "the control plane serves");
        Ok(Self {
            node,
            api_address,
            web_address,
            servers,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
        })
    }

    pub fn api_addr(&self) -> SocketAddr {
        self.api_address
    }

    pub fn gateway_addr(&self) -> SocketAddr {
        self.node.gateway_address
    }

    pub fn web_addr(&self) -> Option<SocketAddr> {
        self.web_address
    }

    /// PEM of the CA that signs both listeners' certificate; the same after every restart.
    pub fn api_ca_path(&self) -> &Path {
        self.node.identity.ca_path()
    }

    /// The token that the first start gave to `admin`, whether or not it was rotated since.
    ///
    /// # Errors
    /// `data_dir/admin-token` is not there (it may be removed once it is kept elsewhere) or cannot be read.
    pub fn admin_token(&self) -> anyhow::Result<Zeroizing<String>> {
        let path = self.node.admin_token_path();
        let text = fs::read_to_string(&path)
            .with_context(|| format!("there is no admin token in {}", path.display()))?;
        Ok(Zeroizing::new(Zeroizing::new(text).trim().to_owned()))
    }

    /// Ends what is under way, then the cluster; the data directory is free when this returns.
    pub async fn shutdown(self) {
        self.node.close_gateway();
        if let Some(house) = self.node.unsealed() {
            house.close();
        }
        self.stop.cancel();
        self.servers.wait().await;
        self.node.seal().await;
    }
}

/// What the faces share. It outlives being sealed.
pub(crate) struct Node {
    pub(crate) metrics: Metrics,
    config: Config,
    identity: ServerIdentity,
    api_address: SocketAddr,
    gateway_address: SocketAddr,
    /// Of every listener, and every name that they are known by: where no edge may send an agent.
    ports: Vec<u16>,
    names: Vec<String>,
    gateway: watch::Sender<Door<Routes>>,
    health: HealthReporter,
    life: RwLock<Life>,
    /// Held through a change from sealed to unsealed or back: one at a time.
    changing: Mutex<()>,
    _lock: DataDir,
}

enum Life {
    Sealed {
        /// Tokens of those who were administrators when somebody sealed the node; None after a start.
        by: Option<BTreeSet<[u8; 32]>>,
        /// Attempts to unseal that failed since.
        refused: u64,
    },
    Unsealed(Arc<Unsealed>),
}

/// The rooms of a node that is not sealed.
pub(crate) struct Unsealed {
    pub(crate) cluster: Cluster,
    pub(crate) vault: Arc<Vault>,
    intake: Intake,
    /// Cancelled before the cluster stops: whoever holds this for long lets go of it then.
    pub(crate) closing: CancellationToken,
}

impl Unsealed {
    /// Ids of the edges that are attached now.
    pub(crate) fn connected_edges(&self) -> BTreeSet<String> {
        self.intake.connected_edges().into_iter().map(|edge| edge.id).collect()
    }

    /// Returns once the attached edges decide with what was committed; see [`Intake::told`].
    pub(crate) async fn told(&self, committed: &Committed<Event>) {
        self.intake.told(committed).await;
    }

    /// Lets go of whoever is there for long: watchers and edges.
    fn close(&self) {
        self.closing.cancel();
        self.intake.close();
    }
}

/// Why a node is sealed still.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnsealError {
    #[error("it takes the token of an administrator")]
    AdminNeeded,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Start(#[from] anyhow::Error),
}

impl Node {
    pub(crate) fn unsealed(&self) -> Option<Arc<Unsealed>> {
        match &*self.life.read().unwrap_or_else(PoisonError::into_inner) {
            Life::Sealed { .. } => None,
            Life::Unsealed(house) => Some(house.clone()),
        }
    }

    /// "key-file" or "passphrase".
    pub(crate) fn provider_name(&self) -> &'static str {
        match &self.config.seal {
            SealConfig::KeyFile(_) => "key-file",
            SealConfig::Passphrase | SealConfig::PassphraseFile(_) => "passphrase",
        }
    }

    /// Where an edge finds this node, by a name that the certificate has.
    pub(crate) fn gateway_address(&self) -> String {
        match (self.gateway_address.ip().is_unspecified(), self.config.server_names.first()) {
            (false, _) => self.gateway_address.to_string(),
            (true, Some(name)) => format!("{name}:{}", self.gateway_address.port()),
            (true, None) => format!("localhost:{}", self.gateway_address.port()),
        }
    }

    pub(crate) fn api_ca_pem(&self) -> &str {
        self.identity.ca_pem()
    }

    /// The figures of this moment.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let Some(house) = self.unsealed() else {
            return Snapshot { sealed: true, ..Snapshot::default() };
        };
        let (pending, approved, held_requests) = house.cluster.peek(|state| {
            use crate::state::ApprovalState::{Approved, Pending};
            let in_state = |wanted| state.approvals().filter(move |a| a.state == wanted);
            let held = in_state(Pending)
                .chain(in_state(Approved))
                .map(|a| state.held_for(a.id).count())
                .sum();
            (in_state(Pending).count(), in_state(Approved).count(), held)
        });
        Snapshot {
            applied_index: house.cluster.applied_index(),
            approved,
            edges_connected: house.connected_edges().len(),
            held_requests,
            leader: house.cluster.is_leader(),
            pending,
            sealed: false,
        }
    }

    /// Unseals the node. `passphrase` counts where the node has one; `token_sha256` where a key file opens it and
    /// somebody had sealed it. Doing it again does nothing.
    pub(crate) async fn unseal(
        self: &Arc<Self>,
        passphrase: Zeroizing<String>,
        token_sha256: Option<[u8; 32]>,
    ) -> Result<(), UnsealError> {
        let _one_at_a_time = self.changing.lock().await;
        let refused = match &*self.life.read().unwrap_or_else(PoisonError::into_inner) {
            Life::Unsealed(_) => return Ok(()),
            Life::Sealed { by: Some(admins), .. }
                if matches!(self.config.seal, SealConfig::KeyFile(_))
                    && !token_sha256.is_some_and(|token| admins.contains(&token)) =>
            {
                return Err(UnsealError::AdminNeeded);
            }
            Life::Sealed { refused, .. } => *refused,
        };
        let unsealing = match &self.config.seal {
            SealConfig::KeyFile(path) => Unsealing::KeyFile(path.clone()),
            SealConfig::Passphrase | SealConfig::PassphraseFile(_) => {
                Unsealing::Passphrase(passphrase)
            }
        };
        let opened = self.open(unsealing, refused).await;
        if opened.is_err()
            && let Life::Sealed { refused, .. } =
                &mut *self.life.write().unwrap_or_else(PoisonError::into_inner)
        {
            *refused += 1;
        }
        opened
    }

    /// Stops the cluster and drops the vault. Who may unseal a node with a key file again is kept.
    pub(crate) async fn seal(&self) {
        let _one_at_a_time = self.changing.lock().await;
        let Some(house) = self.unsealed() else { return };
        let admins = house.cluster.peek(|state| {
            let admins = state.principals().filter(|p| p.active && p.roles.contains(&Role::Admin));
            admins.map(|p| p.token_sha256).collect()
        });
        *self.life.write().unwrap_or_else(PoisonError::into_inner) =
            Life::Sealed { by: Some(admins), refused: 0 };
        self.tell_health(ServingStatus::NotServing).await;
        house.close();
        self.close_gateway();
        house.cluster.shutdown().await;
    }

    /// What a start does without being asked.
    async fn begin(self: &Arc<Self>) -> anyhow::Result<()> {
        let dir = &self.config.data_dir;
        let there = Vault::exists(dir);
        let unsealing = match &self.config.seal {
            SealConfig::KeyFile(path) => Unsealing::KeyFile(path.clone()),
            SealConfig::PassphraseFile(path) if !there => {
                Unsealing::Passphrase(read_passphrase(path)?)
            }
            SealConfig::Passphrase | SealConfig::PassphraseFile(_) => {
                if there && Vault::parameters(dir)?.provider != "passphrase" {
                    anyhow::bail!(
                        "the vault in {} was made with a key file: set seal.provider = \"key-file\" and seal.key_file",
                        dir.display()
                    );
                }
                tracing::warn!("the node is sealed: `countersign seal unseal` opens it");
                return Ok(());
            }
        };
        let _one_at_a_time = self.changing.lock().await;
        self.open(unsealing, 0).await.map_err(|e| match e {
            UnsealError::Start(error) => error,
            error => anyhow::Error::new(error),
        })
    }

    /// Opens or makes the vault, starts the cluster, and lets the faces in.
    async fn open(self: &Arc<Self>, unsealing: Unsealing, refused: u64) -> Result<(), UnsealError> {
        let (dir, log_dir) = (self.config.data_dir.clone(), self.config.data_dir.join("cluster"));
        if !Vault::exists(&dir) && log_dir.exists() {
            return Err(UnsealError::Start(anyhow::anyhow!(
                "{} holds a cluster without its vault (seal.json): restore that file from a backup; without it nothing can be read",
                dir.display()
            )));
        }
        // Argon2 takes its time, and disks do.
        let vault = tokio::task::spawn_blocking(move || {
            if Vault::exists(&dir) {
                Vault::unseal(&dir, &unsealing)
            } else {
                let new = NewSeal::try_from(unsealing)?;
                Ok(Vault::create(&dir, new, SystemClock.wall())?.vault)
            }
        });
        let vault = Arc::new(vault.await.context("the vault was not opened")??);
        let settings = Settings { data_dir: log_dir, snapshot_every: ENTRIES_PER_SNAPSHOT };
        let cluster = Cluster::start(settings, vault.clone()).await.map_err(anyhow::Error::new)?;
        match self.move_in(&cluster, vault, refused).await {
            Ok(()) => Ok(()),
            Err(error) => {
                cluster.shutdown().await;
                Err(UnsealError::Start(error))
            }
        }
    }

    async fn move_in(
        self: &Arc<Self>,
        cluster: &Cluster,
        vault: Arc<Vault>,
        refused: u64,
    ) -> anyhow::Result<()> {
        if cluster.read(|state| state.genesis().is_none()).await? {
            self.found(cluster, &vault).await?;
        }
        let edge_ca = cluster
            .read(|state| state.genesis().map(|genesis| genesis.edge_ca_pem.clone()))
            .await?;
        let edge_ca = edge_ca.context("the cluster did not begin")?;
        // For a sealed restart: edges are then told that the node is sealed, by one that they know.
        write_public(&self.edge_ca_path(), edge_ca.as_bytes())
            .with_context(|| format!("{} cannot be written", self.edge_ca_path().display()))?;
        let details = vec![("refused_attempts".to_owned(), refused.to_string())];
        let note = Command::Note { action: "seal.unseal".into(), subject: "node".into(), details };
        cluster.propose(Actor::System, note).await?;

        let signer = Arc::new(Signer::open(cluster, &self.config.data_dir, &vault).await?);
        let settings = IntakeSettings {
            forbidden_destinations: self.own_destinations(),
            ..IntakeSettings::default()
        };
        let intake = Intake::new(cluster.clone(), vault.clone(), signer, settings);
        let house = Arc::new(Unsealed {
            cluster: cluster.clone(),
            vault,
            intake: intake.clone(),
            closing: CancellationToken::new(),
        });
        tokio::spawn(count_approvals(self.clone(), house.clone()));
        self.open_gateway(&edge_ca, Routes::new(intake.into_service()).prepare())?;
        *self.life.write().unwrap_or_else(PoisonError::into_inner) = Life::Unsealed(house);
        self.tell_health(ServingStatus::Serving).await;
        Ok(())
    }

    /// The first command of the cluster's life. The token is on disk before the cluster knows it: whatever is cut
    /// short, nobody is left without one.
    async fn found(&self, cluster: &Cluster, vault: &Vault) -> anyhow::Result<()> {
        let path = self.admin_token_path();
        let token = match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => {
                Zeroizing::new(Zeroizing::new(text).trim().to_owned())
            }
            _ => {
                let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
                let token = Zeroizing::new(format!(
                    "cs_adm_{}",
                    BASE64_URL_SAFE_NO_PAD.encode(bytes.as_slice())
                ));
                let line = Zeroizing::new(format!("{}\n", token.as_str()));
                write_private(&path, line.as_bytes()).with_context(|| {
                    format!("the admin token cannot be written to {}", path.display())
                })?;
                token
            }
        };
        let cluster_id = hex::encode(rand::random::<[u8; 16]>());
        let admin = Sha256::digest(token.as_bytes()).into();
        let root = self.root_key()?;
        let keys = SigningKeys::open_or_make(&self.config.data_dir, vault)?;
        let ca_key = self.identity.ca_key_pem()?;
        let beginning = sign::Beginning {
            cluster_id: &cluster_id,
            org_id: &self.config.org_id,
            node: state::Node {
                id: cluster.node_id(),
                name: "node-1".into(),
                addresses: self.addresses(),
                public_keys: Vec::new(),
                removed: false,
                joined_at: 0,
            },
            admin_token_sha256: admin,
            api_ca_pem: self.identity.ca_pem(),
            api_ca_key_pem: &ca_key,
        };
        let genesis = sign::genesis(vault, &root, &keys, beginning)?;
        match cluster.propose(Actor::System, Command::Genesis(Box::new(genesis))).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Refused(why)) => {
                Err(anyhow::anyhow!("the cluster did not begin: {why}"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// On disk before the cluster knows its public half, for the same reason.
    fn root_key(&self) -> anyhow::Result<RootKey> {
        let path = self.config.data_dir.join("trust-root.key");
        if let Ok(text) = fs::read_to_string(&path).map(Zeroizing::new)
            && let Some(root) = RootKey::from_hex(&text)
        {
            return Ok(root);
        }
        let root = RootKey::generate();
        let line = Zeroizing::new(format!("{}\n", root.to_hex().as_str()));
        write_private(&path, line.as_bytes()).with_context(|| {
            format!("the trust root's key cannot be written to {}", path.display())
        })?;
        Ok(root)
    }

    fn addresses(&self) -> state::Addresses {
        state::Addresses {
            cluster: String::new(),
            api: self.api_address.to_string(),
            gateway: self.gateway_address(),
            own: self.own_destinations(),
        }
    }

    fn own_destinations(&self) -> Vec<String> {
        let local = ["localhost", "127.0.0.1", "::1"].into_iter();
        let names = local.chain(self.names.iter().map(String::as_str));
        names.flat_map(|name| self.ports.iter().map(move |port| format!("{name}:{port}"))).collect()
    }

    fn open_gateway(&self, edge_ca_pem: &str, service: Routes) -> anyhow::Result<()> {
        let tls = Some(self.identity.for_certificates(edge_ca_pem)?);
        self.change_gateway(Door { tls, service, cut: CancellationToken::new() });
        Ok(())
    }

    /// Edges that are attached are cut off; those that come are told that the node is sealed.
    fn close_gateway(&self) {
        let edge_ca = fs::read_to_string(self.edge_ca_path()).ok();
        let tls = edge_ca.and_then(|pem| self.identity.for_certificates(&pem).ok());
        self.change_gateway(Door { tls, service: sealed_gateway(), cut: CancellationToken::new() });
    }

    fn change_gateway(&self, door: Door<Routes>) {
        self.gateway.send_replace(door).cut.cancel();
    }

    async fn tell_health(&self, status: ServingStatus) {
        for service in ["", "countersign.v1.AdminService"] {
            self.health.set_service_status(service, status).await;
        }
    }

    fn admin_token_path(&self) -> PathBuf {
        self.config.data_dir.join("admin-token")
    }

    fn edge_ca_path(&self) -> PathBuf {
        self.config.data_dir.join("edge-ca.pem")
    }
}

fn sealed_gateway() -> Routes {
    Routes::from(
        axum::Router::new().fallback(|| async { refuse::sealed().into_http::<axum::body::Body>() }),
    )
}

fn read_passphrase(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).map(Zeroizing::new).with_context(|| {
        format!("the passphrase cannot be read from {} (seal.passphrase_file)", path.display())
    })?;
    Ok(Zeroizing::new(text.strip_suffix('\n').unwrap_or(&text).to_owned()))
}

/// Counts the states that approvals reach, until the node is sealed.
async fn count_approvals(node: Arc<Node>, house: Arc<Unsealed>) {
    let mut events = house.cluster.subscribe();
    loop {
        let event = tokio::select! {
            () = house.closing.cancelled() => return,
            event = events.recv() => event,
        };
        match event {
            Ok(event) => {
                if matches!(&**event, Event::Opened { joined: true, .. }) {
                    continue;
                }
                let reached = operator::changed_by(&event).into_iter().filter_map(|id| {
                    house.cluster.peek(|state| state.approval(id).map(|a| a.state))
                });
                for state in reached {
                    let name = operator::state_to_proto(state)
                        .as_str_name()
                        .trim_start_matches("APPROVAL_STATE_")
                        .to_lowercase();
                    node.metrics.approvals.with_label_values(&[name.as_str()]).inc();
                }
            }
            // Missed counts are lost: they are figures, not facts.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
