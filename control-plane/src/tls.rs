//! What this node shows to whom, and what a listener demands of its clients.
//!
//! ```text
//! api-ca.pem          whom operators and edges pin; the first one's key lies here until the cluster has begun
//! tls/server.{pem,key}  shown to operators and edges          ┐ issued by CAs whose keys are in the vault,
//! tls/node.{pem,key}    shown to other nodes, and tls/node-ca.pem ┘ while the vault is open
//! ```
//!
//! Private keys are made where they lie and stay there, 0600. A sealed node can show what it has; only an unsealed one
//! can renew it.

mod authority;
mod pair;
mod server;

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

pub(crate) use pair::Pair;
pub(crate) use server::{ServerIdentity, with_local};

/// What this node shows to operators and edges.
pub(crate) fn server_pair(data_dir: &Path) -> Pair {
    Pair::named(&folder(data_dir), "server")
}

/// What this node shows to other nodes.
pub(crate) fn node_pair(data_dir: &Path) -> Pair {
    Pair::named(&folder(data_dir), "node")
}

/// The CAs of what nodes show to each other.
pub(crate) fn node_ca_path(data_dir: &Path) -> PathBuf {
    folder(data_dir).join("node-ca.pem")
}

/// None when there is no such file.
pub(crate) fn read_if_there(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(pem) => Ok(Some(pem)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// The CAs of what every node shows to operators and edges.
pub(crate) fn api_ca_path(data_dir: &Path) -> PathBuf {
    data_dir.join("api-ca.pem")
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    write_whole(path, bytes, 0o600)
}

/// Writes a file that anybody may read, whole or not at all.
pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    write_whole(path, bytes, 0o644)
}

/// Makes the folder that keys lie in, for its owner alone.
pub(crate) fn make_folder(data_dir: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder(data_dir))
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("tls")
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
