//! Which control plane, as whom, trusting which authority.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::secret;

/// What every command needs to know before it says a word.
#[derive(Clone)]
pub(crate) struct Context {
    /// Where the admin API is.
    pub(crate) nodes: Nodes,
    /// PEM file of the authority to trust; none: the system's.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) token: Option<Zeroizing<String>>,
    pub(crate) edge: Edge,
    /// Where this was found, for messages.
    pub(crate) source: String,
}

/// `https://host:port` of each node that is known, in the order in which they are tried; never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nodes(Vec<String>);

impl Nodes {
    /// Addresses with commas between them.
    ///
    /// # Errors
    /// Whichever is none that can be called; `source` says where they come from.
    pub(crate) fn parse(text: &str, source: &str) -> Result<Self, Failure> {
        let mut nodes: Vec<String> = Vec::new();
        for addr in text.split(',').map(|addr| addr.trim().trim_end_matches('/')) {
            if addr.strip_prefix("https://").is_none_or(str::is_empty) {
                return Err(Failure::Usage(format!(
                    "{addr:?} (from {source}) is not an https:// address, such as https://127.0.0.1:7443"
                )));
            }
            if !nodes.iter().any(|known| known == addr) {
                nodes.push(addr.to_owned());
            }
        }
        Ok(Self(nodes))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn shares_one_with(&self, other: &Self) -> bool {
        self.iter().any(|addr| other.iter().any(|known| known == addr))
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// The edge that agents of this context go through, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edge {
    /// `http://host:port`.
    pub(crate) proxy: Option<String>,
    /// PEM file of the authority that signs what agents see.
    pub(crate) ca: Option<PathBuf>,
}

/// A context as it lies on disk, mode 0600.
#[derive(Deserialize, Serialize)]
pub(crate) struct Saved {
    /// One address, or several with commas between them.
    pub(crate) addr: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    #[serde(with = "token_text")]
    pub(crate) token: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) edge_proxy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) edge_ca: Option<PathBuf>,
}

impl Context {
    /// The file that was named on the command line; else what COUNTERSIGN_ADDR says, with COUNTERSIGN_TOKEN and
    /// COUNTERSIGN_CA; else what `login` saved; else what `dev` saved below the current directory.
    ///
    /// A saved token is only ever used with the address that it was saved for.
    pub(crate) fn find(
        named: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let token = token(&variable)?;
        let ca = variable("COUNTERSIGN_CA").map(PathBuf::from);
        let mut context = match (named, variable("COUNTERSIGN_ADDR")) {
            (Some(path), _) => Self::saved(path)?.ok_or_else(|| missing(path))?,
            (None, Some(addr)) => {
                let source = "COUNTERSIGN_ADDR".to_owned();
                let nodes = Nodes::parse(&addr, &source)?;
                let edge = edge_of(&nodes, ca.as_deref(), &variable);
                Self { nodes, ca: None, token: None, edge, source }
            }
            (None, None) => saved_contexts(&variable)
                .into_iter()
                .find_map(|path| Self::saved(&path).transpose())
                .ok_or_else(nowhere)??,
        };
        context.token = token.or(context.token);
        context.ca = ca.or(context.ca);
        context.edge.proxy = variable("COUNTERSIGN_EDGE").or(context.edge.proxy).map(with_scheme);
        context.edge.ca = variable("COUNTERSIGN_EDGE_CA").map(PathBuf::from).or(context.edge.ca);
        Ok(context)
    }

    /// A context for each node by itself, for what is said to one node and not to the cluster.
    pub(crate) fn each(&self) -> impl Iterator<Item = Self> {
        self.nodes.iter().map(|addr| self.only(addr))
    }

    /// The same, but for this one of its nodes; the scheme may be left away.
    ///
    /// # Errors
    /// `Usage` for an address that is not known: the token is not for it.
    pub(crate) fn of(&self, addr: &str) -> Result<Self, Failure> {
        let addr = addr.trim_end_matches('/');
        let same = |known: &&str| *known == addr || known.strip_prefix("https://") == Some(addr);
        let known = self.nodes.iter().find(same).map(|known| self.only(known));
        known.ok_or_else(|| {
            Failure::Usage(format!(
                "{addr} is none of the nodes that are known, {} (from {})",
                self.nodes, self.source
            ))
        })
    }

