//! Teams, with PyJWT as the signer and botframework-connector as the other receiver.

use std::time::{Duration, SystemTime};

use countersign_chat::{
    Auth, Failure, Forged, Heard, Keys, Message, Outcome, Text, Token, Typed, User, What, Words,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, asking, card, demands_secret,
    judge, key, now, open, seconds, settled,
};
use crate::tokens::{self, pairs};
use crate::written::{demand_visible, is_hostile, strings};

const APP: &str = "6f1a3f4e-0000-4000-8000-000000000001";
const SERVICE: &str = "https://smba.trafficmanager.net/emea/6f1a3f4e/";
const PLACE: &str = "a:1dRsHCobZ1AxURzY05Dc";
const SETTINGS: &[(&str, &str)] =
    &[("base_url", "http://127.0.0.1:1/teams"), ("app", APP), ("tenant", "T0")];
const SECRETS: &[(&str, &str)] = &[("client_secret", "canary")];

fn teams() -> OverHttp {
    open("teams", SETTINGS, SECRETS)
}

fn keys() -> Keys {
    tokens::keys(&tokens::key_set("k1", &json!(["msteams", "skype"])))
}

/// As Teams sends it when a button of a card is pressed (Action.Execute).
fn pressed() -> Value {
    json!({
        "type": "invoke",
        "name": "adaptiveCard/action",
        "id": "f:6e8a",
        "timestamp": "2027-01-15T08:00:00.000Z",
        "channelId": "msteams",
        "serviceUrl": SERVICE,
        "from": { "id": "29:1abc", "name": "Ana", "aadObjectId": "u1" },
        "conversation": { "conversationType": "personal", "tenantId": "T1", "id": PLACE },
        "recipient": { "id": format!("28:{APP}"), "name": "Countersign" },
        "channelData": { "tenant": { "id": "T1" }, "source": { "name": "message" } },
        "replyToId": "1800000000100",
        "value": {
            "action": { "type": "Action.Execute", "title": "Approve", "verb": "approve", "data": { "token": approve().as_str() } },
            "trigger": "manual",
        },
    })
}

/// As it comes from a client that knows Action.Submit only.
fn submitted() -> Value {
    let mut activity = pressed();
    activity["type"] = "message".into();
    activity["value"] = json!({ "token": approve().as_str() });
    activity.as_object_mut().unwrap().remove("name");
    activity
}

fn typed(text: &str) -> Value {
    let mut activity = submitted();
    activity["text"] = text.into();
    activity.as_object_mut().unwrap().retain(|name, _| name != "value" && name != "replyToId");
    activity
}

fn approve() -> Token {
    key().token("c", PLACE, HANDLE, Words::Approve)
}

fn claims(app: &str, at: SystemTime) -> Value {
    json!({ "iss": "https://api.botframework.com", "aud": app, "serviceurl": SERVICE, "nbf": seconds(at), "exp": seconds(at) })
}

fn hook(pem: &str, claims: &Value, activity: &Value) -> Webhook {
    let bearer = format!("Bearer {}", tokens::token(pem, "k1", claims));
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    Webhook::post(&headers, activity.to_string())
}

fn genuine(activity: &Value) -> Webhook {
    hook(&pairs()[0].pem, &claims(APP, now()), activity)
}

fn heard(activity: &Value) -> Result<Heard, Forged> {
    genuine(activity).heard(&*teams(), &keys(), now())
}

fn sent(call: &countersign_chat::Call) -> Value {
    serde_json::from_slice(&call.body).unwrap()
}

#[test]
fn c_10_teams_nine_forgeries() {
    let adapter = teams();
    let make = |signer: &Signer<'_>| {
        let pem = if signer.secret == "theirs" { &pairs()[0].pem } else { &pairs()[1].pem };
        hook(pem, &claims(signer.app, signer.at), &pressed())
    };
    Forgeries {
        adapter: &*adapter,
        keys: keys(),
        secret: "theirs",
        app: APP,
        signature: "authorization",
        timed: true,
        covers_body: false,
        make: &make,
        reserialised: &|body| body.to_vec(),
    }
    .are_refused();
    demands_secret("teams", SETTINGS, SECRETS, "client_secret");
}

