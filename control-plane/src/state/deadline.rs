//! What falls due when, so that neither a tick nor asking for the next one walks the state.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{ApprovalId, GrantId, Millis};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Due {
    /// Expires, or, once released, becomes unknown.
    Approval(ApprovalId),
    /// Nobody has confirmed it.
    Change(u64),
    /// Counts no more.
    FormerEdgeCa,
    /// Counts no more, or was kept long enough.
    Grant(GrantId),
    /// Is forgotten, or, released without an approval, becomes unknown.
    Held([u8; 16]),
    /// People are told again.
    Nudge(ApprovalId),
    /// Codes that link accounts.
    Offers,
    /// Somebody who was away is back.
    Return,
}

/// At most one deadline for each thing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Deadlines {
    by_time: BTreeSet<(Millis, Due)>,
    of: BTreeMap<Due, Millis>,
}

impl Deadlines {
    pub(super) fn set(&mut self, due: Due, at: Millis) {
        self.clear(due);
        self.of.insert(due, at);
        self.by_time.insert((at, due));
    }

    pub(super) fn bring_forward(&mut self, due: Due, at: Millis) {
        let at = self.of.get(&due).map_or(at, |former| at.min(*former));
        self.set(due, at);
    }

    pub(super) fn clear(&mut self, due: Due) {
        if let Some(at) = self.of.remove(&due) {
            self.by_time.remove(&(at, due));
        }
    }

    pub(super) fn next(&self) -> Option<Millis> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out what is due by now, earliest first.
    pub(super) fn take_due(&mut self, now: Millis) -> Vec<Due> {
        let mut taken = Vec::new();
        while let Some(&(at, due)) = self.by_time.first()
            && at <= now
        {
            self.clear(due);
            taken.push(due);
        }
        taken
    }
}
