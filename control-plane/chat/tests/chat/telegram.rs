//! Telegram, with the Chat SDK as another receiver. It signs nothing: a secret comes with each update.

use std::time::SystemTime;

use countersign_chat::{
    Auth, Failure, Forged, Heard, Keys, Message, Outcome, Text, Token, Typed, User, What, Wire,
    Words,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, asking, body, card,
    configuration, demands_secret, judge, key, no_hidden_character, now, open, settled,
};

const SETTINGS: &[(&str, &str)] = &[("base_url", "http://127.0.0.1:1")];
const POLLED: &[(&str, &str)] = &[("base_url", "http://127.0.0.1:1"), ("inbound", "poll")];
const SECRETS: &[(&str, &str)] =
    &[("bot_token", "7001:canary-token"), ("webhook_secret", "a_secret-of-256-letters-at-most")];

fn telegram() -> OverHttp {
    open("telegram", SETTINGS, SECRETS)
}

fn approve() -> Token {
    key().token("c", "55", HANDLE, Words::Approve)
}

fn keys() -> Keys {
    Keys::default()
}

/// As the Bot API's documentation shows an update with a callback query, on a message of a bot.
fn tapped(bot: u64) -> Value {
    json!({
        "update_id": 10000,
        "callback_query": {
            "id": "4382bfdwdsb323b2d9",
            "from": { "id": 55, "is_bot": false, "first_name": "Ana", "username": "ana", "language_code": "en" },
            "message": {
                "message_id": 1365, "date": 1_800_000_000, "text": "An agent asks for your consent",
                "from": { "id": bot, "is_bot": true, "first_name": "b", "username": "b" },
                "chat": { "id": 55, "type": "private", "first_name": "Ana" },
            },
            "chat_instance": "1", "data": approve().as_str(),
        },
    })
}

fn written(text: &str) -> Value {
    json!({
        "update_id": 10001,
        "message": {
            "message_id": 7, "date": 1_800_000_000, "text": text,
            "from": { "id": 55, "is_bot": false, "first_name": "Ana" },
            "chat": { "id": -100, "type": "supergroup" },
        },
    })
}

fn hook(secret: &str, update: &Value) -> Webhook {
    let headers =
        [("content-type", "application/json"), ("x-telegram-bot-api-secret-token", secret)];
    Webhook::post(&headers, update.to_string())
}

fn heard(update: &Value) -> Result<Heard, Forged> {
    hook(SECRETS[1].1, update).heard(&*telegram(), &keys(), now())
}

#[test]
fn c_10_telegram_nine_forgeries() {
    let adapter = telegram();
    let make = |signer: &Signer<'_>| {
        hook(signer.secret, &tapped(if signer.app == "7001" { 7001 } else { 7002 }))
    };
    Forgeries {
        adapter: &*adapter,
        keys: keys(),
        secret: SECRETS[1].1,
        app: "7001",
        signature: "x-telegram-bot-api-secret-token",
        timed: false,
        covers_body: false,
        make: &make,
        reserialised: &<[u8]>::to_vec,
    }
    .are_refused();
    demands_secret("telegram", SETTINGS, SECRETS, "bot_token");
}

#[test]
fn a_webhook_without_a_secret_is_not_opened_and_a_poll_takes_no_webhooks() {
    let platform = countersign_chat::platform("telegram").unwrap();
    let open = |settings, secrets: &[_]| {
        (platform.open)(configuration("telegram", settings, secrets).unwrap())
            .map(|it| it.caps().wire)
    };
    assert!(open(SETTINGS, &SECRETS[..1]).unwrap_err().0.contains("webhook_secret"));
    for wrong in ["".into(), "with a space".into(), "a".repeat(257)] {
        let refused =
            configuration("telegram", SETTINGS, &[SECRETS[0], ("webhook_secret", wrong.as_str())]);
        assert!((platform.open)(refused.unwrap()).is_err(), "{wrong}");
    }
    assert!(open(SETTINGS, &[("bot_token", "no number"), SECRETS[1]]).is_err());
    assert!(open(&[("inbound", "both")], SECRETS).is_err());
    assert_eq!(open(SETTINGS, SECRETS), Ok(Wire::Webhook));
    assert_eq!(open(POLLED, &SECRETS[..1]), Ok(Wire::Poll));
    let polled = crate::support::open("telegram", POLLED, SECRETS);
    assert_eq!(
        hook(SECRETS[1].1, &tapped(7001)).heard(&*polled, &keys(), now()),
        Err(Forged::Shape)
    );
}

