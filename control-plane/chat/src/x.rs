//! X: direct messages, answered with a typed code.
//!
//! docs.x.com: "Manage Direct Messages", "Webhooks" (challenge-response check, signature), "X Activity API: event payloads"
//! (dm.received) and the Account Activity API that it replaces, "Rate limits". A message holds 10,000 characters.
//!
//! Messages cannot be edited. Addresses and names with an @ in them are made links: the ones lose their scheme and the others
//! have brackets around it.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::card::Notice;
use crate::http::{Answer, Auth, Call, Failure, Form, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::plain::{self, Plain};
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Said, Setting, TooLarge, Unfit, User, What, segment,
};
use crate::secret::Secret;
use crate::text::Text;
use crate::typed::Typed;
use crate::verify;

pub(crate) static PLATFORM: Platform = Platform {
    name: "x",
    title: "X",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the API is, with its version",
            default: Some("https://api.x.com/2"),
            required: false,
        },
        Setting {
            name: "account_id",
            help: "the numeric id of the account that sends: what is written to another is not heard",
            default: None,
            required: true,
        },
    ],
    secrets: &[
        Setting {
            name: "access_token",
            help: "of that account, as a user: OAuth 2.0 with dm.write, dm.read, tweet.read and users.read",
            default: None,
            required: true,
        },
        Setting {
            name: "consumer_secret",
            help: "the app's API secret key: webhooks are signed with it",
            default: None,
            required: true,
        },
    ],
    guide: "Create an app at https://console.x.com that may read, write and send direct messages.\n\
            Let the account authorise it with dm.write, dm.read, tweet.read and users.read. X's user tokens are good for two\n\
            hours: whatever renews this one has to set the secret anew.\n\
            Register {hook} with POST /2/webhooks, and subscribe it to dm.received of the account.\n\
            Each person lets the account write to them, by following it or writing first.\n\
            What is written in X's encrypted chat does not come this way: that is the platform xchat.",
    manifest: None,
    open: |configuration| Ok(Box::new(X::open(&configuration)?)),
};

struct X {
    base: String,
    account: String,
    access_token: Secret,
    consumer_secret: Secret,
}

pub(crate) const MESSAGE: Plain = Plain {
    limit: 10_000,
    size: plain::utf16,
    rows: 60,
    written: |words| words.defanged().replace('@', "[@]"),
    typed: true,
};

/// Fifteen in fifteen minutes, and 1,440 a day: over a day that is the same rate.
pub(crate) const PER_SECOND: f64 = 15.0 / 900.0;
pub(crate) const BURST: u32 = 15;

impl X {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            base: configuration.base("base_url"),
            account: configuration.setting("account_id"),
            access_token: configuration.secret("access_token")?,
            consumer_secret: configuration.secret("consumer_secret")?,
        })
    }

    fn call(&self, place: &str, text: &str) -> Call {
        let url = format!("{}/dm_conversations/with/{}/messages", self.base, segment(place));
        Call::json(POST, url, &json!({ "text": text }), Auth::Bearer(self.access_token.clone()))
    }

    fn said(&self, event: &Value, now: SystemTime) -> Result<Option<Said>, Forged> {
        let create = &event["message_create"];
        let to_us = create["target"]["recipient_id"] == *self.account;
        let from_us = create["sender_id"] == *self.account;
        if event["type"] != "message_create" || !to_us || from_us {
            return Ok(None);
        }
        let Some(typed) = create["message_data"]["text"].as_str().and_then(Typed::find) else {
            return Ok(None);
        };
        let milliseconds = text(&event["created_timestamp"])?;
        let seconds = milliseconds.parse::<u64>().map_err(|_| Forged::Stale)? / 1000;
        verify::fresh_at(seconds, now)?;
        let (id, event) = (text(&create["sender_id"])?, text(&event["id"])?);
        let message = Message { place: id.clone(), id: event.clone() };
        let by = User { tenant: String::new(), id: id.clone() };
        Ok(Some(Said { by, what: What::Typed(typed), message, event, reply_to: id }))
    }
}

