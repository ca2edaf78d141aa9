//! What each platform answers, as far as cards, their changes, words and conversations need it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::connection::{GRANTED, place_of};
use super::{Call, Kept, Message, decoded};

impl Kept {
    pub(super) fn answer(&mut self, call: &Call) -> (u16, Value) {
        let proof = call.headers.get("authorization").map_or("", String::as_str);
        if self.expired.iter().any(|token| proof.ends_with(token)) {
            return (401, json!({ "detail": "Unauthorized" }));
        }
        let (path, query) = call.path.split_once('?').unwrap_or((&call.path, ""));
        let parts: Vec<String> = path.split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let body = call.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let nothing = || (404, json!({ "unknown": call.path }));
        match (call.platform.as_str(), call.method.as_str(), &parts[..]) {
            ("teams", "POST", ["login", _, "oauth2", "v2.0", "token"])
            | ("gchat", "POST", ["token"]) => {
                let token = format!("{GRANTED}{}", call.platform);
                (200, json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": token }))
            }
            ("teams" | "gchat", "GET", ["keys"]) => (200, self.key_set.clone()),
            ("teams", "POST", ["v3", "conversations"]) => {
                (201, json!({ "id": place_of("teams", &text(&body["members"][0]["id"])) }))
            }
            ("teams", "POST", ["v3", "conversations", place, "activities"]) => {
                let id = self.post_new("teams", place, body);
                (201, json!({ "id": id }))
            }
            ("teams", "PUT", ["v3", "conversations", _, "activities", id]) => {
                self.changed("teams", id, &body)
            }

            ("gchat", "GET", ["v1", "spaces:findDirectMessage"]) => {
                let user = decoded(query.strip_prefix("name=").unwrap_or_default());
                (200, json!({ "name": place_of("gchat", &user) }))
            }
            ("gchat", "POST", ["v1", "spaces", space, "messages"]) => {
                let place = format!("spaces/{space}");
                let id = format!("{place}/messages/M{}", self.messages.len());
                let id = self.post_once(call, query, &place, &id, body);
                (200, json!({ "name": id }))
            }
            ("gchat", "PATCH", ["v1", name @ ..]) => self.changed("gchat", &name.join("/"), &body),

            ("discord", "POST", ["users", "@me", "channels"]) => {
                (200, json!({ "id": place_of("discord", &text(&body["recipient_id"])) }))
            }
            ("discord", "POST", ["channels", place, "messages"]) => {
                let (key, id) = (text(&body["nonce"]), (40_000 + self.messages.len()).to_string());
                let id = self.post_once(call, &key, place, &id, body);
                (200, json!({ "id": id, "channel_id": place }))
            }
            ("discord", "PATCH", ["channels", _, "messages", id]) => {
                self.changed("discord", id, &body)
            }

            ("telegram", "POST", [_, "sendMessage"]) => {
                let place = text(&body["chat_id"]);
                let id = 1000 + self.messages.len();
                self.post("telegram", &place, &id.to_string(), body);
                let chat = json!({ "id": place.parse::<i64>().unwrap(), "type": "private" });
                (
                    200,
                    json!({ "ok": true, "result": { "message_id": id, "date": seconds(), "chat": chat } }),
                )
            }
            ("telegram", "POST", [_, "editMessageText"]) => {
                match self.change("telegram", &body["message_id"].to_string(), &body) {
                    true => (200, json!({ "ok": true, "result": true })),
                    false => {
                        let why = "Bad Request: message to edit not found";
                        (400, json!({ "ok": false, "error_code": 400, "description": why }))
                    }
                }
            }
            ("telegram", "POST", [_, "answerCallbackQuery"]) => {
                (200, json!({ "ok": true, "result": true }))
            }

            ("whatsapp", "POST", [_, "messages"]) => {
                let place =
                    text(if body["to"].is_string() { &body["to"] } else { &body["recipient"] });
                let id = self.post_new("whatsapp", &place, body);
                (200, json!({ "messaging_product": "whatsapp", "messages": [{ "id": id }] }))
            }
            ("messenger" | "instagram", "POST", [_, "messages"]) => {
                let place = text(&body["recipient"]["id"]);
                let id = self.post_new(&call.platform, &place, body);
                (200, json!({ "recipient_id": place, "message_id": id }))
            }

            ("mattermost", "POST", ["api", "v4", "channels", "direct"]) => {
                (201, json!({ "id": place_of("mattermost", &text(&body[1])) }))
            }
            ("mattermost", "POST", ["api", "v4", "posts"]) => {
                let place = text(&body["channel_id"]);
                let id = self.post_new("mattermost", &place, body);
                (201, json!({ "id": id, "channel_id": place }))
            }
            ("mattermost", "PUT", ["api", "v4", "posts", id, "patch"]) => {
                self.changed("mattermost", id, &body)
            }

            ("webex", "POST", ["messages"]) => {
                let place = match body["roomId"].as_str() {
                    Some(room) => room.to_owned(),
                    None => place_of("webex", &text(&body["toPersonId"])),
                };
                let id = self.post_new("webex", &place, body);
                (200, json!({ "id": id, "roomId": place }))
            }
            ("webex", "GET", ["attachment", "actions", id] | ["messages", id]) => {
                self.thing("webex", id)
            }

            ("notion", "POST", ["v1", "comments"]) => {
                let place = text(&body["parent"]["page_id"]);
                let id = self.post_new("notion", &place, body);
                (200, json!({ "object": "comment", "id": id }))
            }
            ("notion", "PATCH", ["v1", "comments", id]) => self.changed("notion", id, &body),
            ("notion", "GET", ["v1", "comments", id]) => self.thing("notion", id),

            ("x", "POST", ["dm_conversations", "with", place, "messages"]) => {
                let id = self.post_new("x", place, body);
                (201, json!({ "data": { "dm_conversation_id": place, "dm_event_id": id } }))
            }

            ("webhook", "POST", _) => {
                let (place, on) = (text(&body["to"]), text(&body["message"]));
                match body["type"].as_str() {
                    Some("card.changed") => self.changed("webhook", &on, &body),
                    Some("words.said") => {
                        (200, json!({ "message": self.post_new("webhook", &place, body) }))
                    }
                    Some("card.posted") => {
                        let id = format!("m{}", self.messages.len());
                        let id =
                            self.post_once(call, &call.headers["webhook-id"], &place, &id, body);
                        (200, json!({ "message": id }))
                    }
                    _ => nothing(),
                }
            }
            _ => nothing(),
        }
    }

    /// What a real one has made of a call.
    pub(super) fn learn(&mut self, call: &Call, answer: &Value) {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let parts: Vec<String> = call.path.split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let body = call.json();
        match (call.platform.as_str(), call.method.as_str(), &parts[..]) {
            ("slack", "POST", ["chat.postMessage"]) if answer["ok"] == true => {
                self.post("slack", &text(&answer["channel"]), &text(&answer["ts"]), body);
            }
            ("slack", "POST", ["chat.update"]) if answer["ok"] == true => {
                self.change("slack", &text(&answer["ts"]), &body);
            }
            ("github", "POST", ["repos", owner, name, "issues", number, "comments"]) => {
                let place = format!("{owner}/{name}#{number}");
                self.post("github", &place, &text(&answer["id"]), body);
            }
            ("github", "PATCH", ["repos", _, _, "issues", "comments", id]) => {
                self.change("github", id, &body);
            }
            ("linear", "POST", ["graphql"]) => {
                let (variables, data) = (&body["variables"], &answer["data"]);
                let input = &variables["input"];
                if data["commentCreate"]["success"] == true {
                    let id = text(&data["commentCreate"]["comment"]["id"]);
                    self.post("linear", &text(&input["issueId"]), &id, input.clone());
                }
                if data["commentUpdate"]["success"] == true {
                    self.change("linear", &text(&variables["id"]), input);
                }
            }
            ("twilio", "POST", _) => {
                let form = call.form();
                self.post("twilio", &text(&form["To"]), &text(&answer["sid"]), form);
            }
            ("email", "POST", ["emails"]) => {
                let id = text(&answer["id"]);
                if !self.messages.iter().any(|it| it.platform == "email" && it.id == id) {
                    self.post("email", &text(&body["to"][0]), &id, body);
                }
            }
            // A replacement is an event of its own, that clients show in the place of the first.
            ("matrix", "PUT", [.., "rooms", room, "send", "m.room.message", _]) => {
                let relation = &body["m.relates_to"];
                let id = text(&answer["event_id"]);
                if relation["rel_type"] == "m.replace" {
                    self.change("matrix", &text(&relation["event_id"]), &body["m.new_content"]);
                } else if !self.messages.iter().any(|it| it.id == id) {
                    self.post("matrix", room, &id, body);
                }
            }
            _ => {}
        }
    }

    fn post(&mut self, platform: &str, place: &str, id: &str, shown: Value) {
        let (platform, place, id) = (platform.to_owned(), place.to_owned(), id.to_owned());
        self.messages.push(Message { platform, place, id, shown });
    }

    fn post_new(&mut self, platform: &str, place: &str, shown: Value) -> String {
        let id = format!("{platform}.{}", self.messages.len());
        self.post(platform, place, &id, shown);
        id
    }

    /// With the same key, it is the message that is there.
    fn post_once(&mut self, call: &Call, key: &str, place: &str, id: &str, shown: Value) -> String {
        if key.is_empty() {
            self.post(&call.platform, place, id, shown);
            return id.to_owned();
        }
        let key = format!("{} {key}", call.platform);
        if let Some(there) = self.keyed.get(&key) {
            return there.clone();
        }
        self.keyed.insert(key, id.to_owned());
        self.post(&call.platform, place, id, shown);
        id.to_owned()
    }

    fn change(&mut self, platform: &str, id: &str, shown: &Value) -> bool {
        let known = self.messages.iter_mut().find(|it| it.platform == platform && it.id == id);
        known.map(|message| message.shown = shown.clone()).is_some()
    }

    fn changed(&mut self, platform: &str, id: &str, shown: &Value) -> (u16, Value) {
        match self.change(platform, id, shown) {
            true => (200, json!({ "id": id })),
            false => (404, json!({ "unknown": id })),
        }
    }

    fn thing(&self, platform: &str, id: &str) -> (u16, Value) {
        match self.things.get(&(platform.to_owned(), id.to_owned())) {
            Some(thing) => (200, thing.clone()),
            None => (404, json!({ "unknown": id })),
        }
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