#[test]
fn c_10_telegram_the_chat_sdk_takes_and_refuses_the_same_updates_and_reads_the_same() {
    let mut unsigned = hook(SECRETS[1].1, &tapped(7001));
    unsigned.headers.remove("x-telegram-bot-api-secret-token");
    let mut cut = hook(SECRETS[1].1, &tapped(7001));
    cut.body.pop();
    let hooks = [hook(SECRETS[1].1, &tapped(7001)), hook("another", &tapped(7001)), unsigned, cut];
    let shown: Vec<_> = hooks.iter().map(Webhook::shown).collect();
    let asked =
        json!({ "bot": 7001, "bot_token": SECRETS[0].1, "secret": SECRETS[1].1, "hooks": shown });
    let judged = judge("telegram_receiver.mjs", &asked);
    let now = SystemTime::now();
    for (hook, judged) in hooks.iter().zip(judged.as_array().unwrap()) {
        let heard = hook.heard(&*telegram(), &keys(), now);
        assert_eq!(heard.is_ok(), judged["status"] == 200, "{heard:?} {judged}");
    }
    let tap = json!({ "user": "55", "message": "55:1365", "value": approve().as_str() });
    assert_eq!(judged[0]["taps"], json!([tap]));
}

#[test]
fn a_tap_says_who_pressed_what_on_which_message() {
    let said = hook(SECRETS[1].1, &tapped(7001)).says(&*telegram(), &keys(), now());
    assert_eq!(said.by, User { tenant: String::new(), id: "55".into() });
    assert_eq!(said.message, Message { place: "55".into(), id: "1365".into() });
    assert_eq!(said.event, "tap 4382bfdwdsb323b2d9");
    let What::Tap(token) = &said.what else { panic!("{said:?}") };
    assert_eq!(key().open("c", "55", token), Some((HANDLE, Words::Approve)));
    let long = Text::of(&"you may not decide this ".repeat(40));
    let (_, call) = telegram().reply(&said, &Outcome::Refused(long));
    let call = call.unwrap();
    assert_eq!(call.url, "http://127.0.0.1:1/bot{secret}/answerCallbackQuery");
    assert!(matches!(call.auth, Auth::InPath(_)));
    let sent = body(&call);
    assert_eq!(
        (&sent["callback_query_id"], &sent["show_alert"]),
        (&json!("4382bfdwdsb323b2d9"), &json!(true))
    );
    let text = sent["text"].as_str().unwrap();
    assert!(text.chars().count() <= 200 && text.contains("of 960 bytes"), "{text}");
}

#[test]
fn a_tap_by_a_bot_or_on_nothing_of_ours_is_nothing() {
    let mut update = tapped(7001);
    update["callback_query"]["from"]["is_bot"] = true.into();
    assert_eq!(heard(&update), Ok(Heard::Nothing));
    let mut update = tapped(7001);
    update["callback_query"]["data"] = "other".into();
    assert_eq!(heard(&update), Ok(Heard::Nothing));
    // Of an old message, Telegram says only which one it is.
    let mut update = tapped(7001);
    let old = json!({ "message_id": 1365, "date": 0, "chat": { "id": 55, "type": "private" } });
    update["callback_query"]["message"] = old;
    assert!(matches!(heard(&update), Ok(Heard::Said(_))));
    // An inline message is none that we have posted.
    update["callback_query"]["message"] = Value::Null;
    assert_eq!(heard(&update), Err(Forged::Signature));
}

