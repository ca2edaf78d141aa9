//! Cards and taps while the nodes that send and take them die.

use std::time::{Duration, Instant};

use countersign_proto::v1;
use countersign_tests::chat::{self, BOT_TOKEN, Press, SIGNING_SECRET, Slack, button, words};
use countersign_tests::cluster_world::{ClusterWorld, Errand, HOST, Plan, is_long};
use http::Method;

use super::my_turn;

/// I13: after the last fault every card shows how it ended within this.
const SETTLED: Duration = Duration::from_secs(60);

/// Connects the chat, and links U1 to the first approver.
fn connect(world: &ClusterWorld, slack: &Slack) {
    let desk = world.desk(0);
    let secret = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    let request = v1::SetChannelRequest {
        name: "slack".into(),
        platform: "slack".into(),
        settings: [("base_url".to_owned(), slack.base()), ("app".to_owned(), "A1".to_owned())]
            .into(),
        secrets: [
            ("bot_token".to_owned(), secret(BOT_TOKEN)),
            ("signing_secret".to_owned(), secret(SIGNING_SECRET)),
        ]
        .into(),
        ..Default::default()
    };
    world.block_on(desk.client().set_channel(desk.ask(request))).unwrap();
    let ana = desk.as_person(&world.people[0]);
    let request = v1::StartAccountLinkRequest { platform: "slack".into(), ..Default::default() };
    let offer =
        world.block_on(ana.client().start_account_link(ana.ask(request))).unwrap().into_inner();
    let said = chat::say(&hook(world, 0), "U1", "T1", &format!("link {}", offer.code));
    assert!(said.1.contains("from now on"), "{said:?}");
}

fn hook(world: &ClusterWorld, node: usize) -> String {
    format!("http://{}/hooks/slack", world.nodes[node].web)
}

fn press(card: &(String, String, serde_json::Value), trigger: String) -> Option<Press> {
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
