//! Cards and taps, as people wait for them: `./tests/bench chat`. From the commit of a request to its card at the platform, and
//! from a press's webhook to the bytes at the upstream, on loopback and with real fsync. It asserts only that the work was done.

#![allow(clippy::unwrap_used)] // a bench that cannot measure stops

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use countersign_tests::chat::{self, BOT_TOKEN, Press, SIGNING_SECRET, Slack, button, words};
use countersign_tests::{Origin, REAL_KEY, World, eventually};

const HOST: &str = "api.example.test";
const POLICY: &str = r#"
version = 1
[[rule]]
name = "change"
host = "api.example.test"
methods = ["DELETE"]
then = "approve"
credential = "example"
approvers = ["ana"]
"#;
const ROUNDS: usize = 60;
/// The first of them make what is made once: connections, a conversation.
const WARM: usize = 5;

fn main() {
    let origin = Origin::start(&[HOST], REAL_KEY);
    let world = World::start(&origin, &[HOST], POLICY);
    let slack = Slack::start();
    let file = |name: &str, secret: &str| {
        let path = world.dir().join(name);
        std::fs::write(&path, secret).unwrap();
        path.display().to_string()
    };
    let files = [
        format!("bot_token={}", file("token", BOT_TOKEN)),
        format!("signing_secret={}", file("signing", SIGNING_SECRET)),
    ];
    let base = format!("base_url={}", slack.base());
    let token = world.json(&["approver", "add", "ana"])["token"].as_str().unwrap().to_owned();
    let mut arguments =
        vec!["channel", "add", "slack", "--platform", "slack", "--set", &base, "--set", "app=A1"];
    // A person gets thirty cards an hour; a room gets all of them.
    arguments.extend(["--room", "C1"]);
    files.iter().for_each(|file| arguments.extend(["--secret-file", file]));
    let hook = world.json(&arguments)["hook_url"].as_str().unwrap().to_owned();
    let offer =
        world.cli_as(&token, &["approver", "link", "slack", "-o", "json"]).output().unwrap();
    let offer: serde_json::Value = serde_json::from_slice(&offer.stdout).unwrap();
    let said = chat::say(&hook, "U1", "T1", &format!("link {}", offer["code"].as_str().unwrap()));
    assert!(said.1.contains("from now on"), "{said:?}");
    // An agent brings about six cards a minute.
    let agents: Vec<_> = (0..ROUNDS / 5).map(|n| world.agent(&format!("robot-{n}"))).collect();
    let credential = world.credential("example", REAL_KEY, &["--host", HOST, "--slot", "header"]);
    let bearer = format!("authorization: Bearer {}", credential.fake_key);

    let (mut cards, mut presses) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let path = format!("/things/{round}");
        let url = format!("https://{HOST}{path}");
        let waiting = world.fetch_later(
            &agents[round / 5],
            &["-X", "DELETE", "-H", &bearer, "-H", "countersign-approval-wait: 30", &url],
        );
        let (channel, ts, message) = eventually("the card", || {
            slack.messages().into_iter().find(|(_, _, message)| words(message).contains(&path))
        });
        let arrived =
            slack.sent().into_iter().find(|sent| words(&sent.body).contains(&path)).unwrap().at;
        let approvals = world.approvals();
        let created = approvals.iter().find(|a| a["path"] == path.as_str()).unwrap()["created_at"]
            .as_str()
            .unwrap();
        cards.push(arrived.duration_since(UNIX_EPOCH).unwrap().saturating_sub(since_1970(created)));

        let value = button(&message, "approve").unwrap();
        let press = Press {
            user: "U1".into(),
            team: "T1".into(),
            channel,
            ts,
            value,
            trigger: path.clone(),
        };
        let bytes = chat::wire(&hook, &press.body());
        let address = hook.strip_prefix("http://").unwrap().split('/').next().unwrap();
        let mut connection = TcpStream::connect(address).unwrap();
        let pressed = Instant::now();
        connection.write_all(&bytes).unwrap();
        assert_eq!(waiting.answer().status, 200);
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let seen = origin.seen().into_iter().find(|seen| seen.target == path).unwrap();
        presses.push(seen.arrived.saturating_duration_since(pressed));
        // One card a second into one place: the next one would wait for its turn.
        while slack.sent().iter().filter(|sent| recent(sent.at)).count() > 0 {
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
    println!("{} rounds, the first {WARM} left out; one node, real fsync, loopback", ROUNDS);
    report("commit of the request -> its card at the platform (goal p50 20 ms)", &mut cards);
    report("a press's webhook -> the bytes at the upstream  (goal p50 30 ms)", &mut presses);
}

fn recent(at: SystemTime) -> bool {
    at.elapsed().is_ok_and(|age| age < Duration::from_millis(1100))
}

fn report(what: &str, took: &mut [Duration]) {
    let took = &mut took[WARM..];
    took.sort();
    let at = |part: usize| took[(took.len() - 1) * part / 100];
    println!("{what}: p50 {:?}, p90 {:?}, most {:?}", at(50), at(90), at(100));
}

/// RFC 3339, to the millisecond.
fn since_1970(text: &str) -> Duration {
    humantime::parse_rfc3339(text).unwrap().duration_since(UNIX_EPOCH).unwrap()
}
