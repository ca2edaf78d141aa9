//! Whose yes counts, for what, at this very place in the log.
//!
//! Nothing here is remembered: who counts is worked out anew for each vote and again for the claim, from who is
//! active, in which groups, away, and asked by which rule at that moment.

use super::requirement::names;
use super::{Approval, Millis, Principal, Requirement, State, Vote, VoteWord};

/// What people are asked about, as far as it matters for who may answer.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) agent: &'a str,
    pub(super) created_at: Millis,
    /// All that are counted: whoever has cast one of them fills their own place.
    pub(super) votes: &'a [&'a Vote],
}

/// Why somebody's yes does not count for a requirement. Ordered: what is worth saying first comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lacks {
    /// Would count, if it were surer.
    Strength(String),
    /// Is named by a step that was not reached yet.
    NotYet(String),
    Owner,
    Glass(String),
    Unnamed,
}

impl<'a> Asked<'a> {
    pub(super) fn about(approval: &'a Approval, votes: &'a [&'a Vote]) -> Self {
        Self { agent: &approval.agent, created_at: approval.created_at, votes }
    }
}

impl State {
    /// Every requirement is met, by votes of people who may still cast them, or by a grant of theirs.
    pub(super) fn is_met(&self, approval: &Approval) -> bool {
        self.is_met_by(approval, &self.votes_on(approval))
    }

    /// Without any grant.
    pub(super) fn is_met_alone(&self, approval: &Approval) -> bool {
        self.is_met_by(approval, &approval.votes.iter().collect::<Vec<_>>())
    }

    fn is_met_by(&self, approval: &Approval, votes: &[&Vote]) -> bool {
        !approval.requirements.is_empty()
            && approval
                .requirements
                .iter()
                .all(|requirement| self.meets(requirement, Asked::about(approval, votes)))
    }

    /// Whether the votes are enough for one requirement.
    pub(super) fn meets(&self, requirement: &Requirement, asked: Asked<'_>) -> bool {
        let mut people = Vec::new();
        for vote in
            asked.votes.iter().filter(|vote| vote.word == VoteWord::Approve && !vote.withdrawn)
        {
            let Some(principal) = self.principals.get(&vote.principal) else { continue };
            if vote.breaks_glass {
                if self.lacks(principal, requirement, asked, vote).is_none() {
                    return true;
                }
            } else if vote.reaches(requirement) {
                people.push(self.panels_of(principal, requirement, asked));
            }
        }
        requirement.is_filled_by(&people)
    }

    /// Who approved it and counts for something.
    pub(super) fn counted_approvals<'a>(&'a self, approval: &'a Approval) -> Vec<&'a Vote> {
        let votes = self.votes_on(approval);
        let asked = Asked::about(approval, &votes);
        let counted = votes.iter().copied().filter(|vote| {
            vote.word == VoteWord::Approve
                && !vote.withdrawn
                && self.principals.get(&vote.principal).is_some_and(|principal| {
                    let counts = |r| self.lacks(principal, r, asked, vote).is_none();
                    approval.requirements.iter().any(counts)
                })
        });
        counted.collect()
    }

    /// The votes on an approval, and those on the grant that it rests on of people who have not voted themselves.
    pub(super) fn votes_on<'a>(&'a self, approval: &'a Approval) -> Vec<&'a Vote> {
        let mut votes: Vec<&Vote> = approval.votes.iter().collect();
        let grant = approval.grant.and_then(|id| self.grants.get(&id));
        if let Some(grant) = grant.filter(|grant| grant.is_usable(self.log_time))
            && !approval.requirements.iter().any(|requirement| requirement.critical)
        {
            let voted = |name: &str| approval.votes.iter().any(|vote| vote.principal == name);
            votes.extend(grant.votes.iter().filter(|vote| !voted(&vote.principal)));
        }
        votes
    }

