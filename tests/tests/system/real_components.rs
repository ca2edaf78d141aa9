//! Clients and upstreams that others wrote.

use std::io::Read as _;
use std::process::{Command, Stdio};

use countersign_tests::peers::{AWS_KEY, GIT_KEY, GITHUB_KEY, Peers, STRIPE_KEY, clients, tools};
use countersign_tests::{Agent, World, eventually};
use serde_json::Value;

const POLICY: &str = r#"
version = 1

[[rule]]
name = "read GitHub"
host = "api.github.com"
methods = ["GET", "HEAD"]
then = "allow"
credential = "github"

[[rule]]
name = "change GitHub"
host = "api.github.com"
methods = ["DELETE", "PATCH", "POST", "PUT"]
then = "approve"
credential = "github"

[[rule]]
name = "read Stripe"
host = "api.stripe.com"
methods = ["GET"]
then = "allow"
credential = "stripe"

[[rule]]
name = "change Stripe"
host = "api.stripe.com"
methods = ["POST", "DELETE"]
then = "approve"
credential = "stripe"

[[rule]]
name = "AWS"
host = "s3.amazonaws.com"
methods = ["GET", "HEAD"]
then = "allow"
credential = "aws"

[[rule]]
name = "git fetch"
host = "git.example.com"
then = "allow"
credential = "git"

[[rule]]
name = "git push"
host = "git.example.com"
methods = ["POST"]
path = "/{repository}/git-receive-pack"
then = "approve"
credential = "git"
"#;

struct Setting {
    peers: Peers,
    world: World,
    agent: Agent,
}

fn setting() -> Setting {
    let peers = Peers::start();
    let world = World::with(peers.setup(POLICY));
    let agent = world.agent("robot");
    Setting { peers, world, agent }
}

impl Setting {
    /// A client with the environment that `countersign env` prints.
    fn client(&self, program: &str, arguments: &[&str]) -> Command {
        let mut environment = self.world.cli(&["env", "--agent", "robot", "--format", "json"]);
        let printed =
            environment.env("COUNTERSIGN_AGENT_TOKEN", &self.agent.token).output().unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let variables: serde_json::Map<String, Value> =
            serde_json::from_slice(&printed.stdout).unwrap();
        let mut command = Command::new(program);
        command
            .current_dir(clients())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.envs(variables.iter().map(|(name, value)| (name, value.as_str().unwrap())));
        command
    }

    fn python(&self, arguments: &[&str]) -> Command {
        self.client(tools().join("python/bin/python").to_str().unwrap(), arguments)
    }

    /// What people read of an approval before they answer.
    fn sentence(&self, approval: &Value) -> String {
        let shown = self.world.json(&["approval", "show", approval["id"].as_str().unwrap()]);
        shown["summary"].as_str().unwrap_or_default().to_owned()
    }

    /// Approves what the client waits for; a client that ended before it waited says why.
    fn approve_next(&self, client: &mut std::process::Child) -> Value {
        let approval = eventually("an approval that is pending", || {
            if client.try_wait().unwrap().is_some() {
                let mut said = String::new();
                client.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("the client ended before it waited for anything: {said}");
            }
            let list = self.world.json(&["approval", "list", "--state", "pending"]);
            list.as_array().unwrap().first().cloned()
        });
        self.world.ok(&["approval", "approve", approval["id"].as_str().unwrap()]);
        approval
    }
}

