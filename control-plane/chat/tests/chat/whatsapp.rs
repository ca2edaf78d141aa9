//! WhatsApp, with Python's hmac as the signer and the Chat SDK as the other receiver.

use std::time::{Duration, SystemTime};

use countersign_chat::{Failure, Forged, Heard, Keys, Outcome, Text, Token, Typed, What, Words};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::meta::{challenge, signed};
use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, any_card, asking, body, card,
    demands_secret, headers, judge, key, now, open, seconds, settled,
};

const SETTINGS: &[(&str, &str)] =
    &[("base_url", "http://127.0.0.1:1/v25.0"), ("phone_number_id", "106540352242922")];
const SECRETS: &[(&str, &str)] = &[
    ("access_token", "EAA-canary"),
    ("app_secret", "5eb63bbbe01eeed093cb22bb8f5acdc3"),
    ("verify_token", "made-up-by-us"),
];
const PERSON: &str = "US.13491208655302741918";

fn whatsapp() -> OverHttp {
    open("whatsapp", SETTINGS, SECRETS)
}

fn approve() -> Token {
    key().token("c", PERSON, HANDLE, Words::Approve)
}

fn signer(at: SystemTime) -> Signer<'static> {
    Signer { secret: SECRETS[1].1, app: SETTINGS[1].1, at }
}

/// As the reference shows what an "interactive" message is.
fn tap(token: &Token) -> Value {
    json!({
        "context": { "from": "15550783881", "id": "wamid.ours" },
        "from": "16505551234", "from_user_id": PERSON, "id": "wamid.theirs",
        "type": "interactive",
        "interactive": { "type": "button_reply", "button_reply": { "id": token.as_str(), "title": "Approve" } },
    })
}

fn hook(signer: &Signer<'_>, mut message: Value) -> Webhook {
    message["timestamp"] = seconds(signer.at).to_string().into();
    let payload = json!({
        "object": "whatsapp_business_account",
        "entry": [{ "id": "102290129340398", "changes": [{ "field": "messages", "value": {
            "messaging_product": "whatsapp",
            "metadata": { "display_phone_number": "15550783881", "phone_number_id": signer.app },
            "contacts": [{ "profile": { "name": "Ana" }, "wa_id": "16505551234", "user_id": PERSON }],
            "messages": [message],
        } }] }],
    });
    signed(signer, &payload.to_string())
}

#[test]
fn c_10_whatsapp_nine_forgeries() {
    Forgeries {
        adapter: &*whatsapp(),
        keys: Keys::default(),
        secret: SECRETS[1].1,
        app: SETTINGS[1].1,
        signature: "x-hub-signature-256",
        timed: true,
        covers_body: true,
        make: &|signer| hook(signer, tap(&approve())),
        reserialised: &|body| String::from_utf8(body.to_vec()).unwrap().replace(':', ": ").into(),
    }
    .are_refused();
    for (secret, _) in SECRETS {
        demands_secret("whatsapp", SETTINGS, SECRETS, secret);
    }
}

#[test]
fn c_10_whatsapp_the_chat_sdk_takes_and_refuses_the_same_webhooks_save_the_old_ones() {
    let genuine = hook(&signer(now()), tap(&approve()));
    let mut tampered = genuine.clone();
    let end = tampered.body.len() - 1;
    tampered.body[end] ^= 1;
    let mut unsigned = genuine.clone();
    unsigned.headers.remove("x-hub-signature-256");
    let wrong = hook(&Signer { secret: "another", ..signer(now()) }, tap(&approve()));
    let right_token =
        challenge("hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=made-up-by-us");
    let wrong_token =
        challenge("hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=guessed");
    let old = hook(&signer(now() - Duration::from_secs(301)), tap(&approve()));
    let hooks = [genuine, tampered, unsigned, wrong, right_token, wrong_token, old];
    let asked: Vec<_> = hooks
        .iter()
        .map(|hook| {
            let query = hook.query.clone().map(|query| format!("?{query}")).unwrap_or_default();
            json!({
                "method": hook.method.as_str(), "url": format!("{}{query}", hook.url),
                "headers": headers(hook), "body": String::from_utf8(hook.body.clone()).unwrap(),
            })
        })
        .collect();
    let question = json!({ "secret": SECRETS[1].1, "number": SETTINGS[1].1, "verify": SECRETS[2].1, "hooks": asked });
    let judged = judge("whatsapp_chat_sdk.mjs", &question);
    for (hook, judged) in hooks.iter().zip(judged.as_array().unwrap()).take(6) {
        let heard = hook.heard(&*whatsapp(), &Keys::default(), now());
        assert_eq!(heard.is_ok(), judged["status"] == 200, "{heard:?} {judged}");
    }
    let tap = json!({ "id": approve().as_str(), "user": PERSON, "on": "wamid.ours" });
    assert_eq!(judged[0]["taps"], json!([tap]));
    let Ok(Heard::Challenge(reply)) = hooks[4].heard(&*whatsapp(), &Keys::default(), now()) else {
        panic!("no answer to the challenge")
    };
    assert_eq!(judged[4]["body"], reply.body.as_str());
    // The Chat SDK knows no age.
    assert_eq!(judged[6]["status"], 200);
    assert_eq!(hooks[6].heard(&*whatsapp(), &Keys::default(), now()), Err(Forged::Stale));
}

