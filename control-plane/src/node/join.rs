//! Joining a cluster: once, by a token, before this node has anything.
//!
//! The keys are made and on disk before anybody is asked, and the answer is on disk as one file before anything is made
//! of it: whatever is cut short, the same is asked again with the same keys and answered the same.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use countersign_proto::v1;
use countersign_proto::v1::admin_service_client::AdminServiceClient;
use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::addresses::Addresses;
use crate::config::{Config, Join, SealConfig};
use crate::sign::SigningKeys;
use crate::tls::{self, write_private, write_public};
use crate::vault::Vault;

/// What the cluster answered. Nothing in it is secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Joined {
    node_id: String,
    pub(super) cluster_id: String,
    node_certificate_pem: String,
    node_ca_pem: String,
    server_certificate_pem: String,
    api_ca_pem: String,
    edge_ca_pem: String,
    /// Hexadecimal.
    seal_file: String,
}

const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Joins the cluster that the configuration names, unless this node is a member of one already. Waits as long as
/// nobody answers.
///
/// # Errors
/// The token was refused, the other side is not who it should be, or files cannot be read or written.
pub(super) async fn join_if_new(config: &Config, addresses: &Addresses) -> anyhow::Result<()> {
    let dir = &config.data_dir;
    if let Some(joined) = remembered(dir)? {
        return if Vault::exists(dir) { Ok(()) } else { joined.unpack(dir) };
    }
    let Some(join) = &config.cluster.join else { return Ok(()) };
    if Vault::exists(dir) || dir.join("cluster").exists() {
        return Ok(());
    }
    if let SealConfig::KeyFile(path) = &config.seal
        && !path.exists()
    {
        // Before the token is used up.
        anyhow::bail!(
            "the node did not join: there is no {} (seal.key_file); copy that file from a node of the cluster, since one file opens all",
            path.display()
        );
    }
    let joined = ask_until_answered(config, join, addresses).await?;
    let text = serde_json::to_vec_pretty(&joined)?;
    write_private(&path(dir), &text)
        .with_context(|| format!("{} cannot be written", path(dir).display()))?;
    joined.unpack(dir)?;
    tracing::info!(node = joined.node_id, cluster = joined.cluster_id, "this node joined");
    Ok(())
}

/// What a node that joined was answered.
pub(super) fn remembered(dir: &Path) -> anyhow::Result<Option<Joined>> {
    let path = path(dir);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| {
            format!("{} is damaged: remove this node and add it anew", path.display())
        }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", path.display())),
    }
}

impl Joined {
    pub(super) fn node_id(&self) -> anyhow::Result<u64> {
        u64::from_str_radix(&self.node_id, 16).with_context(|| {
            format!("{:?} is no node id: remove this node and add it anew", self.node_id)
        })
    }

