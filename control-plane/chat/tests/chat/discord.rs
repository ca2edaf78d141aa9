//! Discord, with PyNaCl as the signer; discord-interactions and the Chat SDK as other receivers.

use std::time::{Duration, SystemTime};

use countersign_chat::{
    Auth, Begin, Conversation, Evidence, Failure, Forged, Heard, Keys, Message, Outcome, Reply,
    Step, Text, Token, Typed, User, What, Wire, Words,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, asking, body, card,
    configuration, demands_secret, judge, key, no_hidden_character, now, open, seconds, settled,
};

const SECRET: &str = "the application signs with this";
const SETTINGS: &[(&str, &str)] = &[
    ("base_url", "http://127.0.0.1:1/api/v10"),
    ("application", "1001"),
    ("public_key", "a95b187cb256c293e160e082be627aa2e648779b2401741234710f32c63d5007"),
];
const SECRETS: &[(&str, &str)] = &[("bot_token", "canary-token")];
const GATEWAY: &[(&str, &str)] =
    &[("base_url", "http://127.0.0.1:1/api/v10"), ("application", "1001"), ("inbound", "gateway")];

fn discord() -> OverHttp {
    open("discord", SETTINGS, SECRETS)
}

fn approve() -> Token {
    key().token("c", "300", HANDLE, Words::Approve)
}

/// As Discord's documentation shows the interaction of a button in a direct message.
fn press(application: &str) -> Value {
    json!({
        "version": 1,
        "type": 3,
        "token": "unique_interaction_token",
        "id": "846462639134605312",
        "application_id": application,
        "user": { "id": "53908232506183680", "username": "Mason", "discriminator": "1337", "global_name": "Mason" },
        "channel_id": "300",
        "channel": { "id": "300", "type": 1 },
        "message": { "id": "400", "type": 0, "content": "", "channel_id": "300", "author": { "id": application, "bot": true } },
        "data": { "custom_id": approve().as_str(), "component_type": 2 },
    })
}

/// Signed by PyNaCl.
fn hook(signer: &Signer<'_>, body: &str) -> Webhook {
    let at = seconds(signer.at);
    let signed = judge(
        "discord_sign.py",
        &json!({ "secret": signer.secret, "timestamp": at, "body": body }),
    );
    let (at, signature) = (at.to_string(), signed["signature"].as_str().unwrap());
    let headers = [
        ("content-type", "application/json"),
        ("x-signature-timestamp", at.as_str()),
        ("x-signature-ed25519", signature),
    ];
    Webhook::post(&headers, body)
}

fn tap(signer: &Signer<'_>) -> Webhook {
    hook(signer, &press(signer.app).to_string())
}

fn signer(at: SystemTime) -> Signer<'static> {
    Signer { secret: SECRET, app: "1001", at }
}

fn heard(body: &Value) -> Result<Heard, Forged> {
    hook(&signer(now()), &body.to_string()).heard(&*discord(), &Keys::default(), now())
}

#[test]
fn c_10_discord_nine_forgeries() {
    let adapter = discord();
    Forgeries {
        adapter: &*adapter,
        keys: Keys::default(),
        secret: SECRET,
        app: "1001",
        signature: "x-signature-ed25519",
        timed: true,
        covers_body: true,
        make: &tap,
        reserialised: &|body| {
            let value: Value = serde_json::from_slice(body).unwrap();
            serde_json::to_vec_pretty(&value).unwrap()
        },
    }
    .are_refused();
    demands_secret("discord", SETTINGS, SECRETS, "bot_token");
}

#[test]
fn a_channel_without_a_public_key_of_the_right_form_is_not_opened() {
    let platform = countersign_chat::platform("discord").unwrap();
    assert!((platform.open)(configuration("discord", &SETTINGS[..2], SECRETS).unwrap()).is_err());
    for key in ["", "a95b", "zz"] {
        let settings = [SETTINGS[0], SETTINGS[1], ("public_key", key)];
        assert!((platform.open)(configuration("discord", &settings, SECRETS).unwrap()).is_err());
    }
}

