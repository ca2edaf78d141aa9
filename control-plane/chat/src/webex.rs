//! Webex: messages of a bot with an Adaptive Card; webhooks that say only which action or message there is.
//!
//! developer.webex.com: "Buttons and Cards", "Webhooks" (handling requests, X-Spark-Signature), messages (7,439 bytes),
//! attachment actions, "REST API Basics" (rate limits are answered with 429 and Retry-After, and no number is published: one
//! message a second is kept to); adaptivecards.io: RichTextBlock and TextRun, which read no Markdown.
//!
//! What a webhook names is fetched from the channel's own base address, with the bot's own token, and has to be what was
//! named. A message with a card stays as it was sent.

use std::time::SystemTime;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::card::{Excerpt, Notice};
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Said, Setting, TooLarge, Unfit, User, What, segment,
};
use crate::secret::Secret;
use crate::text::Text;
use crate::token::Token;
use crate::typed::Typed;
use crate::verify;

pub(crate) static PLATFORM: Platform = Platform {
    name: "webex",
    title: "Webex",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the API is",
            default: Some("https://webexapis.com/v1"),
            required: false,
        },
        Setting {
            name: "bot",
            help: "the bot's person id, as GET /people/me has it: webhooks of others are refused",
            default: None,
            required: true,
        },
    ],
    secrets: &[
        Setting {
            name: "bot_token",
            help: "the bot's access token, shown once",
            default: None,
            required: true,
        },
        Setting {
            name: "webhook_secret",
            help: "made up by you, long and random: webhooks are signed with it",
            default: None,
            required: true,
        },
    ],
    guide: "Create a bot at https://developer.webex.com/my-apps and copy its access token; GET /people/me has its id.\n\
            With that token, POST /webhooks twice, with the resources attachmentActions and messages:\n\
            {\"name\": \"countersign\", \"targetUrl\": \"{hook}\", \"resource\": \"…\", \"event\": \"created\", \"secret\": \"…\"}",
    manifest: None,
    open: |configuration| Ok(Box::new(Webex::open(&configuration)?)),
};

struct Webex {
    base: String,
    bot: String,
    bot_token: Secret,
    webhook_secret: Secret,
}

/// A message holds 7,439 bytes. For cards nothing of their own is published, so they are kept to that with all their JSON.
const MESSAGE: usize = 7439;
const BODY_ROOM: usize = 4000;
const BODY_ROWS: usize = 40;

/// What stands in the place of text that an old client cannot show, lest buttons stand there alone.
const UNSEEN: &str = "This client cannot show what is asked. Do not answer it here.";

impl Webex {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            base: configuration.base("base_url"),
            bot: configuration.setting("bot"),
            bot_token: configuration.secret("bot_token")?,
            webhook_secret: configuration.secret("webhook_secret")?,
        })
    }

    fn auth(&self) -> Auth {
        Auth::Bearer(self.bot_token.clone())
    }

    fn message(&self, body: &Value) -> Call {
        Call::json(POST, format!("{}/messages", self.base), body, self.auth())
    }

    /// Words for one person, in their room with the bot.
    fn tell(&self, person: &str, words: &Text) -> Call {
        self.message(&json!({ "toPersonId": person, "text": plain(words) }))
    }

    fn tap(&self, action: &Value) -> Option<Said> {
        let token = Token::parse(action["inputs"]["token"].as_str()?)?;
        let message = text(&action["messageId"])?;
        self.said(action, What::Tap(token), message)
    }

    fn typed(&self, message: &Value) -> Option<Said> {
        // Other bots have addresses of this domain.
        let bot = message["personEmail"].as_str().is_some_and(|it| it.ends_with("@webex.bot"));
        let typed = message["text"].as_str().filter(|_| !bot).and_then(Typed::find)?;
        let id = text(&message["id"])?;
        self.said(message, What::Typed(typed), id)
    }

    fn said(&self, of: &Value, what: What, message: String) -> Option<Said> {
        // A person's id is theirs all over Webex.
        let person = text(&of["personId"]).filter(|person| *person != self.bot)?;
        Some(Said {
            by: User { tenant: String::new(), id: person.clone() },
            what,
            message: Message { place: text(&of["roomId"])?, id: message },
            event: text(&of["id"])?,
            reply_to: person,
        })
    }
}

impl Adapter for Webex {
    fn caps(&self) -> Caps {
        Caps {
            buttons: true,
            edit: false,
            keyed_send: false,
            wire: Wire::Webhook,
            evidence: Evidence::SharedMac,
            per_second: 1.0,
            per_second_and_place: 1.0,
            burst: 1,
        }
    }

    /// A room for two comes into being with the first message in it.
    fn converse(&self, user: &User) -> Option<Call> {
        Some(self.tell(&user.id, &Text::of("This is where you will be asked for your consent.")))
    }

