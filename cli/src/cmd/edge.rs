//! `countersign edge`.

mod rotate_ca;

use std::fs;
use std::path::{Path, PathBuf};

use countersign_proto::v1;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{every_page, part, yes_no};
use crate::args::{Edge, Output, Show};
use crate::context::{self, Context};
use crate::failure::{Done, Failure};
use crate::{client, print};

pub(crate) async fn run(context: &Context, command: Edge) -> Done {
    match command {
        Edge::Enroll { name, out, csr, show } => {
            enroll(context, name, &out, csr.as_deref(), &show).await
        }
        Edge::List(show) => {
            let mut edges = listed(context).await?;
            // Each node knows of those that are attached to itself.
            for one in context.each().filter(|_| context.nodes.len() > 1) {
                for attached in listed(&one).await.unwrap_or_default() {
                    let same = edges.iter_mut().find(|edge| edge.edge_id == attached.edge_id);
                    if let Some(edge) = same {
                        edge.connected |= attached.connected;
                    }
                }
            }
            list(edges, &show)
        }
        Edge::Evict { name, reason, show } => {
            let request = v1::EvictEdgeRequest { request_id: client::request_id(), name, reason };
            let answer = client::connect(context).await?.evict_edge(request).await?.into_inner();
            evicted(part(answer.edge)?, answer.given, &show)
        }
        Edge::RotateCa { finish: false, show, .. } => rotate_ca::begin(context, &show).await,
        Edge::RotateCa { finish: true, yes, show } => rotate_ca::finish(context, yes, &show).await,
    }
}

/// A key pair made here, and the request for a certificate over it. Only its public key is used.
pub(crate) struct Identity {
    pub(crate) key_pem: Zeroizing<String>,
    pub(crate) csr_pem: String,
}

impl Identity {
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let csr = rcgen::CertificateParams::new(Vec::new())?.serialize_request(&key)?;
        Ok(Self { key_pem: Zeroizing::new(key.serialize_pem()), csr_pem: csr.pem()? })
    }
}

#[derive(Serialize)]
struct Enrolled {
    edge: String,
    id: String,
    key: Option<PathBuf>,
    certificate: PathBuf,
    gateway_ca: PathBuf,
    /// Of the node that answered.
    gateway_address: String,
    /// Of every node.
    gateway_addresses: Vec<String>,
    root_public_key: String,
    config: Option<PathBuf>,
}

#[derive(Serialize)]
struct Listed {
    edge: String,
    id: String,
    connected: bool,
    evicted: bool,
    enrolled_at: Option<String>,
    /// Number of the CA that its newest certificate is of.
    ca: u64,
}

impl From<v1::Edge> for Listed {
    fn from(edge: v1::Edge) -> Self {
        Self {
            enrolled_at: print::time(edge.enrolled_at.as_ref()),
            edge: edge.name,
            id: edge.edge_id,
            connected: edge.connected,
            evicted: edge.evicted,
            ca: edge.ca,
        }
    }
}

async fn enroll(
    context: &Context,
    name: String,
    out: &Path,
    csr: Option<&Path>,
    show: &Show,
) -> Done {
    let (key_pem, csr_pem) = match csr {
        Some(path) => {
            let read = fs::read_to_string(path);
            (
                None,
                read.map_err(|error| {
                    Failure::Usage(format!("{} cannot be read: {error}", path.display()))
                })?,
            )
        }
        None => {
            let identity = Identity::generate()?;
            (Some(identity.key_pem), identity.csr_pem)
        }
    };
    // Before the edge is enrolled, so that a directory that cannot be written costs nothing.
    let out = fs::create_dir_all(out).and_then(|()| out.canonicalize()).map_err(|error| {
        Failure::Refused(format!("{} cannot be created: {error}", out.display()))
    })?;
    let key = key_pem.map(|pem| keep(&out, "edge-key.pem", pem.as_bytes())).transpose()?;

    let request = v1::EnrollEdgeRequest { request_id: client::request_id(), name, csr_pem };
    let answer = client::connect(context).await?.enroll_edge(request).await?.into_inner();
    let edge = part(answer.edge)?;
    let certificate = keep(&out, "edge-cert.pem", answer.certificate_pem.as_bytes())?;
    let gateway_ca = keep(&out, "gateway-ca.pem", answer.gateway_ca_pem.as_bytes())?;
    let mut gateway_addresses = answer.gateway_addresses;
    if gateway_addresses.is_empty() {
        gateway_addresses.push(answer.gateway_address.clone());
    }
    let mut enrolled = Enrolled {
        edge: edge.name,
        id: edge.edge_id,
        key,
        certificate,
        gateway_ca,
        gateway_address: answer.gateway_address,
        gateway_addresses,
        root_public_key: hex::encode(answer.root_public_key),
        config: None,
    };
    if let Some(key) = &enrolled.key {
        enrolled.config = Some(keep(&out, "edge.toml", config(&enrolled, key).as_bytes())?);
    }
    if show.output == Output::Json {
        return print::json(&enrolled);
    }
    print::facts(&[
        ("edge", enrolled.edge),
        ("certificate", enrolled.certificate.display().to_string()),
        ("gateway", enrolled.gateway_addresses.join(", ")),
        ("gateway ca", enrolled.gateway_ca.display().to_string()),
        ("root key", enrolled.root_public_key),
    ])?;
    match enrolled.config {
        Some(path) => {
            print::line(&format!("Start it: countersign-edge-gateway {}", path.display()))
        }
        None => print::line("Its key stays where the request for it was made."),
    }
}