#[test]
fn c_10_teams_a_token_of_another_issuer_service_channel_or_key_is_refused() {
    let with = |name: &str, value: &str| {
        let mut claims = claims(APP, now());
        claims[name] = value.into();
        hook(&pairs()[0].pem, &claims, &pressed()).heard(&*teams(), &keys(), now())
    };
    assert_eq!(with("iss", "https://sts.windows.net/x/"), Err(Forged::Signature));
    assert_eq!(with("serviceurl", "https://smba.trafficmanager.net/amer/"), Err(Forged::Signature));
    let evil = "https://smba.trafficmanager.net.evil.example/";
    let mut activity = pressed();
    activity["serviceUrl"] = evil.into();
    let mut told = claims(APP, now());
    told["serviceurl"] = evil.into();
    let hook = hook(&pairs()[0].pem, &told, &activity);
    assert_eq!(hook.heard(&*teams(), &keys(), now()), Err(Forged::Signature), "not on the list");
    let mut activity = pressed();
    activity["channelId"] = "directline".into();
    assert_eq!(heard(&activity), Err(Forged::Signature));
    let other = tokens::keys(&tokens::key_set("k1", &json!(["directline"])));
    assert_eq!(genuine(&pressed()).heard(&*teams(), &other, now()), Err(Forged::Signature));
    assert_eq!(genuine(&pressed()).heard(&*teams(), &Keys::default(), now()), Err(Forged::Key));
    for wrong in ["https://smba.trafficmanager.net", ""] {
        let settings = [SETTINGS, &[("service_urls", wrong)]].concat();
        let given = crate::support::configuration("teams", &settings, SECRETS).unwrap();
        assert!((countersign_chat::platform("teams").unwrap().open)(given).is_err(), "{wrong:?}");
    }
}

#[test]
fn c_10_teams_botframework_connector_takes_and_refuses_the_same_webhooks() {
    // It looks at its own clock.
    let now = SystemTime::now();
    let (long, theirs) = (Duration::from_secs(900), &pairs()[0].pem);
    let mut elsewhere = pressed();
    elsewhere["serviceUrl"] = "https://smba.trafficmanager.net/amer/".into();
    let mut channel = pressed();
    channel["channelId"] = "webchat".into();
    let mut unsigned = hook(theirs, &claims(APP, now), &pressed());
    let bearer = unsigned.headers.get_mut("authorization").unwrap();
    *bearer = bearer.to_str().unwrap().rsplit_once('.').unwrap().0.parse().unwrap();
    let hooks = [
        hook(theirs, &claims(APP, now), &pressed()),
        hook(theirs, &claims(APP, now), &submitted()),
        hook(theirs, &claims(APP, now - long), &pressed()),
        hook(theirs, &claims(APP, now + long), &pressed()),
        hook(&pairs()[1].pem, &claims(APP, now), &pressed()),
        hook(theirs, &claims("another", now), &pressed()),
        hook(theirs, &claims(APP, now), &elsewhere),
        hook(theirs, &claims(APP, now), &channel),
        unsigned,
    ];
    let asked: Vec<_> = hooks
        .iter()
        .map(|hook| {
            let bearer = hook.headers["authorization"].to_str().unwrap();
            json!({ "authorization": bearer, "body": String::from_utf8(hook.body.clone()).unwrap() })
        })
        .collect();
    let set = tokens::key_set("k1", &json!(["msteams", "skype"]));
    let judged =
        judge("teams_connector.mjs", &json!({ "app": APP, "keys": set["keys"], "hooks": asked }));
    let taken: Vec<_> = judged.as_array().unwrap().iter().map(|it| it["taken"] == true).collect();
    assert_eq!(taken, [true, true, false, false, false, false, false, false, false], "{judged}");
    for (hook, taken) in hooks.iter().zip(taken) {
        let heard = hook.heard(&*teams(), &keys(), now);
        assert_eq!(matches!(heard, Ok(Heard::Said(_))), taken, "{heard:?}");
    }
}

