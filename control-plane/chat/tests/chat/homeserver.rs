//! A real homeserver: Synapse, on a port of its own, with a database of its own, for one test.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use countersign_chat::{Auth, Call, Secret};
use http::Method;
use serde_json::{Value, json};

use crate::support::{carry_out, tools};

pub(crate) struct Homeserver {
    pub(crate) base: String,
    process: Child,
    directory: PathBuf,
}

impl Homeserver {
    pub(crate) fn start() -> Self {
        let name = format!("synapse-{}", std::process::id());
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&directory).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/homeserver.py");
        let process = Command::new(tools().join("python/bin/python3"))
            .arg(script)
            .arg(port.to_string())
            .arg(&directory)
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("log")).unwrap())
            .spawn()
            .unwrap();
        let base = format!("http://127.0.0.1:{port}");
        let homeserver = Self { base, process, directory };
        homeserver.wait();
        homeserver
    }

    fn wait(&self) {
        let versions = format!("{}/_matrix/client/versions", self.base);
        let begun = Instant::now();
        let answers = || {
            let asked = Command::new("curl").args(["--silent", "--fail", &versions]).output();
            asked.unwrap().status.success()
        };
        while !answers() {
            assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", self.directory);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// An account's access token.
    pub(crate) fn register(&self, name: &str) -> String {
        let account =
            json!({ "username": name, "password": "p", "auth": { "type": "m.login.dummy" } });
        let registered = self.asks(Method::POST, "register", &account, None);
        registered["access_token"].as_str().unwrap().to_owned()
    }

    /// What a person's client would ask for.
    pub(crate) fn asks(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Value {
        let auth = token.map_or(Auth::None, |token| Auth::Bearer(Secret::new(token.to_owned())));
        let url = format!("{}/_matrix/client/v3/{path}", self.base);
        let call = match method {
            Method::GET => Call::get(url, auth),
            method => Call::json(method, url, body, auth),
        };
        let answer = carry_out(&call);
        assert!(answer.status.is_success(), "{path}: {:?}", answer.body);
        answer.json()
    }
}

impl Drop for Homeserver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}
