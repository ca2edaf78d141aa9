//! The story: one request, from its head to its answer.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use countersign_gate::{
    Class, Destination, Injection, Origin, Payload, Request as Frozen, Scheme, classify,
};
use countersign_policy::Need;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use tracing::{Instrument as _, Span};

use crate::agent::{Badge, Seat};
use crate::bundle::{Credential, InForce};
use crate::carry::{pass, released_by_decision, seated};
use crate::control::Why;
use crate::freeze::{self, Draft, Upgrade};
use crate::inject;
use crate::judge::{
    Became, No, Passing, Socket, dropped, judge, judge_again, misplaced, not_classified,
    refused_if_it_fails, unfound,
};
use crate::local;
use crate::park::{self, Parking};
use crate::refuse::{Form, NotUpgraded, Refusal};
use crate::rooms::Rooms;
use crate::socket;
use crate::telemetry::{self, Counted};
use crate::token;
use crate::upstream::BoxBody;
use crate::wait::{self, Ended, Waiting};

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
    let span = match entrance {
        Entrance::Proxy => {
            tracing::info_span!("request", agent = badge.name, host = tracing::field::Empty)
        }
        Entrance::Tunnel(destination) => {
            tracing::info_span!("request", agent = badge.name, host = destination.host())
        }
    };
    telemetry::continue_trace(&span, request.headers());
    let form = Form::of(request.headers());
    let answer = if local::asks(entrance, &request) {
        local::answer(rooms, badge, entrance, request).instrument(span.clone()).await
    } else {
        story(rooms, badge, entrance, request).instrument(span.clone()).await
    };
    let answer = answer.map_err(|refusal| with_what_is_kept(rooms, badge, refusal));
    let outcome = match &answer {
        Ok(_) => {
            rooms.metrics.forwarded.inc();
            "forwarded"
        }
        Err(refusal) => {
            rooms.metrics.requests.with_label_values(&[refusal.code()]).inc();
            refusal.code()
        }
    };
    rooms.metrics.seconds.observe(began.elapsed().as_secs_f64());
    span.in_scope(|| tracing::debug!(outcome, "answered"));
    match answer {
        Ok(answer) => answer,
        Err(refusal) => refusal.in_form(form),
    }
}

/// A refusal names what is parked here, or came of it.
fn with_what_is_kept(rooms: &Rooms, badge: &Badge, mut refusal: Refusal) -> Refusal {
    let (approval_id, here) = match &mut refusal {
        Refusal::AlreadyExecuted { approval_id: Some(id), kept } => (id, kept),
        Refusal::ApprovalPending { approval_id, parked, .. } => (approval_id, parked),
        _ => return refusal,
    };
    let force = rooms.control.in_force();
    let agent = force.as_ref().and_then(|force| force.bundle.agent(badge));
    *here = agent.is_some_and(|agent| rooms.shelf.look(&agent.id, approval_id).is_some());
    refusal
}

