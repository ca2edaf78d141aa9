//! What each platform is sent and how its answers are verified, with judges that others wrote.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod homeserver;
mod support;

mod discord;
mod email;
mod instagram;
mod matrix;
mod mattermost;
mod messenger;
mod meta;
mod slack;
mod telegram;
mod twilio;
mod webex;
mod webhook;
mod whatsapp;
mod x;
