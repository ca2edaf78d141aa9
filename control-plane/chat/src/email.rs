//! E-mail through Resend: a card as plain text, with a link to the page where it is answered.
//!
//! resend.com/docs: "Send Email", "Idempotency Keys" (256 characters, 24 hours), "Usage Limits" (two requests a second and
//! team, of late five), "Errors"; RFC 3834, section 5 (Auto-Submitted). A mail is 40 megabytes at most; a card is far less.
//!
//! Programs open the links in mails before people do, and press what they find there. So a mail has no button, no code and
//! nothing that proves anything: its link opens a page where people log in. Nothing is heard by mail. Mail over SMTP needs a
//! connection and somebody to hold it; that is not for an adapter.

use std::time::SystemTime;

use http::header::HeaderName;
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::card::{Face, Notice};
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::plain::{self, Plain};
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Said, Setting, TooLarge, Unfit, segment,
};
use crate::secret::Secret;
use crate::text::Text;

pub(crate) static PLATFORM: Platform = Platform {
    name: "email",
    title: "E-mail (Resend)",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the API is",
            default: Some("https://api.resend.com"),
            required: false,
        },
        Setting {
            name: "from",
            help: "as mails are from: Countersign <countersign@example.com>, of a verified domain",
            default: None,
            required: true,
        },
        Setting {
            name: "page_url",
            help: "where people log in and answer; the approval's id follows it",
            default: None,
            required: true,
        },
    ],
    secrets: &[Setting {
        name: "api_key",
        help: "re_…, with sending access",
        default: None,
        required: true,
    }],
    guide: "Verify a domain at https://resend.com/domains, and leave its click and open tracking off.\n\
            Make an API key with sending access for that domain.\n\
            Nothing is heard by mail: people answer on the page that the link opens, once they have logged in.",
    open: |configuration| Ok(Box::new(Email::open(&configuration)?)),
};

struct Email {
    base: String,
    from: String,
    page: String,
    api_key: Secret,
}

const MAIL: Plain =
    Plain { limit: 100_000, size: plain::bytes, rows: 1000, written: Text::defanged, typed: false };

impl Email {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            base: configuration.base("base_url"),
            from: configuration.setting("from"),
            page: configuration.base("page_url"),
            api_key: configuration.secret("api_key")?,
        })
    }

    /// Plain text and nothing else: there is no HTML for a client to prefer.
    fn call(&self, place: &str, subject: &str, text: &str) -> Call {
        let body = json!({
            "from": self.from,
            "to": [place],
            "subject": subject,
            "text": text,
            "headers": { "Auto-Submitted": "auto-generated" },
        });
        Call::json(POST, format!("{}/emails", self.base), &body, Auth::Bearer(self.api_key.clone()))
    }
}

impl Adapter for Email {
    fn caps(&self) -> Caps {
        Caps {
            buttons: false,
            edit: false,
            keyed_send: true,
            wire: Wire::Webhook,
            evidence: Evidence::TransportOnly,
            per_second: 2.0,
            per_second_and_place: 1.0,
        }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, key: &str) -> Result<Call, TooLarge> {
        let lines = MAIL.lines(notice)?;
        let page = format!("{}/{}", self.page, segment(&notice.card.approval));
        // Before all that an agent wrote, which could say the same of another page.
        let link = match notice.face {
            Face::Asking { .. } => format!("To answer, log in at {page}\n\n"),
            Face::Settled { .. } => format!("More about it: {page}\n\n"),
        };
        let subject = format!("{} ({})", notice.title(), notice.card.fingerprint);
        let mut call = self.call(place, &subject, &format!("{link}{}", lines.text));
        // A key that no header can hold goes without: the mail may then come twice.
        if let Ok(key) = HeaderValue::from_str(key) {
            call.headers.insert(HeaderName::from_static("idempotency-key"), key);
        }
        Ok(call)
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        let body = answer.json();
        let place = place.to_owned();
        // The card has changed since a first try, of which we never heard that it had come to something.
        if body["name"] == "invalid_idempotent_request" {
            return Ok(Message { place, id: String::new() });
        }
        accepted(answer)?;
        let id = body["id"].as_str().map(str::to_owned);
        let id = id.ok_or_else(|| Failure::Never {
            why: "Resend's answer does not name the mail".into(),
        })?;
        Ok(Message { place, id })
    }

    fn say(&self, place: &str, _under: Option<&Message>, words: &Text) -> Call {
        self.call(place, "What became of a request", &words.defanged())
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer)
    }

    fn hear(
        &self,
        _inbound: &Inbound<'_>,
        _keys: &Keys,
        _now: SystemTime,
    ) -> Result<Heard, Forged> {
        Err(Forged::Shape)
    }

    fn reply(&self, _said: &Said, _outcome: &Outcome) -> (Reply, Option<Call>) {
        (Reply::empty(StatusCode::NOT_FOUND), None)
    }
}

fn accepted(answer: &Answer) -> Result<(), Failure> {
    let body = answer.json();
    let Some(name) = body["name"].as_str().filter(|_| !answer.status.is_success()) else {
        return answer.done();
    };
    let message = Text::of(body["message"].as_str().unwrap_or("no reason"));
    let why = format!("Resend refused it with {}: {message}", Text::of(name));
    if name == "concurrent_idempotent_requests" {
        return Err(Failure::Later { after: answer.retry_after(), why });
    }
    answer.done().map_err(|failure| match failure {
        Failure::Later { after, .. } => Failure::Later { after, why },
        Failure::Never { .. } => Failure::Never { why },
    })
}
