//! Votes: who may say what about an approval, and until when.

use super::audit::Entry;
use super::consent::{Asked, Lacks};
use super::deadline::Due;
use super::{
    Actor, Approval, ApprovalId, ApprovalState, Done, Event, Refused, State, Vote, VoteWord, Voter,
};

impl State {
    /// One vote for each principal. An approval may be turned into a denial until the claim; one denial is enough.
    /// Saying the same again changes nothing and answers with the current state.
    pub(super) fn vote(
        &mut self,
        actor: &Actor,
        id: ApprovalId,
        vote: Vote,
        seen: Option<&[u8; 32]>,
    ) -> Result<Done, Refused> {
        demand_voter(actor, &vote.principal)?;
        let approval = self.known_approval(id)?;
        self.demand_counting(&vote, approval, "this vote does not count")?;
        if seen.is_some_and(|digest| *digest != approval.shown.intent_digest) {
            return Err(Refused::Invalid(
                "this vote was not taken: it is about other bytes than this approval; look at the approval again".into(),
            ));
        }
        let live = !approval.state.is_terminal() && self.log_time < approval.due;
        let said_before = approval.votes.iter().any(|v| {
            same_voter(v, &vote)
                && v.word == vote.word
                && !v.withdrawn
                && v.strength >= vote.strength
                && v.proof >= vote.proof
                && v.breaks_glass == vote.breaks_glass
        });
        if said_before && (live || approval.state.is_terminal()) {
            return Ok(Done::unchanged(Event::Voted { approval: id, state: approval.state }));
        }
        if !live {
            return Err(too_late(approval.state));
        }
        Ok(self.count(id, vote))
    }

    /// Whom a vote is the word of: the principal that is named, or the one that the account is linked to by now.
    pub(super) fn voter(&self, by: &Voter) -> Result<String, Refused> {
        let account = match by {
            Voter::Principal(name) => return Ok(name.clone()),
            Voter::Account(account) => account,
        };
        if self.is_in_an_agents_hands(account) {
            return Err(Refused::Denied(format!(
                "this vote does not count: it is tainted, for an agent has a key that speaks as {account}; \
                 answer from the dashboard or the CLI"
            )));
        }
        self.principal_of(account).map(|principal| principal.name.clone()).ok_or_else(|| {
            Refused::Denied(format!(
                "this vote does not count: {account} is linked to no active principal; \
                 link it from a session of yours first"
            ))
        })
    }

    /// Refuses the word of whoever has no say in an approval, and says what they lack.
    pub(super) fn demand_counting(
        &self,
        vote: &Vote,
        approval: &Approval,
        so: &str,
    ) -> Result<(), Refused> {
        let denied = |why: String| Err(Refused::Denied(format!("{so}: {why}")));
        let Some(principal) = self.principals.get(&vote.principal).filter(|p| p.active) else {
            return denied(
                "there is no active principal of that name; it may have been removed".into(),
            );
        };
        if !principal.is_approver() {
            return denied(format!("{} has not the approver role", principal.name));
        }
        if vote.breaks_glass && vote.reason.trim().is_empty() {
            return Err(Refused::Invalid(format!(
                "{so}: breaking the glass needs a reason, which everyone is told"
            )));
        }
        if vote.word == VoteWord::Deny && self.may_deny(principal, approval) {
            return Ok(());
        }
        let votes = self.votes_on(approval);
        let asked = Asked::about(approval, &votes);
        let mut lacking = Vec::new();
        for requirement in &approval.requirements {
            match self.lacks(principal, requirement, asked, vote) {
                None => return Ok(()),
                Some(lacks) => lacking.push(lacks),
            }
        }
        denied(match lacking.into_iter().min().unwrap_or(Lacks::Unnamed) {
            Lacks::Strength(why) | Lacks::NotYet(why) | Lacks::Glass(why) => why,
            Lacks::Owner => {
                format!("{} owns the agent that asks; somebody else must decide", principal.name)
            }
            Lacks::Unnamed => {
                format!("no rule of this approval names {} or a group of theirs", principal.name)
            }
        })
    }

    fn count(&mut self, id: ApprovalId, vote: Vote) -> Done {
        let action = if vote.breaks_glass { "approval.break_glass" } else { "approval.vote" };
        let mut entry = Entry::new(action, id)
            .with("principal", &vote.principal)
            .with("word", vote.word)
            .with("channel", &vote.channel)
            .with("strength", vote.strength)
            .with("proof", vote.proof)
            .with("reason", &vote.reason);
        let denied = vote.word == VoteWord::Deny;
        let broken_glass = vote.breaks_glass.then(|| {
            format!(
                "THE GLASS WAS BROKEN by {}, who approved it alone: {}",
                vote.principal, vote.reason
            )
        });
        if denied
            && crate::planted::planted(8)
            && self.approvals[&id].state == ApprovalState::Approved
        {
            return Done::unchanged(Event::Voted { approval: id, state: ApprovalState::Denied });
        }
        let reason = if vote.reason.is_empty() {
            format!("denied by {}", vote.principal)
        } else {
            format!("denied by {}: {}", vote.principal, vote.reason)
        };
        if let Some(approval) = self.approvals.get_mut(&id) {
            entry = entry.with("intent_digest", hex::encode(approval.shown.intent_digest));
            approval.votes.retain(|v| !same_voter(v, &vote));
            approval.votes.push(vote);
        }
        let state = if denied {
            self.settle(id, ApprovalState::Denied, reason);
            ApprovalState::Denied
        } else {
            self.approve_if_met(id)
        };
        if let Some(words) = broken_glass {
            self.tell_of(id, &words);
        }
        Done::changed(Event::Voted { approval: id, state }, entry.with("state", state))
    }

    /// A pending approval whose requirements are met can be used from now on, for so long.
    pub(super) fn approve_if_met(&mut self, id: ApprovalId) -> ApprovalState {
        let met = self.approvals.get(&id).is_some_and(|a| self.is_met(a));
        let now = self.log_time;
        let Some(approval) = self.approvals.get_mut(&id) else { return ApprovalState::Unknown };
        if met && approval.state == ApprovalState::Pending {
            approval.state = ApprovalState::Approved;
            approval.due = now.saturating_add(approval.unused_ms);
            self.deadlines.set(Due::Approval(id), approval.due);
        }
        let state = approval.state;
        self.count_pending(id);
        state
    }
}

/// People speak for themselves; the control plane speaks for those whom a chat platform has identified.
fn demand_voter(actor: &Actor, principal: &str) -> Result<(), Refused> {
    match actor {
        Actor::System => Ok(()),
        Actor::Principal(name) if name == principal => Ok(()),
        Actor::Principal(name) => Err(Refused::Denied(format!(
            "this vote does not count: {name} may not vote for somebody else"
        ))),
        Actor::Edge(_) => {
            Err(Refused::Denied("this vote does not count: an edge may not vote".into()))
        }
    }
}

fn same_voter(one: &Vote, other: &Vote) -> bool {
    let another_account = crate::planted::planted(9) && one.channel != other.channel;
    one.principal == other.principal && !another_account
}

fn too_late(state: ApprovalState) -> Refused {
    match state {
        ApprovalState::Pending | ApprovalState::Approved | ApprovalState::Expired => Refused::Expired(
            "this vote came too late: the approval has expired; the agent has to send its request again".into(),
        ),
        state => Refused::Precondition(format!("this vote came too late: the approval is {state} already")),
    }
}
