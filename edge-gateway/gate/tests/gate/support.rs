//! Requests, tickets and signers to decide with.

use bytes::Bytes;
use countersign_gate::{
    Approver, Circumstances, Class, DECISION_TYPE, Decision, Destination, Held, Injection,
    KeyState, NodeKey, Origin, Payload, Rejected, Request, Scheme, SealedRef, Signed, Slot, Ticket,
    Trust, Verdict, Word, classify, sign,
};
use ed25519_dalek::SigningKey;
use http::Method;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

pub(crate) const CLUSTER: &str = "prod.example";
pub(crate) const EDGE: &str = "edge-1";
pub(crate) const WALL: u64 = 1_790_000_000_000;

pub(crate) fn request(body: &[u8]) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("user-agent", HeaderValue::from_static("client/1.0"));
    Request::new(
        Origin { cluster: CLUSTER.into(), org: "default".into(), agent: "agent-1".into() },
        Destination::parse(Scheme::Https, "api.example.com", Some(443)).unwrap(),
        Method::POST,
        "/v1/charges".into(),
        Some("expand=customer".into()),
        headers,
        Payload::Whole(Bytes::copy_from_slice(body)),
        vec![Injection {
            credential: "stripe".into(),
            version: 3,
            slot: Slot::Header {
                name: AUTHORIZATION,
                before: "Bearer ".into(),
                after: String::new(),
            },
        }],
    )
    .unwrap()
}

/// The parts of a request without headers, body or key; `..Parts::default()` for the rest.
pub(crate) struct Parts {
    pub(crate) destination: Destination,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    pub(crate) injections: Vec<Injection>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            destination: https("api.example.com"),
            method: Method::POST,
            path: "/v1/charges".into(),
            query: None,
            headers: HeaderMap::new(),
            payload: Payload::Whole(Bytes::new()),
            injections: Vec::new(),
        }
    }
}

impl Parts {
    pub(crate) fn request(self) -> Result<Request, Rejected> {
        let origin =
            Origin { cluster: CLUSTER.into(), org: "default".into(), agent: "agent-1".into() };
        let Self { destination, method, path, query, headers, payload, injections } = self;
        Request::new(origin, destination, method, path, query, headers, payload, injections)
    }
}

pub(crate) fn https(authority: &str) -> Destination {
    Destination::parse(Scheme::Https, authority, Some(443)).unwrap()
}

pub(crate) fn http(authority: &str) -> Destination {
    Destination::parse(Scheme::Http, authority, Some(80)).unwrap()
}

pub(crate) fn postgres(authority: &str) -> Destination {
    Destination::parse(Scheme::Postgres, authority, Some(5432)).unwrap()
}

/// Held from `boottime_ms` on for `hold_ms`; `serial` makes its id and nonce.
pub(crate) fn held(serial: u8, body: &[u8], boottime_ms: u64, hold_ms: u64) -> Held {
    let verdict = Verdict::Approve { rule: "charges need a person".into() };
    let Class::Hold(judged) = classify(request(body), verdict) else { panic!("not held") };
    judged.hold(circumstances(serial, hold_ms), boottime_ms)
}

/// Those of one request; `serial` makes its id and nonce.
pub(crate) fn circumstances(serial: u8, hold_ms: u64) -> Circumstances {
    Circumstances {
        request_id: [serial; 16],
        edge: EDGE.into(),
        edge_key: [0xaa; 32],
        incarnation: [0x0f; 16],
        protocol: "h1".into(),
        policy_version: 7,
        started_ms: WALL,
        hold_ms,
        nonce: [serial; 32],
    }
}

/// The decision that releases exactly this ticket.
pub(crate) fn decision(ticket: &Ticket) -> Decision {
    Decision {
        cluster: CLUSTER.into(),
        decision_id: [1; 16],
        word: Word::Release,
        approval_id: Some([2; 16]),
        request_id: ticket.circumstances.request_id,
        request_digest: ticket.request_digest,
        intent_digest: ticket.intent_digest,
        edge: ticket.circumstances.edge.clone(),
        incarnation: ticket.circumstances.incarnation,
        term: 2,
        index: 41,
        policy_version: 7,
        approvers: vec![Approver { principal: "ana".into(), channel: "slack".into(), at_ms: WALL }],
        not_before_ms: WALL,
        expires_ms: WALL + 300_000,
        sealed: vec![SealedRef { credential: "stripe".into(), version: 3, sha256: [7; 32] }],
        epoch: 1,
    }
}

pub(crate) fn node(serial: u8) -> SigningKey {
    SigningKey::from_bytes(&[serial; 32])
}

pub(crate) fn envelope(payload_type: &str, payload: Vec<u8>, signers: &[u8]) -> Signed {
    let signatures =
        signers.iter().map(|serial| sign(&node(*serial), payload_type, &payload)).collect();
    Signed { payload_type: payload_type.into(), payload, signatures }
}

pub(crate) fn signed(decision: &Decision, signers: &[u8]) -> Signed {
    envelope(DECISION_TYPE, decision.encode(), signers)
}

/// Nodes 1, 2 and 3 are active, 4 is next, 5 is revoked, 6 is retired; two must sign.
pub(crate) fn trust() -> Trust {
    let key = |serial: u8, state| NodeKey {
        node: serial.into(),
        public: node(serial).verifying_key().to_bytes(),
        state,
    };
    let keys = vec![
        key(1, KeyState::Active),
        key(2, KeyState::Active),
        key(3, KeyState::Active),
        key(4, KeyState::Next),
        key(5, KeyState::Revoked),
        key(6, KeyState::Retired),
    ];
    Trust { cluster: CLUSTER.into(), epoch: 1, threshold: 2, keys }
}
