//! Google Chat, with PyJWT as the signer and the Chat SDK's adapter as the other receiver.

use std::time::{Duration, SystemTime};

use countersign_chat::{
    Auth, Call, Card, Face, Failure, Forged, Heard, Keys, Message, Outcome, Text, Token, Typed,
    User, What, Words,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, asking, card, configuration,
    demands_secret, judge, key, now, open, seconds, settled,
};
use crate::tokens::{self, pairs};
use crate::written::{demand_visible, is_hostile, strings};

const URL: &str = "https://hooks.example/hooks/c";
const CHAT: &str = "chat@system.gserviceaccount.com";
const PROJECT: &str = "472814960023";
const PLACE: &str = "spaces/AAAA";

fn account() -> String {
    json!({
        "type": "service_account",
        "client_email": "bot@p.iam.gserviceaccount.com",
        "private_key": pairs()[1].pem,
        "private_key_id": "ours",
        "token_uri": "https://evil.example/token",
    })
    .to_string()
}

fn gchat() -> OverHttp {
    open("gchat", &[("base_url", "http://127.0.0.1:1")], &[("service_account", &account())])
}

fn of_a_project() -> OverHttp {
    open("gchat", &[("project", PROJECT)], &[("service_account", &account())])
}

fn keys() -> Keys {
    tokens::keys(&tokens::key_set("k1", &Value::Null))
}

fn approve() -> Token {
    key().token("c", PLACE, HANDLE, Words::Approve)
}

/// As Chat's documentation shows a CARD_CLICKED event.
fn clicked() -> Value {
    json!({
        "type": "CARD_CLICKED",
        "eventTime": "2027-01-15T08:00:00.260127Z",
        "user": { "name": "users/12345", "displayName": "Ana", "email": "ana@acme.example", "type": "HUMAN", "domainId": "1abc" },
        "space": { "name": PLACE, "type": "DM", "spaceType": "DIRECT_MESSAGE" },
        "message": { "name": "spaces/AAAA/messages/B.B", "sender": { "name": "users/9", "type": "BOT" }, "space": { "name": PLACE } },
        "action": { "actionMethodName": "approve", "parameters": [{ "key": "token", "value": approve().as_str() }] },
        "common": { "userLocale": "en", "hostApp": "CHAT", "invokedFunction": "approve", "parameters": { "token": approve().as_str() } },
    })
}

fn written(text: &str) -> Value {
    let mut event = clicked();
    event["type"] = "MESSAGE".into();
    event["message"]["text"] = format!("@Countersign {text}").into();
    event["message"]["argumentText"] = format!(" {text}").into();
    event.as_object_mut().unwrap().retain(|name, _| name != "action" && name != "common");
    event
}

fn identity(audience: &str, at: SystemTime) -> Value {
    let issuer = "https://accounts.google.com";
    json!({ "iss": issuer, "aud": audience, "email": CHAT, "email_verified": true, "iat": seconds(at), "exp": seconds(at) })
}

fn own(audience: &str, at: SystemTime) -> Value {
    json!({ "iss": CHAT, "aud": audience, "iat": seconds(at), "exp": seconds(at) })
}

fn hook(pem: &str, claims: &Value, event: &Value) -> Webhook {
    let bearer = format!("Bearer {}", tokens::token(pem, "k1", claims));
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    Webhook::post(&headers, event.to_string())
}

fn genuine(event: &Value) -> Webhook {
    hook(&pairs()[0].pem, &identity(URL, now()), event)
}

fn sent(call: &Call) -> Value {
    serde_json::from_slice(&call.body).unwrap()
}