#[test]
fn a_tap_says_who_pressed_what_on_which_message() {
    let said = genuine(&pressed()).says(&*teams(), &keys(), now());
    assert_eq!(said.by, User { tenant: "T1".into(), id: "u1".into() });
    assert_eq!(said.message, Message { place: PLACE.into(), id: "1800000000100".into() });
    assert_eq!(said.event, "f:6e8a");
    let What::Tap(token) = &said.what else { panic!("{said:?}") };
    assert_eq!(key().open("c", PLACE, token), Some((HANDLE, Words::Approve)));
    let (reply, call) = teams().reply(&said, &Outcome::Refused(Text::of("you may not decide")));
    assert!(call.is_none());
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    let kind = "application/vnd.microsoft.activity.message";
    assert_eq!(body, json!({ "statusCode": 200, "type": kind, "value": "you may not decide" }));

    let same = genuine(&submitted()).says(&*teams(), &keys(), now());
    assert_eq!((&same.what, &same.by, &same.message), (&said.what, &said.by, &said.message));
    let (reply, call) = teams().reply(&same, &Outcome::Taken(Text::of("approved")));
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, ""));
    assert!(call.unwrap().body.windows(8).any(|it| it == b"approved"));
}

#[test]
fn a_11_the_same_id_in_another_tenant_is_somebody_else_and_two_tenants_are_nobody() {
    let mut activity = pressed();
    activity["channelData"]["tenant"]["id"] = "T2".into();
    assert_eq!(heard(&activity), Err(Forged::Shape));
    activity["conversation"]["tenantId"] = "T2".into();
    let said = genuine(&activity).says(&*teams(), &keys(), now());
    assert_eq!((said.by.tenant.as_str(), said.by.id.as_str()), ("T2", "u1"));
    activity["from"].as_object_mut().unwrap().remove("aadObjectId");
    assert_eq!(heard(&activity), Ok(Heard::Nothing), "a name is nobody");
}

#[test]
fn a_code_is_typed_alone_or_after_a_mention_and_never_by_a_bot() {
    let said = genuine(&typed("link abc-def")).says(&*teams(), &keys(), now());
    assert_eq!(said.what, What::Typed(Typed::Link("abc-def".into())));
    let mut activity = typed("<at>My Countersign</at> approve abcd-1234\n");
    activity["conversation"] = json!({ "conversationType": "channel", "tenantId": "T1", "id": "19:x@thread.tacv2;messageid=17" });
    let said = genuine(&activity).says(&*teams(), &keys(), now());
    assert!(matches!(said.what, What::Typed(Typed::Answer { word: Words::Approve, .. })));
    assert_eq!(said.message.place, "19:x@thread.tacv2", "a thread is in its channel");
    let (_, call) = teams().reply(&said, &Outcome::Taken(Text::of("for one alone")));
    assert!(call.is_none(), "nothing is told in front of others");
    activity["from"]["role"] = "bot".into();
    assert_eq!(heard(&activity), Ok(Heard::Nothing));
    assert_eq!(heard(&typed("good morning")), Ok(Heard::Nothing));
}

#[test]
fn a_4_hostile_words_are_only_in_runs_of_text() {
    let mut card =
        card(HOSTILE, &format!("{HOSTILE}\n{{{{DATE(2017-02-14T06:08:39Z,SHORT)}}}} {{{{{{x"));
    card.warnings = vec![Text::of(HOSTILE)];
    let mut notice = asking(&card, "c", PLACE);
    notice.face = countersign_chat::Face::Asking { standing: vec![Text::of(HOSTILE)] };
    let call = teams().post(PLACE, &notice, "k").unwrap();
    let body = sent(&call);
    let mut seen = 0;
    for (path, text) in strings(&body) {
        demand_visible(&text);
        assert!(!text.contains("{{"), "a client writes dates out: {text}");
        if is_hostile(&text) {
            seen += 1;
            assert_eq!(path, "/attachments/content/body/inlines/text");
        }
    }
    assert!(seen >= 5, "{body}");
    let blocks = body["attachments"][0]["content"]["body"].as_array().unwrap();
    assert!(blocks.iter().all(|it| it["type"] == "RichTextBlock" || it["type"] == "ActionSet"));
    let runs =
        strings(&body["attachments"]).into_iter().filter(|it| it.0.ends_with("/inlines/text"));
    let written: String = runs.map(|(_, text)| text).collect();
    assert!(written.contains("{{DATE(2017-02-14T06:08:39Z,SHORT)}}"), "nothing is lost: {written}");
    assert_eq!(
        call.url,
        format!("http://127.0.0.1:1/teams/v3/conversations/a%3A{}/activities", &PLACE[2..])
    );
    assert!(matches!(call.auth, Auth::Granted));
}

