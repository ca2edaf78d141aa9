//! The story: one request, from its head to its answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_gate::{
    Class, Destination, Injection, Key, Origin, Payload, Refusal as NotClassified, Released,
    Request as Frozen, Scheme, Verdict, classify, seal_context, seal_info,
};
use countersign_policy::{Body, Head, Need, Subject, Then};
use futures::FutureExt as _;
use http::header::HeaderValue;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};
use zeroize::Zeroizing;

use crate::agent::{Badge, Hall, Seat};
use crate::bundle::{Agent, Credential, InForce};
use crate::config::Limits;
use crate::control::{Alarm, Control, NotLeased, Receipt, RequestId, Why};
use crate::freeze::{self, Draft};
use crate::inject::{self, Misplaced, Watched};
use crate::mitm::Authority;
use crate::redact::Redactor;
use crate::refuse::{APPROVAL_ID, Refusal};
use crate::telemetry::{self, Metrics};
use crate::unseal::Sealed;
use crate::upstream::{BoxBody, Failure, Upstream};
use crate::wait::{self, Ended, Waiting};

/// Everything that a request meets on its way.
pub(crate) struct Rooms {
    pub(crate) authority: Authority,
    pub(crate) control: Arc<Control>,
    pub(crate) upstream: Upstream,
    pub(crate) hall: Hall,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    /// Set when the edge goes down: what is held is sent away.
    pub(crate) drain: CancellationToken,
    /// Released requests on their way, which a shutdown waits for.
    pub(crate) carried: TaskTracker,
}

/// Where a request came in.
#[derive(Clone, Debug)]
pub(crate) enum Entrance {
    /// At the proxy itself, in absolute form.
    Proxy,
    /// Through a tunnel to this destination.
    Tunnel(Destination),
}

/// Serves one request. Whatever happens, there is an answer.
pub(crate) async fn serve(
    rooms: &Arc<Rooms>,
    badge: &Badge,
    entrance: &Entrance,
    request: Request<Incoming>,
) -> Response<BoxBody> {
    let began = Instant::now();
    let span = tracing::info_span!("request", agent = badge.name, host = tracing::field::Empty);
    telemetry::continue_trace(&span, request.headers());
    let answer = story(rooms, badge, entrance, request).instrument(span.clone()).await;
    let outcome = answer.as_ref().map_or_else(Refusal::code, |_| "forwarded");
    rooms.metrics.requests.with_label_values(&[outcome]).inc();
    rooms.metrics.seconds.observe(began.elapsed().as_secs_f64());
    span.in_scope(|| tracing::debug!(outcome, "answered"));
    answer.unwrap_or_else(Refusal::into_response)
}

async fn story(
    rooms: &Arc<Rooms>,
    badge: &Badge,
    entrance: &Entrance,
    request: Request<Incoming>,
) -> Result<Response<BoxBody>, Refusal> {
    // Boxed, so that what it took to judge a request is gone while it waits: thousands do.
    let judging = Box::pin(judged(rooms, badge, entrance, request));
    let (mut became, _seat) = refused_if_it_fails(judging).await?;
    loop {
        became = match became {
            Became::Passing(passing) => return Box::pin(pass(rooms, *passing)).await,
            Became::Waiting(waiting) => match decided(rooms, waiting).await? {
                Ended::Released { request_id, released, sealed } => {
                    return released_by_decision(rooms, request_id, *released, sealed).await;
                }
                Ended::Reopened(waiting) => {
                    refused_if_it_fails(async { judge_again(rooms, badge, waiting) }).await?
                }
            },
        }
    }
}

/// A request that makes the judging itself fail is refused, as whatever cannot be judged is. Nothing of it was sent.
async fn refused_if_it_fails<T>(
    judging: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    AssertUnwindSafe(judging).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a request could not be judged: what failed is said on stderr");
        Err(Refusal::PolicyFailed)
    })
}

/// A request that was not refused.
enum Became {
    Passing(Box<Passing>),
    Waiting(Box<Waiting>),
}

/// A request that the policy released, and what it takes to send it.
struct Passing {
    force: Arc<InForce>,
    agent: Agent,
    released: Released,
    credential: Option<Credential>,
    streamed: Option<Incoming>,
}

