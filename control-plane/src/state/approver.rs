//! Principals: the people (and their tokens) that operate, approve and audit.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::name::{REASON_BYTES, check_name, clipped, joined};
use super::{Account, Actor, Away, Done, Event, Millis, Refused, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    Admin,
    Approver,
    Auditor,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Principal {
    pub name: String,
    pub roles: BTreeSet<Role>,
    pub groups: BTreeSet<String>,
    pub token_sha256: [u8; 32],
    pub active: bool,
    pub created_at: Millis,
    /// Out of office, perhaps no more: ask [`Principal::away_at`].
    pub away: Option<Away>,
    /// Chat accounts that speak for them.
    pub accounts: BTreeSet<Account>,
}

impl State {
    /// A removed principal's name can be taken again; the votes that were cast under it stay withdrawn.
    pub(super) fn add_principal(
        &mut self,
        actor: &Actor,
        name: &str,
        roles: &BTreeSet<Role>,
        groups: &BTreeSet<String>,
        token_sha256: &[u8; 32],
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        check_name("a principal", name)?;
        groups.iter().try_for_each(|group| check_name("a group", group))?;
        if self.principals.get(name).is_some_and(|p| p.active) {
            return Err(Refused::AlreadyExists(format!(
                "{name} was not added: there is a principal of that name; choose another name, or rotate the token"
            )));
        }
        let principal = Principal {
            name: name.to_owned(),
            roles: roles.clone(),
            groups: groups.clone(),
            token_sha256: *token_sha256,
            active: true,
            created_at: self.log_time,
            away: None,
            accounts: BTreeSet::new(),
        };
        let entry = Entry::new("principal.add", name)
            .with("roles", joined(roles.iter().map(Role::to_string)))
            .with("groups", joined(groups.iter().cloned()));
        self.principals.insert(name.to_owned(), principal);
        Ok(Done::changed(principal_changed(name), entry))
    }

    pub(super) fn rotate_principal(
        &mut self,
        actor: &Actor,
        name: &str,
        token_sha256: &[u8; 32],
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let principal = self.active_principal_named(name)?;
        principal.token_sha256 = *token_sha256;
        Ok(Done::changed(principal_changed(name), Entry::new("principal.rotate", name)))
    }

    /// From here on the principal's votes count nowhere: what was approved with their help, and is not without it,
    /// waits for others again; and what too few are left to approve is denied, so that nobody waits for it.
    pub(super) fn remove_principal(&mut self, actor: &Actor, name: &str) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let is_admin = |p: &Principal| p.active && p.roles.contains(&Role::Admin);
        let other_admins = self.principals.values().any(|p| is_admin(p) && p.name != name);
        let principal = self.active_principal_named(name)?;
        if is_admin(principal) && !other_admins {
            return Err(Refused::Precondition(format!(
                "{name} was not removed: nobody else is an administrator; add another one first"
            )));
        }
        principal.active = false;
        principal.away = None;
        principal.accounts.clear();
        self.withdraw_votes(name);
        let mut approvals = self.reconsider();
        let entry = Entry::new("principal.remove", name)
            .with("reopened", joined(approvals.iter().map(ToString::to_string)));
        let mut records = vec![entry];
        for (id, entry) in self.deny_impossible() {
            approvals.push(id);
            records.push(entry);
        }
        approvals.sort_unstable();
        approvals.dedup();
        Ok(Done { event: Event::PrincipalChanged { name: name.to_owned(), approvals }, records })
    }

    /// Which groups a principal belongs to, all of them. What was approved by their vote and is not any more waits for
    /// others; what nobody can approve any more is denied.
    pub(super) fn set_groups(
        &mut self,
        actor: &Actor,
        name: &str,
        groups: &BTreeSet<String>,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        groups.iter().try_for_each(|group| check_name("a group", group))?;
        let principal = self.active_principal_named(name)?;
        if principal.groups == *groups {
            return Ok(Done::unchanged(principal_changed(name)));
        }
        principal.groups.clone_from(groups);
        let entry =
            Entry::new("principal.groups", name).with("groups", joined(groups.iter().cloned()));
        let mut approvals = self.reconsider();
        let mut records = vec![entry];
        for (id, entry) in self.deny_impossible() {
            approvals.push(id);
            records.push(entry);
        }
        approvals.sort_unstable();
        approvals.dedup();
        Ok(Done { event: Event::PrincipalChanged { name: name.to_owned(), approvals }, records })
    }

    pub(super) fn active_principal_named(&mut self, name: &str) -> Result<&mut Principal, Refused> {
        self.principals.get_mut(name).filter(|p| p.active).ok_or_else(|| {
            Refused::NotFound(format!(
                "there is no active principal {:?}: list the principals to see their names",
                clipped(name, REASON_BYTES)
            ))
        })
    }
}

fn principal_changed(name: &str) -> Event {
    Event::PrincipalChanged { name: name.to_owned(), approvals: Vec::new() }
}

impl Principal {
    pub(super) fn is_approver(&self) -> bool {
        self.active && self.roles.contains(&Role::Approver)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Approver => "approver",
            Self::Auditor => "auditor",
        })
    }
}
