//! Proposals and reads on any node: the leader does what only it can, and this node waits until it has it too.

use std::sync::atomic::Ordering;
use std::time::Duration;

use countersign_proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use zeroize::Zeroizing;

use super::barrier::Purpose;
use super::consensus::LogId;
use super::proposer::{Done, Encoded, Failed, Queued};
use super::{Cluster, Unavailable, wire};
use crate::state::{Actor, Command, CommandId, Outcome, Proposal};

/// For a proposal and for a read, through changes of the leader.
pub(super) const TO_COMMIT: Duration = Duration::from_secs(10);
pub(super) const TO_READ: Duration = Duration::from_secs(5);
/// Before the same is tried again.
const PAUSE: Duration = Duration::from_millis(50);

impl Cluster {
    /// Commits a proposal wherever the leader is, again and again under its one identity until `deadline`, and
    /// waits until it is applied here.
    pub(super) async fn commit(&self, encoded: Encoded) -> Result<Done, Unavailable> {
        let deadline = Instant::now() + TO_COMMIT;
        let mut why = String::from("there is no leader");
        loop {
            match timeout_at(deadline, self.commit_once(encoded.clone(), deadline)).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(Failed::Stopped(stopped))) => return Err(Unavailable(stopped)),
                Ok(Err(Failed::Again(again))) => why = again,
                Err(_elapsed) => return Err(Unavailable(why)),
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(Unavailable(why));
            }
            self.pause().await?;
        }
    }

    async fn commit_once(&self, encoded: Encoded, deadline: Instant) -> Result<Done, Failed> {
        self.not_rolled_back()?;
        match self.leader() {
            Some(leader) if leader == self.inner.node_id => self.commit_here(encoded).await,
            Some(leader) => {
                self.while_it_leads(leader, self.commit_at(leader, encoded, deadline)).await
            }
            None => Err(Failed::Again("there is no leader".into())),
        }
    }

    /// Commits a proposal if this node leads.
    pub(super) async fn commit_here(&self, encoded: Encoded) -> Result<Done, Failed> {
        self.takes_part()?;
        let stopped = || Failed::Stopped("this node is stopping".into());
        let (queued, answered) = Queued::new(encoded);
        self.inner.proposals.send(queued).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    async fn commit_at(
        &self,
        leader: u64,
        encoded: Encoded,
        deadline: Instant,
    ) -> Result<Done, Failed> {
        let inner = &self.inner;
        let again = |what: &str| Failed::Again(what.to_owned());
        let mut client =
            inner.roster.client(leader).ok_or_else(|| again("the leader has no address here"))?;
        let sealed = inner.barrier.seal(Purpose::Forward, encoded.bytes()).into();
        let cluster_id = inner.roster.cluster_id();
        let mut request = tonic::Request::new(v1::ForwardProposalRequest { cluster_id, sealed });
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let answer = client.forward_proposal(request).await;
        let answer = answer.map_err(|status| Failed::Again(status.message().to_owned()))?;
        let v1::ForwardProposalResponse { log_id, at_unix_ms, sealed } = answer.into_inner();
        let log_id =
            log_id.map(wire::to_log_id).ok_or_else(|| again("the leader gave no place"))?;
        self.applied_within(log_id.index, deadline).await.map_err(|e| Failed::Again(e.0))?;
        // Only now: the key that the leader sealed with may have come with an entry before this one.
        let outcome = self.opened::<Outcome>(&sealed).ok_or_else(|| {
            again("the leader's answer does not open with this cluster's keyring")
        })?;
        Ok((log_id, at_unix_ms, outcome))
    }

    /// The leader's part: `from` was checked before.
    pub(super) async fn commit_for(
        &self,
        request: v1::ForwardProposalRequest,
    ) -> Result<v1::ForwardProposalResponse, Status> {
        self.leads()?;
        let unread = || {
            Status::invalid_argument(
                "nothing was proposed: the proposal does not open with this cluster's keyring, or is none",
            )
        };
        // What every node will have to read is read here first, and written anew.
        let proposal: Proposal = self.opened(&request.sealed).ok_or_else(unread)?;
        if matches!(proposal.command, Command::Checkpoint { .. } | Command::SuspectClock { .. }) {
            return Err(Status::permission_denied(
                "nothing was proposed: what the log came to, and when, the leader says by itself",
            ));
        }
        let encoded = Encoded::new(&proposal).map_err(|_size| unread())?;
        let (log_id, at_unix_ms, outcome) =
            self.commit_here(encoded).await.map_err(|failed| match failed {
                Failed::Again(why) | Failed::Stopped(why) => Status::unavailable(why),
            })?;
        let mut answer = Zeroizing::new(Vec::new());
        ciborium::into_writer(&outcome, &mut *answer)
            .map_err(|e| Status::internal(format!("the outcome cannot be told: {e}")))?;
        Ok(v1::ForwardProposalResponse {
            log_id: Some(wire::from_log_id(log_id)),
            at_unix_ms,
            sealed: self.inner.barrier.seal(Purpose::Forward, &answer).into(),
        })
    }

    /// Returns once everything that anyone was told is committed is applied here.
    pub(super) async fn catch_up(&self) -> Result<(), Unavailable> {
        let deadline = Instant::now() + TO_READ;
        let mut why = String::from("there is no leader");
        loop {
            match timeout_at(deadline, self.read_index(deadline)).await {
                Ok(Ok(index)) => return self.applied_within(index, deadline).await,
                Ok(Err(Failed::Stopped(stopped))) => return Err(Unavailable(stopped)),
                Ok(Err(Failed::Again(again))) => why = again,
                Err(_elapsed) => return Err(Unavailable(why)),
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(Unavailable(why));
            }
            self.pause().await?;
        }
    }

    async fn read_index(&self, deadline: Instant) -> Result<u64, Failed> {
        self.not_rolled_back()?;
        let leader = self.leader().ok_or_else(|| Failed::Again("there is no leader".into()))?;
        let read = if leader == self.inner.node_id {
            self.read_index_here().await?
        } else {
            let asking = self.while_it_leads(leader, self.read_index_at(leader, deadline));
            self.inner.reads_elsewhere.join(asking).await?
        };
        Ok(read.map_or(0, |id| id.index))
    }

    async fn read_index_at(&self, leader: u64, deadline: Instant) -> Result<Option<LogId>, Failed> {
        let inner = &self.inner;
        let mut client = inner
            .roster
            .client(leader)
            .ok_or_else(|| Failed::Again("the leader has no address here".into()))?;
        let cluster_id = inner.roster.cluster_id();
        let mut request = tonic::Request::new(v1::ReadIndexRequest { cluster_id });
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let answer = client.read_index(request).await;
        let answer = answer.map_err(|status| Failed::Again(status.message().to_owned()))?;
        Ok(answer.into_inner().read_index.map(wire::to_log_id))
    }

    /// Nobody waits for a leader that was replaced: what it may still do, its successor is asked to do again.
    async fn while_it_leads<T>(
        &self,
        leader: u64,
        asking: impl Future<Output = Result<T, Failed>>,
    ) -> Result<T, Failed> {
        let mut metrics = self.inner.raft.metrics();
        let replaced = metrics.wait_for(|metrics| metrics.current_leader != Some(leader));
        tokio::select! {
            biased;
            answer = asking => answer,
            _ = replaced => Err(Failed::Again("another node leads now".into())),
        }
    }

    /// As far as the log is committed, if a majority still follows this node.
    pub(super) async fn read_index_here(&self) -> Result<Option<LogId>, Failed> {
        self.inner.reads_here.join(self.confirmed_read_index()).await
    }

    async fn confirmed_read_index(&self) -> Result<Option<LogId>, Failed> {
        self.takes_part()?;
        self.go_on_leading().await?;
        match self.inner.raft.get_read_log_id().await {
            Ok((read, _applied)) => Ok(read),
            Err(openraft::error::RaftError::Fatal(fatal)) => {
                Err(Failed::Stopped(fatal.to_string()))
            }
            Err(other) => Err(Failed::Again(other.to_string())),
        }
    }

    /// A leader that was started again goes on in its term, and Raft knows then only of some of what was committed
    /// before. Whatever is committed from here on lies behind all of that.
    async fn go_on_leading(&self) -> Result<(), Failed> {
        let resumed = self.inner.resumed.load(Ordering::SeqCst);
        if resumed == 0 || self.term() > resumed {
            return Ok(());
        }
        let id = CommandId { client: rand::random(), serial: 0 };
        let proposal = Proposal { id, actor: Actor::System, command: Command::Tick };
        let too_large = |_size| Failed::Again("nothing could be proposed".into());
        let _done = self.commit_here(Encoded::new(&proposal).map_err(too_large)?).await?;
        self.inner.resumed.store(0, Ordering::SeqCst);
        Ok(())
    }

    fn not_rolled_back(&self) -> Result<(), Failed> {
        self.rolled_back().map_or(Ok(()), |told| Err(Failed::Stopped(told)))
    }

    fn takes_part(&self) -> Result<(), Failed> {
        self.not_rolled_back()?;
        if self.is_silent() {
            return Err(Failed::Again("this node is handing leadership over".into()));
        }
        self.inner.meetings.absent().map_or(Ok(()), |why| Err(Failed::Again(why)))
    }

    pub(super) fn leads(&self) -> Result<(), Status> {
        if self.is_leader() {
            return Ok(());
        }
        Err(Status::unavailable("nothing was done: this node does not lead"))
    }

    pub(super) async fn applied_within(
        &self,
        index: u64,
        deadline: Instant,
    ) -> Result<(), Unavailable> {
        let stopped = self.inner.stop.cancelled();
        tokio::select! {
            applied = timeout_at(deadline, self.inner.view.applied(index)) => applied.map_err(|_| {
                Unavailable(format!(
                    "entry {index} is not applied here yet, only {}",
                    self.applied_index()
                ))
            }),
            () = stopped => Err(Unavailable("this node is stopping".into())),
        }
    }

    async fn pause(&self) -> Result<(), Unavailable> {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => Ok(()),
            () = self.inner.stop.cancelled() => Err(Unavailable("this node is stopping".into())),
        }
    }

    fn opened<T: serde::de::DeserializeOwned>(&self, sealed: &[u8]) -> Option<T> {
        let plaintext = self.inner.barrier.open(Purpose::Forward, sealed).ok()?;
        ciborium::from_reader(plaintext.as_slice()).ok()
    }
}
