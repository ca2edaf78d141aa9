//! Grants: "this agent, this host, this method and path, so many times, until then".
//!
//! A grant is votes that were cast ahead of the requests. It opens nothing by itself: a request that it covers is
//! approved when the votes on the grant, of people who may still cast them, are what the rules in force ask for at
//! that moment. Its uses are counted by the claims that rest on it, and it never counts for a critical rule or for a
//! request that cannot be shown in full.

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::consent::Asked;
use super::deadline::Due;
use super::name::{REASON_BYTES, clipped};
use super::requirement::{Proof, Strength};
use super::{
    Actor, Approval, ApprovalId, ApprovalState, Done, Event, Millis, Open, Refused, Role, State,
    Vote, VoteWord,
};

/// Hard bounds, whatever people ask for.
const LONGEST_MS: Millis = 30 * 24 * 60 * 60 * 1000;
const MOST_USES: u32 = 1_000;
const PATH_BYTES: usize = 1_024;
const LIVE: usize = 10_000;
/// An ended one can be looked at for so long.
const KEPT_MS: Millis = 30 * 24 * 60 * 60 * 1000;

/// 128 random bits, chosen by the face.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GrantId(pub [u8; 16]);

impl std::fmt::Display for GrantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for GrantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Which requests a grant is about: all of it is bound, and nothing else of a request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Its id.
    pub agent: String,
    pub host: String,
    pub port: u16,
    pub method: String,
    /// `{name}` is one segment that is not empty, `{name...}` at the end is one or more; the rest is written as it is.
    pub path: String,
}

/// One claim that rested on a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantUse {
    pub approval: ApprovalId,
    pub at: Millis,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    pub id: GrantId,
    pub scope: Scope,
    /// The approval that it was asked for beside.
    pub beside: ApprovalId,
    pub votes: Vec<Vote>,
    pub created_at: Millis,
    /// From then on it counts for nothing.
    pub expires_at: Millis,
    pub most_uses: u32,
    pub uses: Vec<GrantUse>,
    /// When, by whom, and why.
    pub revoked: Option<(Millis, String, String)>,
}

/// What is asked for, beside an approval that shows what it is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantWish {
    pub id: GrantId,
    pub beside: ApprovalId,
    pub path: String,
    pub most_uses: u32,
    pub ttl_ms: u64,
    pub reason: String,
    pub channel: String,
    pub strength: Strength,
    pub proof: Proof,
}

impl State {
    /// Asks for a grant, and votes for it: whoever may approve the request may.
    pub(super) fn ask_grant(&mut self, actor: &Actor, wish: &GrantWish) -> Result<Done, Refused> {
        let Actor::Principal(name) = actor else {
            return Err(Refused::Denied("only people give grants".into()));
        };
        let approval = self.known_approval(wish.beside)?;
        let refused = |why: String| Err(Refused::Invalid(format!("nothing was granted: {why}")));
        if let Some(rule) = approval.requirements.iter().find(|r| r.critical) {
            return Err(Refused::Denied(format!(
                "nothing was granted: rule \"{}\" is critical, and people look at each such request",
                rule.rule
            )));
        }
        if approval.shown.uninspectable {
            return Err(Refused::Denied(
                "nothing was granted: the request cannot be shown in full, and nobody knows what the next one holds"
                    .into(),
            ));
        }
        if !(1..=MOST_USES).contains(&wish.most_uses) {
            return refused(format!("it is for 1 to {MOST_USES} uses"));
        }
        if wish.ttl_ms == 0 || wish.ttl_ms > LONGEST_MS {
            return refused(format!("it lasts at most {} days", LONGEST_MS / 86_400_000));
        }
        let scope = Scope {
            agent: approval.agent.clone(),
            host: approval.shown.host.clone(),
            port: approval.shown.port,
            method: approval.shown.method.clone(),
            path: wish.path.clone(),
        };
        if let Err(why) = check_path(&scope.path) {
            return refused(why);
        }
        if !covers_path(&scope.path, &approval.shown.path) {
            return refused(format!(
                "its path does not cover the request that it is asked beside, {}",
                clipped(&approval.shown.path, REASON_BYTES)
            ));
        }
        if self.grants.contains_key(&wish.id) {
            return Err(Refused::AlreadyExists("nothing was granted: the id is taken".into()));
        }
        if self.grants.len() >= LIVE {
            return refused(format!("{LIVE} grants are kept already; revoke some"));
        }
        let vote = Vote {
            principal: name.clone(),
            word: VoteWord::Approve,
            channel: clipped(&wish.channel, super::name::CHANNEL_BYTES),
            reason: clipped(&wish.reason, REASON_BYTES),
            at: self.log_time,
            withdrawn: false,
            strength: wish.strength,
            proof: wish.proof,
            breaks_glass: false,
        };
        self.demand_counting(&vote, approval, "nothing was granted")?;
        let now = self.log_time;
        let grant = Grant {
            id: wish.id,
            scope,
            beside: wish.beside,
            votes: vec![vote],
            created_at: now,
            expires_at: now.saturating_add(wish.ttl_ms),
            most_uses: wish.most_uses,
            uses: Vec::new(),
            revoked: None,
        };
        let entry = grant
            .entry("grant.ask")
            .with("beside", wish.beside)
            .with("expires_at", grant.expires_at)
            .with("most_uses", grant.most_uses)
            .with("reason", &grant.votes[0].reason);
        self.deadlines.set(Due::Grant(wish.id), grant.expires_at);
        self.grants.insert(wish.id, grant);
        let approvals = self.rest_on(wish.id);
        Ok(Done::changed(Event::GrantChanged { id: wish.id, approvals }, entry))
    }

