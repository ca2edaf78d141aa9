//! What is kept or runs on this machine: contexts, an agent's variables, a whole site.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use countersign_edge_gateway::addresses::Network;
use countersign_edge_gateway::upstream::ConnectTo;

/// The token comes from COUNTERSIGN_AGENT_TOKEN, --token-file or standard input.
#[derive(Debug, clap::Args)]
pub(crate) struct Env {
    /// The agent's name
    #[arg(long)]
    pub(crate) agent: String,
    /// For whom to print it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: EnvFormat,
    /// Read the agent's token from this file, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Where the agent finds the CA file, when it is elsewhere (in a container)
    #[arg(long, value_name = "PATH")]
    pub(crate) ca_path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvFormat {
    /// export lines for a shell to eval
    #[default]
    Sh,
    /// A .env file
    Dotenv,
    /// A file for docker run --env-file
    Docker,
    /// One JSON object
    Json,
}

/// It needs what any tool of the agent needs, HTTPS_PROXY with the agent's token, and can decide nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Mcp {
    /// The agent's proxy URL; else COUNTERSIGN_PROXY, else HTTPS_PROXY
    #[arg(long, value_name = "http://NAME:TOKEN@HOST:PORT")]
    pub(crate) proxy: Option<String>,
}

/// The token comes from --token-file or standard input.
#[derive(Debug, clap::Args)]
pub(crate) struct Login {
    /// The control plane's admin API: one address, or several with commas between them
    #[arg(long, env = "COUNTERSIGN_ADDR", value_name = "https://HOST:PORT[,…]")]
    pub(crate) addr: String,
    /// Wait this long until it answers, such as 30s
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) wait: Option<Duration>,
    /// The authority that signed its certificate (PEM); the system's unless given
    #[arg(long, env = "COUNTERSIGN_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Read the token from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The edge that agents go through
    #[arg(long, env = "COUNTERSIGN_EDGE", value_name = "http://HOST:PORT")]
    pub(crate) edge: Option<String>,
    /// The authority that agents have to trust (PEM)
    #[arg(long, env = "COUNTERSIGN_EDGE_CA", value_name = "FILE")]
    pub(crate) edge_ca: Option<PathBuf>,
}

/// It lives in the data directory, survives a restart, and is for development alone: the key that opens the vault lies
/// beside it.
#[derive(Debug, clap::Args)]
pub(crate) struct Dev {
    /// Everything that is kept
    #[arg(long, value_name = "DIR", default_value = crate::context::DEV_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Written once everything serves: addresses, CA files, the administrator's token
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Put this policy in force at the start
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Where agents reach the edge; port 0 picks one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7080")]
    pub(crate) edge_listen: SocketAddr,
    /// Where operators reach the control plane
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7443")]
    pub(crate) api_listen: SocketAddr,
    /// Where edges reach the control plane
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub(crate) gateway_listen: SocketAddr,
    /// Health, metrics and pages
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7081")]
    pub(crate) web_listen: SocketAddr,
    /// Trust this authority for upstreams too (PEM); as often as needed
    #[arg(long, value_name = "FILE")]
    pub(crate) upstream_ca: Vec<PathBuf>,
    /// Dial another address for a destination, as curl does; as often as needed
    #[arg(long, value_name = "HOST:PORT:ADDR:PORT")]
    pub(crate) connect_to: Vec<ConnectTo>,
    /// Let the edge dial this private range; as often as needed
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow_private: Vec<Network>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Answer in the person's place, where there is no terminal
    #[arg(long, value_enum, value_name = "ANSWER")]
    pub(crate) answer: Option<Word>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Word {
    Approve,
    Deny,
}
