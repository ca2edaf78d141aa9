//! A released request on its way out, with its key, and its answer on the way back, without it.

use std::sync::Arc;

use bytes::Bytes;
use countersign_gate::{Injection, Key, Payload, Released, Slot, seal_context, seal_info};
use http::Response;
use http::header::HeaderValue;
use http_body::Body as _;
use tracing::Instrument as _;
use zeroize::Zeroizing;

use crate::agent::Seat;
use crate::bounded::Bounds;
use crate::bundle::{Agent, Credential, InForce};
use crate::control::{NotLeased, Receipt, RequestId};
use crate::inject::{Misplaced, Stopped, Watched};
use crate::judge::{Passing, alarmed};
use crate::pace::{Along, Pace};
use crate::redact::Redactor;
use crate::refuse::{APPROVAL_ID, Refusal};
use crate::rooms::Rooms;
use crate::token;
use crate::unseal::Sealed;
use crate::upstream::{BoxBody, Failure};
use crate::wait;

/// Forwards what the policy released, with a leased key if it wants one.
pub(crate) async fn pass(rooms: &Rooms, passing: Passing) -> Result<Response<BoxBody>, Refusal> {
    let Passing { force, agent, released, credential, streamed, .. } = passing;
    let (keys, redactor, pool_key) = lent(rooms, credential.as_deref(), &agent).await?;
    let issuer = credential.is_some() && goes_to_an_issuer(&force, &released);
    let pace = Pace::of(released.request().headers());
    let outbound =
        released.with_keys(keys).map_err(|why| Refusal::UpstreamFailed { why: why.to_string() })?;
    let watched = streamed.map(|body| {
        let (control, under) = (Arc::clone(&rooms.control), Arc::clone(&force));
        let (agent_id, destination) = (agent.id.clone(), outbound.destination().clone());
        Watched::new(body, Arc::clone(&force), pace, move |owner| {
            if let Some(credential) = under.bundle.credentials.get(owner) {
                alarmed(&control, &agent_id, &destination, Misplaced::new(credential, IN_THE_BODY));
            }
        })
    });
    let stopped = watched.as_ref().map(Watched::stopped);
    let sent = rooms.upstream.send(outbound, watched.map(BoxBody::new), &pool_key).await;
    match stopped.and_then(|stopped| stopped.get().copied()) {
        Some(Stopped::FakeKey(index)) => {
            if let Some(credential) = force.bundle.credentials.get(index) {
                let Misplaced { why, .. } = Misplaced::new(credential, IN_THE_BODY);
                return Err(Refusal::FakeKeyMisplaced { why });
            }
        }
        Some(Stopped::Slow) => return Err(Refusal::BodyTooSlow),
        None => {}
    }
    let response = redactor.response(sent.map_err(not_sent)?);
    if issuer { token::without_tokens(response).await } else { Ok(response) }
}

/// Whether tokens are issued where it goes.
fn goes_to_an_issuer(force: &InForce, released: &Released) -> bool {
    let request = released.request();
    token::issues(&force.bundle, request.destination(), request.path())
}

const IN_THE_BODY: &str = "in the body";

/// The leased key of a request that wants one, what takes it out of the answer, and whose connections it may share.
pub(crate) async fn lent(
    rooms: &Rooms,
    credential: Option<&Credential>,
    agent: &Agent,
) -> Result<(Vec<Key>, Redactor, String), Refusal> {
    let Some(credential) = credential else {
        return Ok((Vec::new(), Redactor::none(), agent.id.clone()));
    };
    let lease = rooms.control.lease(credential, agent).await.map_err(|why| match why {
        NotLeased::Refused(detail) => {
            Refusal::LeaseRefused { credential: credential.name.clone(), detail }
        }
        NotLeased::NoToken(detail) => Refusal::NoToken { approval_id: None, detail },
        NotLeased::Away(away) => wait::unreachable(away),
    })?;
    let Credential { id, version, destination, .. } = credential;
    let key =
        Key::new(id.clone(), *version, destination.clone(), lease.sealed, lease.secret.clone());
    Ok((vec![key], lease.redactor.clone(), format!("{}\0{id}", agent.id)))
}

/// A request has its seat until its answer is over.
pub(crate) fn seated(answer: Response<BoxBody>, seat: Seat) -> Response<BoxBody> {
    answer
        .map(|body| if body.is_end_stream() { body } else { BoxBody::new(Along::new(body, seat)) })
}

/// The refusal for what the policy alone released and that got no answer.
pub(crate) fn not_sent(failure: Failure) -> Refusal {
    match failure {
        Failure::AddressDenied { .. } => Refusal::AddressDenied { why: failure.to_string() },
        Failure::NotSent { why } | Failure::Unknown { why } => Refusal::UpstreamFailed { why },
    }
}

/// Carries out what a signed decision released, in a task of its own: once it is released, an agent that goes away
/// no longer stops it, and the control plane hears how it ended.
pub(crate) async fn released_by_decision(
    rooms: &Arc<Rooms>,
    request_id: RequestId,
    released: Released,
    sealed: Vec<Sealed>,
) -> Result<Response<BoxBody>, Refusal> {
    let carrying = Box::pin(carry_out(Arc::clone(rooms), request_id, released, sealed));
    let carried = rooms.carried.spawn(carrying.in_current_span());
    carried.await.unwrap_or(Err(Refusal::OutcomeUnknown { approval_id: None }))
}

pub(crate) async fn carry_out(
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
    let issuer = !opened.is_empty()
        && rooms.control.in_force().is_some_and(|force| goes_to_an_issuer(&force, &released));
    let plan = released.request().injections().iter().zip(&opened);
    let searched = plan.flat_map(|(injection, (_, secret))| searched(&injection.slot, secret));
    let redactor = Redactor::new(&searched.collect::<Vec<_>>());
    let outbound = released.with_keys(opened.into_iter().map(|(key, _)| key).collect());
    let Ok(outbound) =
        outbound.inspect_err(|why| tracing::error!(%why, "a released request has no usable key"))
    else {
        rooms.control.receipt(request_id, None, Receipt::NotSent, &body);
        let why = "its key could not be put in, so nothing was sent".into();
        return Err(Refusal::UpstreamFailed { why });
    };
    let (clock, limits) = (rooms.control.clock(), &rooms.limits);
    let bounds = Bounds::new(clock, limits.max_approved_response, limits.approved_response_time);
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
            if issuer {
                response = token::without_tokens(response).await?;
            }
            if let Some(id) = named {
                response = bounds.hold(clock, response);
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

/// What answers are searched for. Of signed headers: each value, and those parts of it that could be of use to
/// somebody, such as a signature, an access key id or a session token.
fn searched<'a>(slot: &Slot, secret: &'a [u8]) -> Vec<&'a [u8]> {
    const SHORTEST: usize = 20;
    if !matches!(slot, Slot::Signed { .. }) {
        return vec![secret];
    }
    let mut searched = Vec::new();
    for line in std::str::from_utf8(secret).unwrap_or_default().lines() {
        let value = line.split_once(": ").map_or(line, |(_, value)| value);
        let parts = value.split([' ', ',']).flat_map(|part| {
            let said = part.split_once('=').map_or("", |(_, said)| said);
            [part, said, said.split('/').next().unwrap_or_default()]
        });
        let of_use = |part: &&str| part.len() >= SHORTEST && !part.contains(';');
        searched.extend([value].into_iter().chain(parts).filter(of_use).map(str::as_bytes));
    }
    searched
}

/// Opens the keys that came with a decision, in the order of the plan. What does not open is left out, and the gate
/// then refuses the whole.
pub(crate) fn open_keys(
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
