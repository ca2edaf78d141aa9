//! Linear, with emulate as the platform, and the Chat SDK's adapter (with Linear's own SDK in it) as the other receiver.

use std::time::{Duration, SystemTime};

use countersign_chat::{
    Auth, Call, Card, Face, Failure, Forged, Heard, Keys, Message, Outcome, Text, Typed, User,
    What, Words,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::emulated::Emulated;
use crate::github::outside_of_fences;
use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Webhook, answer, asking, card, demands_secret, judge,
    key, now, open, seconds, settled,
};
use crate::written::{demand_visible, is_hostile};

const SETTINGS: &[(&str, &str)] =
    &[("base_url", "http://127.0.0.1:1"), ("organization", "O1"), ("account", "gateway")];
const SECRETS: &[(&str, &str)] = &[("token", "lin_api_canary"), ("signing_secret", "lin_wh_x")];
const PLACE: &str = "83a26e86-b6b3-4b9f-a1a5-9f7c1f1a3d3b";

fn linear() -> OverHttp {
    open("linear", SETTINGS, SECRETS)
}

/// As Linear's documentation shows a webhook of a comment.
fn written(text: &str, at: SystemTime) -> Value {
    json!({
        "action": "create",
        "type": "Comment",
        "actor": { "id": "u1", "type": "user", "name": "Ana", "email": "ana@acme.example" },
        "data": { "id": "2174add1", "body": text, "issueId": PLACE, "userId": "u1", "user": { "id": "u1", "name": "Ana" } },
        "url": "https://linear.app/acme/issue/ENG-1#comment-2174add1",
        "organizationId": "O1",
        "webhookTimestamp": seconds(at) * 1000,
        "webhookId": "w1",
    })
}

fn hook(secret: &str, event: &Value) -> Webhook {
    let body = event.to_string();
    let signed = judge("hmac_sign.mjs", &json!({ "secret": secret, "body": body }));
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("linear-event", "Comment"),
        ("linear-delivery", "234d1a4e-b617-4388-90fe-adc3633d6b72"),
        ("linear-signature", signed["signature"].as_str().unwrap()),
    ];
    Webhook::post(&headers, body)
}

fn heard(event: &Value) -> Result<Heard, Forged> {
    hook(SECRETS[1].1, event).heard(&*linear(), &Keys::default(), now())
}

fn sent(call: &Call) -> Value {
    serde_json::from_slice(&call.body).unwrap()
}

fn body(call: &Call) -> String {
    sent(call)["variables"]["input"]["body"].as_str().unwrap().to_owned()
}

#[test]
fn c_10_linear_nine_forgeries() {
    let adapter = linear();
    Forgeries {
        adapter: &*adapter,
        keys: Keys::default(),
        secret: SECRETS[1].1,
        app: "O1",
        signature: "linear-signature",
        timed: true,
        covers_body: true,
        make: &|signer| {
            let mut event = written("approve ABCD-1234", signer.at);
            event["organizationId"] = signer.app.into();
            hook(signer.secret, &event)
        },
        reserialised: &|body| {
            String::from_utf8(body.to_vec()).unwrap().replace(":", ": ").into_bytes()
        },
    }
    .are_refused();
    demands_secret("linear", SETTINGS, SECRETS, "signing_secret");
    demands_secret("linear", SETTINGS, SECRETS, "token");
}

