//! A whole site in one process: a control plane of one node, and an edge that is enrolled with it as any edge is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_control_plane::config::{Config as NodeConfig, SealConfig};
use countersign_control_plane::mint;
use countersign_control_plane::node::ControlPlane;
use countersign_edge_gateway::Edge;
use countersign_edge_gateway::addresses::Network;
use countersign_edge_gateway::config::{
    Config as EdgeConfig, Gateway, Identity as EdgeIdentity, Limits, RESPONSE_HEADER_TIMEOUT,
};
use countersign_edge_gateway::upstream::{self, ConnectTo};
use countersign_proto::v1;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::client::{self, Admin};
use crate::cmd::edge::Identity;
use crate::context::{Context, Edge as KnownEdge, Nodes};
use crate::failure::Failure;

/// The edge's name, whenever it starts.
const EDGE: &str = "dev";

/// How long the edge may take to attach to a control plane in the same process.
const ATTACH: Duration = Duration::from_secs(30);

/// Where everything listens, and what the edge may reach.
pub(crate) struct Plan {
    /// Absolute; made if it is not there.
    pub(crate) data_dir: PathBuf,
    pub(crate) api_listen: SocketAddr,
    pub(crate) edge_listen: SocketAddr,
    pub(crate) gateway_listen: SocketAddr,
    pub(crate) web_listen: SocketAddr,
    pub(crate) policy: Option<Policy>,
    pub(crate) upstream_ca: Vec<CertificateDer<'static>>,
    pub(crate) connect_to: Vec<ConnectTo>,
    pub(crate) allow_private: Vec<Network>,
}

/// A policy to put in force at the start.
pub(crate) struct Policy {
    pub(crate) text: String,
    /// In diagnostics.
    pub(crate) file_name: String,
}

/// A running site.
pub(crate) struct Site {
    control: ControlPlane,
    edge: Edge,
    /// As the principal `admin`.
    pub(crate) context: Context,
}

impl Site {
    /// Starts the control plane, enrols the edge over the AdminService, sets the policy, and waits until the edge has
    /// what it decides with.
    ///
    /// # Errors
    /// Whatever keeps any of it from starting; what had started is stopped in order.
    pub(crate) async fn start(plan: Plan) -> Result<Self, Failure> {
        let data_dir = plan.data_dir.clone();
        // Issuers of tokens are found as upstreams are, as far as a way to them names one host and one address.
        let ways = plan.connect_to.iter().filter_map(|way| way.to_string().parse().ok());
        let mint = mint::Settings {
            roots: plan.upstream_ca.clone(),
            allow_private: plan.allow_private.clone(),
            connect_to: ways.collect(),
        };
        let control = ControlPlane::start(NodeConfig {
            mint,
            data_dir: data_dir.clone(),
            api_listen: plan.api_listen,
            gateway_listen: plan.gateway_listen,
            web_listen: Some(plan.web_listen),
            seal: SealConfig::KeyFile(data_dir.join("seal.key")),
            org_id: "dev".into(),
            ..NodeConfig::default()
        })
        .await?;
        match attach(&control, plan).await {
            Ok((edge, context)) => Ok(Self { control, edge, context }),
            Err(failure) => {
                control.shutdown().await;
                Err(failure)
            }
        }
    }

    /// `http://host:port` of the proxy.
    pub(crate) fn proxy(&self) -> String {
        format!("http://{}", self.edge.proxy_addr())
    }

    pub(crate) fn proxy_addr(&self) -> SocketAddr {
        self.edge.proxy_addr()
    }

    /// The authority that agents have to trust.
    pub(crate) fn edge_ca_pem(&self) -> &str {
        self.edge.ca_pem()
    }

    /// `http://host:port` of health, metrics and pages.
    pub(crate) fn web(&self) -> Option<String> {
        self.control.web_addr().map(|address| format!("http://{address}"))
    }

    /// What is under way is finished: first the edge, which reports to the control plane, then the control plane.
    pub(crate) async fn shutdown(self) {
        self.edge.shutdown().await;
        self.control.shutdown().await;
    }
}

