//! How often somebody may try, and what was tried at the seal while nothing could be recorded.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

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

/// What was tried at the seal and could not be recorded in the same step: while the node is sealed there is no audit
/// log, and whoever is unknown may not fill it as fast as they can call. They outlast a restart, and are recorded once
/// there is a log that can be written to.
pub(crate) struct Attempts {
    path: PathBuf,
    tried: Mutex<Attempted>,
    /// How many are kept one by one; the others are counted.
    one_by_one: Allowance,
    news: Notify,
}

/// Kept one by one up to so many; more are counted.
const KEPT: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attempted {
    pub(super) first: Vec<Attempt>,
    /// How many more there were, by action.
    pub(super) more: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attempt {
    /// By this node's clock.
    pub(super) at: Millis,
    /// As the audit log says it.
    pub(super) action: String,
    pub(super) what: String,
}

impl Attempts {
    pub(super) fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join("seal-attempts.json");
        let tried = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} is damaged: move it aside, and tell whoever reads the audit log",
                    path.display()
                )
            })?,
            Err(e) if e.kind() == ErrorKind::NotFound => Attempted::default(),
            Err(e) => return Err(e).with_context(|| format!("{} cannot be read", path.display())),
        };
        Ok(Self {
            path,
            tried: Mutex::new(tried),
            one_by_one: Allowance::new(KEPT as u32, Duration::from_secs(60)),
            news: Notify::new(),
        })
    }

    /// Notes one; `what` never holds what was presented.
    pub(crate) fn note(&self, action: &str, what: impl Into<String>) {
        let mut tried = self.lock();
        if tried.first.len() < KEPT && self.one_by_one.take().is_ok() {
            let (action, what) = (action.to_owned(), what.into().chars().take(500).collect());
            tried.first.push(Attempt { at: SystemClock.wall(), action, what });
            self.keep(&tried);
        } else {
            self.count_in(&mut tried, action);
        }
        self.news.notify_one();
    }

    /// Counts one that was turned away unheard.
    pub(crate) fn count(&self, action: &str) {
        self.count_in(&mut self.lock(), action);
        self.news.notify_one();
    }

    /// Before the process ends: the count is not always on disk.
    pub(super) fn save(&self) {
        self.keep(&self.lock());
    }

    /// Returns when there is something that is not on record; at once if there was when nobody waited.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    pub(super) fn so_far(&self) -> Attempted {
        self.lock().clone()
    }

    /// These are on record now.
    pub(super) fn recorded(&self, recorded: &Attempted) {
        let mut tried = self.lock();
        let kept = recorded.first.len().min(tried.first.len());
        tried.first.drain(..kept);
        for (action, times) in &recorded.more {
            if let Some(more) = tried.more.get_mut(action) {
                *more = more.saturating_sub(*times);
            }
        }
        tried.more.retain(|_, times| *times > 0);
        self.keep(&tried);
    }

    fn count_in(&self, tried: &mut Attempted, action: &str) {
        let times = tried.more.entry(action.to_owned()).or_default();
        *times += 1;
        // Whoever calls without end is not to write without end: a crash may cost half of the count.
        if times.is_power_of_two() {
            self.keep(tried);
        }
    }

    fn keep(&self, tried: &Attempted) {
        let kept = if *tried == Attempted::default() {
            match fs::remove_file(&self.path) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            }
        } else {
            write_private(&self.path, &serde_json::to_vec(tried).unwrap_or_default())
        };
        if let Err(error) = kept {
            tracing::error!(%error, path = %self.path.display(), "attempts at the seal are noted in memory only");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Attempted> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempted {
    /// How many there were of this action.
    pub(super) fn times(&self, action: &str) -> u64 {
        let first = self.first.iter().filter(|attempt| attempt.action == action).count();
        first as u64 + self.more.get(action).copied().unwrap_or_default()
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
    fn attempts_outlast_a_restart_until_they_are_on_record() {
        let folder = tempfile::tempdir().unwrap();
        let attempts = Attempts::open(folder.path()).unwrap();
        for number in 0..KEPT + 2 {
            attempts.note("seal.unseal_refused", format!("wrong share {number}"));
        }
        attempts.count("seal.unseal_throttled");
        let attempts = Attempts::open(folder.path()).unwrap();
        let tried = attempts.so_far();
        assert_eq!(
            (tried.times("seal.unseal_refused"), tried.first.len()),
            (KEPT as u64 + 2, KEPT)
        );
        assert_eq!(tried.times("seal.unseal_throttled"), 1);
        assert_eq!(tried.first[1].what, "wrong share 1");
        attempts.note("seal.unseal_refused", "meanwhile");
        attempts.recorded(&tried);
        let left = Attempts::open(folder.path()).unwrap().so_far();
        assert_eq!((left.times("seal.unseal_refused"), left.more.len()), (1, 1));
        attempts.recorded(&attempts.so_far());
        assert!(!folder.path().join("seal-attempts.json").exists());
    }

    #[test]
    fn what_comes_without_end_is_counted_and_takes_no_more_room() {
        let folder = tempfile::tempdir().unwrap();
        let attempts = Attempts::open(folder.path()).unwrap();
        for _ in 0..10_000 {
            attempts.note("seal.refused", "no token");
        }
        let tried = attempts.so_far();
        assert_eq!((tried.first.len(), tried.times("seal.refused")), (KEPT, 10_000));
        // What was recorded makes no room for as many again.
        attempts.recorded(&tried);
        attempts.note("seal.refused", "no token");
        assert_eq!(attempts.so_far().first.len(), 0);
    }
}
