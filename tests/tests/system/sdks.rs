//! SDKs as their vendors ship them, unchanged: each reads freely, streams where it can, and its dangerous call waits for
//! a person. Their services are an upstream of ours, which answers as the vendors' references say.

use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use countersign_tests::peers::{clients, tools};
use countersign_tests::{Origin, REAL_KEY, Seen, World};
use http::{Method, Response};
use http_body_util::Full;
use serde_json::{Value, json};

const HOSTS: [&str; 3] = ["api.openai.com", "api.anthropic.com", "slack.com"];
const POLICY: &str = r#"
version = 1

[[rule]]
name = "use OpenAI"
host = "api.openai.com"
methods = ["GET", "POST"]
then = "allow"
credential = "openai"

[[rule]]
name = "delete at OpenAI"
host = "api.openai.com"
methods = ["DELETE"]
then = "approve"
credential = "openai"

[[rule]]
name = "use Anthropic"
host = "api.anthropic.com"
methods = ["GET", "POST"]
then = "allow"
credential = "anthropic"

[[rule]]
name = "delete at Anthropic"
host = "api.anthropic.com"
methods = ["DELETE"]
then = "approve"
credential = "anthropic"

[[rule]]
name = "use Slack"
host = "slack.com"
methods = ["GET", "POST"]
path = "/api/{method}"
then = "allow"
credential = "slack"

[[rule]]
name = "delete in Slack"
host = "slack.com"
methods = ["POST"]
path = "/api/chat.delete"
then = "approve"
credential = "slack"
"#;

