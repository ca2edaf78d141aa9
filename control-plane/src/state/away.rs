//! Who is away, until when, and who decides in their place meanwhile.

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::deadline::Due;
use super::name::{REASON_BYTES, clipped};
use super::{
    Actor, ApprovalId, ApprovalState, Done, Event, Millis, Principal, Refused, Role, State,
};

/// Nobody is away for ever: power that was lent comes back by itself.
const LONGEST_MS: Millis = 60 * 24 * 60 * 60 * 1000;

/// Out of office, from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    pub since: Millis,
    /// From then on it counts no more, without anybody doing anything.
    pub until: Millis,
    /// Who may vote in their place wherever they have not voted themselves. It is not handed on further.
    pub stand_in: Option<String>,
    pub reason: String,
}

impl State {
    /// People say it of themselves; an administrator may say it of others. None: back again.
    pub(super) fn set_away(
        &mut self,
        actor: &Actor,
        name: &str,
        away: Option<(Millis, Option<&str>, &str)>,
    ) -> Result<Done, Refused> {
        if !matches!(actor, Actor::Principal(own) if own == name) {
            self.demand_role(actor, &[Role::Admin])?;
        }
        let now = self.log_time;
        if let Some((until, stand_in, _)) = away {
            if until <= now || until > now.saturating_add(LONGEST_MS) {
                return Err(Refused::Invalid(format!(
                    "{name} is not away: the end has to be in the future, at most {} days from now",
                    LONGEST_MS / 86_400_000
                )));
            }
            let able = |other: &str| self.principals.get(other).is_some_and(Principal::is_approver);
            if let Some(other) = stand_in.filter(|other| *other == name || !able(other)) {
                return Err(Refused::Invalid(format!(
                    "{name} is not away: {:?} cannot stand in; name another active approver",
                    clipped(other, REASON_BYTES)
                )));
            }
        }
        let principal = self.active_principal_named(name)?;
        principal.away = away.map(|(until, stand_in, reason)| Away {
            since: now,
            until,
            stand_in: stand_in.map(str::to_owned),
            reason: clipped(reason, REASON_BYTES),
        });
        let entry = match &principal.away {
            None => Entry::new("principal.back", name),
            Some(away) => Entry::new("principal.away", name)
                .with("until", away.until)
                .with("stand_in", away.stand_in.as_deref().unwrap_or_default())
                .with("reason", &away.reason),
        };
        self.await_return();
        let approvals = self.reconsider();
        Ok(Done::changed(Event::PrincipalChanged { name: name.to_owned(), approvals }, entry))
    }

    /// What was approved in somebody's place, and is not any more, waits for people again.
    pub(super) fn end_absences(&mut self) -> Vec<(ApprovalId, ApprovalState, Entry)> {
        self.await_return();
        let changed = self.reconsider();
        let told = |id: ApprovalId| {
            let approval = self.approvals.get(&id)?;
            let entry = Entry::new("approval.reopen", id)
                .with("intent_digest", hex::encode(approval.shown.intent_digest))
                .with("state", approval.state)
                .with("reason", "somebody who stood in for another one does so no more");
            Some((id, approval.state, entry))
        };
        changed.into_iter().filter_map(told).collect()
    }

    /// When the next one is back who is away.
    fn await_return(&mut self) {
        let now = self.log_time;
        let away = self.principals.values().filter(|p| p.active).filter_map(|p| p.away_at(now));
        match away.map(|away| away.until).min() {
            Some(next) => self.deadlines.set(Due::Return, next),
            None => self.deadlines.clear(Due::Return),
        }
    }

    /// Those in whose place a principal may vote now.
    pub(super) fn represented_by(
        &self,
        principal: &Principal,
    ) -> impl Iterator<Item = &Principal> + Clone {
        let now = self.log_time;
        let name = principal.name.clone();
        self.principals.values().filter(move |p| {
            p.active && p.away_at(now).is_some_and(|away| away.stand_in.as_ref() == Some(&name))
        })
    }
}

impl Principal {
    /// If they are away then.
    pub fn away_at(&self, now: Millis) -> Option<&Away> {
        self.away.as_ref().filter(|away| now < away.until)
    }
}
