//! People's attention: how many of an agent's requests may wait for it, and who is asked about which of them, when.
//!
//! What is not brought to somebody by itself is not hidden from them: every pending approval is in the list, and can
//! be answered there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::deadline::Due;
use super::name::joined;
use super::requirement::names;
use super::{Approval, ApprovalId, ApprovalState, Millis, Open, Principal, Refused, State};

/// Cards that one agent's requests bring about in a minute; what is above them is told together.
const AGENT_CARDS: usize = 6;
const AGENT_WINDOW_MS: Millis = 60 * 1000;
/// Cards that one person gets in an hour; what is above them waits in the list.
const PERSON_CARDS: usize = 30;
const PERSON_WINDOW_MS: Millis = 60 * 60 * 1000;

/// How an approval is brought to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Announced {
    /// By a card of its own, to these principals.
    Card { to: BTreeSet<String> },
    /// It is counted on the card of a similar one that was pending then: the same agent, rule, method and destination.
    With(ApprovalId),
    /// The agent had its share of cards: it is told with others.
    Together,
}

/// Something that people are told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Nudge {
    /// More people may answer from now on.
    Escalated,
    /// It will expire.
    Reminded,
}

/// What makes requests similar: not their bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Similar {
    agent: String,
    rule: String,
    method: String,
    host: String,
    port: u16,
}

/// Which pending approvals have a card, and when cards were sent, lately.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Attention {
    /// At most one for similar ones.
    cards: BTreeMap<Similar, ApprovalId>,
    agents: BTreeMap<String, VecDeque<Millis>>,
    people: BTreeMap<String, VecDeque<Millis>>,
}

impl State {
    /// Refuses what would make more of an agent's requests wait at once than it may have.
    pub(super) fn demand_room(&self, open: &Open) -> Result<(), Refused> {
        let waiting = self.pending_of.get(&open.agent).map_or(0, BTreeSet::len);
        if waiting < open.most_pending as usize {
            return Ok(());
        }
        Err(Refused::Exhausted(format!(
            "the request was not held: {waiting} others of this agent wait for people already; \
             wait for those before asking for more"
        )))
    }

    /// Who is asked about an approval that waits for people from now on, and how.
    pub(super) fn announce(&mut self, approval: &Approval) -> Announced {
        let similar = Similar::of(approval);
        if let Some(first) = self.attention.cards.get(&similar)
            && *first != approval.id
        {
            return Announced::With(*first);
        }
        let now = self.log_time;
        let cards = self.attention.agents.entry(approval.agent.clone()).or_default();
        if !has_room(cards, now, AGENT_WINDOW_MS, AGENT_CARDS) {
            return Announced::Together;
        }
        cards.push_back(now);
        self.attention.cards.insert(similar, approval.id);
        Announced::Card { to: self.ask(approval) }
    }

    /// It waits for people again, who were not asked before or were told that it is done.
    pub(super) fn announce_again(&mut self, id: ApprovalId) {
        let Some(approval) = self.approvals.get(&id).cloned() else { return };
        let announced = self.announce(&approval);
        let now = self.log_time;
        if let Some(approval) = self.approvals.get_mut(&id) {
            approval.announced = announced;
            approval.nudges.retain(|(at, _)| *at > now);
            if let Some((at, _)) = approval.nudges.first() {
                self.deadlines.set(Due::Nudge(id), *at);
            }
        }
        self.deliver_cards(id);
    }

    /// The next step of a pending approval's way to people, now that it is due.
    pub(super) fn nudge(&mut self, id: ApprovalId) -> Option<(Nudge, Entry)> {
        let approval = self.approvals.get_mut(&id)?;
        if approval.state != ApprovalState::Pending || approval.nudges.is_empty() {
            return None;
        }
        let (_, nudge) = approval.nudges.remove(0);
        let next = approval.nudges.first().map(|(at, _)| *at);
        let approval = approval.clone();
        if let Some(at) = next {
            self.deadlines.set(Due::Nudge(id), at);
        }
        let to = self.ask(&approval);
        let action = match nudge {
            Nudge::Escalated => "approval.escalate",
            Nudge::Reminded => "approval.remind",
        };
        let entry = Entry::new(action, id)
            .with("intent_digest", hex::encode(approval.shown.intent_digest))
            .with("to", joined(to.iter().cloned()));
        if let Some(approval) = self.approvals.get_mut(&id)
            && let Announced::Card { to: before } = &mut approval.announced
        {
            before.extend(to);
        }
        self.deliver_cards(id);
        if nudge == Nudge::Reminded {
            self.tell_of(id, "It still waits for an answer, and will expire.");
        }
        Some((nudge, entry))
    }

    /// Pending approvals that are counted on the card of this one.
    pub fn counted_with(&self, id: ApprovalId) -> usize {
        let holds_card = |a: &&Approval| matches!(a.announced, Announced::Card { .. });
        let Some(approval) = self.approvals.get(&id).filter(holds_card) else { return 0 };
        let others = self.pending_of.get(&approval.agent).into_iter().flatten();
        let others = others.filter_map(|id| self.approvals.get(id));
        others.filter(|other| other.announced == Announced::With(id)).count()
    }

