//! The CA that signs what nodes show to each other: one signs at a time. Nodes go over to a new one by themselves, and
//! until the last of them has, the one before counts too.
//!
//! Nodes prove themselves to each other in both directions, and a node that was away knows the former CA alone: it would
//! take nobody's word that there is another. So the former signs the new one once more ([`FormerNodeCa::bridge_pem`]),
//! and what a node shows meanwhile leads to either.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::audit::Entry;
use super::node::node_name;
use super::{Actor, Done, Event, Genesis, Node, Payload, Refused, Role, State};

const LARGEST: usize = 16 * 1024;

/// The CA whose certificates nodes are given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeCa {
    /// 1 is the one that the cluster began with.
    pub number: u64,
    pub certificate_pem: String,
    /// Sealed; PEM.
    pub key: Payload,
    pub former: Option<FormerNodeCa>,
    /// Nodes that show a certificate of it.
    shown_by: BTreeSet<u64>,
}

/// The CA before: its certificates count still, and nobody has its key any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FormerNodeCa {
    pub certificate_pem: String,
    /// The new CA's name and key, in a certificate that this one signed.
    pub bridge_pem: String,
}

impl NodeCa {
    /// All whose certificates count, PEM.
    pub fn trusted_pem(&self) -> String {
        let former = self.former.iter().map(|former| &former.certificate_pem);
        let each = [&self.certificate_pem].into_iter().chain(former);
        each.map(|pem| format!("{}\n", pem.trim_end())).collect()
    }
}

impl Genesis {
    /// The first one.
    pub fn node_ca(&self) -> NodeCa {
        NodeCa {
            number: 1,
            certificate_pem: self.node_ca_pem.clone(),
            key: self.node_ca_key.clone(),
            former: None,
            shown_by: BTreeSet::new(),
        }
    }
}

impl State {
    /// None before the cluster began.
    pub fn node_ca(&self) -> Option<Cow<'_, NodeCa>> {
        let first = || self.genesis().map(|genesis| Cow::Owned(genesis.node_ca()));
        self.node_ca.as_deref().map(Cow::Borrowed).or_else(first)
    }

    /// Members that did not say yet that they show a certificate of the newest CA.
    pub fn nodes_to_renew(&self) -> impl Iterator<Item = &Node> {
        let members = self.node_ca.iter().flat_map(|ca| {
            self.nodes().filter(|node| !node.removed && !ca.shown_by.contains(&node.id))
        });
        members
    }

    /// `number` must be the next one: of two who change it at once, one does.
    pub(super) fn rotate_node_ca(
        &mut self,
        actor: &Actor,
        number: u64,
        certificate_pem: &str,
        bridge_pem: &str,
        key: &Payload,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let Some(ca) = self.node_ca() else { return Err(not_begun()) };
        if ca.former.is_some() {
            let left: Vec<_> = self.nodes_to_renew().map(|node| node.name.as_str()).collect();
            return Err(Refused::Precondition(format!(
                "the nodes' CA was not changed: certificates of CA {} count still, since these nodes show no newer one: {}; unseal them or remove them, or finish that change first",
                ca.number.saturating_sub(1),
                left.join(", ")
            )));
        }
        if number != ca.number.saturating_add(1) {
            return Err(Refused::Precondition(
                "the nodes' CA was not changed: somebody else changed it meanwhile; look again"
                    .into(),
            ));
        }
        let is_one = |pem: &str| !pem.is_empty() && pem.len() <= LARGEST;
        if !is_one(certificate_pem) || !is_one(bridge_pem) {
            return Err(Refused::Invalid(
                "the nodes' CA was not changed: the new one has no certificate of its own, or none that the one before signed"
                    .into(),
            ));
        }
        let former = FormerNodeCa {
            certificate_pem: ca.certificate_pem.clone(),
            bridge_pem: bridge_pem.to_owned(),
        };
        self.node_ca = Some(Box::new(NodeCa {
            number,
            certificate_pem: certificate_pem.to_owned(),
            key: key.clone(),
            former: Some(former),
            shown_by: BTreeSet::new(),
        }));
        let entry = Entry::new("node_ca.rotate", number)
            .with("sha256", hex::encode(Sha256::digest(certificate_pem)));
        Ok(Done::changed(Event::NodeCaChanged { number }, entry))
    }

    /// A node shows a certificate of this CA. With the last of them, the former CA counts no more.
    pub(super) fn renew_node(
        &mut self,
        actor: &Actor,
        id: u64,
        number: u64,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[])?;
        let Some(node) = self.node(id).filter(|node| !node.removed) else {
            return Err(super::node::no_node(id));
        };
        let event = Event::NodeRenewed { id };
        let entry =
            Entry::new("node.renew", &node.name).with("id", node_name(id)).with("ca", number);
        // What it shows of a CA that signs no more is no news.
        let newest = self.node_ca.as_deref_mut().filter(|ca| ca.number == number);
        if !newest.is_some_and(|ca| ca.shown_by.insert(id)) {
            return Ok(Done::unchanged(event));
        }
        Ok(if self.former_node_ca_is_done_with() {
            Done::changed(Event::NodeCaChanged { number }, entry.with("former_ca", "ended"))
        } else {
            Done::changed(event, entry)
        })
    }

    /// Certificates of the CA before count no more, at once. Finished again, nothing changes.
    pub(super) fn finish_node_ca(&mut self, actor: &Actor) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let Some(number) = self.node_ca().map(|ca| ca.number) else { return Err(not_begun()) };
        let event = Event::NodeCaChanged { number };
        let left = self.nodes_to_renew().count();
        let former = self.node_ca.as_deref_mut().and_then(|ca| ca.former.take());
        Ok(match former {
            Some(_) => {
                let former = number.saturating_sub(1);
                Done::changed(event, Entry::new("node_ca.finish", former).with("left", left))
            }
            None => Done::unchanged(event),
        })
    }

    /// Whoever is let in from now on is given a certificate of the newest CA.
    pub(super) fn joins_under_newest_node_ca(&mut self, id: u64) {
        if let Some(ca) = self.node_ca.as_deref_mut() {
            ca.shown_by.insert(id);
        }
    }

    /// Ends the former CA if no member needs it any more; says whether that was so.
    pub(super) fn former_node_ca_is_done_with(&mut self) -> bool {
        let needed = self.nodes_to_renew().next().is_some();
        let former =
            self.node_ca.as_deref_mut().filter(|_| !needed).and_then(|ca| ca.former.take());
        former.is_some()
    }
}

fn not_begun() -> Refused {
    Refused::Precondition("this cluster has not begun yet: the genesis comes first".into())
}
