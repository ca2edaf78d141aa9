//! `countersign status`.

use countersign_proto::v1;
use serde::Serialize;

use super::{approver, yes_no};
use crate::args::{Output, Show};
use crate::client;
use crate::context::Context;
use crate::failure::Done;
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
    connected_edges: u32,
    principal: String,
    roles: Vec<&'static str>,
}

pub(crate) async fn run(context: &Context, show: &Show) -> Done {
    let mut admin = client::connect(context).await?;
    let answer = admin.get_status(v1::GetStatusRequest {}).await?.into_inner();
    let me = admin.who_am_i(v1::WhoAmIRequest {}).await?.into_inner();
    let status = Status {
        addr: context.addr.clone(),
        log_time: print::time(answer.log_time.as_ref()),
        cluster_id: answer.cluster_id,
        version: answer.version,
        sealed: answer.sealed,
        leader: answer.leader,
        applied_index: answer.applied_index,
        policy_version: answer.policy_version,
        connected_edges: answer.connected_edges,
        roles: me.roles().map(approver::role_name).collect(),
        principal: me.principal,
    };
    if show.output == Output::Json {
        return print::json(&status);
    }
    let policy = match status.policy_version {
        0 => "none: everything is refused until `countersign policy set FILE`".into(),
        version => format!("version {version}"),
    };
    print::facts(&[
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
    ])
}