/// From a request's head to what becomes of it.
async fn judged(
    rooms: &Arc<Rooms>,
    badge: &Badge,
    entrance: &Entrance,
    request: Request<Incoming>,
) -> Result<(Became, Seat), Refusal> {
    // Who asks: judged anew for every request, so that a revoked agent is out at once.
    let force = rooms.control.in_force().ok_or_else(|| wait::nothing_in_force(&rooms.control))?;
    let agent = force.bundle.agent(badge).ok_or(Refusal::ProxyCredential)?;
    let seats = rooms.hall.seats(&agent.id);
    let seat = seats.moving()?;

    // What is asked.
    let (parts, body) = request.into_parts();
    let mut draft = match entrance {
        Entrance::Proxy => Draft::proxied(parts, &force.bundle.policy)?,
        Entrance::Tunnel(destination) => {
            Draft::tunnelled(parts, destination, &force.bundle.policy)?
        }
    };
    Span::current().record("host", draft.destination.host());
    may_be_reached(rooms, &force, &draft.destination).await?;

    // Which key it wants.
    let found =
        inject::find(&mut draft, &force.bundle).map_err(|m| misplaced(rooms, agent, &draft, m))?;
    let per_request = found.as_ref().is_some_and(|found| !found.credential.leasable);

    // What is needed to judge it: nothing more, or all of it.
    let need = force.bundle.policy.needs(&draft.head(&agent.name));
    if need == Need::Body || per_request {
        draft.detach();
    }
    let streams = !body.is_end_stream() && need != Need::Body && !per_request;
    let (payload, streamed) = if streams {
        (Payload::Streamed, Some(body))
    } else {
        let whole = freeze::spool(body, rooms.limits.max_held_body).await?;
        if let Some(credential) =
            force.bundle.tripwire.find(&whole).and_then(|i| force.bundle.credentials.get(i))
        {
            return Err(misplaced(rooms, agent, &draft, Misplaced::new(credential, "in the body")));
        }
        (Payload::Whole(whole), None)
    };

    // What the policy says.
    let judgement = judge(
        &force,
        &draft.head(&agent.name),
        &payload,
        found.as_ref().map(|found| found.credential),
    );
    let judgement = judgement.map_err(|no| match no {
        No::Misplaced(m) => misplaced(rooms, agent, &draft, m),
        No::Refusal(refusal) => refusal,
    })?;
    let origin =
        Origin { cluster: force.cluster.clone(), org: force.org.clone(), agent: agent.id.clone() };
    let credential = found.as_ref().map(|found| found.credential.clone());
    let injections: Vec<Injection> = found.map(inject::Found::into_injection).into_iter().collect();
    let Draft { destination, method, path, query, headers, protocol, wait } = draft;
    let frozen =
        Frozen::new(origin, destination, method, path, query, headers, payload, injections)
            .map_err(|why| Refusal::BadRequest { why: format!("there is {why}") })?;

    // What becomes of it.
    match classify(frozen, judgement.verdict) {
        Class::Refuse(no) => Err(not_classified(no, judgement.reason)),
        Class::Pass(released) => {
            if credential.is_none() {
                rooms.control.lets_through().await.map_err(wait::unreachable)?;
            }
            let agent = agent.clone();
            let passing = Passing { force, agent, released, credential, streamed };
            Ok((Became::Passing(Box::new(passing)), seat))
        }
        Class::Hold(judged) => {
            // People are asked, and keys are claimed, only for what could be sent.
            rooms.control.attached().await.map_err(wait::unreachable)?;
            let waiting_seat = seats.held()?;
            let hold = wait::hold_for(judgement.hold, wait);
            let policy_version = force.bundle.policy_version;
            let circumstances =
                wait::circumstances(&rooms.control, &force.edge, protocol, policy_version, hold);
            let traceparent = telemetry::traceparent(&Span::current(), judged.request().headers());
            let why =
                Why { rule: judged.rule().to_owned(), allowed: judgement.allowed, traceparent };
            let waiting = Waiting::open(&rooms.control, judged, circumstances, why);
            Ok((Became::Waiting(Box::new(waiting)), waiting_seat))
        }
    }
}

async fn decided(rooms: &Rooms, waiting: Box<Waiting>) -> Result<Ended, Refusal> {
    let _counted = Counted::one(rooms);
    let hold = tracing::info_span!("hold", rule = waiting.why.rule);
    waiting.decided(&rooms.control, &rooms.metrics, &rooms.drain).instrument(hold).await
}

/// What the policy says of a request, and what follows for its key.
struct Judgement {
    verdict: Verdict,
    hold: Duration,
    /// The policy allows it: if it is held, only the key is wanted.
    allowed: bool,
    /// What the deciding rule gives as its reason.
    reason: Option<String>,
}

enum No {
    Misplaced(Misplaced),
    Refusal(Refusal),
}

