//! A chat platform that remembers what it was sent, and the hand of a person who presses what is on it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

/// What Slack signs its webhooks with, here.
pub const SIGNING_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5-canary";
pub const BOT_TOKEN: &str = "xoxb-canary-b0t-t0ken-that-nobody-else-sees";

/// Something that was sent there.
#[derive(Clone, Debug)]
pub struct Sent {
    pub method: String,
    pub path: String,
    pub authorization: String,
    pub body: Value,
    pub at: SystemTime,
}

/// As much of Slack as cards need: messages, their changes, private words. It keeps order and answers at once, unless told
/// otherwise.
pub struct Slack {
    port: u16,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    sent: Vec<Sent>,
    /// By channel and ts: what the message shows now.
    messages: BTreeMap<(String, String), Value>,
    /// While it is there, everything is answered with this.
    trouble: Option<(u16, Value)>,
    /// The next post is taken, and its sender never hears of it.
    swallow: bool,
    /// Where connections are opened.
    socket: Option<String>,
    delay: Duration,
}

impl Slack {
    pub fn start() -> Self {
        let inner = Arc::new(Mutex::new(Inner::default()));
        let shared = inner.clone();
        let port = serve(move |sent| {
            let (answer, delay, swallow) = {
                let mut inner = shared.lock().unwrap_or_else(PoisonError::into_inner);
                inner.sent.push(sent.clone());
                let swallow = std::mem::take(&mut inner.swallow);
                let answer = match inner.trouble.clone() {
                    Some(trouble) => trouble,
                    None => (200, inner.take(&sent.path, sent.body)),
                };
                (answer, inner.delay, swallow)
            };
            std::thread::sleep(delay);
            (!swallow).then_some(answer)
        });
        Self { port, inner }
    }

    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}/api", self.port)
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.lock().sent.clone()
    }

    /// Messages as they are now: (channel, ts, message).
    pub fn messages(&self) -> Vec<(String, String, Value)> {
        let all = self.lock().messages.clone();
        all.into_iter().map(|((channel, ts), message)| (channel, ts, message)).collect()
    }

    pub fn message(&self, channel: &str, ts: &str) -> Value {
        self.lock().messages[&(channel.to_owned(), ts.to_owned())].clone()
    }

    /// Answers everything with this until it is told otherwise.
    pub fn trouble(&self, trouble: Option<(u16, Value)>) {
        self.lock().trouble = trouble;
    }

    pub fn swallow_next(&self) {
        self.lock().swallow = true;
    }

    /// Lets apps connect there.
    pub fn connects_to(&self, url: &str) {
        self.lock().socket = Some(url.to_owned());
    }

    pub fn delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers requests with JSON, each connection on its own; without an answer, the connection is cut. Gives the port.
pub fn serve(answer: impl Fn(Sent) -> Option<(u16, Value)> + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || connected(stream, &answer));
        }
    });
    port
}

fn connected(stream: TcpStream, answer: &dyn Fn(Sent) -> Option<(u16, Value)>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut length, mut authorization) = (0, String::new());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_default();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "authorization" => authorization = value.trim().to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let sent = Sent { method, path, authorization, body, at: SystemTime::now() };
        let Some((status, answer)) = answer(sent) else {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        };
        let answer = if answer.is_null() { String::new() } else { answer.to_string() };
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        if (&stream).write_all(format!("{head}{answer}").as_bytes()).is_err() {
            return;
        }
    }
}

impl Inner {
    fn take(&mut self, path: &str, body: Value) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match path.rsplit('/').next().unwrap_or_default() {
            "conversations.open" => {
                json!({ "ok": true, "channel": { "id": format!("D{}", text(&body["users"])) } })
            }
            "chat.postMessage" => {
                let ts = format!("1800000000.{:06}", self.messages.len() + 1);
                let channel = text(&body["channel"]);
                self.messages.insert((channel.clone(), ts.clone()), body);
                json!({ "ok": true, "channel": channel, "ts": ts })
            }
            "chat.update" => {
                let key = (text(&body["channel"]), text(&body["ts"]));
                if !self.messages.contains_key(&key) {
                    return json!({ "ok": false, "error": "message_not_found" });
                }
                self.messages.insert(key.clone(), body);
                json!({ "ok": true, "channel": key.0, "ts": key.1 })
            }
            "apps.connections.open" => match &self.socket {
                Some(url) => json!({ "ok": true, "url": url }),
                None => json!({ "ok": false, "error": "invalid_auth" }),
            },
            "chat.postEphemeral" => json!({ "ok": true, "message_ts": "1.1" }),
            other => json!({ "ok": false, "error": format!("unknown_method {other}") }),
        }
    }
}

