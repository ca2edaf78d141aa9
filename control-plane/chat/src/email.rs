//! E-mail through an SMTP server, or through Resend: a card as text, with a link to the page where it is answered.
//!
//! RFC 6409 (submission), RFC 8314 (TLS for it), RFC 5322, section 3.6.4 (Message-ID, In-Reply-To, References).
//! resend.com/docs: "Send Email", "Idempotency Keys" (256 characters, 24 hours), "Usage Limits" (two requests a second and
//! team, of late five), "Errors"; RFC 3834, section 5 (Auto-Submitted). A mail is 40 megabytes at most; a card is far less.
//!
//! Programs open the links in mails before people do, and press what they find there. So a mail has no button, no code and
//! nothing that proves anything: its link opens a page where people log in. Nothing is heard by mail.

use std::time::SystemTime;

use http::header::HeaderName;
use http::{HeaderValue, StatusCode};
use lettre::message::Mailbox;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::card::{Face, Notice};
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::mail::{Mail, Relay, Security, is_printable};
use crate::outgoing::Outgoing;
use crate::plain::{self, Plain};
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Said, Setting, TooLarge, Unfit, segment,
};
use crate::secret::Secret;
use crate::text::Text;

pub(crate) static PLATFORM: Platform = Platform {
    name: "email",
    title: "E-mail (SMTP, or Resend)",
    settings: &[
        Setting {
            name: "from",
            help: "as mails are from: Countersign <countersign@example.com>",
            default: None,
            required: true,
        },
        Setting {
            name: "page_url",
            help: "where people log in and answer; the approval's id follows it",
            default: None,
            required: true,
        },
        Setting {
            name: "host",
            help: "the SMTP server that takes the mails; without it, Resend does",
            default: None,
            required: false,
        },
        Setting {
            name: "port",
            help: "of the SMTP server; unless given 587, or 465 where tls is implicit",
            default: None,
            required: false,
        },
        Setting {
            name: "tls",
            help: "starttls; implicit: from the first byte on; none: only to a server on this very machine",
            default: Some("starttls"),
            required: false,
        },
        Setting {
            name: "user",
            help: "whom the SMTP server knows us as; without it, nobody logs in there",
            default: None,
            required: false,
        },
        Setting {
            name: "base_url",
            help: "where Resend's API is",
            default: Some("https://api.resend.com"),
            required: false,
        },
    ],
    secrets: &[
        Setting {
            name: "password",
            help: "of the user at the SMTP server; needed if user is set",
            default: None,
            required: false,
        },
        Setting {
            name: "api_key",
            help: "re_…, of Resend, with sending access; needed unless host is set",
            default: None,
            required: false,
        },
    ],
    guide: "With host, mails go to that SMTP server over TLS: its certificate has to be for that name, and of an authority that\n\
            the nodes' machines trust. Have it sign mails of the domain in from (DKIM, SPF), or they end among the spam.\n\
            Without host, verify a domain at https://resend.com/domains, and leave its click and open tracking off; then make\n\
            an API key with sending access for that domain.\n\
            Nothing is heard by mail: people answer on the page that the link opens, once they have logged in.",
    manifest: None,
    open: |configuration| Ok(Box::new(Email::open(&configuration)?)),
};

struct Email {
    from: String,
    page: String,
    way: Way,
}

/// Who takes the mails.
enum Way {
    Resend { base: String, api_key: Secret },
    Smtp { relay: Relay, from: Mailbox },
}

const MAIL: Plain =
    Plain { limit: 100_000, size: plain::bytes, rows: 1000, written: Text::defanged, typed: false };
/// What a follow-up is about where that is not known.
const WORDS: &str = "What became of a request";
/// What the ids of cards begin with, and go on with in front of the four words.
const CARD: &str = "card";

