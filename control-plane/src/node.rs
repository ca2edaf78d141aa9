//! One node's life: sealed, unsealed, sealed again; and the listeners that go on through all of it.
//!
//! ```text
//! start ─▶ (join) ─▶ sealed ──unseal──▶ vault opens ─▶ Raft runs ─▶ (first time: genesis) ─▶ settled ──seal──▶ sealed …
//! ```
//!
//! While a node is sealed there is no vault, no Raft and no state in the process: `Unsealed` is all three, and
//! whoever wants one of them has to be given it. It serves edges once it has settled: once the state is here.

mod addresses;
mod attempts;
mod begin;
mod doors;
mod edge_ca;
mod figures;
mod join;
mod life;
mod line;
mod reseal;
mod restore;
mod settle;
mod shown_ca;
mod unsealing;
mod upkeep;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use countersign_proto::v1::admin_service_server::AdminServiceServer;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use zeroize::Zeroizing;

pub use crate::config::{Config, SealConfig};
pub use restore::{Restoration, Restored};

pub(crate) use attempts::Allowance;
pub(crate) use begin::InitError;
pub(crate) use life::{UnsealError, Unsealed};
pub(crate) use unsealing::{Presented, Tried};
pub(crate) use upkeep::Readiness;

use crate::access::Access;
use crate::cluster::DataDir;
use crate::listen::{self, Door};
use crate::operator::Operator;
use crate::state;
use crate::telemetry::Metrics;
use crate::tls::ServerIdentity;
use crate::web;
use addresses::Addresses;
use attempts::Attempts;
use doors::Doors;
use life::Life;
use line::Line;
use unsealing::Given;

const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// A running node. Dropping it stops the listeners; [`ControlPlane::shutdown`] also waits until all is on disk.
pub struct ControlPlane {
    node: Arc<Node>,
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
        let peers = match config.cluster.listen {
            Some(address) => Some(listen::bind(address, "cluster.listen").await?),
            None => None,
        };
        let [web_address, cluster_address] =
            [&web, &peers].map(|bound| bound.as_ref().map(|(_, address)| *address));
        let addresses =
            Addresses::of(&config, api_address, gateway_address, web_address, cluster_address);
        join::join_if_new(&config, &addresses).await?;
        let identity = ServerIdentity::open(&config.data_dir, &addresses.names)?;
        let line = Arc::new(Line::default());
        line.load(&config.data_dir)?;

        let stop = CancellationToken::new();
        let (health, health_service) = tonic_health::server::health_reporter();
        let node = Arc::new(Node {
            metrics: Metrics::new()?,
            unsealing: Allowance::new(20, Duration::from_secs(3)),
            joining: Allowance::new(20, Duration::from_secs(3)),
            attempts: Attempts::open(&config.data_dir)?,
            config,
            identity,
            addresses,
            doors: Doors::shut(),
            line,
            health,
            life: RwLock::new(Life::Sealed { by: None }),
            given: Default::default(),
            changing: Mutex::new(()),
            _lock: lock,
        });
        node.show_sealed();
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
        servers.spawn(listen::serve(gateway, node.doors.gateway(), stop.clone()));
        if let Some((listener, _)) = peers {
            servers.spawn(listen::serve(listener, node.doors.peers(), stop.clone()));
        }
        if let Some((listener, _)) = web {
            servers.spawn(web::serve(listener, node.clone(), stop.clone()));
        }
        servers.close();
        let sealed = node.unsealed().is_none();
        tracing::info!(%api_address, %gateway_address, web_address = web_address.map(tracing::field::display), sealed, "the control plane serves");
        Ok(Self { node, web_address, servers, _stop_when_dropped: stop.clone().drop_guard(), stop })
    }

    pub fn api_addr(&self) -> SocketAddr {
        self.node.addresses.api
    }

    pub fn gateway_addr(&self) -> SocketAddr {
        self.node.addresses.gateway
    }

    /// Where other nodes call, if they can.
    pub fn cluster_addr(&self) -> Option<SocketAddr> {
        self.node.addresses.cluster
    }

    pub fn web_addr(&self) -> Option<SocketAddr> {
        self.web_address
    }

    /// PEM of the CA that signs both listeners' certificate, and of the one before while that counts.
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
        self.node.show_sealed();
        if let Some(house) = self.node.unsealed() {
            house.close();
        }
        self.stop.cancel();
        self.servers.wait().await;
        self.node.seal().await;
        self.node.attempts.save();
    }
}

/// What the faces share. It outlives being sealed.
pub(crate) struct Node {
    pub(crate) metrics: Metrics,
    /// How often anybody may try to unseal it.
    pub(crate) unsealing: Allowance,
    /// How often anybody may try to join.
    pub(crate) joining: Allowance,
    /// What was tried at the seal and is to be recorded later.
    pub(crate) attempts: Attempts,
    config: Config,
    identity: ServerIdentity,
    addresses: Addresses,
    doors: Doors,
    line: Arc<Line>,
    health: HealthReporter,
    life: RwLock<Life>,
    given: std::sync::Mutex<Given>,
    /// Held through a change from sealed to unsealed or back: one at a time.
    changing: Mutex<()>,
    _lock: DataDir,
}

impl Node {
    /// What people call it.
    pub(crate) fn name(&self) -> &str {
        &self.config.cluster.name
    }

    /// Where others find it.
    pub(crate) fn addresses(&self) -> &state::Addresses {
        self.addresses.told()
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
        edge_ca_path(&self.config.data_dir)
    }
}

/// Whose certificates edges show, for a node that is sealed.
fn edge_ca_path(data_dir: &Path) -> PathBuf {
    data_dir.join("edge-ca.pem")
}
