//! Slack, with slack-sdk as the signer and bolt as the other receiver.

use std::time::{Duration, SystemTime};

use countersign_chat::{
    Adapter, Failure, Forged, Heard, Keys, Outcome, Text, Token, Typed, What, Words,
};
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, Signer, Webhook, answer, asking, card, demands_secret, judge, key,
    now, open, seconds, settled,
};

const SETTINGS: &[(&str, &str)] = &[("base_url", "http://127.0.0.1:1/api"), ("app", "A1")];
const SECRETS: &[(&str, &str)] =
    &[("bot_token", "xoxb-canary"), ("signing_secret", "8f742231b10e8888abcd99yyyzzz85a5")];

fn slack() -> Box<dyn Adapter> {
    open("slack", SETTINGS, SECRETS)
}

/// As Slack's documentation shows a block_actions payload.
fn payload(app: &str, token: &Token) -> String {
    let payload = json!({
        "type": "block_actions",
        "user": { "id": "U1", "username": "ana", "name": "ana", "team_id": "T1" },
        "api_app_id": app,
        "token": "deprecated",
        "container": { "type": "message", "message_ts": "1800000000.000100", "channel_id": "D1", "is_ephemeral": false },
        "trigger_id": "12466734323.1395872398",
        "team": { "id": "T1", "domain": "acme" },
        "channel": { "id": "D1", "name": "directmessage" },
        "response_url": "https://hooks.slack.com/actions/T1/1/x",
        "actions": [{
            "action_id": "approve", "block_id": "b", "text": { "type": "plain_text", "text": "Approve" },
            "value": token.as_str(), "style": "primary", "type": "button", "action_ts": "1800000000.123",
        }],
    });
    let encoded = percent_encoding(&payload.to_string());
    format!("payload={encoded}")
}

fn percent_encoding(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

fn approve() -> Token {
    key().token("c", "D1", HANDLE, Words::Approve)
}

/// Signed by slack-sdk.
fn hook(signer: &Signer<'_>, content_type: &str, body: &str) -> Webhook {
    let at = seconds(signer.at);
    let signed =
        judge("slack_sign.py", &json!({ "secret": signer.secret, "timestamp": at, "body": body }));
    let signature = signed["signature"].as_str().unwrap();
    let at = at.to_string();
    let headers = [
        ("content-type", content_type),
        ("x-slack-request-timestamp", &at),
        ("x-slack-signature", signature),
    ];
    Webhook::post(&headers, body)
}

fn form(signer: &Signer<'_>) -> Webhook {
    hook(signer, "application/x-www-form-urlencoded", &payload(signer.app, &approve()))
}

fn signer(at: SystemTime) -> Signer<'static> {
    Signer { secret: SECRETS[1].1, app: "A1", at }
}

#[test]
fn c_10_slack_nine_forgeries() {
    let adapter = slack();
    Forgeries {
        adapter: &*adapter,
        keys: Keys::default(),
        secret: SECRETS[1].1,
        app: "A1",
        signature: "x-slack-signature",
        timed: true,
        covers_body: true,
        make: &form,
        reserialised: &|body| {
            String::from_utf8(body.to_vec()).unwrap().replace("%7B", "{").into_bytes()
        },
    }
    .are_refused();
    demands_secret("slack", SETTINGS, SECRETS, "signing_secret");
    demands_secret("slack", SETTINGS, SECRETS, "bot_token");
}

#[test]
fn c_10_slack_bolt_takes_and_refuses_the_same_webhooks_save_the_future_ones() {
    // Bolt looks at its own clock, and takes what is from the future.
    let now = SystemTime::now();
    let at = |at| Signer { at, ..signer(at) };
    let genuine = form(&at(now));
    let mut tampered = genuine.clone();
    let end = tampered.body.len() - 1;
    tampered.body[end] ^= 1;
    let hooks = [
        genuine,
        form(&at(now - Duration::from_secs(301))),
        form(&Signer { secret: "another", ..at(now) }),
        tampered,
    ];
    let asked: Vec<_> = hooks
        .iter()
        .map(|hook| {
            let headers: serde_json::Map<_, _> = hook
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap())))
                .collect();
            json!({ "headers": headers, "body": String::from_utf8(hook.body.clone()).unwrap() })
        })
        .collect();
    let judged = judge("slack_bolt.mjs", &json!({ "secret": SECRETS[1].1, "hooks": asked }));
    let adapter = slack();
    for (hook, judged) in hooks.iter().zip(judged.as_array().unwrap()) {
        let heard = hook.heard(&*adapter, &Keys::default(), now);
        assert_eq!(
            matches!(heard, Ok(Heard::Said(_))),
            judged["status"] == 200,
            "{heard:?} {judged}"
        );
    }
    assert_eq!(judged[0]["taps"][0], json!({ "value": approve().as_str(), "user": "U1" }));
}

#[test]
fn a_tap_says_who_pressed_what_on_which_message() {
    let said = form(&signer(now())).says(&*slack(), &Keys::default(), now());
    assert_eq!((said.by.tenant.as_str(), said.by.id.as_str()), ("T1", "U1"));
    assert_eq!(
        (said.message.place.as_str(), said.message.id.as_str()),
        ("D1", "1800000000.000100")
    );
    let What::Tap(token) = &said.what else { panic!("{said:?}") };
    assert_eq!(key().open("c", "D1", token), Some((HANDLE, Words::Approve)));
    let (reply, call) =
        slack().reply(&said, &Outcome::Refused(Text::of("you may not decide <this>")));
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, ""));
    let call = call.unwrap();
    assert_eq!(call.url, "http://127.0.0.1:1/api/chat.postEphemeral");
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    assert_eq!(
        body,
        json!({ "channel": "D1", "user": "U1", "text": "you may not decide &lt;this&gt;" })
    );
}

