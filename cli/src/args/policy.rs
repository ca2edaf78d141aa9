//! `countersign policy`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use super::Show;

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Put a policy in force, as one version
    Set {
        /// The policy, or - for standard input
        file: PathBuf,
        /// Only if this version is in force
        #[arg(long, value_name = "VERSION")]
        expected_version: Option<u64>,
        #[command(flatten)]
        show: Show,
    },
    /// Print the policy in force
    Show(Show),
    /// Compile policies and run the fixtures in them, here: no control plane is needed
    Test {
        /// The policy; of several, each stands for itself
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        show: Show,
    },
    /// Say what the policy in force would decide about a request, and why, rule by rule
    Explain {
        /// The agent's name
        #[arg(long)]
        agent: String,
        /// Of HTTP; GET for a connection to a database, POST for a statement
        method: String,
        /// Of a database: postgres://role@host/database
        url: String,
        /// What is asked of the database, in place of a body
        #[arg(long, conflicts_with_all = ["body", "headers"], value_name = "STATEMENT")]
        sql: Option<String>,
        /// The request's body
        #[arg(long, value_name = "FILE")]
        body: Option<PathBuf>,
        /// A header of the request, as "Name: value"; as often as needed
        #[arg(short = 'H', long = "header", value_name = "HEADER")]
        headers: Vec<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Say what a policy opens that another one does not: what newly passes, can newly be approved, or takes less of people
    ///
    /// Each way is shown with a request as an example. Conditions (`when`) are not looked into: those that are not written
    /// alike are taken to be independent, so too much may be reported, never too little.
    Diff {
        /// OLD and NEW; or NEW alone, to hold it against the policy in force
        #[arg(required = true, num_args = 1..=2, value_name = "POLICY")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        show: Show,
    },
    /// Decide requests that were made under a new policy, and say what changes, first what newly passes
    ///
    /// The requests are those that people were asked about, or the lines of a file: {"agent", "method", "url", "headers":
    /// {"name": "value"}, "body" or "body_base64", "decision": "allow|observe|approve|deny|refuse"}. Without a "decision"
    /// they are decided under the policy in force as well.
    Replay {
        /// The new policy
        file: PathBuf,
        /// Only requests that people were asked about in this time
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = humantime::parse_duration)]
        since: Duration,
        /// These requests instead, one a line as JSON; - for standard input
        #[arg(long, value_name = "FILE", conflicts_with = "since")]
        requests: Option<PathBuf>,
        #[command(flatten)]
        show: Show,
    },
    /// Say which rules people always approved, and how each could ask less often
    Review {
        /// Of this time
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = humantime::parse_duration)]
        since: Duration,
        /// Only rules that were approved at least so often
        #[arg(long, value_name = "COUNT", default_value_t = 5)]
        least: usize,
        #[command(flatten)]
        show: Show,
    },
}
