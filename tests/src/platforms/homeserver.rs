//! A homeserver of Matrix: Synapse, with the bot's account and those of people, each of whom is in a room with it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::Call;
use super::real::forward;
use crate::peers::{free_port, tools};
use crate::world::eventually;

pub(super) struct Homeserver {
    child: Child,
    pub(super) base: String,
    pub(super) bot: String,
    /// The access tokens of people, and the rooms where they write to the bot.
    pub(super) people: Vec<(String, String)>,
}

impl Homeserver {
    /// Starts it, in this folder; it answers when [`Self::settle`] has returned.
    pub(super) fn start(folder: &Path) -> Self {
        let port = free_port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../control-plane/chat/tests/oracles/homeserver.py");
        let child = Command::new(tools().join("python/bin/python3"))
            .arg(script)
            .arg(port.to_string())
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("synapse.log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("Synapse: {error}; ./tests/run setup installs it"));
        let base = format!("http://127.0.0.1:{port}");
        Self { child, base, bot: String::new(), people: Vec::new() }
    }

    pub(super) fn settle(&mut self, people: usize) {
        eventually("that Synapse answers", || {
            let asked = call("GET", "_matrix/client/versions", &Value::Null, "");
            (forward(&asked, &self.base).0 == 200).then_some(())
        });
        self.bot = self.register("bot");
        for person in 0..people {
            let token = self.register(&format!("person{person}"));
            let room = json!({ "preset": "private_chat", "invite": ["@bot:countersign.test"] });
            let room = self.asks("POST", "createRoom", &room, &token)["room_id"].clone();
            let room = room.as_str().unwrap().to_owned();
            self.asks("POST", &format!("join/{room}"), &json!({}), &self.bot);
            self.people.push((token, room));
        }
    }

    /// An account's access token.
    fn register(&self, name: &str) -> String {
        let account =
            json!({ "username": name, "password": "p", "auth": { "type": "m.login.dummy" } });
        let registered = self.asks("POST", "register", &account, "");
        registered["access_token"].as_str().unwrap().to_owned()
    }

    fn asks(&self, method: &str, path: &str, body: &Value, token: &str) -> Value {
        asks(&self.base, method, path, body, token)
    }
}

impl Drop for Homeserver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a client asks for.
pub(super) fn asks(base: &str, method: &str, path: &str, body: &Value, token: &str) -> Value {
    let asked = call(method, &format!("_matrix/client/v3/{path}"), body, token);
    let (status, answer) = forward(&asked, base);
    assert_eq!(status, 200, "{path}: {answer}");
    serde_json::from_str(&answer).unwrap()
}

fn call(method: &str, path: &str, body: &Value, token: &str) -> Call {
    let headers = [("authorization", format!("Bearer {token}"))];
    let headers = headers.into_iter().filter(|_| !token.is_empty());
    Call {
        platform: "matrix".into(),
        method: method.into(),
        path: path.into(),
        headers: headers.map(|(name, value)| (name.to_owned(), value)).collect(),
        body: if body.is_null() { String::new() } else { body.to_string() },
    }
}
