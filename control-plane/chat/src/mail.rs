//! Mails as values: what the caller is to hand to a server, and which server that is.
//!
//! RFC 5322 (messages), RFC 2046, section 5.1.4 (alternatives), RFC 3834, section 5 (Auto-Submitted), RFC 5321 (addresses).

use std::time::{SystemTime, UNIX_EPOCH};

use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use sha2::{Digest as _, Sha256};

use crate::http::Failure;
use crate::secret::Secret;
use crate::text::Text;

/// A mail to one address. Its headers are ours alone: what an agent wrote is in `text` and `html`, and nowhere else.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The same for the same delivery, so that a repeat is known for what it is: `<…@example.com>`. None: every sending is a
    /// mail of its own.
    pub id: Option<String>,
    /// The id of the mail that this one follows.
    pub under: Option<String>,
    pub from: Mailbox,
    pub to: String,
    pub subject: String,
    pub text: String,
    /// The same, for readers that prefer it.
    pub html: String,
}

/// A mail as it leaves.
#[derive(Debug)]
pub struct Letter {
    pub envelope: Envelope,
    pub message: Vec<u8>,
}

/// A server that takes mails, and what it knows us by.
#[derive(Clone, Debug)]
pub struct Relay {
    pub host: String,
    pub port: u16,
    pub security: Security,
    pub login: Option<(String, Secret)>,
}

/// How a connection to a server is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte on (RFC 8314).
    Implicit,
    /// Not at all: only to this very machine.
    None,
    /// TLS before anything of the mail or the login is said (RFC 3207), or nothing is said.
    StartTls,
}

impl Mail {
    /// With its time in it, as a server takes it.
    ///
    /// # Errors
    /// What it is addressed to is no address of ASCII characters, or a header would not be one line of them.
    pub fn written(&self, now: SystemTime) -> Result<Letter, Failure> {
        let never = |why: String| Failure::Never { why };
        let to = self.to.parse::<Address>().ok().filter(|_| is_printable(&self.to));
        let to = to.ok_or_else(|| never(format!("{} is no mail address", Text::of(&self.to))))?;
        let id = self.id.clone().unwrap_or_else(|| self.id_at(now));
        let headers = [&self.subject, &id].into_iter().chain(&self.under);
        if !headers.into_iter().all(|header| is_printable(header)) {
            return Err(never("the mail has a header that is not one line of ASCII".into()));
        }
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.clone()])
            .map_err(|error| never(error.to_string()))?;
        // So that nobody's absence answers it.
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let mut message = Message::builder()
            .envelope(envelope.clone())
            .date(now)
            .from(self.from.clone())
            .to(to.into())
            .subject(&self.subject)
            .message_id(Some(id.clone()))
            .raw_header(HeaderValue::new(automatic, "auto-generated".into()));
        if let Some(under) = &self.under {
            message = message.in_reply_to(under.clone()).references(under.clone());
        }
        // Neither part can hold a line that ends it: that would have to contain its own digest.
        let boundary = hex::encode(Sha256::digest([id.as_bytes(), &self.sha256()].concat()));
        let part = |kind: ContentType, body: &String| {
            SinglePart::builder().header(kind).body(body.clone())
        };
        let parts = MultiPart::alternative()
            .boundary(boundary)
            .singlepart(part(ContentType::TEXT_PLAIN, &self.text))
            .singlepart(part(ContentType::TEXT_HTML, &self.html));
        let message = message.multipart(parts).map_err(|error| never(error.to_string()))?;
        Ok(Letter { envelope, message: message.formatted() })
    }

    /// Of what people are shown by it.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [&self.subject, &self.text, &self.html] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    fn id_at(&self, now: SystemTime) -> String {
        let at = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let digest = Sha256::new().chain_update(at.to_be_bytes()).chain_update(&self.to);
        let digest = digest.chain_update(self.sha256()).finalize();
        format!("<{}@{}>", hex::encode(&digest[..16]), self.from.email.domain())
    }
}

/// Whether it fits into a header as it is.
pub(crate) fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, 0x20..=0x7e))
}
