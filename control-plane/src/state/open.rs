//! Opening: a held request joins the approval of its intent, or brings one about.

use super::audit::Entry;
use super::deadline::Due;
use super::{
    Actor, Announced, Approval, ApprovalId, ApprovalState, Done, Event, HeldRequest, Millis, Open,
    Refused, Requirement, State, attention,
};

/// However long a rule wants denials to stand.
const LONGEST_COOL_DOWN_MS: Millis = 24 * 60 * 60 * 1000;
const PREVIEW_BYTES: usize = 16 * 1024;
/// As much as a description takes at most, and more.
const EFFECT_BYTES: usize = 48 * 1024;

/// What an intent finds when it is opened.
enum Found {
    /// Can still be voted on or used.
    Live(ApprovalId),
    /// Denied a moment ago; or released, and nobody knows (yet) what became of it.
    Answered(ApprovalId),
    Nothing,
}

impl State {
    /// Upsert by request id. Which approval it leads to:
    ///
    /// * The live one of the same agent and intent. If that was judged by another rule or other requirements, it is
    ///   judged again by these: back to pending if the votes that count no longer suffice.
    /// * The one that was denied less than its rule's cool-down ago: the answer stands, and nobody is asked twice in a row.
    /// * The one that is released and not yet reported, or that became unknown no longer ago than it could have
    ///   been used: the answer to the request is that the outcome is unknown. It can never be claimed.
    /// * Else a new one. It is denied at once when nobody can meet its requirements, and approved at once when a grant
    ///   covers it whose votes are what they ask for.
    ///
    /// A request that waited while another one of the same intent was released is refused as already used.
    pub(super) fn open(&mut self, actor: &Actor, open: &Open) -> Result<Done, Refused> {
        self.demand_edge(actor, &open.edge)?;
        check(open)?;
        self.demand_current_edge(&open.edge, &open.incarnation)?;
        self.demand_active_agent(&open.agent)?;
        let mut opened_at = self.log_time;
        if let Some(held) = self.held.get(&open.request_id) {
            if let Some(event) = self.opened_before(held, open)? {
                return Ok(Done::unchanged(event));
            }
            opened_at = held.opened_at;
        }
        self.demand_policy(open.policy_version)?;
        for (id, version) in &open.credentials {
            self.demand_credential(id, *version)?;
        }

        let mut entry = Entry::new("request.open", hex::encode(open.request_id));
        let (approval, joined) = if open.requirements.is_empty() {
            (None, false)
        } else {
            match self.find(open) {
                Found::Live(id) => {
                    self.judge_again(id, open);
                    (Some(id), true)
                }
                Found::Answered(id) => {
                    if let Some(approval) = self.approvals.get_mut(&id) {
                        approval.asked_again = approval.asked_again.saturating_add(1);
                        entry = entry.with("asked_again", approval.asked_again);
                    }
                    (Some(id), true)
                }
                Found::Nothing => {
                    self.bring_about(open)?;
                    (Some(open.approval), false)
                }
            }
        };
        let held = HeldRequest {
            request_id: open.request_id,
            approval,
            edge: open.edge.clone(),
            incarnation: open.incarnation,
            agent: open.agent.clone(),
            intent_digest: open.shown.intent_digest,
            request_digest: open.request_digest,
            policy_version: open.policy_version,
            rule: open.rule.clone(),
            credentials: open.credentials.clone(),
            opened_at,
            hold_ms: open.hold_ms,
            claim: None,
            outcome: None,
            tokens: Vec::new(),
        };
        let noted = std::mem::replace(&mut entry.details, held.entry("").details);
        entry.details.extend(noted);
        entry = entry
            .with("policy_version", open.policy_version)
            .with("rule", &open.rule)
            .with("method", &open.shown.method)
            .with("host", format_args!("{}:{}", open.shown.host, open.shown.port))
            .with("joined", joined);
        if !open.observed.is_empty() {
            entry = entry.with("observed", open.observed.join(" | "));
        }
        if let Some(approval) = approval.and_then(|id| self.approvals.get(&id)) {
            let grant = approval.grant.map(|id| id.to_string()).unwrap_or_default();
            entry = entry
                .with("state", approval.state)
                .with("reason", &approval.reason)
                .with("grant", grant);
        }
        self.hold(held);
        if let Some(id) = approval
            && self.approvals.get(&id).is_some_and(|a| a.state.is_terminal())
        {
            self.release_waiting(id);
        }
        Ok(Done::changed(Event::Opened { request_id: open.request_id, approval, joined }, entry))
    }

    /// The answer to a request id that is held already; None when it has to be judged again.
    fn opened_before(&self, held: &HeldRequest, open: &Open) -> Result<Option<Event>, Refused> {
        let same_intent = held.intent_digest == open.shown.intent_digest;
        if held.edge != open.edge
            || held.incarnation != open.incarnation
            || held.agent != open.agent
            || (held.claim.is_some() && !same_intent)
        {
            return Err(Refused::Invalid(
                "the request was not opened: its id is another request's; open it under a fresh id"
                    .into(),
            ));
        }
        let event =
            Event::Opened { request_id: held.request_id, approval: held.approval, joined: true };
        if held.claim.is_some() {
            return Ok(Some(event));
        }
        let approval = held.approval.and_then(|id| self.approvals.get(&id)).filter(|_| same_intent);
        if let Some(approval) = approval
            && approval.state.is_terminal()
        {
            let waited = approval.claim.as_ref().is_some_and(|claim| held.opened_at <= claim.at);
            return if waited { Err(Refused::AlreadyUsed) } else { Ok(Some(event)) };
        }
        let as_before = same_intent
            && held.request_digest == open.request_digest
            && held.policy_version == open.policy_version
            && held.credentials == open.credentials;
        Ok(as_before.then_some(event))
    }

