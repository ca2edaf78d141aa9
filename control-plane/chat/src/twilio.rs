//! SMS through Twilio: cards as text messages, answered with a typed code.
//!
//! twilio.com/docs: Messages resource (1,600 characters), "Webhooks Security" (X-Twilio-Signature), "Twilio's request to your
//! webhook" for messages, TwiML "Message", error codes 21610, 21611 and 20429, "Messages per second" (one segment a second
//! and long code in the USA; Twilio keeps what is too much for up to ten hours).
//!
//! The signature shows that Twilio sent a webhook, not who wrote the message: a caller id can be spoofed and a SIM card
//! swapped. There is no time in it either, so that a webhook is only new because its id is. Where that is not enough, a rule
//! asks for a second person or another channel. Webhook rules with shared keys sign otherwise, and are refused.

use std::time::SystemTime;

use http::{Method, StatusCode};

use crate::card::Notice;
use crate::http::{Answer, Auth, Call, Failure, Form, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::plain::{self, Plain};
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, Platform, Said,
    Setting, TooLarge, Unfit, User, What, segment,
};
use crate::secret::Secret;
use crate::text::Text;
use crate::typed::Typed;
use crate::verify;

pub(crate) static PLATFORM: Platform = Platform {
    name: "twilio",
    title: "SMS (Twilio)",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the REST API is",
            default: Some("https://api.twilio.com"),
            required: false,
        },
        Setting {
            name: "account_sid",
            help: "AC…: webhooks of another account are refused",
            default: None,
            required: true,
        },
        Setting {
            name: "from",
            help: "our number, as +15550100, or a messaging service, MG…: what is written to another is not heard",
            default: None,
            required: true,
        },
    ],
    secrets: &[Setting {
        name: "auth_token",
        help: "the account's primary auth token: it sends, and webhooks are signed with it",
        default: None,
        required: true,
    }],
    guide: "Buy a number at https://console.twilio.com that can send and receive SMS, and register it where its country asks.\n\
            Under the number's messaging configuration (or the messaging service's integration), what to do when a message\n\
            comes in is: Webhook, {hook}, HTTP POST.\n\
            Copy the account SID and the auth token. An SMS can be forged: let rules that matter ask for more than one.",
    manifest: None,
    open: |configuration| Ok(Box::new(Twilio::open(&configuration)?)),
};

struct Twilio {
    base: String,
    account: String,
    from: String,
    auth_token: Secret,
}

/// An emoji counts as more than one character there, as it does in UTF-16.
const MESSAGE: Plain =
    Plain { limit: 1600, size: plain::utf16, rows: 15, written: Text::defanged, typed: true };

impl Twilio {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            base: configuration.base("base_url"),
            account: configuration.setting("account_sid"),
            from: configuration.setting("from"),
            auth_token: configuration.secret("auth_token")?,
        })
    }

    fn call(&self, place: &str, text: &str) -> Call {
        let account = segment(&self.account);
        let url = format!("{}/2010-04-01/Accounts/{account}/Messages.json", self.base);
        let sender = if self.is_service() { "MessagingServiceSid" } else { "From" };
        let pairs = [("To", place), (sender, self.from.as_str()), ("Body", text)];
        Call::form(url, &pairs, Auth::Basic(self.account.clone(), self.auth_token.clone()))
    }

    fn is_service(&self) -> bool {
        self.from.starts_with("MG")
    }

    /// The address and every pair after it, sorted: what is signed is decoded, so the form is read first, and nothing of it.
    fn verify(&self, inbound: &Inbound<'_>) -> Result<Form, Forged> {
        let signature = inbound.header("x-twilio-signature").ok_or(Forged::Signature)?;
        let form = Form::parse(inbound.body)?;
        let mut pairs: Vec<_> = form.pairs().iter().collect();
        pairs.sort();
        let pairs: String = pairs.iter().flat_map(|(name, value)| [name.as_str(), value]).collect();
        let query = inbound.query.map(|query| format!("?{query}")).unwrap_or_default();
        let key = self.auth_token.expose().as_bytes();
        let signed = |url: &str| {
            let parts = [url.as_bytes(), query.as_bytes(), pairs.as_bytes()];
            verify::hmac_sha1_base64(key, &parts, signature)
        };
        // Twilio signs with the port of the address or without it, and says that it is not always the same.
        signed(inbound.public_url)
            .or_else(|forged| signed(&with_other_port(inbound.public_url).ok_or(forged)?))?;
        Ok(form)
    }
}

