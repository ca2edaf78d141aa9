//! Who belongs to this cluster, where each is found, and whose messages count.
//!
//! A member is a node in the newest membership that this node's log has, committed or not; a pending one is in the
//! state and not removed, and waits to become a member. A node that was removed may still speak Raft until the
//! membership without it is there, because until then its vote is one of those that count; nothing else of it is
//! listened to. A node that has no membership yet, one that waits to be called, listens to whoever the transport has
//! found to be a node: whom to expect it learns from the first log that it is sent. And one that was away while nodes
//! joined has not heard of them, of which one may lead now: it believes a member whom it knows that they belong.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use openraft::{BasicNode, RaftMetrics};
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use super::consensus::LogId;
use super::machine::View;
use super::transport::Transport;
use crate::state::State;
use crate::state::node::node_name;

/// What a node knows of the others; one for all who send and all who receive.
pub(super) struct Roster {
    pub(super) node_id: u64,
    transport: Arc<dyn Transport>,
    view: View,
    cluster_id: RwLock<String>,
    metrics: OnceLock<watch::Receiver<Metrics>>,
    /// Nodes that a member said belong, and this node has not heard of.
    vouched_for: Mutex<BTreeSet<u64>>,
}

pub(super) type Metrics = RaftMetrics<u64, BasicNode>;

/// What a node is to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Member,
    /// In the membership still, and removed in the state.
    Leaving,
    Pending,
    Removed,
    Unknown,
}

impl Roster {
    pub(super) fn new(
        node_id: u64,
        transport: Arc<dyn Transport>,
        view: View,
        cluster_id: String,
    ) -> Self {
        let (cluster_id, metrics) = (RwLock::new(cluster_id), OnceLock::new());
        Self { node_id, transport, view, cluster_id, metrics, vouched_for: Mutex::default() }
    }

    /// From here on the membership is known.
    pub(super) fn follow(&self, metrics: watch::Receiver<Metrics>) {
        // Raft starts once.
        let _ = self.metrics.set(metrics);
    }

    pub(super) fn set_cluster_id(&self, id: &str) {
        id.clone_into(&mut self.cluster_id.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// As it was said, else as the state has it; empty before the cluster began.
    pub(super) fn cluster_id(&self) -> String {
        let said = self.cluster_id.read().unwrap_or_else(PoisonError::into_inner).clone();
        if said.is_empty() {
            let begun = |state: &State| state.genesis().map(|genesis| genesis.cluster_id.clone());
            return self.view.read(begun).unwrap_or_default();
        }
        said
    }

    /// A client for a node that is found somewhere and was not removed for good.
    pub(super) fn client(&self, node: u64) -> Option<ClusterServiceClient<Channel>> {
        self.channel(node).map(ClusterServiceClient::new)
    }

    pub(super) fn channel(&self, node: u64) -> Option<Channel> {
        if node == self.node_id || self.standing(node) == Standing::Removed {
            return None;
        }
        let stated = self.view.read(|state| state.node(node).map(|n| n.addresses.cluster.clone()));
        let address = stated.filter(|address| !address.is_empty()).or_else(|| {
            let metrics = self.metrics.get()?.borrow();
            let member = metrics.membership_config.membership().get_node(&node)?;
            Some(member.addr.clone()).filter(|address| !address.is_empty())
        })?;
        Some(self.transport.channel(node, &address))
    }

    /// The last entry that is applied here.
    pub(super) fn applied(&self) -> Option<LogId> {
        self.view.tip().map(|tip| tip.id)
    }

    /// Ids in the newest membership.
    pub(super) fn members(&self) -> Vec<u64> {
        let Some(metrics) = self.metrics.get() else { return Vec::new() };
        metrics.borrow().membership_config.nodes().map(|(id, _)| *id).collect()
    }

    /// Whether these nodes together could elect a leader.
    pub(super) fn can_elect(&self, is_there: impl Fn(u64) -> bool) -> bool {
        let Some(metrics) = self.metrics.get() else { return false };
        let metrics = metrics.borrow();
        let voters = metrics.membership_config.membership().get_joint_config();
        voters.iter().all(|set| set.iter().filter(|id| is_there(**id)).count() * 2 > set.len())
    }

    pub(super) fn standing(&self, node: u64) -> Standing {
        let removed = self.view.read(|state| state.node(node).map(|node| node.removed));
        match (self.members().contains(&node), removed) {
            (true, Some(true)) => Standing::Leaving,
            (true, _) => Standing::Member,
            (false, Some(true)) => Standing::Removed,
            (false, Some(false)) => Standing::Pending,
            (false, None) => Standing::Unknown,
        }
    }

    /// Whom this node listens to.
    pub(super) fn belonging(&self) -> Vec<u64> {
        let stated: Vec<_> = self
            .view
            .read(|state| state.nodes().filter(|node| !node.removed).map(|node| node.id).collect());
        let belonging: BTreeSet<_> = stated.into_iter().chain(self.members()).collect();
        belonging.into_iter().collect()
    }

    /// `by` says that these belong.
    pub(super) fn believe(&self, by: u64, belonging: &[u64]) {
        if self.standing(by) != Standing::Member {
            return;
        }
        let unknown = belonging.iter().filter(|id| self.standing(**id) == Standing::Unknown);
        let unknown: BTreeSet<_> = unknown.copied().collect();
        *self.vouched_for.lock().unwrap_or_else(PoisonError::into_inner) = unknown;
    }

    fn is_vouched_for(&self, node: u64) -> bool {
        self.vouched_for.lock().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }

    /// Whether `from` may speak Raft to this node.
    pub(super) fn admit_to_raft(&self, from: u64, cluster_id: &str) -> Result<(), Status> {
        self.same_cluster(cluster_id)?;
        match self.standing(from) {
            Standing::Member | Standing::Leaving | Standing::Pending => Ok(()),
            Standing::Unknown if self.members().is_empty() || self.is_vouched_for(from) => Ok(()),
            Standing::Removed | Standing::Unknown => Err(refusal(from)),
        }
    }

    /// Whether this node does anything else for `from`.
    pub(super) fn admit(&self, from: u64, cluster_id: &str) -> Result<(), Status> {
        self.same_cluster(cluster_id)?;
        match self.standing(from) {
            Standing::Member | Standing::Pending => Ok(()),
            Standing::Leaving | Standing::Removed | Standing::Unknown => Err(refusal(from)),
        }
    }

    fn same_cluster(&self, cluster_id: &str) -> Result<(), Status> {
        let own = self.cluster_id();
        if own.is_empty() || own == cluster_id {
            return Ok(());
        }
        Err(Status::permission_denied(
            "nothing was done: the message is of another cluster than this node's",
        ))
    }
}

fn refusal(from: u64) -> Status {
    Status::permission_denied(format!(
        "nothing was done: node {} is no member of this cluster, or was removed; add it anew",
        node_name(from)
    ))
}
