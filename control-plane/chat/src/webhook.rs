//! Any program at all: cards are posted to its address and answers come back, both as Standard Webhooks.
//!
//! github.com/standard-webhooks/standard-webhooks, "Standard Webhooks Specification": signature scheme (symmetric), payload
//! size (20 kilobytes), webhook-id as the key of what must not be done twice. It publishes no rates, so they are modest.
//!
//! What is posted, signed with `secret`; every string in it is plain text, to be shown as such:
//!
//! ```json
//! { "type": "card.posted", "audience": "countersign", "to": "ana", "message": "",
//!   "card": { "title": "An agent asks for your consent", "state": "asking", "standing": [], "sentence": "…",
//!             "warnings": [], "facts": [{ "name": "method", "value": "DELETE" }], "fingerprint": "…", "approval": "…",
//!             "elsewhere": null, "answers": { "approve": "TOKEN", "deny": "TOKEN", "code": "ABCD-EFGH" },
//!             "body": { "label": "…", "lines": ["…"], "whole": true } } }
//! ```
//!
//! It answers with any 2xx and, where it has an id for what it shows, `{ "message": "ID" }`. Then `card.changed` has the new
//! face, with that `message`, and `words.said` has `words` instead of a card. What comes back is signed with `answer_secret`;
//! `from` is an id that the program never gives to somebody else:
//!
//! ```json
//! { "type": "card.answered", "audience": "countersign", "from": "ana", "to": "ana", "message": "ID", "token": "TOKEN" }
//! { "type": "words.written", "audience": "countersign", "from": "ana", "to": "ana", "words": "link CODE" }
//! ```
//!
//! The answer to that is `{ "outcome": "taken" }` or `"refused"`, with `words` for that person.

use std::time::SystemTime;

use http::Method;
use serde_json::{Value, json};

use crate::card::{Excerpt, Face, Notice};
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Said, Setting, TooLarge, Unfit, User, What,
};
use crate::secret::Secret;
use crate::text::Text;
use crate::token::Token;
use crate::typed::Typed;
use crate::verify;

pub(crate) static PLATFORM: Platform = Platform {
    name: "webhook",
    title: "Signed webhook",
    settings: &[
        Setting {
            name: "base_url",
            help: "the address that cards are posted to",
            default: None,
            required: true,
        },
        Setting {
            name: "audience",
            help: "a name that every document has: answers with another are refused",
            default: Some("countersign"),
            required: false,
        },
    ],
    secrets: &[
        Setting {
            name: "secret",
            help: "whsec_ and base64 of 24 to 64 bytes: what we post is signed with it",
            default: None,
            required: true,
        },
        Setting {
            name: "answer_secret",
            help: "another one: what comes back is signed with it",
            default: None,
            required: true,
        },
    ],
    guide: "Write a program that takes Standard Webhooks, shows what is in them as plain text, and knows who its people are.\n\
            Make two secrets, each: echo whsec_$(openssl rand -base64 32)\n\
            What people answer goes to {hook}, signed with the answer secret.",
    manifest: None,
    open: |configuration| Ok(Box::new(Webhook::open(&configuration)?)),
};

struct Webhook {
    url: String,
    audience: String,
    secret: Secret,
    answer_secret: Secret,
}

const DOCUMENT: usize = 20_000;
const BODY_ROOM: usize = 12_000;
const BODY_ROWS: usize = 500;

impl Webhook {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        let key = |name: &str| {
            let secret = configuration.secret(name)?;
            let key = secret.key().ok_or_else(|| {
                Unfit(format!("the secret {name} is not whsec_ and base64 of 24 to 64 bytes"))
            })?;
            Ok((secret, key))
        };
        let (secret, ours) = key("secret")?;
        let (answer_secret, theirs) = key("answer_secret")?;
        if ours == theirs {
            return Err(Unfit("answer_secret has to be another one than secret".into()));
        }
        Ok(Self {
            url: configuration.setting("base_url"),
            audience: configuration.setting("audience"),
            secret,
            answer_secret,
        })
    }

    fn call(&self, id: Option<&str>, mut document: Value) -> Call {
        document["audience"] = self.audience.as_str().into();
        let auth = Auth::Signed { id: id.map(str::to_owned), secret: self.secret.clone() };
        Call::json(POST, self.url.clone(), &document, auth)
    }

    /// As much of the body as there is room for beside the head, which is whole.
    fn card(
        &self,
        id: Option<&str>,
        document: &Value,
        notice: &Notice<'_>,
    ) -> Result<Call, TooLarge> {
        let mut room = BODY_ROOM;
        loop {
            let mut document = document.clone();
            document["card"] = rendered(notice, &notice.card.body.excerpt(room, BODY_ROWS));
            let call = self.call(id, document);
            let over = call.body.len().saturating_sub(DOCUMENT);
            if over == 0 {
                return Ok(call);
            }
            if room == 0 {
                return Err(TooLarge);
            }
            room = room.saturating_sub(over).max(room / 2);
        }
    }
}

