//! X's encrypted chat: X, which puts events together and can read none; and a person there, with X's own SDK.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::connection::secret;
use super::people::Said;
use crate::peers::tools;

/// The one person there who has set it up.
pub const PERSON: &str = "2222222222222222222";
/// What webhooks are signed with.
pub const CONSUMER_SECRET: &str = "canary-xchat-consumer_secret-s3cret";

/// What the bot's channel is connected with.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub id: String,
    pub key_version: String,
    /// Both, in base64.
    pub private_keys: String,
}

pub struct Encrypted {
    child: Child,
    base: String,
}

impl Encrypted {
    /// The bot's access token is [`secret`]`("xchat")`.
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../control-plane/chat/tests/oracles/xchat_server.py");
        let mut child = Command::new(tools().join("python/bin/python3"))
            .arg(script)
            .args([CONSUMER_SECRET, &secret("xchat")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("chatxdk: {error}; ./tests/run setup installs it"));
        let mut base = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut base).unwrap();
        Self { child, base: base.trim().to_owned() }
    }

    /// Where its API is.
    pub fn api(&self) -> String {
        format!("{}/2", self.base)
    }

    pub fn account(&self) -> Account {
        let account = asks(&self.api(), "_account", None)["account"].clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Account {
            id: text(&account["id"]),
            key_version: text(&account["registered"]["public_key_version"]),
            private_keys: text(&account["private_keys"]),
        }
    }

    /// What the bot has sent, as X has it.
    pub fn bodies(&self) -> Value {
        asks(&self.api(), "_account", None)["bodies"].clone()
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What X says to the channel when the person has written; `forged`: with other keys than the person's.
pub fn writes(api: &str, hook: &str, text: &str, forged: bool) -> Said {
    let written = asks(api, "_write", Some(&json!({ "text": text, "forged": forged })));
    let part = |name: &str| written[name].as_str().unwrap().to_owned();
    Said::Hook {
        url: hook.to_owned(),
        headers: vec![
            ("content-type", "application/json".to_owned()),
            ("x-twitter-webhooks-signature", part("signature")),
        ],
        body: part("body"),
    }
}

/// What the person can read, and verify that the bot or they themselves wrote it; oldest first.
pub fn read(api: &str) -> Vec<String> {
    let read = asks(api, "_read", None);
    assert_eq!(read["errors"], json!({}));
    let texts = read["texts"].as_array().unwrap().iter().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn asks(api: &str, path: &str, body: Option<&Value>) -> Value {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "30"]);
    if let Some(body) = body {
        curl.args(["--json", &body.to_string()]);
    }
    let base = api.strip_suffix("/2").unwrap();
    let output = curl.arg(format!("{base}/{path}")).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}
