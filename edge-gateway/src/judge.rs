//! What the policy and the keys say of a request, and what becomes of it: now, or again under a newer bundle.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use countersign_gate::{
    Class, Destination, Payload, Refusal as NotClassified, Released, Request as Frozen, Verdict,
    classify,
};
use countersign_policy::{Body, Channel, Decision, Head, Subject, Then};
use futures::FutureExt as _;
use http::Response;
use http::header::{CONTENT_ENCODING, COOKIE};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::agent::Badge;
use crate::bundle::{Agent, Credential, InForce, Place};
use crate::control::{Alarm, Control, Why};
use crate::freeze::Draft;
use crate::inject::{Found, Misplaced, Unfound};
use crate::park::Parking;
use crate::postgres;
use crate::refuse::Refusal;
use crate::rooms::{self, Rooms};
use crate::upstream::BoxBody;
use crate::wait::{self, Waiting};

/// A request that was not refused.
pub(crate) enum Became {
    /// By the gateway itself: nothing is sent.
    Answered(Box<Response<BoxBody>>),
    Passing(Box<Passing>),
    /// With what it takes to park it, where it may be.
    Waiting(Box<Waiting>, Option<Parking>),
}

/// A request that the policy released, and what it takes to send it.
pub(crate) struct Passing {
    pub(crate) force: Arc<InForce>,
    pub(crate) agent: Arc<Agent>,
    pub(crate) released: Released,
    pub(crate) credential: Option<Arc<Credential>>,
    pub(crate) streamed: Option<Incoming>,
    /// It asks to go on as a WebSocket, and may.
    pub(crate) socket: Option<Socket>,
}

/// What it takes to take a connection of an agent over, once it has its 101.
pub(crate) struct Socket {
    pub(crate) upgrade: OnUpgrade,
    pub(crate) channel: Channel,
    pub(crate) rule: String,
    /// The connection's place among all of them.
    pub(crate) place: Option<Arc<rooms::Place>>,
}

/// What the policy says of a request, and what follows for its key.
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    pub(crate) hold: Duration,
    /// How long an approval may take, where the request may outlive its client.
    pub(crate) park: Option<Duration>,
    /// The policy allows it: if it is held, only the key is wanted.
    pub(crate) allowed: bool,
    /// What the request may become, by which rule.
    pub(crate) channel: Option<Channel>,
    pub(crate) rule: String,
    /// What the deciding rule gives as its reason.
    pub(crate) reason: Option<String>,
}

pub(crate) enum No {
    Misplaced(Misplaced),
    Refusal(Refusal),
}

pub(crate) fn judge(
    force: &InForce,
    head: &Head<'_>,
    payload: &Payload,
    found: Option<&Credential>,
) -> Result<Judgement, No> {
    let body = match payload {
        Payload::Streamed => Body::Streamed,
        Payload::Whole(bytes) => Body::Whole(bytes),
    };
    let decision = force.bundle.policy.decide(&Subject { head: *head, body });
    let (allowed, recorded) = (decision.then.passes(), decision.recorded());
    let rule = decision.rule.clone();
    let verdict = match decision.then {
        Then::Deny => Verdict::Deny { rule },
        // It is not tunnelled, or it would not be here: then nobody lets it through.
        Then::Tunnel | Then::Unnamed => Verdict::Unnamed,
        Then::Allow | Then::Observe => {
            key_agrees(force, head, &decision.credentials, found)?;
            Verdict::Allow {
                rule,
                per_request: recorded || found.is_some_and(|credential| !credential.leasable),
            }
        }
        Then::Approve => {
            key_agrees(force, head, &decision.credentials, found)?;
            Verdict::Approve { rule }
        }
    };
    let park = decision.park.then_some(decision.expires);
    let Decision { hold, channel, rule, reason, .. } = decision;
    Ok(Judgement { verdict, hold, park, allowed, channel, rule, reason })
}