#[test]
fn a_tap_says_who_pressed_what_on_which_message() {
    let said = hook(&signer(now()), tap(&approve())).says(&*whatsapp(), &Keys::default(), now());
    assert_eq!((said.by.tenant.as_str(), said.by.id.as_str()), ("", PERSON));
    assert_eq!((said.message.place.as_str(), said.message.id.as_str()), (PERSON, "wamid.ours"));
    assert_eq!(said.event, "wamid.theirs");
    let What::Tap(token) = &said.what else { panic!("{said:?}") };
    assert_eq!(key().open("c", PERSON, token), Some((HANDLE, Words::Approve)));
    let (reply, call) = whatsapp().reply(&said, &Outcome::Refused(Text::of("you may not")));
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, ""));
    let sent = body(&call.unwrap());
    assert_eq!(
        (&sent["recipient"], &sent["text"]),
        (&json!(PERSON), &json!({ "preview_url": false, "body": "```\nyou may not\n```" }))
    );
}

#[test]
fn a_code_is_written_to_our_number_and_not_in_a_group_or_to_another() {
    let text = json!({ "from": "16505551234", "id": "wamid.t", "type": "text", "text": { "body": "link abc-def" } });
    let heard = |message: &Value, app: &str| {
        hook(&Signer { app, ..signer(now()) }, message.clone()).heard(
            &*whatsapp(),
            &Keys::default(),
            now(),
        )
    };
    let Ok(Heard::Said(said)) = heard(&text, SETTINGS[1].1) else { panic!("nothing was said") };
    assert_eq!(said[0].what, What::Typed(Typed::Link("abc-def".into())));
    assert_eq!(said[0].by.id, "16505551234", "where Meta says no other id");
    let mut group = text.clone();
    group["group_id"] = "G1".into();
    assert_eq!(heard(&group, SETTINGS[1].1), Ok(Heard::Nothing));
    assert_eq!(heard(&text, "1"), Ok(Heard::Nothing));
    let status = json!({ "object": "whatsapp_business_account", "entry": [{ "changes": [{ "field": "messages", "value": {
        "metadata": { "phone_number_id": SETTINGS[1].1 }, "statuses": [{ "id": "wamid.ours", "status": "delivered" }] } }] }] });
    let heard = signed(&signer(now()), &status.to_string());
    assert_eq!(heard.heard(&*whatsapp(), &Keys::default(), now()), Ok(Heard::Nothing));
    let page = signed(&signer(now()), "{\"object\":\"page\",\"entry\":[]}");
    assert_eq!(page.heard(&*whatsapp(), &Keys::default(), now()), Err(Forged::Shape));
}

#[test]
fn what_was_held_up_is_left_out_and_what_is_fresh_beside_it_is_heard() {
    let mut held_up = tap(&approve());
    held_up["timestamp"] = (seconds(now()) - 301).to_string().into();
    let mut hook_of_two = hook(&signer(now()), tap(&approve()));
    let mut both: Value = serde_json::from_slice(&hook_of_two.body).unwrap();
    both["entry"][0]["changes"][0]["value"]["messages"].as_array_mut().unwrap().insert(0, held_up);
    hook_of_two = signed(&signer(now()), &both.to_string());
    let said = hook_of_two.says(&*whatsapp(), &Keys::default(), now());
    assert_eq!(said.event, "wamid.theirs");
}

