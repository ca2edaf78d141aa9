//! One request's way, with every ending it can have.

use countersign_tests::{Agent, Credential, Origin, REAL_KEY, World, eventually};
use http::Method;
use sha2::{Digest as _, Sha256};

use super::{HOST, POLICY};

pub(super) fn world() -> (Origin, World, Agent, Credential) {
    let origin = Origin::start(&[HOST], REAL_KEY);
    let world = World::start(&origin, &[HOST], POLICY);
    let agent = world.agent("robot");
    let credential = world.credential("example", REAL_KEY, &["--host", HOST, "--slot", "header"]);
    (origin, world, agent, credential)
}

pub(super) fn bearer(credential: &Credential) -> String {
    format!("authorization: Bearer {}", credential.fake_key)
}

#[test]
fn a_read_passes_with_the_real_key_and_the_agent_sees_only_the_fake_one() {
    let (origin, world, agent, credential) = world();
    let answer = world.fetch(
        &agent,
        &["-H", &bearer(&credential), "https://api.example.test/v1/projects?page=2"],
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = origin.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].target, "/v1/projects?page=2");
    assert_eq!(seen[0].headers["authorization"], format!("Bearer {REAL_KEY}"));
    assert!(!seen[0].text().contains(&credential.fake_key), "the fake key stays behind");
    assert!(!seen[0].text().contains(&agent.token), "the agent's own token stays behind");
    assert!(seen[0].headers.get("proxy-authorization").is_none());
    assert!(!format!("{answer:?}").contains(REAL_KEY));
    assert!(world.approvals().is_empty(), "nobody was asked");
}

#[test]
fn a_delete_hangs_until_a_person_approves_exactly_it_and_is_carried_out_once() {
    let (origin, world, agent, credential) = world();
    let body = r#"{"reason":"obsolete"}"#;
    let url = "https://api.example.test/v1/projects/42?force=1";
    let arguments = [
        "-X",
        "DELETE",
        "-H",
        &bearer(&credential),
        "-H",
        "content-type: application/json",
        "-d",
        body,
        url,
    ];
    let mut waiting = world.fetch_later(&agent, &arguments);
    let approval = world.approval("pending");
    assert!(waiting.is_waiting(), "the client hangs");
    assert_eq!(origin.count(&Method::DELETE), 0, "nothing has left");

    assert_eq!(approval["agent"], "robot");
    assert_eq!(approval["method"], "DELETE");
    assert_eq!(approval["scheme"], "https");
    assert_eq!(approval["host"], HOST);
    assert_eq!(approval["port"], 443);
    assert_eq!(approval["path"], "/v1/projects/42");
    assert_eq!(approval["query"], "force=1");
    assert_eq!(approval["body_bytes"], body.len());
    assert_eq!(approval["body_sha256"], hex::encode(Sha256::digest(body)));
    assert_eq!(approval["rule"], "change");
    assert_eq!(approval["credentials"], serde_json::json!(["example"]));
    assert_eq!(approval["intent_digest"].as_str().unwrap().len(), 64);
    assert_eq!(approval["votes"], serde_json::json!([]));
    assert_eq!(approval["outcome"], serde_json::Value::Null);

    let id = approval["id"].as_str().unwrap();
    world.ok(&["approval", "approve", id, "--reason", "agreed"]);
    let answer = waiting.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = origin.seen();
    assert_eq!(seen.len(), 1, "once");
    assert_eq!(seen[0].method, Method::DELETE);
    assert_eq!(seen[0].target, "/v1/projects/42?force=1");
    assert_eq!(seen[0].body, body);
    assert_eq!(seen[0].headers["authorization"], format!("Bearer {REAL_KEY}"));

    let done = eventually("the outcome", || {
        let shown = world.json(&["approval", "show", id]);
        (shown["state"] == "completed").then_some(shown)
    });
    assert_eq!(done["outcome"]["status"], 200);
    assert_eq!(done["votes"][0]["approver"], "admin");
    assert_eq!(done["votes"][0]["decision"], "approve");
    assert_eq!(done["votes"][0]["reason"], "agreed");
    assert_eq!(world.json(&["audit", "verify"])["ok"], true);
}

#[test]
fn a_denial_reaches_the_agent_and_nothing_reaches_the_upstream() {
    let (origin, world, agent, credential) = world();
    let waiting = world.fetch_later(
        &agent,
        &["-X", "DELETE", "-H", &bearer(&credential), "https://api.example.test/v1/projects/42"],
    );
    let approval = world.approval("pending");
    world.ok(&[
        "approval",
        "deny",
        approval["id"].as_str().unwrap(),
        "--reason",
        "not on a Sunday",
    ]);
    let answer = waiting.answer();
    assert_eq!((answer.status, answer.code().as_str()), (403, "approval_denied"), "{answer:?}");
    assert!(answer.body.contains("not on a Sunday"), "{answer:?}");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert!(answer.header("content-type").unwrap().starts_with("application/problem+json"));
    assert!(origin.seen().is_empty(), "nothing reached the API");
    assert_eq!(
        world.json(&["approval", "show", approval["id"].as_str().unwrap()])["state"],
        "denied"
    );
    assert_eq!(world.json(&["audit", "verify"])["ok"], true);
}

