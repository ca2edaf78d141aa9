//! What each platform is sent and how its answers are verified, with judges that others wrote.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

mod email;
mod instagram;
mod messenger;
mod meta;
mod slack;
mod twilio;
mod webhook;
mod whatsapp;
mod x;
