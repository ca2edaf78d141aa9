//! A rule that wants all of a request to be seen: where a chat cannot show it, nothing that is said there counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use countersign_tests::chat::{self, BOT_TOKEN, Press, SIGNING_SECRET, Slack, button, words};
use countersign_tests::{Waiting, eventually};
use serde_json::{Value, json};

use super::HOST;
use super::deciding::Team;

const RULES: &str = r#"
[[rule]]
name = "whole"
host = "api.example.test"
methods = ["POST"]
path = "/whole/{id}"
then = "approve"
credential = "example"
approvers = ["ops"]
strength = "L0"
card = "whole"

[[rule]]
name = "in part"
host = "api.example.test"
methods = ["POST"]
path = "/part/{id}"
then = "approve"
credential = "example"
approvers = ["ops"]
strength = "L0"
"#;

/// A request with a body, left held.
fn post(team: &Team, path: &str, kind: &str, body: &[u8]) -> (Waiting, String) {
    let file = team.world.dir().join(path.replace('/', "-"));
    std::fs::write(&file, body).unwrap();
    let (url, data) = (format!("https://{HOST}{path}"), format!("@{}", file.display()));
    let (bearer, kind) = (team.bearer(), format!("content-type: {kind}"));
    let wait = "countersign-approval-wait: 30";
    let head = ["-X", "POST", "-H", &bearer, "-H", wait, "-H", &kind, "--data-binary", &data, &url];
    let waiting = team.world.fetch_later(&team.agent, &head);
    let id = eventually("that it is held", || {
        let held = team.world.json(&["approval", "list", "--all"]);
        let found = held.as_array()?.iter().find(|it| it["path"] == path)?.clone();
        found["id"].as_str().map(str::to_owned)
    });
    (waiting, id)
}

fn connect(
    team: &Team,
    platform: &str,
    settings: &[String],
    secrets: &[(&str, &str)],
    room: &str,
) -> String {
    let mut arguments = vec!["channel", "add", platform, "--platform", platform, "--room", room];
    let files: Vec<_> = secrets
        .iter()
        .map(|(name, secret)| {
            let path = team.world.dir().join(name);
            std::fs::write(&path, secret).unwrap();
            format!("{name}={}", path.display())
        })
        .collect();
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    files.iter().for_each(|file| arguments.extend(["--secret-file", file]));
    team.world.json(&arguments)["hook_url"].as_str().unwrap().to_owned()
}

fn code_for(team: &Team, who: &str, platform: &str) -> String {
    let offer = team.does(who, &["approver", "link", platform, "-o", "json"]);
    let offer: Value = serde_json::from_str(&offer).unwrap();
    offer["code"].as_str().unwrap().to_owned()
}

fn votes(team: &Team, id: &str) -> usize {
    team.shown(id)["votes"].as_array().unwrap().len()
}

#[test]
fn a_5_a_card_that_does_not_show_all_of_it_has_no_buttons_where_the_rule_wants_it_whole() {
    let (team, slack) = (Team::with(RULES, &[]), Slack::start());
    let settings = [format!("base_url={}", slack.base()), "app=A1".into()];
    let secrets = [("bot_token", BOT_TOKEN), ("signing_secret", SIGNING_SECRET)];
    let hook = connect(&team, "slack", &settings, &secrets, "C1");
    let said = chat::say(&hook, "U1", "T1", &format!("link {}", code_for(&team, "ana", "slack")));
    assert!(said.1.contains("This account is ana's"), "{said:?}");
    let card = |id: &str| {
        eventually("the card", || {
            let all = slack.messages();
            all.into_iter().find(|(_, _, message)| words(message).contains(id))
        })
    };
    let long = format!("the beginning is harmless{}and the end is not", "\n".repeat(20_000));
    let binary = [b"ab\xff\x00".as_slice(), &[0x80; 64]].concat();
    for (path, kind, body) in [
        ("/whole/long", "text/plain", long.as_bytes()),
        ("/whole/binary", "application/octet-stream", &binary),
    ] {
        let (waiting, id) = post(&team, path, kind, body);
        let (_, _, message) = card(&id);
        assert_eq!((button(&message, "approve"), button(&message, "deny")), (None, None), "{path}");
        let shown = words(&message);
        assert!(
            shown.contains("Not all of it is shown here, and the rule wants it seen whole"),
            "{shown}"
        );
        assert!(shown.contains(&format!("countersign approval show {id}")), "{shown}");
        assert_eq!((team.state(&id).as_str(), votes(&team, &id)), ("pending", 0));
        let said = team.does("ana", &["approval", "show", &id]);
        assert!(said.contains("from a chat counts only where its card shows all of it"), "{said}");
        // Elsewhere it is answered as ever.
        team.does("ana", &["approval", "approve", &id]);
        assert_eq!(waiting.answer().status, 200, "{path}");
    }

    // What is shown whole has its buttons, and its headers beside the body.
    let (waiting, id) = post(&team, "/whole/short", "text/plain", b"all of it");
    let (channel, ts, message) = card(&id);
    let shown = words(&message);
    assert!(shown.contains("Header: content-type: text/plain"), "{shown}");
    assert!(shown.contains("all of it") && shown.contains("(shown 9 of 9 bytes)"), "{shown}");
    let press = |ts: &str, message: &Value, trigger: &str| Press {
        user: "U1".into(),
        team: "T1".into(),
        channel: channel.clone(),
        ts: ts.to_owned(),
        value: button(message, "approve").expect("has a button"),
        trigger: trigger.into(),
    };
    assert_eq!(press(&ts, &message, "1").send(&hook).0, 200);
    assert_eq!(waiting.answer().status, 200);

    // Where the rule does not want it, a card in part is answered as well.
    let (waiting, id) = post(&team, "/part/long", "text/plain", long.as_bytes());
    let (_, ts, message) = card(&id);
    assert!(!words(&message).contains("wants it seen whole"));
    assert_eq!(press(&ts, &message, "2").send(&hook).0, 200);
    assert_eq!(waiting.answer().status, 200);
    assert_eq!(team.requests(), 4);
}

