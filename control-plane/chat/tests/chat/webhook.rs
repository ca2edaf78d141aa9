//! Signed webhooks, with the library of Standard Webhooks as signer and as verifier.

use std::time::{Duration, SystemTime};

use countersign_chat::{Auth, Forged, Heard, Keys, Outcome, Text, Token, Typed, What, Words};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, any_card, asking, body, card,
    configuration, demands_secret, headers, judge, key, now, open, seconds, settled,
};

const SETTINGS: &[(&str, &str)] = &[("base_url", "http://127.0.0.1:1/cards")];
const SECRETS: &[(&str, &str)] = &[
    ("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ("answer_secret", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
];

fn webhook() -> OverHttp {
    open("webhook", SETTINGS, SECRETS)
}

fn approve() -> Token {
    key().token("c", "ana", HANDLE, Words::Approve)
}

fn signer(at: SystemTime) -> Signer<'static> {
    Signer { secret: SECRETS[1].1, app: "countersign", at }
}

fn answered(app: &str) -> Value {
    json!({ "type": "card.answered", "audience": app, "from": "ana", "to": "ana", "message": "m1", "token": approve().as_str() })
}

/// Signed by the library.
fn hook(signer: &Signer<'_>, document: &Value) -> Webhook {
    let (at, body) = (seconds(signer.at), document.to_string());
    // The library wants base64 where a forger has guessed anything.
    let secret = if signer.secret.starts_with("whsec_") { signer.secret } else { SECRETS[0].1 };
    let signed = judge(
        "standard_webhooks.py",
        &json!({ "secret": secret, "id": "msg_1", "at": at, "sign": body }),
    );
    let at = at.to_string();
    let headers = [
        ("content-type", "application/json"),
        ("webhook-id", "msg_1"),
        ("webhook-timestamp", &at),
        ("webhook-signature", signed["signature"].as_str().unwrap()),
    ];
    Webhook::post(&headers, body)
}

#[test]
fn c_10_webhook_nine_forgeries() {
    Forgeries {
        adapter: &*webhook(),
        keys: Keys::default(),
        secret: SECRETS[1].1,
        app: "countersign",
        signature: "webhook-signature",
        timed: true,
        covers_body: true,
        make: &|signer| hook(signer, &answered(signer.app)),
        reserialised: &|body| String::from_utf8(body.to_vec()).unwrap().replace(':', ": ").into(),
    }
    .are_refused();
    demands_secret("webhook", SETTINGS, SECRETS, "secret");
    demands_secret("webhook", SETTINGS, SECRETS, "answer_secret");
}

#[test]
fn c_10_webhook_the_library_takes_and_refuses_the_same() {
    // It looks at its own clock.
    let now = SystemTime::now();
    let made = |at| hook(&signer(at), &answered("countersign"));
    let genuine = made(now);
    let old = made(now - Duration::from_secs(400));
    let future = made(now + Duration::from_secs(400));
    let mut tampered = genuine.clone();
    tampered.body[2] ^= 1;
    let mut another_id = genuine.clone();
    another_id.headers.insert("webhook-id", "msg_2".parse().unwrap());
    let mut another_version = genuine.clone();
    let signature = genuine.headers["webhook-signature"].to_str().unwrap().replace("v1,", "v2,");
    another_version.headers.insert("webhook-signature", signature.parse().unwrap());
    let mut two = genuine.clone();
    let signatures = format!("v1,AAAA {}", genuine.headers["webhook-signature"].to_str().unwrap());
    two.headers.insert("webhook-signature", signatures.parse().unwrap());
    let wrong = hook(&Signer { secret: SECRETS[0].1, ..signer(now) }, &answered("countersign"));
    let hooks = [genuine, old, future, tampered, another_id, another_version, two, wrong];
    let asked: Vec<_> = hooks
        .iter()
        .map(|hook| json!({ "headers": headers(hook), "body": String::from_utf8(hook.body.clone()).unwrap() }))
        .collect();
    let judged = judge("standard_webhooks.py", &json!({ "secret": SECRETS[1].1, "hooks": asked }));
    for (hook, judged) in hooks.iter().zip(judged.as_array().unwrap()) {
        let heard = hook.heard(&*webhook(), &Keys::default(), now);
        assert_eq!(heard.is_ok(), *judged == true, "{heard:?}");
    }
    assert_eq!(judged, json!([true, false, false, false, false, false, true, false]));
}

