//! GitHub, with emulate as the platform and the Chat SDK's adapter as the other receiver.

use std::time::SystemTime;

use countersign_chat::{
    Auth, Call, Card, Face, Failure, Forged, Heard, Keys, Message, Outcome, Text, Typed, User,
    What, Words,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::emulated::Emulated;
use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Webhook, answer, asking, card, configuration,
    demands_secret, judge, key, now, open, settled,
};
use crate::written::{demand_visible, is_hostile, utc};

const SETTINGS: &[(&str, &str)] = &[("base_url", "http://127.0.0.1:1"), ("account", "999")];
const SECRETS: &[(&str, &str)] = &[("token", "ghp_canary"), ("webhook_secret", "it's a secret")];
const PLACE: &str = "acme/deploy.tools#7";

fn github() -> OverHttp {
    open("github", SETTINGS, SECRETS)
}

/// As GitHub's documentation shows an issue_comment event.
fn written(text: &str) -> Value {
    json!({
        "action": "created",
        "issue": { "id": 1, "number": 7, "user": { "login": "bo", "id": 2, "type": "User" } },
        "comment": {
            "id": 492700400,
            "user": { "login": "ana", "id": 21031067, "type": "User" },
            "created_at": "2027-01-15T08:00:00Z",
            "body": text,
            "performed_via_github_app": null,
        },
        "repository": { "id": 3, "name": "deploy.tools", "full_name": "acme/deploy.tools", "owner": { "login": "acme", "id": 4 } },
        "sender": { "login": "ana", "id": 21031067, "type": "User" },
    })
}

fn hook(secret: &str, kind: &str, event: &Value) -> Webhook {
    let body = event.to_string();
    let signed = judge("hmac_sign.mjs", &json!({ "secret": secret, "body": body }));
    let signature = format!("sha256={}", signed["signature"].as_str().unwrap());
    let headers = [
        ("content-type", "application/json"),
        ("x-github-event", kind),
        ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ("x-hub-signature-256", &signature),
    ];
    Webhook::post(&headers, body)
}

fn genuine(event: &Value) -> Webhook {
    hook(SECRETS[1].1, "issue_comment", event)
}

fn heard(event: &Value) -> Result<Heard, Forged> {
    genuine(event).heard(&*github(), &Keys::default(), now())
}

fn body(call: &Call) -> String {
    let sent: Value = serde_json::from_slice(&call.body).unwrap();
    sent["body"].as_str().unwrap().to_owned()
}

#[test]
fn c_10_github_nine_forgeries() {
    let adapter = github();
    let approve = format!("/approve {}", key().code("c", PLACE, HANDLE).shown());
    Forgeries {
        adapter: &*adapter,
        keys: Keys::default(),
        secret: SECRETS[1].1,
        app: SECRETS[1].1,
        signature: "x-hub-signature-256",
        timed: true,
        covers_body: true,
        // One secret is one webhook's: another app is another secret.
        make: &|signer| {
            let other = if signer.app == SECRETS[1].1 { signer.secret } else { signer.app };
            let mut event = written(&approve);
            event["comment"]["created_at"] = utc(signer.at).into();
            hook(other, "issue_comment", &event)
        },
        reserialised: &|body| {
            String::from_utf8(body.to_vec()).unwrap().replace(":", ": ").into_bytes()
        },
    }
    .are_refused();
    demands_secret("github", SETTINGS, SECRETS, "webhook_secret");
    demands_secret("github", SETTINGS, SECRETS, "token");
    let wrong = configuration("github", &[("account", "countersign-bot")], SECRETS).unwrap();
    assert!((countersign_chat::platform("github").unwrap().open)(wrong).is_err(), "a name");
}

#[test]
fn c_10_github_the_chat_sdk_takes_and_refuses_the_same_webhooks() {
    let event = written("/approve ABCD-1234");
    let mut tampered = genuine(&event);
    tampered.body.extend(b" ");
    let mut bare = genuine(&event);
    let signature = bare.headers["x-hub-signature-256"].to_str().unwrap()[7..].to_owned();
    bare.headers.remove("x-hub-signature-256");
    bare.add("x-hub-signature-256", &signature);
    let hooks = [genuine(&event), hook("another", "issue_comment", &event), tampered, bare];
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
    let judged = judge("github_sdk.mjs", &json!({ "secret": SECRETS[1].1, "hooks": asked }));
    assert_eq!(judged, json!([200, 401, 401, 401]));
    for (hook, judged) in hooks.iter().zip(judged.as_array().unwrap()) {
        let heard = hook.heard(&*github(), &Keys::default(), now());
        assert_eq!(matches!(heard, Ok(Heard::Said(_))), *judged == 200, "{heard:?}");
    }
}

