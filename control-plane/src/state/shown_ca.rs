//! The CAs of what nodes show: to each other, and to operators and edges. Of either, one signs at a time. Nodes go over to
//! a new one by themselves, and until the last of them has, the one before counts too.
//!
//! Whoever was away knows the former CA alone, and would take nobody's word that there is another. So the former signs
//! the new one once more ([`ShownCa::bridge_pem`]), and what a node shows leads to either, until there is a third.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::audit::Entry;
use super::node::node_name;
use super::{Actor, Done, Event, Genesis, Node, Payload, Refused, Role, State};

const LARGEST: usize = 16 * 1024;

/// Whom nodes show certificates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audience {
    /// Operators and edges.
    Clients,
    /// Other nodes, in both directions.
    Nodes,
}

/// A CA whose certificates nodes are given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShownCa {
    /// 1 is the one that the cluster began with.
    pub number: u64,
    pub certificate_pem: String,
    /// Sealed; PEM.
    pub key: Payload,
    /// Its name and key, in a certificate that the one before signed; none of the first.
    pub bridge_pem: Option<String>,
    /// The one before, while its certificates count. Nobody has its key any more.
    pub former_pem: Option<String>,
    /// Nodes that show a certificate of it.
    shown_by: BTreeSet<u64>,
}

impl ShownCa {
    /// All whose certificates count, PEM.
    pub fn trusted_pem(&self) -> String {
        let each = [&self.certificate_pem].into_iter().chain(&self.former_pem);
        each.map(|pem| format!("{}\n", pem.trim_end())).collect()
    }

    fn first(certificate_pem: &str, key: &Payload) -> Self {
        Self {
            number: 1,
            certificate_pem: certificate_pem.to_owned(),
            key: key.clone(),
            bridge_pem: None,
            former_pem: None,
            shown_by: BTreeSet::new(),
        }
    }
}

impl Genesis {
    /// The first one.
    pub fn shown_ca(&self, to: Audience) -> ShownCa {
        match to {
            Audience::Clients => ShownCa::first(&self.api_ca_pem, &self.api_ca_key),
            Audience::Nodes => ShownCa::first(&self.node_ca_pem, &self.node_ca_key),
        }
    }
}

