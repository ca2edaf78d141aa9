//! An approval's life: pending, votes, at most one claim, an outcome.

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::deadline::Due;
use super::name::{REASON_BYTES, clipped};
use super::{
    Actor, Done, Event, Millis, Position, Principal, Refused, ReportedOutcome, Role, State,
};

/// Approvals that came to an end and are kept: the newest of them.
const KEPT: usize = 20_000;
/// Of those, how many keep the bytes of the body that people were shown.
const PREVIEWS_KEPT: usize = 1_000;

/// 128 random bits, chosen by intake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ApprovalId(pub [u8; 16]);

impl std::fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for ApprovalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ApprovalState {
    Pending,
    Approved,
    Denied,
    Expired,
    Cancelled,
    /// Policy took it back.
    Revoked,
    Released,
    Completed,
    /// Released, and nobody knows whether it arrived. Never carried out again by itself.
    Unknown,
}

impl ApprovalState {
    /// Neither votes nor claims change it any more (a report may still follow a release).
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending | Self::Approved)
    }
}

/// So many distinct principals of those named; "*" is whoever has the approver role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    pub rule: String,
    pub approvers: Vec<String>,
    pub quorum: u32,
}

/// What people are shown: made from the frozen bytes, never from what an agent says about them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    pub intent_digest: [u8; 32],
    pub method: String,
    pub scheme: String,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub query: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body_bytes: u64,
    pub body_sha256: [u8; 32],
    /// At most 16 KiB of the body; dropped when a thousand younger approvals have come to an end.
    #[serde(with = "serde_bytes")]
    pub body_preview: Vec<u8>,
    pub uninspectable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VoteWord {
    Approve,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    pub principal: String,
    pub word: VoteWord,
    pub channel: String,
    pub reason: String,
    pub at: Millis,
    /// Its principal was removed after voting: it counts no more, even if the name comes back.
    pub withdrawn: bool,
}

/// The release event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub request_id: [u8; 16],
    pub decision_id: [u8; 16],
    pub edge: String,
    pub incarnation: [u8; 16],
    pub position: Position,
    pub policy_version: u64,
    pub at: Millis,
    /// Log time after which no edge acts on it.
    pub expires_at: Millis,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Approval {
    pub id: ApprovalId,
    pub state: ApprovalState,
    pub agent: String,
    pub rule: String,
    pub policy_version: u64,
    pub requirements: Vec<Requirement>,
    pub credentials: Vec<(String, u64)>,
    pub shown: Shown,
    pub created_at: Millis,
    /// Until when it can be voted on, and, once approved, used.
    pub due: Millis,
    pub unused_ms: u64,
    pub votes: Vec<Vote>,
    pub claim: Option<Claim>,
    pub outcome: Option<(ReportedOutcome, u16, Millis)>,
    /// Why it was denied, cancelled or revoked.
    pub reason: String,
    /// When it reached the terminal state that it is in.
    pub settled_at: Option<Millis>,
    pub traceparent: String,
}

