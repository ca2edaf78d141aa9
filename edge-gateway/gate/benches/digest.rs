//! What the gate costs on the way of one request. Goal: classify and digest 1 KiB in at most 20 µs.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use bytes::Bytes;
use countersign_gate::{
    Circumstances, Class, DECISION_TYPE, Decision, Destination, Held, KeyState, NodeKey, Now,
    Origin, Payload, Request, Scheme, Signed, Trust, Verdict, Word, classify, sign, verify,
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ed25519_dalek::SigningKey;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};

fn request() -> Request {
    let mut headers = HeaderMap::new();
    for n in 0..12 {
        let name = HeaderName::from_bytes(format!("x-header-{n}").as_bytes()).unwrap();
        headers.insert(name, HeaderValue::from_static("a value of ordinary length"));
    }
    Request::new(
        Origin { cluster: "prod.example".into(), org: "default".into(), agent: "agent-1".into() },
        Destination::parse(Scheme::Https, "api.example.com", Some(443)).unwrap(),
        Method::POST,
        "/v1/charges".into(),
        None,
        headers,
        Payload::Whole(Bytes::from(vec![b'x'; 1024])),
        Vec::new(),
    )
    .unwrap()
}

fn hold(request: Request) -> Held {
    let Class::Hold(judged) = classify(request, Verdict::Approve { rule: "charges".into() }) else {
        panic!("not held")
    };
    let circumstances = Circumstances {
        request_id: [1; 16],
        edge: "edge-1".into(),
        edge_key: [2; 32],
        incarnation: [3; 16],
        protocol: "h2".into(),
        policy_version: 1,
        started_ms: 1,
        hold_ms: 50_000,
        nonce: [4; 32],
    };
    judged.hold(circumstances, 0)
}

fn benchmarks(criterion: &mut Criterion) {
    criterion.bench_function("classify and digest 1 KiB", |bencher| {
        bencher.iter_batched(request, |request| black_box(hold(request)), BatchSize::SmallInput);
    });

    let node = SigningKey::from_bytes(&[7; 32]);
    let key = NodeKey { node: 1, public: node.verifying_key().to_bytes(), state: KeyState::Active };
    let trust = Trust { cluster: "prod.example".into(), epoch: 1, threshold: 1, keys: vec![key] };
    let ticket = hold(request()).ticket().clone();
    let payload = Decision {
        cluster: "prod.example".into(),
        decision_id: [5; 16],
        word: Word::Release,
        approval_id: Some([6; 16]),
        request_id: [1; 16],
        request_digest: ticket.request_digest,
        intent_digest: ticket.intent_digest,
        edge: "edge-1".into(),
        incarnation: [3; 16],
        term: 1,
        index: 1,
        policy_version: 1,
        approvers: Vec::new(),
        not_before_ms: 1,
        expires_ms: 60_000,
        sealed: Vec::new(),
        epoch: 1,
    }
    .encode();
    let signed = Signed {
        payload_type: DECISION_TYPE.into(),
        signatures: vec![sign(&node, DECISION_TYPE, &payload)],
        payload,
    };
    criterion.bench_function("verify a decision", |bencher| {
        let now = Now { boottime_ms: 1, wall_ms: 2 };
        let held = || hold(request());
        bencher.iter_batched(
            held,
            |held| black_box(verify(held, &signed, &trust, now)),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, benchmarks);
criterion_main!(benches);
