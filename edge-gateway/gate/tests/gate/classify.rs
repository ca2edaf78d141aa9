//! What becomes of a request: nothing passes that no rule allows, nothing streams that people must see.

use bytes::Bytes;
use countersign_gate::{Class, Payload, Refusal, Verdict, classify};

use crate::support::{Parts, request};

fn rule() -> String {
    "rule".into()
}

fn streamed() -> countersign_gate::Request {
    Parts { payload: Payload::Streamed, ..Parts::default() }.request().unwrap()
}

#[test]
fn what_no_rule_names_is_refused() {
    assert!(matches!(classify(request(b""), Verdict::Unnamed), Class::Refuse(Refusal::Unnamed)));
    assert!(matches!(classify(streamed(), Verdict::Unnamed), Class::Refuse(Refusal::Unnamed)));
}

#[test]
fn what_is_denied_is_refused_with_its_rule() {
    for request in [request(b""), streamed()] {
        match classify(request, Verdict::Deny { rule: rule() }) {
            Class::Refuse(why) => assert_eq!(why, Refusal::Denied { rule: rule() }),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_allowed_passes_streamed_or_whole_without_a_decision() {
    for request in [request(b""), streamed()] {
        match classify(request, Verdict::Allow { rule: rule(), per_request: false }) {
            Class::Pass(released) => assert!(released.sealing().is_none()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_needs_people_or_a_key_for_one_request_is_held() {
    for verdict in
        [Verdict::Approve { rule: rule() }, Verdict::Allow { rule: rule(), per_request: true }]
    {
        match classify(request(b"body"), verdict.clone()) {
            Class::Hold(judged) => {
                assert_eq!((judged.rule(), judged.body()), ("rule", Bytes::from_static(b"body")));
            }
            other => panic!("{other:?}"),
        }
        match classify(streamed(), verdict) {
            Class::Refuse(why) => assert_eq!(why, Refusal::Unheld { rule: rule() }),
            other => panic!("{other:?}"),
        }
    }
}