#[test]
fn c_10_linear_the_sdk_takes_and_refuses_the_same_webhooks_save_for_an_unsigned_time() {
    // It looks at its own clock.
    let now = SystemTime::now();
    let event = |at| written("approve ABCD-1234", at);
    let long = Duration::from_secs(310);
    let secret = SECRETS[1].1;
    let mut tampered = hook(secret, &event(now));
    tampered.body.extend(b" ");
    let mut renewed = hook(secret, &event(now - long));
    renewed.add("linear-timestamp", &format!("{}000", seconds(now)));
    let hooks = [
        hook(secret, &event(now)),
        hook(secret, &event(now - long)),
        hook(secret, &event(now + long)),
        hook("another", &event(now)),
        tampered,
        renewed,
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
    let judged = judge("linear_sdk.mjs", &json!({ "secret": secret, "hooks": asked }));
    // The last one is old, with a header that says otherwise and that nobody has signed: theirs takes it.
    assert_eq!(judged, json!([200, 400, 400, 400, 400, 200]));
    let taken = [true, false, false, false, false, false];
    for (hook, taken) in hooks.iter().zip(taken) {
        let heard = hook.heard(&*linear(), &Keys::default(), now);
        assert_eq!(matches!(heard, Ok(Heard::Said(_))), taken, "{heard:?}");
    }
}

#[test]
fn i_13_emulate_takes_the_card_the_edit_and_the_answer_and_its_webhook_is_heard() {
    let seed = json!({ "linear": {
        "organization": { "name": "Acme", "url_key": "acme" },
        "users": [{ "email": "ana@example.com", "name": "Ana", "admin": true }],
        "teams": [{ "key": "ENG", "name": "Engineering" }],
        "issues": [{ "team": "ENG", "title": "Deploy" }],
    } });
    let mut there = Emulated::start("linear", &seed);
    let asked = "{ viewer { id } organization { id } issues { nodes { id } } }";
    let known =
        there.act("lin_test_admin", "/graphql", &json!({ "query": asked })).json()["data"].clone();
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{known}")).to_owned();
    let (organization, ana) = (text(&known["organization"]["id"]), text(&known["viewer"]["id"]));
    let place = text(&known["issues"]["nodes"][0]["id"]);
    let query =
        "mutation($input: WebhookCreateInput!) { webhookCreate(input: $input) { success } }";
    let input = json!({ "url": there.hook, "resourceTypes": ["Comment"], "secret": SECRETS[1].1 });
    let hooked = there.act(
        "lin_test_admin",
        "/graphql",
        &json!({ "query": query, "variables": { "input": input } }),
    );
    assert_eq!(hooked.json()["data"]["webhookCreate"]["success"], true, "{hooked:?}");
    let url = there.url.clone();
    let settings = [
        ("base_url", url.as_str()),
        ("organization", organization.as_str()),
        ("account", "gateway"),
    ];
    let adapter = open("linear", &settings, &[("token", "lin_test_admin"), SECRETS[1]]);

    let card = card(HOSTILE, "{}\n```\n@everyone");
    let posted = there.send(&adapter.post(&place, &asking(&card, "c", &place), "k").unwrap());
    let message = adapter.posted(&place, &posted).unwrap();
    let call = adapter.edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    let edited = there.send(&call);
    assert_eq!(adapter.edited(&edited), Ok(()), "{edited:?}");
    let asked = "query($id: String!) { comment(id: $id) { body } }";
    let asked = json!({ "query": asked, "variables": { "id": message.id } });
    let kept = there.act("lin_test_admin", "/graphql", &asked).json();
    assert_eq!(kept["data"]["comment"]["body"], body(&call));
    let gone = Message { id: "nowhere".into(), ..message };
    let missing = there.send(&adapter.edit(&gone, &settled(&card, "")).unwrap().unwrap());
    assert_eq!(adapter.edited(&missing), Ok(()), "{missing:?}");

    let code = key().code("c", &place, HANDLE);
    let input = json!({ "issueId": place, "body": format!("approve {}", code.shown()) });
    let query =
        "mutation($input: CommentCreateInput!) { commentCreate(input: $input) { success } }";
    there.act(
        "lin_test_admin",
        "/graphql",
        &json!({ "query": query, "variables": { "input": input } }),
    );
    let heard: Vec<_> = there
        .delivered(3)
        .iter()
        .filter_map(|hook| match hook.heard(&*adapter, &Keys::default(), SystemTime::now()) {
            Ok(Heard::Said(said)) => Some(said),
            Ok(_) => None,
            Err(forged) => panic!("{forged}"),
        })
        .flatten()
        .collect();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].by, User { tenant: organization, id: ana });
    assert_eq!(heard[0].message.place, place);
    let What::Typed(Typed::Answer { word: Words::Approve, code: typed, .. }) = &heard[0].what
    else {
        panic!("{heard:?}")
    };
    assert!(typed.is(&code));
}

