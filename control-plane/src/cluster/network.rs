//! The way to other nodes: there are none yet, and every call says so.

use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, RaftTypeConfig};

use super::consensus::Types;

/// Reaches nobody.
pub(super) struct Alone;

#[derive(Debug, thiserror::Error)]
#[error("this cluster has one node and cannot reach others")]
struct NoPeers;

type Failed<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

fn refused<E: std::error::Error>() -> Failed<E> {
    RPCError::Unreachable(Unreachable::new(&NoPeers))
}

impl RaftNetworkFactory<Types> for Alone {
    type Network = Self;

    async fn new_client(&mut self, _target: u64, _node: &<Types as RaftTypeConfig>::Node) -> Self {
        Self
    }
}

impl RaftNetwork<Types> for Alone {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        Err(refused())
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<InstallSnapshotError>> {
        Err(refused())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failed> {
        Err(refused())
    }
}
