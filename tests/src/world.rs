//! One running Countersign, and the people and agents around it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::origin::Origin;

/// Polls until `fact` gives something; panics after 20 s, saying what never came about.
pub fn eventually<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "never came about: {what}");
        std::thread::park_timeout(Duration::from_millis(25));
    }
}

/// The binary under test, built by `./tests/run` (or `cargo build`).
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("COUNTERSIGN_BIN") {
        return path.into();
    }
    let exe = std::env::current_exe().unwrap();
    let path = exe.ancestors().nth(2).unwrap().join("countersign");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build` first, as ./tests/run does",
        path.display()
    );
    path
}

/// Which upstreams the edge may reach, and how.
#[derive(Default)]
pub struct Setup {
    pub policy: String,
    /// `HOST:PORT:ADDR:PORT`, as curl writes it.
    pub connect_to: Vec<String>,
    pub upstream_ca: Vec<String>,
    pub extra: Vec<String>,
    pub environment: Vec<(String, String)>,
}

pub struct World {
    dir: TempDir,
    setup: Setup,
    running: Option<Child>,
    ready: Value,
}

/// An agent as the CLI made it.
#[derive(Clone, Debug)]
pub struct Agent {
    pub name: String,
    pub token: String,
    pub proxy: String,
}

#[derive(Clone, Debug)]
pub struct Credential {
    pub name: String,
    pub fake_key: String,
}

/// What curl said.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
    pub exit: i32,
    pub stderr: String,
}

impl Answer {
    /// `code` of the problem+json body.
    pub fn code(&self) -> String {
        let problem: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not a problem: {self:?}"));
        problem["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}")).to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines().filter_map(|line| line.split_once(':'));
        lines
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .next_back()
    }
}

impl World {
    /// A world whose agents reach `origin` under each of `hosts` (port 443).
    pub fn start(origin: &Origin, hosts: &[&str], policy: &str) -> Self {
        let connect_to = hosts
            .iter()
            .map(|host| format!("{host}:443:127.0.0.1:{}", origin.address().port()))
            .collect();
        let upstream_ca = vec![origin.ca_pem().to_owned()];
        Self::with(Setup { policy: policy.to_owned(), connect_to, upstream_ca, ..Setup::default() })
    }

    pub fn with(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy.toml"), &setup.policy).unwrap();
        for (position, pem) in setup.upstream_ca.iter().enumerate() {
            std::fs::write(dir.path().join(format!("upstream-{position}.pem")), pem).unwrap();
        }
        let mut world = Self { dir, setup, running: None, ready: Value::Null };
        world.run();
        world
    }

    /// Starts `countersign dev` on this world's directory and waits until it serves.
    pub fn run(&mut self) {
        assert!(self.running.is_none(), "already running");
        let ready = self.dir.path().join("ready.json");
        let _ = std::fs::remove_file(&ready);
        let mut child = self.command().spawn().expect("countersign dev starts");
        self.ready = eventually("the ready file", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("countersign dev ended with {status}:\n{}", self.log());
            }
            serde_json::from_str(&std::fs::read_to_string(&ready).ok()?).ok()
        });
        self.running = Some(child);
    }

    fn command(&self) -> Command {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("dev.log"))
            .unwrap();
        let mut command = Command::new(binary());
        command
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .arg("dev");
        for (flag, value) in [
            ("--data-dir", "data"),
            ("--ready-file", "ready.json"),
            ("--edge-listen", "127.0.0.1:0"),
            ("--api-listen", "127.0.0.1:0"),
            ("--web-listen", "127.0.0.1:0"),
        ] {
            command.args([flag, value]);
        }
        if !self.setup.policy.is_empty() {
            command.args(["--policy", "policy.toml"]);
        }
        for position in 0..self.setup.upstream_ca.len() {
            command.arg("--upstream-ca").arg(format!("upstream-{position}.pem"));
        }
        for rule in &self.setup.connect_to {
            command.args(["--connect-to", rule]);
        }
        command.args(&self.setup.extra).envs(self.setup.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    /// SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.running.take().expect("running");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("running").id()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Everything that `dev` has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join("dev.log")).unwrap_or_default())
            .into_owned()
    }

    pub fn ready(&self) -> &Value {
        &self.ready
    }

    fn text(&self, pointer: &str) -> String {
        self.ready
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("ready file lacks {pointer}"))
            .into()
    }

    pub fn edge_ca(&self) -> String {
        self.text("/edge/ca")
    }

    pub fn edge_address(&self) -> String {
        self.text("/edge/proxy").trim_start_matches("http://").trim_end_matches('/').to_owned()
    }

    pub fn api_address(&self) -> String {
        self.text("/api/addr")
    }

    pub fn api_ca(&self) -> String {
        self.text("/api/ca")
    }

    pub fn admin_token(&self) -> String {
        self.text("/admin_token")
    }

    pub fn web(&self) -> String {
        self.text("/web")
    }

    /// The CLI as the administrator runs it.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        self.cli_as(&self.admin_token(), arguments)
    }

    pub fn cli_as(&self, token: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .current_dir(self.dir.path())
            .env("COUNTERSIGN_ADDR", self.api_address())
            .env("COUNTERSIGN_CA", self.api_ca())
            .env("COUNTERSIGN_TOKEN", token)
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    /// Runs it, expects success, and gives standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}\n{}", text(&output.stderr), self.log());
        text(&output.stdout)
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let out = self.ok(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
    }

    pub fn agent(&self, name: &str) -> Agent {
        let made = self.json(&["agent", "create", name]);
        let field = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        Agent { name: field("agent"), token: field("token"), proxy: field("proxy") }
    }

    /// Stores `value`, given on standard input, and gives what agents get.
    pub fn credential(&self, name: &str, value: &str, arguments: &[&str]) -> Credential {
        let mut command = self.cli(&["credential", "create", name, "-o", "json"]);
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        let fake_key = made["fake_key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        assert_ne!(fake_key, value, "the fake key is not the real one");
        Credential { name: name.to_owned(), fake_key }
    }

    /// The one approval in this state, once there is one.
    pub fn approval(&self, state: &str) -> Value {
        eventually(
            &format!(
                "an approval that is {state}\n{}",
                self.ok(&["approval", "list", "-o", "json"])
            ),
            || {
                let list = self.json(&["approval", "list", "--state", state]);
                list.as_array().unwrap().first().cloned()
            },
        )
    }

    pub fn approvals(&self) -> Vec<Value> {
        self.json(&["approval", "list"]).as_array().unwrap().clone()
    }

    /// curl behind the edge, with the agent's proxy credential and the edge's CA.
    pub fn curl(&self, agent: &Agent, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "-i",
            "--max-time",
            "120",
            "--suppress-connect-headers",
            "--proxy",
            &agent.proxy,
        ]);
        command.args(["--cacert", &self.edge_ca()]).args(arguments).stdin(Stdio::null());
        for name in [
            "HTTPS_PROXY",
            "https_proxy",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "NO_PROXY",
            "no_proxy",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Runs curl to its end.
    pub fn fetch(&self, agent: &Agent, arguments: &[&str]) -> Answer {
        answer(self.curl(agent, arguments).output().unwrap())
    }

    /// One of our own plain-text pages, past the edge; empty when there is none.
    pub fn fetch_page(&self, url: &str) -> String {
        let output =
            Command::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "5", url]).output();
        text(&output.unwrap().stdout)
    }

    /// Starts curl and leaves it waiting.
    pub fn fetch_later(&self, agent: &Agent, arguments: &[&str]) -> Waiting {
        let child = self
            .curl(agent, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Waiting(child)
    }

    /// Every file below the data directory, its path and bytes.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.data_dir()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.is_file() {
                    let mut bytes = Vec::new();
                    File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
                    found.push((path, bytes));
                }
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!(
                "--- the end of dev's log\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
    }
}

/// A client that has not got its answer yet.
pub struct Waiting(Child);

impl Waiting {
    pub fn answer(self) -> Answer {
        answer(self.0.wait_with_output().unwrap())
    }

    pub fn is_waiting(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    pub fn hang_up(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn answer(output: Output) -> Answer {
    let all = text(&output.stdout);
    // Interim responses come first; the last head is the answer's.
    let mut rest = all.as_str();
    let mut headers = "";
    while rest.starts_with("HTTP/") {
        let Some((head, body)) = rest.split_once("\r\n\r\n") else { break };
        (headers, rest) = (head, body);
    }
    let status = headers.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer {
        status,
        headers: headers.to_owned(),
        body: rest.to_owned(),
        exit: output.status.code().unwrap_or(-1),
        stderr: text(&output.stderr),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