    fn conversed(&self, answer: &Answer) -> Result<String, Failure> {
        answer.done()?;
        read(&answer.json()["roomId"])
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        let card = notice.card.body.fitted(BODY_ROOM, BODY_ROWS, |excerpt| {
            let card = card(notice, excerpt);
            (card.to_string().len() <= MESSAGE).then_some(card)
        })?;
        let attachment =
            json!({ "contentType": "application/vnd.microsoft.card.adaptive", "content": card });
        // The text is for notifications, and for clients without cards.
        Ok(self
            .message(&json!({
                "roomId": place, "text": notice.title(), "attachments": [attachment],
            }))
            .into())
    }

    fn posted(&self, _place: &str, answer: &Answer) -> Result<Message, Failure> {
        answer.done()?;
        let body = answer.json();
        Ok(Message { place: read(&body["roomId"])?, id: read(&body["id"])? })
    }

    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing {
        let mut body = json!({ "roomId": place, "text": plain(words) });
        if let Some(message) = under.filter(|message| !message.id.is_empty()) {
            body["parentId"] = message.id.as_str().into();
        }
        self.message(&body).into()
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method != Method::POST {
            return Err(Forged::Shape);
        }
        let signature = inbound.header("x-spark-signature").ok_or(Forged::Signature)?;
        let secret = self.webhook_secret.expose().as_bytes();
        verify::hmac_sha1_hex(secret, &[inbound.body], signature)?;
        let body: Value = serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)?;
        let data = &body["data"];
        verify::fresh_rfc3339(data["created"].as_str().ok_or(Forged::Shape)?, now)?;
        // A webhook is its creator's: one secret may be many's.
        if body["createdBy"] != *self.bot {
            return Err(Forged::Signature);
        }
        let id = text(&data["id"]).ok_or(Forged::Shape)?;
        let own = data["personId"] == *self.bot;
        match (body["resource"].as_str(), body["event"].as_str()) {
            (Some("attachmentActions"), Some("created")) => {
                Ok(Heard::Named(format!("action {id}")))
            }
            (Some("messages"), Some("created")) if !own => {
                Ok(Heard::Named(format!("message {id}")))
            }
            _ => Ok(Heard::Nothing),
        }
    }

    fn fetch(&self, named: &str) -> Option<Call> {
        let path = match named.split_once(' ')? {
            ("action", id) => format!("attachment/actions/{}", segment(id)),
            ("message", id) => format!("messages/{}", segment(id)),
            _ => return None,
        };
        Some(Call::get(format!("{}/{path}", self.base), self.auth()))
    }

    fn fetched(&self, named: &str, answer: &Answer) -> Result<Heard, Failure> {
        answer.done()?;
        let body = answer.json();
        let said = match named.split_once(' ') {
            Some(("action", id)) if body["id"] == *id => self.tap(&body),
            Some(("message", id)) if body["id"] == *id => self.typed(&body),
            _ => return Err(Failure::Never { why: "Webex's answer is not what was named".into() }),
        };
        Ok(said.map_or(Heard::Nothing, |said| Heard::Said(vec![said])))
    }

    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        (Reply::empty(StatusCode::OK), Some(self.tell(&said.reply_to, outcome.words())))
    }
}

/// Runs of text, in which no Markdown is read. Addresses have no scheme, for clients make links of them.
fn card(notice: &Notice<'_>, excerpt: &Excerpt) -> Value {
    let line = |text: &str, weight: &str| {
        json!({
            "type": "RichTextBlock", "spacing": "Small",
            "inlines": [{ "type": "TextRun", "text": text, "weight": weight }],
        })
    };
    let mut head = line(notice.title(), "Bolder");
    head["fallback"] = json!({ "type": "TextBlock", "text": UNSEEN, "wrap": true });
    let mut body = vec![head];
    let mut said = notice.head(excerpt.whole);
    said.push(excerpt.label.clone());
    said.extend(excerpt.lines.iter().cloned());
    body.extend(said.iter().map(|it| match it.defanged().as_str() {
        // A run has to have something in it.
        "" => line(" ", "Default"),
        text => line(text, "Default"),
    }));
    let answers = notice.buttons(excerpt.whole);
    let actions = answers.into_iter().flat_map(|answers| {
        let button = |title: &str, token: &Token| json!({ "type": "Action.Submit", "title": title, "data": { "token": token.as_str() } });
        [button("Approve", &answers.approve), button("Deny", &answers.deny)]
    });
    json!({
        "type": "AdaptiveCard", "version": "1.3", "body": body, "actions": actions.collect::<Vec<_>>(),
    })
}

/// Plain text, in which Webex reads no Markdown.
fn plain(words: &Text) -> String {
    Text::of(&words.defanged()).within(MESSAGE).to_string()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn read(value: &Value) -> Result<String, Failure> {
    text(value)
        .ok_or_else(|| Failure::Never { why: "Webex's answer does not name the message".into() })
}
