//! Slack, with slack-sdk as the signer and bolt as the other receiver.

use std::time::{Duration, SystemTime};

use countersign_chat::{
    Auth, Begin, Conversation, Evidence, Failure, Forged, Heard, Keys, Outcome, Reply, Said,
    Secret, Step, Text, Token, Typed, What, Wire, Words,
};
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, asking, card, configuration,
    demands_secret, judge, key, now, open, seconds, settled,
};

const SETTINGS: &[(&str, &str)] = &[("base_url", "http://127.0.0.1:1/api"), ("app", "A1")];
const SECRETS: &[(&str, &str)] =
    &[("bot_token", "xoxb-canary"), ("signing_secret", "8f742231b10e8888abcd99yyyzzz85a5")];
const SOCKET: &[(&str, &str)] =
    &[("base_url", "http://127.0.0.1:1/api"), ("app", "A1"), ("inbound", "socket")];
const APP_TOKEN: (&str, &str) = ("app_token", "xapp-canary");

fn slack() -> OverHttp {
    open("slack", SETTINGS, SECRETS)
}

fn connected() -> Box<dyn Conversation> {
    open("slack", SOCKET, &[SECRETS[0], APP_TOKEN]).socket().unwrap()
}

fn payload(app: &str, token: &Token) -> String {
    format!("payload={}", percent_encoding(&actions(app, token).to_string()))
}

/// As Slack's documentation shows a block_actions payload.
fn actions(app: &str, token: &Token) -> Value {
    json!({
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
    })
}

/// As Slack's documentation shows the envelopes of Socket Mode.
fn envelope(kind: &str, payload: &Value) -> String {
    let takes = kind == "slash_commands";
    json!({
        "envelope_id": "dbdd0ef3-1543-4f94-bfb4-133d0e6c1545",
        "type": kind,
        "payload": payload,
        "accepts_response_payload": takes,
    })
    .to_string()
}

fn heard(conversation: &mut dyn Conversation, frame: &str) -> (Result<Heard, Forged>, Secret) {
    let mut steps = conversation.heard(frame);
    match (steps.pop(), steps.is_empty()) {
        (Some(Step::Heard { heard, to }), true) => (heard, to),
        other => panic!("{other:?}"),
    }
}

fn said(heard: Result<Heard, Forged>) -> Said {
    match heard {
        Ok(Heard::Said(mut said)) if said.len() == 1 => said.remove(0),
        other => panic!("{other:?}"),
    }
}

fn sent(step: &Step) -> Value {
    let Step::Send(frame) = step else { panic!("{step:?}") };
    serde_json::from_str(frame.expose()).unwrap()
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
    demands_secret("slack", SETTINGS, SECRETS, "bot_token");
}

#[test]
fn a_webhook_demands_the_signing_secret_and_a_socket_the_app_token_and_takes_no_webhooks() {
    let opened = |settings, secrets: &[_]| {
        let platform = countersign_chat::platform("slack").unwrap();
        (platform.open)(configuration("slack", settings, secrets).unwrap()).map(|it| it.caps())
    };
    assert!(opened(SETTINGS, &[SECRETS[0], APP_TOKEN]).unwrap_err().0.contains("signing_secret"));
    assert!(opened(SOCKET, SECRETS).unwrap_err().0.contains("app_token"));
    let both = [SETTINGS[0], SETTINGS[1], ("inbound", "both")];
    assert!(opened(&both, &[SECRETS[0], SECRETS[1], APP_TOKEN]).is_err());
    let (hooked, listening) =
        (opened(SETTINGS, SECRETS).unwrap(), opened(SOCKET, &[SECRETS[0], APP_TOKEN]).unwrap());
    assert_eq!((hooked.wire, hooked.evidence), (Wire::Webhook, Evidence::SharedMac));
    assert_eq!((listening.wire, listening.evidence), (Wire::Socket, Evidence::TransportOnly));
    assert!(slack().socket().is_none());
    let all = [SECRETS[0], SECRETS[1], APP_TOKEN];
    let heard = form(&signer(now())).heard(&*open("slack", SOCKET, &all), &Keys::default(), now());
    assert_eq!(heard, Err(Forged::Shape));
}

#[test]
fn a_connection_is_asked_for_with_the_app_token_and_goes_to_slack_alone() {
    let mut conversation = connected();
    let Begin::Ask(call) = conversation.begin() else { panic!() };
    assert_eq!(call.url, "http://127.0.0.1:1/api/apps.connections.open");
    let Auth::Bearer(token) = &call.auth else { panic!("{call:?}") };
    assert_eq!(token.expose(), "xapp-canary");
    let found = |url: &str| conversation.found(&answer(200, &json!({ "ok": true, "url": url })));
    let address = found("wss://wss-primary.slack.com/link/?ticket=canary&app_id=4").unwrap();
    assert_eq!(
        (address.host(), address.port(), address.tls()),
        ("wss-primary.slack.com", 443, true)
    );
    assert!(!format!("{address:?}").contains("canary"), "a ticket is not shown");
    assert!(found("wss://slack.com:8443").is_ok());
    for elsewhere in [
        "wss://evil.example/link",
        "wss://evilslack.com/link",
        "wss://slack.com.evil.example/link",
        "wss://slack.com@evil.example/link",
        "wss://a@wss-primary.slack.com/link",
        "wss://169.254.169.254/link",
        "ws://wss-primary.slack.com/link",
        "https://wss-primary.slack.com/link",
        "ws://127.0.0.1:80/link",
        "/link",
        "",
    ] {
        assert!(matches!(found(elsewhere), Err(Failure::Never { .. })), "{elsewhere}");
    }
    let refused =
        conversation.found(&answer(200, &json!({ "ok": false, "error": "invalid_auth" })));
    assert!(matches!(refused, Err(Failure::Never { why }) if why.contains("invalid_auth")));
}

