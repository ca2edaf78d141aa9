//! An approval's life: pending, votes, at most one claim, an outcome.

use countersign_describe::Description;
use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::deadline::Due;
use super::name::{REASON_BYTES, clipped};
use super::{
    Actor, Announced, Done, Event, GrantId, Millis, Nudge, Position, Proof, Refused,
    ReportedOutcome, Requirement, Role, State, Strength,
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
    /// Said once, of all of the bytes.
    #[serde(default)]
    pub effect: Effect,
}

/// What a request would do, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Nothing is known about such requests.
    #[default]
    Unknown,
    /// It is a call that is known, and cannot be said for certain: why not, a noun.
    Undecidable(String),
    /// Its facts are dropped together with the body's beginning.
    Described(Description),
}

impl Effect {
    /// How much of the state it takes, bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Unknown => 0,
            Self::Undecidable(why) => why.len(),
            Self::Described(Description { sentence, facts, also, .. }) => {
                let facts = facts.iter().map(|fact| fact.name.len() + fact.value.len());
                let listed = also.listed.iter().map(|(name, value)| name.len() + value.len());
                sentence.len() + facts.sum::<usize>() + listed.sum::<usize>()
            }
        }
    }

    /// Keeps the sentence and the risk alone.
    fn shorten(&mut self) {
        if let Self::Described(described) = self {
            (described.facts, described.also) = Default::default();
        }
    }
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
    pub strength: Strength,
    pub proof: Proof,
    /// Alone, in an emergency, with the reason that it gives.
    pub breaks_glass: bool,
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
    pub expires_ms: u64,
    pub unused_ms: u64,
    /// For so long after a denial the same intent meets the denial, not people.
    pub cool_down_ms: u64,
    /// Rests on this grant as far as people have not met its requirements themselves.
    pub grant: Option<GrantId>,
    /// How it is brought to people.
    pub announced: Announced,
    /// When people are told of it again, in order; those that are left.
    pub nudges: Vec<(Millis, Nudge)>,
    /// How often the same was asked while a denial of it, or an outcome that nobody knows, stood.
    pub asked_again: u32,
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

    /// Withdraws a removed principal's votes from what is still open.
    pub(super) fn withdraw_votes(&mut self, principal: &str) {
        let open = self.approvals.values_mut().filter(|a| !a.state.is_terminal());
        let open_votes = open.flat_map(|a| a.votes.iter_mut());
        let granted = self.grants.values_mut().flat_map(|grant| grant.votes.iter_mut());
        for vote in open_votes.chain(granted).filter(|vote| vote.principal == principal) {
            vote.withdrawn = true;
        }
    }

    /// Who counts has changed: what was approved and is not any more waits for people again, and what waits and has
    /// what it needs is approved. Says which.
    pub(super) fn reconsider(&mut self) -> Vec<ApprovalId> {
        let live = self.approvals.values().filter(|a| !a.state.is_terminal());
        let changed: Vec<_> = live
            .filter(|a| self.is_met(a) != (a.state == ApprovalState::Approved))
            .map(|a| a.id)
            .collect();
        for id in &changed {
            let now = self.log_time;
            match self.approvals.get_mut(id) {
                Some(approval) if approval.state == ApprovalState::Approved => {
                    approval.state = ApprovalState::Pending;
                    approval.due = now.saturating_add(approval.expires_ms);
                    self.deadlines.set(Due::Approval(*id), approval.due);
                    self.announce_again(*id);
                }
                _ => {
                    self.approve_if_met(*id);
                }
            }
            self.count_pending(*id);
        }
        changed
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
        self.count_pending(id);
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
            approval.shown.effect.shorten();
        }
        if self.ended.len() > KEPT
            && let Some(approval) = self.ended.pop_front().and_then(|id| self.approvals.remove(&id))
        {
            self.drop_deliveries_of(approval.id);
            let intent = (approval.agent, approval.shown.intent_digest);
            if self.youngest.get(&intent) == Some(&approval.id) {
                self.youngest.remove(&intent);
            }
        }
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
