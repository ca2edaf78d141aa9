//! Whole-system tests stand on this: a [`World`] is a running `countersign dev`, an upstream that records the
//! bytes which really arrive, agents that are real clients, and people who answer through the CLI.
//!
//! Every test has a world of its own: its directory, its ports (0), its keys. Nothing waits for a time; whatever
//! is awaited is polled for as a fact, with a bound that only a failure reaches.

// All of this is a test: it fails by panicking.
#![allow(clippy::unwrap_used)]

pub mod aws;
pub mod chat;
pub mod cluster_world;
pub mod cost;
pub mod database;
pub mod discord;
pub mod history;
pub mod hosts;
pub mod invariants;
pub mod issuer;
pub mod kubernetes;
pub mod mail;
pub mod origin;
pub mod peers;
pub mod platforms;
pub mod release;
pub mod sockets;
pub mod toxic;
pub mod world;

pub use origin::{Origin, Seen};
pub use world::{Agent, Answer, Credential, Waiting, World, eventually};

/// A real key as a test gives it to the vault: long, and unlike anything that occurs by chance.
pub const REAL_KEY: &str = "ghp_R3alK3yThatNobodyButTheUpstreamSees00";
