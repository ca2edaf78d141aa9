//! Keys in bodies and cookies, sent by a client that knows nothing of us: Python's requests.

use std::process::{Child, Command, Stdio};

use countersign_tests::invariants::holds;
use countersign_tests::peers::{clients, tools};
use countersign_tests::{Agent, Credential, Origin, World};
use http::Response;
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const HOST: &str = "api.example.test";
/// What each of the slots has to escape.
const KEY: &str = r#"cs_0perator's+Real/Key&"01\23456789"#;
const COOKIE: &str = "sess_0peratorsRealCookie/+=0123456789";

/// As most encoders of forms and URLs write (RFC 3986 §2.3).
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const POLICY: &str = r#"
version = 1

[[rule]]
name = "token"
host = "api.example.test"
path = "/token"
then = "allow"
credential = "key"

[[rule]]
name = "pay"
host = "api.example.test"
path = "/pay"
then = "approve"
credential = "key"
approvers = ["admin"]
"#;

struct Setting {
    origin: Origin,
    world: World,
    agent: Agent,
    credential: Credential,
}

/// The origin says everything back: raw, as JSON writes it, and as forms do.
fn setting(slot: &str, key: &str) -> Setting {
    let origin = Origin::with(&[HOST], |seen| {
        let text = seen.text();
        let form = utf8_percent_encode(&text, FORM);
        let body = format!("{text}\n{}\n{form}\n", serde_json::json!({ "echo": text }));
        Response::new(Full::new(body.into()))
    });
    let world = World::start(&origin, &[HOST], POLICY);
    let agent = world.agent("robot");
    let credential = world.credential("key", key, &["--host", HOST, "--slot", slot]);
    Setting { origin, world, agent, credential }
}

impl Setting {
    fn client(&self, kind: &str, path: &str) -> Child {
        let python = tools().join("python/bin/python");
        Command::new(python)
            .arg(clients().join("python_bodies.py"))
            .args([kind, &format!("https://{HOST}{path}"), &self.credential.fake_key])
            .env("HTTPS_PROXY", &self.agent.proxy)
            .env("REQUESTS_CA_BUNDLE", self.world.edge_ca())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python runs")
    }

    /// Approves what the client waits for, after a look at what people are shown; then its answer.
    fn approved(&self, client: Child, body: &str, hole: &str) -> Value {
        let approval = self.world.approval("pending");
        let id = approval["id"].as_str().unwrap();
        let card = self.world.ok(&["approval", "show", id]);
        assert!(card.contains(hole), "people see where the key goes: {card}");
        for secret in [&self.credential.fake_key, KEY, COOKIE] {
            assert!(!holds(card.as_bytes(), secret), "and no key: {card}");
        }
        assert_eq!(approval["body_sha256"], hex::encode(Sha256::digest(body)));
        assert!(self.origin.seen().is_empty(), "nothing has left");
        self.world.ok(&["approval", "approve", id]);
        said(client)
    }
}

/// Whether the key can be read in it, raw or as a form or a JSON document has it.
fn leaks(text: &str, key: &str) -> bool {
    let json = serde_json::to_string(key).unwrap();
    let form = utf8_percent_encode(key, FORM).to_string();
    holds(text.as_bytes(), key) || text.contains(json.trim_matches('"')) || text.contains(&form)
}

fn said(client: Child) -> Value {
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn python_requests_posts_a_form_whose_secret_is_put_in_on_the_way() {
    let setting = setting("form:client_secret", KEY);
    let answer = said(setting.client("form", "/token"));
    assert_eq!(answer["status"], 200, "{answer}");
    let answer = answer["body"].as_str().unwrap();
    assert!(answer.contains("scope=read+write") && answer.contains("***"), "{answer}");
    assert!(!leaks(answer, KEY), "redacted in every encoding: {answer}");
    let body = String::from_utf8(setting.origin.seen()[0].body.to_vec()).unwrap();
    let sent = "cs_0perator%27s%2BReal%2FKey%26%2201%5C23456789";
    assert_eq!(
        body,
        format!("grant_type=client_credentials&scope=read+write&client_secret={sent}")
    );
    assert!(setting.world.approvals().is_empty());
}

#[test]
fn a_form_that_waits_shows_a_hole_and_leaves_with_the_secret() {
    let setting = setting("form:client_secret", KEY);
    let client = setting.client("form", "/pay");
    let body = "grant_type=client_credentials&scope=read+write&client_secret={key}";
    let answer = setting.approved(client, body, "client_secret={key}");
    assert_eq!(answer["status"], 200, "{answer}");
    assert!(!leaks(answer["body"].as_str().unwrap(), KEY), "{answer}");
    let seen = setting.origin.seen();
    assert_eq!(seen.len(), 1);
    let body = String::from_utf8(seen[0].body.to_vec()).unwrap();
    assert!(body.ends_with("=cs_0perator%27s%2BReal%2FKey%26%2201%5C23456789"), "{body}");
    assert!(!body.contains(&setting.credential.fake_key));
}

#[test]
fn a_json_document_that_waits_shows_a_hole_and_leaves_with_the_secret() {
    let setting = setting("json:/auth/secret", KEY);
    let client = setting.client("json", "/pay");
    let body = r#"{"auth": {"user": "caf\u00e9", "secret": "{key}"}, "amount": 5}"#;
    let answer = setting.approved(client, body, r#""secret": "{key}""#);
    assert_eq!(answer["status"], 200, "{answer}");
    assert!(!leaks(answer["body"].as_str().unwrap(), KEY), "{answer}");
    let seen = setting.origin.seen();
    assert_eq!(seen.len(), 1);
    let read: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(read, serde_json::json!({"auth": {"user": "café", "secret": KEY}, "amount": 5}));
    assert_eq!(seen[0].headers["content-length"], seen[0].body.len().to_string());
}

#[test]
fn a_session_cookie_is_put_in_beside_the_others() {
    let setting = setting("cookie:sid", COOKIE);
    let answer = said(setting.client("cookie", "/token"));
    assert_eq!(answer["status"], 200, "{answer}");
    assert!(!leaks(answer["body"].as_str().unwrap(), COOKIE), "{answer}");
    let cookies = setting.origin.seen()[0].headers["cookie"].to_str().unwrap().to_owned();
    let mut cookies: Vec<&str> = cookies.split("; ").collect();
    cookies.sort_unstable();
    assert_eq!(cookies, [&format!("sid={COOKIE}"), "theme=dark"]);
}