#[test]
fn i_13_emulate_takes_the_card_the_edit_and_the_answer_and_its_webhook_is_heard() {
    let seed = json!({
        "tokens": {
            "ghp_canary": { "login": "gateway", "scopes": ["repo", "admin:repo_hook"] },
            "of-ana": { "login": "ana", "scopes": ["repo", "admin:repo_hook"] },
        },
        "github": {
            "users": [{ "login": "gateway", "name": "Gateway" }, { "login": "ana", "name": "Ana" }],
            "repos": [{ "owner": "ana", "name": "deploy.tools", "private": false }],
        },
    });
    let mut there = Emulated::start("github", &seed);
    let config = json!({ "url": there.hook, "content_type": "json", "secret": SECRETS[1].1 });
    let hook = json!({ "events": ["issue_comment"], "active": true, "config": config });
    let hooked = there.act("of-ana", "/repos/ana/deploy.tools/hooks", &hook);
    assert_eq!(hooked.status, 201, "{hooked:?}");
    let issue =
        there.act("of-ana", "/repos/ana/deploy.tools/issues", &json!({ "title": "Deploy" }));
    let place = format!("ana/deploy.tools#{}", issue.json()["number"]);
    let settings = [("base_url", there.url.as_str()), ("account", "999")];
    let adapter = open("github", &settings, SECRETS);

    let card = card(HOSTILE, "{}\n```\n@everyone");
    let call = adapter.post(&place, &asking(&card, "c", &place), "k").unwrap();
    let posted = there.send(&call);
    let message = adapter.posted(&place, &posted).unwrap();
    assert_eq!(posted.json()["body"], body(&call));
    let call = adapter.edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    let edited = there.send(&call);
    assert_eq!(adapter.edited(&edited), Ok(()));
    assert_eq!(edited.json()["id"].to_string(), message.id);
    assert!(edited.json()["body"].as_str().unwrap().contains("Denied by bo: no"));
    let gone = Message { id: "123456".into(), ..message };
    let call = adapter.edit(&gone, &settled(&card, "")).unwrap().unwrap();
    let missing = there.send(&call);
    assert_eq!((missing.status.as_u16(), adapter.edited(&missing)), (404, Ok(())));

    let path = format!("/repos/ana/deploy.tools/issues/{}/comments", issue.json()["number"]);
    let code = key().code("c", &place, HANDLE);
    let written =
        there.act("of-ana", &path, &json!({ "body": format!("/approve {}", code.shown()) }));
    let heard: Vec<_> = there
        .delivered(2)
        .iter()
        .filter_map(|hook| match hook.heard(&*adapter, &Keys::default(), SystemTime::now()) {
            Ok(Heard::Said(said)) => Some(said),
            Ok(_) => None,
            Err(forged) => panic!("{forged}"),
        })
        .flatten()
        .collect();
    assert_eq!(heard.len(), 1, "{heard:?}");
    let user = written.json()["user"]["id"].to_string();
    assert_eq!(heard[0].by, User { tenant: String::new(), id: user });
    assert_eq!(heard[0].message.place, place);
    let What::Typed(Typed::Answer { word: Words::Approve, code: typed, .. }) = &heard[0].what
    else {
        panic!("{heard:?}")
    };
    assert!(typed.is(&code));
    let (_, call) = adapter.reply(&heard[0], &Outcome::Taken(Text::of("approved")));
    assert!(call.unwrap().url.ends_with("/reactions"));
}

#[test]
fn a_code_is_a_comment_of_a_person_and_of_no_app_bot_or_other_sender() {
    let said = genuine(&written("/approve abcd-1234")).says(&*github(), &Keys::default(), now());
    assert_eq!(said.by, User { tenant: String::new(), id: "21031067".into() });
    assert_eq!(said.message, Message { place: PLACE.into(), id: "492700400".into() });
    assert_eq!(said.event, "comment 492700400");
    let mut again = genuine(&written("/approve abcd-1234"));
    again.headers.insert("x-github-delivery", "other".parse().unwrap());
    let again = again.says(&*github(), &Keys::default(), now());
    assert_eq!(
        again.event, said.event,
        "the delivery's id is not signed: another is the same event"
    );
    let changed = |pointer: &str, value: Value| {
        let mut event = written("/approve abcd-1234");
        *event.pointer_mut(pointer).unwrap() = value;
        heard(&event)
    };
    assert_eq!(changed("/action", "edited".into()), Ok(Heard::Nothing));
    assert_eq!(changed("/comment/user/type", "Bot".into()), Ok(Heard::Nothing));
    let app = json!({ "id": 1, "slug": "an-agent" });
    assert_eq!(changed("/comment/performed_via_github_app", app), Ok(Heard::Nothing));
    assert_eq!(changed("/sender/id", 5.into()), Ok(Heard::Nothing));
    assert_eq!(changed("/comment/body", "I approve".into()), Ok(Heard::Nothing));
    let mut ours = written("/approve abcd-1234");
    ours["comment"]["user"]["id"] = 999.into();
    ours["sender"]["id"] = 999.into();
    assert_eq!(heard(&ours), Ok(Heard::Nothing), "our own comments answer nothing");
    assert_eq!(changed("/comment/user/id", "ana".into()), Err(Forged::Shape));
    let mut review = written("/approve abcd-1234");
    review.as_object_mut().unwrap().remove("issue");
    assert_eq!(heard(&review), Err(Forged::Shape), "the event's name is not signed: its shape is");
    let ping = hook(SECRETS[1].1, "ping", &json!({ "zen": "Keep it logically awesome." }));
    assert_eq!(ping.heard(&*github(), &Keys::default(), now()), Ok(Heard::Nothing));
}

