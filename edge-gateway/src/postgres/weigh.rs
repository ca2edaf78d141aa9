//! What is asked of a Postgres server, as a request like any other: judged, held and released by what does that with every
//! request.

use std::sync::Arc;

use bytes::Bytes;
use countersign_gate::{
    Class, Destination, Injection, Judged, Origin, Outbound, Payload, Request as Frozen, Slot,
    classify,
};
use countersign_policy::Head;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{PASSWORD, ROLE, ROWS};
use crate::agent::{Badge, Seat, Spooled};
use crate::bundle::{Credential, InForce};
use crate::carry::{lent, open_keys};
use crate::control::{RequestId, Why};
use crate::inject::Misplaced;
use crate::judge::{Became, Judgement, No, Passing, alarmed, judge, judge_again, not_classified};
use crate::redact::Redactor;
use crate::refuse::Refusal;
use crate::rooms::Rooms;
use crate::telemetry::Counted;
use crate::wait::{self, Ended, Waiting};

/// What the agent's client speaks, as approvals say it.
const PROTOCOL: &str = "postgres";

/// One agent's way to one database, as one role: what all that is asked there has in common.
pub(super) struct Scales {
    pub(super) rooms: Arc<Rooms>,
    pub(super) badge: Badge,
    pub(super) destination: Destination,
    path: String,
    opening: HeaderMap,
    statement: HeaderMap,
}

/// What becomes of something that was asked, and is not refused.
#[allow(clippy::large_enum_variant)] // lives for one match
pub(super) enum Weighed {
    Holds(Box<Holding>),
    /// Released by the policy, of this revision.
    Passes(Outbound, u64),
}

/// What is to wait for people, or for its key.
pub(super) struct Holding {
    waiting: Box<Waiting>,
    body: Bytes,
    /// Taken for as long as it waits.
    _seat: Option<Seat>,
    _spooled: Option<Spooled>,
}

/// What was released after it had waited.
pub(super) struct LetGo {
    pub(super) outbound: Outbound,
    /// By a decision, and about which request; none where the policy came to allow it.
    pub(super) by: Option<RequestId>,
    pub(super) body: Bytes,
    /// For what the server says.
    pub(super) redactor: Redactor,
}

impl Scales {
    /// `role` is visible ASCII, as the control plane takes it.
    pub(super) fn new(
        rooms: Arc<Rooms>,
        badge: Badge,
        destination: Destination,
        database: &str,
        role: &str,
    ) -> Result<Self, Refusal> {
        /// RFC 3986 §2.3: what needs no escape.
        const SEGMENT: &AsciiSet =
            &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        let role = HeaderValue::from_str(role)
            .map_err(|_| Refusal::BadRequest { why: "the role's name is none".into() })?;
        let mut opening = HeaderMap::new();
        opening.insert(ROLE, role);
        let mut statement = opening.clone();
        statement.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let path = format!("/{}", utf8_percent_encode(database, SEGMENT));
        Ok(Self { rooms, badge, destination, path, opening, statement })
    }

    /// What the policy looks at of the connection itself.
    pub(super) fn opening_head<'a>(&'a self, agent: &'a str) -> Head<'a> {
        self.head(agent, &Method::GET, &self.opening)
    }

    fn head<'a>(&'a self, agent: &'a str, method: &'a Method, headers: &'a HeaderMap) -> Head<'a> {
        let (destination, path) = (&self.destination, crate::planted::path(&self.path));
        Head { agent, destination, method, path, query: None, headers }
    }