fn said(child: std::process::Child) -> Value {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn the_github_sdk_reads_and_its_delete_waits_for_a_person() {
    let setting = setting();
    let github = setting.world.credential(
        "github",
        GITHUB_KEY,
        &["--host", "api.github.com", "--slot", "header"],
    );
    let mut child = setting
        .client("node", &["octokit.mjs", &github.fake_key, "octocat", "hello-world", "doomed"])
        .spawn()
        .unwrap();
    let approval = setting.approve_next(&mut child);
    assert_eq!(approval["path"], "/repos/octocat/doomed");
    assert_eq!(setting.sentence(&approval), "Delete repository octocat/doomed");
    let said = said(child);
    assert_eq!(said["read"], "octocat/hello-world");
    assert_eq!(said["removed"], 204, "{said}");
    let deletes: Vec<String> =
        setting.peers.seen().into_iter().filter(|line| line.contains(" DELETE ")).collect();
    assert_eq!(deletes.len(), 1, "{deletes:?}");
    assert!(deletes[0].contains(GITHUB_KEY) && deletes[0].contains(" 204 "), "{deletes:?}");
    assert!(
        !setting.peers.seen().iter().any(|line| line.contains(&github.fake_key)),
        "no fake key arrived"
    );
}

#[test]
fn the_stripe_sdk_lists_and_its_post_waits_for_a_person() {
    let setting = setting();
    let stripe = setting.world.credential(
        "stripe",
        STRIPE_KEY,
        &["--host", "api.stripe.com", "--slot", "header"],
    );
    assert!(
        stripe.fake_key.starts_with("sk_live_"),
        "shaped like the real one: {}",
        stripe.fake_key
    );
    let mut child = setting.python(&["stripe_sdk.py", &stripe.fake_key]).spawn().unwrap();
    let approval = setting.approve_next(&mut child);
    assert_eq!(
        (approval["method"].as_str(), approval["path"].as_str()),
        (Some("POST"), Some("/v1/customers"))
    );
    let said = said(child);
    assert_eq!(said["created"], "new@example.com", "{said}");
    let posts = setting.peers.seen().into_iter().filter(|line| line.contains(" POST ")).count();
    assert_eq!(posts, 1);
}

#[test]
fn python_requests_and_node_fetch_pass_and_are_told_of_a_denial() {
    let setting = setting();
    let github = setting.world.credential(
        "github",
        GITHUB_KEY,
        &["--host", "api.github.com", "--slot", "header"],
    );
    let authorization = format!("Bearer {}", github.fake_key);
    let url = "https://api.github.com/repos/octocat/hello-world";
    for h2 in ["0", "1"] {
        let node = said(
            setting
                .client("node", &["node_fetch.mjs", "GET", url, &authorization])
                .env("H2", h2)
                .spawn()
                .unwrap(),
        );
        assert_eq!(node["status"], 200, "{node}");
    }
    let python =
        said(setting.python(&["python_requests.py", "GET", url, &authorization]).spawn().unwrap());
    assert_eq!(python["status"], 200, "{python}");
    assert!(python["body"].as_str().unwrap().contains("hello-world"));

    let child =
        setting.python(&["python_requests.py", "DELETE", url, &authorization]).spawn().unwrap();
    let approval = setting.world.approval("pending");
    setting.world.ok(&["approval", "deny", approval["id"].as_str().unwrap()]);
    let denied = said(child);
    assert_eq!(denied["status"], 403, "{denied}");
    assert!(denied["body"].as_str().unwrap().contains("approval_denied"));
    assert!(!setting.peers.seen().iter().any(|line| line.contains(" DELETE ")));
}

#[test]
fn curl_reaches_emulated_aws_over_http_2() {
    let setting = setting();
    let aws = setting.world.credential(
        "aws",
        AWS_KEY,
        &["--host", "s3.amazonaws.com", "--slot", "header"],
    );
    let answer = setting.world.fetch(
        &setting.agent,
        &[
            "--http2",
            "-H",
            &format!("authorization: Bearer {}", aws.fake_key),
            "https://s3.amazonaws.com/",
        ],
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("invoices"), "{answer:?}");
    assert!(
        setting.peers.seen().iter().any(|line| line.contains("HTTP/2.0") && line.contains(AWS_KEY)),
        "{:?}",
        setting.peers.seen()
    );
}

#[test]
fn a_git_clone_passes_and_a_push_is_held_and_completes_after_approval() {
    let setting = setting();
    let git =
        setting.world.credential("git", GIT_KEY, &["--host", "git.example.com", "--slot", "basic"]);
    let home = tempfile::tempdir().unwrap();
    let run = |directory: &std::path::Path, arguments: &[&str]| {
        let mut command = setting.client("git", arguments);
        command.current_dir(directory).env("HOME", home.path()).env("GIT_TERMINAL_PROMPT", "0");
        command
    };
    let url = format!("https://git:{}@git.example.com/project.git", git.fake_key);
    let clone = run(home.path(), &["clone", &url, "copy"]).output().unwrap();
    assert!(clone.status.success(), "{}", String::from_utf8_lossy(&clone.stderr));
    assert!(setting.world.approvals().is_empty(), "nobody was asked");
    let copy = home.path().join("copy");
    std::fs::write(copy.join("README"), "second\n").unwrap();
    let commit =
        ["-c", "user.name=Robot", "-c", "user.email=robot@example.com", "commit", "-am", "Second"];
    assert!(run(&copy, &commit).output().unwrap().status.success());

    let head = || {
        let output = Command::new("git")
            .arg("-C")
            .arg(setting.peers.repository())
            .args(["rev-parse", "main"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let before = head();
    let push = run(&copy, &["push", "origin", "main"]).spawn().unwrap();
    let approval = setting.world.approval("pending");
    assert_eq!(approval["path"], "/project.git/git-receive-pack");
    assert_eq!(
        setting.sentence(&approval),
        "Push to project: update branch main (may rewrite its history)"
    );
    assert_eq!(head(), before, "nothing was pushed yet");
    setting.world.ok(&["approval", "approve", approval["id"].as_str().unwrap()]);
    let output = push.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_ne!(head(), before, "the push arrived");
    eventually("completed", || {
        (setting.world.json(&["approval", "show", approval["id"].as_str().unwrap()])["state"]
            == "completed")
            .then_some(())
    });
}
