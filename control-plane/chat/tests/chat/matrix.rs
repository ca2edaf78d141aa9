//! Matrix, with Synapse as a real homeserver.

use countersign_chat::{
    Adapter, Auth, Failure, Forged, Keys, Message, Outcome, Polled, Said, Text, Typed, User, What,
    Wire, Words,
};
use http::Method;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::homeserver::Homeserver;
use crate::support::{
    HANDLE, HOSTILE, OverHttp, Webhook, answer, asking, body, card, carry_out, configuration,
    demands_secret, key, no_hidden_character, now, open, settled,
};

const SETTINGS: &[(&str, &str)] =
    &[("base_url", "http://127.0.0.1:1"), ("user", "@bot:countersign.test")];
const SECRETS: &[(&str, &str)] = &[("access_token", "canary-token")];
const ROOM: &str = "!r:countersign.test";

fn matrix() -> OverHttp {
    open("matrix", SETTINGS, SECRETS)
}

fn code() -> String {
    key().code("c", ROOM, HANDLE).shown()
}

fn polled(events: Value) -> Polled {
    let joined = json!({ ROOM: { "timeline": { "events": events, "limited": false } } });
    let sync = json!({ "next_batch": "s2", "rooms": { "join": joined } });
    matrix().polled(&answer(200, &sync)).unwrap()
}

fn reaction(sender: &str, key: &str) -> Value {
    let relation = json!({ "rel_type": "m.annotation", "event_id": "$card", "key": key });
    json!({ "type": "m.reaction", "sender": sender, "event_id": "$reaction", "content": { "m.relates_to": relation } })
}

fn message(sender: &str, content: Value) -> Value {
    json!({ "type": "m.room.message", "sender": sender, "event_id": "$message", "content": content })
}

/// The only thing that was said since.
fn hears(adapter: &dyn Adapter, since: &mut String) -> Said {
    let polled = adapter.polled(&carry_out(&adapter.poll(Some(since)).unwrap())).unwrap();
    *since = polled.since;
    let [said] = &polled.said[..] else { panic!("{:?}", polled.said) };
    said.clone()
}

