//! X's encrypted chat, with X's own SDK at the other end: it wraps, seals and signs, and it reads what is sealed here.

use std::sync::OnceLock;
use std::time::SystemTime;

use countersign_chat::{
    Acquaintance, Answer, Auth, Call, Chance, Evidence, Failure, Forged, Heard, Keys, Message,
    NAMED, Outcome, Said, Text, Typed, User, What, Wire, Words, platform,
};
use http::Method;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, HOSTILE, OverHttp, Signer, Webhook, answer, asking, body, card,
    configuration, demands_secret, judge, key, no_hidden_character, now, open, seconds, settled,
};

const ACCOUNT: &str = "1111111111111111111";
const PERSON: &str = "2222222222222222222";
const STRANGER: &str = "444";
const CONVERSATION: &str = "1111111111111111111:2222222222222222222";
const CONSUMER_SECRET: &str = "z3ZX4v7mAAUGykl3EcmkqbartmuW8VFOOzCloLx9Q45P0hLrFu";

/// An account with keys of its own, as the judge knows it.
struct Party {
    id: &'static str,
    keys: Value,
}

impl Party {
    fn registered(&self) -> &Value {
        &self.keys["registered"]
    }

    /// With its private keys.
    fn own(&self) -> Value {
        json!({ "id": self.id, "private_keys": self.keys["private_keys"], "registered": self.registered() })
    }

    /// As X's API answers `GET /2/users/{id}/public_keys`.
    fn published(&self) -> Answer {
        answer(200, &json!({ "data": [self.registered()] }))
    }

    fn version(&self) -> &str {
        self.registered()["public_key_version"].as_str().unwrap()
    }
}

fn parties() -> &'static [Party; 3] {
    static PARTIES: OnceLock<[Party; 3]> = OnceLock::new();
    PARTIES.get_or_init(|| {
        [ACCOUNT, PERSON, STRANGER]
            .map(|id| Party { id, keys: judge("xchat_sdk.py", &json!({ "do": "identity" })) })
    })
}

fn account() -> &'static Party {
    &parties()[0]
}

fn person() -> &'static Party {
    &parties()[1]
}

fn stranger() -> &'static Party {
    &parties()[2]
}

fn settings() -> Vec<(&'static str, &'static str)> {
    vec![
        ("base_url", "http://127.0.0.1:1/2"),
        ("account_id", ACCOUNT),
        ("public_key_version", account().version()),
    ]
}

fn secrets() -> Vec<(&'static str, &'static str)> {
    vec![
        ("access_token", "user-canary"),
        ("consumer_secret", CONSUMER_SECRET),
        ("private_keys", account().keys["private_keys"].as_str().unwrap()),
    ]
}

fn xchat() -> OverHttp {
    open("xchat", &settings(), &secrets())
}

fn milliseconds(at: SystemTime) -> u64 {
    seconds(at) * 1000 + 372
}

/// A conversation's key as one side has announced it: the event, the key and its version.
fn key_change(sender: &Party, other: &Party) -> Value {
    judge(
        "xchat_sdk.py",
        &json!({ "do": "key_change", "sender": sender.own(), "other": other.own(), "at": milliseconds(now()) }),
    )
}

/// The person's, for all that is written in these tests.
fn change() -> &'static Value {
    static CHANGE: OnceLock<Value> = OnceLock::new();
    CHANGE.get_or_init(|| key_change(person(), account()))
}

/// Words as X tells of them.
fn written(sender: &Party, conversation: &str, words: &str, at: SystemTime) -> Value {
    judge(
        "xchat_sdk.py",
        &json!({
            "do": "message", "sender": sender.own(), "conversation": conversation, "text": words,
            "key": change()["key"], "version": change()["version"], "at": milliseconds(at),
        }),
    )
}

fn received(message: &Value, change: Option<&Value>) -> Value {
    let mut payload = json!({
        "conversation_id": CONVERSATION.replace(':', "-"), "sender_id": PERSON,
        "encoded_event": message["event"], "conversation_key_version": "1",
    });
    if let Some(change) = change {
        payload["conversation_key_change_event"] = change["event"].clone();
    }
    json!({ "data": {
        "event_type": "chat.received", "event_uuid": "0f52b591-4b7e-4f13-92cd-30e6b2a3f18a", "payload": payload,
    } })
}

