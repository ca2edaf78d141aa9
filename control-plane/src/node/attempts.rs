//! How often somebody may try, and what became of attempts to unseal while nothing could be recorded.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::cluster::{Clock as _, SystemClock};
use crate::state::Millis;
use crate::tls::write_private;

/// So many at once, and then one for each `every` that passes.
pub(crate) struct Allowance {
    most: u32,
    every: Duration,
    left: Mutex<(u32, Instant)>,
}

impl Allowance {
    pub(crate) fn new(most: u32, every: Duration) -> Self {
        Self { most, every, left: Mutex::new((most, Instant::now())) }
    }

    /// Takes one; how long to wait when there is none.
    pub(crate) fn take(&self) -> Result<(), Duration> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Result<(), Duration> {
        let mut guard = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = &mut *guard;
        let passed = now.saturating_duration_since(*since);
        let gained = u32::try_from(passed.as_millis() / self.every.as_millis().max(1));
        let gained = gained.unwrap_or(u32::MAX);
        if left.saturating_add(gained) >= self.most {
            (*left, *since) = (self.most, now);
        } else {
            (*left, *since) = (*left + gained, *since + self.every * gained);
        }
        if *left == 0 {
            return Err(self.every.saturating_sub(now.saturating_duration_since(*since)));
        }
        *left -= 1;
        Ok(())
    }
}

/// Attempts to unseal that failed since the node was sealed. They outlast a restart, and are recorded in the audit log
/// once there is one that can be written to.
pub(super) struct Attempts {
    path: PathBuf,
    failed: Mutex<Failed>,
}

/// Kept one by one up to so many; more are counted.
const KEPT: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Failed {
    pub(super) count: u64,
    pub(super) first: Vec<FailedAttempt>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FailedAttempt {
    /// By this node's clock.
    pub(super) at: Millis,
    pub(super) why: String,
}

impl Attempts {
    pub(super) fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join("seal-attempts.json");
        let failed = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} is damaged: move it aside, and tell whoever reads the audit log",
                    path.display()
                )
            })?,
            Err(e) if e.kind() == ErrorKind::NotFound => Failed::default(),
            Err(e) => return Err(e).with_context(|| format!("{} cannot be read", path.display())),
        };
        Ok(Self { path, failed: Mutex::new(failed) })
    }

    /// Notes one; `why` never holds what was presented.
    pub(super) fn failed(&self, why: String) {
        let mut failed = self.lock();
        failed.count += 1;
        if failed.first.len() < KEPT {
            failed.first.push(FailedAttempt { at: SystemClock.wall(), why });
        }
        let text = serde_json::to_vec(&*failed).unwrap_or_default();
        if let Err(error) = write_private(&self.path, &text) {
            tracing::error!(%error, path = %self.path.display(), "a failed attempt to unseal is noted in memory only");
        }
    }

    pub(super) fn so_far(&self) -> Failed {
        self.lock().clone()
    }

    /// These are on record now.
    pub(super) fn recorded(&self, recorded: &Failed) {
        let mut failed = self.lock();
        failed.count -= recorded.count.min(failed.count);
        let kept = recorded.first.len().min(failed.first.len());
        failed.first.drain(..kept);
        let written = if *failed == Failed::default() {
            match fs::remove_file(&self.path) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            }
        } else {
            write_private(&self.path, &serde_json::to_vec(&*failed).unwrap_or_default())
        };
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.path.display(), "attempts to unseal will be recorded twice");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_used_up_and_comes_back_one_by_one() {
        let allowance = Allowance::new(3, Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!([0, 0, 0].map(|s| allowance.take_at(at(s)).is_ok()), [true; 3]);
        assert!(allowance.take_at(at(4)).is_err_and(|wait| wait <= Duration::from_secs(6)));
        assert!(allowance.take_at(at(11)).is_ok());
        assert!(allowance.take_at(at(12)).is_err());
        // However long nobody tries, no more than at the beginning.
        assert_eq!([999; 4].map(|s| allowance.take_at(at(s)).is_ok()), [true, true, true, false]);
    }

    #[test]
    fn failed_attempts_outlast_a_restart_until_they_are_on_record() {
        let folder = tempfile::tempdir().unwrap();
        let attempts = Attempts::open(folder.path()).unwrap();
        for number in 0..KEPT + 2 {
            attempts.failed(format!("wrong share {number}"));
        }
        let attempts = Attempts::open(folder.path()).unwrap();
        let failed = attempts.so_far();
        assert_eq!((failed.count, failed.first.len()), (KEPT as u64 + 2, KEPT));
        assert_eq!(failed.first[1].why, "wrong share 1");
        attempts.failed("meanwhile".into());
        attempts.recorded(&failed);
        assert_eq!(Attempts::open(folder.path()).unwrap().so_far().count, 1);
        attempts.recorded(&attempts.so_far());
        assert!(!folder.path().join("seal-attempts.json").exists());
    }
}
