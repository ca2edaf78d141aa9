//! Cards in chats, and what people press on them: from the frozen request to the bytes upstream.

use std::time::{Duration, SystemTime};

use countersign_tests::chat::{self, BOT_TOKEN, Press, SIGNING_SECRET, Slack, button, words};
use countersign_tests::{Waiting, eventually};
use serde_json::{Value, json};

use super::deciding::Team;

/// `ana`, of ops, has an account at Slack, and so has `sue`, of security and finance.
struct Chat {
    team: Team,
    slack: Slack,
    hook: String,
}

impl Chat {
    fn start() -> Self {
        let chat = Self::unlinked();
        for (name, user) in [("ana", "U1"), ("sue", "U2")] {
            chat.link(name, user);
        }
        chat
    }

    fn unlinked() -> Self {
        let (team, slack) = (Team::start(), Slack::start());
        let added = add(&team, &slack, "slack", &[]);
        let hook = added["hook_url"].as_str().unwrap().to_owned();
        Self { team, slack, hook }
    }

    fn link(&self, name: &str, user: &str) {
        let offer = self.team.does(name, &["approver", "link", "slack", "-o", "json"]);
        let offer: Value = serde_json::from_str(&offer).unwrap();
        let said =
            chat::say(&self.hook, user, "T1", &format!("link {}", offer["code"].as_str().unwrap()));
        assert!(said.1.contains(&format!("This account is {name}'s")), "{said:?}");
    }

    /// Holds a request and waits for its card: the message's channel, ts and what is on it.
    fn card(&self, method: &str, path: &str) -> (Waiting, String, (String, String, Value)) {
        let (waiting, id) = self.team.hold(method, path);
        let message = eventually("the card", || self.cards_of(&id).pop());
        (waiting, id, message)
    }

    fn cards_of(&self, id: &str) -> Vec<(String, String, Value)> {
        self.slack
            .messages()
            .into_iter()
            .filter(|(_, _, message)| words(message).contains(id))
            .collect()
    }

    fn shows(&self, channel: &str, ts: &str, what: &str) {
        eventually(&format!("{ts} shows {what:?}"), || {
            let now = self.slack.message(channel, ts);
            (words(&now).contains(what) && button(&now, "approve").is_none()).then_some(())
        });
    }
}

fn add(team: &Team, slack: &Slack, name: &str, more: &[&str]) -> Value {
    let file = |name: &str, secret: &str| {
        let path = team.world.dir().join(name);
        std::fs::write(&path, secret).unwrap();
        path.display().to_string()
    };
    let (token, signing) = (file("token", BOT_TOKEN), file("signing", SIGNING_SECRET));
    let base = format!("base_url={}", slack.base());
    let files = [format!("bot_token={token}"), format!("signing_secret={signing}")];
    let mut arguments =
        vec!["channel", "add", name, "--platform", "slack", "--set", &base, "--set", "app=A1"];
    files.iter().for_each(|file| arguments.extend(["--secret-file", file]));
    arguments.extend(more);
    team.world.json(&arguments)
}

fn press(user: &str, (channel, ts, message): &(String, String, Value), action: &str) -> Press {
    Press {
        user: user.into(),
        team: "T1".into(),
        channel: channel.clone(),
        ts: ts.clone(),
        value: button(message, action).expect("has the button"),
        trigger: format!("{user} {ts} {action}"),
    }
}