fn hook(secret: &str, payload: &Value) -> Webhook {
    let body = payload.to_string();
    let mac = judge("hmac_sign.py", &json!({ "secret": secret, "text": body }));
    let signature = format!("sha256={}", mac["base64"].as_str().unwrap());
    Webhook::post(
        &[("content-type", "application/json"), ("x-twitter-webhooks-signature", &signature)],
        body,
    )
}

fn hears(payload: &Value) -> Result<Heard, Forged> {
    hook(CONSUMER_SECRET, payload).heard(&*xchat(), &Keys::default(), now())
}

/// What a webhook comes to, where X answers what is asked about it with these; and what was asked.
fn comes_to(payload: &Value, answers: &[Answer]) -> (Result<Heard, Failure>, Vec<String>) {
    let (mut heard, mut asked) = (hears(payload).unwrap(), Vec::new());
    for (at, answer) in answers.iter().enumerate() {
        let Heard::Named(named) = &heard else { break };
        assert!(at < NAMED, "one more than anybody asks");
        let call = xchat().fetch(named).unwrap();
        assert!(call.method == Method::GET && matches!(call.auth, Auth::Bearer(_)));
        asked.push(call.url.strip_prefix("http://127.0.0.1:1/2/").unwrap().to_owned());
        match xchat().fetched(named, answer) {
            Ok(next) => heard = next,
            Err(failure) => return (Err(failure), asked),
        }
    }
    (Ok(heard), asked)
}

