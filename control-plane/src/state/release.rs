//! Releases: the claim that lets one request out once, and the report of what became of it.

use super::audit::Entry;
use super::deadline::Due;
use super::name::joined;
use super::{
    Actor, ApprovalId, ApprovalState, Claim, Done, Event, GrantId, HeldRequest, Millis, Refused,
    ReportedOutcome, State, Vote,
};

/// The longest that an edge may act on a release.
const CLAIM_MS: Millis = 5 * 60 * 1000;
/// How long after that a report may take before the outcome counts as unknown.
const REPORT_MS: Millis = 2 * 60 * 1000;

impl State {
    /// The release event: at most one for each approval, and for a request that policy allows at most one for the
    /// request. The same request again gets the first claim, as long as an edge may act on it.
    pub(super) fn claim(
        &mut self,
        actor: &Actor,
        request_id: &[u8; 16],
        decision_id: &[u8; 16],
        policy_version: u64,
    ) -> Result<Done, Refused> {
        let now = self.log_time;
        let held = self.known_held(request_id)?;
        self.demand_edge(actor, &held.edge)?;
        self.demand_current_edge(&held.edge, &held.incarnation)?;
        if let Some(claim) = &held.claim {
            return claimed_before(held, claim, now);
        }
        self.demand_sound_clock()?;
        if let Some(id) = held.approval {
            self.demand_approved(id)?;
        }
        self.demand_policy(policy_version)?;
        if held.policy_version != policy_version {
            return Err(Refused::PolicyChanged);
        }
        self.demand_active_agent(&held.agent)?;
        for (id, version) in &held.credentials {
            self.demand_credential(id, *version)?;
        }
        if now >= held.ends_at() {
            return Err(Refused::Expired(
                "nothing was released: the edge does not hold the request any more".into(),
            ));
        }
        let claim = Claim {
            request_id: *request_id,
            decision_id: *decision_id,
            edge: held.edge.clone(),
            incarnation: held.incarnation,
            position: self.position,
            policy_version,
            at: now,
            expires_at: held.ends_at().min(now.saturating_add(CLAIM_MS)),
        };
        let mut entry = self.describe(held, &claim);
        let approval = held.approval;
        let rests_on = approval.and_then(|id| self.rest_on_grant(id));
        if let Some((grant, left)) = rests_on {
            entry = entry.with("grant", grant).with("grant_uses_left", left);
        }
        self.release(&claim, approval);
        // The last use of a grant is also the end of what else rests on it.
        let reopened = if rests_on.is_some() { self.reconsider() } else { Vec::new() };
        let event = Event::Claimed { request_id: *request_id, approval, claim, reopened };
        Ok(Done::changed(event, entry))
    }

    fn demand_approved(&self, id: ApprovalId) -> Result<(), Refused> {
        let approval = self.known_approval(id)?;
        match approval.state {
            ApprovalState::Approved if self.log_time >= approval.due => {
                Err(Refused::Expired("nothing was released: the approval was not used in time".into()))
            }
            ApprovalState::Approved if self.is_met(approval) => Ok(()),
            ApprovalState::Pending if crate::planted::planted(13) => Ok(()),
            ApprovalState::Approved => Err(Refused::Precondition(
                "nothing was released: somebody who approved may not any more, and another approval is needed".into(),
            )),
            ApprovalState::Pending => {
                Err(Refused::Precondition("nothing was released: the approval is still pending".into()))
            }
            ApprovalState::Expired => Err(Refused::Expired("nothing was released: the approval expired".into())),
            ApprovalState::Denied | ApprovalState::Cancelled | ApprovalState::Revoked => Err(Refused::Denied(
                format!("nothing was released: the approval is {}: {}", approval.state, approval.reason),
            )),
            _ if crate::planted::planted(2) => Ok(()),
            ApprovalState::Released | ApprovalState::Completed | ApprovalState::Unknown => Err(Refused::AlreadyUsed),
        }
    }

