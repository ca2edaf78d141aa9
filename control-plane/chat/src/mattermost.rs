//! Mattermost: posts of a bot with buttons; interactive messages and a slash command over HTTP.
//!
//! developers.mattermost.com: "Interactive messages" (attachments, actions, integration context, ephemeral_text), "Slash
//! commands" (custom; posts are of at most 16,383 characters), API reference (create and patch a post, create a direct
//! channel); docs.mattermost.com: "Rate limiting" (10 requests a second, where it is on).
//!
//! A pressed button is not signed: the server repeats what we have put into the button, and says who pressed it where. Users
//! never see that context. So it holds a MAC of ours over place and token, and what somebody puts into a post of their own is
//! worth nothing.

use std::time::SystemTime;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::card::{Excerpt, Notice};
use crate::fence::fenced;
use crate::http::{Answer, Auth, Call, Failure, Form, Inbound, Reply, Wire};
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
    name: "mattermost",
    title: "Mattermost",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the server is: every Mattermost is somebody's own",
            default: None,
            required: true,
        },
        Setting {
            name: "bot",
            help: "the user id of the bot's account",
            default: None,
            required: true,
        },
        Setting {
            name: "hook_url",
            help: "the address that buttons call: this channel's own",
            default: None,
            required: true,
        },
    ],
    secrets: &[
        Setting {
            name: "bot_token",
            help: "the access token of the bot's account",
            default: None,
            required: true,
        },
        Setting {
            name: "command_token",
            help: "the token that Mattermost has made for the slash command",
            default: None,
            required: true,
        },
        Setting {
            name: "action_secret",
            help: "made up by you, long and random: buttons are known again by it",
            default: None,
            required: true,
        },
    ],
    guide: "System Console > Integrations: allow bot accounts and custom slash commands; if {hook} is an internal address, add its\n\
            host to Developer > Allow untrusted internal connections.\n\
            Integrations > Bot Accounts: add a bot with the permission post:all; copy its token and its user id.\n\
            Integrations > Slash Commands: add one with the trigger countersign, method POST and request URL {hook}; copy its token.\n\
            The setting hook_url is {hook}",
    manifest: None,
    open: |configuration| Ok(Box::new(Mattermost::open(&configuration)?)),
};

struct Mattermost {
    base: String,
    bot: String,
    hook: String,
    bot_token: Secret,
    command_token: Secret,
    action_secret: Secret,
}

/// A post holds 16,383 characters.
const MESSAGE: usize = 16_383;
const BODY_ROOM: usize = 10_000;
const BODY_ROWS: usize = 100;
/// A fence that is written out is eight characters instead of three.
const WORDS: usize = 6000;

impl Mattermost {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            base: configuration.base("base_url"),
            bot: configuration.setting("bot"),
            hook: configuration.setting("hook_url"),
            bot_token: configuration.secret("bot_token")?,
            command_token: configuration.secret("command_token")?,
            action_secret: configuration.secret("action_secret")?,
        })
    }

    fn call(&self, method: Method, path: &str, body: &Value) -> Call {
        let url = format!("{}/api/v4/{path}", self.base);
        Call::json(method, url, body, Auth::Bearer(self.bot_token.clone()))
    }

    fn rendered(&self, place: &str, notice: &Notice<'_>) -> Result<Value, TooLarge> {
        notice.card.body.fitted(BODY_ROOM, BODY_ROWS, |excerpt| {
            let message = face(notice, excerpt);
            let attachments = self.attachments(place, notice, excerpt);
            (message.chars().count() <= MESSAGE).then(|| {
                let mut props = quiet();
                props["attachments"] = attachments;
                json!({ "message": message, "props": props })
            })
        })
    }

    fn attachments(&self, place: &str, notice: &Notice<'_>, excerpt: &Excerpt) -> Value {
        let Some(answers) = notice.buttons(excerpt.whole) else { return json!([]) };
        let button = |id: &str, label: &str, style: &str, token: &Token| {
            let context = json!({ "token": token.as_str(), "proof": self.proof(place, token) });
            json!({
                "id": id, "type": "button", "name": label, "style": style,
                "integration": { "url": self.hook, "context": context },
            })
        };
        json!([{
            "fallback": notice.title(),
            "actions": [
                button("approve", "Approve", "success", &answers.approve),
                button("deny", "Deny", "danger", &answers.deny),
            ],
        }])
    }

    /// That we have put this token into a button of this place.
    fn proof(&self, place: &str, token: &Token) -> String {
        let parts = proven(place, token.as_str());
        verify::made_hmac_sha256_hex(self.action_secret.expose().as_bytes(), &parts)
    }

    /// A pressed button. What proves it is within the JSON, so that is parsed first; nothing of it is used before.
    fn action(&self, body: &Value) -> Result<Heard, Forged> {
        let place = text(&body["channel_id"])?;
        let token = text(&body["context"]["token"]).map_err(|_| Forged::Signature)?;
        let proof = text(&body["context"]["proof"]).map_err(|_| Forged::Signature)?;
        let secret = self.action_secret.expose().as_bytes();
        verify::hmac_sha256_hex(secret, &proven(&place, &token), &proof)?;
        let token = Token::parse(&token).ok_or(Forged::Shape)?;
        Ok(Heard::Said(vec![Said {
            by: User { tenant: String::new(), id: text(&body["user_id"])? },
            what: What::Tap(token),
            message: Message { place, id: text(&body["post_id"])? },
            event: text(&body["trigger_id"])?,
            reply_to: String::new(),
        }]))
    }

    /// `/countersign link CODE`; its token is in a header, and again in the form.
    fn command(&self, inbound: &Inbound<'_>) -> Result<Heard, Forged> {
        let header = inbound.header("authorization").and_then(|it| it.strip_prefix("Token "));
        verify::static_secret(&self.command_token, header.ok_or(Forged::Signature)?)?;
        let form = Form::parse(inbound.body)?;
        let required =
            |name| form.value(name).filter(|value| !value.is_empty()).ok_or(Forged::Shape);
        let Some(typed) = form.value("text").as_deref().and_then(Typed::find) else {
            return Ok(Heard::Challenge(private(&Text::of(
                "say: link CODE, or approve CODE, or deny CODE because …",
            ))));
        };
        Ok(Heard::Said(vec![Said {
            by: User { tenant: String::new(), id: required("user_id")? },
            what: What::Typed(typed),
            message: Message { place: required("channel_id")?, id: String::new() },
            event: required("trigger_id")?,
            reply_to: String::new(),
        }]))
    }
}