fn says(payload: &Value, answers: &[Answer]) -> Said {
    match comes_to(payload, answers).0 {
        Ok(Heard::Said(said)) if said.len() == 1 => said.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A page of a conversation's events.
fn events(changes: &[&Value]) -> Answer {
    let changes: Vec<_> = changes.iter().map(|it| it["event"].clone()).collect();
    answer(200, &json!({ "data": [], "meta": { "conversation_key_events": changes } }))
}

fn chance() -> Chance {
    let bytes = judge("xchat_sdk.py", &json!({ "do": "identity" }))["private_keys"].to_string();
    let mut thrown = [0; 96];
    thrown.iter_mut().zip(bytes.bytes().cycle().skip(1)).for_each(|(to, from)| *to = from);
    Chance::new(thrown)
}

fn code() -> String {
    key().code("c", PERSON, HANDLE).shown()
}

#[test]
fn c_10_xchat_nine_forgeries() {
    let adapter = xchat();
    let make = |signer: &Signer<'_>| {
        let conversation =
            if signer.app == ACCOUNT { CONVERSATION } else { "333:2222222222222222222" };
        let words = format!("approve {}", code());
        let message = written(person(), conversation, &words, signer.at);
        hook(signer.secret, &received(&message, Some(change())))
    };
    Forgeries {
        adapter: &*adapter,
        keys: Keys::default(),
        secret: CONSUMER_SECRET,
        app: ACCOUNT,
        signature: "x-twitter-webhooks-signature",
        timed: true,
        covers_body: true,
        make: &make,
        reserialised: &|body| String::from_utf8(body.to_vec()).unwrap().replace(':', ": ").into(),
    }
    .are_refused();
    for (secret, _) in secrets() {
        demands_secret("xchat", &settings(), &secrets(), secret);
    }
}

#[test]
fn the_challenge_is_answered_as_the_other_messages_of_x_are() {
    let mut ask = Webhook::post(&[], "");
    (ask.method, ask.query) = (Method::GET, Some("crc_token=9b4507b3&nonce=1".into()));
    let heard = ask.heard(&*xchat(), &Keys::default(), now());
    let mac = judge("hmac_sign.py", &json!({ "secret": CONSUMER_SECRET, "text": "9b4507b3" }));
    let Ok(Heard::Challenge(reply)) = heard else { panic!("{heard:?}") };
    assert!(reply.body.contains(mac["base64"].as_str().unwrap()), "{reply:?}");
}

#[test]
fn a_message_says_who_wrote_what_once_the_keys_are_known_that_it_is_sealed_and_signed_with() {
    let words = format!("hello\ndeny {} because: no, really", code());
    let message = written(person(), CONVERSATION, &words, now());
    let id = message["message_id"].as_str().unwrap();
    let keys = format!(
        "users/{PERSON}/public_keys?public_key.fields=identity_public_key_signature,public_key,public_key_version,signing_public_key"
    );
    let page = format!(
        "chat/conversations/{PERSON}/events?max_results=20&chat_message_event.fields=encoded_event"
    );

    // The key came along, or is asked for.
    let brought = received(&message, Some(change()));
    let (heard, asked) = comes_to(&brought, &[person().published()]);
    assert_eq!(asked, std::slice::from_ref(&keys));
    let alone = received(&message, None);
    let found = [events(&[change()]), person().published()];
    let (again, asked) = comes_to(&alone, &found);
    assert_eq!(asked, [page, keys]);
    assert_eq!(heard, again);

    let said = says(&brought, &[person().published()]);
    assert_eq!(said.by, User { tenant: String::new(), id: PERSON.into() });
    assert_eq!(said.message, Message { place: PERSON.into(), id: id.into() });
    assert_eq!(said.event, id, "what its author has signed, and not what X has numbered");
    let What::Typed(Typed::Answer { word, reason, .. }) = &said.what else { panic!("{said:?}") };
    assert_eq!((*word, reason.as_str()), (Words::Deny, "because: no, really"));

    // A key of our own opens what is written with it as well.
    let ours = key_change(account(), person());
    let mine = judge(
        "xchat_sdk.py",
        &json!({
            "do": "message", "sender": person().own(), "conversation": CONVERSATION, "text": "link abc-def",
            "key": ours["key"], "version": ours["version"], "at": milliseconds(now()),
        }),
    );
    let said = says(&received(&mine, None), &[events(&[change(), &ours]), person().published()]);
    assert_eq!(said.what, What::Typed(Typed::Link("abc-def".into())));
}

#[test]
fn what_is_not_sealed_and_signed_by_whoever_it_says_wrote_it_says_nothing() {
    let words = format!("approve {}", code());
    let fails = |payload: &Value, answers: &[Answer]| match comes_to(payload, answers).0 {
        Err(Failure::Never { why }) => why,
        other => panic!("{other:?}"),
    };
    let message = written(person(), CONVERSATION, &words, now());
    let payload = received(&message, Some(change()));
    assert!(matches!(says(&payload, &[person().published()]).what, What::Typed(_)));

    // Keys of somebody else, none, or such as their own signing key has not vouched for.
    let unsigned = "not signed with the keys";
    assert!(fails(&payload, &[stranger().published()]).contains(unsigned));
    assert!(fails(&payload, &[answer(200, &json!({ "data": [] }))]).contains(unsigned));
    let mut swapped = person().registered().clone();
    swapped["public_key"] = stranger().registered()["public_key"].clone();
    assert!(fails(&payload, &[answer(200, &json!({ "data": [swapped] }))]).contains(unsigned));
    let mut renamed = person().registered().clone();
    renamed["public_key_version"] = "1".into();
    assert!(fails(&payload, &[answer(200, &json!({ "data": [renamed] }))]).contains(unsigned));
    let busy = comes_to(&payload, &[answer(429, &json!({ "detail": "Too Many" }))]).0;
    assert!(matches!(busy, Err(Failure::Later { .. })), "{busy:?}");

    // A stranger's hand in the person's name, and a bit that fell over in what was sealed.
    let mut impostor = person().own();
    impostor["private_keys"] = stranger().keys["private_keys"].clone();
    let forged = judge(
        "xchat_sdk.py",
        &json!({
            "do": "message", "sender": impostor, "conversation": CONVERSATION, "text": words,
            "key": change()["key"], "version": change()["version"], "at": milliseconds(now()),
        }),
    );
    assert!(fails(&received(&forged, Some(change())), &[person().published()]).contains(unsigned));

    // A key of the conversation that neither of both has signed, or none.
    let unknown = "a key that nobody has signed";
    let nobody = [events(&[]), person().published()];
    assert!(fails(&received(&message, None), &nobody).contains(unknown));
    let foreign = key_change(stranger(), account());
    let foreign = [events(&[&foreign]), person().published()];
    assert!(fails(&received(&message, None), &foreign).contains(unknown));
}

#[test]
fn what_means_nothing_says_nothing() {
    let words = format!("approve {}", code());
    let own = written(account(), CONVERSATION, &words, now());
    assert_eq!(hears(&received(&own, Some(change()))), Ok(Heard::Nothing), "written by ourselves");
    let group = written(person(), "g1234567890123456789", &words, now());
    assert_eq!(hears(&received(&group, Some(change()))), Ok(Heard::Nothing), "in a group");
    let key = received(change(), None);
    assert_eq!(hears(&key), Ok(Heard::Nothing), "a change of keys");
    let message = written(person(), CONVERSATION, "good morning", now());
    let talk = received(&message, Some(change()));
    assert_eq!(comes_to(&talk, &[person().published()]).0, Ok(Heard::Nothing));
    for other in ["chat.sent", "chat.conversation_join", "dm.received"] {
        let mut payload = talk.clone();
        payload["data"]["event_type"] = other.into();
        assert_eq!(hears(&payload), Ok(Heard::Nothing), "{other}");
    }
    let mut filtered = talk.clone();
    filtered["data"]["filter"] = json!({ "user_id": "333" });
    assert_eq!(hears(&filtered), Ok(Heard::Nothing), "of another account of this app");
    let reaction = judge(
        "xchat_sdk.py",
        &json!({
            "do": "message", "sender": person().own(), "conversation": CONVERSATION, "reaction": "✅",
            "key": change()["key"], "version": change()["version"], "at": milliseconds(now()),
        }),
    );
    let reaction = received(&reaction, Some(change()));
    assert_eq!(comes_to(&reaction, &[person().published()]).0, Ok(Heard::Nothing));
    for garbage in [json!("AAAA"), json!("!"), json!(null), json!("CwABAAAAATE")] {
        let mut payload = talk.clone();
        payload["data"]["payload"]["encoded_event"] = garbage.clone();
        assert_eq!(hears(&payload), Err(Forged::Shape), "{garbage}");
    }
}

/// Asks X about a conversation until there is nothing left to ask; `answers` are X's.
fn acquainted(place: &str, answers: &[Answer]) -> (Vec<Call>, Result<(), Failure>) {
    let mut asked = Vec::new();
    loop {
        match xchat().acquaint(place, &answers[..asked.len()], &chance(), now()) {
            Ok(Acquaintance::Made) => return (asked, Ok(())),
            Ok(Acquaintance::Ask(call)) => asked.push(*call),
            Err(failure) => return (asked, Err(failure)),
        }
        if asked.len() > answers.len() {
            return (asked, Ok(()));
        }
    }
}

/// What the person reads of what was sent.
fn read(events: &Value) -> Value {
    let us = json!({ "id": ACCOUNT, "registered": account().registered() });
    let them = json!({ "id": PERSON, "registered": person().registered() });
    judge(
        "xchat_sdk.py",
        &json!({ "do": "read", "reader": person().own(), "others": [us, them], "events": events }),
    )
}

fn relayed(bodies: &[&Value]) -> Value {
    let asked = json!({
        "do": "relayed", "sender": ACCOUNT, "conversation": CONVERSATION, "bodies": bodies, "at": milliseconds(now()),
    });
    judge("xchat_sdk.py", &asked)["events"].clone()
}

#[test]
fn a_conversation_without_a_key_is_given_one_that_the_other_side_verifies_and_reads_with() {
    let empty = [answer(404, &json!({ "title": "Not Found" })), person().published()];
    let (asked, made) = acquainted(PERSON, &empty);
    assert_eq!(made, Ok(()));
    let announced = asked.last().unwrap();
    assert_eq!(announced.url, format!("http://127.0.0.1:1/2/chat/conversations/{PERSON}/keys"));
    assert!(announced.method == Method::POST && matches!(announced.auth, Auth::Bearer(_)));
    let keys = body(announced);
    let version = keys["conversation_key_version"].as_str().unwrap();
    assert!(version.parse::<u64>().unwrap() >= seconds(now()) * 1000, "{version}");
    let users: Vec<_> = keys["conversation_participant_keys"].as_array().unwrap().iter().collect();
    assert_eq!((&users[0]["user_id"], &users[1]["user_id"]), (&ACCOUNT.into(), &PERSON.into()));
    assert_eq!(users[1]["public_key_version"], person().version());
    assert!(
        keys["action_signatures"][0].get("signature_payload").is_none(),
        "it has the key in it"
    );

    // X tells of it from then on.
    let change = json!({ "event": relayed(&[&keys])[0] });
    let known = [
        empty[0].clone(),
        empty[1].clone(),
        answer(200, &json!({ "data": { "sequence_id": "1" } })),
        events(&[&change]),
    ];
    let (asked, made) = acquainted(PERSON, &known);
    assert_eq!((asked.len(), made), (4, Ok(())));

    let text = format!("/x{HOSTILE}");
    let card = card(&text, "all of it");
    let call = xchat().post(PERSON, &asking(&card, "c", PERSON), "key-1").unwrap();
    assert!(matches!(&call.auth, Auth::Sealed { place, .. } if place == PERSON));
    let clear = body(&call);
    no_hidden_character(&clear);
    assert!(clear["text"].as_str().unwrap().contains(&format!("approve {}", code())));
    let sealed = xchat().seal(call.clone(), &known, &chance()).unwrap();
    assert_eq!(sealed.url, format!("http://127.0.0.1:1/2/chat/conversations/{PERSON}/messages"));
    assert!(matches!(sealed.auth, Auth::Bearer(_)));
    let sent = body(&sealed);
    assert!(!sent.to_string().contains("all of it"), "it is in the clear");
    assert_eq!(sent["message_id"], clear["message_id"]);
    let seen = read(&relayed(&[&keys, &sent]));
    assert_eq!(seen["errors"], json!({}));
    let verified: Vec<_> = seen["messages"].as_array().unwrap().iter().collect();
    assert!(verified.iter().all(|it| it["verified"] == true), "{seen}");
    assert_eq!(verified[1]["text"], clear["text"], "the same on the other side");

    // A second time it is the same message in other bytes, and of another delivery another message.
    let again = body(&xchat().seal(call, &known, &chance()).unwrap());
    assert_eq!(again["message_id"], sent["message_id"]);
    assert_ne!(again["encoded_message_create_event"], sent["encoded_message_create_event"]);
    let other = xchat().post(PERSON, &asking(&card, "c", PERSON), "key-2").unwrap();
    assert_ne!(body(&other)["message_id"], clear["message_id"]);

    // X names the message that it has made of it.
    let made = json!({ "data": { "encoded_message_event": relayed(&[&sent])[0] } });
    let posted = xchat().posted(PERSON, &answer(201, &made)).unwrap();
    assert_eq!(
        posted,
        Message { place: PERSON.into(), id: sent["message_id"].as_str().unwrap().into() }
    );
    assert!(matches!(xchat().posted(PERSON, &answer(201, &json!({}))), Err(Failure::Never { .. })));
    let refused = answer(403, &json!({ "detail": "not allowed" }));
    let refused = xchat().posted(PERSON, &refused);
    assert!(
        matches!(&refused, Err(Failure::Never { why }) if why.contains("not allowed")),
        "{refused:?}"
    );
}

#[test]
fn the_newest_key_that_either_side_has_signed_is_used_and_no_other() {
    let former = change();
    let ours = key_change(account(), person());
    let newer = ours["version"].as_str().unwrap() > former["version"].as_str().unwrap();
    assert!(newer, "{} {}", ours["version"], former["version"]);
    let known = |changes: &[&Value]| [events(changes), person().published()];
    let version = |known: &[Answer]| {
        let call = xchat().say(PERSON, None, &Text::of("hello"));
        let sent = body(&xchat().seal(call, known, &chance()).unwrap());
        let seen = judge(
            "xchat_sdk.py",
            &json!({
                "do": "read", "reader": person().own(),
                "others": [json!({ "id": ACCOUNT, "registered": account().registered() }), json!({ "id": PERSON, "registered": person().registered() })],
                "events": [change()["event"], ours["event"], relayed(&[&sent])[0]],
            }),
        );
        assert_eq!(seen["messages"][2]["text"], "hello", "{seen}");
        sent["encoded_message_create_event"].as_str().unwrap().to_owned()
    };
    let holds = |sent: &str, of: &Value| {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(sent).unwrap();
        String::from_utf8_lossy(&bytes).contains(of["version"].as_str().unwrap())
    };
    assert!(holds(&version(&known(&[change()])), change()));
    assert!(holds(&version(&known(&[&ours, change()])), &ours));
    // Somebody else's is none, however new it is: as good as no key at all.
    let foreign = key_change(stranger(), account());
    assert!(holds(&version(&known(&[change(), &foreign])), change()));
    let (asked, _) = acquainted(PERSON, &known(&[&foreign]));
    assert!(asked.last().unwrap().url.ends_with("/keys"));
    // Whoever has not the person's own keys in hand can put no key into the conversation.
    let mut impostor = person().own();
    impostor["private_keys"] = stranger().keys["private_keys"].clone();
    let forged = judge(
        "xchat_sdk.py",
        &json!({ "do": "key_change", "sender": impostor, "other": account().own(), "at": milliseconds(now()) }),
    );
    let (asked, _) = acquainted(PERSON, &known(&[&forged]));
    assert!(asked.last().unwrap().url.ends_with("/keys"));
}

#[test]
fn nothing_is_sealed_where_it_cannot_be_and_why_not_is_said() {
    let nobody = [events(&[]), answer(200, &json!({ "data": [] }))];
    let (asked, made) = acquainted(PERSON, &nobody);
    assert_eq!(asked.len(), 2);
    assert!(
        matches!(&made, Err(Failure::Never { why }) if why.contains("has not set up encrypted chat")),
        "{made:?}"
    );
    // What was announced and is not there later is no key.
    let lost = [events(&[]), person().published(), answer(200, &json!({})), events(&[])];
    assert!(matches!(acquainted(PERSON, &lost).1, Err(Failure::Later { .. })));
    let refused =
        [events(&[]), person().published(), answer(403, &json!({ "detail": "UNAUTHORIZED" }))];
    assert!(matches!(acquainted(PERSON, &refused).1, Err(Failure::Never { .. })));
    let call = || xchat().say(PERSON, None, &Text::of("hello"));
    assert!(xchat().seal(call(), &[], &chance()).is_err());
    assert!(xchat().seal(call(), &nobody, &chance()).is_err());
    // And where conversations are not encrypted there is nothing to it.
    let x = open("x", &[("account_id", ACCOUNT)], &secrets()[..2]);
    let made = x.acquaint(PERSON, &[], &chance(), now());
    assert!(matches!(made, Ok(Acquaintance::Made)), "{made:?}");
}

#[test]
fn its_keys_are_what_the_sdk_exports_or_the_channel_is_not_opened() {
    let refused = |name: &str, value: &str| {
        let mut settings = settings();
        let mut secrets = secrets();
        let all = settings.iter_mut().chain(&mut secrets);
        all.filter(|(it, _)| *it == name).for_each(|(_, it)| *it = Box::leak(value.into()));
        let configuration = configuration("xchat", &settings, &secrets).unwrap();
        (platform("xchat").unwrap().open)(configuration).err().expect("is refused").0
    };
    let export = "export_keys";
    let keys = account().keys["private_keys"].as_str().unwrap();
    for bad in ["1234", &keys[..44], &format!("{}{keys}", &keys[..44]), &"/".repeat(88)] {
        assert!(refused("private_keys", bad).contains(export), "{bad}");
        assert!(!refused("private_keys", bad).contains(bad), "it is a secret");
    }
    assert!(refused("account_id", "@countersign").contains("account_id"));
    assert!(refused("public_key_version", "latest").contains("public_key_version"));
}

#[test]
fn what_people_are_told_is_words_of_their_own_conversation() {
    let caps = xchat().caps();
    assert_eq!((caps.buttons, caps.edit, caps.keyed_send), (false, false, false));
    assert_eq!((caps.wire, caps.evidence), (Wire::Webhook, Evidence::Asymmetric));
    let message = written(person(), CONVERSATION, &format!("approve {}", code()), now());
    let said = says(&received(&message, Some(change())), &[person().published()]);
    let (reply, call) = xchat().reply(&said, &Outcome::Refused(Text::of("see https://x")));
    assert_eq!(reply.status, 200);
    let call = call.unwrap();
    assert!(matches!(&call.auth, Auth::Sealed { place, .. } if place == PERSON));
    assert_eq!(body(&call)["text"], "see https[:]//x");
    // The last face is words that follow.
    let card = card("/p", "b");
    assert!(xchat().edit(&said.message, &settled(&card, "Denied")).is_none());
    assert!(!format!("{:?}", xchat().say(PERSON, None, &Text::of("x"))).contains("canary"));
}
