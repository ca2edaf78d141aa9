//! What every platform is to the rest: settings, an adapter, and the words that pass through it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::Method;

use crate::card::{Answers, Card, Notice};
use crate::http::{Answer, Call, Failure, Inbound, Reply, Wire};
use crate::mail::Relay;
use crate::outgoing::Outgoing;
use crate::secret::{Chance, Secret};
use crate::socket::Conversation;
use crate::text::Text;
use crate::token::{Handle, TapKey, Token};
use crate::typed::Typed;

/// Every platform there is, in the order that people look for them.
pub static PLATFORMS: &[&Platform] = &[
    &crate::slack::PLATFORM,
    &crate::teams::PLATFORM,
    &crate::gchat::PLATFORM,
    &crate::discord::PLATFORM,
    &crate::telegram::PLATFORM,
    &crate::whatsapp::PLATFORM,
    &crate::messenger::PLATFORM,
    &crate::instagram::PLATFORM,
    &crate::mattermost::PLATFORM,
    &crate::webex::PLATFORM,
    &crate::github::PLATFORM,
    &crate::linear::PLATFORM,
    &crate::notion::PLATFORM,
    &crate::x::PLATFORM,
    &crate::xchat::PLATFORM,
    &crate::twilio::PLATFORM,
    &crate::matrix::PLATFORM,
    &crate::email::PLATFORM,
    &crate::webhook::PLATFORM,
];

pub fn platform(name: &str) -> Option<&'static Platform> {
    PLATFORMS.iter().copied().find(|platform| platform.name == name)
}

/// What has to be known to open a channel, and how.
pub struct Platform {
    /// As accounts and channels call it: "slack".
    pub name: &'static str,
    /// As people call it: "Slack".
    pub title: &'static str,
    pub settings: &'static [Setting],
    /// Sealed, and never shown again.
    pub secrets: &'static [Setting],
    /// What to do over there, with `{hook}` for the address that the platform is to call.
    pub guide: &'static str,
    /// What is uploaded over there instead of doing it by hand: for calls to this address, or, without one, for a connection
    /// that we open.
    pub manifest: Option<fn(Option<&str>) -> serde_json::Value>,
    pub open: fn(Configuration) -> Result<Box<dyn Adapter>, Unfit>,
}

#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    pub help: &'static str,
    pub default: Option<&'static str>,
    pub required: bool,
}

/// A channel's settings and secrets, known to be those that its platform has.
#[derive(Debug)]
pub struct Configuration {
    settings: BTreeMap<String, String>,
    secrets: BTreeMap<String, Secret>,
}

/// Why a channel cannot be opened: what is missing, unknown or malformed. A sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(pub String);

/// What a platform can do.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Without them, a code is typed.
    pub buttons: bool,
    /// Without it, a message that follows says what became of a card.
    pub edit: bool,
    /// A repeated send with the same key is one message, and says so; or is known by everybody for the same one again.
    pub keyed_send: bool,
    pub wire: Wire,
    pub evidence: Evidence,
    /// Cards a second that the platform takes from one bot, as it publishes it; and into one place.
    pub per_second: f64,
    pub per_second_and_place: f64,
    /// So many at once, where it counts them over a longer time.
    pub burst: u32,
}

/// What an answer can be checked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A signature that nobody here could have made.
    Asymmetric,
    /// A MAC by a secret that the platform and the nodes share.
    SharedMac,
    /// A secret that is repeated with each webhook.
    StaticSecret,
    /// Our own connection to the platform.
    TransportOnly,
}

/// One platform, with its secrets. Pure: it makes calls and reads answers, and somebody else sends them.
pub trait Adapter: Send + Sync {
    fn caps(&self) -> Caps;

    /// Cards a second that the platform takes into this place.
    fn per_second_in(&self, _place: &str) -> f64 {
        self.caps().per_second_and_place
    }

    /// The call whose answer has the access token that [`crate::Auth::Granted`] stands for.
    fn grant(&self, _now: SystemTime) -> Option<Call> {
        None
    }