#[test]
fn c_10_discord_the_vendors_verifier_and_the_chat_sdk_take_and_refuse_the_same_save_old_ones() {
    let now = SystemTime::now();
    let at = |at| Signer { at, ..signer(at) };
    let genuine = tap(&at(now));
    let mut tampered = genuine.clone();
    let end = tampered.body.len() - 2;
    tampered.body[end] ^= 1;
    let stale = tap(&at(now - Duration::from_secs(301)));
    let wrong = tap(&Signer { secret: "another", ..at(now) });
    let ping =
        hook(&at(now), &json!({ "type": 1, "application_id": "1001", "id": "1" }).to_string());
    let hooks = [genuine, tampered, wrong, ping, stale];
    let asked: Vec<_> = hooks.iter().map(Webhook::shown).collect();
    let asked = json!({ "public_key": SETTINGS[2].1, "application": "1001", "hooks": asked });
    let judged = judge("discord_receivers.mjs", &asked);
    let judged = judged.as_array().unwrap();
    let adapter = discord();
    let ours: Vec<_> =
        hooks.iter().map(|hook| hook.heard(&*adapter, &Keys::default(), now)).collect();
    for (ours, judged) in ours.iter().zip(judged).take(4) {
        assert_eq!(ours.is_ok(), judged["verified"] == true, "{ours:?} {judged}");
        assert_eq!(ours.is_ok(), judged["status"] == 200, "{ours:?} {judged}");
    }
    let tap = json!({ "value": approve().as_str(), "user": "53908232506183680", "message": "400" });
    assert_eq!(judged[0]["taps"], json!([tap]));
    let Ok(Heard::Challenge(pong)) = &ours[3] else { panic!("{:?}", ours[3]) };
    let pong: Value = serde_json::from_str(&pong.body).unwrap();
    assert_eq!(pong, judged[3]["answer"]);
    // Neither of them looks at the time.
    assert_eq!((&judged[4]["verified"], &judged[4]["status"]), (&json!(true), &json!(200)));
    assert_eq!(ours[4], Err(Forged::Stale));
}

