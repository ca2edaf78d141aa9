//! The beginning: once, and everything else after it.

use std::collections::BTreeSet;

use super::audit::Entry;
use super::{Done, Event, Genesis, Principal, Refused, Role, State, name};

/// Who can do everything on the first day.
const FIRST_PRINCIPAL: &str = "admin";

impl State {
    pub(super) fn begin(&mut self, genesis: &Genesis) -> Result<Done, Refused> {
        if let Some(begun) = &self.genesis {
            return Err(Refused::AlreadyExists(format!(
                "cluster {} has begun already: a cluster begins once",
                begun.cluster_id
            )));
        }
        name::check_id("a cluster", &genesis.cluster_id)?;
        name::check_id("an organization", &genesis.org_id)?;
        self.genesis = Some(Box::new(genesis.clone()));
        self.principals.insert(
            FIRST_PRINCIPAL.to_owned(),
            Principal {
                name: FIRST_PRINCIPAL.to_owned(),
                roles: BTreeSet::from([Role::Admin, Role::Approver, Role::Auditor]),
                groups: BTreeSet::new(),
                token_sha256: genesis.admin_token_sha256,
                active: true,
                created_at: self.log_time,
            },
        );
        let entry = Entry::new("cluster.begin", &genesis.cluster_id)
            .with("organization", &genesis.org_id)
            .with("node", genesis.node_id)
            .with("node_public_key", hex::encode(genesis.node_public_key))
            .with("root_public_key", hex::encode(genesis.root_public_key))
            .with("principal", FIRST_PRINCIPAL);
        Ok(Done::changed(Event::Began, entry))
    }
}
