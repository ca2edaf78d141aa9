//! How the node is, and who asks.

use countersign_proto::v1;
use tonic::Status;

use super::page::timestamp;
use super::{approvers, refuse};
use crate::access::Admitted;
use crate::state::State;
use crate::state::node::node_name;

pub(super) async fn get(
    asked: &Admitted,
    _: v1::GetStatusRequest,
) -> Result<v1::GetStatusResponse, Status> {
    let house = &asked.house;
    let describe = |state: &State| {
        let cluster_id =
            state.genesis().map(|genesis| genesis.cluster_id.clone()).unwrap_or_default();
        (cluster_id, state.log_time(), state.policy().map_or(0, |policy| policy.version))
    };
    let (cluster_id, log_time, policy_version) = match asked.stale {
        false => house.cluster.read(describe).await.map_err(|e| refuse::unavailable(&e))?,
        true => house.cluster.peek(describe),
    };
    // A leader that nobody follows any more does not know it.
    let leader = house.cluster.leader().filter(|_| !asked.stale);
    Ok(v1::GetStatusResponse {
        cluster_id,
        version: env!("CARGO_PKG_VERSION").into(),
        sealed: false,
        leader: leader == Some(house.cluster.node_id()),
        applied_index: house.cluster.applied_index(),
        log_time: timestamp(log_time),
        policy_version,
        connected_edges: u32::try_from(house.connected_edges().len()).unwrap_or(u32::MAX),
        node_id: node_name(house.cluster.node_id()),
        leader_node_id: leader.map(node_name).unwrap_or_default(),
    })
}

pub(super) async fn who_am_i(
    asked: &Admitted,
    _: v1::WhoAmIRequest,
) -> Result<v1::WhoAmIResponse, Status> {
    let caller = &asked.caller;
    Ok(v1::WhoAmIResponse {
        principal: caller.name.clone(),
        roles: caller.roles.iter().map(|role| approvers::role_to_proto(*role).into()).collect(),
        groups: caller.groups.iter().cloned().collect(),
    })
}
