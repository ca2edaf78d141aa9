//! What is asked to become something that nobody here reads.

use crate::agent::read;
use crate::control::secret;
use crate::stage::say;
use crate::world::{World, bearer, no};

const KUBECTL: &str = "User-Agent: kubectl/v1.32.4 (linux/amd64) kubernetes/59526cd\r\n";

fn asks(protocol: &str) -> String {
    format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n")
}

#[tokio::test]
async fn u_2_an_upgrade_to_what_is_not_looked_into_is_refused_and_nothing_is_sent() {
    let world = World::start().await;
    for (host, line, rest, protocol) in [
        ("open.test", "POST /exec", asks("SPDY/3.1"), "SPDY/3.1"),
        ("open.test", "POST /containers/1/attach", asks("tcp"), "tcp"),
        ("open.test", "GET /", asks("h2c, SPDY/3.1"), "SPDY/3.1"),
        ("open.test", "GET /", format!("{}{}", asks("h2c"), asks("irc")), "irc"),
        ("open.test", "GET /", asks("\"quoted\" \u{1f600}"), "another protocol"),
        ("api.test", "GET /things/1", format!("{}{}", asks("spdy/3.1"), bearer("api")), "spdy/3.1"),
    ] {
        let answer = world.agent.send(host, line, &rest, "").await;
        assert_eq!(no(&answer), (403, "upgrade_refused".into()), "{rest}: {answer:?}");
        assert!(answer.body.contains(&format!("to go on as {protocol},")), "{}", answer.body);
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn u_2_an_upgrade_that_its_sender_does_without_stays_here() {
    let world = World::start().await;
    for protocol in ["h2c", "TLS/1.2", "HTTP/2.0", "h2c, websocket", ""] {
        let answer = world.agent.send("open.test", "GET /", &asks(protocol), "").await;
        assert_eq!(answer.status, 200, "{protocol}: {answer:?}");
        assert!(!world.origin.got().pop().expect("it arrived").headers.contains_key("upgrade"));
    }
}

#[tokio::test]
async fn u_1_an_upgrade_that_people_would_be_asked_about_asks_nobody() {
    let world = World::start().await;
    let rest = format!("{}{}", asks("SPDY/3.1"), bearer("stage-admin"));
    let answer = world.agent.send("stage.test", "POST /asked/exec", &rest, "").await;
    assert_eq!(no(&answer), (403, "upgrade_refused".into()), "{answer:?}");
    assert!(answer.body.contains("\"rule\":\"ask first\""), "{}", answer.body);
    assert!(world.control.opened().await.is_none(), "nobody was asked");
}

#[tokio::test]
async fn what_the_policy_denies_is_denied_as_what_it_is() {
    let world = World::start().await;
    let rest = format!("{}{}", asks("SPDY/3.1"), bearer("api"));
    let answer = world.agent.send("api.test", "POST /never/1", &rest, "").await;
    assert_eq!(no(&answer), (403, "policy_denied".into()), "{answer:?}");
}

#[tokio::test]
async fn a_client_of_kubernetes_is_told_in_a_status_of_its_api() {
    let world = World::start().await;
    let rest = format!("{KUBECTL}{}", bearer("api"));
    let mut agent = world.agent.tunnel("api.test").await;
    for (line, status, reason, code) in [
        ("DELETE /never/1", 403, "Forbidden", "policy_denied"),
        ("GET /things//1", 400, "BadRequest", "ambiguous_target"),
        ("GET /nowhere", 403, "Forbidden", "policy_denied"),
    ] {
        let asked = crate::agent::request("api.test", line, &rest, "");
        say(&mut agent, asked).await;
        let answer = read(&mut agent).await.expect("an answer");
        assert_eq!(answer.status, status, "{line}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("countersign-code"), Some(code));
        let said: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(
            (said["kind"].as_str(), said["status"].as_str(), said["reason"].as_str()),
            (Some("Status"), Some("Failure"), Some(reason)),
            "{said}"
        );
        assert_eq!(said["code"], status);
        assert!(said["message"].as_str().is_some_and(|it| it.starts_with("Not sent:")), "{said}");
        assert!(!answer.body.contains(secret("api").real));
    }
    assert!(world.origin.got().is_empty());
}