#[test]
fn c_10_matrix_a_real_homeserver_takes_cards_once_and_says_who_answers() {
    let homeserver = Homeserver::start();
    let (bot, ana) = (homeserver.register("bot"), homeserver.register("ana"));
    let settings = [("base_url", homeserver.base.as_str()), SETTINGS[1]];
    let adapter = open("matrix", &settings, &[("access_token", &bot)]);
    let user = User { tenant: "countersign.test".into(), id: "@ana:countersign.test".into() };

    let opened = carry_out(&adapter.converse(&user).unwrap());
    let room = adapter.conversed(&opened).unwrap();
    let joined = homeserver.asks(Method::POST, &format!("join/{room}"), &json!({}), Some(&ana));
    assert_eq!(joined["room_id"], *room);
    let write = |text: &str| {
        let path = format!("rooms/{room}/send/m.room.message/{}", text.len());
        let content = json!({ "msgtype": "m.text", "body": text });
        homeserver.asks(Method::PUT, &path, &content, Some(&ana))
    };
    // What was said before it has begun to listen is not heard.
    write("link before");
    let begun = adapter.polled(&carry_out(&adapter.poll(None).unwrap())).unwrap();
    assert_eq!(begun.said, []);
    let mut since = begun.since;

    // A card with hostile text, sent twice with the same key, is one event.
    let card = card(HOSTILE, HOSTILE);
    let notice = asking(&card, "c", &room);
    let call = adapter.post(&room, &notice, "delivery").unwrap();
    let first = adapter.posted(&room, &carry_out(&call)).unwrap();
    assert_eq!(adapter.posted(&room, &carry_out(&call)).unwrap(), first);
    let other = adapter.post(&room, &notice, "another delivery").unwrap();
    assert_ne!(adapter.posted(&room, &carry_out(&other)).unwrap(), first);
    let event = format!("rooms/{room}/event/{}", first.id);
    let stored = homeserver.asks(Method::GET, &event, &Value::Null, Some(&ana));
    assert_eq!(stored["content"], body(&call), "it is stored as it was sent");

    // So is the largest card that is rendered, and its last face, which is in an edit twice.
    let large = crate::support::card(&format!("/{}", "p".repeat(14_400)), &"x".repeat(10_000));
    let call = adapter.post(&room, &asking(&large, "c", &room), "large").unwrap();
    let posted = adapter.posted(&room, &carry_out(&call)).unwrap();
    let edit = adapter.edit(&posted, &settled(&large, "Denied by bo: no")).unwrap().unwrap();
    assert!(edit.body.len() > 59_000, "{}", edit.body.len());
    assert_eq!(adapter.edited(&carry_out(&edit)), Ok(()));

    // A reaction is heard, by whom and on what; the bot's own are not.
    let relation = json!({ "rel_type": "m.annotation", "event_id": first.id, "key": "✅" });
    let react = |token: &str| {
        let path = format!("rooms/{room}/send/m.reaction/{}", token.len());
        homeserver.asks(Method::PUT, &path, &json!({ "m.relates_to": relation }), Some(token))
    };
    react(&bot);
    let reacted = react(&ana);
    let said = hears(&*adapter, &mut since);
    assert_eq!(said.what, What::Reaction(Words::Approve));
    assert_eq!((&said.by, &said.message), (&user, &first));
    assert_eq!(reacted["event_id"], *said.event);

    // So is a code.
    write("hello");
    write(&format!("deny {} because no", key().code("c", &room, HANDLE).shown()));
    let said = hears(&*adapter, &mut since);
    let What::Typed(Typed::Answer { word: Words::Deny, code, reason }) = &said.what else {
        panic!("{said:?}")
    };
    assert!(code.is(&key().code("c", &room, HANDLE)) && reason == "because no");
    let (_, call) = adapter.reply(&said, &Outcome::Refused(Text::of("not you")));
    assert_eq!(adapter.spoke(&carry_out(&call.unwrap())), Ok(()));

    // The last face takes the place of the first.
    let edit = adapter.edit(&first, &settled(&card, "Approved by ana.")).unwrap().unwrap();
    assert_eq!(adapter.edited(&carry_out(&edit)), Ok(()));
    assert_eq!(adapter.edited(&carry_out(&edit)), Ok(()));
    let path = format!("rooms/{room}/messages?dir=b&limit=1");
    let last = homeserver.asks(Method::GET, &path, &Value::Null, Some(&ana));
    assert_eq!(last["chunk"][0]["content"]["m.relates_to"]["event_id"], *first.id);
    let shown = homeserver.asks(Method::GET, &event, &Value::Null, Some(&ana));
    let replaced = &shown["unsigned"]["m.relations"]["m.replace"];
    assert!(replaced.to_string().contains("Approved by ana."), "{shown}");

    // With another token, the homeserver takes nothing.
    let stranger = open("matrix", &settings, &[("access_token", "another")]);
    let refused = stranger.posted(&room, &carry_out(&stranger.post(&room, &notice, "k").unwrap()));
    assert!(matches!(refused, Err(Failure::Never { .. })), "{refused:?}");
}