#[test]
fn a_5_a_long_body_is_cut_with_its_numbers_and_a_rule_that_wants_it_whole_takes_the_buttons() {
    let mut card = card("/p", &"{".repeat(20_000));
    let sent_card = |card: &countersign_chat::Card| {
        sent(&teams().post(PLACE, &asking(card, "c", PLACE), "k").unwrap()).to_string()
    };
    assert!(sent_card(&card).contains(" of 20000 bytes):"));
    assert!(sent_card(&card).contains("Action.Execute"));
    card.demands_whole = true;
    assert!(!sent_card(&card).contains("Action."), "no button");
    assert!(sent_card(&card).contains("countersign approval show"));
    let longer = crate::support::card(&format!("/{}", "p".repeat(9_500)), "");
    assert!(teams().post(PLACE, &asking(&longer, "c", PLACE), "k").is_err(), "a head is never cut");
}

proptest! {
    #[test]
    fn a_5_a_message_fits_into_40_kb_of_utf_16_or_is_not_made(path in "(\\PC|\\{|\"){0,9000}", body in "(\\PC|\n|\\{|\u{202e}){0,9000}") {
        let card = card(&path, &body);
        if let Ok(call) = teams().post(PLACE, &asking(&card, "c", PLACE), "k") {
            let sent = std::str::from_utf8(&call.body).unwrap();
            prop_assert!(2 * sent.encode_utf16().count() <= 40_000);
        }
    }
}

#[test]
fn i_13_a_settled_card_has_its_last_face_and_no_button() {
    let card = card("/p", "{}");
    let message = Message { place: "19:x@thread.tacv2".into(), id: "17".into() };
    let call = teams().edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    assert_eq!(call.method, "PUT");
    assert!(call.url.ends_with("/v3/conversations/19%3Ax%40thread%2Etacv2/activities/17"));
    assert!(sent(&call).to_string().contains("Denied by bo: no"));
    assert!(!sent(&call).to_string().contains("Action."));
    assert_eq!(teams().edited(&answer(404, &json!({}))), Ok(()));
    for status in [412, 429, 502] {
        let busy = teams().posted(PLACE, &answer(status, &json!({})));
        assert!(matches!(busy, Err(Failure::Later { .. })), "{busy:?}");
    }
    let refused = teams().posted(PLACE, &answer(403, &json!({})));
    assert!(matches!(refused, Err(Failure::Never { .. })), "{refused:?}");
    let under = teams().say("19:x@thread.tacv2", Some(&message), &Text::of("late"));
    assert!(under.url.contains("%3Bmessageid%3D17/"), "in the thread: {}", under.url);
}

#[test]
fn the_secret_is_only_in_the_call_for_the_token_and_there_in_its_own_place() {
    let call = teams().grant(now()).unwrap();
    assert_eq!(call.url, "https://login.microsoftonline.com/T0/oauth2/v2.0/token");
    assert!(
        matches!(&call.auth, Auth::Basic(name, secret) if name == APP && secret.expose() == "canary")
    );
    assert!(!format!("{call:?}").contains("canary"));
    let (token, lasts) = teams()
        .granted(&answer(
            200,
            &json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": "eyJ" }),
        ))
        .unwrap();
    assert_eq!((token.expose(), lasts.as_secs()), ("eyJ", 3599));
    let call = teams().converse(&User { tenant: "T1".into(), id: "u1".into() }).unwrap();
    assert_eq!(sent(&call)["members"], json!([{ "id": "u1" }]));
    assert_eq!(teams().conversed(&answer(201, &json!({ "id": PLACE }))).as_deref(), Ok(PLACE));
}
