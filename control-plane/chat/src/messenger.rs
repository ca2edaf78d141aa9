//! Messenger: button templates and quick replies of a page, and its webhooks.
//!
//! developers.facebook.com, Messenger Platform: "Button template", "Postback button", "Quick replies", "Send messages" (2,000
//! characters; 24 hours after somebody last wrote), webhook events "messages", "messaging_postbacks" and "message_echoes",
//! "Rate limits" (300 calls a second and page; for one thread no number is published), "Error codes".
//!
//! Messages cannot be edited. Text is plain, but addresses in it are made links: they lose their scheme.

use std::time::SystemTime;

use http::StatusCode;
use serde_json::{Value, json};

use crate::card::Notice;
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::meta::{self, APP_SECRET, Hooks, Inbox, VERIFY_TOKEN, Verified};
use crate::outgoing::Outgoing;
use crate::plain::{self, Plain};
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Said, Setting, TooLarge, Unfit, segment,
};
use crate::secret::Secret;
use crate::text::Text;
use crate::token::Token;

pub(crate) static PLATFORM: Platform = Platform {
    name: "messenger",
    title: "Messenger",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the Graph API is, with its version",
            default: Some("https://graph.facebook.com/v25.0"),
            required: false,
        },
        Setting {
            name: "page_id",
            help: "the id of the page that people write to: what is written to another is not heard",
            default: None,
            required: true,
        },
    ],
    secrets: &[
        Setting {
            name: "page_access_token",
            help: "of the page, with the permission pages_messaging",
            default: None,
            required: true,
        },
        APP_SECRET,
        VERIFY_TOKEN,
    ],
    guide: "Create an app of type Business at https://developers.facebook.com/apps and add Messenger to it.\n\
            Connect the page and make a token for it with pages_messaging.\n\
            Under Webhooks, the callback URL is {hook}, with the verify token; subscribe the page to messages and\n\
            messaging_postbacks.\n\
            Each person first writes to the page, and again whenever 24 hours have passed since.",
    manifest: None,
    open: |configuration| Ok(Box::new(Messenger::open(&configuration)?)),
};

struct Messenger {
    base: String,
    page: String,
    page_access_token: Secret,
    hooks: Hooks,
}

/// A template's text holds 640 characters, and its buttons stay; a text holds 2,000, and its replies go when another message
/// comes, so it has the code in it.
const TEMPLATE: Plain =
    Plain { limit: 640, size: plain::utf16, rows: 15, written: Text::defanged, typed: false };
const ALONE: Plain = Plain { limit: 2000, rows: 30, typed: true, ..TEMPLATE };

impl Messenger {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            base: configuration.base("base_url"),
            page: configuration.setting("page_id"),
            page_access_token: configuration.secret("page_access_token")?,
            hooks: Hooks::open(configuration)?,
        })
    }

    fn call(&self, place: &str, message: &Value) -> Call {
        let url = format!("{}/{}/messages", self.base, segment(&self.page));
        let body = json!({ "recipient": { "id": place }, "messaging_type": "RESPONSE", "message": message });
        Call::json(POST, url, &body, Auth::Bearer(self.page_access_token.clone()))
    }

    fn words(&self, place: &str, words: &Text) -> Call {
        self.call(place, &json!({ "text": words.defanged() }))
    }
}

impl Adapter for Messenger {
    fn caps(&self) -> Caps {
        Caps {
            buttons: true,
            edit: false,
            keyed_send: false,
            wire: Wire::Webhook,
            evidence: Evidence::SharedMac,
            per_second: 300.0,
            per_second_and_place: 1.0,
            burst: 1,
        }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        let lines = TEMPLATE.lines(notice);
        let buttons = lines.as_ref().ok().and_then(|lines| Some((&lines.text, lines.buttons?)));
        let Some((text, answers)) = buttons else {
            return Ok(self.call(place, &meta::quick_replies(&ALONE.lines(notice)?)).into());
        };
        let button = |title: &str, token: &Token| json!({ "type": "postback", "title": title, "payload": token.as_str() });
        let payload = json!({
            "template_type": "button",
            "text": text,
            "buttons": [button("Approve", &answers.approve), button("Deny", &answers.deny)],
        });
        let attachment = json!({ "type": "template", "payload": payload });
        Ok(self.call(place, &json!({ "attachment": attachment })).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        let body = meta::accepted(answer, &[1200], &[meta::WINDOW])?;
        Ok(Message { place: place.to_owned(), id: meta::named(&body["message_id"])? })
    }

    fn say(&self, place: &str, _under: Option<&Message>, words: &Text) -> Outgoing {
        self.words(place, words).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        meta::accepted(answer, &[1200], &[meta::WINDOW]).map(drop)
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        match self.hooks.verify(inbound)? {
            Verified::Challenge(reply) => Ok(Heard::Challenge(reply)),
            Verified::Body(body) => Inbox { object: "page", account: &self.page }.heard(&body, now),
        }
    }

    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        (Reply::empty(StatusCode::OK), Some(self.words(&said.reply_to, outcome.words())))
    }
}
