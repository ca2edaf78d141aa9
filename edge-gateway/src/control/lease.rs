//! Leased keys: for what the policy allows outright, a key is had once for a while. One request at a time asks for
//! it, it is renewed early, and it is used until its end even when the control plane cannot be reached.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard, Weak};
use std::time::Duration;

use countersign_gate::{lease_context, seal_info};
use countersign_proto::v1 as pb;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Opts};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::{Away, Control, Out, wire};
use crate::bundle::{Agent, Credential};
use crate::redact::Redactor;

/// An opened lease.
pub(crate) struct Leased {
    pub(crate) version: u64,
    pub(crate) sealed: countersign_gate::Digest,
    pub(crate) secret: Zeroizing<Vec<u8>>,
    /// Knows this key in answers; as it takes a while to make, it is made once.
    pub(crate) redactor: Redactor,
    /// Boot-time clock, milliseconds.
    renew_from: u64,
    ends: u64,
    /// When it was last handed out.
    used: AtomicU64,
}

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotLeased {
    Refused(String),
    /// Its issuer gives none right now.
    NoToken(String),
    Away(Away),
}

/// The leases of this edge, by credential id.
#[derive(Default)]
pub(super) struct Leases {
    by_credential: RwLock<HashMap<String, Line>>,
}

/// What is known of one credential's lease, and who waits for news of it.
#[derive(Default)]
struct Line {
    lease: Option<Arc<Leased>>,
    /// Boot-time clock: when it was last asked for, and for whom.
    asked: Option<(u64, String)>,
    refused: Option<(u64, NotLeased)>,
    news: Arc<Notify>,
}

/// Nobody asks again before this has passed.
const ASK_AGAIN_MS: u64 = 2_000;
/// A refusal is everybody's answer for so long.
const REFUSED_FOR_MS: u64 = 1_000;
/// How long a first request waits for its lease.
const PATIENCE_MS: u64 = 5_000;
/// After the loss of a session, first requests wait so long for the next one; then they are refused at once.
const BRIDGED_MS: u64 = 2_000;
/// No lease lasts longer, whatever was said of it.
const LONGEST: Duration = Duration::from_secs(60 * 60);

impl Control {
    /// A key for a credential that may be leased.
    ///
    /// # Errors
    /// [`NotLeased`], after a short wait for the control plane.
    pub(crate) async fn lease(
        &self,
        credential: &Credential,
        agent: &Agent,
    ) -> Result<Arc<Leased>, NotLeased> {
        let began = self.clock.boottime_ms();
        loop {
            let news = match self.look(credential, agent) {
                Look::Have(lease) => return Ok(lease),
                Look::Refused(why) => return Err(why),
                Look::Wait(news) => news,
            };
            let given_up = match self.away() {
                None => began.saturating_add(PATIENCE_MS),
                Some(Away::Unreachable) => self.freshness.lost_ms().saturating_add(BRIDGED_MS),
                Some(away) => return Err(NotLeased::Away(away)),
            };
            let left = given_up.saturating_sub(self.clock.boottime_ms());
            if left == 0 {
                return Err(NotLeased::Away(self.away().unwrap_or(Away::Unreachable)));
            }
            // Bounded, because news between the look and the wait would be missed.
            let pause = Duration::from_millis(left.min(50));
            let _ = tokio::time::timeout(pause, news.notified()).await;
        }
    }

    fn look(&self, credential: &Credential, agent: &Agent) -> Look {
        let now = self.clock.boottime_ms();
        let bundle_counts = self.freshness.bundle_counts();
        if let Some(lease) = self.leases.fresh(credential, now).filter(|_| bundle_counts) {
            return Look::Have(lease);
        }
        let mut lines = self.leases.lines();
        if !lines.contains_key(&credential.id) {
            lines.insert(credential.id.clone(), Line::default());
        }
        let Some(line) = lines.get_mut(&credential.id) else {
            return Look::Refused(NotLeased::Refused(String::new()));
        };
        let live = line.lease.clone().filter(|lease| {
            lease.version == credential.version && now < lease.ends && bundle_counts
        });
        if live.as_ref().is_none_or(|lease| now >= lease.renew_from) {
            let refused = line.refused.as_ref().filter(|(since, _)| now < since + REFUSED_FOR_MS);
            if let Some((_, why)) = refused
                && live.is_none()
            {
                return Look::Refused(why.clone());
            }
            let asked = line.asked.as_ref().is_some_and(|(asked, _)| now < asked + ASK_AGAIN_MS);
            if refused.is_none() && !asked {
                line.asked = Some((now, agent.id.clone()));
                // While it is away nothing is queued: whoever attaches asks for whatever is wanted then.
                if self.away().is_none() {
                    self.push(Out::Lease {
                        credential_id: credential.id.clone(),
                        agent_id: agent.id.clone(),
                    });
                }
            }
        }
        match live {
            None => Look::Wait(Arc::clone(&line.news)),
            Some(lease) => {
                lease.used.store(now, Ordering::Relaxed);
                Look::Have(lease)
            }
        }
    }

