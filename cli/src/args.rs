//! What can be typed: the one source of `--help`, of shell completions and of man pages.

mod channel;
mod cluster;
mod local;
mod mint;
mod policy;
mod team;
mod vault;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use channel::{AddChannel, Channel, Delivered};
pub(crate) use cluster::{Add, Cluster, Init, Remove, Restore, Signing, Trust, WhichCa};
pub(crate) use local::{Demo, Dev, Env, EnvFormat, Login, Mcp, Word};
pub(crate) use mint::{ClientAuth, Mint, MintKind, Parts};
pub(crate) use policy::Policy;
pub(crate) use team::{Away, Change, Grant, Groups, Link, Owner, Unlink};
pub(crate) use vault::{Provider, Rekey, Shape, Step, Unseal, Vault};

/// The gateway of consent for AI agents: agents hold fake keys, people decide, and only then does the real key leave.
///
/// The control plane is found through COUNTERSIGN_ADDR, COUNTERSIGN_TOKEN and COUNTERSIGN_CA, else through the context
/// that `login` saved, else through the one that `dev` saved in ./.countersign. COUNTERSIGN_ADDR may name several nodes,
/// with commas between them: what one of them cannot take, the next one is asked.
///
/// Exit codes: 0 done, 1 refused or failed, 2 usage, 3 unreachable.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, propagate_version = true, max_term_width = 120)]
pub(crate) struct Args {
    /// Use the control plane of this context file, whatever the environment says
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) context: Option<PathBuf>,
    /// Of several nodes that are known, talk to this one alone
    #[arg(long = "node", global = true, value_name = "https://HOST:PORT")]
    pub(crate) at_node: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Agents: who may use an edge, each with a token of its own
    #[command(subcommand)]
    Agent(Agent),
    /// Approvals: requests that wait for a person, and what became of them
    #[command(subcommand)]
    Approval(Approval),
    /// Approvers and other principals: who may decide, administer or audit
    #[command(subcommand)]
    Approver(Approver),
    /// The audit log: everything that was decided, as a hash chain
    #[command(subcommand)]
    Audit(Audit),
    /// Changes that wait for a second administrator
    #[command(subcommand)]
    Change(Change),
    /// Channels: the chats that cards go to and answers come from
    #[command(subcommand)]
    Channel(Channel),
    /// The cluster: the nodes of the control plane
    #[command(subcommand)]
    Cluster(Cluster),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Credentials: the real keys, which nothing here can show
    #[command(subcommand)]
    Credential(Credential),
    /// See the whole story, played and checked in this process, in under a minute
    Demo(Demo),
    /// Run a control plane and an edge here, in one process: not for production
    Dev(Dev),
    /// Find out what is in the way, and say what to do about it
    Doctor(Doctor),
    /// Edges: the gateways that agents go through
    #[command(subcommand)]
    Edge(Edge),
    /// Grants: more of the same, so many times, until then
    #[command(subcommand)]
    Grant(Grant),
    /// Print the variables that send an agent's tools through the edge
    Env(Env),
    /// Remember a control plane and a token for this user
    Login(Login),
    /// Write the man pages into a directory
    Man(Man),
    /// Serve an agent's model, over standard input and output, what it may know of its held requests (MCP)
    Mcp(Mcp),
    /// The policy: which requests pass, which wait for a person, which never leave
    #[command(subcommand)]
    Policy(Policy),
    /// The vault's seal
    #[command(subcommand)]
    Seal(Vault),
    /// How the control plane is
    Status(Show),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs; stable
    Json,
}