#[test]
fn a_tap_in_a_chat_releases_the_request_and_the_card_says_so() {
    let chat = Chat::start();
    let (waiting, id, card) = chat.card("DELETE", "/one/1");
    let shown = words(&card.2);
    for part in [
        "An agent asks for your consent",
        "robot (of owner) wants to DELETE api.example.test/one/1",
        "Method: DELETE",
        "Real keys: example",
        "Rule: one",
        &id,
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let fingerprint = chat.team.does("ana", &["approval", "show", &id]);
    let four =
        fingerprint.split("in four words: ").nth(1).unwrap().split('.').next().unwrap().to_owned();
    assert!(shown.contains(&four), "{four}: {shown}");
    assert_eq!(press("U1", &card, "approve").send(&chat.hook), (200, String::new()));
    assert_eq!(waiting.answer().status, 200);
    chat.shows(&card.0, &card.1, "Carried out once; the other side answered 200");
    assert!(words(&chat.slack.message(&card.0, &card.1)).contains("Approved by ana"));
    let vote = &chat.team.shown(&id)["votes"][0];
    assert_eq!((&vote["approver"], &vote["channel"]), (&json!("ana"), &json!("slack")));
    // The bot's token is in the one header, and nowhere else; nobody called the address in the payload.
    for sent in chat.slack.sent() {
        assert_eq!(sent.authorization, format!("Bearer {BOT_TOKEN}"));
        assert!(!sent.body.to_string().contains(BOT_TOKEN));
    }
    assert!(chat.team.actions().iter().any(|action| action == "card.deliver"));
}

#[test]
fn a_denial_in_a_chat_reaches_the_agent_and_nothing_was_sent() {
    let chat = Chat::start();
    let (waiting, _, card) = chat.card("DELETE", "/one/1");
    press("U1", &card, "deny").send(&chat.hook);
    assert_eq!(waiting.answer().status, 403);
    chat.shows(&card.0, &card.1, "Denied: denied by ana. Nothing was sent");
    assert_eq!(chat.team.requests(), 0);
}

#[test]
fn a_stranger_sees_nothing_change_and_is_told_alone() {
    let chat = Chat::start();
    let (waiting, id, card) = chat.card("DELETE", "/one/1");
    // Linked to nobody; linked to somebody whom the rule does not name; the same id in another workspace.
    let mut guest = press("U1", &card, "approve");
    guest.team = "T2".into();
    for stranger in [press("U9", &card, "approve"), press("U2", &card, "approve"), guest] {
        let before = chat.slack.message(&card.0, &card.1);
        assert_eq!(stranger.send(&chat.hook).0, 200);
        let private = eventually("the private words", || {
            let sent = chat.slack.sent();
            sent.into_iter().rev().find(|sent| {
                sent.path.ends_with("chat.postEphemeral")
                    && sent.body["user"] == stranger.user.as_str()
            })
        });
        assert!(private.body["text"].as_str().unwrap().contains("does not count"), "{private:?}");
        assert_eq!(chat.slack.message(&card.0, &card.1), before);
    }
    assert_eq!(chat.team.state(&id), "pending");
    assert_eq!(chat.team.requests(), 0);
    let refused = chat.team.actions().iter().filter(|action| *action == "vote.refused").count();
    assert_eq!(refused, 3);
    press("U1", &card, "approve").send(&chat.hook);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn a_10_two_accounts_of_one_person_count_once() {
    let chat = Chat::start();
    chat.link("sue", "U3");
    let (waiting, id, _) = chat.card("DELETE", "/two/1");
    let cards = eventually("a card on each account", || {
        let cards = chat.cards_of(&id);
        (cards.len() == 2).then_some(cards)
    });
    for card in &cards {
        let user = card.0.strip_prefix('D').unwrap().to_owned();
        press(&user, card, "approve").send(&chat.hook);
    }
    // She is of both groups that the rule asks, and still one person.
    assert_eq!(chat.team.state(&id), "pending");
    assert_eq!(chat.team.shown(&id)["votes"].as_array().unwrap().len(), 1);
    chat.team.does("fin", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn a_11_the_agents_owner_does_not_approve_its_requests_in_a_room_either() {
    let chat = Chat::unlinked();
    let hook = add(&chat.team, &chat.slack, "room", &["--room", "C1"]);
    let hook = hook["hook_url"].as_str().unwrap();
    chat.link("owner", "U7");
    let (waiting, id, card) = chat.card("DELETE", "/one/1");
    assert_eq!(card.0, "C1");
    press("U7", &card, "approve").send(hook);
    eventually("the private words", || {
        let told = chat.slack.sent().into_iter().rev().find(|sent| sent.body["user"] == "U7")?;
        told.body["text"].as_str()?.contains("owns the agent").then_some(())
    });
    assert_eq!(chat.team.state(&id), "pending");
    assert_eq!(chat.team.requests(), 0);
    waiting.hang_up();
}

#[test]
fn a_12_an_account_that_was_unlinked_after_the_card_came_decides_nothing() {
    let chat = Chat::start();
    let (waiting, id, card) = chat.card("DELETE", "/one/1");
    chat.team.does("ana", &["approver", "unlink", "slack/T1/U1"]);
    assert_eq!(press("U1", &card, "approve").send(&chat.hook).0, 200);
    assert_eq!(chat.team.state(&id), "pending");
    assert!(chat.team.actions().iter().any(|action| action == "vote.refused"));
    assert_eq!(chat.team.requests(), 0);
    chat.team.does("bo", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn c_10_what_is_not_signed_by_slack_now_changes_nothing() {
    let chat = Chat::start();
    let (waiting, id, card) = chat.card("DELETE", "/one/1");
    let press = press("U1", &card, "approve");
    let now = SystemTime::now();
    for (secret, at) in [
        ("another", now),
        ("", now),
        (SIGNING_SECRET, now - Duration::from_secs(301)),
        (SIGNING_SECRET, now + Duration::from_secs(320)),
    ] {
        assert_eq!(chat::send(&chat.hook, &press.body(), secret, at), (401, String::new()));
    }
    let elsewhere = chat.hook.replace("/hooks/slack", "/hooks/nothing");
    assert_eq!(chat::send(&elsewhere, &press.body(), SIGNING_SECRET, now).0, 404);
    assert_eq!(chat.team.state(&id), "pending");
    assert_eq!(press.send(&chat.hook).0, 200);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn a_19_the_same_webhook_twice_is_one_vote() {
    let chat = Chat::start();
    let (waiting, id, card) = chat.card("DELETE", "/two/1");
    let press = press("U2", &card, "approve");
    assert_eq!(press.send(&chat.hook).0, 200);
    assert_eq!(press.send(&chat.hook).0, 200);
    assert_eq!(chat.team.shown(&id)["votes"].as_array().unwrap().len(), 1);
    assert_eq!(chat.team.state(&id), "pending");
    let votes = chat.team.actions().iter().filter(|action| *action == "approval.vote").count();
    assert_eq!(votes, 1);
    chat.team.does("fin", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
    assert_eq!(chat.team.requests(), 1);
}

#[test]
fn a_13_a_card_that_was_forwarded_decides_nothing() {
    let chat = Chat::start();
    let (waiting, id, card) = chat.card("DELETE", "/one/1");
    let genuine = press("U1", &card, "approve");
    let elsewhere = Press { channel: "C9".into(), trigger: "1".into(), ..genuine.clone() };
    let copied = Press { ts: "1800000000.999999".into(), trigger: "2".into(), ..genuine.clone() };
    let changed = Press {
        value: genuine.value.replacen('1', "2", 1),
        trigger: "3".into(),
        ..genuine.clone()
    };
    for forwarded in [elsewhere, copied, changed] {
        assert_eq!(forwarded.send(&chat.hook).0, 200);
    }
    assert_eq!(chat.team.state(&id), "pending");
    genuine.send(&chat.hook);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn c_10_a_channel_without_its_secret_is_not_connected() {
    let team = Team::start();
    let said = team
        .world
        .cli(&["channel", "add", "slack", "--platform", "slack", "--set", "app=A1"])
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&said.stderr).contains("the secret bot_token is missing"));
    assert_eq!(team.world.json(&["channel", "list"]), json!([]));
}

#[test]
fn r_22_a_platform_that_is_down_is_tried_again_and_the_card_comes_once() {
    let chat = Chat::start();
    chat.slack.trouble(Some((503, json!({}))));
    let (waiting, id) = chat.team.hold("DELETE", "/one/1");
    eventually("it was tried", || {
        let due = chat.team.world.json(&["channel", "deliveries", "--approval", &id]);
        due.as_array()?
            .iter()
            .find(|d| d["state"] == "due" && d["tries"].as_u64() > Some(0))
            .map(drop)
    });
    chat.slack.trouble(None);
    let card = eventually("the card", || chat.cards_of(&id).pop());
    assert!(!words(&card.2).contains("Sent again"), "it is the first that arrives");
    press("U1", &card, "approve").send(&chat.hook);
    assert_eq!(waiting.answer().status, 200);
    chat.shows(&card.0, &card.1, "Carried out once");
}

#[test]
fn r_22_a_card_whose_answer_was_lost_still_counts_and_shows_how_it_ends() {
    let chat = Chat::start();
    // Slack has a name for the conversation by now.
    let (warm, _, card) = chat.card("DELETE", "/one/0");
    press("U1", &card, "deny").send(&chat.hook);
    warm.answer();
    chat.shows(&card.0, &card.1, "Nothing was sent");
    chat.slack.swallow_next();
    let (waiting, id) = chat.team.hold("DELETE", "/one/1");
    let both = eventually("it was sent again", || {
        let cards = chat.cards_of(&id);
        (cards.len() == 2).then_some(cards)
    });
    // The second one says so.
    let again = |card: &(String, String, Value)| words(&card.2).contains("Sent again");
    assert_eq!((again(&both[0]), again(&both[1])), (false, true));
    // The person presses the one that the control plane never heard of.
    let orphan = &both[0];
    assert_eq!(press("U1", orphan, "approve").send(&chat.hook).0, 200);
    assert_eq!(waiting.answer().status, 200);
    for card in &both {
        chat.shows(&card.0, &card.1, "Carried out once");
    }
    assert_eq!(chat.team.requests(), 1);
}

#[test]
fn a_card_goes_to_the_fallback_and_the_dead_letter_is_there_to_be_seen() {
    let chat = Chat::unlinked();
    let other = Slack::start();
    add(&chat.team, &other, "everyone", &["--room", "C1"]);
    add(&chat.team, &chat.slack, "slack", &["--fallback", "everyone"]);
    chat.link("ana", "U1");
    chat.slack.trouble(Some((200, json!({ "ok": false, "error": "account_inactive" }))));
    let (waiting, id) = chat.team.hold("DELETE", "/one/1");
    eventually("the card in the room", || {
        other
            .messages()
            .into_iter()
            .find(|(channel, _, message)| channel == "C1" && words(message).contains(&id))
    });
    let dead = chat.team.world.json(&["channel", "deliveries", "--state", "dead"]);
    assert_eq!(dead[0]["channel"], "slack");
    assert!(dead[0]["why"].as_str().unwrap().contains("account_inactive"), "{dead}");
    waiting.hang_up();
}

#[test]
fn a_channel_is_tested_by_a_harmless_card() {
    let chat = Chat::start();
    let asked = chat
        .team
        .world
        .cli(&["channel", "test", "slack", "--account", "slack/T1/U1"])
        .spawn()
        .unwrap();
    let card = eventually("the card", || {
        let all = chat.slack.messages();
        all.into_iter().find(|(_, _, message)| words(message).contains("admin tests this channel"))
    });
    press("U1", &card, "deny").send(&chat.hook);
    let said = asked.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}");
}

#[test]
fn a_channel_that_is_changed_keeps_what_is_not_named() {
    let chat = Chat::unlinked();
    add(&chat.team, &chat.slack, "room", &["--room", "C1", "--only", "ops", "--after", "1s"]);
    let before = chat.team.world.json(&["channel", "list"]);
    chat.team.world.ok(&["channel", "add", "room", "--platform", "slack", "--set", "app=A2"]);
    let after = chat.team.world.json(&["channel", "list"]);
    let room = |listed: &Value| {
        listed.as_array().unwrap().iter().find(|it| it["channel"] == "room").unwrap().clone()
    };
    let (before, after) = (room(&before), room(&after));
    for kept in ["room", "only", "after_ms", "fallback", "tenant"] {
        assert_eq!(before[kept], after[kept], "{kept}");
    }
    assert_eq!((&after["settings"]["app"], &after["version"]), (&json!("A2"), &json!(2)));
    assert_eq!(after["settings"]["base_url"], before["settings"]["base_url"]);
    chat.team.world.ok(&[
        "channel",
        "add",
        "room",
        "--platform",
        "slack",
        "--room",
        "",
        "--set",
        "base_url=",
    ]);
    let gone = room(&chat.team.world.json(&["channel", "list"]));
    assert_eq!((&gone["room"], &gone["settings"]["base_url"]), (&json!(""), &Value::Null));
}

#[test]
fn i_7_no_secret_of_a_channel_is_on_the_disk_in_the_log_or_in_an_answer() {
    let chat = Chat::start();
    let (waiting, _, card) = chat.card("DELETE", "/one/1");
    press("U1", &card, "approve").send(&chat.hook);
    waiting.answer();
    for listed in [
        &["channel", "list"][..],
        &["channel", "deliveries"],
        &["audit", "list"],
        &["audit", "export"],
    ] {
        let said = chat.team.world.ok(listed);
        assert!(!said.contains(BOT_TOKEN) && !said.contains(SIGNING_SECRET), "{listed:?}");
    }
    for (path, bytes) in chat.team.world.files() {
        let ours = ["token", "signing"].iter().any(|name| path.ends_with(name));
        let holds =
            |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(ours || (!holds(BOT_TOKEN) && !holds(SIGNING_SECRET)), "{}", path.display());
    }
    assert!(!chat.team.world.log().contains(BOT_TOKEN));
}

#[test]
fn d_a_channel_that_is_set_anew_keeps_its_pace() {
    let chat = Chat::unlinked();
    let cards = || {
        let posts = chat.slack.sent().into_iter();
        posts.filter(|it| it.path.ends_with("chat.postMessage")).collect::<Vec<_>>()
    };
    for count in 1..=3 {
        add(&chat.team, &chat.slack, "room", &["--room", "C1"]);
        chat.team.world.ok(&["channel", "test", "room", "--wait", "0s"]);
        eventually("the card", || (cards().len() == count).then_some(()));
    }
    let listed = chat.team.world.json(&["channel", "list"]);
    let room = listed.as_array().unwrap().iter().find(|it| it["channel"] == "room").unwrap();
    assert_eq!(room["version"], 3);
    // One a second into one place, as the platform wants it; they arrive a little nearer to each other than they leave.
    for pair in cards().windows(2) {
        let apart = pair[1].at.duration_since(pair[0].at).unwrap();
        assert!(apart >= Duration::from_millis(900), "{apart:?}");
    }
}
