//! What each platform is sent and how its answers are verified, with judges that others wrote.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod emulated;
mod support;
mod tokens;
mod written;

mod gchat;
mod github;
mod linear;
mod notion;
mod slack;
mod teams;
