//! Whom this process has met, which process of theirs it was, and what was seen of it.
//!
//! What is seen counts for the process that showed it and for those before: a process never goes back while it runs,
//! so what it says of itself is compared once. Later greetings of it may have been overtaken by what it acknowledged
//! since, and nothing that a process showed is remembered before that process was compared.

use std::collections::BTreeMap;

use countersign_proto::v1;

use super::consensus::LogId;
use super::marks::{Ballot, Marks, Shown};
use super::wire;
use crate::state::node::node_name;

pub(super) struct Acquaintances {
    pub(super) marks: Marks,
    met: BTreeMap<u64, Acquaintance>,
}

#[derive(Clone, Copy, Default)]
struct Acquaintance {
    met: Met,
    /// The process that had lost nothing when it was compared.
    process: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Met {
    #[default]
    NotYet,
    RolledBack,
    Well,
}

impl Acquaintances {
    pub(super) fn new(marks: Marks) -> Self {
        Self { marks, met: BTreeMap::new() }
    }

    pub(super) fn met(&self, node: u64) -> Met {
        self.met.get(&node).map_or(Met::NotYet, |known| known.met)
    }

    /// Whether it is this very process of the node that was compared.
    pub(super) fn knows(&self, node: u64, process: u64) -> bool {
        self.met.get(&node).is_some_and(|known| known.process == Some(process))
    }

    pub(super) fn forget(&mut self, node: u64) {
        self.met.entry(node).or_default().met = Met::NotYet;
    }

    /// Holds what a process shows against what was seen of its node.
    ///
    /// # Errors
    /// What its node came back without, for the node itself and for people.
    pub(super) fn compare(&mut self, node: u64, process: u64, shown: &Shown) -> Result<(), String> {
        let known = self.met.entry(node).or_default();
        if known.process == Some(process) {
            known.met = Met::Well;
            self.marks.saw(node, shown);
            return Ok(());
        }
        let Err(what) = self.marks.compare(node, shown) else {
            *known = Acquaintance { met: Met::Well, process: Some(process) };
            return Ok(());
        };
        let what = format!(
            "node {} {what}: its disk was put back to an earlier state; remove the node and add it anew",
            node_name(node)
        );
        if std::mem::replace(&mut known.met, Met::RolledBack) != Met::RolledBack {
            tracing::error!(what, "a node was rolled back, and is not listened to");
        }
        Err(what)
    }

    /// A process has a log up to `last` under the leader of this ballot. False when it was not compared, and nothing
    /// that it says counts.
    pub(super) fn reached(
        &mut self,
        node: u64,
        process: u64,
        leader: Ballot,
        last: Option<LogId>,
    ) -> bool {
        let known = self.knows(node, process);
        if known {
            self.marks.acknowledged(node, leader, last);
        }
        known
    }

    /// What was seen of everyone, for whoever has compared the same processes.
    pub(super) fn seen(&self) -> Vec<v1::SeenNode> {
        let well = self.met.iter().filter(|(_, known)| known.met == Met::Well);
        well.filter_map(|(node, known)| Some(self.marks.seen(*node, known.process?))).collect()
    }

    /// What another node has seen of others.
    pub(super) fn hear(&mut self, seen: &[v1::SeenNode]) {
        for one in seen {
            let (Ok(vote), true) = (wire::to_vote(one.vote), self.knows(one.node_id, one.process))
            else {
                continue;
            };
            let last = one.acknowledged.map(|last| (one.acknowledged_term, wire::to_log_id(last)));
            self.marks.heard_of(one.node_id, one.boot_counter, &vote, last);
        }
    }
}