fn judge(
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
    let rule = decision.rule;
    let verdict = match decision.then {
        Then::Deny => Verdict::Deny { rule },
        Then::Unnamed => Verdict::Unnamed,
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
    Ok(Judgement { verdict, hold: decision.hold, allowed, reason: decision.reason })
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
        Some(_) => "the policy wants another key for this request than the one that was sent",
        None => "the policy wants a key for this request, and none that it knows was in its place",
    };
    let basic = |credential: &Credential| {
        named.contains(&credential.name)
            && credential.serves(head.destination)
            && matches!(credential.place, crate::bundle::Place::Basic(_))
    };
    let basic = force.bundle.credentials.iter().any(basic);
    Err(No::Refusal(Refusal::FakeKeyMissing { credentials: named.to_vec(), basic, why }))
}

/// Judges a held request by the newest bundle. What was frozen stays as it was, save for the version of its key.
fn judge_again(rooms: &Rooms, badge: &Badge, waiting: Box<Waiting>) -> Result<Became, Refusal> {
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
        credential = Some(current.clone());
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
        judge(&force, &head, request.payload(), credential.as_ref()).map_err(|no| match no {
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
            let passing = Passing { force, agent, released, credential, streamed: None };
            Ok(Became::Passing(Box::new(passing)))
        }
        Class::Hold(judged) => {
            let rule = judged.rule().to_owned();
            let why = Why {
                rule,
                allowed: judgement.allowed,
                traceparent: waiting.why.traceparent.clone(),
            };
            Ok(Became::Waiting(Box::new(waiting.again(judged, force.bundle.policy_version, why))))
        }
    }
}

/// Forwards what the policy released, with a leased key if it wants one.
async fn pass(rooms: &Rooms, passing: Passing) -> Result<Response<BoxBody>, Refusal> {
    let Passing { force, agent, released, credential, streamed } = passing;
    let mut pool_key = agent.id.clone();
    let (keys, redactor) = match &credential {
        None => (Vec::new(), Redactor::none()),
        Some(credential) => {
            let lease = rooms.control.lease(credential, &agent).await.map_err(|why| match why {
                NotLeased::Refused(detail) => {
                    Refusal::LeaseRefused { credential: credential.name.clone(), detail }
                }
                NotLeased::Away(away) => wait::unreachable(away),
            })?;
            pool_key.push('\0');
            pool_key.push_str(&credential.id);
            let Credential { id, version, destination, .. } = credential;
            let key = Key::new(
                id.clone(),
                *version,
                destination.clone(),
                lease.sealed,
                lease.secret.clone(),
            );
            (vec![key], lease.redactor.clone())
        }
    };
    let outbound =
        released.with_keys(keys).map_err(|why| Refusal::UpstreamFailed { why: why.to_string() })?;
    let watched = streamed.map(|body| Watched::new(body, Arc::clone(&force)));
    let tripped = watched.as_ref().map(Watched::tripped);
    let destination = outbound.destination().clone();
    let sent = rooms.upstream.send(outbound, watched.map(BoxBody::new), &pool_key).await;
    let tripped = tripped.and_then(|tripped| tripped.get().copied());
    if let Some(credential) = tripped.and_then(|index| force.bundle.credentials.get(index)) {
        return Err(alarmed(
            rooms,
            &agent,
            &destination,
            Misplaced::new(credential, "in the body"),
        ));
    }
    sent.map(|response| redactor.response(response)).map_err(|failure| match failure {
        Failure::AddressDenied { .. } => Refusal::AddressDenied { why: failure.to_string() },
        Failure::NotSent { why } | Failure::Unknown { why } => Refusal::UpstreamFailed { why },
    })
}

/// Carries out what a signed decision released, in a task of its own: once it is released, an agent that goes away
/// no longer stops it, and the control plane hears how it ended.
async fn released_by_decision(
    rooms: &Arc<Rooms>,
    request_id: RequestId,
    released: Released,
    sealed: Vec<Sealed>,
) -> Result<Response<BoxBody>, Refusal> {
    let carrying = Box::pin(carry_out(Arc::clone(rooms), request_id, released, sealed));
    let carried = rooms.carried.spawn(carrying.in_current_span());
    carried.await.unwrap_or(Err(Refusal::OutcomeUnknown { approval_id: None }))
}

