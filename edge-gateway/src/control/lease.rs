//! Leased keys: for what the policy allows outright, a key is had once for a while. One request at a time asks for
//! it, it is renewed early, and it is used until its end even when the control plane cannot be reached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_gate::{lease_context, seal_info};
use countersign_proto::v1 as pb;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::{Control, Link, Out, lock, wire};
use crate::bundle::{Agent, Credential};
use crate::clock;
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
}

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotLeased {
    Refused(String),
    Unreachable(Link),
}

/// The leases of this edge, by credential id.
#[derive(Default)]
pub(super) struct Leases {
    by_credential: Mutex<HashMap<String, Line>>,
}

/// What is known of one credential's lease, and who waits for news of it.
#[derive(Default)]
struct Line {
    lease: Option<Arc<Leased>>,
    /// Boot-time clock: when it was last asked for, and for whom.
    asked: Option<(u64, String)>,
    refused: Option<(u64, String)>,
    news: Arc<Notify>,
}

/// Nobody asks again before this has passed.
const ASK_AGAIN_MS: u64 = 2_000;
/// A refusal is everybody's answer for so long.
const REFUSED_FOR_MS: u64 = 1_000;

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
        let patience = match self.link() {
            Link::Attached => Duration::from_secs(5),
            Link::Down | Link::Sealed => Duration::from_secs(2),
        };
        let given_up = clock::boottime_ms() + patience.as_millis() as u64;
        loop {
            let news = match self.look(credential, agent) {
                Look::Have(lease) => return Ok(lease),
                Look::Refused(detail) => return Err(NotLeased::Refused(detail)),
                Look::Wait(news) => news,
            };
            let left = given_up.saturating_sub(clock::boottime_ms());
            if left == 0 {
                return Err(NotLeased::Unreachable(self.link()));
            }
            // Bounded, because news between the look and the wait would be missed.
            let pause = Duration::from_millis(left.min(50));
            let _ = tokio::time::timeout(pause, news.notified()).await;
        }
    }

    fn look(&self, credential: &Credential, agent: &Agent) -> Look {
        let now = clock::boottime_ms();
        let mut lines = lock(&self.leases.by_credential);
        if !lines.contains_key(&credential.id) {
            lines.insert(credential.id.clone(), Line::default());
        }
        let Some(line) = lines.get_mut(&credential.id) else { return Look::Refused(String::new()) };
        let live = line
            .lease
            .clone()
            .filter(|lease| lease.version == credential.version && now < lease.ends);
        if live.as_ref().is_none_or(|lease| now >= lease.renew_from) {
            if live.is_none()
                && let Some((since, detail)) = &line.refused
            {
                if now < since + REFUSED_FOR_MS {
                    return Look::Refused(detail.clone());
                }
                line.refused = None;
            }
            if line.asked.as_ref().is_none_or(|(asked, _)| now >= asked + ASK_AGAIN_MS) {
                line.asked = Some((now, agent.id.clone()));
                self.push(Out::Lease {
                    credential_id: credential.id.clone(),
                    agent_id: agent.id.clone(),
                });
            }
        }
        live.map_or_else(|| Look::Wait(Arc::clone(&line.news)), Look::Have)
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
        let now = clock::boottime_ms();
        let leased = Leased {
            version: sealed.version,
            sealed: sealed.digest(),
            redactor: Redactor::new(&[secret.as_slice()]),
            secret,
            renew_from: now + lease.ttl_ms / 3,
            ends: now + lease.ttl_ms,
        };
        let mut lines = lock(&self.leases.by_credential);
        let line = lines.entry(sealed.credential).or_default();
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
    Refused(String),
    Wait(Arc<Notify>),
}

impl Leases {
    /// What was asked for and has not come.
    pub(super) fn wanted(&self) -> Vec<(String, String)> {
        let lines = lock(&self.by_credential);
        let wanted = |(id, line): (&String, &Line)| {
            line.asked.as_ref().map(|(_, agent)| (id.clone(), agent.clone()))
        };
        lines.iter().filter_map(wanted).collect()
    }

    pub(super) fn refuse(&self, credential_id: &str, detail: String) {
        if let Some(line) = lock(&self.by_credential).get_mut(credential_id) {
            line.refused = Some((clock::boottime_ms(), detail));
            line.asked = None;
            line.news.notify_waiters();
        }
    }

    /// Drops what a newer bundle does not stand behind.
    pub(super) fn keep(&self, stands: impl Fn(&str, u64) -> bool) {
        let mut lines = lock(&self.by_credential);
        for (id, line) in lines.iter_mut() {
            if line.lease.as_ref().is_some_and(|lease| !stands(id, lease.version)) {
                line.lease = None;
            }
        }
        lines.retain(|_, line| line.lease.is_some() || line.asked.is_some());
    }

    pub(super) fn clear(&self) {
        lock(&self.by_credential).clear();
    }
}
