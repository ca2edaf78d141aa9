//! Configuration: a TOML file, overridden by `COUNTERSIGN_EDGE_…` variables, read once into typed values. Whatever
//! is wrong with it is reported at once.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use countersign_gate::{Destination, Scheme};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::addresses::Network;
pub use crate::identity::Identity;
use crate::upstream::{self, ConnectTo};

/// All that an edge is told before it starts.
pub struct Config {
    /// Where agents reach the proxy; port 0 picks one.
    pub listen: SocketAddr,
    /// Where metrics are served, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the certificate of the edge's own authority is written at every start.
    pub ca_file: Option<PathBuf>,
    pub identity: Identity,
    pub gateway: Gateway,
    /// The way out. The edge adds its own listeners to what must never be dialled.
    pub upstream: upstream::Settings,
    /// Servers of Postgres, each behind a listener of its own.
    pub postgres: Vec<Postgres>,
    pub limits: Limits,
}

/// A server of Postgres, and where agents reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    /// Port 0 picks one.
    pub listen: SocketAddr,
    /// The one server behind it.
    pub upstream: Destination,
    /// Names that agents reach the listener under, besides `localhost` and its address.
    pub names: Vec<String>,
}

/// Where the control plane is, and how it is recognised.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// `host:port` of nodes. One that can be reached is enough: it names the others.
    pub addresses: Vec<String>,
    /// The name in the nodes' certificates. None: each names the host that it is reached at.
    pub server_name: Option<String>,
    /// The authorities that signed those certificates.
    pub ca_pem: String,
    /// Where they came from, and their successors are written. None: these stay in memory.
    pub ca_file: Option<PathBuf>,
    /// The cluster's root key (Ed25519), pinned when this edge was enrolled.
    pub root_key: [u8; 32],
    /// Whether requests that the policy allows, and that want no key, go on while no node can be reached.
    pub passthrough_when_disconnected: bool,
}

/// How much is taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body that is inspected or held.
    pub max_held_body: usize,
    /// Requests of one agent that are read, judged, forwarded or answered at a time. Others wait for their turn.
    pub max_in_flight_per_agent: usize,
    /// Requests of one agent that wait for people at a time.
    pub max_held_per_agent: usize,
    /// Bytes of bodies of one agent's requests that are kept until they are sent.
    pub max_spooled_bytes_per_agent: usize,
    /// Connections of one agent.
    pub max_connections_per_agent: usize,
    /// Requests that are kept without their client until they are approved, and answers to such; all together.
    pub max_parked: usize,
    /// Bytes of these, all together.
    pub max_parked_bytes: usize,
    /// Connections of agents, all together.
    pub max_connections: usize,
    /// Bytes of the answer to a request that people approved.
    pub max_approved_response: u64,
    /// How long such an answer may take, from the moment it is released.
    pub approved_response_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_held_body: 8 * 1024 * 1024,
            max_in_flight_per_agent: 32,
            max_held_per_agent: 16,
            max_spooled_bytes_per_agent: 64 * 1024 * 1024,
            max_connections_per_agent: 1_024,
            max_parked: 256,
            max_parked_bytes: 64 * 1024 * 1024,
            max_connections: 20_000,
            max_approved_response: 256 * 1024 * 1024,
            approved_response_time: Duration::from_secs(10 * 60),
        }
    }
}

/// How long an upstream may think before it answers, unless the configuration says otherwise.
pub const RESPONSE_HEADER_TIMEOUT: Duration = Duration::from_secs(600);

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration is not usable:\n  {}", self.0.join("\n  "))
    }
}

impl std::error::Error for Mistakes {}

