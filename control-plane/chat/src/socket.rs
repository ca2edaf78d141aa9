//! Persistent connections, as values: where one is opened, what is heard over it, and what is to be done then.
//!
//! ```text
//! Conversation::begin ─▶ Begin::Ask(Call) ─(the caller sends it)─▶ Answer ─ Conversation::found ─▶ Address
//!                      ╰ Begin::At(Address)
//! a frame ─ Conversation::heard ─▶ Step::Heard(what was said, to) ─(it is committed)─ Conversation::answer(to, reply) ─▶ Step
//! ```
//!
//! The caller opens the connection, sends and receives; it also has the clock and the dice. A conversation outlives its
//! connections, so that the next one can go on where the last one broke.
//!
//! Nothing that comes over a connection is signed: it is from the platform because the connection is. So an address has to
//! be one of the platform's, which [`Address::parse`] sees to; it comes out of an answer, and an answer is not to make us
//! connect wherever it likes.

use std::time::Duration;

use http::Uri;

use crate::http::{Answer, Call, Failure, Reply};
use crate::platform::{Forged, Heard, is_loopback};
use crate::secret::Secret;

/// What goes on between us and a platform over one connection after another. The caller does the steps in their order.
pub trait Conversation: Send + Sync {
    /// A connection is wanted. Where the last one could go on is offered once: if nobody is there, the next one starts anew.
    fn begin(&mut self) -> Begin;

    /// The address that was asked for.
    fn found(&self, answer: &Answer) -> Result<Address, Failure>;

    /// A frame of text came in.
    fn heard(&mut self, frame: &str) -> Vec<Step>;

    /// How a reply goes back to what was heard: an acknowledgement, so not before what was said is committed. None where an
    /// empty one does not go back at all.
    fn answer(&self, to: &Secret, reply: &Reply) -> Option<Step>;

    /// It is time, after [`Step::Beat`].
    fn beat(&mut self) -> Step {
        Step::Leave(Ok(()))
    }

    /// The platform has closed the connection with this code, if it gave one. An error says why the next one has to wait.
    fn closed(&mut self, _code: Option<u16>) -> Result<(), Failure> {
        Ok(())
    }
}

/// How a connection begins.
#[derive(Debug)]
pub enum Begin {
    /// By asking where: the answer is for [`Conversation::found`].
    Ask(Call),
    At(Address),
}

/// What is to be done.
#[derive(Debug)]
pub enum Step {
    /// [`Conversation::beat`] every so often: for the first time after a random part of it, so that not everybody who was
    /// disconnected at once comes back at once.
    Beat(Duration),
    Call(Call),
    /// As after a webhook, up to its reply: that goes `to` [`Conversation::answer`].
    Heard {
        heard: Result<Heard, Forged>,
        to: Secret,
    },
    /// Close this connection and open another, unless an error says why that has to wait.
    Leave(Result<(), Failure>),
    /// A frame of text. Some have a token in them, so all are kept as secrets are.
    Send(Secret),
}

/// Where a connection is opened: at a host of the platform's, over TLS unless that is this very machine. It may have a ticket
/// in it, so it is not shown.
#[derive(Clone)]
pub struct Address {
    url: Secret,
    host: String,
    port: u16,
    tls: bool,
}

impl Address {
    /// An address that an answer gives, if its host is `domain` or one below it.
    pub fn parse(url: &str, domain: &str) -> Result<Self, Failure> {
        let refused =
            |why: &str| Failure::Never { why: format!("the address to connect to {why}") };
        let uri: Uri = url.parse().map_err(|_| refused("is none"))?;
        let authority = uri.authority().ok_or_else(|| refused("is none"))?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") if is_loopback(authority.as_str()) => false,
            _ => return Err(refused("is no wss address")),
        };
        let host = authority.host().to_ascii_lowercase();
        let domain = domain.to_ascii_lowercase();
        let below =
            host.strip_suffix(&domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if domain.is_empty() || !below || authority.as_str().contains('@') {
            return Err(refused(&format!("is not within {domain}")));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { url: Secret::new(url.to_owned()), host, port, tls })
    }

    /// For whoever connects, and nobody else.
    pub fn expose(&self) -> &str {
        self.url.expose()
    }

    /// Without brackets, where it is an IPv6 address.
    pub fn host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tls(&self) -> bool {
        self.tls
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({}:{})", self.host, self.port)
    }
}
