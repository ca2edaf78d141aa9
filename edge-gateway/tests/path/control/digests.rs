//! What a node checks in what an edge announces: it freezes the request once more.

use bytes::Bytes;
use countersign_gate as gate;
use countersign_proto::v1 as pb;
use sha2::{Digest as _, Sha256};

use super::{CLUSTER, Open};

/// Freezes what was announced once more, and compares both digests.
pub(super) fn check_digests(open: &Open, edge_key: [u8; 32], incarnation: [u8; 16]) {
    let head = &open.head;
    let mut headers = http::HeaderMap::new();
    for header in &head.headers {
        headers.append(
            header.name.parse::<http::HeaderName>().expect("a name"),
            http::HeaderValue::from_bytes(&header.value).expect("a value"),
        );
    }
    let injection = |injection: &pb::Injection| gate::Injection {
        credential: injection.credential_id.clone(),
        version: injection.credential_version,
        slot: match injection.slot.clone().expect("a slot") {
            pb::injection::Slot::Header(slot) => gate::Slot::Header {
                name: slot.name.parse().expect("a name"),
                before: slot.before,
                after: slot.after,
            },
            pb::injection::Slot::Basic(slot) => {
                gate::Slot::Basic { before: slot.before, after: slot.after }
            }
            pb::injection::Slot::CookieAt(at) => gate::Slot::Cookie { at },
            pb::injection::Slot::FormAt(at) => gate::Slot::Form { at },
            pb::injection::Slot::JsonAt(at) => gate::Slot::Json { at },
            pb::injection::Slot::QueryAt(at) => gate::Slot::Query { at },
            pb::injection::Slot::PathAt(at) => gate::Slot::Path { at },
            pb::injection::Slot::Signed(signed) => gate::Slot::Signed {
                names: signed.names.iter().map(|name| name.parse().expect("a name")).collect(),
                manner: signed.manner,
            },
        },
    };
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("ASCII");
    let request = gate::Request::new(
        gate::Origin { cluster: CLUSTER.into(), org: "org-1".into(), agent: head.agent_id.clone() },
        gate::Destination::parse(scheme(&head.scheme), &head.host, Some(head.port as u16))
            .expect("a destination"),
        head.method.parse().expect("a method"),
        text(&head.path),
        head.query.as_ref().map(text),
        headers,
        gate::Payload::Whole(open.body.clone().into()),
        head.injections.iter().map(injection).collect(),
    )
    .expect("a request that can be frozen");
    let verdict = gate::Verdict::Approve { rule: head.rule.clone() };
    let gate::Class::Hold(judged) = gate::classify(request, verdict) else { panic!("held") };
    let circumstances = gate::Circumstances {
        request_id: head.request_id.as_ref().try_into().expect("16 bytes"),
        edge: "edge-1".into(),
        edge_key,
        incarnation,
        protocol: head.client_protocol.clone(),
        policy_version: head.policy_version,
        started_ms: head.hold_started_unix_ms,
        hold_ms: head.hold_ms,
        nonce: head.nonce.as_ref().try_into().expect("32 bytes"),
    };
    let held = judged.hold(circumstances, 0);
    assert_eq!(
        held.ticket().intent_digest.as_slice(),
        head.intent_digest.as_ref(),
        "the intent digest"
    );
    assert_eq!(
        held.ticket().request_digest.as_slice(),
        head.request_digest.as_ref(),
        "the request digest"
    );
    assert_eq!(Sha256::digest(&open.body).as_slice(), head.body_sha256.as_ref(), "the body digest");
}

fn scheme(word: &str) -> gate::Scheme {
    match word {
        "https" => gate::Scheme::Https,
        "postgres" => gate::Scheme::Postgres,
        other => panic!("{other} was announced"),
    }
}
