//! What each platform is sent and how its answers are verified, with judges that others wrote.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod emulated;
mod homeserver;
mod support;
mod tokens;
mod written;

mod discord;
mod email;
mod gchat;
mod github;
mod instagram;
mod linear;
mod matrix;
mod mattermost;
mod messenger;
mod meta;
mod notion;
mod slack;
mod smtp;
mod strangers;
mod teams;
mod telegram;
mod twilio;
mod webex;
mod webhook;
mod whatsapp;
mod whole;
mod x;
mod xchat;
