//! Notion, signed by Node's crypto; no emulator of it and no receiver of others is at hand.

use countersign_chat::{
    Auth, Call, Card, Face, Failure, Forged, Heard, Keys, Message, Text, Typed, User, What, Words,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Webhook, answer, asking, card, demands_secret, judge,
    key, now, open, settled,
};
use crate::written::{demand_visible, is_hostile, strings, utc};

const SETTINGS: &[(&str, &str)] = &[
    ("base_url", "http://127.0.0.1:1"),
    ("workspace", "W1"),
    ("integration", "I1"),
    ("bot", "B1"),
];
const SECRETS: &[(&str, &str)] = &[("token", "ntn_canary"), ("verification_token", "secret_tMrl")];
const PLACE: &str = "5c6a2821-6bb1-4a7e-b6e1-c50111515c3d";

fn notion() -> OverHttp {
    open("notion", SETTINGS, SECRETS)
}

/// As Notion's documentation shows an event.
fn created() -> Value {
    json!({
        "id": "367cba44-b6f3-4c92-81e7-6a2e9659efd4",
        "timestamp": utc(now()),
        "workspace_id": "W1",
        "workspace_name": "Acme",
        "subscription_id": "29d75c0d-5546-4414-8459-7b7a92f1fc4b",
        "integration_id": "I1",
        "type": "comment.created",
        "authors": [{ "id": "u1", "type": "person" }],
        "accessible_by": [],
        "attempt_number": 1,
        "entity": { "id": "7a793800/../users", "type": "comment" },
        "data": { "page_id": PLACE, "parent": { "id": PLACE, "type": "page" } },
    })
}

/// As it shows a comment.
fn comment(text: &str) -> Value {
    json!({
        "object": "comment",
        "id": "7a793800",
        "parent": { "type": "page_id", "page_id": PLACE },
        "discussion_id": "f4be6752",
        "created_time": utc(now()),
        "created_by": { "object": "user", "id": "u1" },
        "rich_text": [{ "type": "text", "text": { "content": text, "link": null }, "plain_text": text, "href": null }],
    })
}

fn hook(secret: &str, event: &Value) -> Webhook {
    let body = event.to_string();
    let signed = judge("hmac_sign.mjs", &json!({ "secret": secret, "body": body }));
    let signature = format!("sha256={}", signed["signature"].as_str().unwrap());
    Webhook::post(&[("content-type", "application/json"), ("x-notion-signature", &signature)], body)
}

fn heard(event: &Value) -> Result<Heard, Forged> {
    hook(SECRETS[1].1, event).heard(&*notion(), &Keys::default(), now())
}

fn texts(call: &Call) -> Vec<Value> {
    let sent: Value = serde_json::from_slice(&call.body).unwrap();
    sent["rich_text"].as_array().unwrap().clone()
}

fn written(call: &Call) -> String {
    texts(call).iter().map(|it| it["text"]["content"].as_str().unwrap()).collect()
}

#[test]
fn c_10_notion_nine_forgeries() {
    let adapter = notion();
    for which in ["workspace_id", "integration_id"] {
        let ours = created()[which].as_str().unwrap().to_owned();
        Forgeries {
            adapter: &*adapter,
            keys: Keys::default(),
            secret: SECRETS[1].1,
            app: &ours,
            signature: "x-notion-signature",
            timed: true,
            covers_body: true,
            make: &|signer| {
                let mut event = created();
                event["timestamp"] = utc(signer.at).into();
                event[which] = signer.app.into();
                hook(signer.secret, &event)
            },
            reserialised: &|body| {
                String::from_utf8(body.to_vec()).unwrap().replace(":", ": ").into_bytes()
            },
        }
        .are_refused();
    }
    demands_secret("notion", SETTINGS, SECRETS, "verification_token");
    demands_secret("notion", SETTINGS, SECRETS, "token");
    let unsigned = Webhook::post(&[], json!({ "verification_token": "secret_of_eve" }).to_string());
    assert_eq!(unsigned.heard(&*notion(), &Keys::default(), now()), Err(Forged::Signature));
}

#[test]
fn a_webhook_leads_to_one_comment_and_that_to_who_said_what() {
    let Ok(Heard::Named(named)) = heard(&created()) else { panic!("{:?}", heard(&created())) };
    let call = notion().fetch(&named).unwrap();
    assert_eq!(call.method, "GET");
    assert_eq!(call.url, "http://127.0.0.1:1/v1/comments/7a793800%2F%2E%2E%2Fusers");
    assert!(matches!(&call.auth, Auth::Bearer(_)) && call.headers.contains_key("notion-version"));
    let fetched = |comment: &Value| notion().fetched("7a793800", &answer(200, comment));
    let code = key().code("c", PLACE, HANDLE);
    let approve = comment(&format!("approve {}", code.shown()));
    let Ok(Heard::Said(said)) = fetched(&approve) else { panic!("{:?}", fetched(&approve)) };
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].by, User { tenant: "W1".into(), id: "u1".into() });
    assert_eq!(said[0].message, Message { place: PLACE.into(), id: "7a793800".into() });
    assert_eq!(said[0].event, "comment 7a793800");
    let What::Typed(Typed::Answer { word: Words::Approve, code: typed, .. }) = &said[0].what else {
        panic!("{said:?}")
    };
    assert!(typed.is(&code));
    let mut ours = approve;
    ours["created_by"]["id"] = "B1".into();
    assert_eq!(fetched(&ours), Ok(Heard::Nothing), "our own comments answer nothing");
    assert_eq!(fetched(&comment("I approve")), Ok(Heard::Nothing));
    assert!(matches!(fetched(&json!({})), Err(Failure::Never { .. })));
    let mut another = comment("approve me");
    another["id"] = "7a793801".into();
    assert!(matches!(fetched(&another), Err(Failure::Never { .. })), "never another one");
    let busy = notion().fetched("7a793800", &answer(529, &json!({})));
    assert!(matches!(busy, Err(Failure::Later { .. })), "{busy:?}");
}

