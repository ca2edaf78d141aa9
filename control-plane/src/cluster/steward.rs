//! Makes the membership what the state says it is: on the leader, one step after the other.
//!
//! A node that joined becomes a learner, and a voter once it has caught up; one that was removed leaves the membership
//! and is not kept as a learner. A leader that was removed hands over first and leaves the rest to the next one. No
//! step is taken after which the nodes that answer would not be a majority.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;

use openraft::{BasicNode, ChangeMembers};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::consensus::Membership;
use super::{Cluster, Inner};
use crate::state::node::node_name;

/// How often the membership is compared with the state.
const LOOK: Duration = Duration::from_millis(200);
/// For one step; what is not done then is looked at again.
const PATIENCE: Duration = Duration::from_secs(5);
/// A learner that lacks no more entries than this has caught up.
const LAG: u64 = 100;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Add(u64, String),
    /// Go on from the membership between two memberships to the second.
    Finish(BTreeSet<u64>),
    HandOver,
    Promote(u64),
    RemoveLearner(u64),
    RemoveVoter(u64),
}

/// What the steps are chosen by.
struct Situation<'a> {
    me: u64,
    membership: &'a Membership,
    /// By id: the address for other nodes, none for a node that was removed.
    stated: BTreeMap<u64, Option<String>>,
    /// Those that answered lately, and how much they lack.
    lag: BTreeMap<u64, u64>,
}

impl Situation<'_> {
    fn next(&self) -> Option<Step> {
        if let [_, second] = self.membership.get_joint_config().as_slice() {
            return Some(Step::Finish(second.clone()));
        }
        let voters: BTreeSet<u64> = self.membership.voter_ids().collect();
        let learners: BTreeSet<u64> = self.membership.learner_ids().collect();
        let removed = |id: &&u64| self.stated.get(*id) == Some(&None);
        if let Some(learner) = learners.iter().find(removed) {
            return Some(Step::RemoveLearner(*learner));
        }
        let without = |id| voters.iter().copied().filter(|voter| *voter != id).collect();
        for voter in voters.iter().filter(removed) {
            if self.has_majority(&without(*voter)) {
                let mine = *voter == self.me;
                return Some(if mine { Step::HandOver } else { Step::RemoveVoter(*voter) });
            }
        }
        for learner in &learners {
            let with: BTreeSet<u64> = voters.iter().copied().chain([*learner]).collect();
            if matches!(self.stated.get(learner), Some(Some(_)))
                && self.lag.get(learner).is_some_and(|lag| *lag <= LAG)
                && self.has_majority(&with)
            {
                return Some(Step::Promote(*learner));
            }
        }
        let new =
            self.stated.iter().filter(|(id, _)| !voters.contains(id) && !learners.contains(id));
        new.filter_map(|(id, address)| Some(Step::Add(*id, address.clone()?)))
            .find(|step| !matches!(step, Step::Add(_, address) if address.is_empty()))
    }

    fn has_majority(&self, voters: &BTreeSet<u64>) -> bool {
        let answering =
            voters.iter().filter(|id| **id == self.me || self.lag.contains_key(id)).count();
        answering * 2 > voters.len()
    }
}

/// Until told to stop.
pub(super) async fn run(cluster: Weak<Inner>, stop: CancellationToken) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let Some(inner) = cluster.upgrade() else { return };
        let cluster = Cluster { inner };
        if !cluster.is_leader() {
            cluster.stand_back_when_removed();
            continue;
        }
        if cluster.is_silent() || cluster.inner.meetings.absent().is_some() {
            continue;
        }
        let Some(step) = cluster.next_step() else { continue };
        tokio::select! {
            () = stop.cancelled() => return,
            () = cluster.take(step) => {}
        }
    }
}

impl Cluster {
    fn next_step(&self) -> Option<Step> {
        let stated = self.peek(|state| {
            let address =
                |node: &crate::state::Node| (!node.removed).then(|| node.addresses.cluster.clone());
            state.nodes().map(|node| (node.id, address(node))).collect()
        });
        let timing = &self.inner.timing;
        let lately = self.inner.meetings.heard_within(timing.election.end * 2);
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = |id: &u64| metrics.replication.as_ref()?.get(id).copied()?;
        let lag = |id: &u64| last.saturating_sub(matched(id).map_or(0, |matched| matched.index));
        let situation = Situation {
            me: self.inner.node_id,
            membership: metrics.membership_config.membership(),
            stated,
            lag: lately.into_iter().map(|id| (id, lag(&id))).collect(),
        };
        situation.next()
    }