#[test]
fn c_10_webhook_an_id_with_a_full_stop_is_refused_though_the_library_takes_it() {
    // What is signed is joined by full stops: where the id ends has to be beyond doubt.
    let (at, body) = (seconds(now()).to_string(), answered("countersign").to_string());
    let question =
        json!({ "secret": SECRETS[1].1, "id": "msg.1", "at": seconds(now()), "sign": body });
    let signed = judge("standard_webhooks.py", &question);
    let hook = Webhook::post(
        &[
            ("webhook-id", "msg.1"),
            ("webhook-timestamp", &at),
            ("webhook-signature", signed["signature"].as_str().unwrap()),
        ],
        body,
    );
    assert_eq!(hook.heard(&*webhook(), &Keys::default(), now()), Err(Forged::Signature));
}

#[test]
fn what_we_post_is_signed_as_it_leaves_and_the_library_takes_it() {
    let card = card("/p", "{}");
    let now = SystemTime::now();
    let calls = [
        webhook().post("ana", &asking(&card, "c", "ana"), "delivery-1").unwrap(),
        webhook().say("ana", None, &Text::of("Zürich")),
    ];
    let signed: Vec<_> = calls.iter().map(|call| call.clone().signed(now).unwrap()).collect();
    let asked: Vec<_> = signed
        .iter()
        .map(|call| {
            let headers = call.headers.iter();
            let headers: Value = headers
                .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap())))
                .collect();
            json!({ "headers": headers, "body": String::from_utf8(call.body.to_vec()).unwrap() })
        })
        .collect();
    let judge_of =
        |secret: &str| judge("standard_webhooks.py", &json!({ "secret": secret, "hooks": asked }));
    assert_eq!(judge_of(SECRETS[0].1), json!([true, true]));
    assert_eq!(judge_of(SECRETS[1].1), json!([false, false]), "with the other secret");
    assert_eq!(signed[0].headers["webhook-id"], "delivery-1");
    assert!(matches!(signed[0].auth, Auth::None));
    let again = calls[1].clone().signed(now + Duration::from_secs(1)).unwrap();
    assert_ne!(again.headers["webhook-id"], signed[1].headers["webhook-id"]);
    // What we have posted cannot be sent back to us.
    for call in &signed {
        let mut echo = Webhook::post(&[], call.body.to_vec());
        echo.headers = call.headers.clone();
        assert_eq!(echo.heard(&*webhook(), &Keys::default(), now), Err(Forged::Signature));
    }
    let bearer = Auth::Bearer(countersign_chat::Secret::new("t".into()));
    let other = countersign_chat::Call { auth: bearer, ..calls[0].clone() };
    let other = other.signed(now).unwrap();
    assert!(matches!(other.auth, Auth::Bearer(_)) && !other.headers.contains_key("webhook-id"));
}

#[test]
fn a_weak_secret_or_the_same_one_twice_opens_nothing() {
    let opens = |secrets: &[(&str, &str)]| {
        let configuration = configuration("webhook", SETTINGS, secrets).unwrap();
        (countersign_chat::platform("webhook").unwrap().open)(configuration).map(drop)
    };
    assert!(opens(SECRETS).is_ok());
    assert!(opens(&[SECRETS[0], ("answer_secret", SECRETS[0].1)]).is_err());
    for weak in ["whsec_c2hvcnQ=", "secret", "whsec_%", &SECRETS[1].1[6..]] {
        assert!(opens(&[SECRETS[0], ("answer_secret", weak)]).is_err(), "{weak}");
    }
}

