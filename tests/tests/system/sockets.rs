//! Chats that nobody has to call us for: the connections that the control plane opens, and what comes over them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use countersign_tests::chat::{self, BOT_TOKEN, Press, Slack, words};
use countersign_tests::discord::{self, APPLICATION, Discord};
use countersign_tests::eventually;
use countersign_tests::peers::clients;
use countersign_tests::sockets::Sockets;
use serde_json::{Value, json};

use super::deciding::Team;

const APP_TOKEN: &str = "xapp-canary-app-l3vel-t0ken-that-nobody-else-sees";
const TICKET: &str = "canary-ticket-of-the-address";

/// Slack with Socket Mode, with `ana` and `bo` of ops in it once they are linked.
struct Chat {
    team: Team,
    slack: Slack,
    sockets: Sockets,
}

impl Chat {
    fn start() -> Self {
        let (team, slack, sockets) = (Team::start(), Slack::start(), Sockets::start());
        slack.connects_to(&sockets.url(&format!("/link/?ticket={TICKET}&app_id=A1")));
        let secrets = [("bot_token", BOT_TOKEN), ("app_token", APP_TOKEN)];
        let settings = [
            ("base_url", slack.base().as_str()),
            ("app", "A1"),
            ("inbound", "socket"),
            ("socket_domain", "127.0.0.1"),
        ]
        .map(|(name, value)| format!("{name}={value}"));
        add(&team, "slack", &settings, &secrets);
        Self { team, slack, sockets }
    }

    fn link(&self, position: usize, name: &str, user: &str) {
        let offer = self.team.does(name, &["approver", "link", "slack", "-o", "json"]);
        let offer: Value = serde_json::from_str(&offer).unwrap();
        let text = format!("link {}", offer["code"].as_str().unwrap());
        let command = json!({
            "team_id": "T1", "channel_id": format!("D{user}"), "user_id": user, "command": "/countersign", "text": text,
            "api_app_id": "A1", "response_url": "http://127.0.0.1:1/never-called", "trigger_id": format!("link {name}"),
        });
        self.sockets.say(position, &envelope(name, "slash_commands", &command));
        let ack = self.acknowledged(position, name);
        let said = ack["payload"]["text"].as_str().unwrap();
        assert!(said.contains(&format!("This account is {name}'s")), "{ack}");
    }

    /// The card that somebody was sent.
    fn card(&self, id: &str, user: &str) -> (String, String, Value) {
        eventually("the card", || {
            let mut all = self.slack.messages().into_iter();
            all.find(|(channel, _, message)| {
                *channel == format!("D{user}") && words(message).contains(id)
            })
        })
    }

    fn acknowledged(&self, position: usize, envelope: &str) -> Value {
        self.sockets.hears(position, &format!("{envelope} is acknowledged"), |frame| {
            frame["envelope_id"] == envelope
        })
    }

    fn votes(&self, id: &str) -> Vec<Value> {
        self.team.shown(id)["votes"].as_array().cloned().unwrap_or_default()
    }
}

fn add(team: &Team, platform: &str, settings: &[String], secrets: &[(&str, &str)]) {
    let files: Vec<_> = secrets
        .iter()
        .map(|(name, secret)| {
            let path = team.world.dir().join(name);
            std::fs::write(&path, secret).unwrap();
            format!("{name}={}", path.display())
        })
        .collect();
    let mut arguments = vec!["channel", "add", platform, "--platform", platform];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    files.iter().for_each(|file| arguments.extend(["--secret-file", file]));
    team.world.ok(&arguments);
}

fn hello() -> Value {
    json!({
        "type": "hello", "connection_info": { "app_id": "A1" }, "num_connections": 1,
        "debug_info": { "host": "applink-7fc4fdbb64-4x5xq", "build_number": 10, "approximate_connection_time": 18060 },
    })
}

fn disconnect() -> Value {
    let host = json!({ "host": "applink-7fc4fdbb64-4x5xq" });
    json!({ "type": "disconnect", "reason": "refresh_requested", "debug_info": host })
}

