//! Crashes of the one process that there is: nothing acknowledged is lost, nothing is done twice.

use countersign_tests::eventually;
use http::Method;

use super::request_path::{bearer, world};

#[test]
fn r_3_kill_9_between_approve_and_release_loses_neither_the_approval_nor_the_once() {
    let (origin, mut world, agent, credential) = world();
    let arguments = [
        "-X",
        "DELETE",
        "-H",
        &bearer(&credential),
        "-H",
        "countersign-approval-wait: 1",
        "https://api.example.test/v1/projects/42",
    ];
    let first = world.fetch(&agent, &arguments);
    assert_eq!(first.code(), "approval_pending", "{first:?}");
    let id = first.header("countersign-approval-id").unwrap().to_owned();
    world.ok(&["approval", "approve", &id]);
    world.kill();
    world.run();

    let shown = world.json(&["approval", "show", &id]);
    assert_eq!(shown["state"], "approved", "the approval survived");
    assert_eq!(shown["votes"][0]["approver"], "admin");
    let agent = countersign_tests::Agent {
        proxy: format!("http://{}:{}@{}", agent.name, agent.token, world.edge_address()),
        ..agent
    };
    let answer = world.fetch(&agent, &arguments);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(origin.count(&Method::DELETE), 1);
    eventually("completed", || {
        (world.json(&["approval", "show", &id])["state"] == "completed").then_some(())
    });

    world.kill();
    world.run();
    assert_eq!(
        world.json(&["approval", "show", &id])["state"],
        "completed",
        "the once survived too"
    );
    assert_eq!(origin.count(&Method::DELETE), 1, "nothing is carried out again by itself");
    assert_eq!(world.json(&["audit", "verify"])["ok"], true);
}

#[test]
fn r_9_a_crash_while_requests_are_held_releases_nothing_and_keeps_the_approval() {
    let (origin, mut world, agent, credential) = world();
    let arguments =
        ["-X", "DELETE", "-H", &bearer(&credential), "https://api.example.test/v1/projects/42"];
    let waiting = world.fetch_later(&agent, &arguments);
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    world.kill();
    let cut = waiting.answer();
    assert_ne!(cut.exit, 0, "the client sees its connection break: {cut:?}");
    world.run();
    world.ok(&["approval", "approve", &id]);
    assert_eq!(
        origin.count(&Method::DELETE),
        0,
        "no process holds it any more: nothing leaves by itself"
    );
    let agent = countersign_tests::Agent {
        proxy: format!("http://{}:{}@{}", agent.name, agent.token, world.edge_address()),
        ..agent
    };
    assert_eq!(world.fetch(&agent, &arguments).status, 200);
    assert_eq!(origin.count(&Method::DELETE), 1);
}

#[test]
fn a_restart_keeps_agents_credentials_policy_and_tokens() {
    let (origin, mut world, agent, credential) = world();
    let (token, api_ca) = (world.admin_token(), std::fs::read(world.api_ca()).unwrap());
    world.kill();
    world.run();
    assert_eq!(world.admin_token(), token);
    assert_eq!(
        std::fs::read(world.api_ca()).unwrap(),
        api_ca,
        "clients go on trusting the same CA"
    );
    let agent = countersign_tests::Agent {
        proxy: format!("http://{}:{}@{}", agent.name, agent.token, world.edge_address()),
        ..agent
    };
    let answer =
        world.fetch(&agent, &["-H", &bearer(&credential), "https://api.example.test/v1/projects"]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(origin.seen().len(), 1);
}
