//! Shares that come one at a time, from people who are not in one room.

use super::{Share, ShareSet};
use crate::state::Millis;
use crate::vault::{SealError, ShareError, Unsealing};

/// Shares that were given and not used yet. It forgets them when ten minutes pass without another one. How often
/// somebody may try is its caller's to limit.
pub struct UnsealProgress {
    set: ShareSet,
    given: Vec<Share>,
    last: Millis,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub threshold: u8,
    pub have: u8,
    /// Numbers of the shares that were given, in their order.
    pub ids: Vec<u8>,
}

impl Progress {
    pub fn is_complete(&self) -> bool {
        self.have >= self.threshold
    }
}

impl UnsealProgress {
    /// Towards opening what is sealed with this set: that of [`SealParameters`](crate::vault::SealParameters) or
    /// of a [`Rekey`](crate::vault::Rekey).
    ///
    /// # Errors
    /// [`SealError::Damaged`] when there can be no such set.
    pub fn new(set: ShareSet) -> Result<Self, SealError> {
        set.checked()?;
        Ok(Self { set, given: Vec::new(), last: 0 })
    }

    /// Takes a share in. `now` is in milliseconds on any clock that is always the same.
    ///
    /// # Errors
    /// [`ShareError`], which names the share; those that were given before stay.
    pub fn submit(&mut self, share: Share, now: Millis) -> Result<Progress, ShareError> {
        self.forget_stale(now);
        self.set.check(&share)?;
        if self.given.iter().any(|given| given.id() == share.id()) {
            return Err(ShareError::AlreadyGiven(share.id()));
        }
        self.given.push(share);
        self.last = now;
        Ok(self.standing(now))
    }

    pub fn standing(&mut self, now: Millis) -> Progress {
        self.forget_stale(now);
        let mut ids: Vec<_> = self.given.iter().map(Share::id).collect();
        ids.sort_unstable();
        Progress { threshold: self.set.threshold(), have: ids.len() as u8, ids }
    }

    /// The shares, once they are enough; it starts again from none then.
    pub fn take(&mut self, now: Millis) -> Option<Unsealing> {
        let complete = self.standing(now).is_complete();
        complete.then(|| Unsealing::Shares(std::mem::take(&mut self.given)))
    }

    /// Forgets what was given.
    pub fn reset(&mut self) {
        self.given.clear();
    }

    fn forget_stale(&mut self, now: Millis) {
        if now.saturating_sub(self.last) >= PATIENCE {
            self.given.clear();
        }
    }
}

const PATIENCE: Millis = 10 * 60 * 1000;
