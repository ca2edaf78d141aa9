//! What unwraps the root key: a key file (for development, or chained to another secret store) or a passphrase.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::SealError;
use super::cipher::{self, Key};

/// Where the wrapping key comes from. It has no `Debug`.
pub enum Provider {
    /// 64 hexadecimal digits in a file that only its owner can read. Whoever has the file has the vault.
    KeyFile(PathBuf),
    /// Stretched by Argon2id: 64 MiB, 3 passes, 4 lanes.
    Passphrase(Zeroizing<String>),
}

/// What `seal.json` says of its provider. Nothing in it is secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Parameters {
    KeyFile,
    Passphrase { salt: String, memory_kib: u32, passes: u32, lanes: u32 },
}

impl Parameters {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::KeyFile => "key-file",
            Self::Passphrase { .. } => "passphrase",
        }
    }
}

impl Provider {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::KeyFile(_) => "key-file",
            Self::Passphrase(_) => "passphrase",
        }
    }

    /// Makes the key file if it is not there.
    pub(super) fn wrapping_key_of_new_vault(&self) -> Result<(Parameters, Key), SealError> {
        let parameters = match self {
            Self::KeyFile(path) => {
                if !path.exists() {
                    write_key_file(path)?;
                }
                Parameters::KeyFile
            }
            Self::Passphrase(_) => Parameters::Passphrase {
                salt: hex::encode(cipher::random::<16>()),
                memory_kib: 64 * 1024,
                passes: 3,
                lanes: 4,
            },
        };
        let key = self.wrapping_key(&parameters)?;
        Ok((parameters, key))
    }

    pub(super) fn wrapping_key(&self, parameters: &Parameters) -> Result<Key, SealError> {
        match (self, parameters) {
            (Self::KeyFile(path), Parameters::KeyFile) => read_key_file(path),
            (
                Self::Passphrase(text),
                Parameters::Passphrase { salt, memory_kib, passes, lanes },
            ) => {
                if text.is_empty() {
                    return Err(SealError::EmptyPassphrase);
                }
                stretch(text, salt, *memory_kib, *passes, *lanes)
            }
            (given, made_with) => {
                Err(SealError::WrongProvider { made_with: made_with.name(), given: given.name() })
            }
        }
    }

    /// The error for a wrapping key that does not fit.
    pub(super) fn wrong(&self) -> SealError {
        match self {
            Self::KeyFile(path) => SealError::WrongKeyFile(path.display().to_string()),
            Self::Passphrase(_) => SealError::WrongPassphrase,
        }
    }

    pub(super) fn warn(&self) {
        if let Self::KeyFile(path) = self {
            tracing::warn!(
                path = %path.display(),
                "UNSEALED BY A KEY FILE: whoever can read this file and the data directory can read every credential; \
                 use a passphrase outside of development"
            );
        }
    }
}

fn stretch(
    passphrase: &str,
    salt: &str,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
) -> Result<Key, SealError> {
    let damaged = |what| SealError::Damaged { path: super::seal_file::NAME.into(), what };
    // Cheaper is what an attacker would like, and much dearer is a way to stop the node from starting.
    if !(64 * 1024..=1024 * 1024).contains(&memory_kib)
        || !(3..=16).contains(&passes)
        || !(1..=16).contains(&lanes)
    {
        return Err(damaged("its Argon2id parameters are out of bounds"));
    }
    let salt = hex::decode(salt).map_err(|_| damaged("its salt is not hexadecimal"))?;
    let parameters = Params::new(memory_kib, passes, lanes, Some(32))
        .map_err(|_| damaged("its Argon2id parameters"))?;
    let mut key = Key::default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_into(passphrase.as_bytes(), &salt, key.as_mut_slice())
        .map_err(|_| damaged("its salt has the wrong length"))?;
    Ok(key)
}

fn read_key_file(path: &Path) -> Result<Key, SealError> {
    let shown = || path.display().to_string();
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => SealError::KeyFileMissing(shown()),
        _ => SealError::File { doing: "the key file could not be read", path: shown(), source },
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if !metadata.is_file() {
        return Err(SealError::KeyFileMalformed(shown()));
    }
    if mode & 0o077 != 0 {
        return Err(SealError::KeyFileMode { path: shown(), mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(256));
    file.take(256).read_to_end(&mut text).map_err(failed)?;
    let mut bytes = Key::default();
    hex::decode_to_slice(text.trim_ascii(), bytes.as_mut_slice())
        .map_err(|_| SealError::KeyFileMalformed(shown()))?;
    // The file may hold the key of something else too: what wraps here is drawn from it.
    Ok(Zeroizing::new(
        Sha256::digest(cipher::parts("countersign/v1/key-file", [bytes.as_slice()])).into(),
    ))
}

fn write_key_file(path: &Path) -> Result<(), SealError> {
    let failed = |source| SealError::File {
        doing: "the key file could not be made",
        path: path.display().to_string(),
        source,
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let text = Zeroizing::new(hex::encode(cipher::random_key().as_slice()));
    file.write_all(text.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        // The name too must outlast a power cut: without it the vault would never open again.
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(failed)
}