fn envelope(id: &str, kind: &str, payload: &Value) -> Value {
    let takes = kind == "slash_commands";
    json!({ "envelope_id": id, "type": kind, "payload": payload, "accepts_response_payload": takes })
}

fn press(user: &str, (channel, ts, message): &(String, String, Value), action: &str) -> Value {
    let press = Press {
        user: user.into(),
        team: "T1".into(),
        channel: channel.clone(),
        ts: ts.clone(),
        value: chat::button(message, action).expect("has the button"),
        trigger: format!("{user} {ts} {action}"),
    };
    press.payload()
}

#[test]
fn a_tap_over_slacks_connection_releases_the_request_and_is_acknowledged_once_it_counts() {
    let chat = Chat::start();
    assert_eq!(chat.sockets.connected(0), format!("/link/?ticket={TICKET}&app_id=A1"));
    chat.sockets.say(0, &hello());
    chat.link(0, "ana", "U1");
    let (waiting, id) = chat.team.hold("DELETE", "/one/1");
    let card = chat.card(&id, "U1");
    // Of another app: it is nobody's, and not acknowledged.
    let mut forged = press("U1", &card, "deny");
    forged["api_app_id"] = "A2".into();
    chat.sockets.say(0, &envelope("forged", "interactive", &forged));
    chat.sockets.say(0, &envelope("tap", "interactive", &press("U1", &card, "approve")));
    let ack = chat.acknowledged(0, "tap");
    let votes = chat.votes(&id);
    assert_eq!(ack, json!({ "envelope_id": "tap" }));
    assert_eq!(votes.len(), 1, "whatever is acknowledged, is committed");
    assert_eq!((&votes[0]["approver"], &votes[0]["channel"]), (&json!("ana"), &json!("slack")));
    assert_eq!(waiting.answer().status, 200);
    assert!(chat.sockets.heard(0).iter().all(|frame| frame["envelope_id"] != "forged"));
    eventually("the card says so", || {
        words(&chat.slack.message(&card.0, &card.1)).contains("Carried out once").then_some(())
    });
    for sent in chat.slack.sent() {
        let token =
            if sent.path.ends_with("/apps.connections.open") { APP_TOKEN } else { BOT_TOKEN };
        assert_eq!(sent.authorization, format!("Bearer {token}"), "{}", sent.path);
    }
    let log = chat.team.world.log();
    assert!(!log.contains(APP_TOKEN) && !log.contains(TICKET), "no secret is in the log");
}

#[test]
fn r_22_whatever_ends_a_connection_it_comes_back_and_a_repeated_envelope_is_one_vote() {
    let chat = Chat::start();
    chat.sockets.connected(0);
    chat.sockets.say(0, &hello());
    chat.link(0, "ana", "U1");
    chat.link(0, "bo", "U2");
    let (waiting, id) = chat.team.hold("GET", "/glass/1");
    let (card, other) = (chat.card(&id, "U1"), chat.card(&id, "U2"));
    let tap = envelope("tap", "interactive", &press("U1", &card, "approve"));
    chat.sockets.say(0, &tap);
    chat.acknowledged(0, "tap");
    // Slack closes it, and says again what it has sent already.
    chat.sockets.say(0, &disconnect());
    chat.sockets.is_left(0);
    chat.sockets.connected(1);
    chat.sockets.say(1, &hello());
    chat.sockets.say(1, &tap);
    chat.acknowledged(1, "tap");
    let votes = chat.votes(&id);
    assert_eq!((votes.len(), chat.team.state(&id).as_str()), (1, "pending"), "{votes:?}");
    // The line breaks.
    chat.sockets.cut(1);
    chat.sockets.connected(2);
    // A frame that is too large is not read.
    let large = json!({ "type": "events_api", "payload": "x".repeat(2 * 1024 * 1024) });
    chat.sockets.say(2, &large);
    chat.sockets.is_left(2);
    chat.sockets.connected(3);
    chat.sockets.say(3, &envelope("other", "interactive", &press("U2", &other, "approve")));
    chat.acknowledged(3, "other");
    assert_eq!(waiting.answer().status, 200);
    assert_eq!(chat.votes(&id).len(), 2);
    assert_eq!(chat.sockets.count(), 4, "one at a time");
}