    /// The opening of a connection, with the password of its role.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn weigh_opening(
        &self,
        credential: &Credential,
    ) -> Result<(Weighed, Redactor), Refusal> {
        let force = self.force()?;
        let slot = Slot::Header {
            name: HeaderName::from_static(PASSWORD),
            before: String::new(),
            after: String::new(),
        };
        let Credential { id, version, .. } = credential;
        let injection = Injection { credential: id.clone(), version: *version, slot };
        let classed = self.classed(
            &force,
            (Method::GET, &self.opening, Bytes::new()),
            Some((credential, injection)),
        )?;
        match classed {
            (Class::Pass(released), _, agent) => {
                let (keys, redactor, _) = lent(&self.rooms, Some(credential), &agent).await?;
                let outbound = released.with_keys(keys).map_err(unswapped)?;
                Ok((Weighed::Passes(outbound, force.bundle.revision), redactor))
            }
            (Class::Hold(judged), judgement, agent) => {
                let holding = self.hold(&force, judged, &judgement, &agent.id).await?;
                Ok((Weighed::Holds(Box::new(holding)), Redactor::none()))
            }
            (Class::Refuse(no), judgement, _) => Err(not_classified(no, judgement.reason)),
        }
    }

    /// A statement with its values. `rows` is what people are told of its tables.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn weigh(
        &self,
        body: &Bytes,
        rows: Option<HeaderValue>,
    ) -> Result<Weighed, Refusal> {
        let force = self.force()?;
        if let Some(owner) = force.bundle.tripwire.find(body) {
            return Err(self.tripped(&force, owner, "in a statement"));
        }
        let mut headers = self.statement.clone();
        if let Some(rows) = rows {
            headers.insert(ROWS, rows);
        }
        match self.classed(&force, (Method::POST, &headers, body.clone()), None)? {
            (Class::Pass(released), ..) => {
                self.rooms.control.lets_through().await.map_err(wait::unreachable)?;
                let outbound = released.with_keys(Vec::new()).map_err(unswapped)?;
                Ok(Weighed::Passes(outbound, force.bundle.revision))
            }
            (Class::Hold(judged), judgement, agent) => {
                let holding = self.hold(&force, judged, &judgement, &agent.id).await?;
                Ok(Weighed::Holds(Box::new(holding)))
            }
            (Class::Refuse(no), judgement, _) => Err(not_classified(no, judgement.reason)),
        }
    }

    /// The same without waiting for anybody: none for what would have to wait.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn weigh_at_once(
        &self,
        body: &Bytes,
    ) -> Result<Option<(Outbound, u64)>, Refusal> {
        let force = self.force()?;
        if let Some(owner) = force.bundle.tripwire.find(body) {
            return Err(self.tripped(&force, owner, "in a statement"));
        }
        match self.classed(&force, (Method::POST, &self.statement, body.clone()), None)? {
            (Class::Pass(released), ..) => {
                self.rooms.control.lets_through().await.map_err(wait::unreachable)?;
                let outbound = released.with_keys(Vec::new()).map_err(unswapped)?;
                Ok(Some((outbound, force.bundle.revision)))
            }
            (Class::Hold(_), ..) => Ok(None),
            (Class::Refuse(no), judgement, _) => Err(not_classified(no, judgement.reason)),
        }
    }

    /// Whether a statement would be held, without its values: asked before they are known, and without asking anybody.
    ///
    /// # Errors
    /// The refusal, where it would be refused whatever they are.
    pub(super) fn would_hold(&self, body: &Bytes) -> Result<bool, Refusal> {
        let force = self.force()?;
        if let Some(owner) = force.bundle.tripwire.find(body) {
            return Err(self.tripped(&force, owner, "in a statement"));
        }
        match self.classed(&force, (Method::POST, &self.statement, body.clone()), None)? {
            (Class::Refuse(no), judgement, _) => Err(not_classified(no, judgement.reason)),
            (Class::Hold(_), ..) => Ok(true),
            (Class::Pass(_), ..) => Ok(false),
        }
    }

    /// The revision of what is decided with now.
    pub(super) fn revision(&self) -> Option<u64> {
        self.rooms.control.in_force().map(|force| force.bundle.revision)
    }

    /// A fake key where none is replaced.
    pub(super) fn tripped(&self, force: &InForce, owner: usize, place: &str) -> Refusal {
        let agent = force.bundle.agent(&self.badge).map(|agent| agent.id.as_str());
        let Some(credential) = force.bundle.credentials.get(owner) else {
            return Refusal::FakeKeyMisplaced { why: "there is a key in it".into() };
        };
        let misplaced = Misplaced::new(credential, place);
        alarmed(&self.rooms.control, agent.unwrap_or_default(), &self.destination, misplaced)
    }

    /// What is decided with now.
    fn force(&self) -> Result<Arc<InForce>, Refusal> {
        let control = &self.rooms.control;
        control.in_force().ok_or_else(|| wait::nothing_in_force(control))
    }

    fn classed(
        &self,
        force: &InForce,
        (method, headers, body): (Method, &HeaderMap, Bytes),
        key: Option<(&Credential, Injection)>,
    ) -> Result<(Class, Judgement, Arc<crate::bundle::Agent>), Refusal> {
        let agent = force.bundle.agent(&self.badge).ok_or(Refusal::ProxyCredential)?;
        let payload = Payload::Whole(body);
        let head = self.head(&agent.name, &method, headers);
        let credential = key.as_ref().map(|(credential, _)| *credential);
        let judgement = judge(force, &head, &payload, credential).map_err(|no| match no {
            No::Misplaced(Misplaced { why, .. }) => {
                Refusal::PolicyDenied { rule: None, detail: Some(why) }
            }
            No::Refusal(refusal) => refusal,
        })?;
        let origin = Origin {
            cluster: force.cluster.clone(),
            org: force.org.clone(),
            agent: agent.id.clone(),
        };
        let injections = key.into_iter().map(|(_, injection)| injection).collect();
        let frozen = Frozen::new(
            origin,
            self.destination.clone(),
            method,
            self.path.clone(),
            None,
            headers.clone(),
            payload,
            injections,
        )
        .map_err(|why| Refusal::BadRequest { why: format!("there is {why}") })?;
        let classed = classify(frozen, judgement.verdict.clone());
        Ok((classed, judgement, agent.clone()))
    }

    async fn hold(
        &self,
        force: &InForce,
        judged: Judged,
        judgement: &Judgement,
        agent_id: &str,
    ) -> Result<Holding, Refusal> {
        let control = &self.rooms.control;
        // People are asked, and keys are claimed, only for what could be sent.
        control.attached().await.map_err(wait::unreachable)?;
        let seats = self.rooms.hall.seats(agent_id);
        let seat = if judgement.allowed { None } else { Some(seats.held().await?) };
        let body = judged.body();
        let mut spooled = None;
        if !body.is_empty() {
            seats.spool(body.len(), &mut spooled)?;
        }
        let hold = wait::hold_for(judgement.hold, None);
        let circumstances =
            wait::circumstances(control, &force.edge, PROTOCOL, force.bundle.policy_version, hold);
        let why = Why {
            rule: judged.rule().to_owned(),
            allowed: judgement.allowed,
            traceparent: String::new(),
        };
        let waiting = Box::new(Waiting::open(control, judged, circumstances, why));
        Ok(Holding { waiting, body, _seat: seat, _spooled: spooled })
    }
}

