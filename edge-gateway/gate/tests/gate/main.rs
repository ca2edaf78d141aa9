//! The gate from outside: a fact per test.
#![allow(clippy::unwrap_used)]

mod support;

mod request;

mod classify;
mod model;

mod encoding;
mod envelope;
mod vectors;

mod release;

mod size;