    async fn take(&self, step: Step) {
        let one = |id: u64| BTreeSet::from([id]);
        let changes = match &step {
            Step::Add(id, address) => {
                ChangeMembers::AddNodes(BTreeMap::from([(*id, BasicNode::new(address))]))
            }
            Step::Finish(voters) => ChangeMembers::ReplaceAllVoters(voters.clone()),
            Step::Promote(id) => ChangeMembers::AddVoterIds(one(*id)),
            Step::RemoveLearner(id) => ChangeMembers::RemoveNodes(one(*id)),
            Step::RemoveVoter(id) => ChangeMembers::RemoveVoters(one(*id)),
            Step::HandOver => {
                match self.transfer(None).await {
                    Ok(to) => tracing::info!(
                        to = node_name(to),
                        "this node was removed and leads no more"
                    ),
                    Err(error) => tracing::warn!(%error, "this node was removed and leads still"),
                }
                return;
            }
        };
        match timeout(PATIENCE, self.inner.raft.change_membership(changes, false)).await {
            Ok(Ok(_)) => tracing::info!(?step, "the membership changed"),
            Ok(Err(error)) => tracing::warn!(?step, %error, "the membership did not change"),
            Err(_) => tracing::warn!(?step, "no majority has confirmed the membership yet"),
        }
    }

    /// One that was removed cannot win, and must not disturb those who go on.
    fn stand_back_when_removed(&self) {
        let id = self.inner.node_id;
        if self.peek(|state| state.node(id).is_some_and(|node| node.removed)) {
            self.inner.raft.runtime_config().elect(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(configs: &[&[u64]], nodes: &[u64]) -> Membership {
        let configs = configs.iter().map(|config| config.iter().copied().collect()).collect();
        let nodes: BTreeMap<_, _> = nodes.iter().map(|id| (*id, BasicNode::default())).collect();
        Membership::new(configs, nodes)
    }

    /// Node 1 leads; removed nodes are negative.
    fn next(membership: &Membership, stated: &[i64], lag: &[(u64, u64)]) -> Option<Step> {
        let stated = stated
            .iter()
            .map(|id| (id.unsigned_abs(), (*id > 0).then(|| format!("host-{id}:9443"))));
        let (stated, lag) = (stated.collect(), lag.iter().copied().collect());
        Situation { me: 1, membership, stated, lag }.next()
    }

    #[test]
    fn a_node_that_joined_is_added_and_promoted_once_it_has_caught_up() {
        let alone = membership(&[&[1]], &[1]);
        assert_eq!(next(&alone, &[1, 2], &[]), Some(Step::Add(2, "host-2:9443".into())));
        let learns = membership(&[&[1]], &[1, 2]);
        assert_eq!(next(&learns, &[1, 2], &[]), None, "it does not answer");
        assert_eq!(next(&learns, &[1, 2], &[(2, LAG + 1)]), None, "it lags");
        assert_eq!(next(&learns, &[1, 2], &[(2, LAG)]), Some(Step::Promote(2)));
        let votes = membership(&[&[1, 2]], &[1, 2]);
        assert_eq!(next(&votes, &[1, 2], &[(2, 0)]), None);
        assert_eq!(next(&alone, &[], &[]), None, "before the state knows any node");
    }

    #[test]
    fn a_node_that_was_removed_leaves_and_a_leader_hands_over_first() {
        let three = membership(&[&[1, 2, 3]], &[1, 2, 3]);
        let all = [(2, 0), (3, 0)];
        assert_eq!(next(&three, &[1, 2, -3], &all), Some(Step::RemoveVoter(3)));
        assert_eq!(next(&three, &[1, 2, -3], &[(2, 0)]), Some(Step::RemoveVoter(3)), "it is dead");
        assert_eq!(next(&three, &[1, 2, -3], &[(3, 0)]), None, "too few would be left");
        assert_eq!(next(&three, &[-1, 2, 3], &all), Some(Step::HandOver));
        let learns = membership(&[&[1]], &[1, 2]);
        assert_eq!(next(&learns, &[1, -2], &[(2, 0)]), Some(Step::RemoveLearner(2)));
        assert_eq!(next(&learns, &[-1, 2], &[(2, 0)]), Some(Step::Promote(2)));
    }

    #[test]
    fn a_change_that_was_begun_is_finished_before_another() {
        let between = membership(&[&[1, 2, 3], &[1, 2]], &[1, 2, 3]);
        let second = BTreeSet::from([1, 2]);
        assert_eq!(next(&between, &[1, 2, 3, 4], &[]), Some(Step::Finish(second)));
    }

    #[test]
    fn a_voter_is_not_added_when_too_few_would_answer() {
        let two_of_three = membership(&[&[1, 2, 3]], &[1, 2, 3, 4]);
        assert_eq!(next(&two_of_three, &[1, 2, 3, 4], &[(4, 0)]), None);
        assert_eq!(next(&two_of_three, &[1, 2, 3, 4], &[(2, 0), (4, 0)]), Some(Step::Promote(4)));
    }
}