#[test]
fn c_10_gchat_nine_forgeries() {
    type Claims = fn(&str, SystemTime) -> Value;
    let shapes: [(_, Claims, _); 2] = [(gchat(), identity, URL), (of_a_project(), own, PROJECT)];
    for (adapter, claims, audience) in shapes {
        let make = |signer: &Signer<'_>| {
            let pem = if signer.secret == "theirs" { &pairs()[0].pem } else { &pairs()[1].pem };
            hook(pem, &claims(signer.app, signer.at), &clicked())
        };
        Forgeries {
            adapter: &*adapter,
            keys: keys(),
            secret: "theirs",
            app: audience,
            signature: "authorization",
            timed: true,
            covers_body: false,
            make: &make,
            reserialised: &|body| body.to_vec(),
        }
        .are_refused();
    }
    demands_secret("gchat", &[], &[("service_account", &account())], "service_account");
    for wrong in
        ["not json", "{\"client_email\":\"a\",\"private_key_id\":\"b\",\"private_key\":\"c\"}"]
    {
        let given = configuration("gchat", &[], &[("service_account", wrong)]).unwrap();
        let opened = (countersign_chat::platform("gchat").unwrap().open)(given);
        assert!(opened.is_err_and(|unfit| unfit.0.contains("service_account")), "{wrong}");
    }
}

#[test]
fn c_10_gchat_a_token_that_google_made_for_anybody_else_is_refused() {
    let with = |name: &str, value: Value| {
        let mut claims = identity(URL, now());
        claims[name] = value;
        hook(&pairs()[0].pem, &claims, &clicked()).heard(&*gchat(), &keys(), now())
    };
    assert!(matches!(with("iss", "accounts.google.com".into()), Ok(Heard::Said(_))));
    assert_eq!(with("email", "eve@evil.example".into()), Err(Forged::Signature));
    assert_eq!(with("email_verified", false.into()), Err(Forged::Signature));
    assert_eq!(with("email", Value::Null), Err(Forged::Signature));
    let addon = "service-472814960023@gcp-sa-gsuiteaddons.iam.gserviceaccount.com";
    assert_eq!(with("email", addon.into()), Err(Forged::Signature), "anybody's add-on has one");
    let mixed = hook(&pairs()[0].pem, &own(PROJECT, now()), &clicked());
    assert!(mixed.heard(&*gchat(), &keys(), now()).is_err(), "the other shape");
    let mixed = hook(&pairs()[0].pem, &identity(PROJECT, now()), &clicked());
    assert!(mixed.heard(&*of_a_project(), &keys(), now()).is_err(), "the other shape");
    assert_eq!(genuine(&clicked()).heard(&*gchat(), &Keys::default(), now()), Err(Forged::Key));
}

#[test]
fn c_10_gchat_the_chat_sdk_takes_and_refuses_the_same_webhooks() {
    // It looks at its own clock.
    let now = SystemTime::now();
    let (long, theirs) = (Duration::from_secs(310), &pairs()[0].pem);
    let set = tokens::key_set("k1", &Value::Null);
    type Claims = fn(&str, SystemTime) -> Value;
    let shapes: [(_, Claims, _, _); 2] =
        [(gchat(), identity, URL, Value::Null), (of_a_project(), own, PROJECT, PROJECT.into())];
    for (adapter, claims, audience, project) in shapes {
        let mut other = claims(audience, now);
        other["email"] = "eve@evil.example".into();
        other["iss"] =
            if project.is_null() { other["iss"].clone() } else { "eve@evil.example".into() };
        let hooks = [
            hook(theirs, &claims(audience, now), &clicked()),
            hook(theirs, &claims(audience, now - long), &clicked()),
            hook(theirs, &claims(audience, now + long), &clicked()),
            hook(&pairs()[1].pem, &claims(audience, now), &clicked()),
            hook(theirs, &claims("another", now), &clicked()),
            hook(theirs, &other, &clicked()),
        ];
        let asked: Vec<_> = hooks
            .iter()
            .map(|hook| {
                let bearer = hook.headers["authorization"].to_str().unwrap();
                json!({ "authorization": bearer, "body": String::from_utf8(hook.body.clone()).unwrap() })
            })
            .collect();
        let question = json!({ "pem": pairs()[1].pem, "url": URL, "project": project, "keys": set["keys"], "hooks": asked });
        let judged = judge("gchat_sdk.mjs", &question);
        assert_eq!(judged, json!([200, 401, 401, 401, 401, 401]), "{audience}");
        for (hook, judged) in hooks.iter().zip(judged.as_array().unwrap()) {
            let heard = hook.heard(&*adapter, &keys(), now);
            assert_eq!(matches!(heard, Ok(Heard::Said(_))), *judged == 200, "{heard:?}");
        }
    }
}