#[test]
fn an_answer_says_who_said_what_on_which_card_and_is_told_what_became_of_it() {
    let said =
        hook(&signer(now()), &answered("countersign")).says(&*webhook(), &Keys::default(), now());
    assert_eq!((said.by.id.as_str(), said.event.as_str()), ("ana", "msg_1"));
    assert_eq!((said.message.place.as_str(), said.message.id.as_str()), ("ana", "m1"));
    let What::Tap(token) = &said.what else { panic!("{said:?}") };
    assert_eq!(key().open("c", "ana", token), Some((HANDLE, Words::Approve)));
    let (reply, call) = webhook().reply(&said, &Outcome::Refused(Text::of("you may not")));
    assert_eq!(reply.body, json!({ "outcome": "refused", "words": "you may not" }).to_string());
    assert!(call.is_none());
    let written = |words: &str| {
        let document = json!({ "type": "words.written", "audience": "countersign", "from": "ana", "to": "ana", "words": words });
        hook(&signer(now()), &document).heard(&*webhook(), &Keys::default(), now())
    };
    let Ok(Heard::Said(said)) = written("link abc-def") else { panic!("nothing was said") };
    assert_eq!(said[0].what, What::Typed(Typed::Link("abc-def".into())));
    assert_eq!(written("hello"), Ok(Heard::Nothing));
}

#[test]
fn a_4_hostile_text_is_only_in_strings_that_are_plain_text() {
    let card = card(HOSTILE, HOSTILE);
    let call = webhook().post("ana", &asking(&card, "c", "ana"), "k").unwrap();
    let mut rest = body(&call);
    for invisible in ['\u{202e}', '\u{200b}', '\u{e0041}'] {
        assert!(!rest.to_string().contains(invisible));
    }
    for field in ["/card/sentence", "/card/facts/2/value", "/card/body/lines/0"] {
        assert!(rest.pointer(field).unwrap().as_str().unwrap().contains("evil.example"));
        *rest.pointer_mut(field).unwrap() = "".into();
    }
    assert!(!rest.to_string().contains("evil"), "it is nowhere else");
    assert!(!format!("{call:?}").contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_buttons_where_the_rule_wants_it_whole() {
    let mut card = card("/p", &"\"".repeat(30_000));
    let sent = |card: &_| body(&webhook().post("ana", &asking(card, "c", "ana"), "k").unwrap());
    assert!(sent(&card)["card"]["body"]["label"].as_str().unwrap().contains(" of 30000 bytes):"));
    assert_eq!(sent(&card)["card"]["answers"]["approve"], approve().as_str());
    card.demands_whole = true;
    assert_eq!(sent(&card)["card"]["answers"], Value::Null);
    assert!(
        sent(&card)["card"]["elsewhere"].as_str().unwrap().contains("countersign approval show")
    );
    let longer = crate::support::card(&format!("/{}", "p".repeat(10_000)), "");
    assert!(webhook().post("ana", &asking(&longer, "c", "ana"), "k").is_err());
}

proptest! {
    #[test]
    fn a_5_webhook_no_document_is_over_the_limit(card in any_card()) {
        if let Ok(call) = webhook().post("ana", &asking(&card, "c", "ana"), "k") {
            prop_assert!(call.body.len() <= 20_000);
        }
    }
}

#[test]
fn i_13_a_settled_card_has_its_last_face_and_nothing_to_answer() {
    let card = card("/p", "{}");
    let message = countersign_chat::Message { place: "ana".into(), id: "m1".into() };
    let call = webhook().edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    let sent = body(&call);
    assert_eq!(
        (&sent["type"], &sent["message"], &sent["card"]["state"], &sent["card"]["answers"]),
        (&json!("card.changed"), &json!("m1"), &json!("settled"), &Value::Null)
    );
    assert_eq!(sent["card"]["standing"], json!(["Denied by bo: no"]));
    assert_eq!(webhook().edited(&answer(410, &json!({}))), Ok(()));
    assert!(webhook().edited(&answer(500, &json!({}))).is_err());
    assert_eq!(
        webhook().posted("ana", &answer(200, &json!({ "message": "m1" }))).unwrap().id,
        "m1"
    );
    assert_eq!(webhook().posted("ana", &answer(204, &json!(null))).unwrap().id, "");
}
