//! X, with Python's hmac as the signer.

use std::time::SystemTime;

use countersign_chat::{Failure, Forged, Heard, Keys, Outcome, Text, Typed, What, Words};
use http::Method;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, any_card, asking, body, card,
    demands_secret, judge, key, now, open, seconds, settled,
};

const SETTINGS: &[(&str, &str)] =
    &[("base_url", "http://127.0.0.1:1/2"), ("account_id", "1111111111111111111")];
const SECRETS: &[(&str, &str)] = &[
    ("access_token", "user-canary"),
    ("consumer_secret", "z3ZX4v7mAAUGykl3EcmkqbartmuW8VFOOzCloLx9Q45P0hLrFu"),
];
const PERSON: &str = "2222222222222222222";

fn x() -> OverHttp {
    open("x", SETTINGS, SECRETS)
}

fn signer(at: SystemTime) -> Signer<'static> {
    Signer { secret: SECRETS[1].1, app: SETTINGS[1].1, at }
}

/// A message as both APIs show it.
fn event(signer: &Signer<'_>, words: &str) -> Value {
    json!({
        "type": "message_create", "id": "2080765901528535096",
        "created_timestamp": (seconds(signer.at) * 1000 + 372).to_string(),
        "message_create": {
            "target": { "recipient_id": signer.app }, "sender_id": PERSON,
            "message_data": { "text": words, "entities": { "urls": [] } },
        },
    })
}

/// As the X Activity API delivers it.
fn activity(signer: &Signer<'_>, words: &str) -> Value {
    json!({ "data": {
        "event_uuid": "-6850472171600526495", "filter": { "user_id": signer.app },
        "event_type": "dm.received", "tag": "dm-inbound",
        "payload": { "direct_message_events": [event(signer, words)], "users": {} },
    } })
}

/// Signed by Python.
fn hook(signer: &Signer<'_>, payload: &Value) -> Webhook {
    let body = payload.to_string();
    let mac = judge("hmac_sign.py", &json!({ "secret": signer.secret, "text": body }));
    let signature = format!("sha256={}", mac["base64"].as_str().unwrap());
    let headers = [
        ("content-type", "application/json"),
        ("x-twitter-webhooks-signature", signature.as_str()),
    ];
    Webhook::post(&headers, body)
}

fn heard(payload: &Value) -> Result<Heard, Forged> {
    hook(&signer(now()), payload).heard(&*x(), &Keys::default(), now())
}

fn code() -> String {
    key().code("c", PERSON, HANDLE).shown()
}

#[test]
fn c_10_x_nine_forgeries() {
    Forgeries {
        adapter: &*x(),
        keys: Keys::default(),
        secret: SECRETS[1].1,
        app: SETTINGS[1].1,
        signature: "x-twitter-webhooks-signature",
        timed: true,
        covers_body: true,
        make: &|signer| hook(signer, &activity(signer, &format!("approve {}", code()))),
        reserialised: &|body| String::from_utf8(body.to_vec()).unwrap().replace(':', ": ").into(),
    }
    .are_refused();
    for (secret, _) in SECRETS {
        demands_secret("x", SETTINGS, SECRETS, secret);
    }
}

#[test]
fn c_10_x_the_challenge_is_answered_and_signs_nothing_that_could_be_a_webhook() {
    let ask = |query: &str| {
        let mut hook = Webhook::post(&[], "");
        hook.method = Method::GET;
        hook.query = Some(query.to_owned());
        hook.heard(&*x(), &Keys::default(), now())
    };
    let token = "9b4507b3-9040-4669-9ca3-6b94edb50553";
    let Ok(Heard::Challenge(reply)) = ask(&format!("crc_token={token}&nonce=1")) else {
        panic!("no answer")
    };
    let mac = judge("hmac_sign.py", &json!({ "secret": SECRETS[1].1, "text": token }));
    let expected =
        json!({ "response_token": format!("sha256={}", mac["base64"].as_str().unwrap()) });
    assert_eq!(reply.body, expected.to_string());
    // Whoever could have this signed could have said anything.
    let forged = activity(&signer(now()), &format!("approve {}", code())).to_string();
    let encoded: String = forged.bytes().map(|b| format!("%{b:02X}")).collect();
    for query in
        [format!("crc_token={encoded}"), "crc_token=".into(), "crc=a".into(), "crc_token=[]".into()]
    {
        assert_eq!(ask(&query), Err(Forged::Shape), "{query}");
    }
    assert_eq!(ask(&format!("crc_token={token}&crc_token={token}")), Err(Forged::Shape));
}

