//! MCP, by its official SDK for TypeScript on both sides: a tool that reads is called freely, and one that does harm after a
//! person has agreed to exactly that call.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use countersign_tests::origin::certificate;
use countersign_tests::peers::clients;
use countersign_tests::world::Setup;
use countersign_tests::{REAL_KEY, World, eventually};
use serde_json::{Value, json};

const HOST: &str = "mcp.example.test";

/// What every client says, the tool that reads, and whatever else there is.
const POLICY: &str = r#"
version = 1

[[rule]]
name = "talk MCP"
host = "mcp.example.test"
methods = ["POST"]
path = "/mcp"
when = "body.json.method in ['initialize', 'notifications/initialized', 'notifications/cancelled', 'ping', 'tools/list']"
then = "allow"
credential = "mcp"

[[rule]]
name = "look orders up"
host = "mcp.example.test"
methods = ["POST"]
path = "/mcp"
when = "body.json.method == 'tools/call' && body.json.params.name == 'look_up'"
then = "allow"
credential = "mcp"

[[rule]]
name = "call any other tool"
host = "mcp.example.test"
methods = ["POST"]
path = "/mcp"
when = "body.json.method == 'tools/call' && body.json.params.name != 'look_up'"
then = "approve"
credential = "mcp"
"#;

/// What a program says: lines of JSON.
struct Said(std::io::Lines<BufReader<ChildStdout>>);

impl Said {
    fn next(&mut self) -> Value {
        self.heard().expect("it goes on")
    }

    fn heard(&mut self) -> Option<Value> {
        let line = self.0.next()?.unwrap();
        Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")))
    }
}

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> (Self, Said) {
        let child = command.current_dir(clients()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = child.spawn().expect("./tests/run installs what the tests need");
        let said = Said(BufReader::new(child.stdout.take().unwrap()).lines());
        (Self(child), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Setting {
    world: World,
    called: Arc<Mutex<Vec<Value>>>,
    client: Said,
    _running: [Running; 2],
}

impl Setting {
    /// A client that goes through these steps.
    fn start(steps: &Value) -> Self {
        let (ca, leaf, key) = certificate(&[HOST]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("leaf.pem"), leaf).unwrap();
        std::fs::write(folder.path().join("key.pem"), key).unwrap();
        let mut server = Command::new("node");
        server
            .arg("mcp_server.mjs")
            .args(["leaf.pem", "key.pem"].map(|name| folder.path().join(name)));
        let (server, mut said) = Running::start(server.arg(format!("Bearer {REAL_KEY}")));
        let port = said.next()["port"].as_u64().unwrap();
        let called = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&called);
        std::thread::spawn(move || {
            while let Some(call) = said.heard() {
                heard.lock().unwrap().push(call);
            }
        });

        let world = World::with(Setup {
            policy: POLICY.to_owned(),
            connect_to: vec![format!("{HOST}:443:127.0.0.1:{port}")],
            upstream_ca: vec![ca],
            ..Setup::default()
        });
        let agent = world.agent("robot");
        let mcp = world.credential("mcp", REAL_KEY, &["--host", HOST, "--slot", "header"]);
        let mut command = Command::new("node");
        command
            .args([
                "mcp_client.mjs",
                &format!("https://{HOST}/mcp"),
                &format!("Bearer {}", mcp.fake_key),
            ])
            .arg(steps.to_string())
            .env("HTTPS_PROXY", &agent.proxy)
            .env("SSL_CERT_FILE", world.edge_ca());
        let (robot, mut client) = Running::start(&mut command);
        assert_eq!(client.next(), json!(["look_up", "drop_table"]));
        Self { world, called, client, _running: [server, robot] }
    }

    fn called(&self) -> Vec<Value> {
        self.called.lock().unwrap().clone()
    }

    /// Waits until the server says that these calls came, and no others.
    fn has_called(&self, calls: &[Value]) {
        let said = || (self.called().len() >= calls.len()).then(|| self.called());
        assert_eq!(eventually("the calls", said), calls);
    }

    /// The id of what waits, and what people read of it.
    fn waiting(&self) -> (String, Value) {
        let id = self.world.approval("pending")["id"].as_str().unwrap().to_owned();
        let shown = self.world.json(&["approval", "show", &id]);
        (id, shown)
    }
}

#[test]
fn a_tool_that_reads_is_called_freely_and_a_dangerous_one_only_after_approval() {
    let drop = json!(["drop_table", { "table": "orders", "cascade": true }]);
    let mut setting = Setting::start(&json!([[["look_up", { "order": "7" }]], [drop]]));
    assert_eq!(setting.client.next(), "look_up is done");
    let (id, shown) = setting.waiting();
    assert_eq!(shown["summary"], format!("Call tool drop_table of {HOST}"));
    let facts: Vec<_> = shown["facts"].as_array().unwrap().iter().map(|it| &it["value"]).collect();
    for said in ["drop_table", "table: orders", "cascade: true"] {
        assert!(facts.iter().any(|fact| *fact == said), "{said}: {shown:#}");
    }
    let looked = json!({ "called": "look_up", "given": { "order": "7" } });
    // Nothing was dropped yet.
    setting.has_called(std::slice::from_ref(&looked));
    setting.world.ok(&["approval", "approve", &id]);
    assert_eq!(setting.client.next(), "drop_table is done");
    let dropped =
        json!({ "called": "drop_table", "given": { "table": "orders", "cascade": true } });
    setting.has_called(&[looked, dropped]);
}

#[test]
fn a_denial_reaches_the_client_as_an_error_with_its_reason() {
    let drop = json!(["drop_table", { "table": "orders" }]);
    let mut setting = Setting::start(&json!([[drop], [["look_up", { "order": "7" }]]]));
    let (id, _) = setting.waiting();
    setting.world.ok(&["approval", "deny", &id, "--reason", "keep the orders"]);
    let told = setting.client.next()["error"].clone();
    assert_eq!(
        (&told["name"], &told["code"]),
        (&json!("StreamableHTTPError"), &json!(403)),
        "{told}"
    );
    let message = told["message"].as_str().unwrap();
    assert!(
        message.contains("approval_denied") && message.contains("keep the orders"),
        "{message}"
    );
    assert_eq!(setting.client.next(), "look_up is done", "and the session goes on");
    setting.has_called(&[json!({ "called": "look_up", "given": { "order": "7" } })]);
}

#[test]
fn b_9_a_batch_that_hides_a_dangerous_call_is_held_as_a_whole() {
    let look = json!(["look_up", { "order": "7" }]);
    let drop = json!(["drop_table", { "table": "orders" }]);
    let mut setting = Setting::start(&json!([[look, drop]]));
    let (id, shown) = setting.waiting();
    assert_eq!(
        shown["summary"],
        format!("Make 2 calls at {HOST}: tool look_up and tool drop_table")
    );
    assert!(setting.called().is_empty(), "not even what reads");
    setting.world.ok(&["approval", "deny", &id]);
    assert_eq!(setting.client.next()["error"]["code"], 403);
    assert!(setting.called().is_empty());
}
