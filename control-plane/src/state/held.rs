//! Held requests: what waits at an edge for its release, and for how long it is remembered.

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::deadline::Due;
use super::name::{REASON_BYTES, clipped};
use super::{
    Actor, ApprovalId, ApprovalState, Claim, Done, Event, Millis, Minted, Refused, ReportedOutcome,
    State,
};

/// How long a request is remembered after its approval came to an end, its hold ended, or track of it was lost:
/// time for an edge to ask again, and for a late report.
const FORGOTTEN_AFTER_MS: Millis = 10 * 60 * 1000;

/// One concrete request at one edge process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldRequest {
    pub request_id: [u8; 16],
    /// None when the policy allows it.
    pub approval: Option<ApprovalId>,
    pub edge: String,
    pub incarnation: [u8; 16],
    pub agent: String,
    pub intent_digest: [u8; 32],
    pub request_digest: [u8; 32],
    pub policy_version: u64,
    pub rule: String,
    pub credentials: Vec<(String, u64)>,
    pub opened_at: Millis,
    pub hold_ms: u64,
    /// Set by a claim of this very request.
    pub claim: Option<Claim>,
    pub outcome: Option<ReportedOutcome>,
    /// Tokens that were minted for its release alone, by credential.
    #[serde(default)]
    pub tokens: Vec<(String, Minted)>,
}

impl State {
    /// The agent or the hold is gone. What was released already stays until its report: it may be on its way.
    pub(super) fn detach(
        &mut self,
        actor: &Actor,
        request_id: &[u8; 16],
        reason: &str,
    ) -> Result<Done, Refused> {
        let held = self.known_held(request_id)?;
        self.demand_edge(actor, &held.edge)?;
        let event = Event::Detached { request_id: *request_id };
        if held.claim.is_some() {
            return Ok(Done::unchanged(event));
        }
        let entry = held.entry("request.detach").with("reason", clipped(reason, REASON_BYTES));
        self.forget_held(request_id);
        Ok(Done::changed(event, entry))
    }

    pub(super) fn known_held(&self, request_id: &[u8; 16]) -> Result<&HeldRequest, Refused> {
        self.held.get(request_id).ok_or_else(|| {
            Refused::NotFound(format!(
                "request {} is not held any more: open it again",
                hex::encode(request_id)
            ))
        })
    }

    pub(super) fn hold(&mut self, held: HeldRequest) {
        self.forget_held(&held.request_id);
        let end = held.ends_at().saturating_add(FORGOTTEN_AFTER_MS);
        self.deadlines.set(Due::Held(held.request_id), end);
        if let Some(approval) = held.approval {
            self.attached.insert((approval, held.request_id));
        }
        self.held.insert(held.request_id, held);
    }

    pub(super) fn forget_held(&mut self, request_id: &[u8; 16]) {
        self.deadlines.clear(Due::Held(*request_id));
        if let Some(HeldRequest { approval: Some(approval), .. }) = self.held.remove(request_id) {
            self.attached.remove(&(approval, *request_id));
        }
    }

    /// The approval came to its end without these: they may still ask what happened, for a while.
    pub(super) fn release_waiting(&mut self, approval: ApprovalId) {
        let forgotten = self.log_time.saturating_add(FORGOTTEN_AFTER_MS);
        let waiting: Vec<_> =
            self.held_for(approval).filter(|h| h.claim.is_none()).map(|h| h.request_id).collect();
        for request_id in waiting {
            self.deadlines.bring_forward(Due::Held(request_id), forgotten);
        }
    }

    /// It was released and nobody knows what became of it: never carried out again by itself. False when something
    /// is known of it, or was said to be unknown before.
    pub(super) fn lose_track(&mut self, request_id: &[u8; 16]) -> bool {
        let Some(held) =
            self.held.get_mut(request_id).filter(|h| h.claim.is_some() && h.outcome.is_none())
        else {
            return false;
        };
        held.outcome = Some(ReportedOutcome::Unknown);
        let approval = held.approval;
        self.deadlines
            .set(Due::Held(*request_id), self.log_time.saturating_add(FORGOTTEN_AFTER_MS));
        if let Some(id) = approval {
            self.finish(id, ReportedOutcome::Unknown, 0);
        }
        true
    }

    /// What became of a released approval. One that was unknown may be told later.
    pub(super) fn finish(
        &mut self,
        id: ApprovalId,
        outcome: ReportedOutcome,
        status: u16,
    ) -> Option<ApprovalState> {
        let now = self.log_time;
        let approval = self.approvals.get_mut(&id)?;
        let was = approval.state;
        approval.state = match outcome {
            ReportedOutcome::Completed | ReportedOutcome::NotSent => ApprovalState::Completed,
            ReportedOutcome::Unknown => ApprovalState::Unknown,
        };
        approval.outcome = Some((outcome, status, now));
        approval.settled_at = Some(now);
        let state = approval.state;
        self.deadlines.clear(Due::Approval(id));
        if was == ApprovalState::Released {
            self.retain(id);
        }
        Some(state)
    }
}

impl HeldRequest {
    /// Log time after which its edge does not hold it any more.
    pub(super) fn ends_at(&self) -> Millis {
        self.opened_at.saturating_add(self.hold_ms)
    }

    pub(super) fn entry(&self, action: &str) -> Entry {
        Entry::new(action, hex::encode(self.request_id))
            .with("approval", self.approval.map(|id| id.to_string()).unwrap_or_default())
            .with("edge", &self.edge)
            .with("agent", &self.agent)
            .with("intent_digest", hex::encode(self.intent_digest))
            .with("request_digest", hex::encode(self.request_digest))
    }
}