#[test]
fn a_message_says_who_wrote_what_in_either_api() {
    let older = json!({ "for_user_id": SETTINGS[1].1, "direct_message_events": [event(&signer(now()), "link abc-def")] });
    for payload in [activity(&signer(now()), "link abc-def"), older] {
        let said = hook(&signer(now()), &payload).says(&*x(), &Keys::default(), now());
        assert_eq!((said.by.tenant.as_str(), said.by.id.as_str()), ("", PERSON));
        assert_eq!(said.what, What::Typed(Typed::Link("abc-def".into())));
        assert_eq!(
            (said.message.place.as_str(), said.event.as_str()),
            (PERSON, "2080765901528535096")
        );
        let (reply, call) = x().reply(&said, &Outcome::Refused(Text::of("ask @ana")));
        assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, ""));
        let call = call.unwrap();
        assert_eq!(
            call.url,
            format!("http://127.0.0.1:1/2/dm_conversations/with/{PERSON}/messages")
        );
        assert_eq!(body(&call), json!({ "text": "ask [@]ana" }));
    }
    let answered = format!("approve {}", code().to_lowercase());
    let Ok(Heard::Said(said)) = heard(&activity(&signer(now()), &answered)) else {
        panic!("nothing")
    };
    let What::Typed(Typed::Answer { word: Words::Approve, code, .. }) = &said[0].what else {
        panic!("{said:?}")
    };
    assert!(code.is(&key().code("c", PERSON, HANDLE)));
}

#[test]
fn our_own_messages_and_those_of_other_accounts_are_not_heard() {
    let mut own = activity(&signer(now()), "link abc-def");
    own["data"]["payload"]["direct_message_events"][0]["message_create"]["sender_id"] =
        SETTINGS[1].1.into();
    assert_eq!(heard(&own), Ok(Heard::Nothing));
    let mut sent = activity(&signer(now()), "link abc-def");
    sent["data"]["event_type"] = "dm.sent".into();
    assert_eq!(heard(&sent), Ok(Heard::Nothing));
    let mut another = activity(&signer(now()), "link abc-def");
    another["data"]["filter"]["user_id"] = "3".into();
    assert_eq!(heard(&another), Ok(Heard::Nothing));
    let mut to_another = activity(&signer(now()), "link abc-def");
    to_another["data"]["payload"]["direct_message_events"][0]["message_create"]["target"]["recipient_id"] =
        "3".into();
    assert_eq!(heard(&to_another), Ok(Heard::Nothing));
    assert_eq!(heard(&activity(&signer(now()), "hello")), Ok(Heard::Nothing));
}

#[test]
fn a_4_hostile_text_is_only_in_the_text_and_no_name_is_a_link() {
    let card = card(HOSTILE, HOSTILE);
    let call = x().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap();
    let sent = body(&call);
    let text = sent["text"].as_str().unwrap();
    for invisible in ['\u{202e}', '\u{200b}', '\u{e0041}'] {
        assert!(!text.contains(invisible));
    }
    assert_eq!(text.matches('@').count(), text.matches("[@]").count());
    assert_eq!(sent.as_object().unwrap().len(), 1);
    assert!(!sent.to_string().contains("canary") && !call.url.contains("canary"));
    let elsewhere = x().say("1/../2", None, &Text::of("a"));
    assert!(elsewhere.url.ends_with("/with/1%2F%2E%2E%2F2/messages"), "{}", elsewhere.url);
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_code_where_the_rule_wants_it_whole() {
    let mut card = card("/p", &"x".repeat(20_000));
    let sent =
        |card: &_| body(&x().post(PERSON, &asking(card, "c", PERSON), "k").unwrap()).to_string();
    assert!(sent(&card).contains(" of 20000 bytes):") && sent(&card).contains(&code()));
    card.demands_whole = true;
    assert!(sent(&card).contains("countersign approval show") && !sent(&card).contains(&code()));
    let longer = crate::support::card(&format!("/{}", "p".repeat(6000)), "");
    assert!(x().post(PERSON, &asking(&longer, "c", PERSON), "k").is_err());
}

proptest! {
    #[test]
    fn a_5_x_no_message_is_over_the_limit(card in any_card()) {
        if let Ok(call) = x().post(PERSON, &asking(&card, "c", PERSON), "k") {
            prop_assert!(body(&call)["text"].as_str().unwrap().encode_utf16().count() <= 10_000);
        }
    }
}

#[test]
fn a_8_no_address_keeps_its_scheme() {
    let card = card("/p", "https://evil.example");
    let sent = body(&x().post(PERSON, &settled(&card, "see https://evil.example"), "k").unwrap());
    assert!(
        !sent.to_string().contains("://") && sent.to_string().contains("https[:]//evil.example")
    );
}

#[test]
fn i_13_a_settled_card_has_no_code_and_an_old_one_stays_as_it_is() {
    let card = card("/p", "{}");
    let message = countersign_chat::Message { place: PERSON.into(), id: "1".into() };
    let settled = settled(&card, "Denied by bo: no");
    assert!(x().edit(&message, &settled).is_none() && !x().caps().edit);
    let sent = body(&x().post(PERSON, &settled, "k").unwrap()).to_string();
    assert!(sent.contains("Denied by bo: no") && !sent.contains("approve"));
}

#[test]
fn an_answer_says_which_message_it_is_now_or_what_was_wrong() {
    let posted = |status, body: Value| x().posted(PERSON, &answer(status, &body));
    let sent = json!({ "data": { "dm_conversation_id": "1-2", "dm_event_id": "5" } });
    assert_eq!(posted(201, sent).unwrap().id, "5");
    let Err(Failure::Never { why }) =
        posted(403, json!({ "detail": "You do not have permission to DM" }))
    else {
        panic!("not refused")
    };
    assert!(why.ends_with(": You do not have permission to DM"), "{why}");
    assert!(matches!(posted(429, json!({})), Err(Failure::Later { .. })));
}
