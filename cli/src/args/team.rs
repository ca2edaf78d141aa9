//! What teams type: who is away, grants, and what waits for a second administrator.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Show;

#[derive(Debug, Subcommand)]
pub(crate) enum Grant {
    /// Let more of the same pass: this agent, host and method, this path, so many times, until then
    ///
    /// Whoever may approve the request may give it; where a rule asks for several people, the others support it. Rules
    /// that are critical, and requests that cannot be shown in full, have none. What a request holds beside its path is
    /// not bound: think of the worst query and body that the agent could send.
    Create {
        /// The approval that shows what it is about
        #[arg(value_name = "APPROVAL")]
        approval: String,
        /// {name} stands for one segment, {name...} at the end for the rest; the approval's own path unless given
        #[arg(long, value_name = "PATH")]
        path: Option<String>,
        /// How many times
        #[arg(long, value_name = "N")]
        uses: u32,
        /// For how long, such as 1h; at most 30d
        #[arg(long = "for", value_parser = humantime::parse_duration, value_name = "DURATION")]
        lasts: Duration,
        /// Why; the audit log keeps it
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        show: Show,
    },
    /// List grants, newest first, with what was done by each
    List(Show),
    /// Say yes to a grant that somebody else has asked for
    Support(Told),
    /// End a grant: what rests on it and was not released yet waits for people again
    Revoke(Told),
}

#[derive(Debug, Args)]
pub(crate) struct Told {
    pub(crate) id: String,
    /// Why; the audit log keeps it
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Change {
    /// List what waits for a second administrator
    List(Show),
    /// Print the policy that a change would put in force
    Policy { id: u64 },
    /// Do it: you have looked at it, and you are not the one who asked for it
    Confirm {
        id: u64,
        #[command(flatten)]
        show: Show,
    },
    /// Do not do it
    Reject {
        id: u64,
        /// Why; the audit log keeps it
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        show: Show,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Away {
    /// Who; you, unless given
    pub(crate) name: Option<String>,
    /// For how long, such as 14d; at most 60d
    #[arg(long = "for", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) lasts: Duration,
    /// Who decides meanwhile wherever you would and have not
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) stand_in: Option<String>,
    /// Why; the audit log keeps it
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, Args)]
pub(crate) struct Groups {
    pub(crate) name: String,
    /// All the groups from now on; none given: in no group
    #[arg(value_name = "GROUP")]
    pub(crate) groups: Vec<String>,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, Args)]
pub(crate) struct Link {
    /// The channel's platform, such as slack
    pub(crate) platform: String,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, Args)]
pub(crate) struct Unlink {
    /// As the list shows it
    #[arg(value_name = "PLATFORM/TENANT/USER")]
    pub(crate) account: String,
    /// Whose; yours, unless given
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) of: Option<String>,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, Args)]
pub(crate) struct Owner {
    /// The agent
    pub(crate) name: String,
    /// Who answers for it, and may not approve its requests; nobody unless given
    pub(crate) owner: Option<String>,
    #[command(flatten)]
    pub(crate) show: Show,
}