#[test]
fn nothing_is_fetched_for_bots_agents_several_authors_or_other_events() {
    let changed = |pointer: &str, value: Value| {
        let mut event = created();
        *event.pointer_mut(pointer).unwrap() = value;
        heard(&event)
    };
    assert_eq!(changed("/authors/0/type", "bot".into()), Ok(Heard::Nothing));
    assert_eq!(changed("/authors/0/type", "agent".into()), Ok(Heard::Nothing));
    let two = json!([{ "id": "u1", "type": "person" }, { "id": "u2", "type": "person" }]);
    assert_eq!(changed("/authors", two), Ok(Heard::Nothing));
    assert_eq!(changed("/type", "comment.updated".into()), Ok(Heard::Nothing));
    assert_eq!(changed("/timestamp", Value::Null), Err(Forged::Stale));
}

#[test]
fn a_4_a_8_hostile_words_are_only_in_plain_texts_without_links() {
    let mut card = card(HOSTILE, &format!("{HOSTILE}\n@everyone out"));
    card.warnings = vec![Text::of(HOSTILE)];
    let mut notice = asking(&card, "c", PLACE);
    notice.face = Face::Asking { standing: vec![Text::of(HOSTILE)] };
    let call = notion().post(PLACE, &notice, "k").unwrap();
    let sent: Value = serde_json::from_slice(&call.body).unwrap();
    assert_eq!(sent["parent"], json!({ "page_id": PLACE }));
    let mut seen = false;
    for (path, text) in strings(&sent) {
        demand_visible(&text);
        if is_hostile(&text) {
            seen = true;
            assert_eq!(path, "/rich_text/text/content");
        }
    }
    assert!(seen);
    for text in texts(&call) {
        assert_eq!((&text["type"], &text["text"]["link"]), (&json!("text"), &Value::Null));
    }
    assert!(!format!("{call:?}").contains("canary"));
    let said = notion().say(PLACE, None, &Text::of(HOSTILE));
    assert_eq!(written(&said), Text::of(HOSTILE).as_str());
}

#[test]
fn a_5_a_long_body_is_cut_with_its_numbers_and_a_rule_that_wants_it_whole_takes_the_code() {
    let mut card = card("/p", &"x".repeat(40_000));
    let sent =
        |card: &Card| written(&notion().post(PLACE, &asking(card, "c", PLACE), "k").unwrap());
    assert!(sent(&card).contains(" of 40000 bytes):") && sent(&card).contains("here: approve"));
    card.demands_whole = true;
    assert!(!sent(&card).contains("here: approve"), "no code");
    assert!(sent(&card).contains("countersign approval show"));
    let longer = crate::support::card(&format!("/{}", "p".repeat(100_500)), "");
    assert!(
        notion().post(PLACE, &asking(&longer, "c", PLACE), "k").is_err(),
        "a head is never cut"
    );
}

proptest! {
    #[test]
    fn a_5_a_comment_is_of_at_most_100_texts_of_2000_characters_with_all_of_its_head(
        path in "(\\PC|[\u{1f600}-\u{1f64f}]){0,9000}", body in "(\\PC|\n|\u{202e}){0,20000}"
    ) {
        let card = card(&path, &body);
        if let Ok(call) = notion().post(PLACE, &asking(&card, "c", PLACE), "k") {
            prop_assert!(texts(&call).len() <= 100);
            for text in texts(&call) {
                let units = text["text"]["content"].as_str().unwrap().encode_utf16().count();
                prop_assert!((1..=2000).contains(&units), "{}", units);
            }
            prop_assert!(written(&call).contains(card.sentence.as_str()), "nothing is lost between texts");
        }
    }
}

#[test]
fn i_13_a_settled_card_has_its_last_face_and_no_code() {
    let card = card("/p", "{}");
    let message = Message { place: PLACE.into(), id: "7a793800".into() };
    let call = notion().edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    assert_eq!(
        (call.method.as_str(), call.url.as_str()),
        ("PATCH", "http://127.0.0.1:1/v1/comments/7a793800")
    );
    assert!(
        written(&call).contains("Denied by bo: no") && !written(&call).contains("here: approve")
    );
    assert_eq!(notion().edited(&answer(404, &json!({}))), Ok(()));
    let busy = notion().posted(PLACE, &answer(429, &json!({})));
    assert!(matches!(busy, Err(Failure::Later { .. })), "{busy:?}");
}
