//! Edges: enrolled gateways, and which process start of each counts.

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::name::{REASON_BYTES, check_id, check_name, clipped, joined};
use super::{Actor, Done, Event, Millis, Refused, Role, State};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Edge {
    pub id: String,
    pub name: String,
    /// SHA-256 of the SubjectPublicKeyInfo that it was enrolled with.
    pub key_sha256: [u8; 32],
    /// Of the process that attached last; claims of any other are refused.
    pub incarnation: Option<[u8; 16]>,
    /// Number of the CA that its newest certificate is of, at least.
    pub ca: u64,
    pub evicted: bool,
    pub enrolled_at: Millis,
}

impl State {
    /// The same name again replaces the key under the same id (read it from the event): the process that ran under
    /// the former key can claim nothing any more.
    pub(super) fn enroll_edge(
        &mut self,
        actor: &Actor,
        id: &str,
        name: &str,
        key_sha256: &[u8; 32],
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        check_id("an edge", id)?;
        check_name("an edge", name)?;
        let ca = self.edge_ca().map_or(0, |ca| ca.number);
        if let Some(edge) = self.edges.values_mut().find(|e| e.name == name) {
            if edge.evicted {
                return Err(Refused::Denied(format!(
                    "edge {name} was not enrolled: it was evicted; enroll it under another name"
                )));
            }
            edge.key_sha256 = *key_sha256;
            edge.incarnation = None;
            edge.ca = ca;
            let id = edge.id.clone();
            let left = self.leave_requests(&id, None);
            let entry =
                left.describe(Entry::new("edge.enroll", name).with("id", &id).with("again", true));
            return Ok(Done::changed(
                Event::EdgeChanged { id },
                entry.with("key_sha256", hex::encode(key_sha256)),
            ));
        }
        if self.edges.contains_key(id) {
            return Err(Refused::AlreadyExists(format!(
                "edge {name} was not enrolled: its id is another edge's; propose it under a fresh id"
            )));
        }
        let edge = Edge {
            id: id.to_owned(),
            name: name.to_owned(),
            key_sha256: *key_sha256,
            incarnation: None,
            ca,
            evicted: false,
            enrolled_at: self.log_time,
        };
        self.edges.insert(id.to_owned(), edge);
        let entry = Entry::new("edge.enroll", name)
            .with("id", id)
            .with("key_sha256", hex::encode(key_sha256));
        Ok(Done::changed(Event::EdgeChanged { id: id.to_owned() }, entry))
    }

    pub(super) fn attach_edge(
        &mut self,
        actor: &Actor,
        id: &str,
        incarnation: &[u8; 16],
    ) -> Result<Done, Refused> {
        self.demand_edge(actor, id)?;
        let Some(edge) = self.edges.get_mut(id) else { return Err(no_edge(id)) };
        if edge.evicted {
            return Err(evicted(edge));
        }
        let event = Event::EdgeChanged { id: id.to_owned() };
        if edge.incarnation == Some(*incarnation) {
            return Ok(Done::unchanged(event));
        }
        edge.incarnation = Some(*incarnation);
        let entry = Entry::new("edge.attach", &edge.name)
            .with("id", id)
            .with("incarnation", hex::encode(incarnation));
        let left = self.leave_requests(id, Some(incarnation));
        Ok(Done::changed(event, left.describe(entry)))
    }

    pub(super) fn evict_edge(
        &mut self,
        actor: &Actor,
        name: &str,
        reason: &str,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let Some(edge) = self.edges.values_mut().find(|e| e.name == name && !e.evicted) else {
            return Err(Refused::NotFound(format!(
                "there is no edge {:?} to evict: list the edges to see their names",
                clipped(name, REASON_BYTES)
            )));
        };
        edge.evicted = true;
        edge.incarnation = None;
        let id = edge.id.clone();
        let entry = Entry::new("edge.evict", name)
            .with("id", &id)
            .with("reason", clipped(reason, REASON_BYTES));
        let left = self.leave_requests(&id, None);
        Ok(Done::changed(Event::EdgeChanged { id }, left.describe(entry)))
    }

    /// Refuses all but the process of an enrolled edge that attached last.
    pub(super) fn demand_current_edge(
        &self,
        id: &str,
        incarnation: &[u8; 16],
    ) -> Result<&Edge, Refused> {
        let Some(edge) = self.edges.get(id) else { return Err(no_edge(id)) };
        if edge.evicted {
            return Err(evicted(edge));
        }
        if edge.incarnation != Some(*incarnation) && !crate::planted::planted(7) {
            return Err(Refused::Precondition(format!(
                "another process of edge {} attached since: attach again and send the request anew",
                edge.name
            )));
        }
        Ok(edge)
    }

    /// Requests of an edge's former processes: those that nothing was released to are gone; of the others nobody
    /// will ever say what became of them.
    fn leave_requests(&mut self, edge: &str, staying: Option<&[u8; 16]>) -> Left {
        let left = self.held.values().filter(|h| h.edge == edge && staying != Some(&h.incarnation));
        let (lost, detached): (Vec<_>, Vec<_>) =
            left.map(|h| (h.request_id, h.claim.is_some())).partition(|(_, claimed)| *claimed);
        for (request_id, _) in &detached {
            self.forget_held(request_id);
        }
        let lost = lost.into_iter().map(|(id, _)| id).filter(|id| self.lose_track(id)).collect();
        Left { detached: detached.len(), lost }
    }
}

/// What a process of an edge left behind.
struct Left {
    detached: usize,
    lost: Vec<[u8; 16]>,
}

impl Left {
    fn describe(&self, entry: Entry) -> Entry {
        entry
            .with("detached", self.detached)
            .with("unknown", joined(self.lost.iter().map(hex::encode)))
    }
}

pub(super) fn no_edge(id: &str) -> Refused {
    Refused::NotFound(format!(
        "there is no edge with the id {:?}: enroll it first",
        clipped(id, REASON_BYTES)
    ))
}

pub(super) fn evicted(edge: &Edge) -> Refused {
    Refused::Denied(format!("edge {} was evicted: enroll it under another name", edge.name))
}