impl Adapter for Mattermost {
    fn caps(&self) -> Caps {
        Caps {
            buttons: true,
            edit: true,
            keyed_send: false,
            wire: Wire::Webhook,
            evidence: Evidence::StaticSecret,
            per_second: 10.0,
            per_second_and_place: 10.0,
            burst: 1,
        }
    }

    fn converse(&self, user: &User) -> Option<Call> {
        Some(self.call(POST, "channels/direct", &json!([self.bot, user.id])))
    }

    fn conversed(&self, answer: &Answer) -> Result<String, Failure> {
        answer.done()?;
        read(&answer.json()["id"])
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        let mut body = self.rendered(place, notice)?;
        body["channel_id"] = place.into();
        Ok(self.call(POST, "posts", &body).into())
    }

    fn posted(&self, _place: &str, answer: &Answer) -> Result<Message, Failure> {
        answer.done()?;
        let body = answer.json();
        Ok(Message { place: read(&body["channel_id"])?, id: read(&body["id"])? })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        let path = format!("posts/{}/patch", segment(&message.id));
        Some(self.rendered(&message.place, notice).map(|body| self.call(Method::PUT, &path, &body)))
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        let gone = answer.status == StatusCode::NOT_FOUND
            && answer.json()["id"] == "app.post.get.app_error";
        if gone { Ok(()) } else { answer.done() }
    }

    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing {
        let mut body = json!({ "channel_id": place, "message": said(words), "props": quiet() });
        if let Some(message) = under.filter(|message| !message.id.is_empty()) {
            body["root_id"] = message.id.as_str().into();
        }
        self.call(POST, "posts", &body).into()
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, _now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method != Method::POST {
            return Err(Forged::Shape);
        }
        match inbound.header("content-type").and_then(|it| it.split(';').next()).map(str::trim) {
            Some("application/json") => {
                self.action(&serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)?)
            }
            Some("application/x-www-form-urlencoded") => self.command(inbound),
            _ => Err(Forged::Shape),
        }
    }

    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let reply = match said.what {
            What::Tap(_) => {
                let text = self::said(outcome.words());
                Reply::json(&json!({ "ephemeral_text": text, "skip_slack_parsing": true }))
            }
            What::Reaction(_) | What::Typed(_) => private(outcome.words()),
        };
        (reply, None)
    }
}

/// Only our own title is outside of blocks of code.
fn face(notice: &Notice<'_>, excerpt: &Excerpt) -> String {
    let head = fenced(&notice.head(excerpt.whole));
    let body = fenced(std::iter::once(&excerpt.label).chain(&excerpt.lines));
    format!("{}\n{head}\n{body}", notice.title())
}

fn said(words: &Text) -> String {
    fenced([&words.within(WORDS)])
}

fn private(words: &Text) -> Reply {
    let text = said(words);
    Reply::json(&json!({ "response_type": "ephemeral", "text": text, "skip_slack_parsing": true }))
}

/// Nobody is called by a name that stands in a post.
fn quiet() -> Value {
    json!({ "disable_group_highlight": true, "mentionHighlightDisabled": true })
}

/// A token has no line break, so no two places and tokens are the same bytes.
fn proven<'a>(place: &'a str, token: &'a str) -> [&'a [u8]; 4] {
    [b"countersign mattermost v1\n", place.as_bytes(), b"\n", token.as_bytes()]
}

fn text(value: &Value) -> Result<String, Forged> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or(Forged::Shape)
}

fn read(value: &Value) -> Result<String, Failure> {
    text(value)
        .map_err(|_| Failure::Never { why: "Mattermost's answer does not name the post".into() })
}