#[test]
fn an_address_that_is_not_the_platforms_is_not_connected_to() {
    let chat = Chat::start();
    chat.sockets.connected(0);
    let elsewhere = Sockets::start();
    chat.slack.connects_to(&elsewhere.url("/link").replace("127.0.0.1", "localhost"));
    chat.sockets.say(0, &disconnect());
    eventually("that it is refused", || {
        chat.team.world.log().contains("is not within 127.0.0.1").then_some(())
    });
    assert_eq!((elsewhere.count(), chat.sockets.count()), (0, 1));
}

#[test]
fn slacks_own_client_takes_the_same_frames_acknowledges_the_same_and_comes_back_the_same_way() {
    let (slack, sockets) = (Slack::start(), Sockets::start());
    slack.connects_to(&sockets.url("/link/?ticket=1"));
    let mut client = Vendor::start(&slack.base());
    sockets.connected(0);
    sockets.say(0, &hello());
    let card = ("D1".to_owned(), "1.1".to_owned(), a_card());
    let tap = envelope("tap", "interactive", &press("U1", &card, "approve"));
    let command = envelope(
        "command",
        "slash_commands",
        &json!({ "command": "/countersign", "text": "link 1" }),
    );
    for frame in [&tap, &command] {
        sockets.say(0, frame);
        let heard = client.heard();
        assert_eq!((&heard["type"], &heard["body"]), (&frame["type"], &frame["payload"]));
        let ack = sockets
            .hears(0, "an acknowledgement", |ack| ack["envelope_id"] == frame["envelope_id"]);
        // It always has a payload; ours has one where there is something in it.
        assert_eq!(ack, json!({ "envelope_id": frame["envelope_id"], "payload": {} }));
    }
    sockets.say(0, &disconnect());
    sockets.is_left(0);
    sockets.connected(1);
    let opened = slack.sent().into_iter().filter(|sent| sent.path == "/api/apps.connections.open");
    assert_eq!(opened.count(), 2, "it asks for an address each time");
}

fn a_card() -> Value {
    let button = json!({ "type": "button", "action_id": "approve", "value": "token" });
    json!({ "blocks": [{ "type": "actions", "elements": [button] }] })
}

