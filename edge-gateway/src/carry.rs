//! A released request on its way out, with its key, and its answer on the way back, without it.

use std::sync::Arc;

use bytes::Bytes;
use countersign_gate::{Injection, Key, Payload, Released, seal_context, seal_info};
use http::Response;
use http::header::HeaderValue;
use tracing::Instrument as _;
use zeroize::Zeroizing;

use crate::bundle::Credential;
use crate::control::{NotLeased, Receipt, RequestId};
use crate::inject::{Misplaced, Stopped, Watched};
use crate::judge::{Passing, alarmed};
use crate::pace::Pace;
use crate::redact::Redactor;
use crate::refuse::{APPROVAL_ID, Refusal};
use crate::rooms::Rooms;
use crate::unseal::Sealed;
use crate::upstream::{BoxBody, Failure};
use crate::wait;

/// Forwards what the policy released, with a leased key if it wants one.
pub(crate) async fn pass(rooms: &Rooms, passing: Passing) -> Result<Response<BoxBody>, Refusal> {
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
    let pace = Pace::of(released.request().headers());
    let outbound =
        released.with_keys(keys).map_err(|why| Refusal::UpstreamFailed { why: why.to_string() })?;
    let watched = streamed.map(|body| Watched::new(body, Arc::clone(&force), pace));
    let stopped = watched.as_ref().map(Watched::stopped);
    let destination = outbound.destination().clone();
    let sent = rooms.upstream.send(outbound, watched.map(BoxBody::new), &pool_key).await;
    match stopped.and_then(|stopped| stopped.get().copied()) {
        Some(Stopped::FakeKey(index)) => {
            if let Some(credential) = force.bundle.credentials.get(index) {
                let misplaced = Misplaced::new(credential, "in the body");
                return Err(alarmed(rooms, &agent, &destination, misplaced));
            }
        }
        Some(Stopped::Slow) => return Err(Refusal::BodyTooSlow),
        None => {}
    }
    sent.map(|response| redactor.response(response)).map_err(|failure| match failure {
        Failure::AddressDenied { .. } => Refusal::AddressDenied { why: failure.to_string() },
        Failure::NotSent { why } | Failure::Unknown { why } => Refusal::UpstreamFailed { why },
    })
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