    /// Another one's yes, where the rules ask for more than one.
    pub(super) fn support_grant(
        &mut self,
        actor: &Actor,
        id: GrantId,
        vote: Vote,
    ) -> Result<Done, Refused> {
        match actor {
            Actor::Principal(name) if *name == vote.principal => {}
            _ => return Err(Refused::Denied("people speak for themselves about grants".into())),
        }
        let grant = self.usable_grant(id)?;
        let approval = self.known_approval(grant.beside)?;
        self.demand_counting(&vote, approval, "the grant was not supported")?;
        if grant.votes.iter().any(|had| had.principal == vote.principal && !had.withdrawn) {
            return Ok(Done::unchanged(Event::GrantChanged { id, approvals: Vec::new() }));
        }
        let entry = grant.entry("grant.support").with("principal", &vote.principal);
        if let Some(grant) = self.grants.get_mut(&id) {
            grant.votes.retain(|had| had.principal != vote.principal);
            grant.votes.push(vote);
        }
        let approvals = self.rest_on(id);
        Ok(Done::changed(Event::GrantChanged { id, approvals }, entry))
    }

    /// By anyone who may approve or administer: what rests on it and was not released waits for people again.
    pub(super) fn revoke_grant(
        &mut self,
        actor: &Actor,
        id: GrantId,
        reason: &str,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin, Role::Approver])?;
        let now = self.log_time;
        let reason = clipped(reason, REASON_BYTES);
        let event = |approvals| Event::GrantChanged { id, approvals };
        let grant = self.known_grant(id)?;
        if grant.revoked.is_some() {
            return Ok(Done::unchanged(event(Vec::new())));
        }
        let entry = grant.entry("grant.revoke").with("reason", &reason);
        if let Some(grant) = self.grants.get_mut(&id) {
            grant.revoked = Some((now, actor.to_string(), reason));
        }
        self.deadlines.set(Due::Grant(id), now.saturating_add(KEPT_MS));
        let approvals = self.reconsider();
        Ok(Done::changed(event(approvals), entry))
    }

    /// The grant that a new approval could rest on: the one that ends last of those that cover it and count.
    pub(super) fn grant_for(&self, open: &Open) -> Option<GrantId> {
        if open.shown.uninspectable || open.requirements.iter().any(|r| r.critical) {
            return None;
        }
        let now = self.log_time;
        self.grants
            .values()
            .filter(|grant| grant.is_usable(now) && grant.scope.covers(&open.agent, &open.shown))
            .filter(|grant| {
                let votes: Vec<&Vote> = grant.votes.iter().collect();
                let asked = Asked { agent: &open.agent, created_at: now, votes: &votes };
                open.requirements.iter().all(|requirement| self.meets(requirement, asked))
            })
            .max_by_key(|grant| (grant.expires_at, grant.id))
            .map(|grant| grant.id)
    }

    /// Whether a claim of this approval rests on its grant: people did not meet the requirements themselves.
    pub(super) fn use_grant(&mut self, approval: ApprovalId) -> Option<(GrantId, u32)> {
        let found = self.approvals.get(&approval)?;
        if self.is_met_alone(found) {
            return None;
        }
        let at = self.log_time;
        let grant = self.grants.get_mut(&found.grant?)?;
        grant.uses.push(GrantUse { approval, at });
        Some((grant.id, grant.most_uses.saturating_sub(grant.used())))
    }

    /// At its end its votes count no more; when it was kept long enough, it is forgotten.
    pub(super) fn end_grant(&mut self, id: GrantId) -> Option<(Entry, Vec<ApprovalId>)> {
        let now = self.log_time;
        let grant = self.grants.get(&id)?;
        let kept_until = grant.expires_at.saturating_add(KEPT_MS);
        let ended = grant.revoked.as_ref().map(|(at, ..)| at.saturating_add(KEPT_MS));
        if now >= ended.unwrap_or(kept_until) {
            self.grants.remove(&id);
            return None;
        }
        let entry = grant.entry("grant.expire").with("uses", grant.used());
        self.deadlines.set(Due::Grant(id), kept_until);
        Some((entry, self.reconsider()))
    }

    /// Pending approvals that a grant covers and that rest on none: they rest on it, and may be approved by it.
    fn rest_on(&mut self, id: GrantId) -> Vec<ApprovalId> {
        let Some(grant) = self.grants.get(&id) else { return Vec::new() };
        let fits = |a: &Approval| {
            a.state == ApprovalState::Pending
                && a.grant.is_none()
                && !a.shown.uninspectable
                && !a.requirements.iter().any(|r| r.critical)
                && grant.scope.covers(&a.agent, &a.shown)
        };
        let fitting: Vec<_> = self.approvals.values().filter(|a| fits(a)).map(|a| a.id).collect();
        let left = grant.most_uses.saturating_sub(grant.used()) as usize;
        let mut approved = Vec::new();
        for approval in fitting.into_iter().take(left) {
            if let Some(approval) = self.approvals.get_mut(&approval) {
                approval.grant = Some(id);
            }
            if self.approve_if_met(approval) == ApprovalState::Approved {
                approved.push(approval);
            } else if let Some(approval) = self.approvals.get_mut(&approval) {
                approval.grant = None;
            }
        }
        approved
    }

    fn usable_grant(&self, id: GrantId) -> Result<&Grant, Refused> {
        let grant = self.known_grant(id)?;
        if grant.is_usable(self.log_time) {
            return Ok(grant);
        }
        Err(Refused::Expired(format!("grant {id} has come to its end: ask for another one")))
    }

    fn known_grant(&self, id: GrantId) -> Result<&Grant, Refused> {
        self.grants.get(&id).ok_or_else(|| {
            Refused::NotFound(format!("there is no grant {id}: list the grants to see them"))
        })
    }
}