#[test]
fn what_no_rule_names_is_refused_and_a_deny_rule_wins_over_an_allow() {
    let (origin, world, agent, credential) = world();
    let elsewhere = world.fetch(&agent, &["https://other.example.test/"]);
    assert_eq!(
        (elsewhere.status, elsewhere.code().as_str()),
        (403, "policy_denied"),
        "{elsewhere:?}"
    );
    let vault =
        world.fetch(&agent, &["-H", &bearer(&credential), "https://api.example.test/vault/keys"]);
    assert_eq!((vault.status, vault.code().as_str()), (403, "policy_denied"), "{vault:?}");
    assert!(vault.body.contains("never the vault"), "the rule's name: {vault:?}");
    assert!(origin.seen().is_empty());
}

#[test]
fn a_hold_that_runs_out_is_503_and_an_identical_retry_attaches_to_the_same_approval() {
    let (origin, world, agent, credential) = world();
    let arguments = [
        "-X",
        "POST",
        "-H",
        &bearer(&credential),
        "-H",
        "countersign-approval-wait: 1",
        "-d",
        "a=1",
        "https://api.example.test/v1/x",
    ];
    let answer = world.fetch(&agent, &arguments);
    assert_eq!((answer.status, answer.code().as_str()), (503, "approval_pending"), "{answer:?}");
    assert!(answer.header("retry-after").is_some());
    let id = answer.header("countersign-approval-id").expect("the approval's id").to_owned();
    let retry = world.fetch(&agent, &arguments);
    assert_eq!(retry.header("countersign-approval-id"), Some(id.as_str()), "no second approval");
    assert_eq!(world.approvals().len(), 1);
    assert!(origin.seen().is_empty());

    world.ok(&["approval", "approve", &id]);
    let answer = world.fetch(&agent, &arguments);
    assert_eq!(
        answer.status, 200,
        "approved meanwhile: the retry is carried out at once: {answer:?}"
    );
    assert_eq!(origin.count(&Method::POST), 1);
    assert_eq!(origin.seen()[0].body, "a=1");
}

#[test]
fn a_2_fifty_identical_requests_on_one_approval_execute_once() {
    let (origin, world, agent, credential) = world();
    let arguments = [
        "-X",
        "POST",
        "-H",
        &bearer(&credential),
        "-d",
        "amount=100",
        "https://api.example.test/v1/transfers",
    ];
    let waiting: Vec<_> = (0..50).map(|_| world.fetch_later(&agent, &arguments)).collect();
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    // All fifty are attached before anybody answers.
    eventually("fifty waiting requests", || {
        let metrics = ureq(&format!("{}/metrics", world.web()));
        metrics
            .lines()
            .any(|line| line.starts_with("countersign_held_requests") && line.ends_with(" 50"))
            .then_some(())
    });
    assert_eq!(world.approvals().len(), 1, "one card for all");
    world.ok(&["approval", "approve", &id]);
    let answers: Vec<_> = waiting.into_iter().map(|w| w.answer()).collect();
    let done = answers.iter().filter(|a| a.status == 200).count();
    let told = answers.iter().filter(|a| a.status == 409 && a.code() == "already_executed").count();
    assert_eq!((done, told), (1, 49), "{answers:?}");
    assert_eq!(origin.count(&Method::POST), 1, "carried out once");
}