    /// That token, and for how long it is good.
    fn granted(&self, _answer: &Answer) -> Result<(Secret, Duration), Failure> {
        Err(Failure::Never { why: "this platform has no access tokens".into() })
    }

    /// The server that its mails are handed to; only where cards go by mail.
    fn relay(&self) -> Option<&Relay> {
        None
    }

    /// Where the keys are that its webhooks are signed with, if they are public.
    fn key_set(&self) -> Option<Call> {
        None
    }

    /// Opens a conversation with one account; none where the account's id is the place already.
    fn converse(&self, _user: &User) -> Option<Call> {
        None
    }

    /// The place that such a conversation is.
    fn conversed(&self, _answer: &Answer) -> Result<String, Failure> {
        Err(Failure::Never { why: "this platform needs no conversations opened".into() })
    }

    /// What has to be asked, in this order, before a call can be sealed for the conversation in a place: `known` are the answers
    /// so far, and nothing in them is secret. Only where conversations are encrypted from end to end.
    fn acquaint(
        &self,
        _place: &str,
        _known: &[Answer],
        _chance: &Chance,
        _now: SystemTime,
    ) -> Result<Acquaintance, Failure> {
        Ok(Acquaintance::Made)
    }

    /// What leaves of an [`crate::Auth::Sealed`] call, for the people of its conversation alone.
    fn seal(&self, _call: Call, _known: &[Answer], _chance: &Chance) -> Result<Call, Failure> {
        Err(Failure::Never { why: "this platform's conversations are not encrypted".into() })
    }

    /// Posts a card. The same `key` is the same delivery, tried again. Nothing is cut that the card has to show.
    fn post(&self, place: &str, notice: &Notice<'_>, key: &str) -> Result<Outgoing, TooLarge>;

    /// Whether a card can be answered here by whoever has to have seen all of it. What answers it is on it only then, so two
    /// cards that differ in nothing else tell.
    fn shows_whole(&self, place: &str, notice: &Notice<'_>) -> bool {
        let card = Card { demands_whole: true, answered_elsewhere: false, ..notice.card.clone() };
        let shown = |of: u8| {
            let (key, handle) = (TapKey::new([of; 32]), Handle([of; 16]));
            let answers = Answers {
                approve: key.token("", place, handle, Words::Approve),
                deny: key.token("", place, handle, Words::Deny),
                code: key.code("", place, handle),
                elsewhere: Text::default(),
            };
            let notice = Notice { card: &card, answers: Some(answers), ..notice.clone() };
            self.post(place, &notice, "").ok().map(|outgoing| outgoing.sha256())
        };
        shown(0) != shown(1)
    }

    /// The message that a card is now; of a mail, its id is known before it is sent.
    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure>;

    /// Shows the card's new face in the place of the old one; none where messages stay as they were sent.
    fn edit(&self, _message: &Message, _notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        None
    }

    /// Whether that was done. A message that is gone needs no new face.
    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        answer.done()
    }

    /// Words into a place, or under a message of ours there.
    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing;

    /// Whether they were said.
    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        answer.done()
    }

    /// Reads a webhook: verifies its raw bytes, then its time, then parses them.
    fn hear(&self, inbound: &Inbound<'_>, keys: &Keys, now: SystemTime) -> Result<Heard, Forged>;

    /// Asks for what a webhook only named.
    fn fetch(&self, _named: &str) -> Option<Call> {
        None
    }

    /// What that was; or, with what is known so far in its name, what has to be asked next: [`NAMED`] times at most.
    fn fetched(&self, _named: &str, _answer: &Answer) -> Result<Heard, Failure> {
        Err(Failure::Never { why: "this platform says in its webhooks what was said".into() })
    }

    /// What a webhook is answered with once it is known what became of what it said; and what is told to that person alone,
    /// where that takes a call.
    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>);

    /// Asks for what was said since; only where nothing calls us.
    fn poll(&self, _since: Option<&str>) -> Option<Call> {
        None
    }

    fn polled(&self, _answer: &Answer) -> Result<Polled, Failure> {
        Err(Failure::Never { why: "this platform is not polled".into() })
    }

    /// Listens over connections that we open; only where nothing calls us.
    fn socket(&self) -> Option<Box<dyn Conversation>> {
        None
    }
}

