//! SMS, with Twilio's RequestValidator as signer and judge, the Chat SDK as the other receiver and emulate as the platform.

use countersign_chat::{Auth, Failure, Forged, Heard, Keys, Outcome, Text, Typed, What, Words};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, any_card, asking, card,
    demands_secret, headers, judge, key, now, open, settled,
};

const ACCOUNT: &str = "AC00000000000000000000000000000000";
const NUMBER: &str = "+15005550006";
const PERSON: &str = "+15558675310";
const SETTINGS: &[(&str, &str)] =
    &[("base_url", "http://127.0.0.1:1"), ("account_sid", ACCOUNT), ("from", NUMBER)];
const SECRETS: &[(&str, &str)] = &[("auth_token", "twilio-canary-token")];

fn twilio() -> OverHttp {
    open("twilio", SETTINGS, SECRETS)
}

fn signer() -> Signer<'static> {
    Signer { secret: SECRETS[0].1, app: ACCOUNT, at: now() }
}

/// As Twilio's documentation lists the parameters of an incoming message, signed by its library.
fn hook(signer: &Signer<'_>, words: &str) -> Webhook {
    let encoded = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
    let body = format!(
        "ToCountry=US&FromCity=&MessageSid=SM1&AccountSid={}&To={}&From={}&Body={}&NumMedia=0",
        signer.app,
        encoded(NUMBER),
        encoded(PERSON),
        encoded(words),
    );
    signed(signer.secret, "https://hooks.example/hooks/c", &body)
}

fn signed(secret: &str, url: &str, body: &str) -> Webhook {
    let signed = judge("twilio_sign.py", &json!({ "secret": secret, "url": url, "body": body }));
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("x-twilio-signature", signed["signature"].as_str().unwrap()),
    ];
    Webhook::post(&headers, body)
}

fn code() -> String {
    key().code("c", PERSON, HANDLE).shown()
}

