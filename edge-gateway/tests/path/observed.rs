//! What is observed passes, and leaves a record first.

use crate::agent::{Agent, Answer};
use crate::control::secret;
use crate::world::World;

fn send(
    agent: &Agent,
    host: &str,
    what: &str,
    rest: &str,
    body: &str,
) -> tokio::task::JoinHandle<Answer> {
    let agent = agent.clone();
    let [host, what, rest, body] = [host, what, rest, body].map(str::to_owned);
    tokio::spawn(async move { agent.send(&host, &what, &rest, &body).await })
}

#[tokio::test]
async fn it_is_opened_though_its_key_could_be_leased_and_leaves_with_it() {
    let world = World::start().await;
    let key = format!("Authorization: Bearer {}\r\n", secret("api").fake);
    let waiting = send(&world.agent, "api.test", "GET /things/watched", &key, "");
    let open = world.control.open().await;
    assert_eq!((open.head.rule.as_str(), open.head.allowed), ("watch things", true));
    assert!(world.origin.got().is_empty(), "nothing leaves before it is on record");
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    let got = world.origin.got();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].headers["authorization"], format!("Bearer {}", secret("api").real));
}

#[tokio::test]
async fn it_is_opened_without_a_key_too_and_only_what_the_rule_is_about() {
    let world = World::start().await;
    let answer = world.agent.send("open.test", "POST /watched", "", "nothing of interest").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let waiting = send(&world.agent, "open.test", "POST /watched", "", "a secret");
    let open = world.control.open().await;
    assert_eq!((open.head.rule.as_str(), open.head.allowed), ("watch what is open", true));
    assert!(open.head.injections.is_empty());
    assert_eq!(world.origin.got().len(), 1, "the other one");
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(world.origin.got().len(), 2);
}
