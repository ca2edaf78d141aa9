//! The edge's leaf modules, each against the outside it faces: an agent's TLS client, an upstream, a resolver.

#![allow(clippy::unwrap_used)]

mod support;

mod addresses;
mod downgrade;
mod mitm;
mod redact;
mod upstream;
