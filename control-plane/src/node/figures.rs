//! What is scraped of this node.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::broadcast::error::RecvError;

use super::{Node, Unsealed};
use crate::operator;
use crate::state::node::node_name;
use crate::state::{ApprovalState, Event};
use crate::telemetry::Snapshot;

impl Node {
    /// The figures of this moment.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let Some(house) = self.unsealed() else {
            return Snapshot { sealed: true, ..Snapshot::default() };
        };
        let (pending, approved, held_requests) = house.cluster.peek(|state| {
            use ApprovalState::{Approved, Pending};
            let in_state = |wanted| state.approvals().filter(move |a| a.state == wanted);
            let held = in_state(Pending)
                .chain(in_state(Approved))
                .map(|a| state.held_for(a.id).count())
                .sum();
            (in_state(Pending).count(), in_state(Approved).count(), held)
        });
        let cluster = &house.cluster;
        let (members, own, commit_index) =
            (cluster.members(), cluster.node_id(), cluster.commit_index());
        // A leader that nobody follows any more does not know it.
        let led = house.out_of_touch().is_none();
        let voters = members.iter().filter(|member| member.voter).count();
        let others = members.iter().filter(|member| led && cluster.is_leader() && member.id != own);
        let peer_lag = others.map(|member| {
            let name = cluster.peek(|state| state.node(member.id).map(|node| node.name.clone()));
            let lag = commit_index.saturating_sub(member.matched.unwrap_or_default());
            (name.unwrap_or_else(|| node_name(member.id)), lag)
        });
        Snapshot {
            commit_index,
            led,
            learners: members.len() - voters,
            peer_lag: peer_lag.collect(),
            term: cluster.term(),
            unsealed_nodes: 1 + house.neighbours.load(Ordering::Relaxed),
            voters,
            applied_index: house.cluster.applied_index(),
            approved,
            edges_connected: house.connected_edges().len(),
            held_requests,
            leader: led && cluster.is_leader(),
            pending,
            sealed: false,
        }
    }
}

/// Counts the states that approvals reach, until the node is sealed.
pub(super) async fn count_approvals(node: Arc<Node>, house: Arc<Unsealed>) {
    let mut events = house.cluster.subscribe();
    loop {
        let event = tokio::select! {
            () = house.closing.cancelled() => return,
            event = events.recv() => event,
        };
        match event {
            Ok(event) => {
                if matches!(&**event, Event::Opened { joined: true, .. }) {
                    continue;
                }
                let reached = operator::changed_by(&event).into_iter().filter_map(|id| {
                    house.cluster.peek(|state| state.approval(id).map(|a| a.state))
                });
                for state in reached {
                    let name = operator::state_to_proto(state)
                        .as_str_name()
                        .trim_start_matches("APPROVAL_STATE_")
                        .to_lowercase();
                    node.metrics.approvals.with_label_values(&[name.as_str()]).inc();
                }
            }
            // Missed counts are lost: they are figures, not facts.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
