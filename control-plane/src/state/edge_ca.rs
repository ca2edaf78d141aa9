//! The CA that signs edges' certificates: one signs at a time, and while edges go over to it, the one before counts too.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::audit::Entry;
use super::deadline::Due;
use super::{Actor, Done, Edge, Event, Genesis, Millis, Payload, Refused, Role, State};

/// How long the former CA counts: a day, which is as long as a certificate of it can, and an hour for clocks that differ.
pub const FORMER_CA_MS: Millis = 25 * 60 * 60 * 1000;
const LARGEST: usize = 16 * 1024;

/// The CA whose certificates edges are given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EdgeCa {
    /// 1 is the one that the cluster began with.
    pub number: u64,
    pub certificate_pem: String,
    /// Sealed; PEM.
    pub key: Payload,
    pub former: Option<FormerCa>,
}

/// The CA before: its certificates count still, and nobody has its key any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FormerCa {
    pub certificate_pem: String,
    /// Until it is finished, or this log time at the latest.
    pub until: Millis,
}

impl EdgeCa {
    /// All whose certificates count, PEM.
    pub fn trusted_pem(&self) -> String {
        let former = self.former.iter().map(|former| &former.certificate_pem);
        let each = [&self.certificate_pem].into_iter().chain(former);
        each.map(|pem| format!("{}\n", pem.trim_end())).collect()
    }
}

impl Genesis {
    /// The first one.
    pub fn edge_ca(&self) -> EdgeCa {
        EdgeCa {
            number: 1,
            certificate_pem: self.edge_ca_pem.clone(),
            key: self.edge_ca_key.clone(),
            former: None,
        }
    }
}

impl State {
    /// None before the cluster began.
    pub fn edge_ca(&self) -> Option<&EdgeCa> {
        self.edge_ca.as_deref()
    }

    /// Edges that were given no certificate of the newest CA yet.
    pub fn edges_to_renew(&self) -> impl Iterator<Item = &Edge> {
        let newest = self.edge_ca().map_or(0, |ca| ca.number);
        self.edges().filter(move |edge| !edge.evicted && edge.ca < newest)
    }

    /// `number` must be the next one: of two who change it at once, one does.
    pub(super) fn rotate_edge_ca(
        &mut self,
        actor: &Actor,
        number: u64,
        certificate_pem: &str,
        key: &Payload,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let until = self.log_time.saturating_add(FORMER_CA_MS);
        let Some(ca) = self.edge_ca.as_deref_mut() else { return Err(not_begun()) };
        if ca.former.is_some() {
            return Err(Refused::Precondition(format!(
                "the edges' CA was not changed: certificates of CA {} count still; wait until every edge has renewed its own, and finish that change first",
                ca.number.saturating_sub(1)
            )));
        }
        if number != ca.number.saturating_add(1) {
            return Err(Refused::Precondition(
                "the edges' CA was not changed: somebody else changed it meanwhile; look again"
                    .into(),
            ));
        }
        if certificate_pem.is_empty() || certificate_pem.len() > LARGEST {
            return Err(Refused::Invalid(
                "the edges' CA was not changed: the new one has no certificate of its own".into(),
            ));
        }
        let former = std::mem::replace(&mut ca.certificate_pem, certificate_pem.to_owned());
        ca.number = number;
        ca.key = key.clone();
        ca.former = Some(FormerCa { certificate_pem: former, until });
        self.deadlines.set(Due::FormerEdgeCa, until);
        let entry = Entry::new("edge_ca.rotate", number)
            .with("sha256", hex::encode(Sha256::digest(certificate_pem)))
            .with("former_until", until);
        Ok(Done::changed(Event::EdgeCaChanged { number }, entry))
    }

    /// Finished again, nothing changes.
    pub(super) fn finish_edge_ca(&mut self, actor: &Actor) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let Some(number) = self.edge_ca().map(|ca| ca.number) else { return Err(not_begun()) };
        let event = Event::EdgeCaChanged { number };
        Ok(match self.drop_former_edge_ca() {
            Some(entry) => Done::changed(event, entry),
            None => Done::unchanged(event),
        })
    }

    /// What the audit log says of it, if there was one.
    pub(super) fn drop_former_edge_ca(&mut self) -> Option<Entry> {
        let left = self.edges_to_renew().count();
        let ca = self.edge_ca.as_deref_mut()?;
        ca.former.take()?;
        let entry = Entry::new("edge_ca.finish", ca.number.saturating_sub(1)).with("left", left);
        self.deadlines.clear(Due::FormerEdgeCa);
        Some(entry)
    }

    /// Comes before a certificate is signed: that is of this CA then, or of a newer one.
    pub(super) fn renew_edge(&mut self, actor: &Actor, id: &str) -> Result<Done, Refused> {
        self.demand_edge(actor, id)?;
        let Some(number) = self.edge_ca().map(|ca| ca.number) else { return Err(not_begun()) };
        let Some(edge) = self.edges.get_mut(id) else { return Err(super::edge::no_edge(id)) };
        if edge.evicted {
            return Err(super::edge::evicted(edge));
        }
        let event = Event::EdgeRenewed { id: id.to_owned() };
        if edge.ca == number {
            return Ok(Done::unchanged(event));
        }
        edge.ca = number;
        let entry = Entry::new("edge.renew", &edge.name).with("id", id).with("ca", number);
        Ok(Done::changed(event, entry))
    }
}

fn not_begun() -> Refused {
    Refused::Precondition("this cluster has not begun yet: the genesis comes first".into())
}