impl Email {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        let from = configuration.setting("from");
        let way = match configuration.optional("host") {
            Some(host) => Way::Smtp {
                relay: relay(configuration, host)?,
                from: from
                    .parse::<Mailbox>()
                    .ok()
                    .filter(|mailbox| is_printable(mailbox.email.as_ref()))
                    .ok_or_else(|| Unfit(format!("from is no mail address: {from:?}")))?,
            },
            None => Way::Resend {
                base: configuration.base("base_url"),
                api_key: configuration.secret("api_key")?,
            },
        };
        Ok(Self { from, page: configuration.base("page_url"), way })
    }

    /// Plain text and nothing else: there is no HTML for a client to prefer.
    fn call(&self, base: &str, api_key: &Secret, place: &str, subject: &str, text: &str) -> Call {
        let body = json!({
            "from": self.from,
            "to": [place],
            "subject": subject,
            "text": text,
            "headers": { "Auto-Submitted": "auto-generated" },
        });
        Call::json(POST, format!("{base}/emails"), &body, Auth::Bearer(api_key.clone()))
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
            burst: 1,
        }
    }

    fn relay(&self) -> Option<&Relay> {
        match &self.way {
            Way::Resend { .. } => None,
            Way::Smtp { relay, .. } => Some(relay),
        }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, key: &str) -> Result<Outgoing, TooLarge> {
        let lines = MAIL.lines(notice)?;
        let page = format!("{}/{}", self.page, segment(&notice.card.approval));
        // Before all that an agent wrote, which could say the same of another page.
        let link = match notice.face {
            Face::Asking { .. } => "To answer, log in at",
            Face::Settled { .. } => "More about it:",
        };
        let subject = subject(notice.title(), &notice.card.fingerprint);
        let text = format!("{link} {page}\n\n{}", lines.text);
        match &self.way {
            Way::Resend { base, api_key } => {
                let mut call = self.call(base, api_key, place, &subject, &text);
                // A key that no header can hold goes without: the mail may then come twice.
                if let Ok(key) = HeaderValue::from_str(key) {
                    call.headers.insert(HeaderName::from_static("idempotency-key"), key);
                }
                Ok(call.into())
            }
            Way::Smtp { from, .. } => {
                let page = escaped(&page);
                let link = format!("{link} <a href=\"{page}\">{page}</a>");
                Ok(Mail {
                    id: Some(id_of_card(key, &notice.card.fingerprint, from.email.domain())),
                    under: None,
                    from: from.clone(),
                    to: place.to_owned(),
                    subject,
                    text,
                    html: document(&link, &lines.text),
                }
                .into())
            }
        }
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

    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing {
        let words = words.defanged();
        match &self.way {
            Way::Resend { base, api_key } => self.call(base, api_key, place, WORDS, &words).into(),
            Way::Smtp { from, .. } => {
                let under = under.map(|message| message.id.clone()).filter(|id| !id.is_empty());
                let about = under.as_deref().and_then(subject_of_card);
                Mail {
                    id: under.as_deref().map(|id| id_of_words(id, &words, from.email.domain())),
                    under,
                    from: from.clone(),
                    to: place.to_owned(),
                    subject: about.map_or_else(|| WORDS.into(), |subject| format!("Re: {subject}")),
                    html: document("", &words),
                    text: words,
                }
                .into()
            }
        }
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

fn relay(configuration: &Configuration, host: String) -> Result<Relay, Unfit> {
    let named = |b: u8| b.is_ascii_alphanumeric() || b"-.:".contains(&b);
    if !host.bytes().all(named) {
        return Err(Unfit(format!("host is the name or the address of a server, not {host:?}")));
    }
    let security = match configuration.setting("tls").as_str() {
        "implicit" => Security::Implicit,
        "none" if ["127.0.0.1", "::1", "localhost"].contains(&host.as_str()) => Security::None,
        "none" => {
            return Err(Unfit(format!(
                "tls is none, and {host} is not this very machine: mails and the password would be there for others to read; \
                 set it to starttls or implicit"
            )));
        }
        "starttls" => Security::StartTls,
        other => return Err(Unfit(format!("tls is starttls, implicit or none, not {other:?}"))),
    };
    let port = match configuration.optional("port") {
        None if security == Security::Implicit => 465,
        None => 587,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Unfit(format!("port is a number from 1 to 65535, not {port:?}")))?,
    };
    let login = match configuration.optional("user") {
        Some(user) => Some((user, configuration.secret("password")?)),
        None => None,
    };
    Ok(Relay { host, port, security, login })
}

fn subject(title: &str, fingerprint: &str) -> String {
    format!("{title} ({fingerprint})")
}

/// The same for the same delivery, with the four words in it, so that what follows finds its subject.
fn id_of_card(key: &str, fingerprint: &str, domain: &str) -> String {
    let delivery = Sha256::digest(key.as_bytes());
    format!("<{CARD}.{}.{}@{domain}>", hex::encode(&delivery[..16]), fingerprint.replace(' ', "-"))
}

/// The subject of the card that has this id. Mail programs show in one thread what has the same, behind "Re:".
fn subject_of_card(id: &str) -> Option<String> {
    let mut parts = id.strip_prefix('<')?.split('@').next()?.split('.');
    let words = parts.next().filter(|part| *part == CARD).and_then(|_| parts.nth(1))?;
    let asked = Notice::ASKING;
    Some(subject(asked, &words.replace('-', " ")))
}

/// The same for the same words under the same card.
fn id_of_words(under: &str, words: &str, domain: &str) -> String {
    let digest = Sha256::new().chain_update(under).chain_update([0]).chain_update(words).finalize();
    format!("<words.{}@{domain}>", hex::encode(&digest[..16]))
}

/// The same as the plain text: what an agent wrote is text in it, and its line breaks are.
fn document(link: &str, text: &str) -> String {
    let link = if link.is_empty() { String::new() } else { format!("<p>{link}</p>\n") };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Countersign</title></head><body>\n{link}\
         <pre style=\"white-space: pre-wrap; overflow-wrap: anywhere\">\n{}</pre>\n</body></html>\n",
        escaped(text)
    )
}

/// HTML, "Text" and "Attributes": nothing of it ends the element or the attribute that it is in.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => escaped.push_str("&quot;"),
            '&' => escaped.push_str("&amp;"),
            '\'' => escaped.push_str("&#39;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            other => escaped.push(other),
        }
    }
    escaped
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
