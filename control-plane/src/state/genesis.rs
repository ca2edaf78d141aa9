//! The beginning: once, and everything else after it.

use std::collections::BTreeSet;

use countersign_gate::{TRUST_TYPE, Trust};

use super::audit::Entry;
use super::name::joined;
use super::node::node_name;
use super::{Done, Event, Genesis, Node, Principal, Refused, Role, State, name};

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
        let trusted =
            Trust::accept(&genesis.trust.as_type(TRUST_TYPE), &genesis.root_public_key, None);
        if trusted.is_err() || genesis.node.removed {
            return Err(Refused::Invalid(
                "the cluster did not begin: its first trust bundle is not signed by its root key"
                    .into(),
            ));
        }
        self.genesis = Some(Box::new(genesis.clone()));
        self.nodes
            .insert(genesis.node.id, Node { joined_at: self.log_time, ..genesis.node.clone() });
        self.trust_bundles.push(genesis.trust.clone());
        self.seal_file = genesis.seal_file.clone();
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
            .with("node", node_name(genesis.node.id))
            .with("node_public_keys", joined(genesis.node.public_keys.iter().map(hex::encode)))
            .with("root_public_key", hex::encode(genesis.root_public_key))
            .with("principal", FIRST_PRINCIPAL);
        Ok(Done::changed(Event::Began, entry))
    }
}
