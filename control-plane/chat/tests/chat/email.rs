//! E-mail, with emulate as Resend.

use countersign_chat::{Auth, Call, Failure, Forged, Keys, Text};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    HANDLE, HOSTILE, OverHttp, Webhook, answer, any_card, asking, body, card, configuration, judge,
    key, now, open, settled,
};

const SETTINGS: &[(&str, &str)] = &[
    ("base_url", "http://127.0.0.1:1"),
    ("from", "Countersign <countersign@example.com>"),
    ("page_url", "https://countersign.example/answer/"),
];
const SECRETS: &[(&str, &str)] = &[("api_key", "re_canary")];
const PERSON: &str = "ana@example.com";
const PAGE: &str = "https://countersign.example/answer/00112233445566778899aabbccddeeff";

fn email() -> OverHttp {
    open("email", SETTINGS, SECRETS)
}

/// As the caller sends it.
fn mail(call: &Call) -> Value {
    let Auth::Bearer(secret) = &call.auth else { panic!("{call:?}") };
    let mut headers: serde_json::Map<_, _> = call
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap())))
        .collect();
    headers.insert("authorization".into(), format!("Bearer {}", secret.expose()).into());
    json!({
        "path": call.url.strip_prefix(SETTINGS[0].1).unwrap(),
        "headers": headers,
        "body": String::from_utf8(call.body.to_vec()).unwrap(),
    })
}

#[test]
fn emulate_delivers_a_card_once_for_a_key_and_as_text_alone() {
    let card = card("/p", "{\"a\": 1}");
    let call = email().post(PERSON, &asking(&card, "c", PERSON), "delivery-1").unwrap();
    let changed = email().post(PERSON, &settled(&card, "Denied by bo: no"), "delivery-1").unwrap();
    let mails = [&call, &call, &changed].map(mail);
    let judged = judge("resend_emulate.mjs", &json!({ "mails": mails }));
    let posted = |at: usize| {
        let said = &judged["answers"][at];
        email().posted(
            PERSON,
            &answer(said["status"].as_u64().unwrap().try_into().unwrap(), &said["body"]),
        )
    };
    let first = posted(0).unwrap();
    assert!(!first.id.is_empty());
    assert_eq!(posted(1), Ok(first), "the same mail");
    assert_eq!(posted(2).unwrap().id, "", "it is there, with the face that it had");
    assert_eq!(judged["mails"].as_array().unwrap().len(), 1);
    let arrived = &judged["mails"][0];
    assert_eq!(arrived["text"], body(&call)["text"]);
    assert_eq!((&arrived["html"], &arrived["to"]), (&Value::Null, &json!([PERSON])));
    assert_eq!(arrived["from"], SETTINGS[1].1);
}

#[test]
fn nothing_is_heard_by_mail() {
    for secrets in [&[][..], &[("api_key", "")]] {
        let without = configuration("email", SETTINGS, secrets).unwrap();
        let refused = (countersign_chat::platform("email").unwrap().open)(without);
        assert!(refused.err().unwrap().0.contains("the secret api_key is missing"));
    }
    let hook =
        Webhook::post(&[("content-type", "application/json")], "{\"type\":\"email.received\"}");
    assert_eq!(hook.heard(&*email(), &Keys::default(), now()), Err(Forged::Shape));
    let mut get = Webhook::post(&[], "");
    get.method = http::Method::GET;
    get.query = Some("approve=1".into());
    assert_eq!(get.heard(&*email(), &Keys::default(), now()), Err(Forged::Shape));
}

#[test]
fn a_4_hostile_text_is_only_in_the_text_and_nothing_of_a_mail_proves_anything() {
    let card = card(HOSTILE, HOSTILE);
    let call = email().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap();
    let mut sent = body(&call);
    let text = sent["text"].as_str().unwrap().to_owned();
    for invisible in ['\u{202e}', '\u{200b}', '\u{e0041}'] {
        assert!(!text.contains(invisible));
    }
    let notice = asking(&card, "c", PERSON);
    let answers = notice.answers.as_ref().unwrap();
    for proof in [answers.approve.as_str(), answers.deny.as_str(), &answers.code.shown()] {
        assert!(!sent.to_string().contains(proof), "a scanner reads it");
    }
    assert!(key().code("c", PERSON, HANDLE).is(&answers.code));
    sent["text"] = "".into();
    assert!(!sent.to_string().contains("evil"), "it is nowhere else, not in the subject either");
    assert!(sent["html"].is_null());
    assert!(!sent.to_string().contains("canary") && !call.url.contains("canary"));
    assert_eq!(sent["headers"]["Auto-Submitted"], "auto-generated");
}

#[test]
fn a_5_what_does_not_fit_says_so_and_where_to_see_it() {
    let mut card = card("/p", &"x\n".repeat(200_000));
    let text = |card: &_| {
        let call = email().post(PERSON, &asking(card, "c", PERSON), "k").unwrap();
        body(&call)["text"].as_str().unwrap().to_owned()
    };
    assert!(text(&card).contains(" of 400000 bytes):"));
    card.demands_whole = true;
    assert!(text(&card).contains("countersign approval show"));
    let longer = crate::support::card(&format!("/{}", "p".repeat(60_000)), "");
    assert!(email().post(PERSON, &asking(&longer, "c", PERSON), "k").is_err());
}

proptest! {
    #[test]
    fn a_5_email_no_mail_is_over_the_limit(card in any_card()) {
        if let Ok(call) = email().post(PERSON, &asking(&card, "c", PERSON), "k") {
            prop_assert!(call.body.len() <= 40_000_000);
            prop_assert!(body(&call)["text"].as_str().unwrap().len() <= 101_000);
        }
    }
}

#[test]
fn a_8_the_only_address_with_a_scheme_is_the_page_where_people_log_in() {
    let card = card("/p", "To answer, log in at https://evil.example");
    let call = email().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap();
    let sent = body(&call);
    let text = sent["text"].as_str().unwrap();
    assert!(
        text.starts_with(&format!("To answer, log in at {PAGE}\n")),
        "before what an agent wrote"
    );
    assert_eq!(text.matches("://").count(), 1);
    let words = body(&email().say(PERSON, None, &Text::of("see https://evil.example")));
    assert_eq!(words["text"], "see https[:]//evil.example");
}

#[test]
fn i_13_a_settled_card_asks_for_nothing_and_an_old_one_stays_as_it_is() {
    let card = card("/p", "{}");
    let message = countersign_chat::Message { place: PERSON.into(), id: "m1".into() };
    let settled = settled(&card, "Denied by bo: no");
    assert!(email().edit(&message, &settled).is_none() && !email().caps().edit);
    let sent = body(&email().post(PERSON, &settled, "k").unwrap()).to_string();
    assert!(sent.contains("Denied by bo: no") && !sent.contains("To answer"));
}

#[test]
fn an_answer_says_what_was_wrong_and_whether_to_try_again() {
    let posted = |status, name: &str| {
        let body = json!({ "statusCode": status, "name": name, "message": "no" });
        email().posted(PERSON, &answer(status, &body)).unwrap_err()
    };
    assert!(matches!(posted(429, "rate_limit_exceeded"), Failure::Later { .. }));
    assert!(matches!(posted(409, "concurrent_idempotent_requests"), Failure::Later { .. }));
    let Failure::Never { why } = posted(403, "validation_error") else { panic!("not for later") };
    assert!(why.contains("validation_error: no"), "{why}");
}
