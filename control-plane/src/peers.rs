//! The door for other nodes: `ClusterService` over mutual TLS under the node CA.
//!
//! Who calls, the certificate of the connection says and nothing else; what the caller may have, the cluster room
//! and the signing room decide. [`MutualTls`] is the same door seen from the other side.

mod identity;
mod mutual_tls;

use std::sync::Arc;

use countersign_proto::v1;
use countersign_proto::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use tonic::{Request, Response, Status, Streaming};

pub use identity::PeerId;
pub use mutual_tls::{MutualTls, NodeIdentity, TlsError};

pub use crate::sign::CoSigner;

use crate::cluster::{Cluster, ClusterRpc};
use crate::mint::Minter;

const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// What a node offers the others of its cluster. Without a `minter` it mints nothing for them.
pub fn service(
    cluster: Cluster,
    co_signer: Arc<dyn CoSigner>,
    minter: Option<Arc<Minter>>,
) -> ClusterServiceServer<Peers> {
    let peers = Peers { rpc: cluster.rpc(), cluster, co_signer, minter };
    ClusterServiceServer::new(peers)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

/// See [`service`].
pub struct Peers {
    cluster: Cluster,
    rpc: ClusterRpc,
    co_signer: Arc<dyn CoSigner>,
    minter: Option<Arc<Minter>>,
}

impl Peers {
    /// Who calls.
    fn from<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        identity::of_peer(request, &self.cluster.cluster_id())
    }
}

#[tonic::async_trait]
impl ClusterService for Peers {
    async fn greet(
        &self,
        request: Request<v1::GreetRequest>,
    ) -> Result<Response<v1::GreetResponse>, Status> {
        let from = self.from(&request)?;
        self.rpc.greet(from, request.into_inner()).await.map(Response::new)
    }

    async fn append_entries(
        &self,
        request: Request<v1::AppendEntriesRequest>,
    ) -> Result<Response<v1::AppendEntriesResponse>, Status> {
        let from = self.from(&request)?;
        self.rpc.append_entries(from, request.into_inner()).await.map(Response::new)
    }

    async fn request_vote(
        &self,
        request: Request<v1::RequestVoteRequest>,
    ) -> Result<Response<v1::RequestVoteResponse>, Status> {
        let from = self.from(&request)?;
        self.rpc.request_vote(from, request.into_inner()).await.map(Response::new)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::InstallSnapshotRequest>>,
    ) -> Result<Response<v1::InstallSnapshotResponse>, Status> {
        let from = self.from(&request)?;
        self.rpc.install_snapshot(from, request.into_inner()).await.map(Response::new)
    }

    async fn snapshot_offset(
        &self,
        request: Request<v1::SnapshotOffsetRequest>,
    ) -> Result<Response<v1::SnapshotOffsetResponse>, Status> {
        let from = self.from(&request)?;
        self.rpc.snapshot_offset(from, request.into_inner()).await.map(Response::new)
    }

    async fn stand_for_election(
        &self,
        request: Request<v1::StandForElectionRequest>,
    ) -> Result<Response<v1::StandForElectionResponse>, Status> {
        let from = self.from(&request)?;
        self.rpc.stand_for_election(from, request.into_inner()).await.map(Response::new)
    }

    async fn forward_proposal(
        &self,
        request: Request<v1::ForwardProposalRequest>,
    ) -> Result<Response<v1::ForwardProposalResponse>, Status> {
        let from = self.from(&request)?;
        self.rpc.forward_proposal(from, request.into_inner()).await.map(Response::new)
    }

    async fn read_index(
        &self,
        request: Request<v1::ReadIndexRequest>,
    ) -> Result<Response<v1::ReadIndexResponse>, Status> {
        let from = self.from(&request)?;
        self.rpc.read_index(from, request.into_inner()).await.map(Response::new)
    }

    async fn mint_token(
        &self,
        request: Request<v1::MintTokenRequest>,
    ) -> Result<Response<v1::MintTokenResponse>, Status> {
        let from = self.from(&request)?;
        self.rpc.admit(from, &request.get_ref().cluster_id)?;
        let minter = self.minter.as_ref().ok_or_else(|| {
            Status::unimplemented("nothing was minted: this node mints nothing for others")
        })?;
        minter.for_peer(request.into_inner()).await.map(Response::new)
    }

    async fn co_sign(
        &self,
        request: Request<v1::CoSignRequest>,
    ) -> Result<Response<v1::CoSignResponse>, Status> {
        let from = self.from(&request)?;
        self.rpc.admit(from, &request.get_ref().cluster_id)?;
        self.co_signer.co_sign(from, request.into_inner()).await.map(Response::new)
    }
}
