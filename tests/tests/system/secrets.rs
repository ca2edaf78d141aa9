//! Where a real key must not be: anywhere but in the request to its own upstream.

use base64::Engine as _;
use bytes::Bytes;
use countersign_tests::invariants::{forms, holds};
use countersign_tests::{Origin, REAL_KEY, World};
use http::Response;
use http_body_util::Full;

use super::request_path::{bearer, world};
use super::{HOST, POLICY};

#[test]
fn the_scan_itself_finds_what_is_there() {
    for form in forms(REAL_KEY) {
        assert!(holds(&[b"before ".as_slice(), &form, b" after"].concat(), REAL_KEY));
    }
    assert!(!holds(b"nothing of the kind", REAL_KEY));
}

#[test]
fn s_disk_grep_nothing_readable_of_a_key_an_agent_a_host_or_a_body_is_on_disk_or_in_logs() {
    let (_origin, mut world, agent, credential) = world();
    let auth = bearer(&credential);
    for page in 0..20 {
        let answer = world.fetch(
            &agent,
            &["-H", &auth, &format!("https://api.example.test/v1/canary-path-{page}")],
        );
        assert_eq!(answer.status, 200);
    }
    let waiting = world.fetch_later(
        &agent,
        &[
            "-X",
            "POST",
            "-H",
            &auth,
            "-d",
            "canary-body-of-the-request",
            "https://api.example.test/v1/x",
        ],
    );
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    world.ok(&["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
    let metrics = std::process::Command::new("curl")
        .args(["-sS", &format!("{}/metrics", world.web())])
        .output()
        .unwrap();
    assert!(metrics.status.success());
    world.kill();

    for (path, bytes) in world.files() {
        assert!(!holds(&bytes, REAL_KEY), "the real key is in {}", path.display());
        for canary in [
            "canary-path-7",
            "canary-body-of-the-request",
            agent.token.as_str(),
            credential.fake_key.as_str(),
        ] {
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{canary} is readable in {}", path.display());
        }
    }
    for (what, bytes) in [("the log", world.log().into_bytes()), ("metrics", metrics.stdout)] {
        assert!(!holds(&bytes, REAL_KEY), "the real key is in {what}");
        for secret in [&credential.fake_key, &agent.token, &"canary-body-of-the-request".to_owned()]
        {
            assert!(!holds(&bytes, secret), "{secret} is in {what}");
        }
    }
    assert!(!world.log().contains(&world.admin_token()), "the admin token is not logged");
}

#[test]
fn e2e_canary_an_upstream_that_echoes_the_key_does_not_give_it_to_the_agent() {
    let origin = Origin::with(&[HOST], |seen| {
        let auth = seen.headers.get("authorization").map_or("", |v| v.to_str().unwrap_or_default());
        let body = format!(
            "raw {auth}\nbase64 {}\nhex {}\njson {}\n",
            base64::prelude::BASE64_STANDARD.encode(auth),
            hex::encode(auth),
            serde_json::json!({ "headers": { "Authorization": auth } }),
        );
        Response::builder()
            .header("x-echo", auth)
            .header("location", format!("https://evil.example/?key={auth}").replace(' ', "+"))
            .header("set-cookie", format!("session={}", auth.replace(' ', "-")))
            .body(Full::new(Bytes::from(body)))
            .unwrap()
    });
    let world = World::start(&origin, &[HOST], POLICY);
    let agent = world.agent("robot");
    let credential = world.credential("example", REAL_KEY, &["--host", HOST, "--slot", "header"]);
    let auth = bearer(&credential);
    let arguments = ["-H", auth.as_str(), "https://api.example.test/echo"];
    for extra in [["--http1.1"], ["--http2"]] {
        let answer = world.fetch(&agent, &[&extra[..], &arguments].concat());
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            answer.body.contains("raw ") && answer.body.contains("json "),
            "the rest is unharmed: {answer:?}"
        );
        let wire = format!("{}\n{}", answer.headers, answer.body);
        assert!(!holds(wire.as_bytes(), REAL_KEY), "{wire}");
        assert!(answer.header("set-cookie").is_none(), "N-COOKIE");
    }
    assert!(origin.seen()[0].text().contains(REAL_KEY), "the upstream did get it");
}

#[test]
fn c_no_reveal_no_command_shows_a_stored_value() {
    let (_origin, world, _agent, _credential) = world();
    for arguments in [
        vec!["credential", "list"],
        vec!["credential", "list", "-o", "json"],
        vec!["policy", "show"],
        vec!["audit", "list", "-o", "json"],
        vec!["audit", "export"],
        vec!["agent", "list", "-o", "json"],
        vec!["approver", "list", "-o", "json"],
        vec!["status"],
    ] {
        let output = world.cli(&arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            !holds(&output.stdout, REAL_KEY) && !holds(&output.stderr, REAL_KEY),
            "{arguments:?}"
        );
    }
}