/// What each service says to whoever brings the real key.
fn services() -> Origin {
    Origin::with(&HOSTS, |seen| {
        if seen.credential() != Some(&format!("Bearer {REAL_KEY}")) {
            return answer(401, "application/json", r#"{"ok":false,"error":"no key"}"#.into());
        }
        let path = seen.target.split('?').next().unwrap_or_default();
        match (seen.host.as_str(), &seen.method, path) {
            ("api.openai.com", &Method::GET, "/v1/models") => object(&json!({
                "object": "list",
                "data": [{"id": "gpt-test", "object": "model", "created": 1, "owned_by": "us"}],
            })),
            ("api.openai.com", &Method::POST, "/v1/chat/completions") => completion(),
            ("api.openai.com", &Method::DELETE, "/v1/files/file-doomed") => {
                object(&json!({"id": "file-doomed", "object": "file", "deleted": true}))
            }
            ("api.anthropic.com", &Method::GET, "/v1/models") => object(&json!({
                "data": [{
                    "id": "claude-test",
                    "type": "model",
                    "display_name": "Test",
                    "created_at": "2026-01-01T00:00:00Z",
                }],
                "has_more": false,
                "first_id": "claude-test",
                "last_id": "claude-test",
            })),
            ("api.anthropic.com", &Method::POST, "/v1/messages") => message(),
            ("api.anthropic.com", &Method::DELETE, "/v1/files/file_doomed") => {
                object(&json!({"id": "file_doomed", "type": "file_deleted"}))
            }
            ("slack.com", _, "/api/conversations.list") => object(&json!({
                "ok": true,
                "channels": [{"id": "C0100", "name": "general"}],
                "response_metadata": {"next_cursor": ""},
            })),
            ("slack.com", &Method::POST, "/api/chat.delete") => {
                object(&json!({"ok": true, "channel": "C0100", "ts": "1700000000.000100"}))
            }
            _ => answer(404, "application/json", r#"{"ok":false,"error":"unknown"}"#.into()),
        }
    })
}

/// A streamed completion as OpenAI sends it.
fn completion() -> Response<Full<Bytes>> {
    let chunk = |text: &str| {
        json!({
            "id": "c1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "gpt-test",
            "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}],
        })
    };
    let text = format!("data: {}\n\ndata: {}\n\ndata: [DONE]\n\n", chunk("hel"), chunk("lo"));
    answer(200, "text/event-stream", text)
}

/// A streamed message as Anthropic sends it.
fn message() -> Response<Full<Bytes>> {
    let usage = json!({"input_tokens": 1, "output_tokens": 2});
    let message = json!({
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-test",
        "stop_reason": null,
        "stop_sequence": null,
        "usage": usage,
    });
    let delta = |text: &str| json!({"index": 0, "delta": {"type": "text_delta", "text": text}});
    let end = json!({"stop_reason": "end_turn", "stop_sequence": null});
    let all = [
        ("message_start", json!({"message": message})),
        ("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
        ("content_block_delta", delta("hel")),
        ("content_block_delta", delta("lo")),
        ("content_block_stop", json!({"index": 0})),
        ("message_delta", json!({"delta": end, "usage": usage})),
        ("message_stop", json!({})),
    ];
    let text = all.into_iter().map(|(name, mut data)| {
        data["type"] = name.into();
        format!("event: {name}\ndata: {data}\n\n")
    });
    answer(200, "text/event-stream", text.collect())
}

fn object(value: &Value) -> Response<Full<Bytes>> {
    answer(200, "application/json", value.to_string())
}

fn answer(status: u16, kind: &str, body: String) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status).header("content-type", kind);
    builder.body(Full::new(body.into())).unwrap()
}

struct Setting {
    origin: Origin,
    world: World,
}

impl Setting {
    fn new() -> Self {
        let origin = services();
        let world = World::start(&origin, &HOSTS, POLICY);
        Self { origin, world }
    }

    /// Runs the SDK's script with a fake key, in the environment that `countersign env` prints.
    fn start(&self, script: &str, fake_key: &str) -> Child {
        let agent = self.world.agent("robot");
        let printed = self
            .world
            .cli(&["env", "--agent", "robot", "--format", "json"])
            .env("COUNTERSIGN_AGENT_TOKEN", &agent.token)
            .output()
            .unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let variables: Value = serde_json::from_slice(&printed.stdout).unwrap();
        let variables = variables.as_object().unwrap().iter();
        Command::new(tools().join("python/bin/python"))
            .current_dir(clients())
            .args([script, fake_key])
            .envs(variables.map(|(name, value)| (name, value.as_str().unwrap())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// How many requests of this kind reached the upstream; every one of all with the real key.
    fn arrived(&self, of: impl Fn(&Seen) -> bool) -> usize {
        let seen = self.origin.seen();
        assert!(seen.iter().all(|seen| seen.carries(REAL_KEY)), "{seen:?}");
        seen.iter().filter(|seen| of(seen)).count()
    }

    /// The one approval that the SDK's last call waits for, once it is there, with the sentence that people read.
    fn held(&self, path: &str, sentence: &str) -> String {
        let approval = self.world.approval("pending");
        assert_eq!(approval["path"], path, "{approval}");
        let id = approval["id"].as_str().unwrap().to_owned();
        assert_eq!(self.world.json(&["approval", "show", &id])["summary"], sentence);
        id
    }
}

fn said(child: Child) -> Value {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

fn is_delete(seen: &Seen) -> bool {
    seen.method == Method::DELETE
}

#[test]
fn the_openai_sdk_reads_and_streams_and_its_delete_waits_for_a_person() {
    let setting = Setting::new();
    let arguments = ["--host", "api.openai.com", "--slot", "header"];
    let openai = setting.world.credential("openai", REAL_KEY, &arguments);
    let child = setting.start("openai_sdk.py", &openai.fake_key);
    let approval = setting.held("/v1/files/file-doomed", "Delete file file-doomed");
    assert_eq!(setting.arrived(is_delete), 0, "nothing left before the answer");
    setting.world.ok(&["approval", "approve", &approval]);
    let said = said(child);
    assert_eq!(said["models"], json!(["gpt-test"]), "{said}");
    assert_eq!(said["streamed"], "hello", "{said}");
    assert_eq!(said["deleted"], true, "{said}");
    assert_eq!(setting.arrived(is_delete), 1);
}

#[test]
fn the_anthropic_sdk_reads_and_streams_and_its_delete_waits_for_a_person() {
    let setting = Setting::new();
    let arguments = ["--host", "api.anthropic.com", "--slot", "header"];
    let anthropic = setting.world.credential("anthropic", REAL_KEY, &arguments);
    let child = setting.start("anthropic_sdk.py", &anthropic.fake_key);
    let approval = setting.held("/v1/files/file_doomed", "Delete file file_doomed");
    assert_eq!(setting.arrived(is_delete), 0, "nothing left before the answer");
    setting.world.ok(&["approval", "approve", &approval]);
    let said = said(child);
    assert_eq!(said["models"], json!(["claude-test"]), "{said}");
    assert_eq!(said["streamed"], "hello", "{said}");
    assert_eq!(said["deleted"], "file_doomed", "{said}");
    assert_eq!(setting.arrived(is_delete), 1);
}

#[test]
fn the_slack_sdk_lists_and_its_delete_that_is_denied_never_leaves() {
    let setting = Setting::new();
    let arguments = ["--host", "slack.com", "--slot", "header"];
    let slack = setting.world.credential("slack", REAL_KEY, &arguments);
    let child = setting.start("slack_sdk_web.py", &slack.fake_key);
    let approval = setting.held("/api/chat.delete", "Delete message 1700000000.000100 in C0100");
    setting.world.ok(&["approval", "deny", &approval, "--reason", "keep it"]);
    let said = said(child);
    assert_eq!(said["channels"], json!(["general"]), "{said}");
    assert_eq!(said["refused"]["status"], 403, "{said}");
    assert!(said["refused"]["body"].as_str().unwrap().contains("keep it"), "{said}");
    assert_eq!(setting.arrived(|seen| seen.target == "/api/chat.delete"), 0);
}
