//! Instagram, with Python's hmac as the signer.

use std::time::SystemTime;

use countersign_chat::{
    Adapter, Failure, Forged, Heard, Keys, Outcome, Text, Token, Typed, What, Words,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::meta::{challenge, signed};
use crate::support::{
    Forgeries, HANDLE, HOSTILE, Signer, Webhook, answer, any_card, asking, body, card,
    demands_secret, key, now, open, seconds, settled,
};

const SETTINGS: &[(&str, &str)] =
    &[("base_url", "http://127.0.0.1:1/v25.0"), ("account_id", "104728521537301")];
const SECRETS: &[(&str, &str)] = &[
    ("access_token", "EAA-canary"),
    ("app_secret", "5eb63bbbe01eeed093cb22bb8f5acdc3"),
    ("verify_token", "made-up-by-us"),
];
const PERSON: &str = "6254273171337";

fn instagram() -> Box<dyn Adapter> {
    open("instagram", SETTINGS, SECRETS)
}

fn approve() -> Token {
    key().token("c", PERSON, HANDLE, Words::Approve)
}

fn signer(at: SystemTime) -> Signer<'static> {
    Signer { secret: SECRETS[1].1, app: SETTINGS[1].1, at }
}

/// As the reference shows what an event of a conversation is.
fn hook(signer: &Signer<'_>, event: &Value) -> Webhook {
    let milliseconds = seconds(signer.at) * 1000;
    let mut event = event.clone();
    event["recipient"] = json!({ "id": signer.app });
    event["timestamp"] = milliseconds.into();
    let payload = json!({
        "object": "instagram",
        "entry": [{ "id": signer.app, "time": milliseconds, "messaging": [event] }],
    });
    signed(signer, &payload.to_string())
}

fn postback(token: &Token) -> Value {
    json!({ "sender": { "id": PERSON }, "postback": { "mid": "m_1", "title": "Approve", "payload": token.as_str() } })
}

fn written(words: &str) -> Value {
    json!({ "sender": { "id": PERSON }, "message": { "mid": "m_2", "text": words } })
}

fn heard(event: &Value) -> Result<Heard, Forged> {
    hook(&signer(now()), event).heard(&*instagram(), &Keys::default(), now())
}

#[test]
fn c_10_instagram_nine_forgeries() {
    Forgeries {
        adapter: &*instagram(),
        keys: Keys::default(),
        secret: SECRETS[1].1,
        app: SETTINGS[1].1,
        signature: "x-hub-signature-256",
        timed: true,
        covers_body: true,
        make: &|signer| hook(signer, &postback(&approve())),
        reserialised: &|body| String::from_utf8(body.to_vec()).unwrap().replace(':', ": ").into(),
    }
    .are_refused();
    for (secret, _) in SECRETS {
        demands_secret("instagram", SETTINGS, SECRETS, secret);
    }
}

#[test]
fn a_challenge_is_answered_for_whoever_has_the_verify_token() {
    let ask = |query: &str| challenge(query).heard(&*instagram(), &Keys::default(), now());
    let genuine = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=made-up-by-us";
    assert!(matches!(ask(genuine), Ok(Heard::Challenge(reply)) if reply.body == "1158201444"));
    assert_eq!(ask(&genuine.replace("made", "guessed")), Err(Forged::Signature));
    assert_eq!(ask(&format!("{genuine}&hub.verify_token=guessed")), Err(Forged::Shape));
    assert_eq!(ask("hub.mode=subscribe&hub.challenge=1"), Err(Forged::Signature));
}

#[test]
fn a_tap_says_who_pressed_what_and_is_answered_there() {
    let quick = json!({ "sender": { "id": PERSON }, "message": { "mid": "m_1", "text": "Approve",
        "quick_reply": { "payload": approve().as_str() } } });
    for event in [postback(&approve()), quick] {
        let Ok(Heard::Said(said)) = heard(&event) else { panic!("nothing was said") };
        assert_eq!((said[0].by.tenant.as_str(), said[0].by.id.as_str()), (SETTINGS[1].1, PERSON));
        assert_eq!((said[0].message.place.as_str(), said[0].event.as_str()), (PERSON, "m_1"));
        let What::Tap(token) = &said[0].what else { panic!("{said:?}") };
        assert_eq!(key().open("c", PERSON, token), Some((HANDLE, Words::Approve)));
        let (reply, call) = instagram().reply(&said[0], &Outcome::Refused(Text::of("you may not")));
        assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, ""));
        let sent = body(&call.unwrap());
        assert_eq!(
            (&sent["recipient"]["id"], &sent["message"]["text"]),
            (&json!(PERSON), &json!("you may not"))
        );
    }
}

