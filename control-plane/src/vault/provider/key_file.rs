//! A key in a file: for development, or chained to another secret store.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Parameters, Provider};
use crate::vault::SealError;
use crate::vault::cipher::{self, Key};

pub(super) struct KeyFile {
    path: PathBuf,
    key: Key,
}

impl KeyFile {
    pub(super) fn read_or_make(path: PathBuf) -> Result<Self, SealError> {
        if !path.exists() {
            make(&path)?;
        }
        Self::read(path)
    }

    pub(super) fn read(path: PathBuf) -> Result<Self, SealError> {
        Ok(Self { key: read(&path)?, path })
    }
}

impl Provider for KeyFile {
    fn parameters(&self) -> &Parameters {
        &Parameters::KeyFile
    }

    fn wrap(&self, root: &Key) -> Result<Vec<u8>, SealError> {
        Ok(cipher::seal(&self.key, &Parameters::KeyFile.context(), root.as_slice()))
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Key, SealError> {
        cipher::open_key(&self.key, &Parameters::KeyFile.context(), wrapped)
            .ok_or_else(|| SealError::WrongKeyFile(self.path.display().to_string()))
    }

    fn warn(&self) {
        tracing::warn!(
            path = %self.path.display(),
            "UNSEALED BY A KEY FILE: whoever can read this file and the data directory can read every credential; \
             use a passphrase outside of development"
        );
    }
}

fn read(path: &Path) -> Result<Key, SealError> {
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

fn make(path: &Path) -> Result<(), SealError> {
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
