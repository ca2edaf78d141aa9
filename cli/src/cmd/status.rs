//! `countersign status`.

use countersign_proto::v1;
use serde::Serialize;
use tonic::Code;

use super::cluster::standing::{Standing, Trouble, standing};
use super::{approver, yes_no};
use crate::args::{Output, Show};
use crate::client;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::print;

#[derive(Serialize)]
struct Status {
    addr: String,
    cluster_id: String,
    version: String,
    sealed: bool,
    leader: bool,
    applied_index: u64,
    log_time: Option<String>,
    policy_version: u64,
    /// Attached to any node that is known.
    connected_edges: u32,
    principal: String,
    roles: Vec<&'static str>,
    /// Of the node that answered, and of the one that leads, as that one knows it.
    node_id: String,
    leader_node_id: String,
    /// What is wrong with the cluster; empty too for whoever may not know.
    troubles: Vec<Trouble>,
}

pub(crate) async fn run(context: &Context, show: &Show) -> Done {
    let mut admin = client::connect(context).await?;
    let answer = admin.get_status(v1::GetStatusRequest {}).await?.into_inner();
    let me = admin.who_am_i(v1::WhoAmIRequest {}).await?.into_inner();
    let standing = cluster(context, &mut admin).await?;
    let connected_edges = attached(context, &answer).await;
    let status = Status {
        addr: context.nodes.to_string(),
        log_time: print::time(answer.log_time.as_ref()),
        cluster_id: answer.cluster_id,
        version: answer.version,
        sealed: answer.sealed,
        leader: answer.leader,
        applied_index: answer.applied_index,
        policy_version: answer.policy_version,
        connected_edges,
        roles: me.roles().map(approver::role_name).collect(),
        principal: me.principal,
        node_id: answer.node_id,
        leader_node_id: answer.leader_node_id,
        troubles: standing.as_ref().map(|it| it.troubles.clone()).unwrap_or_default(),
    };
    if show.output == Output::Json {
        return print::json(&status);
    }
    let policy = match status.policy_version {
        0 => "none: everything is refused until `countersign policy set FILE`".into(),
        version => format!("version {version}"),
    };
    let mut facts = vec![
        ("control plane", status.addr),
        ("cluster", status.cluster_id),
        ("version", status.version),
        ("sealed", yes_no(status.sealed)),
        ("leader", yes_no(status.leader)),
        ("applied", status.applied_index.to_string()),
        ("log time", status.log_time.unwrap_or_else(|| "-".into())),
        ("policy", policy),
        ("edges", status.connected_edges.to_string()),
        ("you are", format!("{} ({})", status.principal, status.roles.join(", "))),
    ];
    if let Some(standing) = &standing {
        facts.insert(2, ("nodes", standing.summary()));
    }
    print::facts(&facts)?;
    status.troubles.iter().try_for_each(Trouble::tell)
}

/// How many edges are attached to the node that gave this answer, and to the others that are known and answer too.
pub(super) async fn attached(context: &Context, answer: &v1::GetStatusResponse) -> u32 {
    let mut attached = answer.connected_edges;
    for one in context.each().filter(|_| context.nodes.len() > 1) {
        let Ok(mut admin) = client::connect(&one).await else { continue };
        let Ok(said) = admin.get_status(v1::GetStatusRequest {}).await else { continue };
        if said.get_ref().node_id != answer.node_id {
            attached += said.get_ref().connected_edges;
        }
    }
    attached
}

/// How the cluster stands; None for a caller who may not know, and where the control plane knows of no clusters.
pub(super) async fn cluster(
    context: &Context,
    admin: &mut client::Admin,
) -> Result<Option<Standing>, Failure> {
    match admin.get_cluster(v1::GetClusterRequest {}).await {
        Ok(answer) => Ok(Some(standing(context, admin, answer.into_inner()).await)),
        Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unimplemented) => {
            Ok(None)
        }
        Err(status) => Err(status.into()),
    }
}
