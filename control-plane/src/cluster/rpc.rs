//! What other nodes may ask of this one, and what is checked first.
//!
//! `from` is always who the transport has proven to be at the other end. A message that names its sender, by its
//! own field or by its vote, must name that node; and it must be of this cluster.

use countersign_proto::v1;
use futures::Stream;
use openraft::error::RaftError;
use tonic::Status;

use super::consensus::Vote;
use super::proposer::Failed;
use super::roster::Standing;
use super::{Cluster, Inner, wire};
use crate::state::node::node_name;

/// The node's side of `ClusterService`, without the transport. Clones are the same node.
#[derive(Clone)]
pub struct ClusterRpc {
    pub(super) cluster: Cluster,
}

impl ClusterRpc {
    /// How far the caller has come, against what this node remembers of it; and how far this node has come. Nothing
    /// else of Raft is answered before.
    ///
    /// # Errors
    /// `PermissionDenied` for whom this node does not listen to.
    pub async fn greet(
        &self,
        from: u64,
        request: v1::GreetRequest,
    ) -> Result<v1::GreetResponse, Status> {
        self.belongs(from, &request.cluster_id)?;
        same_sender(from, request.node_id)?;
        self.cluster.inner.meetings.greeted(from, &request)
    }

    /// Entries from a leader.
    ///
    /// # Errors
    /// `PermissionDenied` for whom this node does not listen to, `FailedPrecondition` for whom it has not met;
    /// `Unavailable` when Raft has stopped, or this node has not met everyone yet.
    pub async fn append_entries(
        &self,
        from: u64,
        request: v1::AppendEntriesRequest,
    ) -> Result<v1::AppendEntriesResponse, Status> {
        self.belongs(from, &request.cluster_id)?;
        let process = request.process;
        let request = wire::to_append(request)?;
        from_its_leader(from, &request.vote)?;
        // A leader sends nothing that is not on its own disk.
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let Inner { raft, meetings, .. } = self.cluster.inner.as_ref();
        meetings.take(from, process, &request.vote, last)?;
        let appended = raft.append_entries(request).await.map_err(stopped)?;
        Ok(wire::from_appended(meetings.process, appended))
    }

    /// A candidate's request for this node's vote.
    ///
    /// # Errors
    /// As [`append_entries`](Self::append_entries).
    pub async fn request_vote(
        &self,
        from: u64,
        request: v1::RequestVoteRequest,
    ) -> Result<v1::RequestVoteResponse, Status> {
        self.belongs(from, &request.cluster_id)?;
        let process = request.process;
        let request = wire::to_vote_request(request)?;
        same_sender(from, request.vote.leader_id.node_id)?;
        if request.vote.committed {
            return Err(Status::invalid_argument("a candidate was not elected yet"));
        }
        let Inner { raft, meetings, .. } = self.cluster.inner.as_ref();
        meetings.take(from, process, &request.vote, None)?;
        let voted = raft.vote(request).await.map_err(stopped)?;
        Ok(wire::from_voted(meetings.process, &voted))
    }

    /// A snapshot from a leader, in chunks; see [`snapshot_offset`](Self::snapshot_offset) for where they begin.
    ///
    /// # Errors
    /// As [`append_entries`](Self::append_entries); `Aborted` when the last chunk did not come, `DataLoss` when what
    /// came is not what was announced. Nothing was installed then.
    pub async fn install_snapshot(
        &self,
        from: u64,
        chunks: impl Stream<Item = Result<v1::InstallSnapshotRequest, Status>>,
    ) -> Result<v1::InstallSnapshotResponse, Status> {
        let inner = &self.cluster.inner;
        let admits = |chunk: &v1::InstallSnapshotRequest| {
            self.belongs(from, &chunk.cluster_id)?;
            let vote = wire::to_vote(chunk.vote)?;
            from_its_leader(from, &vote)?;
            inner.meetings.take(from, chunk.process, &vote, None)
        };
        let installed = inner.receiving.receive(from, &inner.raft, chunks, admits).await?;
        Ok(v1::InstallSnapshotResponse {
            vote: Some(wire::from_vote(installed.vote)),
            process: inner.meetings.process,
        })
    }

