//! Cards and taps while the nodes that send and take them die.

use std::time::{Duration, Instant};

use countersign_proto::v1;
use countersign_tests::chat::{self, BOT_TOKEN, Press, SIGNING_SECRET, Slack, button, words};
use countersign_tests::cluster_world::{ClusterWorld, Errand, HOST, Plan, is_long};
use countersign_tests::sockets::Sockets;
use http::Method;
use serde_json::{Value, json};

use super::my_turn;

/// I13: after the last fault every card shows how it ended within this.
const SETTLED: Duration = Duration::from_secs(60);

/// Connects the chat, and links U1 to the first approver.
fn connect(world: &ClusterWorld, slack: &Slack) {
    add(world, slack, &[], &[("signing_secret", SIGNING_SECRET)]);
    let said = chat::say(&hook(world, 0), "U1", "T1", &format!("link {}", offer(world)));
    assert!(said.1.contains("from now on"), "{said:?}");
}

fn add(world: &ClusterWorld, slack: &Slack, settings: &[(&str, &str)], secrets: &[(&str, &str)]) {
    let desk = world.desk(0);
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    let secret = |(name, text): &(&str, &str)| {
        ((*name).to_owned(), bytes::Bytes::copy_from_slice(text.as_bytes()))
    };
    let base = slack.base();
    let settings = [&[("base_url", base.as_str()), ("app", "A1")], settings].concat();
    let request = v1::SetChannelRequest {
        name: "slack".into(),
        platform: "slack".into(),
        settings: settings.iter().map(owned).collect(),
        secrets: [&[("bot_token", BOT_TOKEN)], secrets].concat().iter().map(secret).collect(),
        ..Default::default()
    };
    world.block_on(desk.client().set_channel(desk.ask(request))).unwrap();
}

/// The code with which the first approver links an account.
fn offer(world: &ClusterWorld) -> String {
    let desk = world.desk(0);
    let ana = desk.as_person(&world.people[0]);
    let request = v1::StartAccountLinkRequest { platform: "slack".into(), ..Default::default() };
    world.block_on(ana.client().start_account_link(ana.ask(request))).unwrap().into_inner().code
}

fn hook(world: &ClusterWorld, node: usize) -> String {
    format!("http://{}/hooks/slack", world.nodes[node].web)
}

fn press(card: &(String, String, Value), trigger: String) -> Option<Press> {
    let (channel, ts, message) = card;
    Some(Press {
        user: "U1".into(),
        team: "T1".into(),
        channel: channel.clone(),
        ts: ts.clone(),
        value: button(message, "approve")?,
        trigger,
    })
}

#[test]
fn r_22_no_card_is_orphaned_and_no_tap_is_lost_when_the_sender_dies_between_send_and_record() {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let slack = Slack::start();
    connect(&world, &slack);
    // The answer to a post is so late that the leader dies in between.
    slack.delay(Duration::from_millis(500));
    let rounds = if is_long() { 20 } else { 4 };
    for round in 0..rounds {
        let leader = world.leader();
        let path = format!("/cards/{round}");
        let (way, errand) =
            (world.edges[0].way().unwrap(), Errand::new(Method::DELETE, HOST, &path));
        let errand = errand.waiting(Duration::from_secs(120));
        // An agent brings about six cards a minute: one agent each.
        let client = world.robot(&format!("robot-{round}"));
        let request = world.runtime.spawn(async move { client.send(&way, &errand).await });
        let about = |path: &str| {
            slack.messages().into_iter().find(|(_, _, message)| words(message).contains(path))
        };
        let first = world.eventually("the card is at the platform", || about(&path));
        world.nodes[leader].process.kill();
        // Whoever sees the card presses it, at whichever node the platform reaches, until it changes.
        let others = world.others(leader);
        let mut tries = 0;
        world.within(Duration::from_secs(30), "the tap counts", || {
            let now = slack.message(&first.0, &first.1);
            let Some(press) =
                press(&(first.0.clone(), first.1.clone(), now), format!("{round} {tries}"))
            else {
                return Some(());
            };
            tries += 1;
            press.send(&hook(&world, others[tries % others.len()]));
            None
        });
        let reply = world.block_on(request).unwrap().expect("the connection lives");
        assert_eq!(reply.status, 200, "{path}: {}", reply.code());
        world.start_node(leader);
        world.serving(leader);
    }
    slack.delay(Duration::ZERO);
    let healed = Instant::now();
    world.within(SETTLED, "every card shows how it ended, and has no button", || {
        let open = slack.messages().into_iter().filter(|(_, _, message)| {
            button(message, "approve").is_some() || !words(message).contains("Carried out once")
        });
        (open.count() == 0).then_some(())
    });
    println!(
        "{} cards for {rounds} approvals, settled {:?} after the last fault",
        slack.messages().len(),
        healed.elapsed()
    );
    for round in 0..rounds {
        let arrived = world.origin.seen();
        let path = format!("/cards/{round}");
        let count = arrived.iter().filter(|seen| seen.target == path).count();
        assert_eq!(count, 1, "{path} is carried out once");
    }
}

