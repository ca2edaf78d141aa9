//! The beginning: once, and everything else after it.

use std::collections::BTreeSet;

use countersign_gate::{TRUST_TYPE, Trust};

use super::audit::Entry;
use super::name::joined;
use super::node::node_name;
use super::{Done, Event, Genesis, Node, Principal, Refused, Role, State, name, trust};

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
        name::check_name("a node", &genesis.node.name)?;
        let not = |why: String| Refused::Invalid(format!("the cluster did not begin: {why}"));
        let trust =
            Trust::accept(&genesis.trust.as_type(TRUST_TYPE), &genesis.root_public_key, None)
                .map_err(|_| not("its first trust bundle is not signed by its root key".into()))?;
        if trust.cluster != genesis.cluster_id || genesis.node.removed {
            return Err(not("its node, or its first trust bundle, is of another cluster".into()));
        }
        let node = &genesis.node;
        trust::check_keys(&trust, |id, public| id == node.id && node.public_keys.contains(public))
            .map_err(|why| not(format!("of its first trust bundle, {why}")))?;
        self.genesis = Some(Box::new(genesis.clone()));
        self.edge_ca = Some(Box::new(genesis.edge_ca()));
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
                away: None,
                accounts: BTreeSet::new(),
            },
        );
        let entry = Entry::new("cluster.begin", &genesis.cluster_id)
            .with("organization", &genesis.org_id)
            .with("node", node_name(genesis.node.id))
            .with("node_public_keys", joined(genesis.node.public_keys.iter().map(hex::encode)))
            .with("root_public_key", hex::encode(genesis.root_public_key))
            .with("principal", FIRST_PRINCIPAL);
        Ok(Done::changed(Event::Began, trust::describe(entry, &trust, &genesis.trust)))
    }
}