    /// The same, but this node is tried first, and then those behind it.
    pub(crate) fn beginning_with(&self, index: usize) -> Self {
        let mut nodes = self.nodes.clone();
        nodes.0.rotate_left(index % self.nodes.len());
        Self { nodes, ..self.clone() }
    }

    /// The same, but for one node.
    pub(crate) fn only(&self, addr: &str) -> Self {
        Self { nodes: Nodes(vec![addr.to_owned()]), ..self.clone() }
    }

    /// None when there is no such file.
    fn saved(path: &Path) -> Result<Option<Self>, Failure> {
        let Some(saved) = Saved::read(path)? else { return Ok(None) };
        let source = path.display().to_string();
        Ok(Some(Self {
            nodes: Nodes::parse(&saved.addr, &source)?,
            ca: saved.ca,
            token: Some(saved.token),
            edge: Edge { proxy: saved.edge_proxy, ca: saved.edge_ca },
            source,
        }))
    }
}

impl Saved {
    /// None when there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let text = match fs::read_to_string(path).map(Zeroizing::new) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::Refused(format!(
                    "the context {} cannot be read: {error}",
                    path.display()
                )));
            }
        };
        // The parser's own message could repeat the text, and the text holds a token.
        let parsed = serde_json::from_str(&text);
        let broken = |_| {
            Failure::Refused(format!(
                "the context {} is damaged: run `countersign login` again",
                path.display()
            ))
        };
        parsed.map(Some).map_err(broken)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = Zeroizing::new(serde_json::to_string_pretty(self).map_err(Failure::refused)?);
        write_private(path, text.as_bytes()).map_err(|error| {
            Failure::Refused(format!("the context {} cannot be saved: {error}", path.display()))
        })
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("nodes", &self.nodes)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Writes a file that only its owner can read, all of it or nothing.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().ok_or_else(|| std::io::Error::other("it names no file"))?;
    let mut partial = std::ffi::OsString::from(".");
    partial.push(name);
    partial.push(format!(".{}", std::process::id()));
    let partial = path.with_file_name(partial);
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Where `login` saves.
pub(crate) fn login_path(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".config"));
    let config = variable("XDG_CONFIG_HOME").filter(|dir| dir.starts_with('/')).map(PathBuf::from);
    Some(config.or_else(home)?.join("countersign/context.json"))
}

/// Where `dev` saves, in its data directory.
pub(crate) const DEV_FILE: &str = "context.json";

/// `dev`'s data directory unless told otherwise.
pub(crate) const DEV_DIR: &str = ".countersign";

fn saved_contexts(variable: &impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    login_path(variable).into_iter().chain([Path::new(DEV_DIR).join(DEV_FILE)]).collect()
}

/// The edge that a saved context names for the same control plane; `dev` saves one beside its CA file.
fn edge_of(nodes: &Nodes, ca: Option<&Path>, variable: &impl Fn(&str) -> Option<String>) -> Edge {
    let beside = ca.map(|ca| ca.with_file_name(DEV_FILE));
    let known = beside
        .into_iter()
        .chain(saved_contexts(variable))
        .filter_map(|path| Saved::read(&path).ok().flatten());
    let same = known.into_iter().find(|saved| {
        Nodes::parse(&saved.addr, "").is_ok_and(|known| known.shares_one_with(nodes))
    });
    same.map(|saved| Edge { proxy: saved.edge_proxy, ca: saved.edge_ca }).unwrap_or_default()
}

