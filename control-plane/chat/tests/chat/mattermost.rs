//! Mattermost. Nobody else has a signer or a verifier for it: it signs nothing.

use countersign_chat::{
    Failure, Forged, Heard, Keys, Message, Outcome, Text, Token, Typed, User, What, Words,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, asking, body, card,
    configuration, demands_secret, key, no_hidden_character, now, open, settled,
};

const SETTINGS: &[(&str, &str)] = &[
    ("base_url", "http://127.0.0.1:1/"),
    ("bot", "botbotbotbotbotbotbotbotbo"),
    ("hook_url", "https://hooks.example/hooks/c"),
];
const SECRETS: &[(&str, &str)] = &[
    ("bot_token", "canary-token"),
    ("command_token", "gr8commandtokenof26letters"),
    ("action_secret", "canary-secret"),
];

fn mattermost() -> OverHttp {
    open("mattermost", SETTINGS, SECRETS)
}

fn approve() -> Token {
    key().token("c", "channel1", HANDLE, Words::Approve)
}

/// What the server keeps of a button that was posted.
fn context(adapter: &OverHttp, place: &str) -> Value {
    let card = card("/p", "{}");
    let sent = body(&adapter.post(place, &asking(&card, "c", place), "k").unwrap());
    sent["props"]["attachments"][0]["actions"][0]["integration"]["context"].clone()
}

/// As Mattermost's documentation shows the request of a pressed button.
fn pressed(context: &Value) -> Value {
    json!({
        "user_id": "user1", "user_name": "ana", "channel_id": "channel1", "channel_name": "user1__bot",
        "team_id": "", "team_domain": "", "post_id": "post1", "trigger_id": "dHJpZ2dlcg==", "type": "button",
        "data_source": "", "context": context,
    })
}

fn press(body: &Value) -> Result<Heard, Forged> {
    let hook = Webhook::post(&[("content-type", "application/json")], body.to_string());
    hook.heard(&*mattermost(), &Keys::default(), now())
}

/// As it shows the request of a slash command. Another command has another token.
fn command(signer: &Signer<'_>, text: &str) -> Webhook {
    let token = if signer.app == "countersign" { signer.secret } else { "another" };
    let form = format!(
        "channel_id=channel1&channel_name=town&command=%2Fcountersign&response_url=https%3A%2F%2Fevil.example\
         &team_domain=t&team_id=team1&text={text}&token={token}&trigger_id=t1&user_id=user1&user_name=ana"
    );
    let token = format!("Token {token}");
    let headers =
        [("content-type", "application/x-www-form-urlencoded"), ("authorization", token.as_str())];
    Webhook::post(&headers, form)
}

fn signer() -> Signer<'static> {
    Signer { secret: SECRETS[1].1, app: "countersign", at: now() }
}

#[test]
fn c_10_mattermost_nine_forgeries() {
    let adapter = mattermost();
    Forgeries {
        adapter: &*adapter,
        keys: Keys::default(),
        secret: SECRETS[1].1,
        app: "countersign",
        signature: "authorization",
        timed: false,
        covers_body: false,
        make: &|signer| command(signer, "link+abc"),
        reserialised: &<[u8]>::to_vec,
    }
    .are_refused();
    for (secret, _) in SECRETS {
        demands_secret("mattermost", SETTINGS, SECRETS, secret);
    }
    for at in 0..SETTINGS.len() {
        let without: Vec<_> = [&SETTINGS[..at], &SETTINGS[at + 1..]].concat();
        assert!(configuration("mattermost", &without, SECRETS).is_err());
    }
}

