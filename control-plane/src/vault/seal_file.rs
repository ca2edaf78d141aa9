//! `seal.json`: the wrapped root key and the wrapped keyring. Written once, whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::SealError;
use super::cipher::{self, Key};
use super::keyring::Keyring;
use super::provider::{Parameters, Provider};

pub(super) const NAME: &str = "seal.json";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    version: u32,
    seal: SealFile,
    /// Over `seal`, so that a damaged file is not taken for a wrong passphrase. It authenticates nothing.
    sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealFile {
    provider: Parameters,
    /// Hexadecimal `nonce ‖ ciphertext ‖ tag`.
    root: String,
    keyring: String,
}

impl SealFile {
    pub(super) fn path(dir: &Path) -> PathBuf {
        dir.join(NAME)
    }

    pub(super) fn parameters(&self) -> &Parameters {
        &self.provider
    }

    pub(super) fn wrap(
        provider: Parameters,
        wrapping: &Key,
        root: &Key,
        keyring: &Keyring,
    ) -> Self {
        let context = root_context(&provider);
        Self {
            root: hex::encode(cipher::seal(wrapping, &context, root.as_slice())),
            keyring: hex::encode(cipher::seal(root, KEYRING_CONTEXT, &keyring.encode())),
            provider,
        }
    }

    pub(super) fn unwrap(&self, wrapping: &Key, provider: &Provider) -> Result<Keyring, SealError> {
        let damaged = |what| SealError::Damaged { path: NAME.into(), what };
        let decode = |text: &str| {
            hex::decode(text).map_err(|_| damaged("it is not hexadecimal where it should be"))
        };
        let root = cipher::open_key(wrapping, &root_context(&self.provider), &decode(&self.root)?)
            .ok_or_else(|| provider.wrong())?;
        cipher::open(&root, KEYRING_CONTEXT, &decode(&self.keyring)?)
            .and_then(|bytes| Keyring::decode(&bytes))
            .ok_or_else(|| damaged("its keyring does not open with its root key"))
    }

    pub(super) fn bytes(dir: &Path) -> Result<Vec<u8>, SealError> {
        let path = Self::path(dir);
        fs::read(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => SealError::Missing(path.display().to_string()),
            _ => SealError::File {
                doing: "nothing was unsealed, the seal could not be read",
                path: path.display().to_string(),
                source,
            },
        })
    }

    pub(super) fn read(dir: &Path) -> Result<Self, SealError> {
        let path = Self::path(dir);
        let damaged = |what| SealError::Damaged { path: path.display().to_string(), what };
        let bytes = Self::bytes(dir)?;
        let outer: Outer =
            serde_json::from_slice(&bytes).map_err(|_| damaged("it is not the JSON of a seal"))?;
        if outer.version != VERSION {
            return Err(damaged("it is of a version that this program does not know"));
        }
        if checksum(&outer.seal) != outer.sha256 {
            return Err(damaged("its checksum does not match"));
        }
        Ok(outer.seal)
    }

    pub(super) fn write(self, dir: &Path) -> Result<(), SealError> {
        let path = Self::path(dir);
        let outer = Outer { version: VERSION, sha256: checksum(&self), seal: self };
        let mut text = serde_json::to_vec_pretty(&outer).unwrap_or_default();
        text.push(b'\n');
        let beside = dir.join(format!(".{NAME}.{}", hex::encode(cipher::random::<8>())));
        let written = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .and_then(|()| write_new(&beside, &text))
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
}

const KEYRING_CONTEXT: &[u8] = b"countersign/v1/keyring";

/// The root key is bound to how its wrapping key came about.
fn root_context(provider: &Parameters) -> Vec<u8> {
    match provider {
        Parameters::KeyFile => cipher::parts("countersign/v1/root", ["key-file"]),
        Parameters::Passphrase { salt, memory_kib, passes, lanes } => cipher::parts(
            "countersign/v1/root",
            ["passphrase", salt, &memory_kib.to_string(), &passes.to_string(), &lanes.to_string()],
        ),
    }
}

fn checksum(seal: &SealFile) -> String {
    let bytes = serde_json::to_vec(seal).unwrap_or_default();
    hex::encode(Sha256::digest(bytes))
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