fn token(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Zeroizing<String>>, Failure> {
    if let Some(token) = variable("COUNTERSIGN_TOKEN").map(Zeroizing::new) {
        return secret::word(token.as_bytes(), "COUNTERSIGN_TOKEN").map(Some);
    }
    let file = variable("COUNTERSIGN_TOKEN_FILE").map(PathBuf::from);
    file.map(|file| secret::read_word(Some(&file), "the token")).transpose()
}

/// A token in a file is a plain string.
mod token_text {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(
        token: &Zeroizing<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(token)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}

fn with_scheme(edge: String) -> String {
    if edge.contains("://") { edge } else { format!("http://{edge}") }
}

fn missing(path: &Path) -> Failure {
    Failure::Usage(format!("there is no context in {}", path.display()))
}

fn nowhere() -> Failure {
    Failure::Usage(
        "no control plane is known here: run `countersign login`, start `countersign dev` in this directory, or set COUNTERSIGN_ADDR, \
         COUNTERSIGN_TOKEN and COUNTERSIGN_CA"
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn variables<'a>(set: &[(&'a str, &str)]) -> impl Fn(&str) -> Option<String> + use<'a> {
        let set: BTreeMap<&'a str, String> =
            set.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        move |name| set.get(name).cloned()
    }

    fn save(dir: &Path) -> PathBuf {
        let path = dir.join("countersign/context.json");
        fs::create_dir_all(dir.join("countersign")).unwrap();
        let saved = Saved {
            addr: "https://saved:1".into(),
            ca: Some("/ca.pem".into()),
            token: Zeroizing::new("cs_adm_saved".into()),
            edge_proxy: Some("http://edge:2".into()),
            edge_ca: Some("/edge-ca.pem".into()),
        };
        saved.write(&path).unwrap();
        path
    }

    #[test]
    fn a_saved_token_never_goes_to_another_address() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path());
        let home = dir.path().to_str().unwrap();
        let context = Context::find(
            None,
            variables(&[("COUNTERSIGN_ADDR", "https://other:1"), ("XDG_CONFIG_HOME", home)]),
        )
        .unwrap();
        assert!(context.token.is_none() && context.ca.is_none() && context.edge.proxy.is_none());
    }

    #[test]
    fn a_saved_context_is_private_and_complete() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = save(dir.path());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let context =
            Context::find(None, variables(&[("XDG_CONFIG_HOME", dir.path().to_str().unwrap())]))
                .unwrap();
        assert_eq!(context.nodes.to_string(), "https://saved:1");
        assert_eq!(context.token.unwrap().as_str(), "cs_adm_saved");
        assert_eq!(context.edge.proxy.as_deref(), Some("http://edge:2"));
    }

    #[test]
    fn the_edge_is_known_from_the_context_beside_the_ca() {
        let dir = tempfile::tempdir().unwrap();
        let saved = save(dir.path());
        let ca = saved.with_file_name("api-ca.pem");
        let set =
            [("COUNTERSIGN_ADDR", "https://saved:1"), ("COUNTERSIGN_CA", ca.to_str().unwrap())];
        let context = Context::find(None, variables(&set)).unwrap();
        assert_eq!(context.edge.proxy.as_deref(), Some("http://edge:2"));
        assert!(context.token.is_none(), "the token has to be given");
    }

    #[test]
    fn a_damaged_context_is_not_repeated_in_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("context.json");
        fs::write(&path, "{\"token\":\"cs_adm_secret\"").unwrap();
        let failure = Context::find(Some(&path), variables(&[])).unwrap_err();
        assert!(!format!("{failure:?}").contains("cs_adm_secret"));
    }

    #[test]
    fn plain_http_is_refused_also_as_one_of_several() {
        for addr in ["http://x:1", "https://x:1,http://y:1", "https://x:1,", "https://"] {
            let found = Context::find(None, variables(&[("COUNTERSIGN_ADDR", addr)]));
            assert!(matches!(found, Err(Failure::Usage(_))), "{addr}");
        }
    }

    #[test]
    fn several_addresses_are_kept_in_their_order_and_once() {
        let addr = "https://b:1/, https://a:1,https://b:1";
        let context = Context::find(None, variables(&[("COUNTERSIGN_ADDR", addr)])).unwrap();
        assert_eq!(context.nodes.to_string(), "https://b:1,https://a:1");
        assert_eq!(context.of("a:1").unwrap().nodes.to_string(), "https://a:1");
        assert!(matches!(context.of("https://c:1"), Err(Failure::Usage(_))));
        let each: Vec<_> = context.each().map(|one| one.nodes.to_string()).collect();
        assert_eq!(each, ["https://b:1", "https://a:1"]);
    }
}
