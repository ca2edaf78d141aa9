//! Raft's way out: openraft's requests as calls to other nodes.

use std::sync::Arc;
use std::time::Duration;

use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, Snapshot};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::consensus::{Types, Vote};
use super::meetings::{GREET_FIRST, Meetings};
use super::roster::Roster;
use super::{sending, wire};
use crate::state::node::node_name;

type Failed = RPCError<u64, BasicNode, RaftError<u64>>;

/// After a node was not reached: how long until it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Network {
    pub(super) roster: Arc<Roster>,
    pub(super) meetings: Arc<Meetings>,
}

/// To one node, and only once it was met.
pub(super) struct Link {
    roster: Arc<Roster>,
    meetings: Arc<Meetings>,
    target: u64,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Link {
        Link { roster: self.roster.clone(), meetings: self.meetings.clone(), target }
    }
}

impl Link {
    fn client(&self) -> Result<ClusterServiceClient<Channel>, Unreachable> {
        self.meetings.check(self.target).map_err(|status| Unreachable::new(&status))?;
        self.roster.client(self.target).ok_or_else(|| Unreachable::new(&Nowhere(self.target)))
    }

    /// A node that refuses is as good as one that cannot be reached: it is asked again, but not at once.
    fn failed(&self, status: &Status) -> Failed {
        match status.code() {
            GREET_FIRST => {
                self.meetings.forget(self.target);
                Unreachable::new(status).into()
            }
            Code::Cancelled | Code::DeadlineExceeded => NetworkError::new(status).into(),
            _ => Unreachable::new(status).into(),
        }
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        let request = wire::from_append(self.roster.cluster_id(), self.meetings.process, &rpc);
        let answered = self.client()?.append_entries(request).await;
        let response = answered.map_err(|status| self.failed(&status))?.into_inner();
        let process = response.process;
        let appended = wire::to_appended(response).map_err(|e| NetworkError::new(&e))?;
        let (vote, last) = match &appended {
            AppendEntriesResponse::Success => {
                (&rpc.vote, rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id))
            }
            AppendEntriesResponse::PartialSuccess(last) => (&rpc.vote, *last),
            AppendEntriesResponse::Conflict => (&rpc.vote, None),
            AppendEntriesResponse::HigherVote(vote) => (vote, None),
        };
        self.meetings
            .take(self.target, process, vote, last)
            .map_err(|status| self.failed(&status))?;
        self.meetings.hears(self.target);
        Ok(appended)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failed> {
        let process = self.meetings.process;
        let request = wire::from_vote_request(self.roster.cluster_id(), process, &rpc);
        let answered = self.client()?.request_vote(request).await;
        let response = answered.map_err(|status| self.failed(&status))?.into_inner();
        let process = response.process;
        let voted = wire::to_voted(response).map_err(|e| NetworkError::new(&e))?;
        self.meetings
            .take(self.target, process, &voted.vote, None)
            .map_err(|status| self.failed(&status))?;
        Ok(voted)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let client = self.client()?;
        let last = snapshot.meta.last_log_id;
        let (cluster_id, process) = (self.roster.cluster_id(), self.meetings.process);
        let sent = tokio::select! {
            closed = cancel => return Err(closed.into()),
            sent = sending::send(client, cluster_id, process, vote, snapshot) => sent,
        };
        let taken = sent.and_then(|response| {
            let theirs = wire::to_vote(response.vote)?;
            let last = last.filter(|_| theirs == vote);
            self.meetings.take(self.target, response.process, &theirs, last)?;
            Ok(SnapshotResponse::new(theirs))
        });
        taken.map_err(|status| {
            self.failed(&status);
            Unreachable::new(&status).into()
        })
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("node {} was removed, or has no address for other nodes", node_name(*.0))]
struct Nowhere(u64);
