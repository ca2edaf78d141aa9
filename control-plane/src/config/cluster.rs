//! `[cluster]`: this node among others.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::source::Source;

pub(super) const SNAPSHOT_EVERY: &str = "cluster.snapshot_every";
/// With fewer, a node would do little else.
const FEWEST_ENTRIES: u64 = 10;

/// This node among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where other nodes call (`ClusterService`); absent: this node has no peers.
    pub listen: Option<SocketAddr>,
    /// `host:port` under which other nodes find it; absent: the address that it listens on.
    pub advertise: Option<String>,
    /// What people call this node; the name that it was invited under.
    pub name: String,
    /// Read at the first start only: the cluster that this node joins. Absent: it begins one.
    pub join: Option<Join>,
    pub begin: Begin,
    /// Leaders call this often.
    pub heartbeat: Duration,
    /// A node that has not heard of a leader for so long, to twice as long, stands for election.
    pub election: Duration,
    /// Entries of the log from one snapshot to the next. A node that is further behind than the log reaches back gets a
    /// snapshot.
    pub snapshot_every: u64,
}

/// A cluster to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// `https://host:port` of the API of any of its nodes.
    pub api: String,
    /// The one-time token of `countersign cluster add`.
    pub token_file: PathBuf,
    /// PEM of the CA that the API is checked with.
    pub ca_file: PathBuf,
}

/// How a node that joins nobody begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// By itself, as soon as it can make a vault.
    #[default]
    Auto,
    /// When `AdminService.InitCluster` says so.
    Manual,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            listen: None,
            advertise: None,
            name: "node-1".into(),
            join: None,
            begin: Begin::Auto,
            heartbeat: Duration::from_millis(150),
            election: Duration::from_millis(600),
            snapshot_every: 10_000,
        }
    }
}

pub(super) fn read(source: &mut Source) -> ClusterConfig {
    let default = ClusterConfig::default();
    let milliseconds = "must be a number of milliseconds, such as 150";
    let mut duration = |key, otherwise| {
        let number = source.number(key, milliseconds);
        number.map_or(otherwise, |ms| Duration::from_millis(ms.into()))
    };
    let heartbeat = duration("cluster.heartbeat_ms", default.heartbeat);
    let election = duration("cluster.election_ms", default.election);
    let entries = "must be a number of entries, such as 10000";
    let snapshot_every = source.number(SNAPSHOT_EVERY, entries);
    ClusterConfig {
        listen: source.address("cluster.listen"),
        advertise: source.host_and_port("cluster.advertise"),
        name: source.text("cluster.name").unwrap_or(default.name),
        join: join(source),
        begin: begin(source),
        heartbeat,
        election,
        snapshot_every: snapshot_every.map_or(default.snapshot_every, u64::from),
    }
}

/// What makes no sense together.
pub(super) fn check(source: &mut Source, config: &Config) {
    let cluster = &config.cluster;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if cluster.name.len() > 64 || !cluster.name.chars().all(plain) {
        source.mistake(
            "cluster.name",
            "must be at most 64 letters, digits, dots, dashes or underscores",
        );
    }
    if cluster.heartbeat.is_zero() || cluster.election < 3 * cluster.heartbeat {
        source.mistake(
            "cluster.election_ms",
            "must be at least three times cluster.heartbeat_ms, which must not be 0",
        );
    }
    if cluster.snapshot_every < FEWEST_ENTRIES {
        source.mistake(SNAPSHOT_EVERY, "must be at least 10");
    }
    let joins = source.has("cluster.join");
    if joins && cluster.begin == Begin::Manual {
        source.mistake("cluster.begin", "does nothing on a node that joins a cluster: remove it");
    }
    if joins && !source.has("cluster.name") {
        source
            .mistake("cluster.name", "is needed to join: the name that the node was invited under");
    }
    let Some(listen) = cluster.listen else {
        if source.has("cluster.advertise") {
            source.mistake("cluster.advertise", "does nothing without cluster.listen");
        }
        if joins {
            source.mistake(
                "cluster.listen",
                "is needed to join: the other nodes call this one there",
            );
        }
        return;
    };
    // A node with peers is found by them, by edges and by operators that have never met it.
    for (key, listens, told) in [
        ("cluster.advertise", listen, cluster.advertise.is_some()),
        ("api.advertise", config.api_listen, config.api_advertise.is_some()),
        ("gateway.advertise", config.gateway_listen, config.gateway_advertise.is_some()),
    ] {
        if listens.ip().is_unspecified() && !told {
            source.mistake(
                key,
                &format!("is needed: nobody can dial {listens}; say which HOST:PORT others dial"),
            );
        }
    }
}

fn begin(source: &mut Source) -> Begin {
    match source.text("cluster.begin").as_deref() {
        Some("manual") => Begin::Manual,
        Some("auto") | None => Begin::Auto,
        Some(_) => {
            source.mistake("cluster.begin", "must be \"auto\" or \"manual\"");
            Begin::Auto
        }
    }
}

fn join(source: &mut Source) -> Option<Join> {
    let api = api_to_join(source);
    let token_file = source.path("cluster.join_token_file");
    let ca_file = source.path("cluster.join_ca_file");
    if !source.has("cluster.join") {
        for key in ["cluster.join_token_file", "cluster.join_ca_file"] {
            if source.has(key) {
                source.mistake(key, "does nothing without cluster.join");
            }
        }
        return None;
    }
    for (key, what) in [
        ("cluster.join_token_file", "the file with the token that `countersign cluster add` gave"),
        ("cluster.join_ca_file", "the file with the CA of that API, PEM"),
    ] {
        if !source.has(key) {
            source.mistake(key, &format!("is needed to join: {what}"));
        }
    }
    Some(Join { api: api?, token_file: token_file?, ca_file: ca_file? })
}

fn api_to_join(source: &mut Source) -> Option<String> {
    let text = source.text("cluster.join")?;
    let uri = text.parse::<http::Uri>().ok().filter(|uri| {
        uri.scheme_str() == Some("https")
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.path() == "/"
            && uri.query().is_none()
    });
    if uri.is_none() {
        source.mistake("cluster.join", "must be https://HOST:PORT of the API of a node");
    }
    uri.map(|_| text.trim_end_matches('/').to_owned())
}