/// As much of a homeserver as one room takes: what is sent into it has an id, and what people do there is heard once.
#[derive(Clone, Default)]
struct Room(Arc<(Mutex<Inside>, Condvar)>);

#[derive(Default)]
struct Inside {
    /// By event id: what the bot has sent.
    sent: BTreeMap<String, Value>,
    events: Vec<Value>,
    /// Somebody asks for what happens from now on.
    heard: bool,
    /// How often each event was told of.
    told: Vec<usize>,
    /// Somebody reacts to the next card before its sender knows its id, which is when that reaction was told of so often.
    hasty: Option<usize>,
}

const ROOM: &str = "!ops:matrix.example";
/// With a slash, as Matrix lets it be.
const ANA: &str = "@ana/ops:matrix.example";

impl Room {
    fn start(&self) -> u16 {
        let room = self.clone();
        chat::serve(move |asked| {
            let path = asked.path.split('?').next().unwrap_or_default().to_owned();
            Some((
                200,
                if path.ends_with("/sync") {
                    room.sync(&asked.path)
                } else {
                    room.take(asked.body)
                },
            ))
        })
    }

    fn take(&self, body: Value) -> Value {
        let mut inside = self.0.0.lock().unwrap();
        let id = format!("$card{}:matrix.example", inside.sent.len());
        let words = body["body"].as_str().unwrap_or_default();
        let is_card = words.contains("React with") && !words.starts_with("* ");
        inside.sent.insert(id.clone(), body);
        if let Some(often) = inside.hasty.take_if(|_| is_card) {
            drop(inside);
            let reaction = self.reacts(&id);
            let (inside, changed) = &*self.0;
            let told = |inside: &mut Inside| inside.told[reaction] < often;
            let patience = Duration::from_secs(9);
            let waited = changed.wait_timeout_while(inside.lock().unwrap(), patience, told);
            assert!(
                !waited.unwrap().1.timed_out(),
                "it was told of the reaction less than {often} times"
            );
        }
        json!({ "event_id": id })
    }

    /// Somebody will react to the next card at once.
    fn is_hasty(&self, often: usize) {
        self.0.0.lock().unwrap().hasty = Some(often);
    }

    fn sync(&self, path: &str) -> Value {
        let since = path.split("since=s").nth(1).map(|at| at.parse::<usize>().unwrap());
        let (inside, changed) = &*self.0;
        let mut inside = inside.lock().unwrap();
        inside.heard |= since.is_some();
        if since == Some(inside.events.len()) {
            inside = changed.wait_timeout(inside, Duration::from_secs(1)).unwrap().0;
        }
        let from = since.unwrap_or(inside.events.len());
        inside.told[from..].iter_mut().for_each(|times| *times += 1);
        changed.notify_all();
        let joined = json!({ ROOM: { "timeline": { "events": inside.events[from..] } } });
        json!({ "next_batch": format!("s{}", inside.events.len()), "rooms": { "join": joined } })
    }

    fn is_heard(&self) -> bool {
        self.0.0.lock().unwrap().heard
    }

    /// Gives its place among all that has happened.
    fn happens(&self, kind: &str, content: Value) -> usize {
        let (inside, changed) = &*self.0;
        let mut inside = inside.lock().unwrap();
        let place = inside.events.len();
        let id = format!("$event{place}:matrix.example");
        let event = json!({ "type": kind, "sender": ANA, "event_id": id, "content": content });
        inside.events.push(event);
        inside.told.push(0);
        changed.notify_all();
        place
    }

    fn writes(&self, words: &str) {
        self.happens("m.room.message", json!({ "msgtype": "m.text", "body": words }));
    }