#[test]
fn a_tap_says_who_pressed_what_on_which_message() {
    let said = genuine(&clicked()).says(&*gchat(), &keys(), now());
    assert_eq!(said.by, User { tenant: "1abc".into(), id: "12345".into() });
    let message = Message { place: PLACE.into(), id: "spaces/AAAA/messages/B.B".into() };
    assert_eq!(said.message, message);
    assert_eq!(said.event, "\"2027-01-15T08:00:00.260127Z\" spaces/AAAA/messages/B.B 12345");
    let What::Tap(token) = &said.what else { panic!("{said:?}") };
    assert_eq!(key().open("c", PLACE, token), Some((HANDLE, Words::Approve)));
    let (reply, call) = gchat().reply(&said, &Outcome::Refused(Text::of("not <you>")));
    assert!(call.is_none());
    assert!(reply.body.contains("not &lt;you&gt;") && reply.body.contains("NEW_MESSAGE"));

    let mut event = clicked();
    event["space"] = json!({ "name": PLACE, "type": "ROOM", "spaceType": "SPACE" });
    event.as_object_mut().unwrap().remove("action");
    let said = genuine(&event).says(&*gchat(), &keys(), now());
    let (reply, _) = gchat().reply(&said, &Outcome::Taken(Text::of("approved")));
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(body["privateMessageViewer"], json!({ "name": "users/12345" }), "told to one alone");
}

#[test]
fn a_11_a_user_is_an_id_in_a_domain_and_no_address() {
    let mut event = clicked();
    event["user"]["domainId"] = "2def".into();
    let said = genuine(&event).says(&*gchat(), &keys(), now());
    assert_eq!((said.by.tenant.as_str(), said.by.id.as_str()), ("2def", "12345"));
    event["user"]["name"] = "ana@acme.example".into();
    assert_eq!(genuine(&event).heard(&*gchat(), &keys(), now()), Err(Forged::Shape));
    event["user"]["type"] = "BOT".into();
    assert_eq!(genuine(&event).heard(&*gchat(), &keys(), now()), Ok(Heard::Nothing));
}

#[test]
fn a_code_is_typed_after_a_mention() {
    let said = genuine(&written("link abc-def")).says(&*gchat(), &keys(), now());
    assert_eq!(said.what, What::Typed(Typed::Link("abc-def".into())));
    let said = genuine(&written("deny abcd-1234 no")).says(&*gchat(), &keys(), now());
    assert!(matches!(said.what, What::Typed(Typed::Answer { word: Words::Deny, .. })));
    let nothing = genuine(&written("good morning")).heard(&*gchat(), &keys(), now());
    assert_eq!(nothing, Ok(Heard::Nothing));
}

#[test]
fn a_4_hostile_words_are_only_in_text_of_cards_and_escaped() {
    let mut card = card(HOSTILE, &format!("{HOSTILE}\n<users/all>"));
    card.warnings = vec![Text::of(HOSTILE)];
    let mut notice = asking(&card, "c", PLACE);
    notice.face = Face::Asking { standing: vec![Text::of(HOSTILE)] };
    let call = gchat().post(PLACE, &notice, "k/1").unwrap();
    let mut seen = 0;
    for (path, text) in strings(&sent(&call)) {
        demand_visible(&text);
        if is_hostile(&text) || text.contains("users") {
            seen += 1;
            let place = path.strip_prefix("/cardsV2/card/sections/widgets/").unwrap();
            assert!(["textParagraph/text", "decoratedText/text"].contains(&place), "{path}");
            let text = text
                .replace("<br>", "")
                .replace("&amp;", "")
                .replace("&lt;", "")
                .replace("&gt;", "");
            assert!(!text.contains(['<', '>', '&']), "{text}");
            assert!(
                !is_hostile(&text) || text.contains("amp;"),
                "an entity is shown as such: {text}"
            );
        }
    }
    assert!(seen >= 5);
    assert_eq!(call.url, "http://127.0.0.1:1/v1/spaces/AAAA/messages?requestId=k%2F1");
    assert!(sent(&call)["text"].is_null(), "no text that would be read as markup");
    let said = sent(&gchat().say(PLACE, None, &Text::of(HOSTILE)));
    assert!(said["text"].is_null() && !said.to_string().contains("<b>"));
}