/// curl without the edge, for our own plain-text pages.
fn ureq(url: &str) -> String {
    let output =
        std::process::Command::new("curl").args(["-sS", "--max-time", "5", url]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_client_that_hangs_up_leaves_the_approval_to_an_identical_retry() {
    let (origin, world, agent, credential) = world();
    let arguments =
        ["-X", "DELETE", "-H", &bearer(&credential), "https://api.example.test/v1/projects/7"];
    let waiting = world.fetch_later(&agent, &arguments);
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    waiting.hang_up();
    world.ok(&["approval", "approve", &id]);
    assert_eq!(
        origin.count(&Method::DELETE),
        0,
        "nobody is there to be answered: nothing is carried out"
    );
    let answer = world.fetch(&agent, &arguments);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(origin.count(&Method::DELETE), 1);
}

#[test]
fn an_expired_approval_releases_nothing() {
    let origin = Origin::start(&[HOST], REAL_KEY);
    let world = World::start(
        &origin,
        &[HOST],
        &POLICY.replace("approvers = [\"admin\"]", "approvers = [\"admin\"]\nexpires = \"1s\""),
    );
    let agent = world.agent("robot");
    let credential = world.credential("example", REAL_KEY, &["--host", HOST, "--slot", "header"]);
    let answer = world.fetch(
        &agent,
        &["-X", "DELETE", "-H", &bearer(&credential), "https://api.example.test/v1/projects/7"],
    );
    assert_eq!((answer.status, answer.code().as_str()), (403, "approval_expired"), "{answer:?}");
    let id = world.approval("expired")["id"].as_str().unwrap().to_owned();
    let late = world.cli(&["approval", "approve", &id]).output().unwrap();
    assert_eq!(late.status.code(), Some(1), "A-3: too late");
    assert!(origin.seen().is_empty());
}

#[test]
fn the_four_slots_take_the_key_and_nothing_else_does() {
    let host = "slots.example.test";
    let origin = Origin::start(&[host], REAL_KEY);
    let names = ["in-header", "in-basic", "in-query", "in-path"];
    let mut policy = "version = 1\n".to_owned();
    for name in names {
        policy += &format!(
            "[[rule]]\nname = \"{name}\"\nhost = \"{host}\"\npath = \"/{name}/{{rest...}}\"\nthen = \"allow\"\ncredential = \"{name}\"\n"
        );
    }
    let world = World::start(&origin, &[host], &policy);
    let agent = world.agent("robot");
    let make = |name: &str, slot: &[&str]| {
        world.credential(name, REAL_KEY, &[&["--host", host], slot].concat()).fake_key
    };
    let header = make("in-header", &["--slot", "header:x-api-key", "--template", "{key}"]);
    let basic = make("in-basic", &["--slot", "basic"]);
    let query = make("in-query", &["--slot", "query:api_key"]);
    let path = make("in-path", &["--slot", "path", "--template", "bot{key}"]);

    let url = |rest: &str| format!("https://{host}/{rest}");
    for arguments in [
        vec!["-H".to_owned(), format!("x-api-key: {header}"), url("in-header/a")],
        vec!["-u".to_owned(), format!("alice:{basic}"), url("in-basic/a")],
        vec![url(&format!("in-query/a?b=1&api_key={query}&c=2"))],
        vec![url(&format!("in-path/bot{path}/send"))],
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let answer = world.fetch(&agent, &arguments);
        assert_eq!(answer.status, 200, "{arguments:?}: {answer:?}");
    }
    let seen = origin.seen();
    assert_eq!(seen[0].headers["x-api-key"], REAL_KEY);
    assert_eq!(seen[2].target, format!("/in-query/a?b=1&api_key={REAL_KEY}&c=2"));
    assert_eq!(seen[3].target, format!("/in-path/bot{REAL_KEY}/send"));

    // P-14: the same fake key in another field is refused, and nothing is substituted.
    let before = origin.seen().len();
    for arguments in [
        vec![
            "-H".to_owned(),
            format!("x-note: {header}"),
            "-H".to_owned(),
            format!("x-api-key: {header}"),
            url("in-header/a"),
        ],
        vec![
            "-H".to_owned(),
            format!("x-api-key: {header}"),
            "-d".to_owned(),
            format!("note={header}"),
            url("in-header/a"),
        ],
        vec!["-H".to_owned(), format!("x-api-key: {query}"), url("in-header/a")],
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let answer = world.fetch(&agent, &arguments);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "fake_key_misplaced"),
            "{arguments:?}: {answer:?}"
        );
    }
    assert_eq!(origin.seen().len(), before, "none of them left");
    let audit = world.ok(&["audit", "list", "-o", "json"]);
    assert!(audit.contains("fake_key_misplaced"), "an alarm is on record");
    let missing = world.fetch(&agent, &[&url("in-header/a")]);
    assert_eq!((missing.status, missing.code().as_str()), (401, "fake_key_missing"), "{missing:?}");
}

#[test]
fn http_2_is_kept_on_both_legs() {
    let (origin, world, agent, credential) = world();
    let answer = world
        .fetch(&agent, &["--http2", "-H", &bearer(&credential), "https://api.example.test/v1/a"]);
    assert!(answer.headers.starts_with("HTTP/2 200"), "{answer:?}");
    assert_eq!(origin.seen()[0].version, http::Version::HTTP_2);
    let answer = world
        .fetch(&agent, &["--http1.1", "-H", &bearer(&credential), "https://api.example.test/v1/a"]);
    assert!(answer.headers.starts_with("HTTP/1.1 200"), "{answer:?}");
}

#[test]
fn p_16_every_request_of_a_connection_is_judged_for_itself() {
    let (origin, world, agent, credential) = world();
    let (auth, ca) = (bearer(&credential), world.edge_ca());
    let url = "https://api.example.test/v1/a";
    let same = [
        "-sS",
        "--proxy",
        &agent.proxy,
        "--cacert",
        &ca,
        "-H",
        &auth,
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}/%{num_connects} ",
    ];
    let mut command = std::process::Command::new("curl");
    command.args(same).arg(url).arg("--next");
    command.args(same).args(["-X", "DELETE", "-H", "countersign-approval-wait: 1", url, "--next"]);
    command.args(same).arg(url);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let codes: Vec<&str> =
        said.split_whitespace().filter_map(|part| part.split('/').next()).collect();
    assert_eq!(codes, ["200", "503", "200"], "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert!(said.trim().ends_with("/0"), "one connection for all: {said}");
    assert_eq!(origin.count(&Method::DELETE), 0);
}