    /// Whoever could answer it now, is here, and has not had their share of cards; it counts as a card of theirs.
    fn ask(&mut self, approval: &Approval) -> BTreeSet<String> {
        let now = self.log_time;
        let here = |p: &&Principal| p.is_approver() && p.away_at(now).is_none();
        let people = self.principals.values().filter(here).filter(|principal| {
            let own = approval.requirements.iter().all(|requirement| {
                !requirement.owner_may_approve && self.owns(principal, &approval.agent)
            });
            let elapsed = now.saturating_sub(approval.created_at);
            !own && approval.requirements.iter().any(|requirement| {
                let places: Vec<_> =
                    std::iter::once(*principal).chain(self.represented_by(principal)).collect();
                let panels = requirement.panels.iter().map(|panel| &panel.of);
                let reached =
                    requirement.escalations.iter().filter(|step| elapsed >= step.after_ms);
                panels
                    .chain(reached.map(|step| &step.to))
                    .any(|list| places.iter().any(|place| names(list, place)))
            })
        });
        let able: Vec<_> = people.map(|p| p.name.clone()).collect();
        let mut asked = BTreeSet::new();
        for name in able {
            let cards = self.attention.people.entry(name.clone()).or_default();
            if has_room(cards, now, PERSON_WINDOW_MS, PERSON_CARDS) {
                cards.push_back(now);
                asked.insert(name);
            }
        }
        asked
    }

    /// Before it is judged by another rule: it is similar to others then.
    pub(super) fn give_up_card(&mut self, id: ApprovalId) {
        let Some(approval) = self.approvals.get_mut(&id) else { return };
        let (agent, similar) = (approval.agent.clone(), Similar::of(approval));
        approval.announced = Announced::Together;
        if self.attention.cards.get(&similar) == Some(&id) {
            self.attention.cards.remove(&similar);
            self.pass_card_on(&agent, id);
        }
    }

    /// The approval waits for people, or does so no more; then the next one that was counted on its card gets one.
    pub(super) fn count_pending(&mut self, id: ApprovalId) {
        let Some(approval) = self.approvals.get(&id) else { return };
        let agent = approval.agent.clone();
        let similar = Similar::of(approval);
        if approval.state == ApprovalState::Pending {
            self.pending_of.entry(agent).or_default().insert(id);
        } else if let Some(pending) = self.pending_of.get_mut(&agent) {
            pending.remove(&id);
            if pending.is_empty() {
                self.pending_of.remove(&agent);
            }
            self.deadlines.clear(Due::Nudge(id));
            self.call_off(id);
            if self.attention.cards.get(&similar) == Some(&id) {
                self.attention.cards.remove(&similar);
                self.pass_card_on(&agent, id);
            }
        }
    }

    fn pass_card_on(&mut self, agent: &str, from: ApprovalId) {
        let pending = self.pending_of.get(agent).into_iter().flatten();
        let waiting = pending.filter_map(|id| self.approvals.get(id));
        let mut counted: Vec<_> = waiting
            .filter(|other| other.announced == Announced::With(from))
            .map(|other| (other.created_at, other.id))
            .collect();
        counted.sort_unstable();
        let Some((_, next)) = counted.first().copied() else { return };
        self.announce_again(next);
        let has_one = |a: &Approval| matches!(a.announced, Announced::Card { .. });
        let follow = match self.approvals.get(&next).is_some_and(has_one) {
            true => Announced::With(next),
            false => Announced::Together,
        };
        for (_, id) in counted.into_iter().skip(1) {
            if let Some(approval) = self.approvals.get_mut(&id) {
                approval.announced = follow.clone();
            }
        }
    }
}

/// When people are told again about an approval that comes about now, in order.
pub(super) fn nudges(open: &Open, created_at: Millis) -> Vec<(Millis, Nudge)> {
    let due = created_at.saturating_add(open.expires_ms);
    let steps = open.requirements.iter().flat_map(|requirement| &requirement.escalations);
    let escalated = steps.map(|step| (created_at.saturating_add(step.after_ms), Nudge::Escalated));
    let reminded = open.remind_ms.map(|before| (due.saturating_sub(before), Nudge::Reminded));
    let mut nudges: Vec<_> = escalated.chain(reminded).filter(|(at, _)| *at < due).collect();
    nudges.sort_unstable();
    nudges.dedup();
    nudges
}

impl Similar {
    fn of(approval: &Approval) -> Self {
        Self {
            agent: approval.agent.clone(),
            rule: approval.rule.clone(),
            method: approval.shown.method.clone(),
            host: approval.shown.host.clone(),
            port: approval.shown.port,
        }
    }
}

fn has_room(sent: &mut VecDeque<Millis>, now: Millis, window: Millis, most: usize) -> bool {
    while sent.front().is_some_and(|at| now.saturating_sub(*at) >= window) {
        sent.pop_front();
    }
    sent.len() < most
}