impl Holding {
    /// Whether people are asked, and not only a key is claimed.
    pub(super) fn asks_people(&self) -> bool {
        !self.waiting.why.allowed
    }

    /// Under which approval it is known, once it is.
    pub(super) fn known(&self) -> tokio::sync::watch::Receiver<Option<String>> {
        self.waiting.known()
    }

    /// Waits until it is released. Dropped before that, it takes the question back.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn let_go(self, rooms: &Rooms, badge: &Badge) -> Result<LetGo, Refusal> {
        let Self { mut waiting, body, _seat, _spooled } = self;
        let _counted = Counted::one(&rooms.metrics.held);
        loop {
            match waiting.decided(&rooms.control, &rooms.metrics, &rooms.drain).await? {
                Ended::Released { request_id, released, sealed } => {
                    let opened = open_keys(rooms, &released, &sealed);
                    let secrets: Vec<&[u8]> =
                        opened.iter().map(|(_, secret)| secret.as_slice()).collect();
                    let redactor = Redactor::new(&secrets);
                    let keys = opened.into_iter().map(|(key, _)| key).collect();
                    let outbound = released.with_keys(keys).map_err(|why| {
                        let not_sent = crate::control::Receipt::NotSent;
                        rooms.control.receipt(request_id, None, not_sent, &body);
                        unswapped(why)
                    })?;
                    return Ok(LetGo { outbound, by: Some(request_id), body, redactor });
                }
                Ended::Reopened(again) => match judge_again(rooms, badge, again)? {
                    Became::Waiting(again, _) => waiting = again,
                    Became::Passing(passing) => {
                        let Passing { agent, released, credential, .. } = *passing;
                        let (keys, redactor, _) =
                            lent(rooms, credential.as_deref(), &agent).await?;
                        let outbound = released.with_keys(keys).map_err(unswapped)?;
                        return Ok(LetGo { outbound, by: None, body, redactor });
                    }
                    Became::Answered(_) => return Err(Refusal::PolicyFailed),
                },
            }
        }
    }
}

fn unswapped(why: countersign_gate::SwapError) -> Refusal {
    Refusal::UpstreamFailed { why: why.to_string() }
}