    /// The votes that were cast ahead count as this approval's own from here on: its decision says them, whatever
    /// becomes of the grant.
    fn rest_on_grant(&mut self, id: ApprovalId) -> Option<(GrantId, u32)> {
        let approval = self.approvals.get(&id)?;
        let own = |vote: &&Vote| approval.votes.iter().any(|v| v.principal == vote.principal);
        let ahead: Vec<Vote> =
            self.counted_approvals(approval).into_iter().filter(|v| !own(v)).cloned().collect();
        let (grant, left) = self.use_grant(id)?;
        let approval = self.approvals.get_mut(&id)?;
        let channel = format!("grant {grant}");
        approval
            .votes
            .extend(ahead.into_iter().map(|vote| Vote { channel: channel.clone(), ..vote }));
        Some((grant, left))
    }

    fn release(&mut self, claim: &Claim, approval: Option<ApprovalId>) {
        if let Some(held) = self.held.get_mut(&claim.request_id) {
            held.claim = Some(claim.clone());
        }
        let unknown_at = claim.expires_at.saturating_add(REPORT_MS);
        let Some(id) = approval else {
            return self.deadlines.set(Due::Held(claim.request_id), unknown_at);
        };
        // From here on the approval's deadline is the request's: both become unknown in the same step.
        self.deadlines.clear(Due::Held(claim.request_id));
        self.deadlines.set(Due::Approval(id), unknown_at);
        if let Some(approval) = self.approvals.get_mut(&id) {
            approval.state = ApprovalState::Released;
            approval.settled_at = Some(claim.at);
            approval.claim = Some(claim.clone());
        }
        self.count_pending(id);
        self.release_waiting(id);
    }

    /// The audit record of a release says all that made it one; it is committed in the same step.
    fn describe(&self, held: &HeldRequest, claim: &Claim) -> Entry {
        let approvers = held.approval.and_then(|id| self.approvals.get(&id)).map(|approval| {
            let counted = self.counted_approvals(approval);
            joined(counted.into_iter().map(|vote| vote.principal.clone()))
        });
        held.entry("request.claim")
            .with("decision", hex::encode(claim.decision_id))
            .with("approvers", approvers.unwrap_or_default())
            .with("rule", &held.rule)
            .with("policy_version", claim.policy_version)
            .with(
                "credentials",
                joined(held.credentials.iter().map(|(id, version)| format!("{id}@{version}"))),
            )
            .with("incarnation", hex::encode(claim.incarnation))
            .with("position", format_args!("{}.{}", claim.position.term, claim.position.index))
            .with("expires_at", claim.expires_at)
    }

    /// What the edge says became of a release. Not sent: certainly nothing left, and yet the claim stays used: the
    /// approval is completed with that outcome. What was unknown may be told later.
    pub(super) fn report(
        &mut self,
        actor: &Actor,
        request_id: &[u8; 16],
        outcome: ReportedOutcome,
        status: u16,
    ) -> Result<Done, Refused> {
        let held = self.known_held(request_id)?;
        self.demand_edge(actor, &held.edge)?;
        if held.claim.is_none() {
            return Err(Refused::Precondition(
                "the report was not taken: nothing was released to this request".into(),
            ));
        }
        let approval = held.approval;
        if outcome == ReportedOutcome::Unknown {
            let entry =
                held.entry("request.report").with("outcome", outcome).with("status", status);
            let news = self.lose_track(request_id);
            let state = approval.and_then(|id| self.approvals.get(&id)).map(|a| a.state);
            let event = Event::Reported { request_id: *request_id, approval, state };
            return Ok(if news { Done::changed(event, entry) } else { Done::unchanged(event) });
        }
        let entry = held.entry("request.report").with("outcome", outcome).with("status", status);
        let state = approval.and_then(|id| self.finish(id, outcome, status));
        self.forget_held(request_id);
        Ok(Done::changed(Event::Reported { request_id: *request_id, approval, state }, entry))
    }
}

fn claimed_before(held: &HeldRequest, claim: &Claim, now: Millis) -> Result<Done, Refused> {
    if held.outcome.is_some() {
        return Err(Refused::AlreadyUsed);
    }
    if now >= claim.expires_at {
        return Err(Refused::Expired(
            "nothing was released again: the time to act on the first release is over".into(),
        ));
    }
    let event = Event::Claimed {
        request_id: held.request_id,
        approval: held.approval,
        claim: claim.clone(),
        reopened: Vec::new(),
    };
    Ok(Done::unchanged(event))
}