    fn find(&self, open: &Open) -> Found {
        let youngest = self.youngest.get(&(open.agent.clone(), open.shown.intent_digest));
        let Some(approval) = youngest.and_then(|id| self.approvals.get(id)) else {
            return Found::Nothing;
        };
        let since = self.log_time.saturating_sub(approval.settled_at.unwrap_or(self.log_time));
        match approval.state {
            ApprovalState::Pending | ApprovalState::Approved if self.log_time < approval.due => {
                Found::Live(approval.id)
            }
            ApprovalState::Denied if since < approval.cool_down_ms => Found::Answered(approval.id),
            ApprovalState::Released => Found::Answered(approval.id),
            ApprovalState::Unknown if since < approval.unused_ms => Found::Answered(approval.id),
            _ => Found::Nothing,
        }
    }

    fn bring_about(&mut self, open: &Open) -> Result<(), Refused> {
        if self.approvals.contains_key(&open.approval) {
            return Err(Refused::AlreadyExists(
                "the request was not opened: the id of its approval is taken; open it under a fresh one".into(),
            ));
        }
        self.demand_room(open)?;
        let mut approval = Approval {
            id: open.approval,
            state: ApprovalState::Pending,
            agent: open.agent.clone(),
            rule: open.rule.clone(),
            policy_version: open.policy_version,
            requirements: open.requirements.clone(),
            credentials: open.credentials.clone(),
            shown: open.shown.clone(),
            created_at: self.log_time,
            due: self.log_time.saturating_add(open.expires_ms),
            expires_ms: open.expires_ms,
            unused_ms: open.unused_ms,
            cool_down_ms: open.cool_down_ms.min(LONGEST_COOL_DOWN_MS),
            grant: self.grant_for(open),
            announced: Announced::Together,
            nudges: attention::nudges(open, self.log_time),
            asked_again: 0,
            votes: Vec::new(),
            claim: None,
            outcome: None,
            reason: String::new(),
            settled_at: None,
            traceparent: open.traceparent.clone(),
        };
        let impossible = self.impossible(&open.agent, &open.requirements);
        let asks_people = impossible.is_none() && approval.grant.is_none();
        if asks_people {
            approval.announced = self.announce(&approval);
        }
        self.deadlines.set(Due::Approval(approval.id), approval.due);
        if let Some((at, _)) = approval.nudges.first().filter(|_| asks_people) {
            self.deadlines.set(Due::Nudge(approval.id), *at);
        }
        self.youngest.insert((open.agent.clone(), open.shown.intent_digest), approval.id);
        self.approvals.insert(approval.id, approval);
        self.count_pending(open.approval);
        self.deliver_cards(open.approval);
        match impossible {
            Some(reason) => self.settle(open.approval, ApprovalState::Denied, reason),
            None => {
                self.approve_if_met(open.approval);
            }
        }
        Ok(())
    }

    /// A live approval under what the policy in force says about its intent.
    fn judge_again(&mut self, id: ApprovalId, open: &Open) {
        let Some(approval) = self.approvals.get_mut(&id) else { return };
        approval.policy_version = open.policy_version;
        approval.credentials.clone_from(&open.credentials);
        approval.unused_ms = open.unused_ms;
        approval.expires_ms = open.expires_ms;
        approval.cool_down_ms = open.cool_down_ms.min(LONGEST_COOL_DOWN_MS);
        if approval.rule == open.rule && approval.requirements == open.requirements {
            return;
        }
        let another_rule = approval.rule != open.rule;
        if another_rule {
            self.give_up_card(id);
        }
        let Some(approval) = self.approvals.get_mut(&id) else { return };
        approval.rule.clone_from(&open.rule);
        approval.requirements.clone_from(&open.requirements);
        if let Some(reason) = self.impossible(&open.agent, &open.requirements) {
            return self.settle(id, ApprovalState::Denied, reason);
        }
        let met = self.approvals.get(&id).is_some_and(|a| self.is_met(a));
        let expires = self.log_time.saturating_add(open.expires_ms);
        let mut opened_again = false;
        if let Some(approval) = self.approvals.get_mut(&id)
            && approval.state == ApprovalState::Approved
            && !met
        {
            approval.state = ApprovalState::Pending;
            approval.due = expires;
            self.deadlines.set(Due::Approval(id), expires);
            opened_again = true;
        }
        let waits = self.approve_if_met(id) == ApprovalState::Pending;
        if waits && (opened_again || another_rule) {
            self.announce_again(id);
        }
    }
}

fn check(open: &Open) -> Result<(), Refused> {
    if !open.requirements.iter().all(Requirement::is_sound) {
        return Err(Refused::Invalid(
            "the request was not opened: a requirement names nobody, asks for no votes, or contradicts itself".into(),
        ));
    }
    if open.shown.body_preview.len() > PREVIEW_BYTES {
        return Err(Refused::Invalid(format!(
            "the request was not opened: it shows more than {PREVIEW_BYTES} bytes of its body"
        )));
    }
    if open.shown.effect.size() > EFFECT_BYTES {
        return Err(Refused::Invalid(format!(
            "the request was not opened: what it would do takes more than {EFFECT_BYTES} bytes to say"
        )));
    }
    Ok(())
}