    fn reacts(&self, on: &str) -> usize {
        let relation = json!({ "rel_type": "m.annotation", "event_id": on, "key": "✅" });
        self.happens("m.reaction", json!({ "m.relates_to": relation }))
    }

    /// How often the bot has said something with these words in it.
    fn said(&self, words: &str) -> usize {
        let inside = self.0.0.lock().unwrap();
        inside
            .sent
            .values()
            .filter(|it| it["body"].as_str().is_some_and(|it| it.contains(words)))
            .count()
    }

    /// The event that holds these words.
    fn event(&self, words: &str) -> (String, String) {
        eventually(&format!("{words:?} in the room"), || {
            let sent = self.0.0.lock().unwrap().sent.clone();
            let body = |content: &Value| content["body"].as_str().unwrap_or_default().to_owned();
            let mut found = sent.iter().map(|(id, content)| (id.clone(), body(content)));
            found.find(|(_, body)| body.contains(words))
        })
    }
}

fn link_ana(team: &Team, room: &Room) {
    eventually("that the room is listened to", || room.is_heard().then_some(()));
    room.writes(&format!("link {}", code_for(team, "ana", "matrix")));
    eventually("that the account is linked", || {
        let linked = team.world.json(&["approver", "list"]);
        let ana = linked.as_array()?.iter().find(|it| it["approver"] == "ana")?.clone();
        ana["accounts"].to_string().contains(ANA).then_some(())
    });
}

#[test]
fn a_reaction_counts_that_is_there_before_it_is_on_record_which_message_the_card_is() {
    let (team, room) = (Team::with(RULES, &[]), Room::default());
    let base = format!("base_url=http://127.0.0.1:{}", room.start());
    let settings = [base, "user=@bot:matrix.example".into(), "per_second=50".into()];
    connect(&team, "matrix", &settings, &[("access_token", "canary")], ROOM);
    link_ana(&team, &room);
    // Heard once while the card's id is on its way; and once more, after longer than anybody waits at a stretch.
    for often in [1, 2] {
        room.is_hasty(often);
        let (waiting, id) = post(&team, &format!("/part/{often}"), "text/plain", b"all of it");
        assert_eq!(waiting.answer().status, 200);
        assert_eq!(votes(&team, &id), 1, "it is heard twice and counts once");
    }
    assert_eq!(team.requests(), 2);
    assert_eq!(room.said("There is nothing to answer"), 0);
    assert_eq!(team.actions().iter().filter(|it| *it == "vote.refused").count(), 0);

    // To what is no card, it is nothing.
    room.reacts("$another:matrix.example");
    room.event("There is nothing to answer");
}

#[test]
fn a_5_a_reaction_to_a_card_that_does_not_show_all_of_it_is_no_vote_where_the_rule_wants_it_whole()
{
    let (team, room) = (Team::with(RULES, &[]), Room::default());
    let base = format!("base_url=http://127.0.0.1:{}", room.start());
    let settings = [base, "user=@bot:matrix.example".into(), "per_second=50".into()];
    connect(&team, "matrix", &settings, &[("access_token", "canary")], ROOM);
    let count = |action: &str| team.actions().iter().filter(|it| *it == action).count();
    let refused = || count("vote.refused");
    // A reaction is one to a message that is known to be a card.
    let delivered = |cards: usize| {
        eventually("that it is known as which message", || {
            (count("card.deliver") >= cards).then_some(())
        });
    };

    // An id with a slash in it is somebody's.
    link_ana(&team, &room);

    let long = format!("the beginning is harmless{}and the end is not", "\n".repeat(20_000));
    let (waiting, id) = post(&team, "/whole/long", "text/plain", long.as_bytes());
    let (card, shown) = room.event(&id);
    assert!(
        shown.contains("the rule wants it seen whole") && !shown.contains("approve "),
        "{shown}"
    );
    delivered(1);
    room.reacts(&card);
    room.event("wants all of the request to be seen, and the card here does not show it");
    assert_eq!((team.state(&id).as_str(), votes(&team, &id), refused()), ("pending", 0, 1));
    team.does("ana", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);

    // On one that shows all of it, the code counts, and a reaction does not: it does not tell what was seen.
    let (waiting, id) = post(&team, "/whole/short", "text/plain", b"all of it");
    let (card, shown) = room.event(&id);
    delivered(2);
    room.reacts(&card);
    room.event("a reaction does not tell what was seen");
    assert_eq!((team.state(&id).as_str(), votes(&team, &id), refused()), ("pending", 0, 2));
    let code = shown.split("approve ").nth(1).unwrap()[..9].to_owned();
    room.writes(&format!("approve {code}"));
    assert_eq!(waiting.answer().status, 200);

    // Where the rule does not want it, a reaction to a card in part counts.
    let (waiting, id) = post(&team, "/part/long", "text/plain", long.as_bytes());
    let (card, _) = room.event(&id);
    delivered(3);
    room.reacts(&card);
    assert_eq!(waiting.answer().status, 200);
    assert_eq!(team.requests(), 3);
}