#[test]
fn c_10_mattermost_a_button_is_known_again_by_what_we_have_put_into_it_there() {
    let genuine = context(&mattermost(), "channel1");
    assert!(matches!(press(&pressed(&genuine)), Ok(Heard::Said(_))));
    let with = |name: &str, value: Value| {
        let mut context = genuine.clone();
        context[name] = value;
        press(&pressed(&context))
    };
    let deny = key().token("c", "channel1", HANDLE, Words::Deny);
    for forged in [
        with("proof", Value::Null),
        with("proof", "".into()),
        with("proof", "00".repeat(32).into()),
        with("proof", genuine["proof"].as_str().unwrap()[1..].into()),
        with("proof", SECRETS[2].1.into()),
        with("token", Value::Null),
        with("token", deny.as_str().into()),
        press(&pressed(&Value::Null)),
        press(&pressed(&context(&mattermost(), "channel2"))),
    ] {
        assert_eq!(forged, Err(Forged::Signature));
    }
    let other = open("mattermost", SETTINGS, &[SECRETS[0], SECRETS[1], ("action_secret", "other")]);
    assert_eq!(press(&pressed(&context(&other, "channel1"))), Err(Forged::Signature));
    let mut moved = pressed(&genuine);
    moved["channel_id"] = "channel2".into();
    assert_eq!(press(&moved), Err(Forged::Signature));
    for missing in ["user_id", "post_id", "trigger_id", "channel_id"] {
        let mut without = pressed(&genuine);
        without[missing] = Value::Null;
        assert_eq!(press(&without), Err(Forged::Shape), "{missing}");
    }
}

#[test]
fn a_tap_says_who_pressed_what_on_which_message() {
    let Ok(Heard::Said(said)) = press(&pressed(&context(&mattermost(), "channel1"))) else {
        panic!()
    };
    assert_eq!(said[0].by, User { tenant: String::new(), id: "user1".into() });
    assert_eq!(said[0].message, Message { place: "channel1".into(), id: "post1".into() });
    assert_eq!((&said[0].what, said[0].event.as_str()), (&What::Tap(approve()), "dHJpZ2dlcg=="));
    let (reply, call) =
        mattermost().reply(&said[0], &Outcome::Refused(Text::of("you may not @here ```")));
    assert!(call.is_none());
    let reply: Value = serde_json::from_str(&reply.body).unwrap();
    let expected = "```text\nyou may not @here ``\\u{60}\n```";
    assert_eq!(reply, json!({ "ephemeral_text": expected, "skip_slack_parsing": true }));
}

#[test]
fn a_code_is_said_by_the_slash_command() {
    let said = command(&signer(), "link+abc-def").says(&*mattermost(), &Keys::default(), now());
    assert_eq!(said.what, What::Typed(Typed::Link("abc-def".into())));
    assert_eq!(said.by.id, "user1");
    let (reply, _) = mattermost().reply(&said, &Outcome::Taken(Text::of("linked")));
    assert!(
        reply.body.contains("\"response_type\":\"ephemeral\"") && reply.body.contains("linked")
    );
    let nothing = command(&signer(), "hello").heard(&*mattermost(), &Keys::default(), now());
    assert!(matches!(nothing, Ok(Heard::Challenge(_))));
    let mut twice = command(&signer(), "link+abc");
    twice.body.extend(b"&user_id=user2");
    assert_eq!(twice.heard(&*mattermost(), &Keys::default(), now()), Err(Forged::Shape));
}