#[test]
fn an_envelope_says_what_the_webhook_says_and_is_acknowledged_by_its_id() {
    let mut conversation = connected();
    let (tap, to) = heard(&mut *conversation, &envelope("interactive", &actions("A1", &approve())));
    assert_eq!(said(tap), form(&signer(now())).says(&*slack(), &Keys::default(), now()));
    let ack = conversation.answer(&to, &Reply::empty(http::StatusCode::OK));
    assert_eq!(
        sent(&ack.unwrap()),
        json!({ "envelope_id": "dbdd0ef3-1543-4f94-bfb4-133d0e6c1545" })
    );

    let command = json!({
        "token": "deprecated", "team_id": "T1", "team_domain": "acme", "channel_id": "C1", "channel_name": "general",
        "user_id": "U1", "user_name": "ana", "command": "/countersign", "text": "link abc-def", "api_app_id": "A1",
        "is_enterprise_install": "false", "response_url": "https://hooks.slack.com/commands/T1/1/x", "trigger_id": "1.2",
    });
    let (heard_command, to) = heard(&mut *conversation, &envelope("slash_commands", &command));
    let said_command = said(heard_command);
    assert_eq!(said_command.what, What::Typed(Typed::Link("abc-def".into())));
    let (reply, _) = slack().reply(&said_command, &Outcome::Taken(Text::of("linked")));
    let ack = sent(&conversation.answer(&to, &reply).unwrap());
    assert_eq!(ack["payload"], json!({ "response_type": "ephemeral", "text": "linked" }));

    let event = json!({
        "type": "event_callback", "api_app_id": "A1", "team_id": "T1", "event_id": "Ev1", "event_time": 1_800_000_000,
        "event": { "type": "message", "user": "U1", "team": "T1", "channel": "D1", "ts": "1.2", "text": "link abc" },
    });
    let (typed, _) = heard(&mut *conversation, &envelope("events_api", &event));
    assert_eq!(said(typed).event, "Ev1");
    // What says nothing to us is acknowledged all the same.
    let (other, _) = heard(
        &mut *conversation,
        &envelope("interactive", &json!({ "type": "view_closed", "api_app_id": "A1" })),
    );
    assert_eq!(other, Ok(Heard::Nothing));
    let (other_app, _) =
        heard(&mut *conversation, &envelope("interactive", &actions("A2", &approve())));
    assert_eq!(other_app, Err(Forged::Signature));
}

#[test]
fn a_connection_is_left_when_slack_says_so_and_comes_back_unless_somebody_has_to_act() {
    let mut conversation = connected();
    let hello = |app: &str| {
        json!({
            "type": "hello",
            "connection_info": { "app_id": app },
            "num_connections": 1,
            "debug_info": { "host": "applink-7fc4fdbb64-4x5xq", "build_number": 10, "approximate_connection_time": 18060 },
        })
        .to_string()
    };
    assert!(conversation.heard(&hello("A1")).is_empty());
    let mut leaves = |frame: &str| match &conversation.heard(frame)[..] {
        [Step::Leave(result)] => result.clone(),
        other => panic!("{other:?}"),
    };
    assert!(leaves(&hello("A2")).is_err(), "the token is of another app");
    let disconnect = |reason: &str| {
        json!({
            "type": "disconnect", "reason": reason,
            "debug_info": { "host": "applink-7fc4fdbb64-4x5xq" },
        })
        .to_string()
    };
    for passing in ["warning", "refresh_requested", "too_many_websockets"] {
        assert_eq!(leaves(&disconnect(passing)), Ok(()));
    }
    assert!(leaves(&disconnect("link_disabled")).is_err());
    assert_eq!(leaves("no JSON"), Ok(()));
    assert!(matches!(conversation.begin(), Begin::Ask(_)), "an address is good once");
    assert_eq!(conversation.closed(Some(1000)), Ok(()));
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

/// Slack's own types of manifests, which its library has, and what their comments say of lengths.
#[test]
fn the_manifest_is_one_that_slack_knows_and_asks_for_no_more_than_it_needs() {
    let manifest = countersign_chat::platform("slack").unwrap().manifest.unwrap();
    let hook = "https://countersign.example/hooks/team";
    let (called, connected) = (manifest(Some(hook)), manifest(None));
    let mut unknown = called.clone();
    unknown["oauth_config"]["scopes"]["bot"][0] = "chat:read.everything".into();
    let mut misspelt = called.clone();
    misspelt["settings"]["socket_mode"] = true.into();
    let asked = json!({ "manifests": [called, connected, unknown, misspelt] });
    let faults = &judge("slack_manifest.mjs", &asked)["faults"];
    assert_eq!((&faults[0], &faults[1]), (&json!([]), &json!([])));
    assert!(faults[2][0].as_str().unwrap().contains("chat:read.everything"), "{faults}");
    assert!(faults[3][0].as_str().unwrap().contains("socket_mode"), "{faults}");

    let scopes = &called["oauth_config"]["scopes"];
    assert_eq!(scopes, &json!({ "bot": ["chat:write", "commands", "im:history", "im:write"] }));
    let events = &called["settings"]["event_subscriptions"];
    assert_eq!(events, &json!({ "bot_events": ["message.im"], "request_url": hook }));
    let interactivity = &called["settings"]["interactivity"];
    assert_eq!(interactivity, &json!({ "is_enabled": true, "request_url": hook }));
    assert_eq!(called["features"]["slash_commands"][0]["url"], hook);
    assert_eq!(called["settings"]["socket_mode_enabled"], false);
    assert_eq!(connected["settings"]["socket_mode_enabled"], true);
    assert!(!connected.to_string().contains("http"), "nothing calls us");
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
