//! `seal.json`: the wrapped root key and the wrapped keyring. On disk it is whole or not there at all.
//!
//! Nothing in it is secret. Its keyring is bound to all the rest of it: whoever holds the root key notices when
//! parts of two files were put together.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::SealError;
use super::cipher::{self, Key};
use super::keyring::Keyring;
use super::provider::{Parameters, Provider};

pub(super) const NAME: &str = "seal.json";
const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer<S> {
    version: u32,
    seal: S,
    /// Over `seal`, so that a damaged file is not taken for a wrong passphrase. It authenticates nothing.
    sha256: String,
}

/// How the root key is kept, and the root key so kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrappedRoot {
    provider: Parameters,
    /// Hexadecimal; in the provider's own form.
    root: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealFile {
    /// One more with every change.
    revision: u64,
    wrapped: WrappedRoot,
    /// Hexadecimal `nonce ‖ ciphertext ‖ tag`, under the root key.
    keyring: String,
}

impl WrappedRoot {
    pub(super) fn wrap(provider: &dyn Provider, root: &Key) -> Result<Self, SealError> {
        let root = hex::encode(provider.wrap(root)?);
        Ok(Self { provider: provider.parameters().clone(), root })
    }

    pub(super) fn unwrap(&self, provider: &dyn Provider) -> Result<Key, SealError> {
        let damaged = |what| SealError::Damaged { path: NAME.into(), what };
        let wrapped =
            hex::decode(&self.root).map_err(|_| damaged("its root key is not hexadecimal"))?;
        provider.unwrap(&wrapped)
    }

    pub(super) fn parameters(&self) -> &Parameters {
        &self.provider
    }
}

impl SealFile {
    pub(super) fn path(dir: &Path) -> PathBuf {
        dir.join(NAME)
    }

    pub(super) fn new(revision: u64, wrapped: WrappedRoot, root: &Key, keyring: &Keyring) -> Self {
        let context = keyring_context(revision, &wrapped);
        let keyring = hex::encode(cipher::seal(root, &context, &keyring.encode()));
        Self { revision, wrapped, keyring }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn wrapped(&self) -> &WrappedRoot {
        &self.wrapped
    }

    /// None when this is not the root key of this file, or the file was put together from several.
    pub(super) fn open_keyring(&self, root: &Key) -> Option<Keyring> {
        let sealed = hex::decode(&self.keyring).ok()?;
        let context = keyring_context(self.revision, &self.wrapped);
        Keyring::decode(&cipher::open(root, &context, &sealed)?)
    }

    /// Says what is wrong in words that explain "is damaged".
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let outer: Outer<Self> =
            serde_json::from_slice(bytes).map_err(|_| "it is not the JSON of a seal")?;
        if outer.version != VERSION {
            return Err("it is of a version that this program does not know");
        }
        if checksum(&outer.seal) != outer.sha256 {
            return Err("its checksum does not match");
        }
        Ok(outer.seal)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let outer = Outer { version: VERSION, sha256: checksum(self), seal: self };
        let mut text = serde_json::to_vec_pretty(&outer).unwrap_or_default();
        text.push(b'\n');
        text
    }

    pub(super) fn read(dir: &Path) -> Result<(Self, Vec<u8>), SealError> {
        let path = Self::path(dir);
        let shown = || path.display().to_string();
        let bytes = fs::read(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => SealError::Missing(shown()),
            _ => SealError::File {
                doing: "nothing was unsealed, the seal could not be read",
                path: shown(),
                source,
            },
        })?;
        let seal =
            Self::parse(&bytes).map_err(|what| SealError::Damaged { path: shown(), what })?;
        Ok((seal, bytes))
    }
}

/// Writes a seal file where none is.
pub(super) fn write_first(dir: &Path, bytes: &[u8]) -> Result<(), SealError> {
    let path = SealFile::path(dir);
    let beside = dir.join(format!(".{NAME}.{}", hex::encode(cipher::random::<8>())));
    let written = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| write_whole(&beside, bytes))
        // A link, unlike a rename, never replaces what is there.
        .and_then(|()| fs::hard_link(&beside, &path));
    let removed = fs::remove_file(&beside);
    written.and(removed).and_then(|()| File::open(dir)?.sync_all()).map_err(|source| {
        match source.kind() {
            ErrorKind::AlreadyExists => SealError::AlreadyExists(path.display().to_string()),
            _ => SealError::File {
                doing: "no vault was made, its seal could not be written",
                path: path.display().to_string(),
                source,
            },
        }
    })
}

/// Writes a seal file in the place of the one that is there, which stays until the new one is on disk.
pub(super) fn replace(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = dir.join(format!(".{NAME}.new"));
    write_whole(&beside, bytes)?;
    fs::rename(&beside, SealFile::path(dir))?;
    File::open(dir)?.sync_all()
}

fn keyring_context(revision: u64, wrapped: &WrappedRoot) -> Vec<u8> {
    let parameters = wrapped.provider.context();
    cipher::parts(
        "countersign/v1/keyring",
        [&revision.to_be_bytes()[..], &parameters, wrapped.root.as_bytes()],
    )
}

fn checksum(seal: &SealFile) -> String {
    let bytes = serde_json::to_vec(seal).unwrap_or_default();
    hex::encode(Sha256::digest(bytes))
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
