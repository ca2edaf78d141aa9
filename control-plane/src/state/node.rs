//! Nodes of the cluster: invited by name, joined with a one-time token, removed for ever. Ids are never used again.

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::name::{REASON_BYTES, check_name, clipped};
use super::{Actor, Done, Event, Millis, Refused, Role, State};

/// How long an invitation is good for, and how often its token may be got wrong.
const INVITATION_MS: Millis = 10 * 60 * 1000;
const TRIES: u8 = 5;
/// A node signs with the key it is about to leave and the one it goes to, and no more.
const KEYS: usize = 2;

/// A node, member of the Raft group or not yet or no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: u64,
    pub name: String,
    pub addresses: Addresses,
    /// Ed25519: what it signs with, oldest first. Which of them count, the trust bundle says.
    pub public_keys: Vec<[u8; 32]>,
    pub removed: bool,
    pub joined_at: Millis,
}

/// Where a node is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// host:port of its listener for nodes; empty on a node that cannot have peers.
    pub cluster: String,
    pub api: String,
    pub gateway: String,
    /// `host` or `host:port` that no edge may dial: its own listeners.
    pub own: Vec<String>,
}

/// A name that a node may join under, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Invitation {
    pub name: String,
    pub token_sha256: [u8; 32],
    pub expires_at: Millis,
    pub tries_left: u8,
}

impl State {
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    pub fn node(&self, id: u64) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The one of that name that was not removed.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.values().find(|node| node.name == name && !node.removed)
    }

    /// Invitations that can still be used.
    pub fn invitations(&self) -> impl Iterator<Item = &Invitation> {
        self.invitations.values().filter(|i| i.expires_at > self.log_time && i.tries_left > 0)
    }

    pub(super) fn invite_node(
        &mut self,
        actor: &Actor,
        name: &str,
        token_sha256: &[u8; 32],
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        check_name("a node", name)?;
        if self.node_named(name).is_some() {
            return Err(Refused::AlreadyExists(format!(
                "nobody was invited: there is a node {name}; remove it first, or choose another name"
            )));
        }
        let expires_at = self.log_time.saturating_add(INVITATION_MS);
        let invitation = Invitation {
            name: name.to_owned(),
            token_sha256: *token_sha256,
            expires_at,
            tries_left: TRIES,
        };
        self.invitations.retain(|_, i| i.expires_at > self.log_time && i.tries_left > 0);
        self.invitations.insert(name.to_owned(), invitation);
        let entry = Entry::new("node.invite", name).with("expires_at", expires_at);
        Ok(Done::changed(Event::NodeInvited { name: name.to_owned(), expires_at }, entry))
    }

    /// A wrong token costs the invitation one of its tries, and is recorded.
    pub(super) fn join_node(
        &mut self,
        actor: &Actor,
        token_sha256: &[u8; 32],
        joining: &Node,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[])?;
        let name = clipped(&joining.name, REASON_BYTES);
        let now = self.log_time;
        let Some(invitation) = self
            .invitations
            .get_mut(&joining.name)
            .filter(|i| i.expires_at > now && i.tries_left > 0)
        else {
            return Ok(Done::changed(
                Event::JoinRefused { name: name.clone() },
                Entry::new("node.join_refused", &name).with("why", "no open invitation"),
            ));
        };
        if invitation.token_sha256 != *token_sha256 {
            invitation.tries_left -= 1;
            let left = invitation.tries_left;
            return Ok(Done::changed(
                Event::JoinRefused { name: name.clone() },
                Entry::new("node.join_refused", &name)
                    .with("why", "wrong token")
                    .with("tries_left", left),
            ));
        }
        if self.nodes.contains_key(&joining.id) || joining.public_keys.len() != 1 {
            return Err(Refused::Precondition(format!(
                "node {name} did not join: its id was used before, or it has not exactly one key; start it anew"
            )));
        }
        if self.nodes.values().any(|node| node.public_keys.contains(&joining.public_keys[0])) {
            return Err(Refused::AlreadyExists(format!(
                "node {name} did not join: its signing key is another node's; start it with an empty data directory"
            )));
        }
        self.invitations.remove(&joining.name);
        let node = Node { removed: false, joined_at: now, ..joining.clone() };
        let entry = node.entry("node.join");
        let id = node.id;
        self.nodes.insert(id, node);
        Ok(Done::changed(Event::NodeChanged { id }, entry))
    }

    /// A node says where it is found now.
    pub(super) fn describe_node(
        &mut self,
        actor: &Actor,
        id: u64,
        addresses: &Addresses,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[])?;
        let node =
            self.nodes.get_mut(&id).filter(|node| !node.removed).ok_or_else(|| no_node(id))?;
        if node.addresses == *addresses {
            return Ok(Done::unchanged(Event::NodeChanged { id }));
        }
        node.addresses = addresses.clone();
        let entry = node.entry("node.describe");
        Ok(Done::changed(Event::NodeChanged { id }, entry))
    }

    /// A node made itself another signing key; the oldest of more than two goes.
    pub(super) fn add_node_key(
        &mut self,
        actor: &Actor,
        id: u64,
        public_key: &[u8; 32],
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        if self.nodes.values().any(|node| node.public_keys.contains(public_key)) {
            return Err(Refused::AlreadyExists("the key was not added: it is in use".into()));
        }
        let node =
            self.nodes.get_mut(&id).filter(|node| !node.removed).ok_or_else(|| no_node(id))?;
        node.public_keys.push(*public_key);
        let surplus = node.public_keys.len().saturating_sub(KEYS);
        node.public_keys.drain(..surplus);
        let entry = node.entry("node.key");
        Ok(Done::changed(Event::NodeChanged { id }, entry))
    }

    pub(super) fn remove_node(
        &mut self,
        actor: &Actor,
        id: u64,
        reason: &str,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        if self.nodes.values().filter(|node| !node.removed && node.id != id).count() == 0 {
            return Err(Refused::Precondition(
                "nothing was removed: it is the only node of this cluster".into(),
            ));
        }
        let node =
            self.nodes.get_mut(&id).filter(|node| !node.removed).ok_or_else(|| no_node(id))?;
        node.removed = true;
        let entry = node.entry("node.remove").with("reason", clipped(reason, REASON_BYTES));
        Ok(Done::changed(Event::NodeChanged { id }, entry))
    }
}

impl Node {
    fn entry(&self, action: &str) -> Entry {
        let keys = self.public_keys.iter().map(hex::encode).collect::<Vec<_>>().join(",");
        Entry::new(action, &self.name)
            .with("id", node_name(self.id))
            .with("cluster_address", &self.addresses.cluster)
            .with("api_address", &self.addresses.api)
            .with("gateway_address", &self.addresses.gateway)
            .with("public_keys", keys)
    }
}

/// A node id as people see it: 16 hexadecimal digits.
pub fn node_name(id: u64) -> String {
    format!("{id:016x}")
}

fn no_node(id: u64) -> Refused {
    Refused::NotFound(format!(
        "there is no node {} in this cluster: `countersign cluster status` lists them",
        node_name(id)
    ))
}
