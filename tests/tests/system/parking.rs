//! Parked requests in the whole system: a person approves when nobody waits any more, and it happens once.

use countersign_tests::{Agent, Credential, Origin, REAL_KEY, World, eventually};
use http::Method;
use serde_json::Value;

use super::request_path::bearer;
use super::{HOST, POLICY};

const URL: &str = "https://api.example.test/v1/jobs";

fn parking(more: &str) -> (Origin, World, Agent, Credential) {
    let origin = Origin::start(&[HOST], REAL_KEY);
    let policy = POLICY.replace(
        "approvers = [\"admin\"]",
        &format!("approvers = [\"admin\"]\npark = true\n{more}"),
    );
    let world = World::start(&origin, &[HOST], &policy);
    let agent = world.agent("robot");
    let credential = world.credential("example", REAL_KEY, &["--host", HOST, "--slot", "header"]);
    (origin, world, agent, credential)
}

fn job(authorization: &str) -> [&str; 7] {
    ["-X", "POST", "-H", authorization, "-d", "a=1", URL]
}

fn result(world: &World, agent: &Agent, id: &str) -> countersign_tests::Answer {
    world.fetch(agent, &[&format!("https://countersign.local/approvals/{id}/result")])
}

/// Until the gateway has noticed that nobody waits.
fn parked(world: &World) {
    eventually("the request is parked", || world.log().contains("is parked").then_some(()));
}

#[test]
fn a_client_hangs_up_a_person_approves_and_it_happens_once() {
    let (origin, world, agent, credential) = parking("");
    let waiting = world.fetch_later(&agent, &job(&bearer(&credential)));
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    waiting.hang_up();
    parked(&world);
    assert!(origin.seen().is_empty(), "nothing leaves before the approval");
    world.ok(&["approval", "approve", &id]);
    let answer = eventually("the result", || {
        let answer = result(&world, &agent, &id);
        (answer.status == 200).then_some(answer)
    });
    let seen: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(seen["response"]["status"], 200, "{seen}");
    assert_eq!(origin.count(&Method::POST), 1, "exactly one arrives");
    assert_eq!(origin.seen()[0].headers["authorization"], format!("Bearer {REAL_KEY}"));
    assert_eq!(origin.seen()[0].body, "a=1");
    assert!(!format!("{answer:?}").contains(REAL_KEY), "no real key in the answer");
    eventually("the outcome", || {
        let shown = world.json(&["approval", "show", &id]);
        (shown["state"] == "completed" && shown["outcome"]["status"] == 200).then_some(())
    });

    let other = result(&world, &world.agent("other"), &id);
    assert_eq!((other.status, other.code().as_str()), (404, "approval_not_found"), "{other:?}");
    assert_eq!(world.json(&["audit", "verify"])["ok"], true);
    assert_eq!(origin.count(&Method::POST), 1);
}

#[test]
fn the_identical_request_sent_while_one_is_parked_is_not_carried_out_twice() {
    let (origin, world, agent, credential) = parking("");
    let auth = bearer(&credential);
    let first = world.fetch_later(&agent, &job(&auth));
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    first.hang_up();
    parked(&world);
    let again: Vec<_> = (0..5).map(|_| world.fetch_later(&agent, &job(&auth))).collect();
    eventually("six that wait", || {
        let page = world.fetch_page(&format!("{}/metrics", world.web()));
        let held = page.lines().find(|line| line.starts_with("countersign_held_requests"));
        held.is_some_and(|line| line.ends_with(" 6")).then_some(())
    });
    assert_eq!(world.approvals().len(), 1, "one card for all");
    world.ok(&["approval", "approve", &id]);
    let answers: Vec<_> = again.into_iter().map(|waiting| waiting.answer()).collect();
    let carried = answers.iter().filter(|answer| answer.status == 200).count();
    let told = answers.iter().filter(|a| a.status == 409 && a.code() == "already_executed").count();
    assert_eq!(carried + told, 5, "{answers:?}");
    assert!(carried <= 1, "{answers:?}");
    if carried == 0 {
        eventually("the result", || (result(&world, &agent, &id).status == 200).then_some(()));
    }
    assert_eq!(origin.count(&Method::POST), 1, "one claim, one request");
}

#[test]
fn a_denied_or_expired_one_that_is_parked_never_leaves() {
    let (origin, world, agent, credential) = parking("expires = \"3s\"");
    let waiting = world.fetch_later(&agent, &job(&bearer(&credential)));
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    waiting.hang_up();
    world.approval("expired");
    let answer = result(&world, &agent, &id);
    assert_eq!((answer.status, answer.code().as_str()), (404, "approval_expired"), "{answer:?}");
    let late = world.cli(&["approval", "approve", &id]).output().unwrap();
    assert_eq!(late.status.code(), Some(1));

    let waiting = world.fetch_later(&agent, &job(&bearer(&credential)));
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    waiting.hang_up();
    world.ok(&["approval", "deny", &id]);
    let answer = result(&world, &agent, &id);
    assert_eq!((answer.status, answer.code().as_str()), (404, "approval_denied"), "{answer:?}");
    assert!(origin.seen().is_empty());
}

#[test]
fn a_restart_loses_what_is_parked_and_the_identical_request_attaches() {
    let (origin, mut world, agent, credential) = parking("");
    let auth = bearer(&credential);
    let waiting = world.fetch_later(&agent, &job(&auth));
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    waiting.hang_up();
    parked(&world);
    world.kill();
    world.run();
    let agent = Agent {
        proxy: agent.proxy.replace(&address(&agent.proxy), &world.edge_address()),
        ..agent
    };
    world.ok(&["approval", "approve", &id]);
    assert!(origin.seen().is_empty(), "it is lost, and nothing is sent without it");
    let answer = result(&world, &agent, &id);
    assert_eq!((answer.status, answer.code().as_str()), (404, "result_not_parked"), "{answer:?}");
    let answer = world.fetch(&agent, &job(&auth));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("countersign-approval-id"), Some(id.as_str()), "the same approval");
    assert_eq!(origin.count(&Method::POST), 1);
}

/// `host:port` of a proxy URL.
fn address(proxy: &str) -> String {
    proxy.rsplit_once('@').map(|(_, address)| address.trim_end_matches('/').to_owned()).unwrap()
}