/// What stands outside of fenced blocks, as CommonMark has it.
pub(crate) fn outside_of_fences(markdown: &str) -> String {
    let (mut fence, mut outside) = (None::<&str>, Vec::new());
    for line in markdown.split('\n') {
        match fence {
            None if line.starts_with("```") => fence = line.strip_suffix("text"),
            None => outside.push(line),
            Some(end)
                if line.trim_end().len() >= end.len() && line.trim().chars().all(|c| c == '`') =>
            {
                fence = None
            }
            Some(_) => {}
        }
    }
    assert_eq!(fence, None, "every block has its end");
    outside.join("\n")
}

#[test]
fn a_4_hostile_words_are_only_in_fenced_blocks() {
    let mut card = card(HOSTILE, &format!("{HOSTILE}\n```\n@everyone out\n````\n~~~\n<b>"));
    card.warnings = vec![Text::of(HOSTILE)];
    let mut notice = asking(&card, "c", PLACE);
    notice.face = Face::Asking { standing: vec![Text::of(HOSTILE)] };
    let call = github().post(PLACE, &notice, "k").unwrap();
    let text = body(&call);
    demand_visible(&text);
    assert!(is_hostile(&text) && text.contains("@everyone out"));
    let outside = outside_of_fences(&text);
    assert!(!is_hostile(&outside) && !outside.contains(['@', '<', '[', '#']), "{outside}");
    assert!(outside.contains("/approve"), "and our own words are not: {outside}");
    assert_eq!(call.url, "http://127.0.0.1:1/repos/acme/deploy%2Etools/issues/7/comments");
    assert!(matches!(&call.auth, Auth::Bearer(_)) && !format!("{call:?}").contains("canary"));
    let said = body(&github().say(PLACE, None, &Text::of(HOSTILE)));
    assert_eq!(outside_of_fences(&said), "");
    let call = github().say("../../user/repos?x#7", None, &Text::of("x"));
    assert!(!call.url.contains("..") && !call.url.contains('?'), "{}", call.url);
}

#[test]
fn a_5_a_long_body_is_cut_with_its_numbers_and_a_rule_that_wants_it_whole_takes_the_code() {
    let mut card = card("/p", &"x".repeat(40_000));
    let sent = |card: &Card| body(&github().post(PLACE, &asking(card, "c", PLACE), "k").unwrap());
    assert!(sent(&card).contains(" of 40000 bytes):") && sent(&card).contains("/approve"));
    card.demands_whole = true;
    assert!(!sent(&card).contains("/approve"), "no code");
    let unwrapped = sent(&card).replace("\n  ↳ ", "");
    assert!(unwrapped.contains("countersign approval show 00112233445566778899aabbccddeeff"));
    let longer = crate::support::card(&format!("/{}", "p".repeat(40_000)), "");
    assert!(
        github().post(PLACE, &asking(&longer, "c", PLACE), "k").is_err(),
        "a head is never cut"
    );
}

proptest! {
    #[test]
    fn a_5_a_comment_fits_into_65536_characters_or_is_not_made(path in "(\\PC|`){0,20000}", text in "(\\PC|\n|`|\u{202e}){0,20000}") {
        let card = card(&path, &text);
        if let Ok(call) = github().post(PLACE, &asking(&card, "c", PLACE), "k") {
            prop_assert!(body(&call).len() <= 65_536);
            outside_of_fences(&body(&call));
        }
    }
}

#[test]
fn i_13_a_settled_card_has_its_last_face_and_no_code() {
    let card = card("/p", "{}");
    let message = Message { place: PLACE.into(), id: "17".into() };
    let call = github().edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    assert_eq!(call.method, "PATCH");
    assert_eq!(call.url, "http://127.0.0.1:1/repos/acme/deploy%2Etools/issues/comments/17");
    assert!(body(&call).contains("Denied by bo: no") && !body(&call).contains("/approve"));
    let mut busy = answer(403, &json!({ "message": "You have exceeded a secondary rate limit" }));
    assert!(matches!(github().posted(PLACE, &busy), Err(Failure::Never { .. })));
    busy.headers.insert("retry-after", "60".parse().unwrap());
    let later = github().posted(PLACE, &busy);
    assert!(matches!(later, Err(Failure::Later { after: Some(_), .. })), "{later:?}");
}
