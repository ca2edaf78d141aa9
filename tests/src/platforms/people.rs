//! People on every platform, and what their platform makes of what they press and write: each in its own signed form.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::Sha256;

use super::connection::{Connection, DISCORD_SEED, Keys, TEAMS_APP, place_of};
use super::{Message, Platforms};
use crate::peers::tools;

/// One platform in the hands of its people: who they are there, and the channel that hears them.
pub struct People<'a> {
    pub platform: &'static str,
    pub there: &'a Platforms,
    pub connection: &'a Connection,
    pub keys: &'a Keys,
    pub hook: &'a str,
}

/// What the platform sends to the channel, or says when it is asked.
#[derive(Clone, Debug)]
pub enum Said {
    Hook {
        url: String,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// In a room, for whoever asks.
    Told {
        person: usize,
        room: String,
        kind: &'static str,
        content: Value,
    },
}

enum Act<'a> {
    Press { on: &'a Message, carries: &'a str },
    React { on: &'a Message, with: &'a str },
    Write { place: &'a str, words: &'a str },
}

impl People<'_> {
    /// The id of the person with this number.
    pub fn account(&self, person: usize) -> String {
        match self.platform {
            "slack" => self.there.names.slack_users[person].clone(),
            "gchat" => format!("100{person}"),
            "discord" => format!("5390823250618368{person}"),
            "telegram" => format!("550{person}"),
            "whatsapp" => format!("US.1349120865530274191{person}"),
            "messenger" => format!("625427317133{person}"),
            "instagram" => format!("725427317133{person}"),
            "webex" => format!("Y2lzY29zcGFyazovL3VzL1BFT1BMRS8{person}"),
            "github" => format!("2103106{person}"),
            "x" => format!("222222222222222222{person}"),
            "xchat" => super::encrypted::PERSON.to_owned(),
            "twilio" => format!("+1555867531{person}"),
            "matrix" => format!("@person{person}:countersign.test"),
            _ => format!("person{person}"),
        }
    }

    /// Where this person alone is asked; or everybody is, where there is no such place.
    pub fn place(&self, person: usize) -> String {
        if self.platform == "matrix" {
            return self.there.names.matrix_people[person].1.clone();
        }
        let own = || place_of(self.platform, &self.account(person));
        self.there.room(self.platform).unwrap_or_else(own)
    }

    /// Somebody writes to the bot.
    pub fn writes(&self, person: usize, words: &str) -> Said {
        self.said(person, &Act::Write { place: &self.place(person), words })
    }

    /// Somebody answers a card in the way that it offers: by its button; without one, by its code, or here and there by a
    /// reaction.
    pub fn answers(&self, person: usize, card: &Message, yes: bool) -> Said {
        if let Some((approve, deny)) = card.buttons() {
            let carries = if yes { &approve } else { &deny };
            return self.said(person, &Act::Press { on: card, carries });
        }
        if self.platform == "matrix" {
            return self
                .said(person, &Act::React { on: card, with: if yes { "✅" } else { "❌" } });
        }
        let code = card.code().unwrap_or_else(|| panic!("nothing to answer with: {card:?}"));
        let words = if yes { format!("approve {code}") } else { format!("deny {code} because no") };
        self.said(person, &Act::Write { place: &card.place, words: &words })
    }

    fn said(&self, person: usize, act: &Act<'_>) -> Said {
        let (user, event) = (self.account(person), fresh());
        let place = match act {
            Act::Press { on, .. } | Act::React { on, .. } => on.place.as_str(),
            Act::Write { place, .. } => place,
        };
        match self.platform {
            "slack" => self.slack(&user, place, &event, act),
            "teams" => self.teams(&user, place, &event, act),
            "gchat" => self.google_chat(&user, place, act),
            "discord" => self.discord(&user, place, &event, act),
            "telegram" => self.telegram(&user, place, act),
            "whatsapp" => self.whatsapp(&user, &event, act),
            "messenger" | "instagram" => self.meta(&user, &event, act),
            "mattermost" => self.mattermost(&user, place, &event, act),
            "webex" => self.webex(&user, place, &event, act),
            "github" => self.github(&user, act),
            "linear" => self.linear(&user, place, &event, act),
            "notion" => self.notion(&user, place, &event, act),
            "x" => self.x(&user, act),
            "xchat" => self.there.encrypted(self.hook, words(act)),
            "twilio" => self.twilio(&user, &event, act),
            "matrix" => matrix(person, place, act),
            "webhook" => self.webhook(&user, place, &event, act),
            other => panic!("nothing is heard from {other}"),
        }
    }

    fn slack(&self, user: &str, place: &str, event: &str, act: &Act<'_>) -> Said {
        let body = match act {
            Act::Press { on, carries } => crate::chat::Press {
                user: user.into(),
                team: "T1".into(),
                channel: place.into(),
                ts: on.id.clone(),
                value: (*carries).into(),
                trigger: event.into(),
            }
            .body(),
            _ => form(&[
                ("api_app_id", "A1"),
                ("team_id", "T1"),
                ("user_id", user),
                ("channel_id", place),
                ("trigger_id", event),
                ("command", "/countersign"),
                ("text", words(act)),
            ]),
        };
        let at = seconds().to_string();
        let mac = hex::encode(sha256(self.secret("signing_secret"), &format!("v0:{at}:{body}")));
        let headers = vec![
            form_type(),
            ("x-slack-request-timestamp", at),
            ("x-slack-signature", format!("v0={mac}")),
        ];
        self.hooked(headers, body)
    }

    fn teams(&self, user: &str, place: &str, event: &str, act: &Act<'_>) -> Said {
        let service = self.there.base("teams") + "/";
        let mut activity = json!({
            "type": "message", "id": format!("f:{event}"), "channelId": "msteams", "serviceUrl": service,
            "from": { "id": format!("29:{user}"), "name": "Somebody", "aadObjectId": user },
            "conversation": { "conversationType": "personal", "tenantId": "T1", "id": place },
            "recipient": { "id": format!("28:{TEAMS_APP}") },
            "channelData": { "tenant": { "id": "T1" } },
        });
        if let Act::Press { on, carries } = act {
            activity["type"] = "invoke".into();
            activity["name"] = "adaptiveCard/action".into();
            activity["replyToId"] = on.id.as_str().into();
            let action = json!({ "type": "Action.Execute", "data": { "token": carries } });
            activity["value"] = json!({ "action": action, "trigger": "manual" });
        } else {
            activity["text"] = words(act).into();
        }
        let claims = json!({
            "iss": "https://api.botframework.com", "aud": TEAMS_APP, "serviceurl": service,
            "nbf": seconds() - 10, "exp": seconds() + 3600,
        });
        self.borne(self.keys.of_teams.get_or_init(|| self.token(&claims)), &activity)
    }

    fn google_chat(&self, user: &str, place: &str, act: &Act<'_>) -> Said {
        let mut event = json!({
            "type": "MESSAGE", "eventTime": now(),
            "user": { "name": format!("users/{user}"), "type": "HUMAN", "domainId": "1abc" },
            "space": { "name": place, "type": "DM", "spaceType": "DIRECT_MESSAGE" },
            "message": { "name": format!("{place}/messages/{}", fresh()) },
        });
        if let Act::Press { on, carries } = act {
            event["type"] = "CARD_CLICKED".into();
            event["message"]["name"] = on.id.as_str().into();
            event["action"] = json!({ "actionMethodName": "x", "parameters": [{ "key": "token", "value": carries }] });
        } else {
            event["message"]["argumentText"] = words(act).into();
        }
        let claims = json!({
            "iss": "https://accounts.google.com", "aud": self.hook, "email": "chat@system.gserviceaccount.com",
            "email_verified": true, "iat": seconds() - 10, "exp": seconds() + 3600,
        });
        self.borne(self.keys.of_google.get_or_init(|| self.token(&claims)), &event)
    }

    fn discord(&self, user: &str, place: &str, event: &str, act: &Act<'_>) -> Said {
        let mut interaction = json!({
            "version": 1, "type": 2, "id": number(event), "token": "interaction", "application_id": "1001",
            "user": { "id": user, "username": "somebody" }, "channel_id": place,
        });
        if let Act::Press { on, carries } = act {
            interaction["type"] = 3.into();
            interaction["message"] = json!({ "id": on.id, "channel_id": place });
            interaction["data"] = json!({ "custom_id": carries, "component_type": 2 });
        } else {
            let option = json!({ "name": "words", "type": 3, "value": words(act) });
            interaction["data"] = json!({ "name": "countersign", "options": [option] });
        }
        let (at, body) = (seconds(), interaction.to_string());
        let signed = oracle(
            "discord_sign.py",
            &json!({ "secret": DISCORD_SEED, "timestamp": at, "body": body }),
        );
        let headers = vec![
            json_type(),
            ("x-signature-timestamp", at.to_string()),
            ("x-signature-ed25519", signed["signature"].as_str().unwrap().to_owned()),
        ];
        self.hooked(headers, body)
    }

    fn telegram(&self, user: &str, place: &str, act: &Act<'_>) -> Said {
        let (user, place): (i64, i64) = (user.parse().unwrap(), place.parse().unwrap());
        let from = json!({ "id": user, "is_bot": false, "first_name": "Somebody" });
        let chat = json!({ "id": place, "type": "private" });
        let number: u64 = number(&fresh()).parse().unwrap();
        let update = if let Act::Press { on, carries } = act {
            let message = json!({
                "message_id": on.id.parse::<u64>().unwrap(), "date": seconds(), "chat": chat,
                "from": { "id": 7001, "is_bot": true, "first_name": "b" },
            });
            json!({ "update_id": number, "callback_query": { "id": number.to_string(), "from": from, "message": message, "data": carries } })
        } else {
            let message = json!({ "message_id": number, "date": seconds(), "chat": chat, "from": from, "text": words(act) });
            json!({ "update_id": number, "message": message })
        };
        let secret = self.secret("webhook_secret").to_owned();
        self.hooked(
            vec![json_type(), ("x-telegram-bot-api-secret-token", secret)],
            update.to_string(),
        )
    }

    fn whatsapp(&self, user: &str, event: &str, act: &Act<'_>) -> Said {
        let mut message = json!({
            "from": "16505551234", "from_user_id": user, "id": format!("wamid.{event}"), "timestamp": seconds().to_string(),
            "type": "text",
        });
        if let Act::Press { on, carries } = act {
            message["type"] = "interactive".into();
            message["context"] = json!({ "from": "15550783881", "id": on.id });
            message["interactive"] =
                json!({ "type": "button_reply", "button_reply": { "id": carries, "title": "x" } });
        } else {
            message["text"] = json!({ "body": words(act) });
        }
        let value = json!({
            "messaging_product": "whatsapp", "messages": [message],
            "metadata": { "display_phone_number": "15550783881", "phone_number_id": self.setting("phone_number_id") },
        });
        let entry = json!({ "id": "1", "changes": [{ "field": "messages", "value": value }] });
        self.hub(
            json!({ "object": "whatsapp_business_account", "entry": [entry] }),
            "app_secret",
            vec![],
        )
    }

    fn meta(&self, user: &str, event: &str, act: &Act<'_>) -> Said {
        let (object, account) = match self.platform {
            "messenger" => ("page", self.setting("page_id")),
            _ => ("instagram", self.setting("account_id")),
        };
        let mut said = json!({ "sender": { "id": user }, "recipient": { "id": account }, "timestamp": seconds() * 1000 });
        match act {
            Act::Press { carries, .. } if self.platform == "messenger" => {
                said["postback"] =
                    json!({ "mid": format!("m_{event}"), "title": "x", "payload": carries });
            }
            Act::Press { carries, .. } => {
                said["message"] = json!({ "mid": format!("m_{event}"), "text": "x", "quick_reply": { "payload": carries } });
            }
            _ => said["message"] = json!({ "mid": format!("m_{event}"), "text": words(act) }),
        }
        let entry = json!({ "id": account, "time": seconds() * 1000, "messaging": [said] });
        self.hub(json!({ "object": object, "entry": [entry] }), "app_secret", vec![])
    }

    fn mattermost(&self, user: &str, place: &str, event: &str, act: &Act<'_>) -> Said {
        let Act::Press { on, carries } = act else {
            let token = self.secret("command_token");
            let body = form(&[
                ("channel_id", place),
                ("command", "/countersign"),
                ("text", words(act)),
                ("token", token),
                ("trigger_id", event),
                ("user_id", user),
            ]);
            return self
                .hooked(vec![form_type(), ("authorization", format!("Token {token}"))], body);
        };
        // The server repeats what it was given with the button.
        let context = contexts(&on.shown).into_iter().find(|context| context["token"] == **carries);
        let body = json!({
            "user_id": user, "channel_id": place, "post_id": on.id, "trigger_id": event, "type": "button",
            "context": context.expect("has such a button"),
        });
        self.hooked(vec![json_type()], body.to_string())
    }

    fn webex(&self, user: &str, place: &str, event: &str, act: &Act<'_>) -> Said {
        let id = format!("Y2lzY29zcGFyazovL3VzL{event}");
        let mut thing = json!({ "id": id, "personId": user, "roomId": place, "created": now() });
        let resource = if let Act::Press { on, carries } = act {
            thing["messageId"] = on.id.as_str().into();
            thing["inputs"] = json!({ "token": carries });
            "attachmentActions"
        } else {
            thing["text"] = words(act).into();
            thing["personEmail"] = "somebody@example.test".into();
            "messages"
        };
        self.there.keep("webex", &id, thing);
        let body = json!({
            "resource": resource, "event": "created", "createdBy": self.setting("bot"),
            "data": { "id": id, "personId": user, "roomId": place, "created": now() },
        })
        .to_string();
        let mac = hex::encode(sha1(self.secret("webhook_secret"), &body));
        self.hooked(vec![json_type(), ("x-spark-signature", mac)], body)
    }

    fn github(&self, user: &str, act: &Act<'_>) -> Said {
        let user: u64 = user.parse().unwrap();
        let account = json!({ "login": "somebody", "id": user, "type": "User" });
        let room = self.there.room("github").unwrap();
        let (repository, issue) = room.split_once('#').unwrap();
        let event = json!({
            "action": "created", "issue": { "number": issue.parse::<u64>().unwrap() }, "sender": account,
            "comment": {
                "id": number(&fresh()).parse::<u64>().unwrap(), "user": account, "created_at": now(), "body": format!("/{}", words(act)),
                "performed_via_github_app": null,
            },
            "repository": { "full_name": repository },
        });
        let headers =
            vec![("x-github-event", "issue_comment".to_owned()), ("x-github-delivery", fresh())];
        self.hub(event, "webhook_secret", headers)
    }

    fn linear(&self, user: &str, place: &str, event: &str, act: &Act<'_>) -> Said {
        let body = json!({
            "action": "create", "type": "Comment", "actor": { "id": user, "type": "user" },
            "data": { "id": event, "body": words(act), "issueId": place, "userId": user },
            "organizationId": self.setting("organization"), "webhookTimestamp": seconds() * 1000,
        })
        .to_string();
        let mac = hex::encode(sha256(self.secret("signing_secret"), &body));
        self.hooked(
            vec![json_type(), ("linear-delivery", fresh()), ("linear-signature", mac)],
            body,
        )
    }

    fn notion(&self, user: &str, place: &str, event: &str, act: &Act<'_>) -> Said {
        let text =
            json!({ "type": "text", "text": { "content": words(act) }, "plain_text": words(act) });
        self.there.keep(
            "notion",
            event,
            json!({
                "object": "comment", "id": event, "parent": { "type": "page_id", "page_id": place },
                "created_by": { "object": "user", "id": user }, "rich_text": [text],
            }),
        );
        let body = json!({
            "id": fresh(), "timestamp": now(), "type": "comment.created",
            "workspace_id": self.setting("workspace"), "integration_id": self.setting("integration"),
            "authors": [{ "id": user, "type": "person" }], "entity": { "id": event, "type": "comment" },
        })
        .to_string();
        let mac = hex::encode(sha256(self.secret("verification_token"), &body));
        self.hooked(vec![json_type(), ("x-notion-signature", format!("sha256={mac}"))], body)
    }

    fn x(&self, user: &str, act: &Act<'_>) -> Said {
        let account = self.setting("account_id");
        let event = json!({
            "type": "message_create", "id": number(&fresh()), "created_timestamp": (seconds() * 1000).to_string(),
            "message_create": {
                "target": { "recipient_id": account }, "sender_id": user, "message_data": { "text": words(act) },
            },
        });
        let body = json!({ "data": {
            "filter": { "user_id": account }, "event_type": "dm.received",
            "payload": { "direct_message_events": [event], "users": {} },
        } })
        .to_string();
        let mac = BASE64_STANDARD.encode(sha256(self.secret("consumer_secret"), &body));
        self.hooked(
            vec![json_type(), ("x-twitter-webhooks-signature", format!("sha256={mac}"))],
            body,
        )
    }

    fn twilio(&self, user: &str, event: &str, act: &Act<'_>) -> Said {
        // In the order of their names, as they are signed.
        let pairs = [
            ("AccountSid", self.setting("account_sid")),
            ("Body", words(act)),
            ("From", user),
            ("MessageSid", event),
            ("To", self.setting("from")),
        ];
        let signed: String = pairs.iter().flat_map(|(name, value)| [*name, *value]).collect();
        let mac = sha1(self.secret("auth_token"), &format!("{}{signed}", self.hook));
        self.hooked(
            vec![form_type(), ("x-twilio-signature", BASE64_STANDARD.encode(mac))],
            form(&pairs),
        )
    }

    fn webhook(&self, user: &str, place: &str, event: &str, act: &Act<'_>) -> Said {
        let mut document = json!({ "audience": "countersign", "from": user, "to": place });
        if let Act::Press { on, carries } = act {
            document["type"] = "card.answered".into();
            document["message"] = on.id.as_str().into();
            document["token"] = (*carries).into();
        } else {
            document["type"] = "words.written".into();
            document["words"] = words(act).into();
        }
        let (at, body) = (seconds().to_string(), document.to_string());
        let key = self.secret("answer_secret").strip_prefix("whsec_").unwrap();
        let key = BASE64_STANDARD.decode(key).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{event}.{at}.{body}").as_bytes());
        let mac = BASE64_STANDARD.encode(mac.finalize().into_bytes());
        let headers = vec![
            json_type(),
            ("webhook-id", event.to_owned()),
            ("webhook-timestamp", at),
            ("webhook-signature", format!("v1,{mac}")),
        ];
        self.hooked(headers, body)
    }

    /// As Meta and GitHub sign.
    fn hub(&self, body: Value, secret: &str, mut headers: Vec<(&'static str, String)>) -> Said {
        let body = body.to_string();
        let mac = hex::encode(sha256(self.secret(secret), &body));
        headers.extend([json_type(), ("x-hub-signature-256", format!("sha256={mac}"))]);
        self.hooked(headers, body)
    }

    fn borne(&self, token: &str, body: &Value) -> Said {
        self.hooked(
            vec![json_type(), ("authorization", format!("Bearer {token}"))],
            body.to_string(),
        )
    }

    fn token(&self, claims: &Value) -> String {
        let question = json!({ "pem": self.keys.theirs, "kid": "k1", "claims": claims });
        oracle("jwt_sign.py", &question)["token"].as_str().unwrap().to_owned()
    }

    fn hooked(&self, headers: Vec<(&'static str, String)>, body: String) -> Said {
        Said::Hook { url: self.hook.to_owned(), headers, body }
    }

    fn setting(&self, name: &str) -> &str {
        let mut settings = self.connection.settings.iter();
        &settings.find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}")).1
    }

    fn secret(&self, name: &str) -> &str {
        let mut secrets = self.connection.sent.iter().chain(&self.connection.kept);
        &secrets.find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}")).1
    }
}

