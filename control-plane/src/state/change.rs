//! What one administrator may not do alone: it waits until a second one has looked at it.
//!
//! As soon as there are two administrators, whatever lets more through, or lets fewer people decide, takes both:
//! a policy that is not known to be narrower, another person who may decide or administer, somebody else's token, a
//! wider group, power lent in another's name. What takes power away is done at once: it may be urgent.

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::deadline::Due;
use super::name::{REASON_BYTES, clipped};
use super::{Actor, Command, Done, Event, Millis, Principal, Refused, Role, State};

const WAITS_MS: Millis = 24 * 60 * 60 * 1000;
/// Waiting at once: more than people read.
const WAITING: usize = 64;

/// A command that waits for a second administrator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// From 1; never used again.
    pub id: u64,
    pub command: Box<Command>,
    /// The administrator who asked for it; whoever confirms it is another one.
    pub by: String,
    pub at: Millis,
    pub expires_at: Millis,
}

impl State {
    /// Puts a command aside when its actor may not do it alone.
    pub(super) fn put_aside(
        &mut self,
        actor: &Actor,
        command: &Command,
    ) -> Result<Option<Done>, Refused> {
        let Actor::Principal(by) = actor else { return Ok(None) };
        if !self.takes_two(by, command) || self.administrators().count() < 2 {
            return Ok(None);
        }
        self.demand_role(actor, &[Role::Admin])?;
        if self.changes.len() >= WAITING {
            return Err(Refused::Precondition(format!(
                "nothing was changed: {WAITING} changes wait for a second administrator already; \
                 confirm or reject some first"
            )));
        }
        self.last_change += 1;
        let id = self.last_change;
        let expires_at = self.log_time.saturating_add(WAITS_MS);
        let change = Change {
            id,
            command: Box::new(command.clone()),
            by: by.clone(),
            at: self.log_time,
            expires_at,
        };
        let entry = change.entry("change.propose");
        self.changes.insert(id, change);
        self.deadlines.set(Due::Change(id), expires_at);
        Ok(Some(Done::changed(Event::ChangeProposed { id }, entry)))
    }

    /// The command is carried out now, as its proposer's, if the proposer may still ask for it.
    pub(super) fn confirm_change(&mut self, actor: &Actor, id: u64) -> Result<Done, Refused> {
        let by = self.second(actor, id)?;
        let change = self.known_change(id)?.clone();
        let proposer = Actor::Principal(change.by.clone());
        self.demand_role(&proposer, &[Role::Admin])?;
        let done = self.carry_out_at_once(&proposer, &change.command)?;
        self.forget_change(id);
        let entry = change.entry("change.confirm").with("confirmed_by", by);
        let records = std::iter::once(entry).chain(done.records).collect();
        Ok(Done { event: done.event, records })
    }

    /// By anyone who administers, the proposer too.
    pub(super) fn reject_change(
        &mut self,
        actor: &Actor,
        id: u64,
        reason: &str,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let entry = self.known_change(id)?.entry("change.reject");
        self.forget_change(id);
        let entry = entry.with("reason", clipped(reason, REASON_BYTES));
        Ok(Done::changed(Event::ChangeSettled { id }, entry))
    }

    pub(super) fn expire_change(&mut self, id: u64) -> Option<Entry> {
        self.changes.remove(&id).map(|change| change.entry("change.expire"))
    }

    pub(super) fn administrators(&self) -> impl Iterator<Item = &Principal> {
        self.principals.values().filter(|p| p.active && p.roles.contains(&Role::Admin))
    }

    fn takes_two(&self, by: &str, command: &Command) -> bool {
        let decides = |roles: &std::collections::BTreeSet<Role>| {
            roles.contains(&Role::Admin) || roles.contains(&Role::Approver)
        };
        match command {
            Command::AddPrincipal { roles, .. } => decides(roles),
            Command::RotatePrincipal { name, .. } => {
                name != by && self.principals.get(name).is_some_and(|p| decides(&p.roles))
            }
            // Otherwise one could be rid of the other, and alone.
            Command::RemovePrincipal { name } => {
                name != by
                    && self.principals.get(name).is_some_and(|p| p.roles.contains(&Role::Admin))
            }
            Command::SetGroups { name, groups } => {
                let had = self.principals.get(name).map(|p| &p.groups);
                had.is_some_and(|had| groups.iter().any(|group| !had.contains(group)))
            }
            // Whoever chose the secrets of a channel could answer in the names of others.
            Command::SetChannel(_) => true,
            Command::SetAway { name, stand_in, .. } => name != by && stand_in.is_some(),
            Command::SetOwner { .. } => true,
            Command::SetPolicy { narrows, expected_version, .. } => {
                !narrows || expected_version.is_none()
            }
            _ => false,
        }
    }

    /// The name of the administrator who is not the proposer.
    fn second(&self, actor: &Actor, id: u64) -> Result<String, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let change = self.known_change(id)?;
        match actor {
            Actor::Principal(name) if *name != change.by => Ok(name.clone()),
            _ => Err(Refused::Denied(format!(
                "change {id} was not made: {} asked for it, and another administrator has to confirm it",
                change.by
            ))),
        }
    }

    fn known_change(&self, id: u64) -> Result<&Change, Refused> {
        self.changes.get(&id).ok_or_else(|| {
            Refused::NotFound(format!(
                "there is no change {id} that waits: it was made, rejected, or forgotten after a day"
            ))
        })
    }

    fn forget_change(&mut self, id: u64) {
        self.changes.remove(&id);
        self.deadlines.clear(Due::Change(id));
    }
}

impl Change {
    /// What it would do, for those who decide about it.
    pub fn summary(&self) -> String {
        match &*self.command {
            Command::AddPrincipal { name, roles, groups, .. } => format!(
                "add {name} with the roles {} and the groups {}",
                list(roles.iter()),
                list(groups.iter())
            ),
            Command::RotatePrincipal { name, .. } => format!("give {name} another token"),
            Command::RemovePrincipal { name } => format!("remove the administrator {name}"),
            Command::SetGroups { name, groups } => {
                format!("put {name} into the groups {}", list(groups.iter()))
            }
            Command::SetAway { name, stand_in, .. } => format!(
                "let {} decide in the place of {name}",
                stand_in.as_deref().unwrap_or("nobody")
            ),
            Command::SetOwner { agent, owner } => {
                format!("make {} the owner of {agent}", owner.as_deref().unwrap_or("nobody"))
            }
            Command::SetPolicy { sha256, text, .. } => format!(
                "put a policy of {} bytes in force, SHA-256 {}",
                text.len(),
                hex::encode(sha256)
            ),
            Command::SetChannel(channel) => {
                let settings =
                    channel.settings.iter().map(|(name, value)| format!("{name}={value}"));
                format!(
                    "connect channel {} of {} with {}",
                    channel.name,
                    channel.platform,
                    list(settings)
                )
            }
            // Nothing else is ever put aside.
            _ => "something else".to_owned(),
        }
    }

    fn entry(&self, action: &str) -> Entry {
        Entry::new(action, self.id).with("by", &self.by).with("what", self.summary())
    }
}

fn list(items: impl Iterator<Item = impl ToString>) -> String {
    let items: Vec<_> = items.map(|item| item.to_string()).collect();
    if items.is_empty() { "(none)".to_owned() } else { items.join(", ") }
}