    /// The seal goes last: with it, this is a member.
    fn unpack(&self, dir: &Path) -> anyhow::Result<()> {
        self.node_id()?;
        let seal_file = hex::decode(&self.seal_file).context("the cluster's seal is damaged")?;
        tls::make_folder(dir)?;
        for (path, pem) in [
            (tls::node_ca_path(dir), &self.node_ca_pem),
            (tls::api_ca_path(dir), &self.api_ca_pem),
            (super::edge_ca_path(dir), &self.edge_ca_pem),
        ] {
            write_public(&path, pem.as_bytes())
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        tls::node_pair(dir).install(&self.node_certificate_pem)?;
        tls::server_pair(dir).install(&self.server_certificate_pem)?;
        Ok(Vault::install(dir, &seal_file)?)
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("joined.json")
}

async fn ask_until_answered(
    config: &Config,
    join: &Join,
    addresses: &Addresses,
) -> anyhow::Result<Joined> {
    let mut pause = FIRST_PAUSE;
    loop {
        match ask(config, join, addresses).await? {
            Answered::In(joined) => return Ok(joined),
            Answered::Not(why) => {
                tracing::warn!(api = join.api, why, "nobody let this node in yet; it tries again");
            }
        }
        // Up to half of it less, so that nodes that start together do not ask together.
        tokio::time::sleep(pause.mul_f64(1.0 - rand::random::<f64>() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Answered {
    In(Joined),
    /// Nobody who could say: the next one may.
    Not(String),
}

async fn ask(config: &Config, join: &Join, addresses: &Addresses) -> anyhow::Result<Answered> {
    let request = request(config, join, addresses)?;
    let ca = fs::read_to_string(&join.ca_file).with_context(|| {
        format!("the CA cannot be read from {} (cluster.join_ca_file)", join.ca_file.display())
    })?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let endpoint =
        Endpoint::from_shared(join.api.clone())?.connect_timeout(CONNECT).timeout(ANSWER);
    let endpoint = endpoint.tls_config(tls).with_context(|| {
        format!("{} (cluster.join_ca_file) is not the PEM of a CA", join.ca_file.display())
    })?;
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) if is_certificate(&error) => anyhow::bail!(
            "the node did not join: whoever answers at {} is not of the CA in {} (cluster.join_ca_file); give the file that `countersign cluster add` shows",
            join.api,
            join.ca_file.display()
        ),
        Err(error) => return Ok(Answered::Not(chain(&error))),
    };
    match AdminServiceClient::new(channel).join_cluster(request).await {
        Ok(answer) => Joined::of(answer.into_inner()).map(Answered::In),
        Err(status) if is_passing(&status) => Ok(Answered::Not(status.message().to_owned())),
        Err(status) => anyhow::bail!("the node did not join: {}", status.message()),
    }
}

fn request(
    config: &Config,
    join: &Join,
    addresses: &Addresses,
) -> anyhow::Result<v1::JoinClusterRequest> {
    let dir = &config.data_dir;
    let token = fs::read_to_string(&join.token_file).map(Zeroizing::new).with_context(|| {
        format!(
            "the token cannot be read from {} (cluster.join_token_file)",
            join.token_file.display()
        )
    })?;
    tls::make_folder(dir)?;
    let told = addresses.told().clone();
    Ok(v1::JoinClusterRequest {
        token: token.trim().to_owned(),
        name: config.cluster.name.clone(),
        node_csr_pem: tls::node_pair(dir).request()?,
        server_csr_pem: tls::server_pair(dir).request()?,
        public_key: SigningKeys::prepare(dir)?.to_vec().into(),
        cluster_address: told.cluster,
        api_address: told.api,
        gateway_address: told.gateway,
        server_names: tls::with_local(&addresses.names),
        own_destinations: told.own,
    })
}

impl Joined {
    fn of(answer: v1::JoinClusterResponse) -> anyhow::Result<Self> {
        let joined = Self {
            node_id: answer.node_id,
            cluster_id: answer.cluster_id,
            node_certificate_pem: answer.node_certificate_pem,
            node_ca_pem: answer.node_ca_pem,
            server_certificate_pem: answer.server_certificate_pem,
            api_ca_pem: answer.api_ca_pem,
            edge_ca_pem: answer.edge_ca_pem,
            seal_file: hex::encode(answer.seal_file),
        };
        joined.node_id()?;
        Ok(joined)
    }
}

/// Whether asking again may help.
fn is_passing(status: &Status) -> bool {
    use Code::{
        Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown,
    };
    matches!(
        status.code(),
        Aborted
            | Cancelled
            | DeadlineExceeded
            | Internal
            | ResourceExhausted
            | Unavailable
            | Unknown
    )
}

fn is_certificate(error: &tonic::transport::Error) -> bool {
    causes(error).any(|cause| {
        let tls = cause.downcast_ref::<rustls::Error>();
        let io = cause.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        let tls = tls.or_else(|| io.and_then(|inner| inner.downcast_ref::<rustls::Error>()));
        matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
    })
}

fn chain(error: &tonic::transport::Error) -> String {
    let mut words: Vec<_> = causes(error).map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}

fn causes(error: &tonic::transport::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some::<&(dyn Error + 'static)>(error), |error| (*error).source())
}
