//! What a control-plane node is told before it starts: one TOML file, overridden by `COUNTERSIGN_…` variables.
//!
//! Everything is read once, here, and every mistake is reported at once, each with its key's path.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// A node's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds everything that the node keeps; made when it is not there.
    pub data_dir: PathBuf,
    /// Where operators call (`AdminService`). Port 0 picks one.
    pub api_listen: SocketAddr,
    /// Where edges attach (`GatewayService`). Port 0 picks one.
    pub gateway_listen: SocketAddr,
    /// `/healthz`, `/readyz`, `/metrics` and the approvals page; not served when absent.
    pub web_listen: Option<SocketAddr>,
    pub seal: SealConfig,
    /// Whose agents these are; part of every digest that is signed. Taken at the first start only.
    pub org_id: String,
    /// DNS names and addresses in the server certificate, beside localhost, 127.0.0.1 and ::1.
    pub server_names: Vec<String>,
}

/// What opens the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealConfig {
    /// The node unseals itself. The file is made at the first start, with mode 0600.
    KeyFile(PathBuf),
    /// The node starts sealed and waits for `AdminService.Unseal`, which on a node without a vault makes one.
    Passphrase,
    /// As `Passphrase`, except that a node without a vault makes one with the passphrase in this file.
    PassphraseFile(PathBuf),
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
    /// [`Mistakes`]: a file that cannot be read or is not TOML, unknown keys, values that are not what they should be.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        let mut source = Source::default();
        if let Some(path) = file {
            source.read_file(path);
        }
        source.read_environment(environment);
        let config = Self {
            data_dir: source
                .path("data_dir")
                .unwrap_or_else(|| PathBuf::from("/var/lib/countersign")),
            api_listen: source.address("api.listen").unwrap_or_else(|| loopback(8443)),
            gateway_listen: source.address("gateway.listen").unwrap_or_else(|| loopback(8444)),
            web_listen: source.address("web.listen"),
            seal: source.seal(),
            org_id: source.text("org").unwrap_or_else(|| "default".into()),
            server_names: source.texts("api.server_names"),
        };
        source.check_names(&config);
        source.finish(config)
    }
}

/// Every key, and the variable that overrides it.
pub const VARIABLES: [(&str, &str); 10] = [
    ("api.listen", "COUNTERSIGN_API_LISTEN"),
    ("api.server_names", "COUNTERSIGN_SERVER_NAMES"),
    ("data_dir", "COUNTERSIGN_DATA_DIR"),
    ("gateway.listen", "COUNTERSIGN_GATEWAY_LISTEN"),
    ("org", "COUNTERSIGN_ORG"),
    ("seal.key_file", "COUNTERSIGN_SEAL_KEY_FILE"),
    ("seal.passphrase_fd", "COUNTERSIGN_SEAL_PASSPHRASE_FD"),
    ("seal.passphrase_file", "COUNTERSIGN_SEAL_PASSPHRASE_FILE"),
    ("seal.provider", "COUNTERSIGN_SEAL_PROVIDER"),
    ("web.listen", "COUNTERSIGN_WEB_LISTEN"),
];

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Keys with their values as they were written, and what was wrong with them.
#[derive(Default)]
struct Source {
    values: BTreeMap<&'static str, Value>,
    mistakes: Vec<String>,
}