impl Grant {
    /// Not at its end, in any way.
    pub fn is_usable(&self, now: Millis) -> bool {
        self.revoked.is_none() && now < self.expires_at && self.used() < self.most_uses
    }

    pub fn used(&self) -> u32 {
        u32::try_from(self.uses.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn entry(&self, action: &str) -> Entry {
        let Scope { agent, host, port, method, path } = &self.scope;
        Entry::new(action, self.id)
            .with("agent", agent)
            .with("host", format_args!("{host}:{port}"))
            .with("method", method)
            .with("path", path)
    }
}

impl Scope {
    pub(super) fn covers(&self, agent: &str, shown: &super::Shown) -> bool {
        self.agent == agent
            && self.host == shown.host
            && self.port == shown.port
            && self.method == shown.method
            && shown.scheme == "https"
            && covers_path(&self.path, &shown.path)
    }
}

/// As it is written on the wire, segment by segment: what some server might take for the same is not covered.
fn covers_path(pattern: &str, path: &str) -> bool {
    // An encoded slash or dot could end a segment somewhere.
    if path.contains('%') && pattern != path {
        return false;
    }
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(segment), Some(first)) if is_rest(segment) => {
                return !first.is_empty() && given.all(|segment| !segment.is_empty());
            }
            (Some(segment), Some(found)) if is_variable(segment) => {
                if found.is_empty() {
                    return false;
                }
            }
            (Some(segment), Some(found)) if segment == found => {}
            _ => return false,
        }
    }
}

fn check_path(pattern: &str) -> Result<(), String> {
    if pattern.len() > PATH_BYTES || !pattern.starts_with('/') {
        return Err(format!("its path starts with / and has at most {PATH_BYTES} bytes"));
    }
    let segments: Vec<_> = pattern.split('/').skip(1).collect();
    for (index, segment) in segments.iter().enumerate() {
        let rest = is_rest(segment);
        if rest && index + 1 < segments.len() {
            return Err("{name...} stands for the rest of its path, so it comes last".into());
        }
        if !rest && !is_variable(segment) && segment.replace("{key}", "").contains(['{', '}', '*'])
        {
            return Err(
                "write {name} for a whole segment of its path, {name...} for the rest".into()
            );
        }
    }
    if segments.len() == 1 && is_rest(segments[0]) {
        return Err("its path would be any path: name at least the first segment".into());
    }
    Ok(())
}

/// `{key}` is where a key goes, not a variable.
fn is_variable(segment: &str) -> bool {
    let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
    name.is_some_and(|name| is_word(name) && name != "key")
}

fn is_rest(segment: &str) -> bool {
    let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix("...}"));
    name.is_some_and(is_word)
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