    /// What keeps a principal's yes from counting for a requirement; None when it counts.
    pub(super) fn lacks(
        &self,
        principal: &Principal,
        requirement: &Requirement,
        asked: Asked<'_>,
        vote: &Vote,
    ) -> Option<Lacks> {
        let rule = &requirement.rule;
        if !requirement.owner_may_approve && self.owns(principal, asked.agent) {
            return Some(Lacks::Owner);
        }
        let named = if vote.breaks_glass {
            if requirement.critical || !names(&requirement.break_glass, principal) {
                return Some(Lacks::Glass(format!(
                    "rule \"{rule}\" does not let {} break the glass",
                    principal.name
                )));
            }
            principal.is_approver()
        } else {
            !self.panels_of(principal, requirement, asked).is_empty()
        };
        if named && vote.reaches(requirement) {
            return None;
        }
        if named {
            return Some(Lacks::Strength(format!(
                "rule \"{rule}\" asks for strength {} and proof {}, and this vote has strength {} and proof {}; \
                 answer in a stronger way, such as the dashboard or the CLI",
                requirement.strength, requirement.proof, vote.strength, vote.proof
            )));
        }
        let later = requirement.escalations.iter().find(|step| names(&step.to, principal));
        Some(match later {
            Some(step) => Lacks::NotYet(format!(
                "rule \"{rule}\" asks {} only when nobody else has decided for {} seconds",
                principal.name,
                step.after_ms / 1_000
            )),
            None => Lacks::Unnamed,
        })
    }

    /// Whether somebody may say no: whoever may say yes by some rule, or could later, or by breaking the glass.
    pub(super) fn may_deny(&self, principal: &Principal, approval: &Approval) -> bool {
        let asked = Asked::about(approval, &[]);
        approval.requirements.iter().any(|requirement| {
            let counts = !self.panels_of(principal, requirement, asked).is_empty();
            let later = requirement.escalations.iter().any(|step| names(&step.to, principal));
            counts
                || (principal.is_approver()
                    && (requirement.owner_may_approve || !self.owns(principal, &approval.agent))
                    && (later || names(&requirement.break_glass, principal)))
        })
    }

    /// The panels of a requirement that a principal may sit on: in their own name, and in the place of those whom
    /// they stand in for and who have not voted themselves. Nobody stands in for somebody who would not count.
    fn panels_of(
        &self,
        principal: &Principal,
        requirement: &Requirement,
        asked: Asked<'_>,
    ) -> Vec<usize> {
        let counts = |p: &Principal| {
            p.is_approver() && (requirement.owner_may_approve || !self.owns(p, asked.agent))
        };
        if !counts(principal) {
            return Vec::new();
        }
        let voted = |p: &Principal| {
            let mut votes = asked.votes.iter();
            votes.any(|v| v.principal == p.name && v.word == VoteWord::Approve && !v.withdrawn)
        };
        let represented = self.represented_by(principal).filter(|p| counts(p) && !voted(p));
        let places: Vec<&Principal> = std::iter::once(principal).chain(represented).collect();
        let elapsed = self.log_time.saturating_sub(asked.created_at);
        let reached = requirement.escalations.iter().filter(|step| elapsed >= step.after_ms);
        let escalated = reached.clone().any(|step| places.iter().any(|p| names(&step.to, p)));
        let panels = requirement.panels.iter().enumerate();
        panels
            .filter(|(_, panel)| escalated || places.iter().any(|p| names(&panel.of, p)))
            .map(|(index, _)| index)
            .collect()
    }

    /// Why nobody could ever meet these requirements, if that is so. Those who stand in for others add nothing here:
    /// the others could come back and vote.
    pub(super) fn impossible(&self, agent: &str, requirements: &[Requirement]) -> Option<String> {
        requirements.iter().find_map(|requirement| {
            let counts = |p: &&Principal| {
                p.is_approver() && (requirement.owner_may_approve || !self.owns(p, agent))
            };
            let able: Vec<&Principal> = self.principals.values().filter(counts).collect();
            let glass = able.iter().any(|p| names(&requirement.break_glass, p));
            let panels = |p: &&Principal| {
                let escalated = requirement.escalations.iter().any(|step| names(&step.to, p));
                let panels = requirement.panels.iter().enumerate();
                let sits = panels.filter(|(_, panel)| escalated || names(&panel.of, p));
                sits.map(|(index, _)| index).collect::<Vec<_>>()
            };
            let mut people: Vec<_> = able.iter().map(panels).collect();
            people.retain(|panels| !panels.is_empty());
            if glass || requirement.is_filled_by(&people) {
                return None;
            }
            Some(format!(
                "nobody can approve: rule \"{}\" asks for {}, and {} active approvers qualify{}",
                requirement.rule,
                requirement.in_words(),
                people.len(),
                if requirement.owner_may_approve {
                    ""
                } else {
                    "; the agent's owner does not count"
                },
            ))
        })
    }

    pub(super) fn owns(&self, principal: &Principal, agent: &str) -> bool {
        self.agents.get(agent).and_then(|a| a.owner.as_ref()) == Some(&principal.name)
    }
}

impl Vote {
    fn reaches(&self, requirement: &Requirement) -> bool {
        self.strength >= requirement.strength && self.proof >= requirement.proof
    }
}
