//! A platform that others emulate: it takes our calls, and sends its own webhooks.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use countersign_chat::{Answer, Auth, Call};
use serde_json::{Value, json};

use crate::support::Webhook;

pub(crate) struct Emulated {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) url: String,
    /// Where its webhooks go.
    pub(crate) hook: String,
}

impl Emulated {
    pub(crate) fn start(service: &str, seed: &Value) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new("node")
            .env("COUNTERSIGN_NODE_PACKAGES", here.join("../../tests/package.json"))
            .arg(here.join("tests/oracles/emulate.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let asks = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut started = Self { child, asks, answers, url: String::new(), hook: String::new() };
        let said = started.ask(&json!({ "start": service, "seed": seed }));
        started.url = said["url"].as_str().unwrap().to_owned();
        started.hook = said["hook"].as_str().unwrap().to_owned();
        started
    }

    /// Sends one of our calls as the caller would.
    pub(crate) fn send(&mut self, call: &Call) -> Answer {
        assert!(call.url.starts_with(&self.url), "{}", call.url);
        let mut headers: serde_json::Map<_, _> = call
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap())))
            .collect();
        match &call.auth {
            Auth::Bearer(secret) => {
                headers.insert("authorization".into(), format!("Bearer {}", secret.expose()).into())
            }
            Auth::Header(name, secret) => headers.insert(name.to_string(), secret.expose().into()),
            other => panic!("{other:?}"),
        };
        let body = std::str::from_utf8(&call.body).unwrap();
        self.request(call.method.as_str(), &call.url, headers.into(), body)
    }

    /// What somebody else there does, with a token of theirs.
    pub(crate) fn act(&mut self, token: &str, path: &str, body: &Value) -> Answer {
        let headers = json!({ "authorization": format!("Bearer {token}"), "content-type": "application/json" });
        let url = format!("{}{path}", self.url);
        self.request("POST", &url, headers, &body.to_string())
    }

    /// The webhooks so far, once there are so many.
    pub(crate) fn delivered(&mut self, at_least: usize) -> Vec<Webhook> {
        let said = self.ask(&json!({ "deliveries": at_least }));
        let read = |hook: &Value| {
            let mut read = Webhook::post(&[], hook["body"].as_str().unwrap());
            for (name, value) in hook["headers"].as_object().unwrap() {
                read.add(name, value.as_str().unwrap());
            }
            read
        };
        said.as_array().unwrap().iter().map(read).collect()
    }

    fn request(&mut self, method: &str, url: &str, headers: Value, body: &str) -> Answer {
        let call = json!({ "method": method, "url": url, "headers": headers, "body": body });
        let said = self.ask(&json!({ "call": call }));
        let status = u16::try_from(said["status"].as_u64().unwrap()).unwrap();
        Answer {
            status: http::StatusCode::from_u16(status).unwrap(),
            headers: http::HeaderMap::new(),
            body: said["body"].as_str().unwrap().to_owned().into(),
        }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.asks, "{question}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