impl Said {
    /// It reaches the channel: the status and the words that it was answered with.
    pub fn reaches(&self, there: &Platforms) -> (u16, String) {
        if let Self::Told { person, room, kind, content } = self {
            there.tell(*person, room, kind, content);
            return (200, String::new());
        }
        self.arrives()
    }

    /// A webhook, without anything of the platform beside it.
    pub fn arrives(&self) -> (u16, String) {
        let Self::Hook { url, headers, body } = self else { panic!("no webhook: {self:?}") };
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-w",
            "\n%{http_code}",
            "--noproxy",
            "*",
            "--max-time",
            "10",
            "--data-binary",
            "@-",
        ]);
        for (name, value) in headers {
            curl.arg("-H").arg(format!("{name}: {value}"));
        }
        let mut child = curl.arg(url).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap_or(0), body.to_owned())
    }
}

/// Asks a signer that others wrote: a script among the oracles of the adapters' tests.
pub(crate) fn oracle(script: &str, question: &Value) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-plane/chat/tests/oracles");
    let mut child = Command::new(tools().join("python/bin/python3"))
        .arg(folder.join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{script}: {error}; ./tests/run setup installs what it needs")
        });
    child.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

fn matrix(person: usize, place: &str, act: &Act<'_>) -> Said {
    let (kind, content) = match act {
        Act::React { on, with } => {
            let relation = json!({ "rel_type": "m.annotation", "event_id": on.id, "key": with });
            ("m.reaction", json!({ "m.relates_to": relation }))
        }
        _ => ("m.room.message", json!({ "msgtype": "m.text", "body": words(act) })),
    };
    Said::Told { person, room: place.to_owned(), kind, content }
}

fn words<'a>(act: &Act<'a>) -> &'a str {
    match act {
        Act::Write { words, .. } => words,
        Act::Press { .. } | Act::React { .. } => panic!("there are no such buttons"),
    }
}

/// What Mattermost keeps of the buttons of a post.
fn contexts(shown: &Value) -> Vec<Value> {
    let attachments = shown["props"]["attachments"].as_array().into_iter().flatten();
    let actions = attachments.flat_map(|it| it["actions"].as_array().cloned().unwrap_or_default());
    actions.map(|action| action["integration"]["context"].clone()).collect()
}

fn json_type() -> (&'static str, String) {
    ("content-type", "application/json".to_owned())
}

fn form_type() -> (&'static str, String) {
    ("content-type", "application/x-www-form-urlencoded".to_owned())
}

fn form(pairs: &[(&str, &str)]) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn sha256(key: &str, text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn sha1(key: &str, text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// An id that nothing else has.
fn fresh() -> String {
    hex::encode(rand::random::<[u8; 6]>())
}

/// The same id as a number.
fn number(id: &str) -> String {
    u64::from_str_radix(id, 16).unwrap().to_string()
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}
