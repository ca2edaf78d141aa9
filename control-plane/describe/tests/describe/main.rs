//! Requests as clients send them, and the sentences that people read of them.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod corpus;
mod databases;
mod never_hides;
mod requests;
mod strict;
