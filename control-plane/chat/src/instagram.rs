//! Instagram: direct messages of a professional account, with quick replies, and its webhooks.
//!
//! developers.facebook.com, Instagram Platform, API with Instagram Login: "Send Messages" (1,000 bytes; 24 hours after
//! somebody last wrote), "Quick Replies" (20 characters), "Webhooks"; Messenger Platform: "Rate limits" (300 calls a second
//! and account; for one thread no number is published), "Error codes".
//!
//! Messages cannot be edited, and quick replies are not there on computers: the code always is. Text is plain, but addresses
//! and names with an @ in it are made links: the ones lose their scheme and the others have brackets around it.

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

pub(crate) static PLATFORM: Platform = Platform {
    name: "instagram",
    title: "Instagram",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the Instagram API is, with its version",
            default: Some("https://graph.instagram.com/v25.0"),
            required: false,
        },
        Setting {
            name: "account_id",
            help: "the id of the professional account, user_id of GET /me: what is written to another is not heard",
            default: None,
            required: true,
        },
    ],
    secrets: &[
        Setting {
            name: "access_token",
            help: "of the professional account, with instagram_business_manage_messages",
            default: None,
            required: true,
        },
        APP_SECRET,
        VERIFY_TOKEN,
    ],
    guide: "Create an app of type Business at https://developers.facebook.com/apps and add Instagram to it, with API setup\n\
            with Instagram login; here the app secret is Instagram's own, of that page.\n\
            Add the professional account and make a token with instagram_business_basic and\n\
            instagram_business_manage_messages.\n\
            The webhook's callback URL is {hook}, with the verify token; subscribe to messages and messaging_postbacks.\n\
            Each person first writes to the account, and again whenever 24 hours have passed since.",
    manifest: None,
    open: |configuration| Ok(Box::new(Instagram::open(&configuration)?)),
};

struct Instagram {
    base: String,
    account: String,
    access_token: Secret,
    hooks: Hooks,
}

const MESSAGE: Plain = Plain {
    limit: 1000,
    size: plain::bytes,
    rows: 20,
    written: |words| words.defanged().replace('@', "[@]"),
    typed: true,
};

impl Instagram {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            base: configuration.base("base_url"),
            account: configuration.setting("account_id"),
            access_token: configuration.secret("access_token")?,
            hooks: Hooks::open(configuration)?,
        })
    }

    fn call(&self, place: &str, message: &Value) -> Call {
        let url = format!("{}/{}/messages", self.base, segment(&self.account));
        let body = json!({ "recipient": { "id": place }, "message": message });
        Call::json(POST, url, &body, Auth::Bearer(self.access_token.clone()))
    }

    fn words(&self, place: &str, words: &Text) -> Call {
        self.call(place, &json!({ "text": (MESSAGE.written)(words) }))
    }
}

impl Adapter for Instagram {
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
        Ok(self.call(place, &meta::quick_replies(&MESSAGE.lines(notice)?)).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        let body = meta::accepted(answer, &[], &[meta::WINDOW])?;
        Ok(Message { place: place.to_owned(), id: meta::named(&body["message_id"])? })
    }

    fn say(&self, place: &str, _under: Option<&Message>, words: &Text) -> Outgoing {
        self.words(place, words).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        meta::accepted(answer, &[], &[meta::WINDOW]).map(drop)
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        match self.hooks.verify(inbound)? {
            Verified::Challenge(reply) => Ok(Heard::Challenge(reply)),
            Verified::Body(body) => {
                Inbox { object: "instagram", account: &self.account }.heard(&body, now)
            }
        }
    }

    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        (Reply::empty(StatusCode::OK), Some(self.words(&said.reply_to, outcome.words())))
    }
}
