//! WhatsApp: reply buttons of the Cloud API, and its webhooks.
//!
//! developers.facebook.com, WhatsApp Business Platform: "Interactive reply buttons messages", "Text messages", messages
//! webhooks reference ("interactive", "text"), "Business-scoped user IDs", "Throughput" (80 messages a second and number),
//! "Error codes" (131056: more than one message in six seconds to the same person; 131047: 24 hours after they last wrote).
//!
//! Messages cannot be edited, and only who has written within 24 hours is sent any. Text between three backticks is shown
//! as it is, so a backtick in it is written out; addresses are made links all the same, so they lose their scheme.

use std::time::SystemTime;

use http::StatusCode;
use serde_json::{Value, json};

use crate::card::{Face, Notice};
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::meta::{self, APP_SECRET, Hooks, VERIFY_TOKEN, Verified, list, text};
use crate::outgoing::Outgoing;
use crate::plain::{self, Plain};
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
    name: "whatsapp",
    title: "WhatsApp",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the Graph API is, with its version",
            default: Some("https://graph.facebook.com/v25.0"),
            required: false,
        },
        Setting {
            name: "phone_number_id",
            help: "the id of the number that sends, of API Setup: what is written to another is not heard",
            default: None,
            required: true,
        },
    ],
    secrets: &[
        Setting {
            name: "access_token",
            help: "of a system user with the permission whatsapp_business_messaging",
            default: None,
            required: true,
        },
        APP_SECRET,
        VERIFY_TOKEN,
    ],
    guide: "Create an app of type Business at https://developers.facebook.com/apps and add WhatsApp to it.\n\
            Give a system user the app and the number, and make a token with whatsapp_business_messaging.\n\
            Under Configuration, the callback URL is {hook}, with the verify token; subscribe to the field messages.\n\
            Each person first writes to the number, and again whenever 24 hours have passed since.",
    manifest: None,
    open: |configuration| Ok(Box::new(WhatsApp::open(&configuration)?)),
};

struct WhatsApp {
    base: String,
    number: String,
    access_token: Secret,
    hooks: Hooks,
}

/// A body holds 1,024 characters over buttons and 4,096 alone, of which the backticks and their line breaks are eight. What
/// Meta calls a character it does not say: in UTF-16 there are never fewer.
const FENCE: &str = "```";
const BUTTONS: Plain = Plain {
    limit: 1024 - 8,
    size: plain::utf16,
    rows: 20,
    written: |words| words.defanged().replace('`', "\\u{60}"),
    typed: false,
};
/// Where a rule wants the request seen whole and there is no room for it over buttons, there may be here: a code is typed.
const ALONE: Plain = Plain { limit: 4096 - 8, rows: 40, typed: true, ..BUTTONS };

impl WhatsApp {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            base: configuration.base("base_url"),
            number: configuration.setting("phone_number_id"),
            access_token: configuration.secret("access_token")?,
            hooks: Hooks::open(configuration)?,
        })
    }

    fn call(&self, place: &str, mut body: Value) -> Call {
        body["messaging_product"] = "whatsapp".into();
        body["recipient_type"] = "individual".into();
        // A phone number is digits; a business-scoped user id begins with a country.
        let phone = place.bytes().all(|b| b.is_ascii_digit());
        body[if phone { "to" } else { "recipient" }] = place.into();
        let url = format!("{}/{}/messages", self.base, segment(&self.number));
        Call::json(POST, url, &body, Auth::Bearer(self.access_token.clone()))
    }

    fn said(&self, message: &Value, now: SystemTime) -> Result<Option<Said>, Forged> {
        let what = match message["type"].as_str() {
            Some("interactive") => {
                let reply = &message["interactive"]["button_reply"];
                reply["id"].as_str().and_then(Token::parse).map(What::Tap)
            }
            Some("text") => message["text"]["body"].as_str().and_then(Typed::find).map(What::Typed),
            _ => None,
        };
        let Some(what) = what else { return Ok(None) };
        // Cards go to people, not to groups.
        if !message["group_id"].is_null() {
            return Ok(None);
        }
        verify::fresh(&text(&message["timestamp"])?, now)?;
        // The id that stays when a phone number is given to somebody else, where Meta says it.
        let id = text(&message["from_user_id"]).or_else(|_| text(&message["from"]))?;
        let event = text(&message["id"])?;
        let on = match what {
            What::Tap(_) => text(&message["context"]["id"])?,
            _ => event.clone(),
        };
        let by = User { tenant: String::new(), id: id.clone() };
        let message = Message { place: id.clone(), id: on };
        Ok(Some(Said { by, what, message, event, reply_to: id }))
    }
}

impl Adapter for WhatsApp {
    fn caps(&self) -> Caps {
        Caps {
            buttons: true,
            edit: false,
            keyed_send: false,
            wire: Wire::Webhook,
            evidence: Evidence::SharedMac,
            per_second: 80.0,
            per_second_and_place: 1.0 / 6.0,
            burst: 1,
        }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        if matches!(notice.face, Face::Asking { .. }) {
            let lines = BUTTONS.lines(notice)?;
            if let Some(answers) = lines.buttons {
                let button = |title: &str, token: &Token| json!({ "type": "reply", "reply": { "id": token.as_str(), "title": title } });
                let interactive = json!({
                    "type": "button",
                    "body": { "text": fenced(&lines.text) },
                    "action": { "buttons": [button("Approve", &answers.approve), button("Deny", &answers.deny)] },
                });
                let body = json!({ "type": "interactive", "interactive": interactive });
                return Ok(self.call(place, body).into());
            }
        }
        Ok(self.call(place, words(&ALONE.lines(notice)?.text)).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        let body = accepted(answer)?;
        Ok(Message { place: place.to_owned(), id: meta::named(&body["messages"][0]["id"])? })
    }

    fn say(&self, place: &str, under: Option<&Message>, said: &Text) -> Outgoing {
        let mut body = words(&(ALONE.written)(said));
        if let Some(message) = under {
            body["context"] = json!({ "message_id": message.id });
        }
        self.call(place, body).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer).map(drop)
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        let body = match self.hooks.verify(inbound)? {
            Verified::Challenge(reply) => return Ok(Heard::Challenge(reply)),
            Verified::Body(body) => body,
        };
        if body["object"] != "whatsapp_business_account" {
            return Err(Forged::Shape);
        }
        let mut read = Vec::new();
        for entry in list(&body["entry"])? {
            for change in list(&entry["changes"])? {
                let value = &change["value"];
                // An account's other numbers use the same webhook.
                let ours = value["metadata"]["phone_number_id"] == *self.number;
                if ours && change["field"] == "messages" {
                    let messages = list(&value["messages"])?;
                    read.extend(messages.iter().map(|message| self.said(message, now)));
                }
            }
        }
        meta::fresh(read)
    }

    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let body = words(&(ALONE.written)(outcome.words()));
        (Reply::empty(StatusCode::OK), Some(self.call(&said.reply_to, body)))
    }
}

fn words(text: &str) -> Value {
    json!({ "type": "text", "text": { "preview_url": false, "body": fenced(text) } })
}

fn fenced(text: &str) -> String {
    format!("{FENCE}\n{text}\n{FENCE}")
}

fn accepted(answer: &Answer) -> Result<Value, Failure> {
    let window = "WhatsApp takes no message 24 hours after somebody last wrote: they have to write to the number again, \
                  or be asked on another channel";
    meta::accepted(answer, &[80007, 130429, 131000, 131016, 131056], &[(131047, window)])
}
