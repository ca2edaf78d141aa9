//! As much of Discord as cards need: messages, their changes, and answers to interactions. Its gateway is a
//! [`Sockets`](crate::sockets::Sockets) of the test's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::chat::{Sent, serve};

pub const APPLICATION: &str = "1001";

pub struct Discord {
    port: u16,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    gateway: String,
    sent: Vec<Sent>,
    /// By id: the channel, and what the message shows now.
    messages: BTreeMap<String, (String, Value)>,
}

impl Discord {
    /// `gateway`: where bots connect.
    pub fn start(gateway: &str) -> Self {
        let inner = Inner { gateway: gateway.to_owned(), ..Inner::default() };
        let inner = Arc::new(Mutex::new(inner));
        let shared = inner.clone();
        let port = serve(move |sent| {
            Some(shared.lock().unwrap_or_else(PoisonError::into_inner).take(sent))
        });
        Self { port, inner }
    }

    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}/api/v10", self.port)
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.lock().sent.clone()
    }

    /// What an interaction was answered with.
    pub fn answers(&self, interaction: &str) -> Vec<Value> {
        let about = format!("/interactions/{interaction}/");
        let sent = self.sent().into_iter();
        sent.filter(|sent| sent.path.contains(&about)).map(|sent| sent.body).collect()
    }

    /// Messages as they are now: (id, channel, message).
    pub fn messages(&self) -> Vec<(String, String, Value)> {
        let all = self.lock().messages.clone();
        all.into_iter().map(|(id, (channel, message))| (id, channel, message)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, sent: Sent) -> (u16, Value) {
        self.sent.push(sent.clone());
        let path: Vec<_> = sent.path.trim_start_matches("/api/v10/").split('/').collect();
        match (sent.method.as_str(), &path[..]) {
            ("GET", ["gateway", "bot"]) => {
                let limit = json!({ "total": 1000, "remaining": 999, "reset_after": 14_400_000, "max_concurrency": 1 });
                let answer =
                    json!({ "url": self.gateway, "shards": 1, "session_start_limit": limit });
                (200, answer)
            }
            ("POST", ["users", "@me", "channels"]) => {
                let id = format!("9{}", sent.body["recipient_id"].as_str().unwrap());
                (200, json!({ "id": id, "type": 1 }))
            }
            ("POST", ["channels", channel, "messages"]) => {
                let id = (self.messages.len() + 1).to_string();
                self.messages.insert(id.clone(), ((*channel).to_owned(), sent.body));
                (200, json!({ "id": id, "channel_id": channel }))
            }
            ("PATCH", ["channels", channel, "messages", id]) => {
                if !self.messages.contains_key(*id) {
                    return (404, json!({ "code": 10008, "message": "Unknown Message" }));
                }
                self.messages.insert((*id).to_owned(), ((*channel).to_owned(), sent.body));
                (200, json!({ "id": id, "channel_id": channel }))
            }
            ("POST", ["interactions", _, _, "callback"]) => (204, Value::Null),
            _ => (404, json!({ "code": 0, "message": "404: Not Found" })),
        }
    }
}

/// What the button with this label carries.
pub fn button(message: &Value, label: &str) -> Option<String> {
    let rows = message["components"].as_array()?.iter().filter(|it| it["type"] == 1);
    let mut buttons =
        rows.flat_map(|row| row["components"].as_array().cloned().unwrap_or_default());
    let found = buttons.find(|button| button["label"] == label)?;
    found["custom_id"].as_str().map(str::to_owned)
}
