//! Nodes of the cluster: invited by name, joined with a one-time token, removed for ever. Ids are never used again.

use std::collections::BTreeSet;

use countersign_gate::{KeyState, NodeKey, Trust};
use serde::{Deserialize, Serialize};

use super::audit::{Entry, put_text};
use super::name::{REASON_BYTES, check_name, clipped, joined};
use super::{Actor, Done, Event, KeySignature, Millis, Refused, Role, SignedBytes, State};

/// How long an invitation is good for, how often its token may be got wrong, and how many are open at a time.
const INVITATION_MS: Millis = 10 * 60 * 1000;
const TRIES: u8 = 5;
const INVITATIONS: usize = 64;
/// A node signs with the key it is about to leave and the one it goes to, and no more.
const KEYS: usize = 2;
/// Of one address, and how many a node may name.
const ADDRESS_BYTES: usize = 300;
const OWN: usize = 256;

/// DSSE payload type of [`new_key_payload`].
pub const NEW_KEY_TYPE: &str = "application/vnd.countersign.node-key.v1";

/// What a node signs with a key of its own when it makes itself another one: nobody else can name a key for it.
pub fn new_key_payload(cluster_id: &str, node: u64, public_key: &[u8; 32]) -> Vec<u8> {
    let mut out = b"countersign/v1/node-key\0".to_vec();
    put_text(&mut out, cluster_id);
    out.extend(node.to_be_bytes());
    out.extend(public_key);
    out
}

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
        self.invitations.values().filter(|invitation| invitation.is_open(self.log_time))
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
        if self.invitations().filter(|open| open.name != name).count() >= INVITATIONS {
            return Err(Refused::Precondition(format!(
                "nobody was invited: {INVITATIONS} invitations are open; wait until one was used or has expired"
            )));
        }
        let expires_at = self.log_time.saturating_add(INVITATION_MS);
        let invitation = Invitation {
            name: name.to_owned(),
            token_sha256: *token_sha256,
            expires_at,
            tries_left: TRIES,
        };
        let now = self.log_time;
        self.invitations.retain(|_, invitation| invitation.is_open(now));
        self.invitations.insert(name.to_owned(), invitation);
        let entry = Entry::new("node.invite", name).with("expires_at", expires_at);
        Ok(Done::changed(Event::NodeInvited { name: name.to_owned(), expires_at }, entry))
    }

    /// A wrong token costs the invitation one of its tries, and is recorded. Without an open invitation there is
    /// the same answer and no record: nobody who was not invited can make the log grow.
    pub(super) fn join_node(
        &mut self,
        actor: &Actor,
        token_sha256: &[u8; 32],
        joining: &Node,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[])?;
        let name = clipped(&joining.name, REASON_BYTES);
        let now = self.log_time;
        let invitation = self.invitations.get_mut(&joining.name).filter(|i| i.is_open(now));
        let Some(invitation) = invitation else {
            return Ok(Done::unchanged(Event::JoinRefused { name }));
        };
        if invitation.token_sha256 != *token_sha256 {
            invitation.tries_left -= 1;
            let entry = Entry::new("node.join_refused", &name)
                .with("why", "wrong token")
                .with("tries_left", invitation.tries_left);
            return Ok(Done::changed(Event::JoinRefused { name }, entry));
        }
        let [public_key] = joining.public_keys[..] else {
            return Err(Refused::Invalid(format!(
                "node {name} did not join: it names {} signing keys, and a node begins with one",
                joining.public_keys.len()
            )));
        };
        joining.addresses.check()?;
        if joining.id == 0 || self.nodes.contains_key(&joining.id) {
            return Err(Refused::AlreadyExists(format!(
                "node {name} did not join: its id was used before, and ids are never used again; let it join under another one"
            )));
        }
        if self.is_key_known(&public_key) {
            return Err(Refused::AlreadyExists(format!(
                "node {name} did not join: its signing key is another node's; start it with an empty data directory"
            )));
        }
        self.invitations.remove(&joining.name);
        let node = Node { removed: false, joined_at: now, ..joining.clone() };
        let entry = node.entry("node.join");
        let id = node.id;
        self.nodes.insert(id, node);
        self.joins_under_newest_cas(id);
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
        addresses.check()?;
        let node = self.member(id)?;
        if node.addresses == *addresses {
            return Ok(Done::unchanged(Event::NodeChanged { id }));
        }
        node.addresses = addresses.clone();
        let entry = node.entry("node.describe");
        Ok(Done::changed(Event::NodeChanged { id }, entry))
    }

    /// A node made itself another signing key, and signed for it with one that it had. Of more than two, one goes
    /// that no bundle names, or that is retired; never one that is active.
    pub(super) fn add_node_key(
        &mut self,
        actor: &Actor,
        id: u64,
        public_key: &[u8; 32],
        by_former: &[u8],
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let trust = self.trust();
        let cluster = self.genesis().map(|genesis| genesis.cluster_id.clone()).unwrap_or_default();
        let known = self.is_key_known(public_key);
        let node = self.member(id)?;
        if node.public_keys.last() == Some(public_key) {
            return Ok(Done::unchanged(Event::NodeChanged { id }));
        }
        if known {
            return Err(Refused::AlreadyExists(
                "the key was not added: it is in use already; make another one".into(),
            ));
        }
        if !node.signed(&new_key_payload(&cluster, id, public_key), by_former) {
            return Err(Refused::Denied(format!(
                "the key was not added: none of the keys of node {} signed for it",
                node_name(id)
            )));
        }
        if node.public_keys.len() >= KEYS {
            let standing = |public: &[u8; 32]| {
                let keys = trust.as_ref().map_or(&[][..], |trust| &trust.keys);
                keys.iter().find(|key| key.public == *public).map(|key| key.state)
            };
            let dispensable = [None, Some(KeyState::Revoked), Some(KeyState::Next)];
            let place =
                node.public_keys.iter().position(|key| dispensable.contains(&standing(key)));
            let retired = |key: &[u8; 32]| standing(key) == Some(KeyState::Retired);
            let place = place.or_else(|| node.public_keys.iter().position(retired));
            let Some(place) = place else {
                return Err(Refused::Precondition(
                    "the key was not added: edges count both keys that this node has; sign the next trust bundle first"
                        .into(),
                ));
            };
            node.public_keys.remove(place);
        }
        node.public_keys.push(*public_key);
        let entry = node.entry("node.key");
        Ok(Done::changed(Event::NodeChanged { id }, entry))
    }

    /// From here on no node takes it for one of this cluster, nor its signatures for anything; edges still count
    /// them until a trust bundle is signed without it. It cannot go when too few would be left to sign anything.
    pub(super) fn remove_node(
        &mut self,
        actor: &Actor,
        id: u64,
        reason: &str,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        self.member(id)?;
        if self.nodes.values().all(|node| node.removed || node.id == id) {
            return Err(Refused::Precondition(
                "nothing was removed: it is the only node of this cluster".into(),
            ));
        }
        if let Some(trust) = self.signers() {
            let (going, staying): (Vec<_>, Vec<_>) =
                signing_nodes(&trust).partition(|node| *node == id);
            let left = staying.len();
            if !going.is_empty() && left < trust.threshold as usize {
                return Err(Refused::Precondition(format!(
                    "nothing was removed: edges demand the signatures of {} nodes, and {left} of those that they count would be left; \
                     add another node and sign the trust bundle with it first",
                    trust.threshold
                )));
            }
        }
        let node = self.member(id)?;
        node.removed = true;
        let entry = node.entry("node.remove").with("reason", clipped(reason, REASON_BYTES));
        let entry = self.end_former_cas(entry);
        Ok(Done::changed(Event::NodeChanged { id }, entry))
    }

    fn member(&mut self, id: u64) -> Result<&mut Node, Refused> {
        self.nodes.get_mut(&id).filter(|node| !node.removed).ok_or_else(|| no_node(id))
    }

    /// Of any node that there ever was.
    pub(super) fn is_key_known(&self, public_key: &[u8; 32]) -> bool {
        self.nodes.values().any(|node| node.public_keys.contains(public_key))
    }
}