/// @slack/socket-mode, which bolt stands on.
struct Vendor {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Vendor {
    fn start(base: &str) -> Self {
        let mut child = Command::new("node")
            .current_dir(clients())
            .args(["slack_socket_mode.mjs", base, APP_TOKEN])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn heard(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().expect("it goes on").unwrap()).unwrap()
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_tap_over_discords_gateway_releases_the_request_and_a_broken_session_is_taken_up() {
    let (team, sockets) = (Team::start(), Sockets::start());
    let discord = Discord::start(&sockets.url(""));
    let settings = [
        ("base_url", discord.base().as_str()),
        ("application", APPLICATION),
        ("inbound", "gateway"),
        ("gateway_domain", "127.0.0.1"),
    ]
    .map(|(name, value)| format!("{name}={value}"));
    add(&team, "discord", &settings, &[("bot_token", BOT_TOKEN)]);
    let event = |name: &str, s: u64, body: &Value| json!({ "op": 0, "t": name, "s": s, "d": body });
    let hello = |every: u64| json!({ "op": 10, "d": { "heartbeat_interval": every } });
    let op = |position: usize, code: u64| {
        sockets.hears(position, &format!("op {code}"), |frame| frame["op"] == code)
    };
    let interaction = |kind: u64, id: &str, user: &str, channel: &str| {
        json!({
            "version": 1, "type": kind, "id": id, "token": format!("canary-token-of-{id}"), "application_id": APPLICATION,
            "channel_id": channel, "user": { "id": user },
        })
    };

    assert_eq!(sockets.connected(0), "/?v=10&encoding=json");
    sockets.say(0, &hello(45_000));
    let identify = op(0, 2);
    assert_eq!(
        (&identify["d"]["token"], &identify["d"]["intents"]),
        (&json!(BOT_TOKEN), &json!(0))
    );
    let resume = sockets.url("/resume");
    let ready = json!({ "v": 10, "session_id": "s1", "resume_gateway_url": resume, "guilds": [] });
    sockets.say(0, &event("READY", 1, &ready));

    // ana and bo link their accounts.
    for (number, name, user) in [(2, "ana", "51"), (3, "bo", "52")] {
        let offer = team.does(name, &["approver", "link", "discord", "-o", "json"]);
        let offer: Value = serde_json::from_str(&offer).unwrap();
        let mut command = interaction(2, &format!("70{number}"), user, &format!("9{user}"));
        let value = format!("link {}", offer["code"].as_str().unwrap());
        command["data"] = json!({ "name": "countersign", "options": [{ "type": 3, "name": "words", "value": value }] });
        sockets.say(0, &event("INTERACTION_CREATE", number, &command));
        let answer = eventually("it is answered", || discord.answers(&format!("70{number}")).pop());
        assert!(answer.to_string().contains(&format!("This account is {name}'s")), "{answer}");
    }

    // A request that wants two of them.
    let (waiting, id) = team.hold("GET", "/glass/1");
    let card = |user: &str| {
        eventually("the card", || {
            let mut all = discord.messages().into_iter();
            all.find(|(_, channel, message)| {
                *channel == format!("9{user}") && message.to_string().contains(&id)
            })
        })
    };
    let tap = |number: u64, user: &str| {
        let (message, channel, shown) = card(user);
        let mut tap = interaction(3, &format!("70{number}"), user, &channel);
        tap["message"] = json!({ "id": message, "channel_id": channel });
        tap["data"] = json!({ "component_type": 2, "custom_id": discord::button(&shown, "Approve").unwrap() });
        event("INTERACTION_CREATE", number, &tap)
    };
    let first = tap(4, "51");
    let second = tap(5, "52");
    sockets.say(0, &first);
    let answer = eventually("it is answered", || discord.answers("704").pop());
    let votes = || team.shown(&id)["votes"].as_array().unwrap().len();
    assert_eq!((answer, votes()), (json!({ "type": 6 }), 1));

    // Discord wants it back, and replays what it has sent already.
    sockets.say(0, &json!({ "op": 7, "d": null }));
    assert_eq!(sockets.is_left(0), 4000, "not 1000, which would end the session");
    assert_eq!(sockets.connected(1), "/resume/?v=10&encoding=json");
    sockets.say(1, &hello(1000));
    let resume = op(1, 6);
    assert_eq!(resume["d"], json!({ "token": BOT_TOKEN, "session_id": "s1", "seq": 4 }));
    sockets.say(1, &first);
    eventually("it is answered again", || (discord.answers("704").len() == 2).then_some(()));
    assert_eq!((votes(), team.state(&id).as_str()), (1, "pending"), "a repeated tap is one vote");
    sockets.say(1, &event("RESUMED", 5, &json!({})));

    // Beats that nobody answers: the connection is dead.
    assert!(op(1, 1)["d"].as_u64().is_some());
    assert_eq!(sockets.is_left(1), 4000);
    assert_eq!(sockets.connected(2), "/resume/?v=10&encoding=json");
    sockets.say(2, &hello(45_000));
    op(2, 6);
    // The session is over: a new one is begun, at the address that is asked for.
    sockets.say(2, &json!({ "op": 9, "d": false }));
    assert_eq!(sockets.connected(3), "/?v=10&encoding=json");
    sockets.say(3, &hello(45_000));
    op(3, 2);
    sockets.say(3, &second);
    assert_eq!(waiting.answer().status, 200);
    assert_eq!(votes(), 2);

    // What stands for the bot, or for one answer of it, is where it belongs and nowhere else.
    for sent in discord.sent() {
        let callback = sent.path.contains("/interactions/");
        assert_eq!(sent.authorization.is_empty(), callback, "{}", sent.path);
    }
    let log = team.world.log();
    assert!(!log.contains(BOT_TOKEN) && !log.contains("canary-token-of"));
}
