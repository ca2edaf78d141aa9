//! What the control plane says of an agent's own approvals, when the agent asks. Nothing follows from it here: what
//! releases a request is a signed decision about that request, and nothing else.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use countersign_proto::v1 as pb;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Away, Control, Link, Out, lock, wire};

/// An approval as its agent may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Approval {
    /// Lower-case hexadecimal.
    pub(crate) id: String,
    pub(crate) state: Standing,
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) rule: String,
    /// Why it was denied, cancelled or revoked; else empty.
    pub(crate) reason: String,
    /// Milliseconds since 1970.
    pub(crate) created_ms: u64,
    pub(crate) expires_ms: u64,
    /// HTTP status of the upstream's answer.
    pub(crate) status: Option<u16>,
}

/// How an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Approved,
    Cancelled,
    Completed,
    Denied,
    Expired,
    Pending,
    Released,
    Revoked,
    Unknown,
}

/// How much later than it was to be an answer may come.
const GRACE: Duration = Duration::from_secs(5);
/// A session that ends while somebody waits has so long to be followed by another.
const BRIDGED: Duration = Duration::from_secs(5);

/// Questions that are not answered yet. Each goes out again in every new session.
#[derive(Default)]
pub(super) struct Asks {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Ask>>,
}

struct Ask {
    agent_id: String,
    approval_id: Bytes,
    until: Instant,
    answer: oneshot::Sender<pb::ApprovalsAnswer>,
}

impl Asks {
    /// The question as it is to be sent now; nothing when nobody waits for its answer any more.
    pub(super) fn message(&self, ask_id: u64) -> Option<pb::AskApprovals> {
        let open = lock(&self.open);
        let ask = open.get(&ask_id)?;
        let wait = ask.until.saturating_duration_since(Instant::now());
        Some(pb::AskApprovals {
            ask_id,
            agent_id: ask.agent_id.clone(),
            approval_id: ask.approval_id.clone(),
            wait_ms: wait.as_millis().try_into().unwrap_or(u64::MAX),
        })
    }

    pub(super) fn open(&self) -> Vec<u64> {
        lock(&self.open).keys().copied().collect()
    }

    pub(super) fn answered(&self, answer: pb::ApprovalsAnswer) {
        let ask = lock(&self.open).remove(&answer.ask_id);
        if let Some(ask) = ask {
            // Whoever asked may have left meanwhile.
            let _ = ask.answer.send(answer);
        }
    }
}

/// Takes the question back when whoever asked it leaves.
struct Asked<'a> {
    asks: &'a Asks,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        lock(&self.asks.open).remove(&self.id);
    }
}

impl Control {
    /// The agent's own approvals: this one, once it is no longer pending or `wait` is over; or, without one, those that
    /// wait and those of the last hour. Nothing when there is none, and when it is another agent's.
    ///
    /// # Errors
    /// Why the control plane cannot be asked.
    pub(crate) async fn approvals(
        &self,
        agent_id: &str,
        approval: Option<[u8; 16]>,
        wait: Duration,
    ) -> Result<Vec<Approval>, Away> {
        self.attached().await?;
        let (sender, mut answer) = oneshot::channel();
        let id = self.asks.last.fetch_add(1, Ordering::Relaxed) + 1;
        let until = Instant::now() + wait;
        let approval_id = approval.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default();
        let ask = Ask { agent_id: agent_id.to_owned(), approval_id, until, answer: sender };
        lock(&self.asks.open).insert(id, ask);
        let _asked = Asked { asks: &self.asks, id };
        self.push(Out::Ask(id));
        let mut link = self.link.subscribe();
        loop {
            tokio::select! {
                answered = &mut answer => {
                    let answered = answered.ok().filter(|answered| !answered.unavailable);
                    let answered = answered.ok_or(Away::Unreachable)?;
                    return Ok(answered.approvals.into_iter().filter_map(wire::approval).collect());
                }
                () = sleep_until(until + GRACE) => {
                    return Err(self.away().unwrap_or(Away::Unreachable));
                }
                _ = link.wait_for(|link| *link != Link::Attached) => {}
            }
            // The session ended. Whichever follows is asked again, if it follows soon.
            let followed = timeout(BRIDGED, link.wait_for(|link| *link != Link::Down)).await;
            if !matches!(followed, Ok(Ok(link)) if *link == Link::Attached) {
                return Err(self.away().unwrap_or(Away::Unreachable));
            }
        }
    }
}