impl Adapter for Webhook {
    fn caps(&self) -> Caps {
        Caps {
            buttons: true,
            edit: true,
            keyed_send: true,
            wire: Wire::Webhook,
            evidence: Evidence::SharedMac,
            per_second: 10.0,
            per_second_and_place: 1.0,
            burst: 1,
        }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, key: &str) -> Result<Outgoing, TooLarge> {
        let document = json!({ "type": "card.posted", "to": place, "message": "" });
        Ok(self.card(Some(key), &document, notice)?.into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        answer.done()?;
        let id = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        Ok(Message { place: place.to_owned(), id })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        let document =
            json!({ "type": "card.changed", "to": message.place, "message": message.id });
        Some(self.card(None, &document, notice))
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        if answer.status == http::StatusCode::GONE { Ok(()) } else { answer.done() }
    }

    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing {
        let message = under.map_or("", |message| &message.id);
        let document = json!({ "type": "words.said", "to": place, "message": message, "words": words.as_str() });
        self.call(None, document).into()
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method != Method::POST {
            return Err(Forged::Shape);
        }
        let event = verify::standard_webhook(&self.answer_secret, inbound, now)?.to_owned();
        let document: Value = serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)?;
        if document["audience"] != *self.audience {
            return Err(Forged::Signature);
        }
        let what = match document["type"].as_str() {
            Some("card.answered") => {
                let token = document["token"].as_str().and_then(Token::parse);
                What::Tap(token.ok_or(Forged::Shape)?)
            }
            Some("words.written") => match Typed::find(&text(&document["words"])?) {
                Some(typed) => What::Typed(typed),
                None => return Ok(Heard::Nothing),
            },
            _ => return Ok(Heard::Nothing),
        };
        let by = User { tenant: String::new(), id: text(&document["from"])? };
        let id = document["message"].as_str().unwrap_or_default().to_owned();
        let message = Message { place: text(&document["to"])?, id };
        Ok(Heard::Said(vec![Said { by, what, message, event, reply_to: String::new() }]))
    }

    fn reply(&self, _said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let became = match outcome {
            Outcome::Refused(_) => "refused",
            Outcome::Taken(_) => "taken",
        };
        (Reply::json(&json!({ "outcome": became, "words": outcome.words().as_str() })), None)
    }
}

fn rendered(notice: &Notice<'_>, excerpt: &Excerpt) -> Value {
    let card = notice.card;
    let texts =
        |texts: &[Text]| texts.iter().map(|text| Value::from(text.as_str())).collect::<Value>();
    let fact = |(name, value): &(std::borrow::Cow<'_, str>, Text)| json!({ "name": name, "value": value.as_str() });
    let answers = notice.buttons(excerpt.whole).map(|answers| {
        json!({
            "approve": answers.approve.as_str(),
            "deny": answers.deny.as_str(),
            "code": answers.code.shown(),
        })
    });
    json!({
        "title": notice.title(),
        "state": if matches!(notice.face, Face::Asking { .. }) { "asking" } else { "settled" },
        "standing": texts(notice.standing()),
        "sentence": card.sentence.as_str(),
        "warnings": texts(&card.warnings),
        "facts": card.facts.iter().map(fact).collect::<Value>(),
        "fingerprint": card.fingerprint,
        "approval": card.approval,
        "elsewhere": notice.elsewhere(excerpt.whole).map(|words| words.to_string()),
        "answers": answers,
        "body": {
            "label": excerpt.label.as_str(),
            "lines": texts(&excerpt.lines),
            "whole": excerpt.whole,
        },
    })
}

fn text(value: &Value) -> Result<String, Forged> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or(Forged::Shape)
}