/// What the edge reads at its start.
fn config(enrolled: &Enrolled, key: &Path) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let path = |path: &Path| text(&path.display().to_string());
    format!(
        "listen = \"127.0.0.1:7080\"\nca_file = {}\n\n\
         [identity]\nname = {}\ncertificate_file = {}\nkey_file = {}\n\n\
         [control_plane]\naddresses = {}\nca_file = {}\nroot_key = {}\n",
        path(&enrolled.certificate.with_file_name("edge-ca.pem")),
        text(&enrolled.edge),
        path(&enrolled.certificate),
        path(key),
        serde_json::Value::from(enrolled.gateway_addresses.clone()),
        path(&enrolled.gateway_ca),
        text(&enrolled.root_public_key),
    )
}

fn keep(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
    let path = dir.join(name);
    let written = context::write_private(&path, bytes);
    written.map_err(|error| {
        Failure::Refused(format!("{} cannot be written: {error}", path.display()))
    })?;
    Ok(path)
}

#[derive(Serialize)]
struct Evicted {
    #[serde(flatten)]
    edge: Listed,
    /// Every version of a credential that it was ever given.
    given: Vec<Given>,
}

#[derive(Serialize)]
struct Given {
    credential: String,
    id: String,
    version: u64,
    last_given_at: Option<String>,
    must_rotate: bool,
}

impl From<v1::GivenCredential> for Given {
    fn from(given: v1::GivenCredential) -> Self {
        Self {
            last_given_at: print::time(given.last_given_at.as_ref()),
            credential: given.name,
            id: given.credential_id,
            version: given.version,
            must_rotate: given.must_rotate,
        }
    }
}

fn evicted(edge: v1::Edge, given: Vec<v1::GivenCredential>, show: &Show) -> Done {
    let edge = Listed::from(edge);
    let given: Vec<Given> = given.into_iter().map(Given::from).collect();
    if show.output == Output::Json {
        return print::json(&Evicted { edge, given });
    }
    print::line(&format!("{} is evicted: nothing is released to it any more.", edge.edge))?;
    if given.is_empty() {
        return print::line("No key was ever given to it.");
    }
    print::line("")?;
    let row = |it: &Given| {
        vec![
            it.credential.clone(),
            it.version.to_string(),
            it.last_given_at.clone().unwrap_or_default(),
            yes_no(it.must_rotate),
        ]
    };
    let rows: Vec<_> = given.iter().map(row).collect();
    print::table(&["CREDENTIAL", "VERSION", "LAST GIVEN", "MUST ROTATE"], &rows, "")?;
    let mut names: Vec<_> =
        given.iter().filter(|it| it.must_rotate).map(|it| it.credential.as_str()).collect();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    print::line("")?;
    print::line(
        "Whoever has that machine may have these keys: replace them where they are issued, then",
    )?;
    names
        .iter()
        .try_for_each(|name| print::line(&format!("  countersign credential rotate {name}")))
}

async fn listed(context: &Context) -> Result<Vec<v1::Edge>, Failure> {
    let mut admin = client::connect(context).await?;
    Ok(every_page!(admin, list_edges, ListEdgesRequest {}, edges))
}

fn list(edges: Vec<v1::Edge>, show: &Show) -> Done {
    let listed: Vec<Listed> = edges.into_iter().map(Listed::from).collect();
    if show.output == Output::Json {
        return print::json(&listed);
    }
    let row = |e: Listed| {
        vec![
            e.edge,
            yes_no(e.connected),
            yes_no(e.evicted),
            e.ca.to_string(),
            e.enrolled_at.unwrap_or_default(),
            e.id,
        ]
    };
    let rows: Vec<_> = listed.into_iter().map(row).collect();
    print::table(
        &["EDGE", "CONNECTED", "EVICTED", "CA", "ENROLLED", "ID"],
        &rows,
        "There are no edges yet: `countersign edge enroll NAME`.",
    )
}
