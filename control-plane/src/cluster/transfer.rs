//! Handing leadership over, so that a leader can be stopped or removed without anyone waiting for an election.
//!
//! A voter grants no vote while it believes in its leader, which is for as long as its lease after the last sign of
//! life. So the leader falls silent first: no proposals, no reads, no heartbeats. When the lease is over it tells the
//! successor to stand, which is sooner than anyone would by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_proto::v1;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::{Cluster, Unavailable};
use crate::state::node::node_name;

/// For the successor to get what this node has.
const LEVEL: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);
/// How often the successor is asked.
const ASKED: usize = 3;

/// While this is there, this node leads silently.
struct Silent<'a> {
    cluster: &'a Cluster,
}

impl<'a> Silent<'a> {
    fn begin(cluster: &'a Cluster) -> Option<Self> {
        let was: &AtomicBool = &cluster.inner.silent;
        (!was.swap(true, Ordering::SeqCst)).then_some(Self { cluster })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        self.cluster.inner.raft.runtime_config().heartbeat(true);
        self.cluster.inner.silent.store(false, Ordering::SeqCst);
    }
}

impl Cluster {
    /// Hands leadership to a voter, to the one that has most when none is named, and says which leads then. Nothing
    /// is committed or read meanwhile, for about as long as the longest election timeout. If the successor is not
    /// elected in time this node goes on, or whoever was elected instead does.
    ///
    /// # Errors
    /// When this node does not lead, there is no such voter, or it was not elected.
    pub async fn transfer(&self, to: Option<u64>) -> Result<u64, Unavailable> {
        let inner = &self.inner;
        let failed = |why: String| Unavailable(format!("leadership was not handed over: {why}"));
        if !self.is_leader() {
            return Err(failed(match self.leader() {
                Some(leader) => format!("node {} leads; ask it", node_name(leader)),
                None => "there is no leader".into(),
            }));
        }
        let successor = self.successor(to).ok_or_else(|| {
            failed(match to {
                Some(node) => format!("node {} is no other voter", node_name(node)),
                None => "there is no other voter".into(),
            })
        })?;
        let Some(_silent) = Silent::begin(self) else {
            return Err(failed("it is being handed over already".into()));
        };
        let level = timeout(LEVEL, self.leveled(successor)).await;
        level.map_err(|_| failed(format!("node {} is too far behind", node_name(successor))))?;

        inner.raft.runtime_config().heartbeat(false);
        sleep(inner.timing.election.end + inner.timing.heartbeat).await;
        let mut answer = Ok(());
        for _ in 0..ASKED {
            if self.leader() == Some(successor) {
                return Ok(successor);
            }
            answer = self.ask_to_stand(successor).await;
            let until = Instant::now() + inner.timing.election.start;
            while Instant::now() < until {
                match self.leader() {
                    Some(leader) if leader == successor => return Ok(successor),
                    _ => sleep(LOOK).await,
                }
            }
        }
        Err(failed(match (answer, self.leader()) {
            (_, Some(other)) if other != inner.node_id => {
                format!("node {} was elected instead", node_name(other))
            }
            (Err(status), _) => status.message().to_owned(),
            (Ok(()), _) => format!("node {} was not elected", node_name(successor)),
        }))
    }

    /// The leader's part of [`ClusterRpc::stand_for_election`](super::ClusterRpc::stand_for_election).
    async fn ask_to_stand(&self, successor: u64) -> Result<(), Status> {
        let unknown = || Status::unavailable("it has no address here");
        let mut client = self.inner.roster.client(successor).ok_or_else(unknown)?;
        let cluster_id = self.inner.roster.cluster_id();
        let asking = client.stand_for_election(v1::StandForElectionRequest { cluster_id });
        let asked = timeout(self.inner.timing.election.start, asking).await;
        asked.map_err(|_| Status::deadline_exceeded("it did not answer"))??;
        Ok(())
    }

    /// Stands for election because the leader asks for it.
    pub(super) async fn stand(&self, asked_by: u64) -> Result<(), Status> {
        if self.leader() != Some(asked_by) {
            return Err(Status::failed_precondition("only the leader hands over"));
        }
        let elected = self.inner.raft.trigger().elect().await;
        elected.map_err(|e| Status::unavailable(format!("Raft has stopped on this node: {e}")))
    }

    pub(super) fn is_silent(&self) -> bool {
        self.inner.silent.load(Ordering::SeqCst)
    }

    fn successor(&self, to: Option<u64>) -> Option<u64> {
        let others = self.members().into_iter().filter(|m| m.voter && m.id != self.inner.node_id);
        let candidates = others.filter(|m| to.is_none_or(|to| m.id == to));
        candidates.max_by_key(|m| m.matched).map(|m| m.id)
    }

    /// Returns once that node has every entry that this one has.
    async fn leveled(&self, node: u64) {
        loop {
            let last = self.inner.raft.metrics().borrow().last_log_index;
            let matched = self.members().into_iter().find(|m| m.id == node).and_then(|m| m.matched);
            if matched >= last {
                return;
            }
            sleep(LOOK).await;
        }
    }
}
