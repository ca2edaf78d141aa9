//! How an agent waits: at `countersign.local`, through the CLI, and through MCP; and that it decides nothing by it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use countersign_tests::peers::{clients, tools};
use countersign_tests::world::binary;
use countersign_tests::{Agent, REAL_KEY, World, eventually};
use http::Method;
use serde_json::{Value, json};

use super::request_path::{bearer, world};

const URL: &str = "https://api.example.test/v1/projects/42";

/// A delete whose client has had its 503: the approval's id.
fn held(world: &World, agent: &Agent, credential: &countersign_tests::Credential) -> String {
    let answer = world.fetch(agent, &delete(&bearer(credential)));
    assert_eq!((answer.status, answer.code().as_str()), (503, "approval_pending"), "{answer:?}");
    answer.header("countersign-approval-id").expect("an id").to_owned()
}

fn delete(authorization: &str) -> [&str; 7] {
    ["-X", "DELETE", "-H", authorization, "-H", "countersign-approval-wait: 1", URL]
}

fn local(path: &str) -> String {
    format!("https://countersign.local{path}")
}

#[test]
fn an_agent_waits_at_countersign_local_and_nobody_else_sees_its_approval() {
    let (origin, world, agent, credential) = world();
    let id = held(&world, &agent, &credential);
    let listed = world.fetch(&agent, &[&local("/approvals")]);
    assert_eq!(listed.status, 200, "{listed:?}");
    let listed: Value = serde_json::from_str(&listed.body).unwrap();
    assert_eq!(listed["approvals"][0]["id"], id.as_str());
    assert_eq!(listed["approvals"][0]["url"], URL);

    let other = world.agent("other");
    let path = local(&format!("/approvals/{id}"));
    let foreign = world.fetch(&other, &[&path]);
    let unknown = world.fetch(&other, &[&local(&format!("/approvals/{}", "0".repeat(32)))]);
    assert_eq!((foreign.status, foreign.code().as_str()), (404, "approval_not_found"));
    assert_eq!(foreign.body, unknown.body, "the same as of one that there is not");
    let none = world.fetch(&other, &[&local("/approvals")]);
    assert_eq!(serde_json::from_str::<Value>(&none.body).unwrap(), json!({ "approvals": [] }));

    let waiting = world.fetch_later(&agent, &[&format!("{path}?wait=50")]);
    world.ok(&["approval", "approve", &id]);
    let answer = waiting.answer();
    let seen: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, &seen["state"]), (200, &"approved".into()), "{answer:?}");
    assert_eq!(origin.count(&Method::DELETE), 0, "to ask releases nothing");
    assert_eq!(world.fetch(&agent, &delete(&bearer(&credential))).status, 200);
    assert_eq!(origin.count(&Method::DELETE), 1);
}

#[test]
fn an_agents_votes_change_nothing_wherever_it_sends_them() {
    let (origin, world, agent, credential) = world();
    let id = held(&world, &agent, &credential);
    let vote = r#"{"decision":"approve","approver":"admin"}"#;
    let bearer = format!("authorization: Bearer {}", agent.token);
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for path in ["", "/approve", "/vote", "/votes", "/result"] {
            let url = local(&format!("/approvals/{id}{path}"));
            let answer = world.fetch(&agent, &["-X", method, "-H", &bearer, "-d", vote, &url]);
            assert_eq!(answer.status, 405, "{method} {url}: {answer:?}");
        }
    }
    // Its token is worth nothing at the control plane either.
    for arguments in [["approval", "approve", &id], ["approval", "show", &id]] {
        let refused = world.cli_as(&agent.token, &arguments).output().unwrap();
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    }
    let shown = world.json(&["approval", "show", &id]);
    assert_eq!((&shown["state"], &shown["votes"]), (&"pending".into(), &json!([])));
    assert!(origin.seen().is_empty());
}

/// The CLI as the agent has it: its proxy, and no token of ours.
fn as_agent(world: &World, agent: &Agent, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .current_dir(std::env::temp_dir())
        .env_clear()
        .env("HOME", world.dir().join("nobody"))
        .env("COUNTERSIGN_PROXY", &agent.proxy)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn an_agent_waits_with_the_command_line_and_the_exit_code_says_how_it_ended() {
    let (_origin, mut world, agent, credential) = world();
    let id = held(&world, &agent, &credential);
    let mut waiting = as_agent(&world, &agent, &["approval", "wait", &id]).spawn().unwrap();
    let limited = ["approval", "wait", &id, "--timeout", "1s"];
    let limited = as_agent(&world, &agent, &limited).output().unwrap();
    assert_eq!(limited.status.code(), Some(1), "{limited:?}");
    assert!(String::from_utf8_lossy(&limited.stderr).contains("wait again"), "{limited:?}");
    assert!(waiting.try_wait().unwrap().is_none(), "it waits");
    world.ok(&["approval", "approve", &id]);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("is approved"), "{output:?}");

    let other = world.agent("other");
    let foreign = as_agent(&world, &other, &["approval", "wait", &id]).output().unwrap();
    assert_eq!(foreign.status.code(), Some(1), "{foreign:?}");

    assert_eq!(world.fetch(&agent, &delete(&bearer(&credential))).status, 200);
    eventually("the outcome", || {
        (world.json(&["approval", "show", &id])["state"] == "completed").then_some(())
    });
    let denied = held(&world, &agent, &credential);
    world.ok(&["approval", "deny", &denied, "--reason", "not today"]);
    let given = ["approval", "wait", &denied, "-o", "json", "--proxy", &agent.proxy];
    let output = as_agent(&world, &agent, &given).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["state"], "denied");
    assert!(said["reason"].as_str().unwrap().contains("not today"));

    let nowhere = ["approval", "wait", &denied, "--proxy", "http://robot:token@127.0.0.1:1"];
    let output = as_agent(&world, &agent, &nowhere).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let wrong = agent.proxy.replace(&agent.token, "another");
    let output = as_agent(&world, &agent, &["approval", "wait", &denied, "--proxy", &wrong])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = format!("{output:?}");
    assert!(!said.contains("another") && said.contains("HTTPS_PROXY"), "{said}");
    world.kill();
}