#[test]
fn a_code_is_written_to_the_bot_and_answered_in_private() {
    for text in ["/link abc-def", "/link@the_bot abc-def", "link abc-def"] {
        let Ok(Heard::Said(said)) = heard(&written(text)) else { panic!("{text}") };
        assert_eq!(said[0].what, What::Typed(Typed::Link("abc-def".into())));
        assert_eq!(
            (said[0].event.as_str(), said[0].message.place.as_str()),
            ("update 10001", "-100")
        );
        let (_, call) = telegram().reply(&said[0], &Outcome::Taken(Text::of("linked")));
        assert_eq!(body(&call.unwrap())["chat_id"], "55");
    }
    assert_eq!(heard(&written("hello @everyone")), Ok(Heard::Nothing));
    for of in ["forward_origin", "via_bot"] {
        let mut others = written("/link abc");
        others["message"][of] = json!({ "id": 9 });
        assert_eq!(heard(&others), Ok(Heard::Nothing), "{of}");
    }
    let mut bot = written("/link abc");
    bot["message"]["from"]["is_bot"] = true.into();
    assert_eq!(heard(&bot), Ok(Heard::Nothing));
}

#[test]
fn what_is_polled_goes_on_after_the_last_and_passes_over_what_is_not_understood() {
    let polled = open("telegram", POLLED, &SECRETS[..1]);
    let call = polled.poll(None).unwrap();
    assert_eq!(call.url, "http://127.0.0.1:1/bot{secret}/getUpdates");
    assert!(
        body(&call)["offset"].is_null()
            && body(&polled.poll(Some("")).unwrap())["offset"].is_null()
    );
    assert_eq!(body(&polled.poll(Some("10002")).unwrap())["offset"], 10002);
    assert!(telegram().poll(None).is_none());
    let odd = json!({ "update_id": 10002, "callback_query": { "data": approve().as_str() } });
    let updates = json!({ "ok": true, "result": [tapped(7001), written("/link abc"), odd] });
    let got = polled.polled(&answer(200, &updates)).unwrap();
    assert_eq!((got.said.len(), got.since.as_str()), (2, "10003"));
    let Ok(Heard::Said(hooked)) = heard(&tapped(7001)) else { panic!() };
    assert_eq!(got.said[0], hooked[0], "the same event, whichever way it comes");
    let two = json!({ "ok": false, "error_code": 409, "description": "Conflict: terminated by other getUpdates request" });
    assert!(matches!(polled.polled(&answer(409, &two)), Err(Failure::Later { .. })));
}

/// Text outside of preformatted entities, and that all of them lie within the text, one after another.
fn unformatted(sent: &Value) -> String {
    let units: Vec<u16> = sent["text"].as_str().unwrap().encode_utf16().collect();
    let (mut outside, mut at) = (Vec::new(), 0);
    for entity in sent["entities"].as_array().unwrap().iter().filter(|it| it["type"] == "pre") {
        let number = |name: &str| usize::try_from(entity[name].as_u64().unwrap()).unwrap();
        assert!(number("offset") >= at && number("length") > 0);
        outside.extend(&units[at..number("offset")]);
        at = number("offset") + number("length");
    }
    outside.extend(&units[at..]);
    String::from_utf16(&outside).unwrap()
}

