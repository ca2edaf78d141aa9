//! Webex, with Python's own hmac as the signer.

use std::time::SystemTime;

use countersign_chat::{
    Auth, Failure, Forged, Heard, Keys, Message, Outcome, Text, Token, Typed, User, What, Words,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, asking, body, card,
    configuration, demands_secret, judge, key, no_hidden_character, now, open, seconds, settled,
};

const SETTINGS: &[(&str, &str)] = &[("base_url", "http://127.0.0.1:1/v1"), ("bot", "PEOPLE/bot")];
const SECRETS: &[(&str, &str)] =
    &[("bot_token", "canary-token"), ("webhook_secret", "a secret of the webhooks")];

fn webex() -> OverHttp {
    open("webex", SETTINGS, SECRETS)
}

fn approve() -> Token {
    key().token("c", "ROOM/1", HANDLE, Words::Approve)
}

/// As Webex's documentation shows a webhook about an attachment action; all of it happens on one day.
fn notified(resource: &str, creator: &str, at: SystemTime) -> Value {
    let second = seconds(at) % 86_400;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let created = format!("2027-01-15T{hour:02}:{minute:02}:{second:02}.100Z");
    json!({
        "id": "WEBHOOK/1", "name": "countersign", "targetUrl": "https://hooks.example/hooks/c",
        "resource": resource, "event": "created", "orgId": "ORGANIZATION/1", "createdBy": creator,
        "appId": "APPLICATION/1", "ownedBy": "creator", "status": "active",
        "created": "2026-01-01T00:00:00.000Z", "actorId": "PEOPLE/ana",
        "data": {
            "id": "ACTION/1", "type": "submit", "messageId": "MESSAGE/1", "personId": "PEOPLE/ana",
            "roomId": "ROOM/1", "created": created,
        },
    })
}

fn action() -> Value {
    json!({
        "id": "ACTION/1", "personId": "PEOPLE/ana", "roomId": "ROOM/1", "type": "submit", "messageId": "MESSAGE/1",
        "inputs": { "token": approve().as_str() }, "created": "2027-01-15T08:00:00.100Z",
    })
}

fn hook(secret: &str, body: &Value) -> Webhook {
    let body = body.to_string();
    let signed = judge("webex_sign.py", &json!({ "secret": secret, "body": body }));
    let signature = signed["signature"].as_str().unwrap();
    Webhook::post(&[("content-type", "application/json"), ("x-spark-signature", signature)], body)
}

fn heard(body: &Value) -> Result<Heard, Forged> {
    hook(SECRETS[1].1, body).heard(&*webex(), &Keys::default(), now())
}

#[test]
fn c_10_webex_nine_forgeries() {
    let adapter = webex();
    let make = |signer: &Signer<'_>| {
        let creator = if signer.app == "bot" { "PEOPLE/bot" } else { "PEOPLE/another" };
        hook(signer.secret, &notified("attachmentActions", creator, signer.at))
    };
    Forgeries {
        adapter: &*adapter,
        keys: Keys::default(),
        secret: SECRETS[1].1,
        app: "bot",
        signature: "x-spark-signature",
        timed: true,
        covers_body: true,
        make: &make,
        reserialised: &|body| {
            let value: Value = serde_json::from_slice(body).unwrap();
            serde_json::to_vec_pretty(&value).unwrap()
        },
    }
    .are_refused();
    demands_secret("webex", SETTINGS, SECRETS, "bot_token");
    demands_secret("webex", SETTINGS, SECRETS, "webhook_secret");
    assert!(configuration("webex", &SETTINGS[..1], SECRETS).is_err());
}

#[test]
fn what_a_webhook_names_is_fetched_and_has_to_be_that() {
    let named = heard(&notified("attachmentActions", "PEOPLE/bot", now()));
    let Ok(Heard::Named(named)) = named else { panic!("{named:?}") };
    let call = webex().fetch(&named).unwrap();
    assert_eq!(call.url, "http://127.0.0.1:1/v1/attachment/actions/ACTION%2F1");
    assert!(matches!(call.auth, Auth::Bearer(_)) && call.method == "GET");
    let Ok(Heard::Said(said)) = webex().fetched(&named, &answer(200, &action())) else { panic!() };
    assert_eq!(said[0].by, User { tenant: String::new(), id: "PEOPLE/ana".into() });
    assert_eq!(said[0].message, Message { place: "ROOM/1".into(), id: "MESSAGE/1".into() });
    assert_eq!((&said[0].what, said[0].event.as_str()), (&What::Tap(approve()), "ACTION/1"));
    let mut other = action();
    other["id"] = "ACTION/2".into();
    assert!(webex().fetched(&named, &answer(200, &other)).is_err());
    let mut own = action();
    own["personId"] = "PEOPLE/bot".into();
    assert_eq!(webex().fetched(&named, &answer(200, &own)), Ok(Heard::Nothing));
    let mut nothing = action();
    nothing["inputs"] = json!({ "token": "other" });
    assert_eq!(webex().fetched(&named, &answer(200, &nothing)), Ok(Heard::Nothing));
    let busy = webex().fetched(&named, &answer(429, &json!({})));
    assert!(matches!(busy, Err(Failure::Later { .. })), "{busy:?}");
    assert!(webex().fetch("elsewhere x").is_none());
    let (_, call) = webex().reply(&said[0], &Outcome::Refused(Text::of("see https://x")));
    assert_eq!(
        body(&call.unwrap()),
        json!({ "toPersonId": "PEOPLE/ana", "text": "see https[:]//x" })
    );
}

