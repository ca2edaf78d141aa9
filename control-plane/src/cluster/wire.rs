//! Raft's messages as protobuf. Entries travel as the log stores them: sealed.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{BasicNode, CommittedLeaderId, LeaderId, SnapshotMeta};
use tonic::Status;

use super::consensus::{
    Input, LogId, Malformed, Types, Vote, decode_entry, encode_entry, put_members,
};
use countersign_proto::v1;
use countersign_proto::v1::append_entries_response::Outcome;

impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Self {
        Self::invalid_argument(format!("the message was not read: {malformed}"))
    }
}

pub(super) fn to_log_id(id: v1::RaftLogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, id.node_id), id.index)
}

pub(super) fn from_log_id(id: LogId) -> v1::RaftLogId {
    v1::RaftLogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

pub(super) fn to_vote(vote: Option<v1::RaftVote>) -> Result<Vote, Malformed> {
    let v1::RaftVote { term, node_id, committed } = vote.ok_or(Malformed)?;
    Ok(Vote { leader_id: LeaderId::new(term, node_id), committed })
}

pub(super) fn from_vote(vote: Vote) -> v1::RaftVote {
    let LeaderId { term, node_id } = vote.leader_id;
    v1::RaftVote { term, node_id, committed: vote.committed }
}

pub(super) fn from_append(
    cluster_id: String,
    process: u64,
    request: &AppendEntriesRequest<Types>,
) -> v1::AppendEntriesRequest {
    v1::AppendEntriesRequest {
        cluster_id,
        vote: Some(from_vote(request.vote)),
        previous: request.prev_log_id.map(from_log_id),
        entries: request.entries.iter().map(|entry| encode_entry(entry).into()).collect(),
        leader_commit: request.leader_commit.map(from_log_id),
        process,
    }
}

pub(super) fn to_append(
    request: v1::AppendEntriesRequest,
) -> Result<AppendEntriesRequest<Types>, Malformed> {
    let entries = request.entries.iter().map(|entry| decode_entry(entry));
    Ok(AppendEntriesRequest {
        vote: to_vote(request.vote)?,
        prev_log_id: request.previous.map(to_log_id),
        entries: entries.collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.map(to_log_id),
    })
}

pub(super) fn from_appended(
    process: u64,
    response: AppendEntriesResponse<u64>,
) -> v1::AppendEntriesResponse {
    let outcome = match response {
        AppendEntriesResponse::PartialSuccess(Some(id)) => Outcome::PartialSuccess(from_log_id(id)),
        AppendEntriesResponse::Success => Outcome::Success(true),
        // Nothing of it fits: the leader goes back and sends more.
        AppendEntriesResponse::Conflict | AppendEntriesResponse::PartialSuccess(None) => {
            Outcome::Conflict(true)
        }
        AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(from_vote(vote)),
    };
    v1::AppendEntriesResponse { outcome: Some(outcome), process }
}

pub(super) fn to_appended(
    response: v1::AppendEntriesResponse,
) -> Result<AppendEntriesResponse<u64>, Malformed> {
    Ok(match response.outcome {
        Some(Outcome::PartialSuccess(id)) => {
            AppendEntriesResponse::PartialSuccess(Some(to_log_id(id)))
        }
        Some(Outcome::Success(true)) => AppendEntriesResponse::Success,
        Some(Outcome::Conflict(true)) => AppendEntriesResponse::Conflict,
        Some(Outcome::HigherVote(vote)) => AppendEntriesResponse::HigherVote(to_vote(Some(vote))?),
        None | Some(Outcome::Success(false) | Outcome::Conflict(false)) => return Err(Malformed),
    })
}

pub(super) fn from_vote_request(
    cluster_id: String,
    process: u64,
    request: &VoteRequest<u64>,
) -> v1::RequestVoteRequest {
    v1::RequestVoteRequest {
        cluster_id,
        vote: Some(from_vote(request.vote)),
        last_log: request.last_log_id.map(from_log_id),
        process,
    }
}

pub(super) fn to_vote_request(
    request: v1::RequestVoteRequest,
) -> Result<VoteRequest<u64>, Malformed> {
    Ok(VoteRequest::new(to_vote(request.vote)?, request.last_log.map(to_log_id)))
}

pub(super) fn from_voted(process: u64, response: &VoteResponse<u64>) -> v1::RequestVoteResponse {
    v1::RequestVoteResponse {
        vote: Some(from_vote(response.vote)),
        granted: response.vote_granted,
        last_log: response.last_log_id.map(from_log_id),
        process,
    }
}

pub(super) fn to_voted(response: v1::RequestVoteResponse) -> Result<VoteResponse<u64>, Malformed> {
    let last_log = response.last_log.map(to_log_id);
    Ok(VoteResponse::new(to_vote(response.vote)?, last_log, response.granted))
}

/// What every chunk of a snapshot says of the whole.
pub(super) fn from_meta(
    cluster_id: String,
    process: u64,
    vote: Vote,
    meta: &SnapshotMeta<u64, BasicNode>,
) -> v1::InstallSnapshotRequest {
    let mut membership = Vec::new();
    put_members(&mut membership, &meta.last_membership);
    v1::InstallSnapshotRequest {
        cluster_id,
        vote: Some(from_vote(vote)),
        snapshot_id: meta.snapshot_id.clone(),
        last_log: meta.last_log_id.map(from_log_id),
        membership: membership.into(),
        process,
        ..v1::InstallSnapshotRequest::default()
    }
}

pub(super) fn to_meta(
    chunk: &v1::InstallSnapshotRequest,
) -> Result<SnapshotMeta<u64, BasicNode>, Malformed> {
    let mut input = Input(&chunk.membership);
    let last_membership = input.members()?;
    input.finished()?;
    Ok(SnapshotMeta {
        last_log_id: chunk.last_log.map(to_log_id),
        last_membership,
        snapshot_id: chunk.snapshot_id.clone(),
    })
}
