//! What a control-plane node is told before it starts: one TOML file, overridden by `COUNTERSIGN_…` variables.
//!
//! Everything is read once, here, and every mistake is reported at once, each with its key's path.

mod cluster;
mod mint;
mod seal;
mod source;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use cluster::{Begin, ClusterConfig, Join};
pub use seal::{Pkcs11Config, SealConfig};
use source::Source;

/// A node's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds everything that the node keeps; made when it is not there.
    pub data_dir: PathBuf,
    /// Where operators call (`AdminService`). Port 0 picks one.
    pub api_listen: SocketAddr,
    /// `host:port` under which others find the API; absent: the address that it listens on.
    pub api_advertise: Option<String>,
    /// Where edges attach (`GatewayService`). Port 0 picks one.
    pub gateway_listen: SocketAddr,
    /// `host:port` under which edges find it; absent: the address that it listens on.
    pub gateway_advertise: Option<String>,
    /// `/healthz`, `/readyz`, `/metrics` and the approvals page; not served when absent.
    pub web_listen: Option<SocketAddr>,
    /// Where chat platforms reach the web listener, `https://host`, from outside; absent: they are told where it listens.
    pub web_public_url: Option<String>,
    pub seal: SealConfig,
    pub cluster: ClusterConfig,
    /// The way to issuers of tokens.
    pub mint: crate::mint::Settings,
    /// Whose agents these are; part of every digest that is signed. Taken at the first start only.
    pub org_id: String,
    /// DNS names and addresses in the server certificate, beside localhost, 127.0.0.1, ::1 and the advertised ones.
    pub server_names: Vec<String>,
    /// How many approvals of one agent may wait for people at once.
    pub max_pending_per_agent: u32,
    /// Forgets what this node remembers of how far its peers' logs went: an operator's word that a rollback of theirs
    /// is meant. Said at one start (`--accept-rollback`), never in a file.
    pub accept_rollback: bool,
}

impl Default for Config {
    /// What holds where a file says nothing.
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/countersign"),
            api_listen: loopback(8443),
            api_advertise: None,
            gateway_listen: loopback(8444),
            gateway_advertise: None,
            web_listen: None,
            web_public_url: None,
            seal: SealConfig::Passphrase,
            cluster: ClusterConfig::default(),
            mint: crate::mint::Settings::default(),
            org_id: "default".into(),
            server_names: Vec::new(),
            max_pending_per_agent: 64,
            accept_rollback: false,
        }
    }
}

/// Everything that is wrong with a configuration, one sentence each.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl Mistakes {
    /// One sentence for each mistake, in the order of the keys.
    pub fn sentences(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration was not taken: {}", self.0.join("; "))
    }
}

impl std::error::Error for Mistakes {}

impl Config {
    /// Reads `file`, then the variables of `environment` that [`VARIABLES`] names, which win.
    ///
    /// # Errors
    /// [`Mistakes`]: a file that cannot be read or is not TOML, unknown keys, values that are not what they should
    /// be, and keys that make no sense together.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        let mut source = Source::default();
        if let Some(path) = file {
            source.read_file(path);
        }
        source.read_environment(environment);
        let default = Self::default();
        let config = Self {
            data_dir: source.path("data_dir").unwrap_or(default.data_dir),
            api_listen: source.address("api.listen").unwrap_or(default.api_listen),
            api_advertise: source.host_and_port("api.advertise"),
            gateway_listen: source.address("gateway.listen").unwrap_or(default.gateway_listen),
            gateway_advertise: source.host_and_port("gateway.advertise"),
            web_listen: source.address("web.listen"),
            web_public_url: source.text(PUBLIC_URL),
            seal: seal::read(&mut source),
            cluster: cluster::read(&mut source),
            mint: mint::read(&mut source),
            org_id: source.text("org").unwrap_or(default.org_id),
            server_names: source.texts("api.server_names"),
            max_pending_per_agent: source
                .number(MAX_PENDING, "must be a number of approvals, such as 64")
                .unwrap_or(default.max_pending_per_agent),
            accept_rollback: false,
        };
        check_names(&mut source, &config);
        if config.max_pending_per_agent == 0 {
            source.mistake(MAX_PENDING, "must be at least 1");
        }
        let usable = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        if !config.web_public_url.as_ref().is_none_or(usable) {
            source
                .mistake(PUBLIC_URL, "must be an address such as https://countersign.example.com");
        }
        cluster::check(&mut source, &config);
        source.finish(config)
    }
}