async fn attach(control: &ControlPlane, plan: Plan) -> Result<(Edge, Context), Failure> {
    let ca_file = plan.data_dir.join("edge-ca.pem");
    let mut context = Context {
        nodes: Nodes::parse(&format!("https://{}", control.api_addr()), "this process")?,
        ca: Some(control.api_ca_path().to_path_buf()),
        token: Some(control.admin_token()?),
        edge: KnownEdge { proxy: None, ca: Some(ca_file.clone()) },
        source: "this process".into(),
    };
    let mut admin = client::connect(&context).await?;
    if let Some(policy) = plan.policy {
        set_policy(&mut admin, policy).await?;
    }
    let (identity, gateway) = enroll(&mut admin).await?;
    let ours = [Some(control.api_addr()), Some(control.gateway_addr()), control.web_addr()];
    let edge = Edge::start(EdgeConfig {
        listen: plan.edge_listen,
        metrics_listen: None,
        ca_file: Some(ca_file),
        identity,
        gateway,
        upstream: upstream::Settings {
            extra_roots: plan.upstream_ca,
            connect_to: plan.connect_to,
            allow_private: plan.allow_private,
            forbidden: ours.into_iter().flatten().collect(),
            response_header_timeout: RESPONSE_HEADER_TIMEOUT,
        },
        postgres: Vec::new(),
        // One agent on one's own machine may have all of it.
        limits: Limits {
            max_in_flight_per_agent: 4096,
            max_held_per_agent: 4096,
            max_spooled_bytes_per_agent: 1024 * 1024 * 1024,
            max_connections_per_agent: 20_000,
            ..Limits::default()
        },
    })
    .await
    .map_err(|why| not_started(&why, plan.edge_listen))?;
    if tokio::time::timeout(ATTACH, edge.ready()).await.is_err() {
        edge.shutdown().await;
        return Err(Failure::refused(
            "the edge could not attach to the control plane: the log above says why",
        ));
    }
    context.edge.proxy = Some(format!("http://{}", edge.proxy_addr()));
    Ok((edge, context))
}

fn not_started(why: &anyhow::Error, listen: SocketAddr) -> Failure {
    let taken = why.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    if taken.into_iter().any(|cause| cause.kind() == std::io::ErrorKind::AddrInUse) {
        return Failure::Refused(format!(
            "the edge cannot listen on {listen} (--edge-listen): choose another address or port, or stop what is using it"
        ));
    }
    Failure::Refused(format!("the edge did not start: {why:#}"))
}

/// A new key with every start: what a former process held is worth nothing.
async fn enroll(admin: &mut Admin) -> Result<(EdgeIdentity, Gateway), Failure> {
    let Identity { key_pem, csr_pem } = Identity::generate()?;
    let request =
        v1::EnrollEdgeRequest { request_id: client::request_id(), name: EDGE.into(), csr_pem };
    let enrolled = admin.enroll_edge(request).await?.into_inner();
    let identity = EdgeIdentity {
        name: EDGE.into(),
        certificate_pem: enrolled.certificate_pem,
        key_pem,
        certificate_file: None,
    };
    Ok((
        identity,
        gateway(enrolled.gateway_address, enrolled.gateway_ca_pem, &enrolled.root_public_key)?,
    ))
}

fn gateway(address: String, ca_pem: String, root_key: &[u8]) -> anyhow::Result<Gateway> {
    if address.is_empty() {
        bail!("the control plane names no gateway address")
    }
    let root_key = root_key.try_into().context("the control plane's root key is not 32 bytes")?;
    Ok(Gateway {
        addresses: vec![address],
        server_name: None,
        ca_pem,
        // It is enrolled anew with every start.
        ca_file: None,
        root_key,
        passthrough_when_disconnected: true,
    })
}

/// As one new version, unless exactly this text is in force.
async fn set_policy(admin: &mut Admin, policy: Policy) -> Result<(), Failure> {
    let Policy { text, file_name } = policy;
    let now = admin.get_policy(v1::GetPolicyRequest {}).await?.into_inner();
    if now.version > 0 && now.text == text {
        return Ok(());
    }
    let request = v1::SetPolicyRequest {
        request_id: client::request_id(),
        text,
        file_name,
        expected_version: now.version,
    };
    let set = admin.set_policy(request).await?.into_inner();
    for warning in set.warnings {
        tracing::warn!(warning, "about the policy");
    }
    Ok(())
}

/// Every certificate in these PEM files.
pub(crate) fn authorities(files: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = |file: &PathBuf| -> Result<Vec<CertificateDer<'static>>, Failure> {
        use rustls_pki_types::pem::PemObject as _;
        let unusable = |why: String| {
            Failure::Refused(format!("the upstream CA {} cannot be used: {why}", file.display()))
        };
        let pem = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        match found {
            Ok(found) if found.is_empty() => Err(unusable("it holds no PEM certificate".into())),
            Ok(found) => Ok(found),
            Err(error) => Err(unusable(error.to_string())),
        }
    };
    Ok(files.iter().map(read).collect::<Result<Vec<_>, _>>()?.concat())
}

/// The directory's absolute path; made, for its owner alone, if it is not there.
pub(crate) fn data_dir(path: &Path) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| path.canonicalize());
    made.map_err(|error| {
        Failure::Refused(format!("the data directory {} cannot be used: {error}", path.display()))
    })
}

/// The administrator's token.
pub(crate) fn token(context: &Context) -> Zeroizing<String> {
    context.token.clone().unwrap_or_default()
}