#[test]
fn a_20_r_22_what_is_not_committed_is_not_acknowledged_over_a_connection_and_counts_once_when_it_is_said_again()
 {
    let _turn = my_turn();
    let mut world = ClusterWorld::with(Plan { edges: 1, ..Plan::default() });
    let (slack, sockets) = (Slack::start(), Sockets::start());
    slack.connects_to(&sockets.url("/link/?ticket=1"));
    let settings = [("inbound", "socket"), ("socket_domain", "127.0.0.1")];
    add(&world, &slack, &settings, &[("app_token", "xapp-canary")]);
    sockets.connected(0);
    let envelope = |id: &str, kind: &str, payload: &Value| json!({ "envelope_id": id, "type": kind, "payload": payload });
    let acknowledged = |position: usize, id: &str| {
        sockets.heard(position).into_iter().find(|frame| frame["envelope_id"] == id)
    };
    let command = json!({
        "api_app_id": "A1", "team_id": "T1", "user_id": "U1", "channel_id": "DU1", "trigger_id": "link",
        "command": "/countersign", "text": format!("link {}", offer(&world)),
    });
    sockets.say(0, &envelope("link", "slash_commands", &command));
    let ack = world.eventually("the account is linked", || acknowledged(0, "link"));
    assert!(ack["payload"]["text"].as_str().unwrap().contains("from now on"), "{ack}");

    let robot = world.robot("robot");
    let way = world.edges[0].way().unwrap();
    let errand = Errand::new(Method::DELETE, HOST, "/cards/1").waiting(Duration::from_secs(120));
    let request = world.runtime.spawn(async move { robot.send(&way, &errand).await });
    let card = world.eventually("the card is at the platform", || {
        slack.messages().into_iter().find(|(_, _, message)| words(message).contains("/cards/1"))
    });
    let tap = envelope("tap", "interactive", &press(&card, "tap".into()).unwrap().payload());

    // Whoever holds the connection is alone now: it can commit nothing.
    let leader = world.leader();
    let others = world.others(leader);
    let holds = sockets.count() - 1;
    for other in &others {
        world.nodes[*other].process.kill();
    }
    sockets.say(holds, &tap);
    world.eventually("the person is told that it is not recorded", || {
        let sent = slack.sent();
        sent.iter().any(|sent| sent.path.ends_with("/chat.postEphemeral")).then_some(())
    });
    // What needs no commit is acknowledged, and came later.
    let nothing = json!({ "type": "view_closed", "api_app_id": "A1" });
    sockets.say(holds, &envelope("nothing", "interactive", &nothing));
    world.eventually("that there is nothing in it", || acknowledged(holds, "nothing"));
    assert_eq!(acknowledged(holds, "tap"), None);

    for other in others {
        world.start_node(other);
    }
    world.serving(leader);
    let mut asked = None;
    world.eventually("it is said again, to whoever leads, and counts", || {
        let newest = sockets.count() - 1;
        if asked != Some(newest) {
            sockets.say(newest, &tap);
            asked = Some(newest);
        }
        acknowledged(newest, "tap")
    });
    assert_eq!(world.block_on(request).unwrap().expect("the connection lives").status, 200);
    assert_eq!(world.origin.count(&Method::DELETE), 1, "it is carried out once");
}
