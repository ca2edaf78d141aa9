//! The gate from outside: a fact per test.
#![allow(clippy::unwrap_used)]

mod support;

mod encoding;
mod envelope;
mod model;
mod size;
mod vectors;
