//! The gate against its second implementation, `tests/digests/make_vectors.py`: both must compute the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use countersign_gate::{
    Approver, Circumstances, Class, Decision, Destination, Injection, KeyState, NodeKey, Origin,
    Payload, Request, Scheme, SealedRef, Slot, Ticket, Trust, Verdict, Word, classify, hex,
    lease_context, seal_context, seal_info, sign,
};
use ed25519_dalek::Signature;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::support::node;

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/digests/vectors.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn request(v: &Value) -> Request {
    let mut headers = HeaderMap::new();
    for pair in list(&v["headers"]) {
        let latin_1: Vec<u8> = pair[1]
            .as_str()
            .unwrap()
            .chars()
            .map(|c| u8::try_from(u32::from(c)).unwrap())
            .collect();
        headers.append(
            HeaderName::from_bytes(pair[0].as_str().unwrap().as_bytes()).unwrap(),
            HeaderValue::from_bytes(&latin_1).unwrap(),
        );
    }
    let injections = list(&v["injections"]).iter().map(|i| {
        let slot = &i["slot"];
        let (before, after) = (|| text(&slot["before"]), || text(&slot["after"]));
        Injection {
            credential: text(&i["credential"]),
            version: number(&i["version"]),
            slot: match slot["kind"].as_str().unwrap() {
                "basic" => Slot::Basic { before: before(), after: after() },
                "header" => {
                    let name = text(&slot["name"]).parse().unwrap();
                    Slot::Header { name, before: before(), after: after() }
                }
                "cookie" => Slot::Cookie { at: number(&slot["at"]) as u32 },
                "form" => Slot::Form { at: number(&slot["at"]) as u32 },
                "json" => Slot::Json { at: number(&slot["at"]) as u32 },
                "signed" => Slot::Signed {
                    names: list(&slot["names"]).iter().map(|n| text(n).parse().unwrap()).collect(),
                    manner: text(&slot["manner"]),
                },
                "path" => Slot::Path { at: number(&slot["at"]) as u32 },
                "query" => Slot::Query { at: number(&slot["at"]) as u32 },
                other => panic!("{other}"),
            },
        }
    });
    let scheme = match v["scheme"].as_str().unwrap() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        "postgres" => Scheme::Postgres,
        other => panic!("{other}"),
    };
    let host = text(&v["host"]);
    let authority = if host.contains(':') { format!("[{host}]") } else { host };
    Request::new(
        Origin { cluster: text(&v["cluster"]), org: text(&v["org"]), agent: text(&v["agent"]) },
        Destination::parse(scheme, &format!("{authority}:{}", v["port"]), None).unwrap(),
        Method::from_bytes(v["method"].as_str().unwrap().as_bytes()).unwrap(),
        text(&v["path"]),
        v["query"].as_str().map(str::to_owned),
        headers,
        Payload::Whole(Bytes::from(bytes(&v["body"]))),
        injections.collect(),
    )
    .unwrap()
}

fn circumstances(v: &Value) -> Circumstances {
    Circumstances {
        request_id: array(&v["request_id"]),
        edge: text(&v["edge"]),
        edge_key: array(&v["edge_key"]),
        incarnation: array(&v["incarnation"]),
        protocol: text(&v["protocol"]),
        policy_version: number(&v["policy_version"]),
        started_ms: number(&v["started_ms"]),
        hold_ms: number(&v["hold_ms"]),
        nonce: array(&v["nonce"]),
    }
}