impl Adapter for X {
    fn caps(&self) -> Caps {
        Caps {
            buttons: false,
            edit: false,
            keyed_send: false,
            wire: Wire::Webhook,
            evidence: Evidence::SharedMac,
            per_second: PER_SECOND,
            per_second_and_place: 1.0,
            burst: BURST,
        }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        Ok(self.call(place, &MESSAGE.lines(notice)?.text).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        accepted(answer)?;
        let id = answer.json()["data"]["dm_event_id"].as_str().map(str::to_owned);
        let id = id
            .ok_or_else(|| Failure::Never { why: "X's answer does not name the message".into() })?;
        Ok(Message { place: place.to_owned(), id })
    }

    fn say(&self, place: &str, _under: Option<&Message>, words: &Text) -> Outgoing {
        self.call(place, &(MESSAGE.written)(words)).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer)
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method == Method::GET {
            return challenge(&self.consumer_secret, inbound).map(Heard::Challenge);
        }
        let body = verified(&self.consumer_secret, inbound)?;
        // The X Activity API has the events in an envelope; the one that it replaces has not.
        let data = &body["data"];
        let (account, events) = match data["event_type"].as_str() {
            Some("dm.received") => (&data["filter"]["user_id"], &data["payload"]),
            Some(_) => return Ok(Heard::Nothing),
            None => (&body["for_user_id"], &body),
        };
        // An app can have other accounts beside this one.
        if *account != *self.account {
            return Ok(Heard::Nothing);
        }
        let Some(events) = events["direct_message_events"].as_array() else {
            return Ok(Heard::Nothing);
        };
        let said =
            events.iter().map(|event| self.said(event, now)).collect::<Result<Vec<_>, _>>()?;
        let said: Vec<_> = said.into_iter().flatten().collect();
        Ok(if said.is_empty() { Heard::Nothing } else { Heard::Said(said) })
    }

    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let words = (MESSAGE.written)(outcome.words());
        (Reply::empty(StatusCode::OK), Some(self.call(&said.reply_to, &words)))
    }
}

/// Whoever asks gets a MAC of what they send, made with the key and in the way of a webhook's signature. So nothing is
/// signed that has a character of a JSON document in it.
pub(crate) fn challenge(consumer_secret: &Secret, inbound: &Inbound<'_>) -> Result<Reply, Forged> {
    let query = Form::parse(inbound.query.ok_or(Forged::Shape)?.as_bytes())?;
    let token = query.value("crc_token").ok_or(Forged::Shape)?;
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_+/=".contains(&b);
    if token.is_empty() || token.len() > 256 || !token.bytes().all(harmless) {
        return Err(Forged::Shape);
    }
    let key = consumer_secret.expose().as_bytes();
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Forged::Signature)?;
    mac.update(token.as_bytes());
    let mac = STANDARD.encode(mac.finalize().into_bytes());
    Ok(Reply::json(&json!({ "response_token": format!("sha256={mac}") })))
}

/// What X has signed with the app's secret.
pub(crate) fn verified(consumer_secret: &Secret, inbound: &Inbound<'_>) -> Result<Value, Forged> {
    if inbound.method != Method::POST {
        return Err(Forged::Shape);
    }
    let signature = inbound.header("x-twitter-webhooks-signature").ok_or(Forged::Signature)?;
    let mac = signature.strip_prefix("sha256=").ok_or(Forged::Signature)?;
    verify::hmac_sha256_base64(consumer_secret.expose().as_bytes(), &[inbound.body], mac)?;
    serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)
}

/// Problems of the API are told as RFC 7807 has it.
pub(crate) fn accepted(answer: &Answer) -> Result<(), Failure> {
    let detail = answer.json()["detail"].as_str().map(Text::of);
    let told = |why: String| match &detail {
        Some(detail) => format!("{why}: {detail}"),
        None => why,
    };
    answer.done().map_err(|failure| match failure {
        Failure::Later { after, why } => Failure::Later { after, why: told(why) },
        Failure::Never { why } => Failure::Never { why: told(why) },
    })
}

fn text(value: &Value) -> Result<String, Forged> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or(Forged::Shape)
}