/// What a reading command takes.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Show {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Create an agent and print its token, this once
    Create {
        name: String,
        /// The principal who answers for it, and who may not approve its requests
        #[arg(long, value_name = "PRINCIPAL")]
        owner: Option<String>,
        #[command(flatten)]
        show: Show,
    },
    /// List agents
    List(Show),
    /// Give an agent a new token; the former one is worth nothing from then on
    Rotate(Named),
    /// Say who answers for an agent
    Owner(Owner),
    /// Take an agent's token away for good
    Revoke(Named),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Credential {
    /// Store a key and print the fake one that agents are given
    ///
    /// The value comes from standard input or --from-file, never from the command line. With --mint it is no key, but
    /// what tokens are had with: an OAuth client's refresh token and secret, a GitHub App's or a service account's private
    /// key. It stays in the control plane, and what is put in for the fake key is a token that ends by itself.
    Create {
        name: String,
        /// The one destination that it is for (port 443 unless given, 5432 with --postgres-role)
        #[arg(long, value_name = "HOST[:PORT]")]
        host: String,
        /// Where in a request it goes: `header[:NAME]`, basic, cookie:NAME, query:NAME, path, form:FIELD, json:POINTER, aws-sigv4 or
        /// hmac:HEADER[,TIMESTAMP-HEADER]
        #[arg(long, value_name = "SLOT", required_unless_present = "postgres_role")]
        slot: Option<String>,
        /// It is the password of this role of a Postgres server, and connections are opened with it: the slot postgres:ROLE
        #[arg(long, value_name = "ROLE", conflicts_with = "slot")]
        postgres_role: Option<String>,
        /// The text around the key, with {key} in it; each slot has its usual one. For hmac: what is signed, and how
        #[arg(long, value_name = "TEMPLATE")]
        template: Option<String>,
        /// auto: a lease where only allow rules use it, per request otherwise
        #[arg(long, value_enum, default_value_t)]
        class: Class,
        /// The chat account that whoever has the key can speak as: one of an approver's is given to no agent
        #[arg(long, value_name = "PLATFORM/TENANT/USER")]
        acts_as: Option<String>,
        /// Read the value from this file
        #[arg(long, value_name = "FILE")]
        from_file: Option<PathBuf>,
        #[command(flatten)]
        parts: Box<Parts>,
        #[command(flatten)]
        mint: Box<Mint>,
        #[command(flatten)]
        show: Show,
    },
    /// List credentials: never their values
    List(Show),
    /// Replace the value; agents go on with the fake key that they hold
    Rotate {
        name: String,
        /// Read the value from this file
        #[arg(long, value_name = "FILE")]
        from_file: Option<PathBuf>,
        #[command(flatten)]
        parts: Box<Parts>,
        #[command(flatten)]
        show: Show,
    },
    /// Take a credential out of use for good
    Revoke(Named),
    /// Print the URL with which an agent reaches a database through the edge
    ///
    /// Its password is made of the agent's token and the credential's fake key, and good for these two alone. They come from
    /// COUNTERSIGN_AGENT_TOKEN and COUNTERSIGN_FAKE_KEY or from files, never from the command line. Nobody is asked.
    PostgresUrl(PostgresUrl),
}

