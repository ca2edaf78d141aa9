//! Cards and taps: what each chat platform is sent, and how its answers are verified.
//!
//! ```text
//! Card ─ Notice ─ Adapter::post ─▶ Call ─(the caller sends it)─▶ Answer ─ Adapter::posted ─▶ Message
//!    … for a conversation that is encrypted: Adapter::acquaint ─▶ Call ─▶ Answer …, then Adapter::seal ─▶ Call
//!                       … or ─▶ Mail ─(the caller hands it to the channel's Relay)─▶ Message
//! raw bytes of a webhook ─ Adapter::hear ─▶ Heard::Said(what, by whom, on which message) | a challenge to answer
//!   … or Heard::Named ─ Adapter::fetch ─▶ Call ─▶ Answer ─ Adapter::fetched ─▶ Heard::Said
//!   … or, where we connect: a frame ─ Conversation::heard ─▶ Step::Heard
//! ```
//!
//! One file is one platform. Nothing here opens a socket, reads a clock or decides anything: adapters turn cards into
//! requests and verified requests into what somebody said. Who may say it, and whether it is in time, is decided where
//! the vote is applied.
//!
//! # Invariants
//!
//! * An agent's words reach a platform only as [`Text`], which is made visible once, and then only where the platform reads
//!   no markup: plain-text fields, blocks of code that it cannot end, or escaped as its documentation says.
//! * Nothing is cut silently. What does not fit is shown as "N of M bytes", and what a rule wants whole and is not loses its
//!   buttons; a card whose head does not fit is not rendered at all.
//! * What is heard is verified over the raw bytes before any of it is parsed.
//! * A [`Token`] is worth something on one channel, in one place, for one word about one delivery.
//! * URLs inside what is heard are never called. An [`Address`] that an answer gives is within the domain that a setting says.

mod card;
mod comment;
mod fence;
mod fingerprint;
mod http;
mod lookalike;
mod mail;
mod outgoing;
mod plain;
mod platform;
mod secret;
mod socket;
mod text;
mod token;
mod typed;
pub mod verify;
pub mod visible;

mod discord;
mod email;
mod gchat;
mod github;
mod instagram;
mod linear;
mod matrix;
mod mattermost;
mod messenger;
mod meta;
mod notion;
mod slack;
mod teams;
mod telegram;
mod twilio;
mod webex;
mod webhook;
mod whatsapp;
mod x;
mod xchat;

pub use card::{Answers, Body, Card, Excerpt, Face, Notice};
pub use fingerprint::fingerprint;
pub use http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
pub use lookalike::{Part, warnings};
pub use mail::{Letter, Mail, Relay, Security};
pub use outgoing::Outgoing;
pub use platform::{
    Acquaintance, Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, NAMED,
    Outcome, PLATFORMS, Platform, Polled, Said, Setting, TooLarge, Unfit, User, What, Words,
    platform,
};
pub use secret::{Chance, Secret};
pub use socket::{Address, Begin, Conversation, Step};
pub use text::Text;
pub use token::{Code, Handle, TapKey, Token};
pub use typed::Typed;
