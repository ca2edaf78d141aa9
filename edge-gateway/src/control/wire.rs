//! Our types to proto's, and back. What comes in is parsed here, at the door, and never travels further as it was.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use countersign_gate::{Destination, Held, Payload, Scheme, Signed, Slot};
use countersign_proto::v1 as pb;
use http::header::HeaderName;
use sha2::{Digest as _, Sha256};

use super::{Alarm, Answer, Approval, Reason, Receipt, RequestId, Standing, Why};
use crate::bundle::{Agent, Around, Credential, Pair, Parts, Place, TokenEndpoint};
use crate::unseal::Sealed;

/// A held request: its head as announced, and its body.
pub(super) fn open(held: &Held, why: &Why) -> (pb::OpenHead, Bytes) {
    let request = held.request();
    let ticket = held.ticket();
    let circumstances = &ticket.circumstances;
    let body = match request.payload() {
        Payload::Whole(body) => body.clone(),
        // What streams is never held: `classify` sees to it.
        Payload::Streamed => Bytes::new(),
    };
    let header = |(name, value): (&HeaderName, &http::HeaderValue)| pb::Header {
        name: name.as_str().to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    let injection = |injection: &countersign_gate::Injection| pb::Injection {
        credential_id: injection.credential.clone(),
        credential_version: injection.version,
        slot: Some(match injection.slot.clone() {
            Slot::Basic { before, after } => {
                pb::injection::Slot::Basic(pb::InjectedBasic { before, after })
            }
            Slot::Cookie { at } => pb::injection::Slot::CookieAt(at),
            Slot::Form { at } => pb::injection::Slot::FormAt(at),
            Slot::Header { name, before, after } => {
                pb::injection::Slot::Header(pb::InjectedHeader {
                    name: name.as_str().to_owned(),
                    before,
                    after,
                })
            }
            Slot::Json { at } => pb::injection::Slot::JsonAt(at),
            Slot::Path { at } => pb::injection::Slot::PathAt(at),
            Slot::Query { at } => pb::injection::Slot::QueryAt(at),
            Slot::Signed { names, manner } => {
                let names = names.iter().map(|name| name.as_str().to_owned()).collect();
                pb::injection::Slot::Signed(pb::InjectedSigned { names, manner })
            }
        }),
    };
    let head = pb::OpenHead {
        request_id: copy(&circumstances.request_id),
        agent_id: request.origin().agent.clone(),
        scheme: request.destination().scheme().as_str().to_owned(),
        host: request.destination().host().to_owned(),
        port: request.destination().port().into(),
        method: request.method().as_str().to_owned(),
        path: copy(request.path().as_bytes()),
        query: request.query().map(|query| copy(query.as_bytes())),
        headers: request.headers().iter().map(header).collect(),
        body_bytes: body.len() as u64,
        body_sha256: copy(&Sha256::digest(&body)),
        injections: request.injections().iter().map(injection).collect(),
        policy_version: circumstances.policy_version,
        rule: why.rule.clone(),
        nonce: copy(&circumstances.nonce),
        hold_started_unix_ms: circumstances.started_ms,
        hold_ms: circumstances.hold_ms,
        client_protocol: circumstances.protocol.clone(),
        intent_digest: copy(&ticket.intent_digest),
        request_digest: copy(&ticket.request_digest),
        traceparent: why.traceparent.clone(),
        allowed: why.allowed,
    };
    (head, body)
}

/// A body in pieces that fit a message.
pub(super) fn open_body(request_id: RequestId, body: &Bytes) -> Vec<pb::OpenBody> {
    const PIECE: usize = 1024 * 1024;
    let starts = (0..body.len()).step_by(PIECE);
    let piece = |start: usize| {
        let end = body.len().min(start + PIECE);
        let data = body.slice(start..end);
        pb::OpenBody {
            request_id: copy(&request_id),
            offset: start as u64,
            data,
            last: end == body.len(),
        }
    };
    starts.map(piece).collect()
}

pub(super) fn receipt(
    request_id: RequestId,
    approval_id: Option<[u8; 16]>,
    receipt: Receipt,
    body: &Bytes,
) -> pb::ExecutionReceipt {
    let (outcome, status) = match receipt {
        Receipt::Completed { status } => (pb::ExecutionOutcome::Completed, status),
        Receipt::NotSent => (pb::ExecutionOutcome::NotSent, 0),
        Receipt::Unknown => (pb::ExecutionOutcome::Unknown, 0),
    };
    pb::ExecutionReceipt {
        request_id: copy(&request_id),
        approval_id: approval_id.map(|id| copy(&id)).unwrap_or_default(),
        outcome: outcome.into(),
        status: status.into(),
        request_body_bytes: body.len() as u64,
        request_body_sha256: copy(&Sha256::digest(body)),
    }
}

pub(super) fn alarm(alarm: Alarm) -> pb::Alarm {
    let Alarm { kind, agent_id, credential_id, host, detail } = alarm;
    pb::Alarm { kind: kind.to_owned(), agent_id, credential_id, host, detail }
}

pub(super) fn signed(envelope: pb::Envelope) -> anyhow::Result<Signed> {
    let signature = |s: &pb::Signature| {
        s.signature.as_ref().try_into().context("a signature that is not 64 bytes")
    };
    Ok(Signed {
        payload_type: envelope.payload_type,
        payload: envelope.payload.to_vec(),
        signatures: envelope.signatures.iter().map(signature).collect::<anyhow::Result<_>>()?,
    })
}

pub(super) fn sealed(sealed: pb::SealedCredential) -> Sealed {
    Sealed {
        credential: sealed.credential_id,
        version: sealed.version,
        encapsulated_key: sealed.encapsulated_key.to_vec(),
        ciphertext: sealed.ciphertext.to_vec(),
    }
}

pub(super) fn decision(decision: pb::Decision) -> anyhow::Result<(RequestId, Answer)> {
    let request_id = id(&decision.request_id)?;
    let signed = signed(decision.envelope.context("a decision without its envelope")?)?;
    let sealed = decision.sealed_credentials.into_iter().map(sealed).collect();
    Ok((request_id, Answer::Signed { signed, sealed }))
}

pub(super) fn settled(settled: pb::Settled) -> anyhow::Result<(RequestId, Answer)> {
    use pb::SettledReason as R;
    let reason = match settled.reason() {
        R::AlreadyExecuted => Reason::AlreadyExecuted,
        R::Cancelled => Reason::Cancelled,
        R::Denied => Reason::Denied,
        R::Expired => Reason::Expired,
        R::Invalid | R::Unspecified => Reason::Invalid,
        R::NoToken => Reason::NoToken,
        R::OutcomeUnknown => Reason::OutcomeUnknown,
        R::Overloaded => Reason::Overloaded,
        R::PolicyDenied => Reason::PolicyDenied,
        R::Revoked => Reason::Revoked,
        R::Unavailable => Reason::Unavailable,
    };
    let approval_id = approval_id(&settled.approval_id);
    Ok((id(&settled.request_id)?, Answer::Settled { reason, approval_id, detail: settled.detail }))
}

pub(super) fn opened(opened: &pb::Opened) -> anyhow::Result<(RequestId, Answer)> {
    Ok((id(&opened.request_id)?, Answer::Opened { approval_id: approval_id(&opened.approval_id) }))
}

/// Nothing for one in a state that this edge does not know.
pub(super) fn approval(told: pb::AgentApproval) -> Option<Approval> {
    use pb::AgentApprovalState as S;
    let state = match told.state() {
        S::Approved => Standing::Approved,
        S::Cancelled => Standing::Cancelled,
        S::Completed => Standing::Completed,
        S::Denied => Standing::Denied,
        S::Expired => Standing::Expired,
        S::Pending => Standing::Pending,
        S::Released => Standing::Released,
        S::Revoked => Standing::Revoked,
        S::Unknown => Standing::Unknown,
        S::Unspecified => return None,
    };
    Some(Approval {
        id: approval_id(&told.approval_id)?,
        state,
        method: told.method,
        url: told.url,
        rule: told.rule,
        reason: told.reason,
        created_ms: told.created_at_unix_ms,
        expires_ms: told.expires_at_unix_ms,
        status: u16::try_from(told.status).ok().filter(|status| *status != 0),
    })
}

/// The signed payload of an edge bundle. A credential that this edge does not understand is left out: requests that
/// need it are refused, the others go on.
pub(super) fn bundle(state: pb::EdgeState) -> anyhow::Result<Parts> {
    let agent = |agent: pb::EdgeAgent| {
        let hash = agent
            .token_sha256
            .as_ref()
            .try_into()
            .context("an agent's token hash that is not 32 bytes")?;
        anyhow::Ok((hash, Agent { id: agent.agent_id, name: agent.name }))
    };
    Ok(Parts {
        revision: state.revision,
        policy_version: state.policy_version,
        policy: state.policy,
        agents: state.agents.into_iter().map(agent).collect::<anyhow::Result<_>>()?,
        credentials: state.credentials.into_iter().filter_map(understood).collect(),
        forbidden: state.forbidden_destinations,
    })
}

fn understood(sent: pb::EdgeCredential) -> Option<Credential> {
    credential(sent)
        .inspect_err(|why| {
            tracing::error!(why = format!("{why:#}"), "a credential was left out of the bundle")
        })
        .ok()
}

fn credential(credential: pb::EdgeCredential) -> anyhow::Result<Credential> {
    use pb::credential_slot::Slot as S;
    let name = credential.name;
    let slot = credential.slot.and_then(|slot| slot.slot);
    let scheme = match &slot {
        Some(S::Postgres(_)) => Scheme::Postgres,
        _ => Scheme::Https,
    };
    let destination = destination(scheme, &credential.host, credential.port)
        .with_context(|| format!("credential {name}"))?;
    let split = |template: &str| {
        Place::split(template)
            .with_context(|| format!("credential {name}: a template without exactly one {{key}}"))
    };
    let place = match slot {
        Some(S::Header(slot)) => {
            let header: HeaderName = slot
                .name
                .parse()
                .with_context(|| format!("credential {name}: its header's name"))?;
            let around = match slot.template.as_str() {
                "" => Around::Scheme,
                template => {
                    let (before, after) = split(template)?;
                    Around::Exact { before, after }
                }
            };
            Place::Header { name: header, around }
        }
        Some(S::Basic(slot)) if slot.template.is_empty() => Place::Basic(Pair::Either),
        Some(S::Basic(slot)) => {
            let (before, after) = split(&slot.template)?;
            Place::Basic(Pair::Exact { before, after })
        }
        Some(S::AwsSigv4(pb::AwsSigv4Slot {})) => Place::AwsSigv4,
        Some(S::Cookie(slot)) => Place::Cookie { name: slot.name },
        Some(S::Form(slot)) => Place::Form { name: slot.name },
        Some(S::Hmac(slot)) => {
            let names = slot.headers.iter().map(|name| name.parse::<HeaderName>());
            let names = names
                .collect::<Result<Vec<_>, _>>()
                .with_context(|| format!("credential {name}: its headers' names"))?;
            Place::Hmac { names, template: slot.template }
        }
        Some(S::Json(slot)) => Place::Json { pointer: slot.pointer },
        Some(S::Postgres(slot)) => Place::Postgres { role: slot.role },
        Some(S::Query(slot)) => Place::Query { name: slot.name },
        Some(S::Path(slot)) => {
            let (before, after) = split(&slot.template)?;
            Place::Path { before, after }
        }
        None => bail!("credential {name}: a slot that this edge does not know"),
    };
    Ok(Credential {
        id: credential.credential_id,
        name,
        version: credential.version,
        destination,
        place,
        fake_keys: credential.fake_keys,
        leasable: credential.leasable,
        token_endpoint: credential.token_endpoint.map(token_endpoint).transpose()?,
    })
}

fn destination(scheme: Scheme, host: &str, port: u32) -> anyhow::Result<Destination> {
    let port = u16::try_from(port).context("its port")?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Destination::parse(scheme, &host, Some(port))
        .map_err(|why| anyhow::anyhow!("its host is {why}"))
}

fn token_endpoint(endpoint: pb::TokenEndpoint) -> anyhow::Result<TokenEndpoint> {
    let destination = destination(Scheme::Https, &endpoint.host, endpoint.port)
        .context("where its tokens come from")?;
    Ok(TokenEndpoint { destination, path: endpoint.path })
}

/// The nodes that a node named: what is not `host:port` is left out.
pub(super) fn addresses(named: &[String]) -> Vec<String> {
    /// More than any cluster has.
    const MOST: usize = 64;
    let dialled = |address: &&String| {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        address.len() <= 262 && port.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    };
    named.iter().filter(dialled).take(MOST).cloned().collect()
}

pub(super) fn id(bytes: &Bytes) -> anyhow::Result<RequestId> {
    bytes.as_ref().try_into().context("a request id that is not 16 bytes")
}

/// As people see it: lower-case hexadecimal.
pub(crate) fn approval_id(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| hex::encode(bytes))
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