/// How often in a row the answer to what was named may name another thing.
pub const NAMED: usize = 2;

/// Whether a call can be sealed for a conversation by now.
#[derive(Debug)]
pub enum Acquaintance {
    Ask(Box<Call>),
    Made,
}

/// A head that a platform has no room for: it is not cut, so there is no card there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// A message of ours on the platform.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    pub place: String,
    pub id: String,
}

/// Somebody, by the platform's immutable ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    /// Empty where the platform has no tenants.
    pub tenant: String,
    pub id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    Approve,
    Deny,
}

/// What a verified webhook holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The platform asks whether we are here: this is the answer.
    Challenge(Reply),
    /// It names what was said, and does not say it; or says it so that something else is needed to read it:
    /// [`Adapter::fetch`] asks for that. The answer is empty.
    Named(String),
    /// Nothing that means anything to us; the answer is empty.
    Nothing,
    Said(Vec<Said>),
}

/// What somebody said. Nothing of it is decided yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub by: User,
    pub what: What,
    /// Where it was said; for a tap, the message that the button is on.
    pub message: Message,
    /// The platform's id of this very event: the same twice is once.
    pub event: String,
    /// What the adapter needs for a private answer: never an address.
    pub reply_to: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Tap(Token),
    /// A reaction to one of our messages. It carries nothing that only a whole card shows: where a rule demands it whole, it
    /// is no answer.
    Reaction(Words),
    Typed(Typed),
}

/// What became of what somebody said, once it is committed; or why it was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Refused(Text),
    Taken(Text),
}

/// What was said since the last poll, and where the next one goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polled {
    pub said: Vec<Said>,
    pub since: String,
}

/// Why something is not from the platform, or not from now. Told to nobody but the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forged {
    /// It names a key that is not in the set: fetch the set anew, once in a while.
    Key,
    /// It is not what such a webhook is like: a header that is missing or there twice, a body that does not parse.
    Shape,
    Signature,
    /// Its time is more than five minutes off.
    Stale,
}

/// Public keys of a platform, as they were fetched: a JSON Web Key Set (RFC 7517), RSA keys only.
#[derive(Clone, Debug, Default)]
pub struct Keys(BTreeMap<String, Rsa>);

#[derive(Clone, Debug)]
pub struct Rsa {
    pub n: Vec<u8>,
    pub e: Vec<u8>,
    /// The Bot Framework's keys say which channels they vouch for; none where a key says nothing of it.
    pub endorsements: Option<Vec<String>>,
}

impl Configuration {
    /// Checks what was given against what the platform has; what is missing and has a default is that.
    pub fn of(
        platform: &Platform,
        settings: BTreeMap<String, String>,
        secrets: BTreeMap<String, Secret>,
    ) -> Result<Self, Unfit> {
        let mut wrong = Vec::new();
        let known = |list: &[Setting], name: &str| list.iter().any(|setting| setting.name == name);
        for name in settings.keys().filter(|name| !known(platform.settings, name)) {
            wrong.push(format!("{} has no setting {name}", platform.title));
        }
        for name in secrets.keys().filter(|name| !known(platform.secrets, name)) {
            wrong.push(format!("{} has no secret {name}", platform.title));
        }
        let mut settings = settings;
        for setting in platform.settings {
            match (settings.get(setting.name), setting.default) {
                (None, Some(default)) => drop(settings.insert(setting.name.into(), default.into())),
                (None, None) if setting.required => {
                    wrong.push(format!("{} is missing: {}", setting.name, setting.help))
                }
                _ => {}
            }
        }
        for secret in platform.secrets.iter().filter(|secret| secret.required) {
            if secrets.get(secret.name).is_none_or(|secret| secret.expose().is_empty()) {
                wrong.push(format!("the secret {} is missing: {}", secret.name, secret.help));
            }
        }
        for (name, value) in settings.iter().filter(|(name, _)| name.ends_with("url")) {
            let scheme = value.starts_with("https://")
                || value.strip_prefix("http://").is_some_and(is_loopback);
            if !scheme || value.chars().any(|c| !c.is_ascii_graphic()) {
                wrong.push(format!("{name} is no https address (plain http is for this very machine alone): {value:?}"));
            }
        }
        if wrong.is_empty() { Ok(Self { settings, secrets }) } else { Err(Unfit(wrong.join("; "))) }
    }

