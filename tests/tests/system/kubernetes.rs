//! kubectl, as it comes: what it reads passes, what it changes waits for a person, and what it would go on through without end is
//! refused in words that its user sees.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use countersign_tests::kubernetes::{ApiServer, HOST};
use countersign_tests::world::Setup;
use countersign_tests::{REAL_KEY, World};
use http::Method;
use serde_json::Value;

const READY_MADE: &str = include_str!("../../../deploy/policies/services/kubernetes.toml");

/// Commands, terminals and ports of the pods of one namespace, with a key of their own.
const SANDBOX: &str = r#"
version = 1

[[rule]]
name = "look"
host = "kubernetes.default.svc"
methods = ["GET"]
then = "allow"
credential = "kube"

[[rule]]
name = "commands in the sandbox"
host = "kubernetes.default.svc"
methods = ["GET", "POST"]
path = "/api/v1/namespaces/sandbox/pods/{pod}/exec"
then = "allow"
credential = "kube"
upgrade = "websocket"
max_bytes = "1MiB"
max_time = "10m"

[[rule]]
name = "terminals in the sandbox"
host = "kubernetes.default.svc"
methods = ["GET", "POST"]
path = "/api/v1/namespaces/sandbox/pods/{pod}/attach"
then = "allow"
credential = "kube"
upgrade = "websocket"

[[rule]]
name = "ports in the sandbox"
host = "kubernetes.default.svc"
methods = ["GET", "POST"]
path = "/api/v1/namespaces/sandbox/pods/{pod}/portforward"
then = "allow"
credential = "kube"
upgrade = "websocket"
"#;

const ASKED: &str = r#"
version = 1

[[rule]]
name = "look"
host = "kubernetes.default.svc"
methods = ["GET"]
then = "observe"
credential = "kube"

[[rule]]
name = "commands"
host = "kubernetes.default.svc"
methods = ["GET", "POST"]
path = "/api/v1/namespaces/{namespace}/pods/{pod}/exec"
then = "approve"
credential = "kube"
"#;

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: prod}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:2"}]}
"#;

struct Setting {
    server: ApiServer,
    world: World,
    proxy: String,
}

impl Setting {
    fn new(policy: &str) -> Self {
        let server = ApiServer::start(REAL_KEY);
        let world = World::with(Setup {
            policy: policy.to_owned(),
            connect_to: vec![format!("{HOST}:443:127.0.0.1:{}", server.address().port())],
            upstream_ca: vec![server.ca_pem().to_owned()],
            ..Setup::default()
        });
        let proxy = world.agent("ops-bot").proxy;
        let kube = world.credential("kube", REAL_KEY, &["--host", HOST, "--slot", "header"]);
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "it",
                "cluster": { "server": format!("https://{HOST}"), "certificate-authority": world.edge_ca() },
            }],
            "users": [{ "name": "it", "user": { "token": kube.fake_key } }],
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it", "namespace": "prod" } }],
            "current-context": "it",
        });
        std::fs::write(world.dir().join("kubeconfig"), config.to_string()).unwrap();
        std::fs::write(world.dir().join("web.yaml"), MANIFEST).unwrap();
        Self { server, world, proxy }
    }

    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .current_dir(self.world.dir())
            .env("KUBECONFIG", self.world.dir().join("kubeconfig"))
            .env("HOME", self.world.dir())
            .env("HTTPS_PROXY", &self.proxy)
            .env_remove("NO_PROXY")
            .env_remove("no_proxy")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> (bool, String) {
        said(self.kubectl(arguments).output().expect("./tests/run installs kubectl"))
    }

    /// Starts it, and waits until a person is asked: what they read, and how to answer.
    fn held(&self, arguments: &[&str]) -> (Child, String, String) {
        let child = self.kubectl(arguments).spawn().expect("./tests/run installs kubectl");
        let id = self.world.approval("pending")["id"].as_str().unwrap().to_owned();
        let shown = self.world.json(&["approval", "show", &id]);
        (child, id, shown["summary"].as_str().unwrap_or_default().to_owned())
    }

    /// Every request that reached the API server and is no mere look.
    fn effects(&self) -> Vec<String> {
        let seen = self.server.seen().into_iter();
        let seen = seen.inspect(|seen| {
            assert_eq!(seen.credential(), Some(&*format!("Bearer {REAL_KEY}")), "{}", seen.target);
        });
        let looks = |target: &str| {
            !["/exec", "/attach", "/portforward"].iter().any(|it| target.contains(it))
        };
        let effects = seen.filter(|seen| seen.method != Method::GET || !looks(&seen.target));
        effects.map(|seen| format!("{} {}", seen.method, seen.target)).collect()
    }
}