impl State {
    /// None before the cluster began.
    pub fn shown_ca(&self, to: Audience) -> Option<Cow<'_, ShownCa>> {
        let first = || self.genesis().map(|genesis| Cow::Owned(genesis.shown_ca(to)));
        self.changed_ca(to).map(Cow::Borrowed).or_else(first)
    }

    /// Members that did not say yet that they show a certificate of the newest CA.
    pub fn nodes_to_renew(&self, to: Audience) -> impl Iterator<Item = &Node> {
        self.changed_ca(to).into_iter().flat_map(|ca| {
            self.nodes().filter(|node| !node.removed && !ca.shown_by.contains(&node.id))
        })
    }

    /// `number` must be the next one: of two who change it at once, one does.
    pub(super) fn rotate_ca(
        &mut self,
        actor: &Actor,
        to: Audience,
        number: u64,
        certificate_pem: &str,
        bridge_pem: &str,
        key: &Payload,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let Some(ca) = self.shown_ca(to) else { return Err(not_begun()) };
        if ca.former_pem.is_some() {
            let left: Vec<_> = self.nodes_to_renew(to).map(|node| node.name.as_str()).collect();
            return Err(Refused::Precondition(format!(
                "{to} was not changed: certificates of CA {} count still, since these nodes show no newer one: {}; unseal them or remove them, or finish that change first",
                ca.number.saturating_sub(1),
                left.join(", ")
            )));
        }
        if number != ca.number.saturating_add(1) {
            return Err(Refused::Precondition(format!(
                "{to} was not changed: somebody else changed it meanwhile; look again"
            )));
        }
        let is_one = |pem: &str| !pem.is_empty() && pem.len() <= LARGEST;
        if !is_one(certificate_pem) || !is_one(bridge_pem) {
            return Err(Refused::Invalid(format!(
                "{to} was not changed: the new one has no certificate of its own, or none that the one before signed"
            )));
        }
        let new = ShownCa {
            number,
            certificate_pem: certificate_pem.to_owned(),
            key: key.clone(),
            bridge_pem: Some(bridge_pem.to_owned()),
            former_pem: Some(ca.certificate_pem.clone()),
            shown_by: BTreeSet::new(),
        };
        *self.changed_ca_mut(to) = Some(Box::new(new));
        let entry = Entry::new(&to.action("rotate"), number)
            .with("sha256", hex::encode(Sha256::digest(certificate_pem)));
        Ok(Done::changed(Event::CaChanged { to, number }, entry))
    }

    /// A node shows a certificate of this CA. With the last of them, the former CA counts no more.
    pub(super) fn renew_node(
        &mut self,
        actor: &Actor,
        id: u64,
        to: Audience,
        number: u64,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[])?;
        let Some(node) = self.node(id).filter(|node| !node.removed) else {
            return Err(super::node::no_node(id));
        };
        let event = Event::NodeRenewed { id };
        let entry = Entry::new("node.renew", &node.name)
            .with("id", node_name(id))
            .with("ca", format_args!("{to} {number}"));
        // What it shows of a CA that signs no more is no news.
        let newest = self.changed_ca_mut(to).as_deref_mut().filter(|ca| ca.number == number);
        if !newest.is_some_and(|ca| ca.shown_by.insert(id)) {
            return Ok(Done::unchanged(event));
        }
        Ok(if self.former_ca_is_done_with(to) {
            Done::changed(Event::CaChanged { to, number }, entry.with("former_ca", "ended"))
        } else {
            Done::changed(event, entry)
        })
    }

    /// Certificates of the CA before count no more, at once. Finished again, nothing changes.
    pub(super) fn finish_ca(&mut self, actor: &Actor, to: Audience) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let Some(number) = self.shown_ca(to).map(|ca| ca.number) else { return Err(not_begun()) };
        let event = Event::CaChanged { to, number };
        let left = self.nodes_to_renew(to).count();
        let former = self.changed_ca_mut(to).as_deref_mut().and_then(|ca| ca.former_pem.take());
        Ok(match former {
            Some(_) => {
                let entry = Entry::new(&to.action("finish"), number.saturating_sub(1));
                Done::changed(event, entry.with("left", left))
            }
            None => Done::unchanged(event),
        })
    }

    /// Whoever is let in from now on is given certificates of the newest CAs.
    pub(super) fn joins_under_newest_cas(&mut self, id: u64) {
        for to in Audience::ALL {
            if let Some(ca) = self.changed_ca_mut(to).as_deref_mut() {
                ca.shown_by.insert(id);
            }
        }
    }

    /// Ends the former CAs that no member needs any more; says which those were.
    pub(super) fn end_former_cas(&mut self, entry: Entry) -> Entry {
        let ended = Audience::ALL.into_iter().filter(|to| self.former_ca_is_done_with(*to));
        ended.fold(entry, |entry, to| entry.with("former_ca", format_args!("{to} ended")))
    }

    fn former_ca_is_done_with(&mut self, to: Audience) -> bool {
        let needed = self.nodes_to_renew(to).next().is_some();
        let ca = self.changed_ca_mut(to).as_deref_mut().filter(|_| !needed);
        ca.and_then(|ca| ca.former_pem.take()).is_some()
    }

    fn changed_ca(&self, to: Audience) -> Option<&ShownCa> {
        match to {
            Audience::Clients => self.api_ca.as_deref(),
            Audience::Nodes => self.node_ca.as_deref(),
        }
    }

    fn changed_ca_mut(&mut self, to: Audience) -> &mut Option<Box<ShownCa>> {
        match to {
            Audience::Clients => &mut self.api_ca,
            Audience::Nodes => &mut self.node_ca,
        }
    }
}

impl Audience {
    pub const ALL: [Self; 2] = [Self::Clients, Self::Nodes];

    fn action(self, done: &str) -> String {
        match self {
            Self::Clients => format!("api_ca.{done}"),
            Self::Nodes => format!("node_ca.{done}"),
        }
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clients => "the API's CA",
            Self::Nodes => "the nodes' CA",
        })
    }
}

fn not_begun() -> Refused {
    Refused::Precondition("this cluster has not begun yet: the genesis comes first".into())
}