    /// Of a setting that is required or has a default.
    pub fn setting(&self, name: &str) -> String {
        self.settings.get(name).cloned().unwrap_or_default()
    }

    pub fn optional(&self, name: &str) -> Option<String> {
        self.settings.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// A base address, without a slash at its end.
    pub fn base(&self, name: &str) -> String {
        self.setting(name).trim_end_matches('/').to_owned()
    }

    /// Every address that the channel may call: what is not under one of them is not called.
    pub fn bases(&self) -> Vec<String> {
        let urls = self.settings.iter().filter(|(name, _)| name.ends_with("url"));
        urls.map(|(_, base)| base.trim_end_matches('/').to_owned()).collect()
    }

    pub fn secret(&self, name: &str) -> Result<Secret, Unfit> {
        let secret = self.secrets.get(name).filter(|secret| !secret.expose().is_empty()).cloned();
        secret.ok_or_else(|| Unfit(format!("the secret {name} is missing")))
    }
}

/// Whether an address without its scheme is this machine's own.
pub(crate) fn is_loopback(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    ["127.0.0.1", "[::1]", "localhost"].iter().any(|own| {
        authority.strip_prefix(own).is_some_and(|port| port.is_empty() || port.starts_with(':'))
    })
}

impl Keys {
    /// What of a key set can be used.
    pub fn parse(answer: &Answer) -> Result<Self, Failure> {
        answer.done()?;
        let set = answer.json();
        let keys = set["keys"].as_array().ok_or_else(|| Failure::Later {
            after: None,
            why: "the platform's key set has no keys".into(),
        })?;
        let number = |key: &serde_json::Value, name: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok()
        };
        let read = keys.iter().filter(|key| key["kty"] == "RSA").filter_map(|key| {
            let endorsements = key["endorsements"].as_array().map(|channels| {
                channels.iter().filter_map(|it| it.as_str().map(str::to_owned)).collect()
            });
            let rsa = Rsa { n: number(key, "n")?, e: number(key, "e")?, endorsements };
            Some((key["kid"].as_str()?.to_owned(), rsa))
        });
        Ok(Self(read.collect()))
    }

    pub fn rsa(&self, id: &str) -> Option<&Rsa> {
        self.0.get(id)
    }
}

impl Words {
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::Approve => "a",
            Self::Deny => "d",
        }
    }

    pub(crate) fn of_letter(letter: &str) -> Option<Self> {
        match letter {
            "a" => Some(Self::Approve),
            "d" => Some(Self::Deny),
            _ => None,
        }
    }
}

impl Outcome {
    pub fn words(&self) -> &Text {
        match self {
            Self::Refused(words) | Self::Taken(words) => words,
        }
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

impl std::fmt::Display for Forged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key => "it names a key that the platform's key set has not",
            Self::Shape => "it is not what the platform's webhooks are like",
            Self::Signature => "its signature is missing or wrong",
            Self::Stale => "its time is missing, or more than five minutes off",
        })
    }
}

/// Segments of an address are encoded one by one, so that an id can never become another path.
pub(crate) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Shorter to say where a method is the usual one.
pub(crate) const POST: Method = Method::POST;
