//! The whole system, from the outside: real processes, real clients, real bytes. One binary, a file per story.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod adversary;
mod architecture;
mod bad_input;
mod cards;
mod chat;
mod crash;
mod deciding;
mod effect;
mod fanout;
mod kubernetes;
mod mail;
mod mcp;
mod minting;
mod operator;
mod parking;
mod postgres;
mod protocols;
mod real_components;
mod request_path;
mod sdks;
mod secrets;
mod sentences;
mod signed;
mod slots;
mod sockets;
mod sql_oracle;
mod waiting;
mod whole;
mod xchat;

/// Reads pass, what changes something is frozen, all with one credential.
const POLICY: &str = r#"
version = 1

[[rule]]
name = "read"
host = "api.example.test"
methods = ["GET", "HEAD"]
then = "allow"
credential = "example"

[[rule]]
name = "change"
host = "api.example.test"
methods = ["DELETE", "PATCH", "POST", "PUT"]
then = "approve"
credential = "example"
approvers = ["admin"]

[[rule]]
name = "never the vault"
host = "api.example.test"
path = "/vault/{rest...}"
then = "deny"
"#;

const HOST: &str = "api.example.test";