#[test]
fn a_code_is_a_comment_of_a_person_in_this_organization() {
    let said = hook(SECRETS[1].1, &written("approve abcd-1234", now())).says(
        &*linear(),
        &Keys::default(),
        now(),
    );
    assert_eq!(said.by, User { tenant: "O1".into(), id: "u1".into() });
    assert_eq!(said.message, Message { place: PLACE.into(), id: "2174add1".into() });
    assert_eq!(said.event, "comment 2174add1");
    assert_eq!(linear().reply(&said, &Outcome::Taken(Text::of("yes"))).0.body, "");
    let changed = |pointer: &str, value: Value| {
        let mut event = written("approve abcd-1234", now());
        *event.pointer_mut(pointer).unwrap() = value;
        heard(&event)
    };
    for (pointer, value) in [
        ("/action", "update"),
        ("/type", "Issue"),
        ("/actor/type", "oauthClient"),
        ("/actor/type", "integration"),
        ("/actor/id", "u2"),
        ("/data/userId", ""),
        ("/data/body", "I approve"),
    ] {
        assert_eq!(changed(pointer, value.into()), Ok(Heard::Nothing), "{pointer}");
    }
    assert_eq!(changed("/data/userId", Value::Null), Ok(Heard::Nothing), "an app's");
    assert_eq!(changed("/data/issueId", Value::Null), Ok(Heard::Nothing), "a document's");
    assert_eq!(changed("/organizationId", "O2".into()), Err(Forged::Signature));
    assert_eq!(changed("/webhookTimestamp", Value::Null), Err(Forged::Stale));
    let mut ours = written("approve abcd-1234", now());
    ours["data"]["userId"] = "gateway".into();
    ours["actor"]["id"] = "gateway".into();
    assert_eq!(heard(&ours), Ok(Heard::Nothing), "our own comments answer nothing");
}

#[test]
fn a_4_hostile_words_are_only_in_fenced_blocks_and_variables() {
    let mut card = card(HOSTILE, &format!("{HOSTILE}\n```\n@everyone out\n\"}}) {{ x }}"));
    card.warnings = vec![Text::of(HOSTILE)];
    let mut notice = asking(&card, "c", PLACE);
    notice.face = Face::Asking { standing: vec![Text::of(HOSTILE)] };
    let call = linear().post(PLACE, &notice, "k").unwrap();
    let text = body(&call);
    demand_visible(&text);
    assert!(is_hostile(&text) && text.contains("@everyone out"));
    let outside = outside_of_fences(&text);
    assert!(!is_hostile(&outside) && !outside.contains(['@', '<', '[', '#']), "{outside}");
    assert!(!is_hostile(sent(&call)["query"].as_str().unwrap()));
    assert!(matches!(&call.auth, Auth::Header(name, _) if name == "authorization"));
    assert!(!format!("{call:?}").contains("canary"));
    let oauth = open("linear", SETTINGS, &[("token", "lin_oauth_canary"), SECRETS[1]]);
    let under = Message { place: PLACE.into(), id: "m".into() };
    let said = oauth.say(PLACE, Some(&under), &Text::of(HOSTILE));
    assert!(matches!(&said.auth, Auth::Bearer(_)));
    assert_eq!(
        (outside_of_fences(&body(&said)), &sent(&said)["variables"]["input"]["parentId"]),
        (String::new(), &json!("m"))
    );
}

#[test]
fn a_5_a_long_body_is_cut_with_its_numbers_and_a_rule_that_wants_it_whole_takes_the_code() {
    let mut card = card("/p", &"x".repeat(40_000));
    let sent = |card: &Card| body(&linear().post(PLACE, &asking(card, "c", PLACE), "k").unwrap());
    assert!(sent(&card).contains(" of 40000 bytes):") && sent(&card).contains("/approve"));
    card.demands_whole = true;
    assert!(!sent(&card).contains("/approve"), "no code");
    let longer = crate::support::card(&format!("/{}", "p".repeat(40_000)), "");
    assert!(
        linear().post(PLACE, &asking(&longer, "c", PLACE), "k").is_err(),
        "a head is never cut"
    );
}

proptest! {
    #[test]
    fn a_5_a_comment_fits_or_is_not_made(path in "(\\PC|`){0,20000}", text in "(\\PC|\n|`|\u{202e}){0,20000}") {
        let card = card(&path, &text);
        if let Ok(call) = linear().post(PLACE, &asking(&card, "c", PLACE), "k") {
            prop_assert!(body(&call).len() <= 65_536);
        }
    }
}

#[test]
fn what_linear_says_in_errors_is_for_later_or_for_people() {
    let refused = |status, code: &str, message: &str| {
        let errors = json!([{ "message": message, "extensions": { "code": code } }]);
        answer(status, &json!({ "errors": errors }))
    };
    let busy = linear().posted(PLACE, &refused(400, "RATELIMITED", "Rate limit exceeded"));
    assert!(matches!(busy, Err(Failure::Later { .. })), "{busy:?}");
    let wrong = linear().posted(PLACE, &refused(200, "AUTHENTICATION_ERROR", "not you"));
    assert!(matches!(wrong, Err(Failure::Never { .. })), "{wrong:?}");
    let gone = refused(200, "INPUT_ERROR", "Entity not found: Comment");
    assert_eq!(linear().edited(&gone), Ok(()));
}