async fn story(
    rooms: &Arc<Rooms>,
    badge: &Badge,
    entrance: &Entrance,
    request: Request<Incoming>,
) -> Result<Response<BoxBody>, Refusal> {
    // Boxed, so that what it took to judge a request is gone while it waits: thousands do.
    let judging = Box::pin(judged(rooms, badge, entrance, request));
    let (mut became, seat) = refused_if_it_fails(judging).await?;
    loop {
        became = match became {
            Became::Answered(answer) => return Ok(seated(*answer, seat)),
            Became::Passing(mut passing) => {
                return match passing.socket.take() {
                    None => {
                        Box::pin(pass(rooms, *passing)).await.map(|answer| seated(answer, seat))
                    }
                    Some(socket) => {
                        Box::pin(socket::open(rooms, badge, *passing, socket, seat)).await
                    }
                };
            }
            Became::Waiting(waiting, Some(parking)) => {
                return park::outlive(rooms, badge, waiting, parking, seat).await;
            }
            Became::Waiting(waiting, None) => match decided(rooms, waiting).await? {
                Ended::Released { request_id, released, sealed } => {
                    return released_by_decision(rooms, request_id, *released, sealed)
                        .await
                        .map(|answer| seated(answer, seat));
                }
                Ended::Reopened(waiting) => {
                    refused_if_it_fails(async { judge_again(rooms, badge, waiting) }).await?
                }
            },
        }
    }
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
    let seat = seats.moving().await?;

    // What is asked.
    let (mut parts, body) = request.into_parts();
    let (upgrade, place) = (parts.extensions.remove(), parts.extensions.remove());
    let mut draft = match entrance {
        Entrance::Proxy => Draft::proxied(parts, &force.bundle.policy)?,
        Entrance::Tunnel(destination) => {
            Draft::tunnelled(parts, destination, &force.bundle.policy)?
        }
    };
    if matches!(entrance, Entrance::Proxy) {
        Span::current().record("host", draft.destination.host());
    }
    may_be_reached(rooms, &force, &draft.destination).await?;

    // A token may be asked for, with a fake key: nobody but us answers that.
    let (body, taken) = if token::issues(&force.bundle, &draft.destination, &draft.path) {
        let taken = freeze::spool(body, rooms.limits.max_held_body, &seats).await?;
        let answered = token::answered(&force.bundle, agent, &draft, &taken.0);
        if let Some(answer) = answered.map_err(|m| misplaced(rooms, agent, &draft, m))? {
            return Ok((Became::Answered(Box::new(answer)), seat));
        }
        (None, taken)
    } else {
        (Some(body), (Bytes::new(), None))
    };

    // Which key it wants.
    let found =
        inject::find(&mut draft, &force.bundle).map_err(|no| unfound(rooms, agent, &draft, no))?;
    let per_request = found.as_ref().is_some_and(|found| !found.credential.leasable);

    // What is needed to judge it, and to find its key: nothing more, or all of it.
    let need = force.bundle.policy.needs(&draft.head(&agent.name));
    let key_in_body = found.is_none() && {
        let mut serving = force.bundle.serving(&draft.destination);
        serving.any(|credential| credential.place.is_in_body(&draft.headers))
    };
    let whole = need == Need::Body || per_request || key_in_body;
    if whole {
        draft.detach();
    }
    let (streamed, taken) = match body {
        Some(body) if !whole && !body.is_end_stream() => (Some(body), None),
        Some(body) => (None, Some(freeze::spool(body, rooms.limits.max_held_body, &seats).await?)),
        None => (None, Some(taken)),
    };
    let (payload, found, spooled) = match taken {
        None => (Payload::Streamed, found, None),
        Some((mut whole, spooled)) => {
            let found = inject::find_in_body(&mut draft, &force.bundle, &mut whole, found)
                .map_err(|no| unfound(rooms, agent, &draft, no))?;
            (Payload::Whole(whole), found, spooled)
        }
    };

    if let Some(found) = &found {
        dropped(rooms, agent, &draft, found);
    }

    // What the policy says.
    let judgement = judge(
        &force,
        &draft.head(&agent.name),
        &payload,
        found.as_ref().map(|found| &**found.credential),
    );
    let judgement = judgement.map_err(|no| match no {
        No::Misplaced(m) => misplaced(rooms, agent, &draft, m),
        No::Refusal(refusal) => refusal,
    })?;
    let origin =
        Origin { cluster: force.cluster.clone(), org: force.org.clone(), agent: agent.id.clone() };
    let credential = found.as_ref().map(|found| Arc::clone(found.credential));
    let injections: Vec<Injection> = found.map(inject::Found::into_injection).into_iter().collect();
    let Draft { destination, method, path, query, headers, protocol, wait, upgrade: asked } = draft;
    let frozen =
        Frozen::new(origin, destination, method, path, query, headers, payload, injections)
            .map_err(|why| Refusal::BadRequest { why: format!("there is {why}") })?;

    // What becomes of it.
    match classify(frozen, judgement.verdict) {
        Class::Refuse(no) => Err(not_classified(no, judgement.reason)),
        Class::Hold(judged) if asked != Upgrade::Nothing => Err(Refusal::UpgradeRefused {
            rule: judged.rule().to_owned(),
            because: if judgement.allowed { NotUpgraded::InTurns } else { NotUpgraded::Asked },
        }),
        Class::Pass(released) => {
            if let Upgrade::Other(protocol) = asked {
                let because = NotUpgraded::Unlooked { protocol };
                return Err(Refusal::UpgradeRefused { rule: judgement.rule, because });
            }
            if credential.is_none() {
                rooms.control.lets_through().await.map_err(wait::unreachable)?;
            }
            let agent = Arc::clone(agent);
            // Where no rule says so, it goes on as the plain request that it is without its Upgrade.
            let may = judgement.channel.filter(|_| asked == Upgrade::WebSocket);
            let socket = may.zip(upgrade);
            let rule = judgement.rule;
            let socket = socket.map(|(channel, upgrade)| Socket { upgrade, channel, rule, place });
            let passing = Passing { force, agent, released, credential, streamed, socket };
            Ok((Became::Passing(Box::new(passing)), seat.with(spooled)))
        }
        Class::Hold(judged) => {
            // People are asked, and keys are claimed, only for what could be sent.
            rooms.control.attached().await.map_err(wait::unreachable)?;
            let seat = if judgement.allowed { seat } else { seats.held().await? };
            let hold = wait::hold_for(judgement.hold, wait);
            let place = judgement.park.map(|_| rooms.shelf.place(&agent.id, judged.body().len()));
            let parking = place.flatten().map(|place| Parking { place, hold });
            let held_for = match (&parking, judgement.park) {
                (Some(_), Some(expires)) => park::hold_for(expires),
                _ => hold,
            };
            let policy_version = force.bundle.policy_version;
            let circumstances = wait::circumstances(
                &rooms.control,
                &force.edge,
                protocol,
                policy_version,
                held_for,
            );
            let traceparent = telemetry::traceparent(&Span::current(), judged.request().headers());
            let why =
                Why { rule: judged.rule().to_owned(), allowed: judgement.allowed, traceparent };
            let mut waiting = Waiting::open(&rooms.control, judged, circumstances, why);
            waiting.parks = parking.is_some();
            Ok((Became::Waiting(Box::new(waiting), parking), seat.with(spooled)))
        }
    }
}

async fn decided(rooms: &Rooms, waiting: Box<Waiting>) -> Result<Ended, Refusal> {
    let _counted = Counted::one(&rooms.metrics.held);
    let hold = tracing::info_span!("hold", rule = waiting.why.rule);
    waiting.decided(&rooms.control, &rooms.metrics, &rooms.drain).instrument(hold).await
}

/// Whether anything may be sent there at all.
pub(crate) async fn may_be_reached(
    rooms: &Rooms,
    force: &InForce,
    destination: &Destination,
) -> Result<(), Refusal> {
    if local::is(destination) {
        let why = format!("{} is answered by the gateway itself, and never dialled", local::HOST);
        return Err(Refusal::AddressDenied { why });
    }
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
    if destination.scheme() == Scheme::Http
        && force.bundle.credentials.iter().any(|credential| keyed_host(credential))
    {
        let detail =
            Some(format!("{} has a key, and is reached over https only", destination.host()));
        return Err(Refusal::PolicyDenied { rule: None, detail });
    }
    Ok(())
}