/// Only a credential that the deciding rules name is put in, and only where its fake key was sent.
fn key_agrees(
    force: &InForce,
    head: &Head<'_>,
    named: &[String],
    found: Option<&Credential>,
) -> Result<(), No> {
    let why = match found {
        Some(credential) if named.contains(&credential.name) => return Ok(()),
        Some(credential) if named.is_empty() => {
            return Err(No::Misplaced(Misplaced::new(
                credential,
                "on a request for which the policy names no key",
            )));
        }
        None if named.is_empty() => return Ok(()),
        None if postgres::is_statement(head) => {
            if opened_with_one(force, head, named) {
                return Ok(());
            }
            "the policy wants another key for this statement than the one that this connection was opened with"
        }
        None => match wanted_in_body(force, head, named) {
            Some(place) if !place.is_in_body(head.headers) => {
                "the policy wants a key in the body of this request, and its Content-Type is not the one that such bodies have"
            }
            Some(_) if head.headers.contains_key(CONTENT_ENCODING) => {
                "the policy wants a key in the body of this request, and there is a Content-Encoding: keys are put into plain bodies only, so leave it out"
            }
            _ => "the policy wants a key for this request, and none that it knows was in its place",
        },
        Some(_) => "the policy wants another key for this request than the one that was sent",
    };
    let basic = |credential: &Credential| {
        named.contains(&credential.name)
            && credential.serves(head.destination)
            && matches!(credential.place, Place::Basic(_))
    };
    let basic = force.bundle.credentials.iter().any(|credential| basic(credential));
    Err(No::Refusal(Refusal::FakeKeyMissing { credentials: named.to_vec(), basic, why }))
}

/// Whether a statement goes over a connection that was opened with one of these credentials: it says whose role that is.
fn opened_with_one(force: &InForce, head: &Head<'_>, named: &[String]) -> bool {
    let role = head.headers.get(postgres::ROLE).map(http::HeaderValue::as_bytes);
    force.bundle.serving(head.destination).any(|credential| {
        named.contains(&credential.name)
            && credential.postgres_role().map(str::as_bytes) == role
            && role.is_some()
    })
}

/// Where in the body the key would be that the policy wants, if it would be there.
fn wanted_in_body<'a>(force: &'a InForce, head: &Head<'_>, named: &[String]) -> Option<&'a Place> {
    let in_body = |place: &&Place| matches!(place, Place::Form { .. } | Place::Json { .. });
    let wanted = force.bundle.credentials.iter().filter(|credential| {
        named.contains(&credential.name) && credential.serves(head.destination)
    });
    wanted.map(|credential| &credential.place).find(in_body)
}

/// Judges a held request by the newest bundle. What was frozen stays as it was, save for the version of its key.
pub(crate) fn judge_again(
    rooms: &Rooms,
    badge: &Badge,
    waiting: Box<Waiting>,
) -> Result<Became, Refusal> {
    let force = rooms.control.in_force().ok_or_else(|| wait::nothing_in_force(&rooms.control))?;
    let agent = force.bundle.agent(badge).cloned().ok_or(Refusal::ProxyCredential)?;
    let request = waiting.held.request();
    let mut injections = request.injections().to_vec();
    let mut credential = None;
    for injection in &mut injections {
        let current = force.bundle.credential(&injection.credential);
        let current =
            current.filter(|current| current.serves(request.destination())).ok_or_else(|| {
                let why = "the key that was sent with this request is no longer for this host";
                Refusal::FakeKeyMissing {
                    credentials: vec![injection.credential.clone()],
                    basic: false,
                    why,
                }
            })?;
        injection.version = current.version;
        credential = Some(Arc::clone(current));
    }
    let head = Head {
        agent: &agent.name,
        destination: request.destination(),
        method: request.method(),
        path: crate::planted::path(request.path()),
        query: request.query(),
        headers: request.headers(),
    };
    let judgement =
        judge(&force, &head, request.payload(), credential.as_deref()).map_err(|no| match no {
            No::Misplaced(m) => Refusal::FakeKeyMisplaced { why: m.why },
            No::Refusal(refusal) => refusal,
        })?;
    let frozen = Frozen::new(
        request.origin().clone(),
        request.destination().clone(),
        request.method().clone(),
        request.path().to_owned(),
        request.query().map(str::to_owned),
        request.headers().clone(),
        request.payload().clone(),
        injections,
    )
    .map_err(|why| Refusal::BadRequest { why: format!("there is {why}") })?;
    match classify(frozen, judgement.verdict) {
        Class::Refuse(no) => {
            waiting.opening.given_up("the policy refuses it now");
            Err(not_classified(no, judgement.reason))
        }
        Class::Pass(released) => {
            waiting.opening.given_up("the policy allows it now");
            let passing =
                Passing { force, agent, released, credential, streamed: None, socket: None };
            Ok(Became::Passing(Box::new(passing)))
        }
        Class::Hold(judged) => {
            let rule = judged.rule().to_owned();
            let why = Why {
                rule,
                allowed: judgement.allowed,
                traceparent: waiting.why.traceparent.clone(),
            };
            let mut waiting = waiting.again(judged, force.bundle.policy_version, why);
            waiting.parks = judgement.park.is_some();
            Ok(Became::Waiting(Box::new(waiting), None))
        }
    }
}