async fn carry_out(
    rooms: Arc<Rooms>,
    request_id: RequestId,
    released: Released,
    sealed: Vec<Sealed>,
) -> Result<Response<BoxBody>, Refusal> {
    let body = match released.request().payload() {
        Payload::Whole(body) => body.clone(),
        Payload::Streamed => Bytes::new(),
    };
    let opened = open_keys(&rooms, &released, &sealed);
    let redactor =
        Redactor::new(&opened.iter().map(|(_, secret)| secret.as_slice()).collect::<Vec<_>>());
    let outbound = released.with_keys(opened.into_iter().map(|(key, _)| key).collect());
    let Ok(outbound) =
        outbound.inspect_err(|why| tracing::error!(%why, "a released request has no usable key"))
    else {
        rooms.control.receipt(request_id, None, Receipt::NotSent, &body);
        let why = "its key could not be put in, so nothing was sent".into();
        return Err(Refusal::UpstreamFailed { why });
    };
    let approval_id = outbound.approval_id().copied();
    let approval = approval_id.map(hex::encode);
    let sent = rooms.upstream.send(outbound, None, "").await;
    let receipt = match &sent {
        Ok(response) => Receipt::Completed { status: response.status().as_u16() },
        Err(Failure::AddressDenied { .. } | Failure::NotSent { .. }) => Receipt::NotSent,
        Err(Failure::Unknown { .. }) => Receipt::Unknown,
    };
    rooms.control.receipt(request_id, approval_id, receipt, &body);
    let named = approval.as_deref().and_then(|id| HeaderValue::from_str(id).ok());
    match sent {
        Ok(response) => {
            let mut response = redactor.response(response);
            if let Some(id) = named {
                response.headers_mut().insert(APPROVAL_ID, id);
            }
            Ok(response)
        }
        Err(failure @ Failure::AddressDenied { .. }) => {
            Err(Refusal::AddressDenied { why: failure.to_string() })
        }
        Err(Failure::NotSent { why }) => Err(Refusal::UpstreamFailed { why }),
        Err(Failure::Unknown { why }) if approval.is_none() => Err(Refusal::UpstreamFailed { why }),
        Err(Failure::Unknown { .. }) => Err(Refusal::OutcomeUnknown { approval_id: approval }),
    }
}

/// Opens the keys that came with a decision, in the order of the plan. What does not open is left out, and the gate
/// then refuses the whole.
fn open_keys(
    rooms: &Rooms,
    released: &Released,
    sealed: &[Sealed],
) -> Vec<(Key, Zeroizing<Vec<u8>>)> {
    let request = released.request();
    let (Some((request_digest, decision_id)), Some(force)) =
        (released.sealing(), rooms.control.in_force())
    else {
        return Vec::new();
    };
    let incarnation = rooms.control.incarnation();
    let info = seal_info(&request.origin().cluster, &force.edge, &incarnation.id);
    let open = |injection: &Injection| {
        let Injection { credential, version, .. } = injection;
        let sealed =
            sealed.iter().find(|s| s.credential == *credential && s.version == *version)?;
        let context = seal_context(request_digest, decision_id, credential, *version);
        let secret = incarnation.open(sealed, &info, &context).ok()?;
        let destination = force.bundle.credential(credential)?.destination.clone();
        let key =
            Key::new(credential.clone(), *version, destination, sealed.digest(), secret.clone());
        Some((key, secret))
    };
    request.injections().iter().filter_map(open).collect()
}

async fn may_be_reached(
    rooms: &Rooms,
    force: &InForce,
    destination: &Destination,
) -> Result<(), Refusal> {
    if force.bundle.forbids(destination) {
        let why = format!("{} is part of Countersign itself", destination.authority());
        return Err(Refusal::AddressDenied { why });
    }
    rooms
        .upstream
        .check(destination)
        .await
        .map_err(|no| Refusal::AddressDenied { why: no.to_string() })?;
    let keyed_host = |credential: &Credential| credential.destination.host() == destination.host();
    if destination.scheme() == Scheme::Http && force.bundle.credentials.iter().any(keyed_host) {
        let detail =
            Some(format!("{} has a key, and is reached over https only", destination.host()));
        return Err(Refusal::PolicyDenied { rule: None, detail });
    }
    Ok(())
}

fn misplaced(rooms: &Rooms, agent: &Agent, draft: &Draft, misplaced: Misplaced) -> Refusal {
    alarmed(rooms, agent, &draft.destination, misplaced)
}

fn alarmed(
    rooms: &Rooms,
    agent: &Agent,
    destination: &Destination,
    misplaced: Misplaced,
) -> Refusal {
    let Misplaced { credential_id, why } = misplaced;
    rooms.control.alarm(Alarm {
        kind: "fake_key_misplaced",
        agent_id: agent.id.clone(),
        credential_id,
        host: destination.host().to_owned(),
        detail: why.clone(),
    });
    Refusal::FakeKeyMisplaced { why }
}

fn not_classified(no: NotClassified, reason: Option<String>) -> Refusal {
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

/// Counts a held request for as long as it is one.
struct Counted(Arc<Metrics>);

impl Counted {
    fn one(rooms: &Rooms) -> Self {
        rooms.metrics.held.inc();
        Self(Arc::clone(&rooms.metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.held.dec();
    }
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