/// Every key, and the variable that overrides it.
pub const VARIABLES: [(&str, &str); 31] = [
    ("api.advertise", "COUNTERSIGN_API_ADVERTISE"),
    ("api.listen", "COUNTERSIGN_API_LISTEN"),
    ("api.server_names", "COUNTERSIGN_SERVER_NAMES"),
    (MAX_PENDING, "COUNTERSIGN_MAX_PENDING_PER_AGENT"),
    ("cluster.advertise", "COUNTERSIGN_CLUSTER_ADVERTISE"),
    ("cluster.begin", "COUNTERSIGN_CLUSTER_BEGIN"),
    ("cluster.election_ms", "COUNTERSIGN_CLUSTER_ELECTION_MS"),
    ("cluster.heartbeat_ms", "COUNTERSIGN_CLUSTER_HEARTBEAT_MS"),
    ("cluster.join", "COUNTERSIGN_CLUSTER_JOIN"),
    ("cluster.join_ca_file", "COUNTERSIGN_CLUSTER_JOIN_CA_FILE"),
    ("cluster.join_token_file", "COUNTERSIGN_CLUSTER_JOIN_TOKEN_FILE"),
    ("cluster.listen", "COUNTERSIGN_CLUSTER_LISTEN"),
    ("cluster.name", "COUNTERSIGN_CLUSTER_NAME"),
    (cluster::SNAPSHOT_EVERY, "COUNTERSIGN_CLUSTER_SNAPSHOT_EVERY"),
    ("data_dir", "COUNTERSIGN_DATA_DIR"),
    ("gateway.advertise", "COUNTERSIGN_GATEWAY_ADVERTISE"),
    ("gateway.listen", "COUNTERSIGN_GATEWAY_LISTEN"),
    (mint::ALLOW_PRIVATE, "COUNTERSIGN_MINT_ALLOW_PRIVATE"),
    (mint::CA_FILES, "COUNTERSIGN_MINT_CA_FILES"),
    (mint::CONNECT_TO, "COUNTERSIGN_MINT_CONNECT_TO"),
    ("org", "COUNTERSIGN_ORG"),
    ("seal.key_file", "COUNTERSIGN_SEAL_KEY_FILE"),
    ("seal.passphrase_fd", "COUNTERSIGN_SEAL_PASSPHRASE_FD"),
    ("seal.passphrase_file", "COUNTERSIGN_SEAL_PASSPHRASE_FILE"),
    ("seal.pkcs11_key_label", "COUNTERSIGN_SEAL_PKCS11_KEY_LABEL"),
    ("seal.pkcs11_module", "COUNTERSIGN_SEAL_PKCS11_MODULE"),
    ("seal.pkcs11_pin_file", "COUNTERSIGN_SEAL_PKCS11_PIN_FILE"),
    ("seal.pkcs11_token_label", "COUNTERSIGN_SEAL_PKCS11_TOKEN_LABEL"),
    ("seal.provider", "COUNTERSIGN_SEAL_PROVIDER"),
    ("web.listen", "COUNTERSIGN_WEB_LISTEN"),
    (PUBLIC_URL, "COUNTERSIGN_WEB_PUBLIC_URL"),
];

const PUBLIC_URL: &str = "web.public_url";
const MAX_PENDING: &str = "approvals.max_pending_per_agent";

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Each is told to every edge, once for each listener, as a place that no agent is sent to.
const MOST_NAMES: usize = 32;

fn check_names(source: &mut Source, config: &Config) {
    if config.server_names.len() > MOST_NAMES {
        source.mistake("api.server_names", &format!("must be at most {MOST_NAMES} names"));
    }
    if let Err(e) = rcgen::CertificateParams::new(config.server_names.clone()) {
        source.mistake("api.server_names", &format!("must be DNS names or IP addresses ({e})"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if config.org_id.len() > 64 || !config.org_id.chars().all(plain) {
        source.mistake("org", "must be at most 64 letters, digits, dots, dashes or underscores");
    }
}