pub(crate) fn misplaced(
    rooms: &Rooms,
    agent: &Agent,
    draft: &Draft,
    misplaced: Misplaced,
) -> Refusal {
    alarmed(&rooms.control, &agent.id, &draft.destination, misplaced)
}

pub(crate) fn unfound(rooms: &Rooms, agent: &Agent, draft: &Draft, no: Unfound) -> Refusal {
    match no {
        Unfound::Misplaced(misplaced) => self::misplaced(rooms, agent, draft, misplaced),
        Unfound::Twice(why) | Unfound::Unsignable(why) => Refusal::BadRequest { why },
    }
}

/// Says that keys of the agent's own did not go where a key of ours does. Cookies come and go by themselves, so they are no news.
pub(crate) fn dropped(rooms: &Rooms, agent: &Agent, draft: &Draft, found: &Found<'_>) {
    let names: Vec<_> = found.dropped.iter().filter(|name| **name != COOKIE).collect();
    if names.is_empty() {
        return;
    }
    let names: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let Credential { id, name, destination, .. } = &**found.credential;
    rooms.control.alarm(Alarm {
        kind: "own_key_dropped",
        agent_id: agent.id.clone(),
        credential_id: id.clone(),
        host: draft.destination.host().to_owned(),
        detail: format!(
            "a request that gets the key for \"{name}\" (of {}) had another of the agent's own in {}, which was taken off",
            destination.authority(),
            names.join(" and ")
        ),
    });
}

pub(crate) fn alarmed(
    control: &Control,
    agent_id: &str,
    destination: &Destination,
    misplaced: Misplaced,
) -> Refusal {
    let Misplaced { credential_id, why } = misplaced;
    control.alarm(Alarm {
        kind: "fake_key_misplaced",
        agent_id: agent_id.to_owned(),
        credential_id,
        host: destination.host().to_owned(),
        detail: why.clone(),
    });
    Refusal::FakeKeyMisplaced { why }
}

pub(crate) fn not_classified(no: NotClassified, reason: Option<String>) -> Refusal {
    match no {
        NotClassified::Denied { rule } => {
            Refusal::PolicyDenied { rule: Some(rule), detail: reason }
        }
        NotClassified::Unheld { rule } => {
            let detail =
                Some("its body streams, and only a body that is all there can be held".to_owned());
            Refusal::PolicyDenied { rule: Some(rule), detail }
        }
        NotClassified::Unnamed => Refusal::PolicyDenied { rule: None, detail: None },
    }
}

/// A request that makes the judging itself fail is refused, as whatever cannot be judged is. Nothing of it was sent.
pub(crate) async fn refused_if_it_fails<T>(
    judging: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    AssertUnwindSafe(judging).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a request could not be judged: what failed is said on stderr");
        Err(Refusal::PolicyFailed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_while_a_request_is_judged_is_a_403() {
        let judging = async { panic!("of the policy engine") };
        let refused: Result<(), Refusal> = refused_if_it_fails(judging).await;
        let answer = refused.expect_err("it is refused").into_response();
        assert_eq!(answer.status(), 403);
        assert_eq!(answer.headers()["x-should-retry"], "false");
    }
}