fn ticket(v: &Value) -> Ticket {
    match classify(request(&v["request"]), Verdict::Approve { rule: text(&v["rule"]) }) {
        Class::Hold(judged) => judged.hold(circumstances(&v["circumstances"]), 0).ticket().clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_have_the_digests_that_the_second_implementation_computes() {
    let all = vectors();
    assert!(list(&all["requests"]).len() >= 40);
    for v in list(&all["requests"]) {
        let ticket = ticket(v);
        assert_eq!(hex(&ticket.intent_digest), v["intent_digest"], "{}", v["name"]);
        assert_eq!(hex(&ticket.request_digest), v["request_digest"], "{}", v["name"]);
    }
}

/// DIG-FIELDS: each vector differs from the base in what `changed` names.
#[test]
fn dig_fields_a_change_of_any_bound_field_changes_the_digest() {
    let all = vectors();
    let vectors = list(&all["requests"]);
    let base = ticket(&vectors[0]);
    let mut digests = BTreeMap::new();
    for v in &vectors[1..] {
        let ticket = ticket(v);
        let changed = !list(&v["changed"]).is_empty();
        let intent_changes = v["intent_changes"].as_bool().unwrap();
        assert_eq!(ticket.intent_digest != base.intent_digest, intent_changes, "{}", v["name"]);
        assert_eq!(ticket.request_digest != base.request_digest, changed, "{}", v["name"]);
        if changed {
            let other = digests.insert(ticket.request_digest, v["name"].clone());
            assert!(other.is_none(), "{} and {other:?} have one digest", v["name"]);
        }
    }
}

/// A new field without a vector fails here: the patterns name every field.
#[test]
fn dig_fields_every_bound_field_has_a_vector() {
    let all = vectors();
    let changed: BTreeSet<&str> = list(&all["requests"])
        .iter()
        .flat_map(|v| v["changed"].as_array().into_iter().flatten())
        .map(|name| name.as_str().unwrap())
        .collect();
    let Circumstances {
        request_id: _,
        edge: _,
        edge_key: _,
        incarnation: _,
        protocol: _,
        policy_version: _,
        started_ms: _,
        hold_ms: _,
        nonce: _,
    } = circumstances(&all["requests"][0]["circumstances"]);
    let Origin { cluster: _, org: _, agent: _ } = request(&all["requests"][0]["request"]).origin();
    let bound = [
        "cluster",
        "org",
        "agent",
        "scheme",
        "host",
        "port",
        "method",
        "path",
        "query",
        "headers",
        "body",
        "injections",
        "rule",
        "request_id",
        "edge",
        "edge_key",
        "incarnation",
        "protocol",
        "policy_version",
        "started_ms",
        "hold_ms",
        "nonce",
    ];
    assert_eq!(changed, BTreeSet::from(bound));

    let decision = decision(&all["decisions"][0]["decision"]);
    let Decision {
        cluster: _,
        decision_id: _,
        word: _,
        approval_id: _,
        request_id: _,
        request_digest: _,
        intent_digest: _,
        edge: _,
        incarnation: _,
        term: _,
        index: _,
        policy_version: _,
        approvers: _,
        not_before_ms: _,
        expires_ms: _,
        sealed: _,
        epoch: _,
    } = &decision;
    let fields: BTreeSet<&str> =
        all["decisions"][0]["decision"].as_object().unwrap().keys().map(String::as_str).collect();
    let named: BTreeSet<&str> =
        list(&all["decisions"]).iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert!(fields.len() == 17 && fields.is_subset(&named));
}

fn decision(v: &Value) -> Decision {
    Decision {
        cluster: text(&v["cluster"]),
        decision_id: array(&v["decision_id"]),
        word: match v["word"].as_str().unwrap() {
            "cancel" => Word::Cancel,
            "deny" => Word::Deny,
            "expire" => Word::Expire,
            "release" => Word::Release,
            other => panic!("{other}"),
        },
        approval_id: v["approval_id"]
            .as_str()
            .map(|id| hex::decode(id).unwrap().try_into().unwrap()),
        request_id: array(&v["request_id"]),
        request_digest: array(&v["request_digest"]),
        intent_digest: array(&v["intent_digest"]),
        edge: text(&v["edge"]),
        incarnation: array(&v["incarnation"]),
        term: number(&v["term"]),
        index: number(&v["index"]),
        policy_version: number(&v["policy_version"]),
        approvers: list(&v["approvers"])
            .iter()
            .map(|a| Approver {
                principal: text(&a["principal"]),
                channel: text(&a["channel"]),
                at_ms: number(&a["at_ms"]),
            })
            .collect(),
        not_before_ms: number(&v["not_before_ms"]),
        expires_ms: number(&v["expires_ms"]),
        sealed: list(&v["sealed"])
            .iter()
            .map(|s| SealedRef {
                credential: text(&s["credential"]),
                version: number(&s["version"]),
                sha256: array(&s["sha256"]),
            })
            .collect(),
        epoch: number(&v["epoch"]),
    }
}

#[test]
fn decisions_have_the_encoding_that_the_second_implementation_writes() {
    let all = vectors();
    let mut encodings = BTreeSet::new();
    for v in list(&all["decisions"]) {
        let decision = decision(&v["decision"]);
        assert_eq!(hex(&decision.encode()), v["encoded"], "{}", v["name"]);
        assert_eq!(Decision::decode(&bytes(&v["encoded"])).unwrap(), decision, "{}", v["name"]);
        assert!(encodings.insert(decision.encode()), "{} is encoded as another", v["name"]);
    }
}

#[test]
fn near_misses_of_the_encoding_are_not_decisions() {
    let all = vectors();
    assert!(list(&all["malformed"]).len() >= 20);
    for v in list(&all["malformed"]) {
        assert!(Decision::decode(&bytes(&v["bytes"])).is_err(), "{}", v["name"]);
    }
}

#[test]
fn trust_bundles_have_the_encoding_that_the_second_implementation_writes() {
    for v in list(&vectors()["trust"]) {
        let trust = &v["trust"];
        let keys = list(&trust["keys"]).iter().map(|k| NodeKey {
            node: number(&k["node"]),
            public: array(&k["public"]),
            state: match k["state"].as_str().unwrap() {
                "active" => KeyState::Active,
                "next" => KeyState::Next,
                "retired" => KeyState::Retired,
                "revoked" => KeyState::Revoked,
                other => panic!("{other}"),
            },
        });
        let trust = Trust {
            cluster: text(&trust["cluster"]),
            epoch: number(&trust["epoch"]),
            threshold: number(&trust["threshold"]) as u32,
            keys: keys.collect(),
        };
        assert_eq!(hex(&trust.encode()), v["encoded"], "{}", v["name"]);
    }
}

#[test]
fn what_keys_are_sealed_with_is_what_the_second_implementation_writes() {
    let all = vectors();
    let contexts = &all["contexts"];
    assert_eq!(hex(&seal_info("prod.example", "edge-1", &[6; 16])), contexts["seal_info"]);
    assert_eq!(hex(&seal_context(&[4; 32], &[1; 16], "stripe", 3)), contexts["seal_context"]);
    assert_eq!(hex(&lease_context(&[9; 16], "stripe", 3)), contexts["lease_context"]);
}

#[test]
fn a_signature_is_one_of_dsses_encoding() {
    for v in list(&vectors()["envelopes"]) {
        let signature = sign(&node(1), v["payload_type"].as_str().unwrap(), &bytes(&v["payload"]));
        node(1)
            .verifying_key()
            .verify_strict(&bytes(&v["signed"]), &Signature::from_bytes(&signature))
            .unwrap();
    }
}
