//! What is typed about chats: channels, and what became of cards.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{Named, Show};

#[derive(Debug, Subcommand)]
pub(crate) enum Channel {
    /// Connect a chat: cards go there, and answers come from there
    ///
    /// `countersign channel guide PLATFORM` says what to do over there first, and which settings and secrets there are. A
    /// secret that is needed and not named is asked for, on a terminal that does not echo it. A channel that is there keeps
    /// what is not named, so that this also changes one; "" takes a setting, a room or a tenant away.
    Add(AddChannel),
    /// List what became of cards, newest first
    Deliveries {
        /// Of this approval alone
        #[arg(long, value_name = "APPROVAL")]
        approval: Option<String>,
        /// Only those in this state: dead ones never arrived
        #[arg(long, value_enum)]
        state: Option<Delivered>,
        #[command(flatten)]
        show: Show,
    },
    /// Say what to set up on a platform, and what a channel of it needs
    Guide {
        platform: Option<String>,
        /// Where the platform is to call, if it is known
        #[arg(long, value_name = "URL")]
        hook_url: Option<String>,
        /// Print the file that the platform makes the app from (Slack): for calls to --hook-url, or, without it, for a
        /// connection that Countersign opens
        #[arg(long, requires = "platform")]
        manifest: bool,
    },
    /// List channels: never their secrets
    List(Show),
    /// Disconnect a chat: nothing is sent there, and what comes from there counts for nothing
    Remove(Named),
    /// Send a harmless card, and wait until somebody answers it
    Test {
        name: String,
        /// To this account, instead of the channel's room or your own account
        #[arg(long, value_name = "PLATFORM/TENANT/USER")]
        account: Option<String>,
        /// Into this room
        #[arg(long, conflicts_with = "account")]
        room: Option<String>,
        /// How long to wait for an answer; 0s: only send it
        #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION", default_value = "2m")]
        wait: Duration,
        #[command(flatten)]
        show: Show,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddChannel {
    /// How it is called from now on
    pub(crate) name: String,
    /// Which chat it is: `countersign channel guide` lists them
    #[arg(long)]
    pub(crate) platform: String,
    /// A setting of the platform
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(crate) settings: Vec<String>,
    /// A file that holds a secret of the platform; - is standard input
    #[arg(long = "secret-file", value_name = "NAME=FILE")]
    pub(crate) secret_files: Vec<String>,
    /// Reach only accounts of this workspace, server or organisation
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Post cards here, for everybody there to see, instead of to the accounts of those who are asked
    #[arg(long)]
    pub(crate) room: Option<String>,
    /// Tell the room only of what this group or principal is asked about; repeatable
    #[arg(long = "only", value_name = "GROUP")]
    pub(crate) only: Vec<String>,
    /// Wait so long for an answer from elsewhere before a card goes out here
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) after: Option<Duration>,
    /// The channel for cards that this one cannot deliver
    #[arg(long, value_name = "CHANNEL")]
    pub(crate) fallback: Option<String>,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Delivered {
    Dead,
    Due,
    Sent,
}
