//! The README's cluster page, typed as it stands.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use countersign_tests::cluster_world::{
    Errand, HOST, POLICY, Robot, SOON, WRITE_KEY, Way, free_address, program_path,
};
use countersign_tests::origin::Origin;
use http::Method;
use serde_json::Value;

use super::my_turn;

/// Commands of the first block of shell under this heading; one that goes on in the next line is one.
fn commands(readme: &str, heading: &str) -> Vec<String> {
    let (_, page) = readme.split_once(heading).expect("the heading");
    let (_, page) = page.split_once("\n```sh\n").expect("a block of shell");
    let (block, _) = page.split_once("\n```").expect("its end");
    block.replace("\\\n", "").lines().map(ToOwned::to_owned).collect()
}

/// A newcomer at a shell, in a directory that was empty.
struct Newcomer {
    dir: tempfile::TempDir,
    /// A free port for each that the page names, or takes for granted.
    ports: BTreeMap<u16, u16>,
    environment: Vec<(&'static str, String)>,
    shell: Option<Child>,
}

impl Newcomer {
    fn new(origin: &Origin) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("upstream.pem"), origin.ca_pem()).unwrap();
        let bin = program_path("countersign").parent().unwrap().to_owned();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let home = dir.path().display().to_string();
        let mut newcomer =
            Self { dir, ports: BTreeMap::new(), environment: Vec::new(), shell: None };
        let mut address = |port| format!("127.0.0.1:{}", newcomer.free(port));
        newcomer.environment = vec![
            // What nobody says, because of its default.
            ("COUNTERSIGN_API_LISTEN", address(8443)),
            ("COUNTERSIGN_GATEWAY_LISTEN", address(8444)),
            ("COUNTERSIGN_EDGE_LISTEN", address(7080)),
            ("COUNTERSIGN_EDGE_UPSTREAM_CA_FILES", "upstream.pem".into()),
            ("COUNTERSIGN_EDGE_UPSTREAM_CONNECT_TO", format!("{HOST}:443:{}", origin.address())),
            ("HOME", home.clone()),
            ("XDG_CONFIG_HOME", home),
            ("PATH", path),
            ("TOKIO_WORKER_THREADS", "1".into()),
        ];
        newcomer
    }

    fn free(&mut self, port: u16) -> u16 {
        *self.ports.entry(port).or_insert_with(|| free_address().port())
    }

    /// The same command with ports that are free.
    fn elsewhere(&mut self, command: &str) -> String {
        let mut parts = command.split("127.0.0.1:");
        let mut moved = parts.next().unwrap().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            let port = self.free(part[..end].parse().unwrap());
            moved.push_str(&format!("127.0.0.1:{port}{}", &part[end..]));
        }
        moved
    }

    fn at_work(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).env_remove("COUNTERSIGN_ADDR");
        command.env_remove("COUNTERSIGN_TOKEN").env_remove("COUNTERSIGN_CA");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Types these one after the other, and gives what is left on the screen.
    fn types(&mut self, commands: &[String]) -> String {
        let script: Vec<String> = commands.iter().map(|c| self.elsewhere(c)).collect();
        let shell = self
            .at_work("bash")
            .args(["-euo", "pipefail", "-c", &script.join("\n")])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(self.dir.path().join("screen")).unwrap())
            .stderr(std::fs::File::create(self.dir.path().join("complaints")).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        let status = self.shell.insert(shell).wait().unwrap();
        assert!(status.success(), "{status}: {}", self.everything_said());
        self.read("screen")
    }

    fn cli(&self, token: Option<&str>, arguments: &[&str], input: &str) -> Value {
        let mut command = self.at_work("countersign");
        if let Some(token) = token {
            command.env("COUNTERSIGN_TOKEN", token);
        }
        let mut running = command
            .args(arguments)
            .args(["-o", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let ran = running.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        let why = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{arguments:?}: {said}{why}");
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {said}"))
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    /// For whoever has to find out why it failed.
    fn everything_said(&self) -> String {
        let mut said = String::new();
        for name in ["screen", "complaints", "n1.log", "n2.log", "n3.log", "edge-1.log"] {
            let text = std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
            said.push_str(&format!("--- {name}\n{text}\n"));
        }
        said
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        // What runs in the background is in the shell's group.
        if let Some(shell) = &self.shell {
            let group = rustix::process::Pid::from_child(shell);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

fn eventually<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(start.elapsed() < SOON, "never came about: {what}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

#[test]
fn ten_commands_take_a_newcomer_from_three_empty_directories_to_a_cluster_with_an_edge() {
    let _turn = my_turn();
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let commands = commands(&std::fs::read_to_string(readme).unwrap(), "## Run a cluster");
    assert_eq!(commands.len(), 10, "{commands:#?}");
    let origin = Origin::start(&[HOST], WRITE_KEY);
    let mut newcomer = Newcomer::new(&origin);
    let screen = newcomer.types(&commands);
    assert!(screen.contains("2 nodes have to sign"), "{screen}");

    let status = newcomer.cli(None, &["cluster", "status"], "");
    let nodes = status["nodes"].as_array().unwrap();
    let voters: Vec<_> = nodes.iter().filter(|node| node["state"] == "voter").collect();
    assert_eq!(voters.len(), 3, "{status:#}");
    assert_eq!(status["trust_threshold"], 2, "{status:#}");
    eventually("the edge is connected", || {
        let edges = newcomer.cli(None, &["edge", "list"], "");
        (edges[0]["connected"] == true).then_some(())
    });

    // And it is good for something: a request is held, approved, and released with the real key.
    std::fs::write(newcomer.dir.path().join("policy.toml"), writing_only()).unwrap();
    let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    let ana = text(&newcomer.cli(None, &["approver", "add", "ana"], ""), "token");
    let create = ["credential", "create", "writer", "--host", HOST, "--slot", "header"];
    let fake_key = text(&newcomer.cli(None, &create, WRITE_KEY), "fake_key");
    newcomer.cli(None, &["policy", "set", "policy.toml"], "");
    let token = text(&newcomer.cli(None, &["agent", "create", "robot"], ""), "token");
    let robot = Robot::new("robot", token, (fake_key.clone(), fake_key));
    let proxy = ([127, 0, 0, 1], newcomer.free(7080)).into();
    let way = Way { proxy, ca_pem: newcomer.read("edge-1/edge-ca.pem") };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    eventually("the edge knows the agent", || runtime.block_on(robot.is_known(&way)).then_some(()));
    let errand = Errand::new(Method::DELETE, HOST, "/newcomer");
    let sent = runtime.spawn(async move { robot.send(&way, &errand).await });
    let id = eventually("somebody is asked", || {
        let pending = newcomer.cli(Some(&ana), &["approval", "list"], "");
        Some(text(pending.as_array()?.first()?, "id"))
    });
    assert!(origin.seen().is_empty(), "it is held");
    newcomer.cli(Some(&ana), &["approval", "approve", &id], "");
    let reply = runtime.block_on(sent).unwrap().unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    let seen = origin.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].carries(WRITE_KEY) && seen[0].target == "/newcomer", "{:?}", seen[0]);
}

/// The worlds' policy without what it says of reading.
fn writing_only() -> String {
    let (_, rest) = POLICY.split_once("[[rule]]").unwrap();
    let (_, rules) = rest.split_once("[[rule]]").unwrap();
    format!("version = 1\n\n[[rule]]{}", rules.replace("\"ana\", \"bo\"", "\"ana\""))
}