impl Adapter for Twilio {
    fn caps(&self) -> Caps {
        Caps {
            buttons: false,
            edit: false,
            keyed_send: false,
            wire: Wire::Webhook,
            evidence: Evidence::SharedMac,
            per_second: 1.0,
            per_second_and_place: 1.0,
            burst: 1,
        }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        Ok(self.call(place, &MESSAGE.lines(notice)?.text).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        accepted(answer)?;
        let id = answer.json()["sid"].as_str().map(str::to_owned);
        let id = id.ok_or_else(|| Failure::Never {
            why: "Twilio's answer does not name the message".into(),
        })?;
        Ok(Message { place: place.to_owned(), id })
    }

    fn say(&self, place: &str, _under: Option<&Message>, words: &Text) -> Outgoing {
        self.call(place, &words.defanged()).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer)
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, _now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method != Method::POST {
            return Err(Forged::Shape);
        }
        let form = self.verify(inbound)?;
        let required =
            |name: &str| form.value(name).filter(|it| !it.is_empty()).ok_or(Forged::Shape);
        if required("AccountSid")? != self.account {
            return Err(Forged::Signature);
        }
        let to = if self.is_service() { "MessagingServiceSid" } else { "To" };
        let ours = form.value(to).is_some_and(|to| to == self.from);
        let Some(typed) = form.value("Body").as_deref().and_then(Typed::find) else {
            return Ok(Heard::Nothing);
        };
        if !ours {
            return Ok(Heard::Nothing);
        }
        let (id, event) = (required("From")?, required("MessageSid")?);
        let message = Message { place: id.clone(), id: event.clone() };
        let by = User { tenant: String::new(), id };
        let what = What::Typed(typed);
        Ok(Heard::Said(vec![Said { by, what, message, event, reply_to: String::new() }]))
    }

    fn reply(&self, _said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let words = outcome.words().defanged();
        let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Message>{words}</Message></Response>"
        );
        let reply = Reply { status: StatusCode::OK, content_type: "text/xml; charset=utf-8", body };
        (reply, None)
    }
}

/// The same address without its port; or with the usual one, where it has none.
fn with_other_port(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let port = authority
        .rfind(':')
        .filter(|at| authority[*at..].bytes().skip(1).all(|b| b.is_ascii_digit()));
    let usual = if scheme == "https" { 443 } else { 80 };
    Some(match port {
        Some(at) => format!("{scheme}://{}{path}", &authority[..at]),
        None => format!("{scheme}://{authority}:{usual}{path}"),
    })
}

fn accepted(answer: &Answer) -> Result<(), Failure> {
    let body = answer.json();
    let Some(code) = body["code"].as_i64().filter(|_| !answer.status.is_success()) else {
        return answer.done();
    };
    let message = Text::of(body["message"].as_str().unwrap_or("no reason"));
    let why = format!("Twilio refused it with code {code}: {message}");
    match code {
        20429 | 21611 => Err(Failure::Later { after: answer.retry_after(), why }),
        21610 => Err(Failure::Never {
            why: "they have written STOP to our number: until they write START, it sends them nothing".into(),
        }),
        _ => answer.done().map_err(|failure| match failure {
            Failure::Later { after, .. } => Failure::Later { after, why },
            Failure::Never { .. } => Failure::Never { why },
        }),
    }
}