    pub(super) fn take_lease(&self, lease: pb::Lease, cluster: &str, edge: &str) {
        let Some(sealed) = lease.sealed.map(wire::sealed) else { return };
        let Ok(lease_id) = wire::id(&lease.lease_id) else { return };
        let info = seal_info(cluster, edge, &self.incarnation.id);
        let context = lease_context(&lease_id, &sealed.credential, sealed.version);
        let Ok(secret) = self.incarnation.open(&sealed, &info, &context) else {
            tracing::error!(credential = sealed.credential, "a lease that does not open");
            return;
        };
        let now = self.clock.boottime_ms();
        let ttl_ms = lease.ttl_ms.min(LONGEST.as_millis() as u64);
        // At a third of its time at the latest: so two thirds are left when the control plane goes away. Leases that
        // were had together are not renewed together.
        let renew_after = (ttl_ms as f64 / 3.0 * rand::random_range(0.8..1.0)) as u64;
        // A token that another one took the place of may still be worth something.
        let lines = self.leases.lines();
        let former = lines.get(&sealed.credential).and_then(|line| line.lease.clone());
        drop(lines);
        let former = former.filter(|former| now < former.ends && former.secret != secret);
        let known = std::iter::once(&secret).chain(former.iter().map(|former| &former.secret));
        let known: Vec<&[u8]> = known.map(|secret| secret.as_slice()).collect();
        let leased = Leased {
            version: sealed.version,
            sealed: sealed.digest(),
            redactor: Redactor::new(&known),
            secret,
            renew_from: now + renew_after,
            ends: now + ttl_ms,
            used: AtomicU64::new(now),
        };
        let mut lines = self.leases.lines();
        let Some(line) = lines.get_mut(&sealed.credential) else {
            tracing::warn!(credential = sealed.credential, "a lease that nobody asked for");
            return;
        };
        line.lease = Some(Arc::new(leased));
        line.asked = None;
        line.refused = None;
        line.news.notify_waiters();
        let live = lines.values().filter(|line| line.lease.is_some()).count();
        self.metrics.leases.set(live as i64);
    }
}

enum Look {
    Have(Arc<Leased>),
    Refused(NotLeased),
    Wait(Arc<Notify>),
}

impl Leases {
    /// To change them. A poisoned lock guards plain data that every writer leaves whole.
    fn lines(&self) -> RwLockWriteGuard<'_, HashMap<String, Line>> {
        self.by_credential.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease that needs neither to be asked for nor to be renewed.
    fn fresh(&self, credential: &Credential, now: u64) -> Option<Arc<Leased>> {
        let lines = self.by_credential.read().unwrap_or_else(PoisonError::into_inner);
        let lease = lines.get(&credential.id)?.lease.as_ref()?;
        let fresh = lease.version == credential.version && now < lease.renew_from;
        fresh.then(|| {
            lease.used.store(now, Ordering::Relaxed);
            Arc::clone(lease)
        })
    }

    /// What was asked for and has not come.
    pub(super) fn wanted(&self) -> Vec<(String, String)> {
        let lines = self.lines();
        let wanted = |(id, line): (&String, &Line)| {
            line.asked.as_ref().map(|(_, agent)| (id.clone(), agent.clone()))
        };
        lines.iter().filter_map(wanted).collect()
    }

    pub(super) fn refuse(&self, credential_id: &str, why: NotLeased, now_ms: u64) {
        if let Some(line) = self.lines().get_mut(credential_id) {
            line.refused = Some((now_ms, why));
            line.asked = None;
            line.news.notify_waiters();
        }
    }

    /// Drops what a newer bundle does not stand behind.
    pub(super) fn keep(&self, stands: impl Fn(&str, u64) -> bool) {
        let mut lines = self.lines();
        for (id, line) in lines.iter_mut() {
            if line.lease.as_ref().is_some_and(|lease| !stands(id, lease.version)) {
                line.lease = None;
            }
        }
        lines.retain(|_, line| line.lease.is_some() || line.asked.is_some());
    }

    pub(super) fn clear(&self) {
        self.lines().clear();
    }

    /// Milliseconds until the first of the leases that are in use ends. One that nobody used since it should have been
    /// renewed may end.
    fn remaining_ms(&self, now_ms: u64) -> Option<u64> {
        let lines = self.lines();
        let leases = lines.values().filter_map(|line| line.lease.as_ref());
        let in_use = |lease: &&Arc<Leased>| {
            let used = lease.used.load(Ordering::Relaxed);
            now_ms < lease.renew_from || used >= lease.renew_from
        };
        leases.filter(in_use).map(|lease| lease.ends.saturating_sub(now_ms)).min()
    }
}

/// How long leases still last, as a metric. There is none while there is no lease.
pub(super) struct Remaining {
    control: Weak<Control>,
    seconds: Gauge,
}

impl Remaining {
    pub(super) fn new(control: &Arc<Control>) -> anyhow::Result<Self> {
        let help = "Time until the first leased key in use ends, if the control plane renews none.";
        let seconds = Gauge::with_opts(Opts::new("countersign_lease_remaining_seconds", help))?;
        Ok(Self { control: Arc::downgrade(control), seconds })
    }
}

impl Collector for Remaining {
    fn desc(&self) -> Vec<&Desc> {
        self.seconds.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let control = self.control.upgrade();
        let left = control.and_then(|c| c.leases.remaining_ms(c.clock.boottime_ms()));
        let Some(left_ms) = left else { return Vec::new() };
        self.seconds.set(left_ms as f64 / 1_000.0);
        self.seconds.collect()
    }
}
