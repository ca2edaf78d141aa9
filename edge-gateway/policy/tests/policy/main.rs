//! Policies as their authors write them, against requests as agents send them.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod analysis;
mod asking;
mod bodies;
mod bypass;
mod channels;
mod corpus;
mod databases;
mod decisions;
mod fixtures;
mod git;
mod graphql;
mod grpc;
mod mail;
mod mcp;
mod mistakes;
mod multipart;
mod observing;
mod properties;
mod support;
mod when;