#[test]
fn a_code_is_written_to_the_bot_and_its_own_messages_are_not_heard() {
    let mut message = notified("messages", "PEOPLE/bot", now());
    let Ok(Heard::Named(named)) = heard(&message) else { panic!() };
    assert_eq!(webex().fetch(&named).unwrap().url, "http://127.0.0.1:1/v1/messages/ACTION%2F1");
    let mut written = json!({
        "id": "ACTION/1", "roomId": "ROOM/1", "personId": "PEOPLE/ana", "personEmail": "ana@example.com",
        "text": "Countersign link abc-def",
    });
    let Ok(Heard::Said(said)) = webex().fetched(&named, &answer(200, &written)) else { panic!() };
    assert_eq!(said[0].what, What::Typed(Typed::Link("abc-def".into())));
    written["personEmail"] = "other@webex.bot".into();
    assert_eq!(webex().fetched(&named, &answer(200, &written)), Ok(Heard::Nothing));
    message["data"]["personId"] = "PEOPLE/bot".into();
    assert_eq!(heard(&message), Ok(Heard::Nothing));
    let mut deleted = notified("messages", "PEOPLE/bot", now());
    deleted["event"] = "deleted".into();
    assert_eq!(heard(&deleted), Ok(Heard::Nothing));
    deleted["data"]["created"] = Value::Null;
    assert_eq!(heard(&deleted), Err(Forged::Shape));
}

fn content(sent: &Value) -> &Value {
    &sent["attachments"][0]["content"]
}

#[test]
fn a_4_hostile_text_is_only_in_runs_of_text_and_has_no_scheme() {
    let card =
        card(&format!("{HOSTILE} **bold**"), &format!("{HOSTILE}\n\n[x](https://evil.example)"));
    let call = webex().post("ROOM/1", &asking(&card, "c", "ROOM/1"), "k").unwrap();
    let sent = body(&call);
    assert_eq!(sent["text"], "An agent asks for your consent");
    assert!(sent["markdown"].is_null());
    for block in content(&sent)["body"].as_array().unwrap() {
        assert_eq!(block["type"], "RichTextBlock");
        for run in block["inlines"].as_array().unwrap() {
            assert_eq!(run["type"], "TextRun");
            assert!(!run["text"].as_str().unwrap().contains("://"));
        }
    }
    for action in content(&sent)["actions"].as_array().unwrap() {
        assert_eq!(action["type"], "Action.Submit");
        assert!(["Approve", "Deny"].contains(&action["title"].as_str().unwrap()));
    }
    no_hidden_character(&sent);
    let all = format!("{sent} {}", call.url);
    assert!(!all.contains("canary-token"), "the token is not in it");
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_buttons_where_the_rule_wants_it_whole() {
    let mut long = card("/p", &"x".repeat(20_000));
    let sent = |card: &_| body(&webex().post("ROOM/1", &asking(card, "c", "ROOM/1"), "k").unwrap());
    assert!(sent(&long).to_string().contains(" of 20000 bytes):"));
    assert_eq!(content(&sent(&long))["actions"].as_array().unwrap().len(), 2);
    long.demands_whole = true;
    assert_eq!(content(&sent(&long))["actions"], json!([]), "no button");
    assert!(sent(&long).to_string().contains("countersign approval show"));
    let longer = card(&format!("/{}", "p".repeat(7439)), "");
    assert!(
        webex().post("ROOM/1", &asking(&longer, "c", "ROOM/1"), "k").is_err(),
        "a head is never cut"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_5_a_card_is_within_its_limit_or_is_not_made(
        path in "(\\PC|\"){0,40}", times in 0_usize..100, text in "(\\PC|\"|\n){0,2000}"
    ) {
        let card = card(&path.repeat(times), &text);
        if let Ok(call) = webex().post("ROOM/1", &asking(&card, "c", "ROOM/1"), "k") {
            prop_assert!(content(&body(&call)).to_string().len() <= 7439);
        } else {
            prop_assert!(10 * path.len() * times > 2000, "there was room");
        }
    }
}

#[test]
fn i_13_a_card_stays_as_it_was_sent_and_what_became_of_it_is_said_under_it() {
    let card = card("/p", "{}");
    let message = Message { place: "ROOM/1".into(), id: "MESSAGE/1".into() };
    assert!(webex().edit(&message, &settled(&card, "Denied by bo: no")).is_none());
    assert!(!webex().caps().edit);
    let said = body(&webex().say("ROOM/1", Some(&message), &Text::of("Denied by bo: no")));
    assert_eq!(
        said,
        json!({ "roomId": "ROOM/1", "parentId": "MESSAGE/1", "text": "Denied by bo: no" })
    );
    let settled = body(&webex().post("ROOM/1", &settled(&card, "Denied by bo: no"), "k").unwrap());
    assert_eq!(content(&settled)["actions"], json!([]), "no button");
    let posted = json!({ "id": "MESSAGE/1", "roomId": "ROOM/1" });
    assert_eq!(webex().posted("ROOM/1", &answer(200, &posted)), Ok(message));
    let user = User { tenant: String::new(), id: "PEOPLE/ana".into() };
    assert_eq!(body(&webex().converse(&user).unwrap())["toPersonId"], "PEOPLE/ana");
    assert_eq!(webex().conversed(&answer(200, &posted)), Ok("ROOM/1".into()));
}
