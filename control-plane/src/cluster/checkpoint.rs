//! Whether all nodes have the same history: the leader says now and then what it should have come to, and a node that
//! came to something else stops.
//!
//! What is compared is a fingerprint: of the chain over the log, so that an entry that was changed, lost or swapped
//! on one node shows; and of the audit log that applying it made, so that it shows when nodes made different things
//! of the same entries. A node cannot know whether it is itself that is wrong. It need not: of two that disagree,
//! the one that does not lead stops, a person sees it, and nothing is built on what may be false.

use std::collections::VecDeque;
use std::sync::Weak;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::log::Tip;
use super::proposer::Failed;
use super::{Cluster, Inner, encoded};
use crate::state::{Actor, Command, CommandId, State};

/// Entries from one fingerprint to the next.
const EVERY: u64 = 256;
/// Fingerprints that a node keeps: a checkpoint that was committed later than this many of them is not compared.
const KEPT: usize = 64;
/// How often the leader looks whether there is a fingerprint that was not said yet.
const LOOK: Duration = Duration::from_millis(250);
const DOMAIN: &[u8] = b"countersign/v1/checkpoint\0";

/// What this node came to, at every so many entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Fingerprints {
    /// Oldest first: an entry's index, and the fingerprint after it.
    kept: VecDeque<(u64, [u8; 32])>,
    /// The newest that was committed.
    said: u64,
}

impl Fingerprints {
    /// Called after each entry that is applied.
    pub(super) fn note(&mut self, tip: &Tip, state: &State) {
        if !tip.id.index.is_multiple_of(EVERY) {
            return;
        }
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(tip.chain.0);
        hash.update(state.audit().head());
        self.kept.push_back((tip.id.index, hash.finalize().into()));
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }

    /// Compares what was committed with what this node came to, if it still knows.
    ///
    /// # Errors
    /// What the node stops for.
    pub(super) fn compare(&mut self, index: u64, fingerprint: &[u8; 32]) -> Result<(), String> {
        self.said = self.said.max(index);
        let own = self.kept.iter().find(|(at, _)| *at == index);
        match own {
            Some((_, own)) if own != fingerprint => Err(format!(
                "this node came to something else than the cluster at entry {index}: one of the two was changed. \
                 Keep this node's data directory for whoever looks into it, remove the node from the cluster and add \
                 it anew; if several nodes say this, it is the leader that has to go"
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn said(&self) -> u64 {
        self.said
    }

    pub(super) fn newest(&self) -> Option<(u64, [u8; 32])> {
        self.kept.back().copied()
    }

    pub(super) fn unsaid(&self) -> Option<(u64, [u8; 32])> {
        self.newest().filter(|(index, _)| *index > self.said)
    }
}

/// Has the leader say what it came to.
pub(super) async fn run(cluster: Weak<Inner>, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let Some(inner) = cluster.upgrade() else { return };
        let cluster = Cluster { inner };
        let Some((index, chain)) = cluster.inner.view.unsaid() else { continue };
        if !cluster.is_leader() {
            continue;
        }
        let id = CommandId { client: rand::random(), serial: 0 };
        let checkpoint = Command::Checkpoint { index, chain };
        let Ok(checkpoint) = encoded(id, Actor::System, checkpoint) else { continue };
        // Here or nowhere: nobody who does not lead may say it.
        let said = tokio::select! {
            () = stop.cancelled() => return,
            said = cluster.commit_here(checkpoint) => said,
        };
        if let Err(Failed::Again(why) | Failed::Stopped(why)) = said {
            tracing::debug!(why, index, "what the log came to was not said; it is tried again");
        }
    }
}