impl Source {
    fn read_file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) => {
                return self.mistakes.push(format!("{} cannot be read ({e})", path.display()));
            }
        };
        match text.parse::<Table>() {
            Ok(table) => self.take_table("", &table),
            Err(e) => {
                let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
                self.mistakes.push(format!("{}:{line}: {}", path.display(), e.message()));
            }
        }
    }

    fn take_table(&mut self, prefix: &str, table: &Table) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match (VARIABLES.iter().find(|(known, _)| *known == key), value) {
                (Some((known, _)), value) => drop(self.values.insert(known, value.clone())),
                (None, Value::Table(inner)) if prefix.is_empty() => self.take_table(&key, inner),
                (None, _) => self.mistakes.push(format!(
                    "`{key}` is not a key; remove it, or see deploy/control-plane.toml"
                )),
            }
        }
    }

    fn read_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in environment {
            if let Some((key, _)) = VARIABLES.iter().find(|(_, variable)| *variable == name) {
                self.values.insert(key, Value::String(value));
            }
        }
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        match self.values.get(key)? {
            Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
            _ => {
                self.mistake(key, "must be text that is not empty");
                None
            }
        }
    }

    fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    fn address(&mut self, key: &'static str) -> Option<SocketAddr> {
        let text = self.text(key)?;
        let address = text.parse().ok();
        if address.is_none() {
            self.mistake(key, "must be ADDRESS:PORT, such as 127.0.0.1:8443 or [::]:8443");
        }
        address
    }

    /// A list, or (from the environment) names with commas between them.
    fn texts(&mut self, key: &'static str) -> Vec<String> {
        let texts = match self.values.get(key) {
            None => return Vec::new(),
            Some(Value::String(text)) => {
                text.split(',').map(|t| Some(t.trim().to_owned())).collect()
            }
            Some(Value::Array(values)) => {
                values.iter().map(|v| v.as_str().map(str::to_owned)).collect()
            }
            Some(_) => None,
        };
        texts.unwrap_or_else(|| {
            self.mistake(key, "must be a list of texts");
            Vec::new()
        })
    }

    fn seal(&mut self) -> SealConfig {
        let provider = self.text("seal.provider");
        let key_file = self.path("seal.key_file");
        let passphrase_file = self.path("seal.passphrase_file");
        let passphrase_fd = self.descriptor("seal.passphrase_fd");
        match (provider.as_deref(), key_file) {
            (Some("key-file"), Some(path)) => SealConfig::KeyFile(path),
            (Some("key-file"), None) => {
                self.mistake("seal.key_file", "is needed when seal.provider is \"key-file\"");
                SealConfig::Passphrase
            }
            (Some("passphrase") | None, Some(_)) => {
                self.mistake("seal.key_file", "does nothing unless seal.provider is \"key-file\"");
                SealConfig::Passphrase
            }
            (Some("passphrase") | None, None) => match (passphrase_file, passphrase_fd) {
                (Some(_), Some(_)) => {
                    self.mistake(
                        "seal.passphrase_fd",
                        "and seal.passphrase_file are both there: keep one",
                    );
                    SealConfig::Passphrase
                }
                (Some(path), None) | (None, Some(path)) => SealConfig::PassphraseFile(path),
                (None, None) => SealConfig::Passphrase,
            },
            (Some(_), _) => {
                self.mistake("seal.provider", "must be \"key-file\" or \"passphrase\"");
                SealConfig::Passphrase
            }
        }
    }

    fn descriptor(&mut self, key: &'static str) -> Option<PathBuf> {
        let number = match self.values.get(key)? {
            Value::Integer(number) => u32::try_from(*number).ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.mistake(key, "must be the number of an open file descriptor, such as 3");
        }
        number.map(|number| PathBuf::from(format!("/dev/fd/{number}")))
    }

    fn check_names(&mut self, config: &Config) {
        if let Err(e) = rcgen::CertificateParams::new(config.server_names.clone()) {
            self.mistake("api.server_names", &format!("must be DNS names or IP addresses ({e})"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if config.org_id.len() > 64 || !config.org_id.chars().all(plain) {
            self.mistake("org", "must be at most 64 letters, digits, dots, dashes or underscores");
        }
    }

    fn mistake(&mut self, key: &str, what: &str) {
        let variable =
            VARIABLES.iter().find(|(known, _)| *known == key).map_or("", |(_, variable)| variable);
        self.mistakes.push(format!("`{key}` ({variable}) {what}"));
    }

    fn finish(self, config: Config) -> Result<Config, Mistakes> {
        if self.mistakes.is_empty() { Ok(config) } else { Err(Mistakes(self.mistakes)) }
    }
}