impl Config {
    /// Reads the file, then the variables that `variable` knows, which win.
    ///
    /// # Errors
    /// [`Mistakes`], all of them.
    pub fn read(
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Mistakes> {
        let mut reading = Reading { mistakes: Vec::new() };
        let mut text = match file {
            None => Text::default(),
            Some(path) => reading.toml(path),
        };
        text.override_with(variable, &mut reading);
        let config = reading.config(text);
        match config {
            Some(config) if reading.mistakes.is_empty() => Ok(config),
            _ => Err(Mistakes(reading.mistakes)),
        }
    }
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Text {
    listen: Option<String>,
    metrics_listen: Option<String>,
    ca_file: Option<PathBuf>,
    identity: IdentityText,
    control_plane: GatewayText,
    upstream: UpstreamText,
    postgres: Vec<PostgresText>,
    limits: LimitsText,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PostgresText {
    listen: Option<String>,
    upstream: Option<String>,
    names: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct IdentityText {
    name: Option<String>,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GatewayText {
    addresses: Vec<String>,
    server_name: Option<String>,
    ca_file: Option<PathBuf>,
    root_key: Option<String>,
    passthrough_when_disconnected: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UpstreamText {
    ca_files: Vec<PathBuf>,
    connect_to: Vec<String>,
    allow_private: Vec<String>,
    response_header_timeout: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsText {
    max_held_body: Option<usize>,
    max_in_flight_per_agent: Option<usize>,
    max_held_per_agent: Option<usize>,
    max_spooled_bytes_per_agent: Option<usize>,
    max_connections_per_agent: Option<usize>,
    max_parked: Option<usize>,
    max_parked_bytes: Option<usize>,
    max_connections: Option<usize>,
    max_approved_response: Option<u64>,
    approved_response_time: Option<u64>,
}

impl Text {
    fn override_with(&mut self, variable: impl Fn(&str) -> Option<String>, reading: &mut Reading) {
        let name = |key: &str| format!("COUNTERSIGN_EDGE_{key}");
        let read = |key: &str| variable(&name(key));
        let list = |key: &str| {
            read(key).map(|text| text.split(',').map(|item| item.trim().to_owned()).collect())
        };
        let path = |key: &str| read(key).map(PathBuf::from);
        fn number<T: Copy + FromStr>(
            variable: &impl Fn(&str) -> Option<String>,
            key: &str,
            into: &mut Option<T>,
            reading: &mut Reading,
        ) {
            let name = format!("COUNTERSIGN_EDGE_{key}");
            if let Some(text) = variable(&name) {
                let parsed = text.parse().map_err(|_| "not a number");
                *into = reading.note(&name, parsed).or(*into);
            }
        }
        let limits = &mut self.limits;
        number(&variable, "LIMITS_MAX_HELD_BODY", &mut limits.max_held_body, reading);
        let key = "LIMITS_MAX_IN_FLIGHT_PER_AGENT";
        number(&variable, key, &mut limits.max_in_flight_per_agent, reading);
        number(&variable, "LIMITS_MAX_HELD_PER_AGENT", &mut limits.max_held_per_agent, reading);
        let key = "LIMITS_MAX_SPOOLED_BYTES_PER_AGENT";
        number(&variable, key, &mut limits.max_spooled_bytes_per_agent, reading);
        let key = "LIMITS_MAX_CONNECTIONS_PER_AGENT";
        number(&variable, key, &mut limits.max_connections_per_agent, reading);
        number(&variable, "LIMITS_MAX_PARKED", &mut limits.max_parked, reading);
        number(&variable, "LIMITS_MAX_PARKED_BYTES", &mut limits.max_parked_bytes, reading);
        number(&variable, "LIMITS_MAX_CONNECTIONS", &mut limits.max_connections, reading);
        let key = "LIMITS_MAX_APPROVED_RESPONSE";
        number(&variable, key, &mut limits.max_approved_response, reading);
        let key = "LIMITS_APPROVED_RESPONSE_TIME";
        number(&variable, key, &mut limits.approved_response_time, reading);

        let key = "CONTROL_PLANE_PASSTHROUGH_WHEN_DISCONNECTED";
        if let Some(text) = read(key) {
            let value =
                reading.note(&name(key), text.parse().map_err(|_| "neither true nor false"));
            replace(&mut self.control_plane.passthrough_when_disconnected, value);
        }
        replace(&mut self.listen, read("LISTEN"));
        replace(&mut self.metrics_listen, read("METRICS_LISTEN"));
        replace(&mut self.ca_file, path("CA_FILE"));
        replace(&mut self.identity.name, read("IDENTITY_NAME"));
        replace(&mut self.identity.certificate_file, path("IDENTITY_CERTIFICATE_FILE"));
        replace(&mut self.identity.key_file, path("IDENTITY_KEY_FILE"));
        replace(&mut self.control_plane.server_name, read("CONTROL_PLANE_SERVER_NAME"));
        replace(&mut self.control_plane.ca_file, path("CONTROL_PLANE_CA_FILE"));
        replace(&mut self.control_plane.root_key, read("CONTROL_PLANE_ROOT_KEY"));
        if let Some(addresses) = list("CONTROL_PLANE_ADDRESSES") {
            self.control_plane.addresses = addresses;
        }
        if let Some(connect_to) = list("UPSTREAM_CONNECT_TO") {
            self.upstream.connect_to = connect_to;
        }
        if let Some(networks) = list("UPSTREAM_ALLOW_PRIVATE") {
            self.upstream.allow_private = networks;
        }
        if let Some(files) = read("UPSTREAM_CA_FILES") {
            self.upstream.ca_files =
                files.split(',').map(|file| PathBuf::from(file.trim())).collect();
        }
    }
}

fn replace<T>(value: &mut Option<T>, with: Option<T>) {
    if with.is_some() {
        *value = with;
    }
}

/// Collects mistakes on the way to a [`Config`].
struct Reading {
    mistakes: Vec<String>,
}

impl Reading {
    fn note<T>(&mut self, key: &str, value: Result<T, impl fmt::Display>) -> Option<T> {
        value.map_err(|why| self.mistakes.push(format!("{key}: {why}"))).ok()
    }

    fn needed<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        self.note(key, value.ok_or("is needed"))
    }

    fn toml(&mut self, path: &Path) -> Text {
        let text = self.note(&path.display().to_string(), std::fs::read_to_string(path));
        let parsed =
            text.and_then(|text| self.note(&path.display().to_string(), toml::from_str(&text)));
        parsed.unwrap_or_default()
    }

    fn file(&mut self, key: &str, path: Option<PathBuf>) -> Option<String> {
        let path = self.needed(key, path)?;
        self.note(
            key,
            std::fs::read_to_string(&path).map_err(|why| format!("{}: {why}", path.display())),
        )
    }

    fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        self.note(key, text.parse().map_err(|_| format!("{text} is not an address:port")))
    }

    fn config(&mut self, text: Text) -> Option<Config> {
        let listen = text.listen.unwrap_or_else(|| "127.0.0.1:7080".into());
        let listen = self.address("listen", &listen);
        let metrics_listen = text.metrics_listen.map(|text| self.address("metrics_listen", &text));
        let identity = self.identity(text.identity);
        let gateway = self.gateway(text.control_plane);
        let upstream = self.upstream(text.upstream);
        let postgres = text.postgres.into_iter().filter_map(|text| self.postgres(text)).collect();
        let defaults = Limits::default();
        let limits = Limits {
            max_held_body: text.limits.max_held_body.unwrap_or(defaults.max_held_body),
            max_in_flight_per_agent: text
                .limits
                .max_in_flight_per_agent
                .unwrap_or(defaults.max_in_flight_per_agent),
            max_held_per_agent: text
                .limits
                .max_held_per_agent
                .unwrap_or(defaults.max_held_per_agent),
            max_spooled_bytes_per_agent: text
                .limits
                .max_spooled_bytes_per_agent
                .unwrap_or(defaults.max_spooled_bytes_per_agent)
                .min(Semaphore::MAX_PERMITS),
            max_connections_per_agent: text
                .limits
                .max_connections_per_agent
                .unwrap_or(defaults.max_connections_per_agent),
            max_parked: text.limits.max_parked.unwrap_or(defaults.max_parked),
            max_parked_bytes: text.limits.max_parked_bytes.unwrap_or(defaults.max_parked_bytes),
            max_connections: text.limits.max_connections.unwrap_or(defaults.max_connections),
            max_approved_response: text
                .limits
                .max_approved_response
                .unwrap_or(defaults.max_approved_response),
            approved_response_time: text
                .limits
                .approved_response_time
                .map_or(defaults.approved_response_time, Duration::from_secs),
        };
        Some(Config {
            listen: listen?,
            metrics_listen: metrics_listen.flatten(),
            ca_file: text.ca_file,
            identity: identity?,
            gateway: gateway?,
            upstream: upstream?,
            postgres,
            limits,
        })
    }

    fn postgres(&mut self, text: PostgresText) -> Option<Postgres> {
        let listen = text.listen.unwrap_or_else(|| "127.0.0.1:5433".into());
        let listen = self.address("postgres.listen", &listen);
        let upstream = self.needed("postgres.upstream", text.upstream);
        let upstream = upstream.and_then(|text| {
            let read = Destination::parse(Scheme::Postgres, &text, Some(5432));
            self.note("postgres.upstream", read.map_err(|why| format!("{text}: it is {why}")))
        });
        let name = |name: String| {
            let read = Destination::parse(Scheme::Postgres, &name, Some(5432));
            let alone = read.ok().filter(|_| !name.contains(':'));
            let alone = alone.map(|name| name.host().to_owned());
            self.note("postgres.names", alone.ok_or_else(|| format!("{name} is not a host's name")))
        };
        let names = text.names.into_iter().filter_map(name).collect();
        Some(Postgres { listen: listen?, upstream: upstream?, names })
    }

    fn identity(&mut self, text: IdentityText) -> Option<Identity> {
        let name = self.needed("identity.name", text.name);
        let certificate_file = text.certificate_file.clone();
        let certificate_pem = self.file("identity.certificate_file", text.certificate_file);
        let key_pem = self.file("identity.key_file", text.key_file).map(Zeroizing::new);
        let identity = Identity {
            name: name?,
            certificate_pem: certificate_pem?,
            key_pem: key_pem?,
            certificate_file,
        };
        self.note(
            "identity.certificate_file",
            identity.key_digest().map_err(|why| format!("{why:#}")),
        )?;
        Some(identity)
    }

    fn gateway(&mut self, text: GatewayText) -> Option<Gateway> {
        if text.addresses.is_empty() {
            self.mistakes.push("control_plane.addresses: at least one host:port is needed".into());
        }
        let ca_file = text.ca_file.clone();
        let ca_pem = self.file("control_plane.ca_file", text.ca_file);
        let root_key = self.needed("control_plane.root_key", text.root_key);
        let root_key = root_key.and_then(|text| {
            let bytes = hex::decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
            self.note("control_plane.root_key", bytes.ok_or("not 64 hexadecimal digits"))
        });
        Some(Gateway {
            server_name: text.server_name,
            addresses: text.addresses,
            ca_pem: ca_pem?,
            ca_file,
            root_key: root_key?,
            passthrough_when_disconnected: text.passthrough_when_disconnected.unwrap_or(true),
        })
    }

    fn upstream(&mut self, text: UpstreamText) -> Option<upstream::Settings> {
        let mut extra_roots = Vec::new();
        for path in &text.ca_files {
            let read = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let read = read.map_err(|why| format!("{}: {why}", path.display()));
            extra_roots.extend(self.note("upstream.ca_files", read).unwrap_or_default());
        }
        let connect_to = text.connect_to.iter().filter_map(|text| {
            self.note(
                "upstream.connect_to",
                text.parse::<ConnectTo>().map_err(|why| format!("{text}: {why}")),
            )
        });
        let connect_to = connect_to.collect();
        let allow_private = text.allow_private.iter().filter_map(|text| {
            self.note(
                "upstream.allow_private",
                text.parse::<Network>().map_err(|why| format!("{text}: {why}")),
            )
        });
        let allow_private = allow_private.collect();
        let response_header_timeout =
            text.response_header_timeout.map_or(RESPONSE_HEADER_TIMEOUT, Duration::from_secs);
        Some(upstream::Settings {
            extra_roots,
            connect_to,
            allow_private,
            forbidden: Vec::new(),
            response_header_timeout,
        })
    }
}