#[test]
fn a_5_a_long_body_is_cut_with_its_numbers_and_a_rule_that_wants_it_whole_takes_the_buttons() {
    let mut card = card("/p", &"&".repeat(20_000));
    let sent_card = |card: &Card| {
        sent(&gchat().post(PLACE, &asking(card, "c", PLACE), "k").unwrap()).to_string()
    };
    assert!(sent_card(&card).contains(" of 20000 bytes):"));
    assert!(sent_card(&card).contains("buttonList"));
    card.demands_whole = true;
    assert!(!sent_card(&card).contains("buttonList"), "no button");
    assert!(sent_card(&card).contains("countersign approval show"));
    let longer = crate::support::card(&format!("/{}", "p".repeat(17_000)), "");
    assert!(gchat().post(PLACE, &asking(&longer, "c", PLACE), "k").is_err(), "a head is never cut");
}

proptest! {
    #[test]
    fn a_5_a_message_fits_into_32000_bytes_or_is_not_made(path in "(\\PC|<|\"){0,9000}", body in "(\\PC|\n|&|\u{202e}){0,9000}") {
        let card = card(&path, &body);
        if let Ok(call) = gchat().post(PLACE, &asking(&card, "c", PLACE), "k") {
            prop_assert!(call.body.len() <= 32_000);
        }
    }
}

#[test]
fn i_13_a_settled_card_has_its_last_face_and_no_button() {
    let card = card("/p", "{}");
    let message = Message { place: PLACE.into(), id: "spaces/AAAA/messages/B.B".into() };
    let call = gchat().edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    assert_eq!(call.method, "PATCH");
    assert_eq!(call.url, "http://127.0.0.1:1/v1/spaces/AAAA/messages/B%2EB?updateMask=cardsV2");
    assert!(sent(&call).to_string().contains("Denied by bo: no"));
    assert!(!sent(&call).to_string().contains("buttonList"));
    assert_eq!(gchat().edited(&answer(404, &json!({}))), Ok(()));
    let busy = gchat().posted(PLACE, &answer(429, &json!({})));
    assert!(matches!(busy, Err(Failure::Later { .. })), "{busy:?}");
}

#[test]
fn the_service_account_signs_for_five_minutes_and_its_key_is_in_no_call() {
    let call = gchat().grant(now()).unwrap();
    assert_eq!(call.url, "https://oauth2.googleapis.com/token", "not where the key file says");
    assert!(matches!(call.auth, Auth::None));
    let body = String::from_utf8(call.body.to_vec()).unwrap();
    let assertion = body.split("assertion=").nth(1).unwrap();
    let assertion = assertion.replace("%2E", ".").replace("%2D", "-").replace("%5F", "_");
    let audience = "https://oauth2.googleapis.com/token";
    let read = judge(
        "jwt_sign.py",
        &json!({ "token": assertion, "pem": pairs()[1].pem, "audience": audience }),
    );
    assert_eq!(read["header"]["kid"], "ours");
    let claims = &read["claims"];
    assert_eq!(claims["iss"], "bot@p.iam.gserviceaccount.com");
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/chat.bot");
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
    assert_eq!(claims["iat"], seconds(now()));
    let answered = json!({ "access_token": "ya29", "expires_in": 3599, "token_type": "Bearer" });
    let (token, lasts) = gchat().granted(&answer(200, &answered)).unwrap();
    assert_eq!((token.expose(), lasts.as_secs()), ("ya29", 3599));
    let call = gchat().converse(&User { tenant: String::new(), id: "1".into() }).unwrap();
    assert!(call.url.ends_with("/v1/spaces:findDirectMessage?name=users%2F1"), "{}", call.url);
    assert_eq!(gchat().conversed(&answer(200, &json!({ "name": PLACE }))).as_deref(), Ok(PLACE));
}