/// The value of a button of a message: "approve" or "deny".
pub fn button(message: &Value, action: &str) -> Option<String> {
    let blocks = message["blocks"].as_array()?;
    let elements = blocks.iter().filter(|block| block["type"] == "actions");
    let buttons =
        elements.flat_map(|block| block["elements"].as_array().cloned().unwrap_or_default());
    buttons
        .into_iter()
        .find(|button| button["action_id"] == action)
        .map(|it| it["value"].as_str().unwrap().to_owned())
}

/// Everything that a message shows.
pub fn words(message: &Value) -> String {
    let mut words = Vec::new();
    walk(message, &mut words);
    words.join("\n")
}

fn walk(value: &Value, words: &mut Vec<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| match value {
            Value::String(text) if name == "text" => words.push(text.clone()),
            other => walk(other, words),
        }),
        Value::Array(array) => array.iter().for_each(|value| walk(value, words)),
        _ => {}
    }
}

/// A person at Slack, and what Slack makes of their press.
#[derive(Clone, Debug)]
pub struct Press {
    pub user: String,
    pub team: String,
    pub channel: String,
    pub ts: String,
    pub value: String,
    /// Slack's id of this very press.
    pub trigger: String,
}

impl Press {
    pub fn body(&self) -> String {
        let payload = self.payload().to_string();
        let encoded: String = payload.bytes().map(|b| format!("%{b:02X}")).collect();
        format!("payload={encoded}")
    }

    pub fn payload(&self) -> Value {
        json!({
            "type": "block_actions",
            "user": { "id": self.user, "team_id": self.team },
            "api_app_id": "A1",
            "container": { "type": "message", "message_ts": self.ts, "channel_id": self.channel },
            "trigger_id": self.trigger,
            "team": { "id": self.team },
            "response_url": "http://127.0.0.1:1/never-called",
            "actions": [{ "action_id": "x", "value": self.value, "type": "button", "action_ts": "1.1" }],
        })
    }

    /// Signs it and sends it to a webhook, as Slack does; gives the status and the body that came back.
    pub fn send(&self, hook: &str) -> (u16, String) {
        send(hook, &self.body(), SIGNING_SECRET, SystemTime::now())
    }
}

/// A slash command.
pub fn say(hook: &str, user: &str, team: &str, text: &str) -> (u16, String) {
    let body = format!(
        "api_app_id=A1&team_id={team}&user_id={user}&channel_id=D{user}&trigger_id={}&command=%2Fcountersign&text={}",
        hex::encode(rand::random::<[u8; 8]>()),
        text.replace(' ', "+")
    );
    send(hook, &body, SIGNING_SECRET, SystemTime::now())
}

/// The bytes of a webhook, as they go over the wire.
pub fn wire(hook: &str, body: &str) -> Vec<u8> {
    let (host, path) = hook.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let [at, signature] = signed(body, SIGNING_SECRET, SystemTime::now());
    format!(
        "POST /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         x-slack-request-timestamp: {at}\r\nx-slack-signature: {signature}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The time and the signature of a webhook.
fn signed(body: &str, secret: &str, at: SystemTime) -> [String; 2] {
    let at = at.duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("v0:{at}:{body}").as_bytes());
    let signature = format!("v0={}", hex::encode(mac.finalize().into_bytes()));
    [at, signature]
}

/// A form to a webhook, signed with this secret at this time.
pub fn send(hook: &str, body: &str, secret: &str, at: SystemTime) -> (u16, String) {
    let [at, signature] = signed(body, secret, at);
    let signature = format!("x-slack-signature: {signature}");
    let output = Command::new("curl")
        .args([
            "-s",
            "-w",
            "\n%{http_code}",
            "-H",
            &signature,
            "-H",
            &format!("x-slack-request-timestamp: {at}"),
        ])
        .args(["--data-binary", body, hook])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.parse().unwrap_or(0), body.to_owned())
}