    /// How much of a snapshot has arrived from that node already.
    ///
    /// # Errors
    /// As [`append_entries`](Self::append_entries).
    pub async fn snapshot_offset(
        &self,
        from: u64,
        request: v1::SnapshotOffsetRequest,
    ) -> Result<v1::SnapshotOffsetResponse, Status> {
        self.raft(from, &request.cluster_id)?;
        let offset = self.cluster.inner.receiving.offset(from, &request.snapshot_id).await;
        Ok(v1::SnapshotOffsetResponse { offset })
    }

    /// Stands for election: the leader hands over.
    ///
    /// # Errors
    /// `FailedPrecondition` for anyone but the leader; as [`append_entries`](Self::append_entries).
    pub async fn stand_for_election(
        &self,
        from: u64,
        request: v1::StandForElectionRequest,
    ) -> Result<v1::StandForElectionResponse, Status> {
        self.raft(from, &request.cluster_id)?;
        self.cluster.stand(from).await?;
        Ok(v1::StandForElectionResponse {})
    }

    /// Whether `from` may ask for anything beside Raft.
    ///
    /// # Errors
    /// `PermissionDenied` unless it is a member or about to be, and speaks of this cluster.
    pub fn admit(&self, from: u64, cluster_id: &str) -> Result<(), Status> {
        self.cluster.inner.roster.admit(from, cluster_id)
    }

    /// Commits a follower's proposal.
    ///
    /// # Errors
    /// `Unavailable` when this node does not lead or the outcome is unknown; `InvalidArgument` for what is no
    /// proposal; as [`append_entries`](Self::append_entries).
    pub async fn forward_proposal(
        &self,
        from: u64,
        request: v1::ForwardProposalRequest,
    ) -> Result<v1::ForwardProposalResponse, Status> {
        self.admit(from, &request.cluster_id)?;
        self.cluster.commit_for(request).await
    }

    /// As far as the log is committed, once a majority has confirmed that this node leads.
    ///
    /// # Errors
    /// As [`forward_proposal`](Self::forward_proposal).
    pub async fn read_index(
        &self,
        from: u64,
        request: v1::ReadIndexRequest,
    ) -> Result<v1::ReadIndexResponse, Status> {
        self.admit(from, &request.cluster_id)?;
        let read = self.cluster.read_index_here().await.map_err(|failed| match failed {
            Failed::Again(why) | Failed::Stopped(why) => Status::unavailable(why),
        })?;
        Ok(v1::ReadIndexResponse { read_index: read.map(wire::from_log_id) })
    }

    fn raft(&self, from: u64, cluster_id: &str) -> Result<(), Status> {
        self.belongs(from, cluster_id)?;
        self.cluster.inner.meetings.check(from)
    }

    fn belongs(&self, from: u64, cluster_id: &str) -> Result<(), Status> {
        let inner = &self.cluster.inner;
        let admitted = inner.roster.admit_to_raft(from, cluster_id);
        if admitted.is_err() && inner.roster.standing(from) == Standing::Unknown {
            inner.meetings.who_is_that();
        }
        admitted
    }
}

/// Entries and snapshots come from a leader, and from nobody on its behalf.
fn from_its_leader(from: u64, vote: &Vote) -> Result<(), Status> {
    same_sender(from, vote.leader_id.node_id)?;
    if vote.committed {
        return Ok(());
    }
    Err(Status::invalid_argument("only a leader that was elected sends entries"))
}

fn same_sender(from: u64, named: u64) -> Result<(), Status> {
    if from == named {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "nothing was done: node {} speaks as node {}",
        node_name(from),
        node_name(named)
    )))
}

fn stopped(error: RaftError<u64>) -> Status {
    Status::unavailable(format!("Raft has stopped on this node: {error}"))
}