#[test]
fn a_4_hostile_text_is_only_in_preformatted_entities() {
    let card = card(&format!("{HOSTILE} 😀 /start"), &format!("😀{HOSTILE}\n#tag /stop"));
    let call = telegram().post("55", &asking(&card, "c", "55"), "k").unwrap();
    let sent = body(&call);
    assert_eq!(unformatted(&sent), "An agent asks for your consent\n\n");
    assert!(sent["parse_mode"].is_null());
    no_hidden_character(&sent);
    let words = body(&telegram().say("55", None, &Text::of(HOSTILE)));
    assert_eq!(unformatted(&words), "");
    let all = format!("{sent} {}", call.url);
    assert!(!all.contains("canary-token"), "the token is not in it");
    assert_eq!(sent["reply_markup"]["inline_keyboard"][0][0]["callback_data"], approve().as_str());
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_buttons_where_the_rule_wants_it_whole() {
    let mut long = card("/p", &"x".repeat(20_000));
    let sent = |card: &_| body(&telegram().post("55", &asking(card, "c", "55"), "k").unwrap());
    assert!(sent(&long)["text"].as_str().unwrap().contains(" of 20000 bytes):"));
    assert!(sent(&long).to_string().contains("callback_data"));
    long.demands_whole = true;
    assert!(!sent(&long).to_string().contains("callback_data"), "no button");
    assert!(sent(&long)["text"].as_str().unwrap().contains("countersign approval show"));
    let longer = card(&format!("/{}", "p".repeat(4096)), "");
    assert!(
        telegram().post("55", &asking(&longer, "c", "55"), "k").is_err(),
        "a head is never cut"
    );
}

proptest! {
    #[test]
    fn a_5_a_message_is_within_its_limit_or_is_not_made(path in "\\PC{0,900}", text in "(\\PC|\n){0,3000}") {
        let card = card(&path, &text);
        if let Ok(call) = telegram().post("55", &asking(&card, "c", "55"), "k") {
            let sent = body(&call);
            prop_assert!(sent["text"].as_str().unwrap().encode_utf16().count() <= 4096);
            prop_assert_eq!(unformatted(&sent), "An agent asks for your consent\n\n");
            for button in sent["reply_markup"]["inline_keyboard"][0].as_array().unwrap() {
                prop_assert!((1..=64).contains(&button["callback_data"].as_str().unwrap().len()));
            }
        } else {
            prop_assert!(2 * path.encode_utf16().count() > 500, "there was room");
        }
    }
}

#[test]
fn a_8_nothing_has_a_preview() {
    let card = card("/p", "https://evil.example");
    let preview = json!({ "is_disabled": true });
    let posted = telegram().post("55", &asking(&card, "c", "55"), "k").unwrap();
    assert_eq!(body(&posted)["link_preview_options"], preview);
    let under = Message { place: "55".into(), id: "1365".into() };
    let said = body(&telegram().say("55", Some(&under), &Text::of("https://evil.example")));
    assert_eq!(
        (&said["link_preview_options"], &said["reply_parameters"]["message_id"]),
        (&preview, &json!(1365))
    );
}

#[test]
fn i_13_a_settled_card_has_its_last_face_and_no_button() {
    let card = card("/p", "{}");
    let sent =
        json!({ "ok": true, "result": { "message_id": 1365, "chat": { "id": 55 }, "date": 1 } });
    let message = telegram().posted("55", &answer(200, &sent)).unwrap();
    assert_eq!(message, Message { place: "55".into(), id: "1365".into() });
    let call = telegram().edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    assert!(call.url.ends_with("/editMessageText"));
    let sent = body(&call);
    assert_eq!((&sent["chat_id"], &sent["message_id"]), (&json!("55"), &json!(1365)));
    assert!(sent["text"].as_str().unwrap().contains("Denied by bo: no"));
    assert_eq!(sent["reply_markup"]["inline_keyboard"], json!([]));
    let error = |code: u16, description: &str| {
        answer(
            code,
            &json!({ "ok": false, "error_code": code, "description": description, "parameters": { "retry_after": 35 } }),
        )
    };
    assert_eq!(telegram().edited(&error(400, "Bad Request: message is not modified: …")), Ok(()));
    assert_eq!(telegram().edited(&error(400, "Bad Request: message to edit not found")), Ok(()));
    let busy = telegram().posted("55", &error(429, "Too Many Requests: retry after 35"));
    let Err(Failure::Later { after: Some(after), .. }) = busy else { panic!("{busy:?}") };
    assert_eq!(after.as_secs(), 35);
    let gone = telegram().posted("55", &error(403, "Forbidden: bot was blocked by the user"));
    assert!(matches!(gone, Err(Failure::Never { .. })), "{gone:?}");
}