impl State {
    pub(super) fn cancel(
        &mut self,
        actor: &Actor,
        id: ApprovalId,
        reason: &str,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin, Role::Approver])?;
        self.withdraw(id, ApprovalState::Cancelled, "approval.cancel", reason)
    }

    pub(super) fn revoke(
        &mut self,
        actor: &Actor,
        id: ApprovalId,
        reason: &str,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        self.withdraw(id, ApprovalState::Revoked, "approval.revoke", reason)
    }

    fn withdraw(
        &mut self,
        id: ApprovalId,
        to: ApprovalState,
        action: &str,
        reason: &str,
    ) -> Result<Done, Refused> {
        let approval = self.known_approval(id)?;
        let event = Event::Settled { approval: id, state: to };
        if approval.state == to {
            return Ok(Done::unchanged(event));
        }
        if approval.state.is_terminal() {
            return Err(Refused::Precondition(format!(
                "nothing was taken back: approval {id} is {} already",
                approval.state
            )));
        }
        let reason = clipped(reason, REASON_BYTES);
        let entry = Entry::new(action, id)
            .with("intent_digest", hex::encode(approval.shown.intent_digest))
            .with("reason", &reason);
        self.settle(id, to, reason);
        Ok(Done::changed(event, entry))
    }

    pub(super) fn known_approval(&self, id: ApprovalId) -> Result<&Approval, Refused> {
        self.approvals.get(&id).ok_or_else(|| {
            Refused::NotFound(format!(
                "there is no approval {id}: list the approvals to see those that are kept"
            ))
        })
    }

    /// Every requirement has enough votes of people who may still cast them, at this very place in the log.
    pub(super) fn is_met(&self, approval: &Approval) -> bool {
        !approval.requirements.is_empty()
            && approval.requirements.iter().all(|requirement| {
                let counted =
                    self.counted_approvals(approval).filter(|p| requirement.names(p)).count();
                counted >= requirement.quorum as usize
            })
    }

    /// Who approved it and counts: active approvers that a requirement names, never the agent's owner.
    pub(super) fn counted_approvals<'a>(
        &'a self,
        approval: &'a Approval,
    ) -> impl Iterator<Item = &'a Principal> {
        approval
            .votes
            .iter()
            .filter(|vote| vote.word == VoteWord::Approve && !vote.withdrawn)
            .filter_map(|vote| self.principals.get(&vote.principal))
            .filter(|p| self.may_approve(p, approval))
    }

    /// Why nobody could ever meet these requirements, if that is so.
    pub(super) fn impossible(&self, agent: &str, requirements: &[Requirement]) -> Option<String> {
        requirements.iter().find_map(|requirement| {
            let able = self
                .principals
                .values()
                .filter(|p| p.is_approver() && requirement.names(p) && !self.owns(p, agent))
                .count();
            (able < requirement.quorum as usize).then(|| {
                format!(
                    "nobody can approve: rule \"{}\" asks for {} of {}, and {able} active approvers qualify; \
                     the agent's owner does not count",
                    requirement.rule,
                    requirement.quorum,
                    requirement.approvers.join(", "),
                )
            })
        })
    }

    pub(super) fn may_approve(&self, principal: &Principal, approval: &Approval) -> bool {
        principal.is_approver()
            && approval.requirements.iter().any(|requirement| requirement.names(principal))
            && !self.owns(principal, &approval.agent)
    }

    pub(super) fn owns(&self, principal: &Principal, agent: &str) -> bool {
        self.agents.get(agent).and_then(|a| a.owner.as_ref()) == Some(&principal.name)
    }

    /// Withdraws a removed principal's votes from what is still open; says which approvals need others now.
    pub(super) fn withdraw_votes(&mut self, principal: &str) -> Vec<ApprovalId> {
        let mut voted = Vec::new();
        for approval in self.approvals.values_mut().filter(|a| !a.state.is_terminal()) {
            for vote in approval.votes.iter_mut().filter(|vote| vote.principal == principal) {
                vote.withdrawn = true;
                voted.push(approval.id);
            }
        }
        voted.retain(|id| {
            self.approvals
                .get(id)
                .is_some_and(|a| a.state == ApprovalState::Approved && !self.is_met(a))
        });
        for id in &voted {
            if let Some(approval) = self.approvals.get_mut(id) {
                approval.state = ApprovalState::Pending;
            }
        }
        voted
    }

    /// Denies what is pending and can never be approved; the records say why.
    pub(super) fn deny_impossible(&mut self) -> Vec<(ApprovalId, Entry)> {
        let pending = self.approvals.values().filter(|a| a.state == ApprovalState::Pending);
        let impossible: Vec<_> = pending
            .filter_map(|a| {
                let reason = self.impossible(&a.agent, &a.requirements)?;
                Some((a.id, a.shown.intent_digest, reason))
            })
            .collect();
        let deny = |(id, digest, reason): (ApprovalId, [u8; 32], String)| {
            let entry = Entry::new("approval.deny", id)
                .with("intent_digest", hex::encode(digest))
                .with("reason", &reason);
            self.settle(id, ApprovalState::Denied, reason);
            (id, entry)
        };
        impossible.into_iter().map(deny).collect()
    }

    /// Ends an approval without a release; what still waits on it is forgotten after a while.
    pub(super) fn settle(&mut self, id: ApprovalId, to: ApprovalState, reason: String) {
        let now = self.log_time;
        if let Some(approval) = self.approvals.get_mut(&id) {
            approval.state = to;
            approval.reason = reason;
            approval.settled_at = Some(now);
        }
        self.deadlines.clear(Due::Approval(id));
        self.release_waiting(id);
        self.retain(id);
    }

    /// Counts an approval among the ended; drops the oldest of them, and older bodies, when there are too many.
    pub(super) fn retain(&mut self, ended: ApprovalId) {
        self.ended.push_back(ended);
        if let Some(place) = self.ended.len().checked_sub(PREVIEWS_KEPT + 1)
            && let Some(approval) = self.ended.get(place).and_then(|id| self.approvals.get_mut(id))
        {
            approval.shown.body_preview = Vec::new();
        }
        if self.ended.len() > KEPT
            && let Some(approval) = self.ended.pop_front().and_then(|id| self.approvals.remove(&id))
        {
            let intent = (approval.agent, approval.shown.intent_digest);
            if self.youngest.get(&intent) == Some(&approval.id) {
                self.youngest.remove(&intent);
            }
        }
    }
}

impl Requirement {
    /// By group, by name, or as anyone.
    pub(super) fn names(&self, principal: &Principal) -> bool {
        self.approvers.iter().any(|named| {
            named == "*" || *named == principal.name || principal.groups.contains(named)
        })
    }
}

impl std::fmt::Display for ApprovalState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Revoked => "revoked",
            Self::Released => "released",
            Self::Completed => "completed",
            Self::Unknown => "unknown",
        })
    }
}

impl std::fmt::Display for VoteWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
        })
    }
}