#[test]
fn a_4_hostile_text_is_only_between_backticks_where_whatsapp_reads_no_markup() {
    let card = card(HOSTILE, "```\nhttps://evil.example");
    let sent = body(&whatsapp().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap());
    let text = sent["interactive"]["body"]["text"].as_str().unwrap();
    let inside = text.strip_prefix("```\n").unwrap().strip_suffix("\n```").unwrap();
    assert!(!inside.contains('`'), "nothing in it ends the preformatted text");
    let mut bare = sent.clone();
    bare["interactive"]["body"]["text"] = "".into();
    assert!(!bare.to_string().contains("evil"), "it is nowhere else");
    for invisible in ['\u{202e}', '\u{200b}', '\u{e0041}'] {
        assert!(!text.contains(invisible));
    }
    let call = whatsapp().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap();
    assert!(!sent.to_string().contains("EAA-canary") && !call.url.contains("canary"));
    assert_eq!(call.url, "http://127.0.0.1:1/v25.0/106540352242922/messages");
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_buttons_where_the_rule_wants_it_whole() {
    let mut card = card("/p", &"x".repeat(20_000));
    let sent = |card: &_| body(&whatsapp().post(PERSON, &asking(card, "c", PERSON), "k").unwrap());
    assert!(sent(&card).to_string().contains(" of 20000 bytes):"));
    assert_eq!(sent(&card)["type"], "interactive");
    card.demands_whole = true;
    assert_eq!(sent(&card)["type"], "text", "no button");
    assert!(sent(&card).to_string().contains("countersign approval show"));
    assert!(!sent(&card).to_string().contains("approve "), "and no code");
    card.body.text = Some("x".repeat(2000));
    card.body.total = 2000;
    let whole = sent(&card)["text"]["body"].as_str().unwrap().to_owned();
    let code = key().code("c", PERSON, HANDLE).shown();
    assert!(whole.contains("shown 2000 of 2000 bytes") && whole.contains(&code));
    let longer = crate::support::card(&format!("/{}", "p".repeat(600)), "");
    assert!(whatsapp().post(PERSON, &asking(&longer, "c", PERSON), "k").is_err());
}

#[test]
fn a_5_a_body_of_backticks_is_shown_as_far_as_there_is_room_for_them_written_out() {
    let card = card("/p", &"`".repeat(3000));
    let sent = body(&whatsapp().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap());
    let text = sent["interactive"]["body"]["text"].as_str().unwrap();
    let shown = text.matches("\\u{60}").count();
    assert!(shown > 20, "{text}");
    assert!(text.contains(&format!("shown {shown} of 3000 bytes")), "{text}");
}

proptest! {
    #[test]
    fn a_5_whatsapp_no_message_is_over_the_limits(card in any_card()) {
        if let Ok(call) = whatsapp().post(PERSON, &asking(&card, "c", PERSON), "k") {
            let sent = body(&call);
            let length = |text: &Value| text.as_str().map_or(0, |text| text.encode_utf16().count());
            prop_assert!(length(&sent["interactive"]["body"]["text"]) <= 1024);
            prop_assert!(length(&sent["text"]["body"]) <= 4096);
            for button in sent["interactive"]["action"]["buttons"].as_array().unwrap_or(&vec![]) {
                prop_assert!(length(&button["reply"]["title"]) <= 20 && length(&button["reply"]["id"]) <= 256);
            }
        }
    }
}

#[test]
fn a_8_no_address_is_a_link_and_none_is_previewed() {
    let card = card("/p", "https://evil.example");
    let sent =
        body(&whatsapp().post(PERSON, &settled(&card, "see https://evil.example"), "k").unwrap());
    assert_eq!(sent["text"]["preview_url"], false);
    assert!(!sent.to_string().contains("://"));
    assert!(sent.to_string().contains("https[:]//evil.example"));
}

#[test]
fn i_13_a_settled_card_has_no_button_and_an_old_one_stays_as_it_is() {
    let card = card("/p", "{}");
    let message = countersign_chat::Message { place: PERSON.into(), id: "wamid.ours".into() };
    let settled = settled(&card, "Denied by bo: no");
    assert!(whatsapp().edit(&message, &settled).is_none() && !whatsapp().caps().edit);
    let sent = body(&whatsapp().post("16505551234", &settled, "k").unwrap());
    assert_eq!((&sent["type"], &sent["to"]), (&json!("text"), &json!("16505551234")));
    assert!(sent.to_string().contains("Denied by bo: no"));
    let under = body(&whatsapp().say(PERSON, Some(&message), &Text::of("Denied by bo: no")));
    assert_eq!(under["context"], json!({ "message_id": "wamid.ours" }));
}

#[test]
fn an_answer_says_which_message_it_is_now_or_what_to_do() {
    let posted = |status, body: Value| whatsapp().posted(PERSON, &answer(status, &body));
    assert_eq!(
        posted(200, json!({ "messages": [{ "id": "wamid.ours" }] })).unwrap().id,
        "wamid.ours"
    );
    let error = |code: i64| json!({ "error": { "message": "(#1) no", "code": code } });
    let Err(Failure::Never { why }) = posted(400, error(131047)) else { panic!("not refused") };
    assert!(why.contains("write to the number again"), "{why}");
    assert!(matches!(posted(400, error(131056)), Err(Failure::Later { .. })));
    assert!(matches!(posted(400, error(190)), Err(Failure::Never { .. })));
    assert!(matches!(posted(500, json!({})), Err(Failure::Later { .. })));
}
