//! `countersign cluster`: the nodes, and whose signatures count.

mod add;
mod backup;
mod init;
mod restore;
mod rotate_ca;
pub(super) mod standing;
mod status;
mod trust;

use countersign_proto::v1;
use serde::Serialize;

use super::part;
use crate::args::{Cluster, Output, Remove, Show, Signing};
use crate::client::{self, Admin};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::print;
use trust::{Change, RootHand};

pub(crate) async fn run(context: impl Fn() -> Result<Context, Failure>, command: Cluster) -> Done {
    match command {
        Cluster::Add(command) => add::run(&context()?, command).await,
        Cluster::Backup { file, show } => backup::run(&context()?, &file, &show).await,
        Cluster::ConfirmClock(show) => confirm_clock(&context()?, &show).await,
        Cluster::Init(command) => init::run(&context()?, command).await,
        Cluster::Remove(command) => remove(&context()?, command).await,
        Cluster::Restore(command) => restore::run(command).await,
        Cluster::RotateCa { which, finish: false, show, .. } => {
            rotate_ca::begin(&context()?, which, &show).await
        }
        Cluster::RotateCa { which, finish: true, yes, show } => {
            rotate_ca::finish(&context()?, which, yes, &show).await
        }
        Cluster::RotateKey { node, signing, show } => {
            rotate_key(&context()?, node.as_deref(), &signing, &show).await
        }
        Cluster::Status(show) => status::run(&context()?, &show).await,
        Cluster::Transfer { node, show } => transfer(&context()?, node, &show).await,
        Cluster::Trust(command) => trust::run(&context()?, command).await,
    }
}

/// What was done to a node, and the trust bundle that was signed for it, if one was.
#[derive(Serialize)]
struct Changed {
    node_id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_epoch: Option<u64>,
}

async fn remove(context: &Context, command: Remove) -> Done {
    let Remove { node, reason, signing, show } = command;
    let hand = RootHand::open(&signing)?;
    let mut admin = client::connect(context).await?;
    let request = v1::RemoveNodeRequest { request_id: client::request_id(), node, reason };
    let node = part(admin.remove_node(request).await?.into_inner().node)?;
    if show.output == Output::Table {
        print::line(&format!("{} ({}) is removed for good.", node.name, node.node_id))?;
    }
    let trust_epoch = match hand {
        None => {
            if show.output == Output::Table && node.trusted {
                print::line(
                    "Its signature counts until a trust bundle says otherwise: `countersign cluster trust --root-key FILE`.",
                )?;
            }
            None
        }
        Some(hand) => {
            let ours = |change: &Change| change.takes_away(&node.node_id);
            trust::sign(context, &mut admin, &hand, &ours, &show).await?
        }
    };
    changed(node, trust_epoch, &show)
}

async fn transfer(context: &Context, node: Option<String>, show: &Show) -> Done {
    #[derive(Serialize)]
    struct Leads {
        leader_node_id: String,
        name: String,
    }
    let request = v1::TransferLeadershipRequest { node: node.unwrap_or_default() };
    let mut admin = client::connect(context).await?;
    let cluster = admin.get_cluster(v1::GetClusterRequest {}).await?.into_inner();
    // Only who leads can hand that over. Where its address is not known here, whoever is asked says so.
    let leader = cluster.nodes.iter().find(|node| node.leader);
    if let Some(leader) = leader.filter(|leader| leader.node_id != cluster.node_id)
        && let Ok(at_leader) = at(context, leader).await
    {
        admin = at_leader;
    }
    let leader_node_id = admin.transfer_leadership(request).await?.into_inner().leader_node_id;
    let named = cluster.nodes.into_iter().find(|node| node.node_id == leader_node_id);
    let name = named.map(|node| node.name).unwrap_or_default();
    match show.output {
        Output::Json => print::json(&Leads { leader_node_id, name }),
        Output::Table => print::line(&format!("{name} ({leader_node_id}) leads.")),
    }
}

async fn confirm_clock(context: &Context, show: &Show) -> Done {
    let mut admin = client::connect(context).await?;
    let request = v1::ConfirmClockRequest { request_id: client::request_id() };
    admin.confirm_clock(request).await?;
    match show.output {
        Output::Json => print::json(&serde_json::json!({ "confirmed": true })),
        Output::Table => print::line("The clock is confirmed: releases go on."),
    }
}

async fn rotate_key(context: &Context, node: Option<&str>, signing: &Signing, show: &Show) -> Done {
    let hand = RootHand::open(signing)?;
    let mut at_node = match node {
        None => client::connect_to_first(context).await?.1,
        Some(wanted) => the_node(context, wanted).await?,
    };
    let request = v1::RotateSigningKeyRequest { request_id: client::request_id() };
    let node = part(at_node.rotate_signing_key(request).await?.into_inner().node)?;
    if show.output == Output::Table {
        print::line(&format!("{} ({}) has a new signing key.", node.name, node.node_id))?;
    }
    let trust_epoch = match hand {
        None => {
            if show.output == Output::Table {
                print::line(
                    "It counts once a trust bundle names it: `countersign cluster trust --root-key FILE`.",
                )?;
            }
            None
        }
        Some(hand) => {
            let ours = |change: &Change| change.is_about(&node.node_id);
            let mut admin = client::connect(context).await?;
            let signed = trust::sign(context, &mut admin, &hand, &ours, show).await?;
            if show.output == Output::Table {
                print::line(
                    "The former key counts too until every edge knows the new one: take it out later, with `countersign cluster trust --root-key FILE`.",
                )?;
            }
            signed
        }
    };
    changed(node, trust_epoch, show)
}

fn changed(node: v1::ClusterNode, trust_epoch: Option<u64>, show: &Show) -> Done {
    match show.output {
        Output::Json => {
            print::json(&Changed { node_id: node.node_id, name: node.name, trust_epoch })
        }
        Output::Table => Ok(()),
    }
}

/// The line to the node of this name or id, among those whose addresses are known. An address that a control plane
/// names is not taken: the token goes where the operator said, and nowhere else.
async fn the_node(context: &Context, wanted: &str) -> Result<Admin, Failure> {
    let cluster = client::connect(context).await?.get_cluster(v1::GetClusterRequest {}).await?;
    let cluster = cluster.into_inner();
    let named = |node: &&v1::ClusterNode| {
        (node.name == wanted || node.node_id == wanted) && node.state() != v1::NodeState::Removed
    };
    let node = cluster.nodes.iter().find(named).ok_or_else(|| {
        Failure::Refused(format!(
            "nothing was done: there is no node {wanted:?}; see `countersign cluster status`"
        ))
    })?;
    at(context, node).await
}

async fn at(context: &Context, node: &v1::ClusterNode) -> Result<Admin, Failure> {
    for one in context.each() {
        let Ok(mut admin) = client::connect(&one).await else { continue };
        let Ok(status) = admin.get_status(v1::GetStatusRequest {}).await else { continue };
        if status.into_inner().node_id == node.node_id {
            return Ok(admin);
        }
    }
    Err(Failure::Usage(format!(
        "nothing was done: {} is at none of {}; name its address in COUNTERSIGN_ADDR ({})",
        node.name, context.nodes, node.api_address
    )))
}