#[test]
fn a_code_is_written_by_people_and_our_own_echoes_are_not_heard() {
    let Ok(Heard::Said(said)) = heard(&written("link abc-def")) else { panic!("nothing was said") };
    assert_eq!(said[0].what, What::Typed(Typed::Link("abc-def".into())));
    assert_eq!(said[0].message.id, "m_2");
    let mut echo = written("link abc-def");
    echo["message"]["is_echo"] = true.into();
    assert_eq!(heard(&echo), Ok(Heard::Nothing));
    let mut own = written("link abc-def");
    own["sender"]["id"] = SETTINGS[1].1.into();
    assert_eq!(heard(&own), Ok(Heard::Nothing));
    assert_eq!(heard(&written("hello")), Ok(Heard::Nothing));
    let another = signed(&signer(now()), "{\"object\":\"user\",\"entry\":[]}");
    assert_eq!(another.heard(&*instagram(), &Keys::default(), now()), Err(Forged::Shape));
}

#[test]
fn a_4_hostile_text_is_only_in_plain_text() {
    let card = card("/x", HOSTILE);
    let call = instagram().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap();
    let mut sent = body(&call);
    for invisible in ['\u{202e}', '\u{200b}', '\u{e0041}'] {
        assert!(!sent.to_string().contains(invisible));
    }
    assert!(!sent.to_string().contains("EAA-canary") && !call.url.contains("canary"));
    assert_eq!(call.url, "http://127.0.0.1:1/v25.0/104728521537301/messages");
    assert!(!sent["message"]["text"].as_str().unwrap().contains(" @"), "no name is a link");
    sent["message"]["text"] = "".into();
    assert!(!sent.to_string().contains("/x"), "it is nowhere else");
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_buttons_where_the_rule_wants_it_whole() {
    let mut card = card("/p", &"東".repeat(2_000));
    let sent = |card: &_| body(&instagram().post(PERSON, &asking(card, "c", PERSON), "k").unwrap());
    assert!(sent(&card).to_string().contains(" of 6000 bytes):"));
    assert_eq!(sent(&card)["message"]["quick_replies"][0]["payload"], approve().as_str());
    let code = key().code("c", PERSON, HANDLE).shown();
    assert!(sent(&card).to_string().contains(&code));
    card.demands_whole = true;
    assert!(!sent(&card).to_string().contains("payload"), "no button");
    assert!(sent(&card).to_string().contains("countersign approval show"));
    assert!(!sent(&card).to_string().contains(&code), "and no code");
    let longer = crate::support::card(&format!("/{}", "p".repeat(400)), "");
    assert!(instagram().post(PERSON, &asking(&longer, "c", PERSON), "k").is_err());
}

proptest! {
    #[test]
    fn a_5_instagram_no_message_is_over_the_limit(card in any_card()) {
        if let Ok(call) = instagram().post(PERSON, &asking(&card, "c", PERSON), "k") {
            prop_assert!(body(&call)["message"]["text"].as_str().unwrap().len() <= 1000);
        }
    }
}

#[test]
fn a_8_no_address_keeps_its_scheme() {
    let card = card("/p", "https://evil.example");
    for notice in [asking(&card, "c", PERSON), settled(&card, "see https://evil.example")] {
        let sent = body(&instagram().post(PERSON, &notice, "k").unwrap()).to_string();
        assert!(!sent.contains("://") && sent.contains("https[:]//evil.example"));
    }
}

#[test]
fn i_13_a_settled_card_has_no_button_and_an_old_one_stays_as_it_is() {
    let card = card("/p", "{}");
    let message = countersign_chat::Message { place: PERSON.into(), id: "m_ours".into() };
    let settled = settled(&card, "Denied by bo: no");
    assert!(instagram().edit(&message, &settled).is_none() && !instagram().caps().edit);
    let sent = body(&instagram().post(PERSON, &settled, "k").unwrap()).to_string();
    assert!(sent.contains("Denied by bo: no") && !sent.contains("payload"));
}

#[test]
fn an_answer_says_which_message_it_is_now_or_what_to_do() {
    let posted = |status, body: Value| instagram().posted(PERSON, &answer(status, &body));
    let sent = posted(200, json!({ "recipient_id": PERSON, "message_id": "m_ours" })).unwrap();
    assert_eq!((sent.place.as_str(), sent.id.as_str()), (PERSON, "m_ours"));
    let error = |code: i64| json!({ "error": { "message": "(#1) no", "code": code } });
    let Err(Failure::Never { why }) = posted(400, error(10)) else { panic!("not refused") };
    assert!(why.contains("24 hours"), "{why}");
    assert!(matches!(posted(400, error(613)), Err(Failure::Later { .. })));
    assert!(matches!(posted(400, error(190)), Err(Failure::Never { .. })));
    assert!(matches!(posted(200, json!({})), Err(Failure::Never { .. })));
}