#[test]
fn a_4_hostile_text_is_only_between_fences_that_it_cannot_end() {
    let card = card(HOSTILE, &format!("{HOSTILE}\n```\n@channel `````"));
    let call = mattermost().post("channel1", &asking(&card, "c", "channel1"), "k").unwrap();
    let sent = body(&call);
    let message = sent["message"].as_str().unwrap();
    let pieces: Vec<_> = message.split("```").collect();
    assert_eq!(pieces.len(), 5, "two blocks and what is around them: {message}");
    assert_eq!([pieces[0], pieces[2], pieces[4]], ["An agent asks for your consent\n", "\n", ""]);
    let attachment = sent["props"]["attachments"][0].as_object().unwrap();
    assert_eq!(attachment.keys().collect::<Vec<_>>(), ["actions", "fallback"]);
    assert_eq!(attachment["fallback"], "An agent asks for your consent");
    for action in attachment["actions"].as_array().unwrap() {
        assert!(["Approve", "Deny"].contains(&action["name"].as_str().unwrap()));
        assert!(action["id"].as_str().unwrap().bytes().all(|b| b.is_ascii_alphanumeric()));
    }
    no_hidden_character(&sent);
    let all = format!("{sent} {}", call.url);
    assert!(!all.contains("canary"), "neither token nor secret is in it");
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_buttons_where_the_rule_wants_it_whole() {
    let mut long = card("/p", &"x".repeat(20_000));
    let sent = |card: &_| {
        body(&mattermost().post("channel1", &asking(card, "c", "channel1"), "k").unwrap())
    };
    assert!(sent(&long)["message"].as_str().unwrap().contains(" of 20000 bytes):"));
    assert_eq!(sent(&long)["props"]["attachments"].as_array().unwrap().len(), 1);
    long.demands_whole = true;
    assert_eq!(sent(&long)["props"]["attachments"], json!([]), "no button");
    assert!(sent(&long)["message"].as_str().unwrap().contains("countersign approval show"));
    let longer = card(&format!("/{}", "p".repeat(16_383)), "");
    let refused = mattermost().post("channel1", &asking(&longer, "c", "channel1"), "k");
    assert!(refused.is_err(), "a head is never cut");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_5_a_message_is_within_its_limit_or_is_not_made(
        path in "(\\PC|`){0,40}", times in 0_usize..300, text in "(\\PC|`|\n){0,3000}"
    ) {
        let card = card(&path.repeat(times), &text);
        if let Ok(call) = mattermost().post("channel1", &asking(&card, "c", "channel1"), "k") {
            let sent = body(&call);
            let message = sent["message"].as_str().unwrap();
            prop_assert!(message.chars().count() <= 16_383);
            prop_assert_eq!(message.split("```").count(), 5);
        } else {
            prop_assert!(8 * path.chars().count() * times > 5000, "there was room");
        }
    }
}

#[test]
fn a_8_words_are_in_a_block_of_code_too_and_call_nobody() {
    let under = Message { place: "channel1".into(), id: "post1".into() };
    let call =
        mattermost().say("channel1", Some(&under), &Text::of("see https://evil.example @all"));
    let sent = body(&call);
    assert_eq!(sent["message"], "```text\nsee https://evil.example @all\n```");
    assert_eq!(
        (&sent["root_id"], &sent["props"]["disable_group_highlight"]),
        (&json!("post1"), &json!(true))
    );
}

#[test]
fn i_13_a_settled_card_has_its_last_face_and_no_button() {
    let card = card("/p", "{}");
    let posted = json!({ "id": "post1", "channel_id": "channel1" });
    let message = mattermost().posted("channel1", &answer(201, &posted)).unwrap();
    let call = mattermost().edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    assert_eq!(
        (call.method.as_str(), call.url.as_str()),
        ("PUT", "http://127.0.0.1:1/api/v4/posts/post1/patch")
    );
    let sent = body(&call);
    assert!(sent["message"].as_str().unwrap().contains("Denied by bo: no"));
    assert_eq!(sent["props"]["attachments"], json!([]), "no button");
    let gone = json!({ "id": "app.post.get.app_error", "status_code": 404 });
    assert_eq!(mattermost().edited(&answer(404, &gone)), Ok(()));
    assert!(mattermost().edited(&answer(404, &json!({}))).is_err());
    let busy = mattermost().posted("channel1", &answer(429, &json!({})));
    assert!(matches!(busy, Err(Failure::Later { .. })), "{busy:?}");
    let user = User { tenant: String::new(), id: "user1".into() };
    let call = mattermost().converse(&user).unwrap();
    assert_eq!(call.url, "http://127.0.0.1:1/api/v4/channels/direct");
    assert_eq!(body(&call), json!(["botbotbotbotbotbotbotbotbo", "user1"]));
}