#[derive(Debug, clap::Args)]
pub(crate) struct PostgresUrl {
    /// The credential
    pub(crate) name: String,
    #[arg(long)]
    pub(crate) agent: String,
    #[arg(long)]
    pub(crate) database: String,
    /// Where the edge listens for clients of Postgres
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5433")]
    pub(crate) edge: String,
    /// Read the agent's token from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Read the fake key from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) fake_key_file: Option<PathBuf>,
    /// The edge's CA file, as the agent's client finds it
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Class {
    #[default]
    Auto,
    Lease,
    PerRequest,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Approval {
    /// List approvals, newest first
    List {
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        /// In a table, those too that are counted with a similar one which waits
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        show: Show,
    },
    /// Show all that is known of one: who wants what, of whom, with which bytes
    Show {
        id: String,
        /// As much of the body as is kept (16 KiB), and not its beginning alone
        #[arg(long)]
        body: bool,
        #[command(flatten)]
        show: Show,
    },
    /// Say yes
    Approve {
        #[command(flatten)]
        answer: Answer,
        /// In an emergency: alone, where the rule lets you. Needs a reason, and everyone is told
        #[arg(long, requires = "reason")]
        break_glass: bool,
    },
    /// Say no
    Deny(Answer),
    /// Wait until it is answered: exit 0 when it was approved, 1 when it never will be
    Wait {
        id: String,
        /// Give up after this long, such as 10m
        #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
        timeout: Option<Duration>,
        /// Ask the gateway, as the agent whose proxy URL this is; COUNTERSIGN_PROXY is taken where no token is known
        #[arg(long, value_name = "http://NAME:TOKEN@HOST:PORT")]
        proxy: Option<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Print every approval as it comes and changes, until stopped
    Watch(Show),
    /// Take it back: nobody will be asked any more
    Cancel(Answer),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Answer {
    pub(crate) id: String,
    /// Why; the audit log keeps it, and a denied agent is told
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Pending,
    Approved,
    Denied,
    Expired,
    Cancelled,
    Released,
    Completed,
    Unknown,
    Revoked,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Approver {
    /// Add a principal and print its token, this once
    Add {
        name: String,
        /// What it may do; approver unless given; as often as needed
        #[arg(long = "role", value_enum, value_name = "ROLE")]
        roles: Vec<Role>,
        /// A group that policies name; as often as needed
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Say that somebody is out of office, and who decides meanwhile
    Away(Away),
    /// Say that somebody is back
    Back {
        /// Who; you, unless given
        name: Option<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Say which groups somebody belongs to
    Groups(Groups),
    /// Get a code that your chat account says to be yours
    Link(Link),
    /// List principals
    List(Show),
    /// Remove a principal; its votes on what is still open no longer count
    Remove(Named),
    /// Give a principal a new token; the former one is worth nothing from then on
    Rotate(Named),
    /// Take a chat account off: it speaks for nobody from then on
    Unlink(Unlink),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Admin,
    Approver,
    Auditor,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List the records, oldest first
    List(Show),
    /// Check that nothing in the log was changed, removed or reordered
    ///
    /// An exported file is verified only against what does not come from it: the cluster's public root key, and a
    /// checkpoint that was kept elsewhere.
    Verify {
        /// An exported file to check here, without a control plane
        file: Option<PathBuf>,
        #[command(flatten)]
        against: Against,
        #[command(flatten)]
        show: Show,
    },
    /// Write the log as lines of JSON: whose it is, every record, and the checkpoints that its nodes signed
    Export {
        /// Into this file; else to standard output
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Print the newest checkpoint that enough nodes signed: keep it elsewhere
    Checkpoint,
}

/// What a file is held against.
#[derive(Debug, clap::Args)]
pub(crate) struct Against {
    /// The cluster's public root key, 64 hexadecimal digits: `cluster trust` shows it
    #[arg(long, value_name = "HEX", requires = "file", conflicts_with = "root_key_file")]
    pub(crate) root_key: Option<String>,
    /// Read the public root key from this file
    #[arg(long, value_name = "FILE", requires = "file")]
    pub(crate) root_key_file: Option<PathBuf>,
    /// A checkpoint that was kept: the file has to go on from it
    #[arg(long, value_name = "FILE", requires = "file")]
    pub(crate) checkpoint: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Edge {
    /// Enrol an edge: makes its key here, and writes what it needs into a directory
    Enroll {
        name: String,
        /// Where to put edge-key.pem, edge-cert.pem, gateway-ca.pem and edge.toml
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        /// The edge made its own key: this is its certificate signing request (PEM)
        #[arg(long, value_name = "FILE")]
        csr: Option<PathBuf>,
        #[command(flatten)]
        show: Show,
    },
    /// List edges
    List(Show),
    /// Shut an edge out for good
    Evict {
        name: String,
        /// Why; the audit log keeps it
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        show: Show,
    },
    /// Have another CA sign edges' certificates
    ///
    /// Edges renew their certificates by themselves. Those of the CA before count for another 25 hours, or until that is
    /// finished: `cluster status` shows which edges have none of the new one yet. Make a backup afterwards: edges are not
    /// let in by a cluster that is restored from one made before.
    RotateCa {
        /// Certificates of the CA before count no more, at once
        #[arg(long)]
        finish: bool,
        /// Finish without asking, though edges that have not renewed have to be enrolled again
        #[arg(long, requires = "finish")]
        yes: bool,
        #[command(flatten)]
        show: Show,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Where to put them
    pub(crate) dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        super::Args::command().debug_assert();
    }
}