#[test]
fn a_channel_without_its_token_or_its_own_account_is_not_opened() {
    demands_secret("matrix", SETTINGS, SECRETS, "access_token");
    assert!(configuration("matrix", &SETTINGS[..1], SECRETS).is_err());
    let platform = countersign_chat::platform("matrix").unwrap();
    for (name, wrong) in
        [("user", "bot"), ("user", "@:x"), ("per_second", "0"), ("per_second", "NaN")]
    {
        let settings: Vec<_> =
            SETTINGS.iter().copied().filter(|(it, _)| *it != name).chain([(name, wrong)]).collect();
        assert!(
            (platform.open)(configuration("matrix", &settings, SECRETS).unwrap()).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn nobody_calls_it_and_it_asks_on_from_where_it_was() {
    let caps = matrix().caps();
    assert_eq!((caps.wire, caps.buttons, caps.keyed_send), (Wire::Poll, false, true));
    let hook = Webhook::post(&[], "{}");
    assert_eq!(hook.heard(&*matrix(), &Keys::default(), now()), Err(Forged::Shape));
    let call = matrix().poll(Some("s1&x")).unwrap();
    assert!(call.url.ends_with("&since=s1%26x") && matches!(call.auth, Auth::Bearer(_)));
    assert!(!matrix().poll(None).unwrap().url.contains("since"));
    assert_eq!(polled(json!([])).since, "s2");
    assert!(matrix().polled(&answer(200, &json!({}))).is_err());
}

#[test]
fn only_a_check_mark_or_a_cross_of_somebody_else_is_an_answer() {
    let ana = "@ana:elsewhere.test:8448";
    let said = |event| polled(json!([event])).said;
    let one = said(reaction(ana, "❌\u{fe0f}"));
    assert_eq!(one[0].what, What::Reaction(Words::Deny));
    assert_eq!(one[0].by, User { tenant: "elsewhere.test:8448".into(), id: ana.into() });
    assert_eq!(one[0].message, Message { place: ROOM.into(), id: "$card".into() });
    assert_eq!(one[0].event, "$reaction");
    assert_eq!(said(reaction("@bot:countersign.test", "✅")), []);
    for other in ["👍", "approve", "", "✅✅"] {
        assert_eq!(said(reaction(ana, other)), [], "{other}");
    }
    let mut reference = reaction(ana, "✅");
    reference["content"]["m.relates_to"]["rel_type"] = "m.reference".into();
    assert_eq!(said(reference), []);
    let typed = |content: Value| said(message(ana, content));
    let answer = format!("approve {}", code());
    assert_eq!(typed(json!({ "msgtype": "m.text", "body": answer })).len(), 1);
    assert_eq!(typed(json!({ "msgtype": "m.notice", "body": answer })), [], "of a bot");
    let edit = json!({ "rel_type": "m.replace", "event_id": "$x" });
    assert_eq!(typed(json!({ "msgtype": "m.text", "body": answer, "m.relates_to": edit })), []);
}

#[test]
fn a_4_hostile_text_is_in_plain_bodies_that_mention_nobody() {
    let card = card(HOSTILE, HOSTILE);
    let call = matrix().post(ROOM, &asking(&card, "c", ROOM), "k").unwrap();
    let edit =
        matrix().edit(&Message { place: ROOM.into(), id: "$e".into() }, &asking(&card, "c", ROOM));
    let said = matrix().say(ROOM, None, &Text::of(HOSTILE));
    let (posted, edited, said) = (body(&call), body(&edit.unwrap().unwrap()), body(&said));
    for content in [&posted, &edited, &edited["m.new_content"], &said] {
        assert_eq!(content["m.mentions"], json!({}));
        for marked_up in ["format", "formatted_body"] {
            assert!(content[marked_up].is_null());
        }
        no_hidden_character(content);
    }
    assert!(!format!("{posted} {}", call.url).contains("canary-token"), "the token is not in it");
}

#[test]
fn a_8_no_address_has_its_scheme_so_no_link_or_preview_is_made_of_it() {
    let card = card("/?next=https://evil.example", "http://evil.example");
    let call = matrix().post(ROOM, &asking(&card, "c", ROOM), "k").unwrap();
    let said = matrix().say(ROOM, None, &Text::of("see https://evil.example"));
    for content in [body(&call), body(&said)] {
        assert!(content["body"].as_str().unwrap().contains("[:]//evil.example"));
        assert!(!content.to_string().contains("://"), "{content}");
    }
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_its_code_where_the_rule_wants_it_whole() {
    let mut long = card("/p", &"x".repeat(20_000));
    let sent = |card: &_| {
        let call = matrix().post(ROOM, &asking(card, "c", ROOM), "k").unwrap();
        body(&call)["body"].as_str().unwrap().to_owned()
    };
    assert!(sent(&long).contains(" of 20000 bytes):"));
    assert!(sent(&long).contains(&code()) && sent(&long).contains("React with ✅"));
    long.demands_whole = true;
    assert!(!sent(&long).contains(&code()), "no code");
    assert!(sent(&long).contains("countersign approval show"));
    let mut short = card("/p", "short");
    short.demands_whole = true;
    assert!(
        sent(&short).contains(&code()) && !sent(&short).contains("React"),
        "a code says it was read"
    );
    let longer = card(&format!("/{}", "p".repeat(40_000)), "");
    assert!(matrix().post(ROOM, &asking(&longer, "c", ROOM), "k").is_err(), "a head is never cut");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_5_an_event_is_within_its_limit_or_is_not_made(
        path in "(\\PC|\u{202e}){0,40}", times in 0_usize..300, text in "(\\PC|\"|\n){0,3000}"
    ) {
        let card = card(&path.repeat(times), &text);
        let message = Message { place: ROOM.into(), id: "$e".into() };
        let notice = asking(&card, "c", ROOM);
        match (matrix().post(ROOM, &notice, "k"), matrix().edit(&message, &notice).unwrap()) {
            (Ok(post), Ok(edit)) => {
                prop_assert!(post.body.len() <= 60_000 && edit.body.len() <= 60_100);
            }
            (Err(_), Err(_)) => prop_assert!(8 * path.len() * times > 10_000, "there was room"),
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

#[test]
fn i_13_a_settled_card_has_its_last_face_and_no_code() {
    let card = card("/p", "{}");
    let message = Message { place: ROOM.into(), id: "$e".into() };
    let call = matrix().edit(&message, &settled(&card, "Denied by bo: no")).unwrap().unwrap();
    assert_eq!(call.method, Method::PUT);
    let sent = body(&call);
    let new = &sent["m.new_content"]["body"].as_str().unwrap();
    assert!(new.contains("Denied by bo: no") && !new.contains("approve") && !new.contains("React"));
    assert_eq!(sent["m.relates_to"], json!({ "rel_type": "m.replace", "event_id": "$e" }));
    let busy = json!({ "errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 2000 });
    let Err(Failure::Later { after: Some(after), .. }) = matrix().edited(&answer(429, &busy))
    else {
        panic!()
    };
    assert_eq!(after.as_secs(), 2);
    let gone = matrix().posted(ROOM, &answer(403, &json!({ "errcode": "M_FORBIDDEN" })));
    assert!(matches!(gone, Err(Failure::Never { .. })), "{gone:?}");
}

#[test]
fn a_room_is_never_another_path_and_the_same_words_are_said_once() {
    let card = card("/p", "{}");
    let call = matrix().post("!r/../x", &asking(&card, "c", ROOM), "k").unwrap();
    assert!(
        call.url.starts_with("http://127.0.0.1:1/_matrix/client/v3/rooms/%21r%2F%2E%2E%2Fx/send/")
    );
    let say = |under: &str, words: &str| {
        let under = Message { place: ROOM.into(), id: under.into() };
        matrix().say(ROOM, Some(&under), &Text::of(words)).url
    };
    assert_eq!(say("$a", "no"), say("$a", "no"));
    assert_ne!(say("$a", "no"), say("$b", "no"));
    assert_ne!(say("$a", "no"), say("$a", "yes"));
    // Two people who are told the same are both told it.
    let reply = |event: &str| {
        let mut reaction = reaction("@ana:countersign.test", "✅");
        reaction["event_id"] = event.into();
        let said = &polled(json!([reaction])).said[0];
        matrix().reply(said, &Outcome::Refused(Text::of("no"))).1.unwrap().url
    };
    assert_eq!(reply("$1"), reply("$1"));
    assert_ne!(reply("$1"), reply("$2"));
}