/// The official Python client, with `countersign mcp` behind it.
struct Model {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    opening: Value,
}

impl Model {
    fn start(world: &World, agent: &Agent) -> Self {
        let mut command = Command::new(tools().join("python/bin/python"));
        command
            .current_dir(clients())
            .env_clear()
            .env("HOME", world.dir())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HTTPS_PROXY", &agent.proxy)
            .arg("mcp_client.py")
            .arg(binary())
            .arg("mcp")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("./tests/run setup installs Python and its mcp");
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut model = Self { child, to, from: BufReader::new(from), opening: Value::Null };
        model.opening = model.hear();
        model
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    fn say(&mut self, tool: &str, arguments: Value) {
        writeln!(self.to, "{}", json!({ "tool": tool, "arguments": arguments })).unwrap();
    }

    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.say(tool, arguments);
        self.hear()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {result}"))
}

#[test]
fn a_model_waits_through_mcp_while_a_person_approves() {
    let (origin, world, agent, credential) = world();
    let id = held(&world, &agent, &credential);
    let mut model = Model::start(&world, &agent);
    assert_eq!(model.opening["about"]["serverInfo"]["name"], "countersign");
    let names: Vec<&str> = model.opening["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["list_held_requests", "explain_held_request", "wait_for_approval", "get_parked_result"],
        "none of them decides"
    );

    let listed = model.call("list_held_requests", json!({}));
    assert!(text(&listed).contains(&id) && text(&listed).contains("1 of these 1"), "{listed}");
    let explained = model.call("explain_held_request", json!({ "approval_id": id }));
    assert!(text(&explained).contains("\"change\""), "the rule: {explained}");
    assert!(text(&explained).contains("identical request"), "what to do: {explained}");
    let pending = model.call("wait_for_approval", json!({ "approval_id": id, "seconds": 1 }));
    assert!(text(&pending).starts_with("Still pending"), "{pending}");
    assert!(text(&pending).contains("Call wait_for_approval again"), "{pending}");

    model.say("wait_for_approval", json!({ "approval_id": id, "seconds": 50 }));
    world.ok(&["approval", "approve", &id]);
    let approved = model.hear();
    assert_ne!(approved["isError"], true, "{approved}");
    assert_eq!(approved["structuredContent"]["state"], "approved");
    assert!(text(&approved).contains("Repeat the identical request now"), "{approved}");
    assert_eq!(origin.count(&Method::DELETE), 0, "to wait releases nothing");
    assert_eq!(world.fetch(&agent, &delete(&bearer(&credential))).status, 200);
    assert_eq!(origin.count(&Method::DELETE), 1);
}

#[test]
fn a_model_is_told_what_is_wrong_and_can_decide_nothing() {
    let (origin, world, agent, credential) = world();
    let id = held(&world, &agent, &credential);
    let mut model = Model::start(&world, &agent);
    for tool in ["approve", "deny", "vote_approval", "approval/approve", "decide"] {
        let refused = model.call(tool, json!({ "approval_id": id, "decision": "approve" }));
        assert!(refused.to_string().contains("no tool"), "{refused}");
    }
    for tool in ["explain_held_request", "wait_for_approval"] {
        let arguments =
            json!({ "approval_id": id, "seconds": 0, "decision": "approve", "state": "approved" });
        let answer = model.call(tool, arguments);
        assert_eq!(answer["structuredContent"]["state"], "pending", "{answer}");
    }
    let shown = world.json(&["approval", "show", &id]);
    assert_eq!((&shown["state"], &shown["votes"]), (&"pending".into(), &json!([])));

    let unknown = model.call("wait_for_approval", json!({ "approval_id": "0".repeat(32) }));
    assert_eq!(unknown["isError"], true, "{unknown}");
    assert!(text(&unknown).contains("approval_not_found"), "{unknown}");
    let odd = model.call("explain_held_request", json!({ "approval_id": "../admin" }));
    assert!(text(&odd).contains("32 hexadecimal digits"), "{odd}");
    let missing = model.call("wait_for_approval", json!({}));
    assert!(text(&missing).contains("approval_id is missing"), "{missing}");
    let none = model.call("get_parked_result", json!({ "approval_id": id }));
    assert!(text(&none).contains("result_not_parked"), "{none}");
    assert!(origin.seen().is_empty());

    // Another agent's model sees nothing of it.
    let mut other = Model::start(&world, &world.agent("other"));
    let listed = other.call("list_held_requests", json!({}));
    assert!(text(&listed).starts_with("No request of this agent is held"), "{listed}");
    let foreign = other.call("explain_held_request", json!({ "approval_id": id }));
    assert!(text(&foreign).contains("approval_not_found"), "{foreign}");
    assert!(!format!("{listed}{foreign}").contains(REAL_KEY));
}