impl Addresses {
    pub(super) fn check(&self) -> Result<(), Refused> {
        let Self { cluster, api, gateway, own } = self;
        let mut all = [cluster, api, gateway].into_iter().chain(own);
        if own.len() <= OWN && all.all(|address| address.len() <= ADDRESS_BYTES) {
            return Ok(());
        }
        Err(Refused::Invalid(format!(
            "the node's addresses were not taken: there are more than {OWN} of them, or one is longer than {ADDRESS_BYTES} bytes"
        )))
    }
}

impl Invitation {
    fn is_open(&self, now: Millis) -> bool {
        self.expires_at > now && self.tries_left > 0
    }
}

impl Node {
    /// Whether one of its keys made this signature over a [`NEW_KEY_TYPE`].
    fn signed(&self, payload: &[u8], signature: &[u8]) -> bool {
        let key =
            |public: &[u8; 32]| NodeKey { node: self.id, public: *public, state: KeyState::Active };
        let itself = Trust {
            cluster: String::new(),
            epoch: 0,
            threshold: 1,
            keys: self.public_keys.iter().map(key).collect(),
        };
        let signature = KeySignature { key_id: Vec::new(), signature: signature.to_vec() };
        let signed = SignedBytes { payload: payload.to_vec(), signatures: vec![signature] };
        itself.check(&signed.as_type(NEW_KEY_TYPE), NEW_KEY_TYPE).is_ok()
    }

    pub(super) fn entry(&self, action: &str) -> Entry {
        Entry::new(action, &self.name)
            .with("id", node_name(self.id))
            .with("cluster_address", &self.addresses.cluster)
            .with("api_address", &self.addresses.api)
            .with("gateway_address", &self.addresses.gateway)
            .with("public_keys", joined(self.public_keys.iter().map(hex::encode)))
    }
}

pub(super) fn no_node(id: u64) -> Refused {
    Refused::NotFound(format!(
        "there is no node {} in this cluster: `countersign cluster status` lists them",
        node_name(id)
    ))
}

/// A node id as people see it: 16 hexadecimal digits.
pub fn node_name(id: u64) -> String {
    format!("{id:016x}")
}

/// Nodes with a key that counts, each once.
pub(super) fn signing_nodes(trust: &Trust) -> impl Iterator<Item = u64> {
    let live =
        trust.keys.iter().filter(|key| matches!(key.state, KeyState::Active | KeyState::Retired));
    live.map(|key| key.node).collect::<BTreeSet<_>>().into_iter()
}