fn written(notice: &countersign_chat::Notice<'_>) -> String {
    let call = twilio().post(PERSON, notice, "k").unwrap();
    let body = String::from_utf8(call.body.to_vec()).unwrap();
    let text = body.split('&').find_map(|pair| pair.strip_prefix("Body=")).unwrap();
    percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

#[test]
fn c_10_twilio_nine_forgeries() {
    Forgeries {
        adapter: &*twilio(),
        keys: Keys::default(),
        secret: SECRETS[0].1,
        app: ACCOUNT,
        signature: "x-twilio-signature",
        timed: false,
        covers_body: true,
        make: &|signer| hook(signer, &format!("approve {}", code())),
        // The order of parameters is not signed; what they are is.
        reserialised: &|body| {
            String::from_utf8(body.to_vec()).unwrap().replace("=US", "=us").into()
        },
    }
    .are_refused();
    demands_secret("twilio", SETTINGS, SECRETS, "auth_token");
}

#[test]
fn c_10_twilio_both_other_verifiers_take_and_refuse_the_same() {
    let genuine = hook(&signer(), "approve me");
    let mut tampered = genuine.clone();
    let end = tampered.body.len() - 20;
    tampered.body[end] ^= 1;
    let mut elsewhere = genuine.clone();
    elsewhere.url = "https://hooks.example/hooks/d".into();
    let mut unsigned = genuine.clone();
    unsigned.headers.remove("x-twilio-signature");
    let wrong = hook(&Signer { secret: "another", ..signer() }, "approve me");
    let hooks = [genuine.clone(), tampered, elsewhere, unsigned, wrong];
    let asked: Vec<_> = hooks
        .iter()
        .map(|hook| json!({ "url": hook.url, "headers": headers(hook), "body": String::from_utf8(hook.body.clone()).unwrap() }))
        .collect();
    let vendor = judge("twilio_sign.py", &json!({ "secret": SECRETS[0].1, "hooks": asked }));
    let question =
        json!({ "secret": SECRETS[0].1, "account": ACCOUNT, "number": NUMBER, "hooks": asked });
    let chat_sdk = judge("twilio_chat_sdk.mjs", &question);
    for (at, hook) in hooks.iter().enumerate() {
        let heard = hook.heard(&*twilio(), &Keys::default(), now());
        assert_eq!(heard.is_ok(), vendor[at] == true, "{at}: {heard:?}");
        assert_eq!(heard.is_ok(), chat_sdk[at]["status"] == 200, "{at}: {heard:?}");
    }
    assert_eq!(chat_sdk[0]["written"], json!([{ "text": "approve me", "by": PERSON }]));
    // With the port or without, the vendor's library takes it; so do we.
    let ported = signed(
        SECRETS[0].1,
        "https://hooks.example:443/hooks/c",
        &String::from_utf8(genuine.body).unwrap(),
    );
    assert_eq!(ported.heard(&*twilio(), &Keys::default(), now()), Ok(Heard::Nothing));
    let mut from_port = hook(&signer(), "approve me");
    from_port.url = "https://hooks.example:8443/hooks/c".into();
    assert_eq!(from_port.heard(&*twilio(), &Keys::default(), now()), Ok(Heard::Nothing));
}

#[test]
fn emulate_sends_our_card_and_its_answer_is_heard() {
    let card = card("/p", "{}");
    let call = twilio().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap();
    assert!(matches!(&call.auth, Auth::Basic(name, _) if name == ACCOUNT));
    let words = format!("Approve {}", code().to_lowercase());
    let judged = judge(
        "twilio_emulate.mjs",
        &json!({
            "account": ACCOUNT, "secret": SECRETS[0].1, "number": NUMBER, "person": PERSON, "words": words,
            "path": call.url.strip_prefix(SETTINGS[0].1).unwrap(),
            "body": String::from_utf8(call.body.to_vec()).unwrap(),
        }),
    );
    let sent = &judged["sent"];
    let message = twilio().posted(PERSON, &answer(201, &sent["body"])).unwrap();
    assert!(sent["status"] == 201 && message.id.starts_with("SM"), "{sent}");
    assert_eq!(sent["body"]["body"], written(&asking(&card, "c", PERSON)));
    assert_eq!((&sent["body"]["to"], &sent["body"]["from"]), (&json!(PERSON), &json!(NUMBER)));
    let refused = twilio().posted(PERSON, &answer(401, &judged["refused"]["body"]));
    assert!(matches!(refused, Err(Failure::Never { .. })), "{refused:?}");
    let mut hook = Webhook::post(&[], judged["heard"]["body"].as_str().unwrap());
    hook.add(
        "x-twilio-signature",
        judged["heard"]["headers"]["x-twilio-signature"].as_str().unwrap(),
    );
    hook.url = judged["address"].as_str().unwrap().to_owned();
    let said = hook.says(&*twilio(), &Keys::default(), now());
    assert_eq!((said.by.id.as_str(), said.message.place.as_str()), (PERSON, PERSON));
    let What::Typed(Typed::Answer { word, code, .. }) = &said.what else { panic!("{said:?}") };
    assert!(*word == Words::Approve && code.is(&key().code("c", PERSON, HANDLE)));
}

#[test]
fn a_message_says_who_wrote_what_and_is_answered_in_place() {
    let said = hook(&signer(), "link abc-def").says(&*twilio(), &Keys::default(), now());
    assert_eq!((said.by.tenant.as_str(), said.by.id.as_str()), ("", PERSON));
    assert_eq!((said.event.as_str(), said.message.id.as_str()), ("SM1", "SM1"));
    assert_eq!(said.what, What::Typed(Typed::Link("abc-def".into())));
    let (reply, call) = twilio().reply(&said, &Outcome::Refused(Text::of("you may <not> & so")));
    assert!(call.is_none() && reply.content_type.starts_with("text/xml"));
    assert!(reply.body.contains("<Message>you may &lt;not&gt; &amp; so</Message>"));
    let other = open("twilio", &[("account_sid", ACCOUNT), ("from", "+15550100")], SECRETS);
    let heard = hook(&signer(), "link abc-def").heard(&*other, &Keys::default(), now());
    assert_eq!(heard, Ok(Heard::Nothing), "it was written to another number");
    let twice = "AccountSid=AC1&From=%2B1&From=%2B2&MessageSid=SM1&Body=link+a";
    let heard = signed(SECRETS[0].1, "https://hooks.example/hooks/c", twice);
    assert_eq!(heard.heard(&*twilio(), &Keys::default(), now()), Err(Forged::Shape));
}

#[test]
fn a_4_hostile_text_is_only_in_the_text_of_the_message() {
    let card = card(HOSTILE, HOSTILE);
    let text = written(&asking(&card, "c", PERSON));
    assert!(text.contains("evil.example"));
    for invisible in ['\u{202e}', '\u{200b}', '\u{e0041}'] {
        assert!(!text.contains(invisible));
    }
    let call = twilio().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap();
    let sent = String::from_utf8(call.body.to_vec()).unwrap();
    let names: Vec<_> = sent.split('&').map(|pair| pair.split('=').next().unwrap()).collect();
    assert_eq!(names, ["To", "From", "Body"]);
    assert!(!sent.contains("canary") && !call.url.contains("canary"));
    assert_eq!(call.url, format!("http://127.0.0.1:1/2010-04-01/Accounts/{ACCOUNT}/Messages.json"));
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_code_where_the_rule_wants_it_whole() {
    let mut card = card("/p", &"x".repeat(20_000));
    assert!(written(&asking(&card, "c", PERSON)).contains(" of 20000 bytes):"));
    assert!(written(&asking(&card, "c", PERSON)).contains(&format!("approve {}", code())));
    card.demands_whole = true;
    let text = written(&asking(&card, "c", PERSON));
    assert!(text.contains("countersign approval show") && !text.contains(&code()));
    let longer = crate::support::card(&format!("/{}", "p".repeat(1000)), "");
    assert!(twilio().post(PERSON, &asking(&longer, "c", PERSON), "k").is_err());
}

proptest! {
    #[test]
    fn a_5_twilio_no_message_is_over_the_limit(card in any_card()) {
        if twilio().post(PERSON, &asking(&card, "c", PERSON), "k").is_ok() {
            prop_assert!(written(&asking(&card, "c", PERSON)).encode_utf16().count() <= 1600);
        }
    }
}

#[test]
fn a_8_no_address_keeps_its_scheme() {
    let card = card("/p", "https://evil.example");
    let text = written(&settled(&card, "see https://evil.example"));
    assert!(!text.contains("://") && text.contains("https[:]//evil.example"));
}

#[test]
fn i_13_a_settled_card_has_no_code_and_an_old_one_stays_as_it_is() {
    let card = card("/p", "{}");
    let message = countersign_chat::Message { place: PERSON.into(), id: "SM1".into() };
    let settled = settled(&card, "Denied by bo: no");
    assert!(twilio().edit(&message, &settled).is_none() && !twilio().caps().edit);
    let text = written(&settled);
    assert!(text.contains("Denied by bo: no") && !text.contains("approve"));
}

#[test]
fn a_messaging_service_sends_and_hears_and_errors_say_what_to_do() {
    let service = open("twilio", &[("account_sid", ACCOUNT), ("from", "MG1")], SECRETS);
    let call = service.say(PERSON, None, &Text::of("hello"));
    let sent = String::from_utf8(call.body.to_vec()).unwrap();
    assert!(sent.contains("&MessagingServiceSid=MG1&"), "{sent}");
    let refused = |status, code: i64| {
        let body: Value = json!({ "code": code, "message": "no", "status": status });
        twilio().posted(PERSON, &answer(status, &body)).unwrap_err()
    };
    let Failure::Never { why } = refused(400, 21610) else { panic!("it is not for later") };
    assert!(why.contains("START"), "{why}");
    assert!(matches!(refused(429, 20429), Failure::Later { .. }));
    assert!(matches!(refused(400, 21211), Failure::Never { .. }));
    assert!(matches!(refused(503, 20503), Failure::Later { .. }));
}