fn said(output: Output) -> (bool, String) {
    let all = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&all).into_owned())
}

/// Whether this kubectl opens WebSockets. Older ones know SPDY alone.
fn opens_websockets(setting: &Setting) -> bool {
    let (_, version) = setting.run(&["version", "--client", "-o", "json"]);
    let version: Value = serde_json::from_str(&version).unwrap();
    let minor = version["clientVersion"]["minor"].as_str().unwrap();
    minor.trim_end_matches('+').parse::<u32>().unwrap() >= 31
}

/// The ready-made policy, asking whoever there is.
fn ready_made() -> String {
    let asks = ["approvers", "quorum", "critical"];
    let lines = READY_MADE.lines().filter(|line| !asks.iter().any(|key| line.starts_with(key)));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn kubectl_reads_and_what_it_changes_waits_for_a_person() {
    let setting = Setting::new(&ready_made());
    let (fine, listed) = setting.run(&["get", "pods"]);
    assert!(fine && listed.contains("web-1") && listed.contains("web-2"), "{listed}");
    let (fine, read) =
        setting.run(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"]);
    assert!(fine && read == "3", "{read}");
    assert!(setting.world.approvals().is_empty(), "nobody was asked");

    let (child, id, sentence) = setting.held(&["delete", "pod", "web-1", "--wait=false"]);
    assert_eq!(sentence, "Delete pod web-1 in namespace prod");
    assert_eq!(setting.server.pods(), ["web-1", "web-2"], "nothing happened yet");
    setting.world.ok(&["approval", "approve", &id]);
    let (fine, told) = said(child.wait_with_output().unwrap());
    assert!(fine && told.contains("pod \"web-1\" deleted"), "{told}");
    assert_eq!(setting.server.pods(), ["web-2"]);

    let (child, id, sentence) = setting.held(&["scale", "deployment/web", "--replicas=0"]);
    assert_eq!(sentence, "Scale deployment web in namespace prod to 0");
    assert_eq!(setting.server.replicas(), 3, "nothing happened yet");
    setting.world.ok(&["approval", "approve", &id]);
    let (fine, told) = said(child.wait_with_output().unwrap());
    assert!(fine && told.contains("scaled"), "{told}");
    assert_eq!(setting.server.replicas(), 0);

    let (child, id, sentence) = setting.held(&["apply", "--validate=false", "-f", "web.yaml"]);
    assert_eq!(sentence, "Change deployment web in namespace prod");
    setting.world.ok(&["approval", "approve", &id]);
    let (fine, told) = said(child.wait_with_output().unwrap());
    assert!(fine && told.contains("configured"), "{told}");
    assert_eq!(setting.server.image(), "web:2");
    assert_eq!(setting.effects().len(), 3, "{:?}", setting.effects());
}

#[test]
fn a_denial_is_told_to_kubectls_user_and_nothing_is_deleted() {
    let setting = Setting::new(&ready_made());
    let (child, id, _) = setting.held(&["delete", "pod", "web-1", "--wait=false"]);
    setting.world.ok(&["approval", "deny", &id, "--reason", "it is the last one"]);
    let (fine, told) = said(child.wait_with_output().unwrap());
    assert!(!fine && told.contains("Error from server (Forbidden)"), "{told}");
    assert!(
        told.contains("a person was asked and said no (denied by admin: it is the last one)"),
        "{told}"
    );
    assert_eq!(setting.server.pods(), ["web-1", "web-2"]);
    let (fine, told) = setting.run(&["get", "secrets"]);
    assert!(!fine, "{told}");
    assert!(setting.effects().is_empty(), "{:?}", setting.effects());
}

#[test]
fn u_1_u_2_commands_terminals_and_ports_are_refused_with_the_rules_reason_and_never_tunnelled() {
    let setting = Setting::new(&ready_made());
    for arguments in [
        &["exec", "web-1", "-c", "web", "--", "id"][..],
        &["attach", "web-1", "-c", "web"],
        &["port-forward", "pod/web-1", "0:80"],
    ] {
        for websockets in ["true", "false"] {
            let mut command = setting.kubectl(arguments);
            command
                .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
                .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
            let (fine, told) = said(command.output().unwrap());
            assert!(!fine, "{arguments:?}: {told}");
            assert!(told.contains("nobody can agree to that beforehand"), "{arguments:?}: {told}");
        }
    }
    assert!(setting.world.approvals().is_empty(), "nobody was asked");
    assert!(setting.effects().is_empty(), "{:?}", setting.effects());
}

#[test]
fn u_1_a_command_that_people_would_be_asked_about_asks_nobody_and_kubectl_says_why() {
    let setting = Setting::new(ASKED);
    let (fine, told) = setting.run(&["exec", "web-1", "-c", "web", "--", "id"]);
    assert!(!fine && told.contains("one answer must not open a connection"), "{told}");
    assert!(setting.world.approvals().is_empty(), "nobody was asked");
    assert!(setting.effects().is_empty(), "{:?}", setting.effects());
}

#[test]
fn where_a_rule_says_so_a_command_is_a_websocket_without_the_key_in_what_it_says() {
    let setting = Setting::new(SANDBOX);
    let exec = ["--namespace=sandbox", "exec", "web-1", "-c", "web", "--", "id"];
    // What is no WebSocket is not let through there either.
    let mut spdy = setting.kubectl(&exec);
    spdy.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
    let (fine, told) = said(spdy.output().unwrap());
    assert!(!fine && told.contains("it asks to go on as SPDY/3.1"), "{told}");
    assert!(setting.effects().is_empty(), "{:?}", setting.effects());
    // In another namespace it is no WebSocket, and no command.
    let (fine, told) = setting.run(&["exec", "web-1", "-c", "web", "--", "id"]);
    assert!(!fine, "{told}");
    if !opens_websockets(&setting) {
        return;
    }
    for arguments in [&exec[..], &["--namespace=sandbox", "attach", "web-1", "-c", "web"]] {
        let (fine, told) = setting.run(arguments);
        assert!(fine, "{arguments:?}: {told}");
        let hidden = format!("my token is {}", "*".repeat(REAL_KEY.len()));
        assert!(told.contains(&hidden) && !told.contains(REAL_KEY), "{told}");
    }
    let mut forward = setting
        .kubectl(&["--namespace=sandbox", "port-forward", "pod/web-1", "0:80"])
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(forward.stdout.take().unwrap()).read_line(&mut first).unwrap();
    forward.kill().unwrap();
    let (_, rest) = said(forward.wait_with_output().unwrap());
    assert!(first.starts_with("Forwarding from 127.0.0.1:"), "{first}{rest}");
    let opened = setting.effects();
    let opened: Vec<_> = opened.iter().filter(|it| it.contains("/namespaces/sandbox/")).collect();
    assert_eq!(opened.len(), 3, "{opened:?}");
    assert!(opened.iter().all(|it| it.starts_with("GET ")), "{opened:?}");
}