#[test]
fn a_tap_says_who_pressed_what_on_which_message() {
    let said = tap(&signer(now())).says(&*discord(), &Keys::default(), now());
    assert_eq!(said.by, User { tenant: String::new(), id: "53908232506183680".into() });
    assert_eq!(said.message, Message { place: "300".into(), id: "400".into() });
    assert_eq!(said.event, "846462639134605312");
    let What::Tap(token) = &said.what else { panic!("{said:?}") };
    assert_eq!(key().open("c", "300", token), Some((HANDLE, Words::Approve)));
    let (reply, call) = discord().reply(&said, &Outcome::Taken(Text::of("done")));
    assert_eq!((reply.body.as_str(), call.is_none()), (r#"{"type":6}"#, true));
    let (reply, call) =
        discord().reply(&said, &Outcome::Refused(Text::of("you may not @everyone ```")));
    let reply: Value = serde_json::from_str(&reply.body).unwrap();
    assert!(call.is_none());
    assert_eq!((&reply["type"], &reply["data"]["flags"]), (&json!(4), &json!(64 | 4)));
    assert_eq!(reply["data"]["content"], "```text\nyou may not @everyone ``\\u{60}\n```");
    let (reply, _) = discord().reply(&said, &Outcome::Refused(Text::of(&"`".repeat(5000))));
    let reply: Value = serde_json::from_str(&reply.body).unwrap();
    let content = reply["data"]["content"].as_str().unwrap();
    assert!(content.chars().count() <= 2000 && content.contains("of 5000 bytes"));
}

#[test]
fn a_member_of_a_server_is_named_within_it_and_two_users_are_nobody() {
    let mut press = press("1001");
    let user = press["user"].take();
    press["member"] = json!({ "user": user });
    assert!(matches!(heard(&press), Ok(Heard::Said(_))));
    press["user"] = json!({ "id": "2" });
    assert_eq!(heard(&press), Err(Forged::Shape));
    press["user"].take();
    press["member"]["user"]["bot"] = true.into();
    assert_eq!(heard(&press), Ok(Heard::Nothing));
}

#[test]
fn a_code_is_said_by_the_slash_command() {
    let command = |options: Value| {
        let mut body = press("1001");
        body["type"] = 2.into();
        body["data"] = json!({ "id": "1", "name": "countersign", "type": 1, "options": options });
        heard(&body)
    };
    let words = |words: &str| json!([{ "type": 3, "name": "words", "value": words }]);
    let Ok(Heard::Said(said)) = command(words("link abc-def")) else { panic!() };
    assert_eq!(said[0].what, What::Typed(Typed::Link("abc-def".into())));
    let (reply, _) = discord().reply(&said[0], &Outcome::Taken(Text::of("linked")));
    assert!(reply.body.contains("linked") && reply.body.contains("\"flags\":68"));
    for nothing in [words("hello"), json!([]), Value::Null, json!([{ "type": 4, "value": 1 }])] {
        assert!(matches!(command(nothing), Ok(Heard::Challenge(_))));
    }
}

#[test]
fn a_4_hostile_text_is_only_between_fences_that_it_cannot_end() {
    let card = card(HOSTILE, &format!("{HOSTILE}\n```\n@everyone `````"));
    let call = discord().post("300", &asking(&card, "c", "300"), "k").unwrap();
    let sent = body(&call);
    assert_eq!(sent["allowed_mentions"], json!({ "parse": [] }));
    let kinds: Vec<_> =
        sent["components"].as_array().unwrap().iter().map(|it| &it["type"]).collect();
    assert_eq!(kinds, [&json!(10), &json!(1)]);
    for button in sent["components"][1]["components"].as_array().unwrap() {
        assert!(["Approve", "Deny"].contains(&button["label"].as_str().unwrap()));
    }
    let text = sent["components"][0]["content"].as_str().unwrap();
    let pieces: Vec<_> = text.split("```").collect();
    assert_eq!(pieces.len(), 5, "two blocks and what is around them: {text}");
    assert_eq!([pieces[0], pieces[2], pieces[4]], ["An agent asks for your consent\n", "\n", ""]);
    no_hidden_character(&sent);
    let all = format!("{sent} {}", call.url);
    assert!(!all.contains("canary-token"), "the token is not in it");
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_buttons_where_the_rule_wants_it_whole() {
    let mut long = card("/p", &"x".repeat(20_000));
    let sent = |card: &_| body(&discord().post("300", &asking(card, "c", "300"), "k").unwrap());
    assert!(sent(&long).to_string().contains(" of 20000 bytes):"));
    assert_eq!(sent(&long)["components"].as_array().unwrap().len(), 2);
    long.demands_whole = true;
    assert_eq!(sent(&long)["components"].as_array().unwrap().len(), 1, "no button");
    assert!(sent(&long).to_string().contains("countersign approval show"));
    let longer = card(&format!("/{}", "p".repeat(4000)), "");
    assert!(
        discord().post("300", &asking(&longer, "c", "300"), "k").is_err(),
        "a head is never cut"
    );
}

proptest! {
    #[test]
    fn a_5_a_message_is_within_its_limit_or_is_not_made(path in "(\\PC|`){0,900}", text in "(\\PC|`|\n){0,3000}") {
        let card = card(&path, &text);
        if let Ok(call) = discord().post("300", &asking(&card, "c", "300"), "k") {
            let sent = body(&call);
            let text = sent["components"][0]["content"].as_str().unwrap();
            prop_assert!(text.encode_utf16().count() <= 4000);
            prop_assert_eq!(text.split("```").count(), 5);
        } else {
            prop_assert!(2 * path.encode_utf16().count() > 500, "there was room");
        }
    }
}

#[test]
fn a_8_words_have_no_previews_and_mention_nobody() {
    let under = Message { place: "300".into(), id: "400".into() };
    let call = discord().say("300", Some(&under), &Text::of("see https://evil.example @here"));
    let sent = body(&call);
    assert_eq!(sent["flags"], 4, "no embeds");
    assert_eq!(sent["allowed_mentions"], json!({ "parse": [], "replied_user": false }));
    assert_eq!(sent["message_reference"]["message_id"], "400");
}

#[test]
fn the_same_delivery_has_the_same_nonce_and_an_id_is_never_another_path() {
    let card = card("/p", "{}");
    let notice = asking(&card, "c", "300");
    let sent = |key: &str| body(&discord().post("300", &notice, key).unwrap());
    let nonce = sent("a delivery")["nonce"].clone();
    assert_eq!((&sent("a delivery")["nonce"], &sent("a")["enforce_nonce"]), (&nonce, &json!(true)));
    assert_ne!(sent("another")["nonce"], nonce);
    assert!(nonce.as_str().unwrap().len() <= 25, "as many as Discord takes");
    let call = discord().post("300/../../x", &asking(&card, "c", "p"), "k").unwrap();
    assert_eq!(call.url, "http://127.0.0.1:1/api/v10/channels/300%2F%2E%2E%2F%2E%2E%2Fx/messages");
    let user = User { tenant: String::new(), id: "5".into() };
    let call = discord().converse(&user).unwrap();
    assert_eq!(
        (call.url.as_str(), body(&call)),
        ("http://127.0.0.1:1/api/v10/users/@me/channels", json!({ "recipient_id": "5" }))
    );
    assert_eq!(
        discord().conversed(&answer(200, &json!({ "id": "300", "type": 1 }))),
        Ok("300".into())
    );
}

#[test]
fn i_13_a_settled_card_has_its_last_face_and_no_button() {
    let card = card("/p", "{}");
    let message = Message { place: "300".into(), id: "400".into() };
    let call = discord().edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    assert_eq!(
        (call.method.as_str(), call.url.as_str()),
        ("PATCH", "http://127.0.0.1:1/api/v10/channels/300/messages/400")
    );
    let sent = body(&call);
    assert!(sent.to_string().contains("Denied by bo: no"));
    assert_eq!(sent["components"].as_array().unwrap().len(), 1, "no button");
    let gone = json!({ "code": 10008, "message": "Unknown Message" });
    assert_eq!(discord().edited(&answer(404, &gone)), Ok(()));
    assert!(discord().edited(&answer(404, &json!({}))).is_err());
    let busy = discord().posted("300", &answer(429, &json!({ "retry_after": 1.0 })));
    assert!(matches!(busy, Err(Failure::Later { .. })), "{busy:?}");
    let no = discord().posted("300", &answer(403, &json!({ "code": 50007 })));
    assert!(matches!(no, Err(Failure::Never { .. })), "{no:?}");
}

fn listening() -> Box<dyn Conversation> {
    open("discord", GATEWAY, SECRETS).socket().unwrap()
}

/// As Discord's documentation shows what the gateway sends.
fn event(name: &str, sequence: u64, body: &Value) -> String {
    json!({ "op": 0, "t": name, "s": sequence, "d": body }).to_string()
}

fn hello() -> String {
    json!({ "op": 10, "d": { "heartbeat_interval": 45_000 }, "s": null, "t": null }).to_string()
}

fn ready(resume: &str) -> String {
    let body = json!({
        "v": 10, "user": { "id": "1001", "bot": true }, "guilds": [], "session_id": "canary-session",
        "resume_gateway_url": resume, "application": { "id": "1001", "flags": 0 },
    });
    event("READY", 1, &body)
}

fn sent(step: &Step) -> Value {
    let Step::Send(frame) = step else { panic!("{step:?}") };
    serde_json::from_str(frame.expose()).unwrap()
}

fn greeting(conversation: &mut dyn Conversation) -> Value {
    let steps = conversation.heard(&hello());
    let [Step::Beat(every), greeting] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(*every, Duration::from_secs(45));
    sent(greeting)
}

fn leaves(steps: &[Step]) -> bool {
    matches!(steps, [Step::Leave(Ok(()))])
}

const RESUME: &str = "wss://gateway-us-east1-b.discord.gg";

#[test]
fn a_gateway_needs_no_public_key_and_takes_no_webhooks() {
    let adapter = open("discord", GATEWAY, SECRETS);
    let caps = adapter.caps();
    assert_eq!((caps.wire, caps.evidence), (Wire::Socket, Evidence::TransportOnly));
    assert!(discord().socket().is_none());
    let settings = [GATEWAY[0], GATEWAY[1], GATEWAY[2], SETTINGS[2]];
    let adapter = open("discord", &settings, SECRETS);
    let heard = tap(&signer(now())).heard(&*adapter, &Keys::default(), now());
    assert_eq!(heard, Err(Forged::Shape));
}

#[test]
fn the_gateway_is_greeted_without_intents_at_an_address_of_discords_own() {
    let mut conversation = listening();
    let Begin::Ask(call) = conversation.begin() else { panic!() };
    assert_eq!(
        (call.method.as_str(), call.url.as_str()),
        ("GET", "http://127.0.0.1:1/api/v10/gateway/bot")
    );
    let found = |body: &Value| conversation.found(&answer(200, body));
    let limit = |remaining: u64| json!({ "total": 1000, "remaining": remaining, "reset_after": 14_400_000, "max_concurrency": 1 });
    let there = |url: &str| json!({ "url": url, "shards": 1, "session_start_limit": limit(999) });
    let address = found(&there("wss://gateway.discord.gg")).unwrap();
    assert_eq!(address.expose(), "wss://gateway.discord.gg/?v=10&encoding=json");
    for elsewhere in [
        "wss://gateway.discord.gg.evil.example",
        "ws://gateway.discord.gg",
        "wss://evil.example/discord.gg",
        "",
    ] {
        assert!(found(&there(elsewhere)).is_err(), "{elsewhere}");
    }
    let spent =
        found(&json!({ "url": "wss://gateway.discord.gg", "session_start_limit": limit(0) }));
    let hours = Some(Duration::from_secs(4 * 60 * 60));
    assert!(matches!(spent, Err(Failure::Later { after, .. }) if after == hours));
    let identify = greeting(&mut *conversation);
    assert_eq!((&identify["op"], &identify["d"]["intents"]), (&json!(2), &json!(0)));
    assert_eq!(identify["d"]["token"], "canary-token");
    assert!(leaves(&conversation.heard(r#"{"op":10,"d":{"heartbeat_interval":0}}"#)));
    assert!(leaves(&conversation.heard("no JSON")));
}

#[test]
fn a_beat_has_the_last_number_and_one_that_is_not_answered_ends_the_connection() {
    let mut conversation = listening();
    conversation.begin();
    greeting(&mut *conversation);
    assert_eq!(sent(&conversation.beat()), json!({ "op": 1, "d": null }));
    assert!(conversation.heard(r#"{"op":11}"#).is_empty());
    conversation.heard(&ready(RESUME));
    conversation.heard(&event("GUILD_MEMBER_UPDATE", 7, &json!({})));
    assert_eq!(sent(&conversation.beat()), json!({ "op": 1, "d": 7 }));
    let asked = conversation.heard(r#"{"op":1,"d":null}"#);
    assert_eq!(sent(&asked[0]), json!({ "op": 1, "d": 7 }), "Discord may ask for one");
    assert!(matches!(conversation.beat(), Step::Leave(Ok(()))));
    // The next connection has beats of its own.
    assert!(matches!(conversation.begin(), Begin::At(_)));
    assert!(matches!(conversation.beat(), Step::Send(_)));
}

#[test]
fn an_interaction_says_what_the_webhook_says_and_is_answered_by_a_call_without_the_bots_token() {
    let mut conversation = listening();
    let mut steps = conversation.heard(&event("INTERACTION_CREATE", 2, &press("1001")));
    let Some(Step::Heard { heard: Ok(Heard::Said(said)), to }) = steps.pop() else {
        panic!("{steps:?}")
    };
    assert_eq!(said, [tap(&signer(now())).says(&*discord(), &Keys::default(), now())]);
    let (reply, _) = discord().reply(&said[0], &Outcome::Taken(Text::of("done")));
    let Some(Step::Call(call)) = conversation.answer(&to, &reply) else { panic!() };
    assert!(conversation.answer(&to, &Reply::empty(http::StatusCode::OK)).is_none());
    assert_eq!(call.method.as_str(), "POST");
    assert_eq!(
        call.url,
        "http://127.0.0.1:1/api/v10/interactions/846462639134605312/{secret}/callback"
    );
    let Auth::InPath(token) = &call.auth else { panic!("{call:?}") };
    assert_eq!(
        (token.expose(), body(&call)),
        ("unique%5Finteraction%5Ftoken", json!({ "type": 6 }))
    );
    let hears = |body: &Value| match listening().heard(&event("INTERACTION_CREATE", 2, body)).pop()
    {
        Some(Step::Heard { heard, .. }) => heard,
        other => panic!("{other:?}"),
    };
    assert_eq!(hears(&press("1002")), Err(Forged::Signature));
    for (field, wrong) in [("token", json!("..")), ("id", json!(".")), ("token", Value::Null)] {
        let mut press = press("1001");
        press[field] = wrong;
        assert_eq!(hears(&press), Err(Forged::Shape));
    }
}

#[test]
fn a_session_is_taken_up_where_it_broke_and_begun_anew_where_it_cannot_be() {
    let resumes = |conversation: &mut dyn Conversation| matches!(conversation.begin(), Begin::At(address) if address.expose() == "wss://gateway-us-east1-b.discord.gg/?v=10&encoding=json");
    let resume = json!({ "op": 6, "d": { "token": "canary-token", "session_id": "canary-session", "seq": 9 } });
    let broken = || {
        let mut conversation = listening();
        conversation.begin();
        greeting(&mut *conversation);
        conversation.heard(&ready(RESUME));
        conversation.heard(&event("INTERACTION_CREATE", 9, &press("1001")));
        conversation
    };
    let mut conversation = broken();
    assert!(leaves(&conversation.heard(r#"{"op":7,"d":null}"#)), "Discord asks for it");
    assert!(resumes(&mut *conversation));
    assert_eq!(greeting(&mut *conversation), resume);
    conversation.heard(&event("RESUMED", 10, &json!({})));
    assert_eq!(conversation.closed(None), Ok(()));
    assert!(resumes(&mut *conversation), "again");
    assert!(matches!(conversation.begin(), Begin::Ask(_)), "nobody was there");
    assert_eq!(greeting(&mut *conversation)["op"], 2);

    let mut conversation = broken();
    assert!(resumes(&mut *conversation));
    greeting(&mut *conversation);
    assert!(leaves(&conversation.heard(r#"{"op":9,"d":true}"#)));
    assert!(resumes(&mut *conversation), "Discord says that it can be");
    greeting(&mut *conversation);
    assert!(leaves(&conversation.heard(r#"{"op":9,"d":false}"#)));
    assert!(matches!(conversation.begin(), Begin::Ask(_)));

    for code in [4007, 4009] {
        let mut conversation = broken();
        assert_eq!(conversation.closed(Some(code)), Ok(()));
        assert!(matches!(conversation.begin(), Begin::Ask(_)), "{code}");
    }
    for code in [4004, 4010, 4011, 4012, 4013, 4014] {
        assert!(matches!(broken().closed(Some(code)), Err(Failure::Never { .. })), "{code}");
    }
    let mut elsewhere = listening();
    elsewhere.heard(&ready("wss://evil.example"));
    assert!(matches!(elsewhere.begin(), Begin::Ask(_)), "it is none of Discord's");
}