#[test]
fn a_11_a_guest_of_another_workspace_is_somebody_else() {
    let body = payload("A1", &approve())
        .replace(&percent_encoding("\"team_id\":\"T1\""), &percent_encoding("\"team_id\":\"T2\""));
    let said = hook(&signer(now()), "application/x-www-form-urlencoded", &body).says(
        &*slack(),
        &Keys::default(),
        now(),
    );
    assert_eq!((said.by.tenant.as_str(), said.by.id.as_str()), ("T2", "U1"));
}

#[test]
fn a_code_is_said_by_slash_command_or_in_a_message_and_never_by_a_bot() {
    let command = "api_app_id=A1&team_id=T1&user_id=U1&channel_id=D1&trigger_id=t1&command=%2Fcountersign&text=link+abc-def";
    let said = hook(&signer(now()), "application/x-www-form-urlencoded", command).says(
        &*slack(),
        &Keys::default(),
        now(),
    );
    assert_eq!(said.what, What::Typed(Typed::Link("abc-def".into())));
    let message = |event: Value| {
        let body = json!({ "type": "event_callback", "api_app_id": "A1", "team_id": "T1", "event_id": "Ev1", "event": event });
        hook(&signer(now()), "application/json", &body.to_string()).heard(
            &*slack(),
            &Keys::default(),
            now(),
        )
    };
    let mut event = json!({ "type": "message", "user": "U1", "team": "T1", "channel": "D1", "ts": "1.2", "text": "link abc" });
    assert!(matches!(message(event.clone()), Ok(Heard::Said(_))));
    event["bot_id"] = "B1".into();
    assert_eq!(message(event), Ok(Heard::Nothing));
    let twice = format!("{command}&user_id=U2");
    let heard = hook(&signer(now()), "application/x-www-form-urlencoded", &twice).heard(
        &*slack(),
        &Keys::default(),
        now(),
    );
    assert_eq!(heard, Err(Forged::Shape));
}

#[test]
fn a_4_hostile_text_is_only_where_slack_reads_no_markup() {
    let card = card(HOSTILE, HOSTILE);
    let call = slack().post("D1", &asking(&card, "c", "D1"), "k").unwrap();
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    for block in body["blocks"].as_array().unwrap() {
        assert!(
            ["actions", "header", "rich_text", "section"]
                .contains(&block["type"].as_str().unwrap())
        );
        walk(block, &mut |object| {
            assert_ne!(object["type"], "mrkdwn");
            if object["type"] == "plain_text" {
                assert_eq!(object["emoji"], false);
            }
        });
    }
    // The line of a notification is the one that Slack reads: nothing in it begins a mention or a link.
    assert!(!body["text"].as_str().unwrap().contains(['<', '>']));
    let all = body.to_string();
    for invisible in ['\u{202e}', '\u{200b}', '\u{e0041}'] {
        assert!(!all.contains(invisible));
    }
    assert_eq!((&body["unfurl_links"], &body["unfurl_media"]), (&json!(false), &json!(false)));
    assert!(!all.contains("xoxb-canary") && !call.url.contains("xoxb"), "the token is not in it");
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_buttons_where_the_rule_wants_it_whole() {
    let long = "x".repeat(20_000);
    let mut card = card("/p", &long);
    let blocks = |card: &_| {
        let call = slack().post("D1", &asking(card, "c", "D1"), "k").unwrap();
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        body["blocks"].to_string()
    };
    assert!(blocks(&card).contains("bytes):") && blocks(&card).contains(" of 20000"));
    assert!(blocks(&card).contains("\"actions\""));
    card.demands_whole = true;
    assert!(!blocks(&card).contains("\"actions\""), "no button");
    assert!(blocks(&card).contains("countersign approval show"));
    let longer = crate::support::card(&format!("/{}", "p".repeat(4000)), "");
    assert!(slack().post("D1", &asking(&longer, "c", "D1"), "k").is_err(), "a head is never cut");
}

#[test]
fn i_13_a_settled_card_has_its_last_face_and_no_button() {
    let card = card("/p", "{}");
    let message = countersign_chat::Message { place: "D1".into(), id: "1.2".into() };
    let call = slack().edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    assert!(call.url.ends_with("/chat.update"));
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    assert_eq!((&body["channel"], &body["ts"]), (&json!("D1"), &json!("1.2")));
    assert!(body["blocks"].to_string().contains("Denied by bo: no"));
    assert!(!body["blocks"].to_string().contains("\"button\""));
    assert_eq!(
        slack().edited(&answer(200, &json!({ "ok": false, "error": "message_not_found" }))),
        Ok(())
    );
    let busy = slack().posted("D1", &answer(200, &json!({ "ok": false, "error": "ratelimited" })));
    assert!(matches!(busy, Err(Failure::Later { .. })), "{busy:?}");
    let gone =
        slack().posted("D1", &answer(200, &json!({ "ok": false, "error": "not_in_channel" })));
    assert!(matches!(gone, Err(Failure::Never { .. })), "{gone:?}");
}

fn walk(value: &Value, seen: &mut dyn FnMut(&Value)) {
    match value {
        Value::Object(object) => {
            seen(value);
            object.values().for_each(|value| walk(value, seen));
        }
        Value::Array(array) => array.iter().for_each(|value| walk(value, seen)),
        _ => {}
    }
}
