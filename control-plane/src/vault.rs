//! The vault: keys for what is stored, and for what is sent to edges.
//!
//! ```text
//! provider (key file | passphrase) ─ wraps ─▶ root key ─ wraps ─▶ keyring {term → barrier key}
//!                                                                  ├─ "raft-entry", "snapshot"   (Barrier)
//!                                                                  ├─ "payload" ─ wraps ─▶ one data key per secret
//!                                                                  └─ "derive"                   (bearer tokens)
//! ```
//!
//! It owns `seal.json` and knows no Raft, no state and no policy: what a secret may be used for reaches it as a
//! [`Binding`], which is authenticated with the ciphertext. Nothing here prints, copies or compares a key.

mod barrier;
mod cipher;
mod edge;
mod keyring;
mod payload;
mod provider;
mod seal_file;

use std::path::Path;

use zeroize::Zeroizing;

pub use edge::{SealedToEdge, seal_to_edge};
pub use payload::Binding;
pub use provider::Provider;

use crate::state::Payload;
use keyring::Keyring;
use seal_file::SealFile;

/// An unsealed vault. Dropping it seals the node again: its keys are overwritten.
pub struct Vault {
    keyring: Keyring,
    seal_file: Vec<u8>,
}

/// Why nothing was sealed, unsealed, wrapped or opened. Names files and reasons, never values.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "no vault was made: {0} is there already; unseal that one, or choose an empty data directory"
    )]
    AlreadyExists(String),
    #[error(
        "nothing was unsealed: {path} is damaged ({what}); restore it from a backup, it cannot be repaired"
    )]
    Damaged { path: String, what: &'static str },
    #[error("nothing was sealed to the edge: its HPKE public key is not a usable X25519 key")]
    EdgeKey,
    #[error(
        "the passphrase is empty: give one, for instance `openssl rand -base64 24` makes a good one"
    )]
    EmptyPassphrase,
    #[error("{doing}: {path}: {source}")]
    File { doing: &'static str, path: String, source: std::io::Error },
    #[error(
        "the key file {0} does not hold 64 hexadecimal digits; give the file that the vault was made with"
    )]
    KeyFileMalformed(String),
    #[error(
        "the key file {0} is not there; give the path of the file that the vault was made with"
    )]
    KeyFileMissing(String),
    #[error(
        "the key file {path} can be read by others (mode {mode:03o}); run `chmod 600 {path}` and try again"
    )]
    KeyFileMode { path: String, mode: u32 },
    #[error("nothing was unsealed: there is no {0}; this data directory has no vault yet")]
    Missing(String),
    #[error(
        "the stored secret does not belong to this record, or was changed on disk: nothing was opened"
    )]
    Tampered,
    #[error(
        "nothing was opened: it was sealed under keyring term {0}, which this vault does not have"
    )]
    UnknownTerm(u64),
    #[error("the key file {0} is not the one that this vault was made with: nothing was unsealed")]
    WrongKeyFile(String),
    #[error("wrong passphrase: nothing was unsealed; try again")]
    WrongPassphrase,
    #[error(
        "this vault was made with a {made_with}, not a {given}: nothing was unsealed; give the {made_with}"
    )]
    WrongProvider { made_with: &'static str, given: &'static str },
}

impl Vault {
    /// Whether `dir` holds a vault.
    pub fn exists(dir: &Path) -> bool {
        SealFile::path(dir).exists()
    }

    /// Makes a root key and a keyring and writes `dir/seal.json`, whole or not at all, never over another. A key
    /// file that does not exist yet is made too. Takes about as long as one Argon2id pass over 64 MiB thrice:
    /// call it off the async threads.
    ///
    /// # Errors
    /// [`SealError`]; nothing was written then, except perhaps a new key file.
    pub fn create(dir: &Path, provider: &Provider) -> Result<Self, SealError> {
        if Self::exists(dir) {
            return Err(SealError::AlreadyExists(SealFile::path(dir).display().to_string()));
        }
        let (parameters, wrapping) = provider.wrapping_key_of_new_vault()?;
        let root = cipher::random_key();
        let keyring = Keyring::first();
        SealFile::wrap(parameters, &wrapping, &root, &keyring).write(dir)?;
        provider.warn();
        Ok(Self { keyring, seal_file: SealFile::bytes(dir)? })
    }

    /// Opens `dir/seal.json`. As slow as [`Vault::create`].
    ///
    /// # Errors
    /// [`SealError::WrongPassphrase`], [`SealError::Damaged`] and the like; nothing changed.
    pub fn unseal(dir: &Path, provider: &Provider) -> Result<Self, SealError> {
        let file = SealFile::read(dir)?;
        let wrapping = provider.wrapping_key(file.parameters())?;
        let keyring = file.unwrap(&wrapping, provider)?;
        provider.warn();
        Ok(Self { keyring, seal_file: SealFile::bytes(dir)? })
    }

    /// What unseals the vault in `dir`: "key-file" or "passphrase".
    ///
    /// # Errors
    /// [`SealError::Missing`], [`SealError::Damaged`] or [`SealError::File`].
    pub fn provider_of(dir: &Path) -> Result<&'static str, SealError> {
        Ok(SealFile::read(dir)?.parameters().name())
    }

    /// `seal.json` as it stands: wrapped keys only.
    pub fn seal_file(&self) -> Vec<u8> {
        self.seal_file.clone()
    }

    /// A secret as it is replicated: under a fresh data key, and only ever opened under the same binding.
    pub fn seal_payload(&self, binding: &Binding, secret: &[u8]) -> Payload {
        payload::seal(&self.keyring, binding, secret)
    }

    /// # Errors
    /// [`SealError::Tampered`] when binding and payload do not belong together; [`SealError::UnknownTerm`].
    pub fn open_payload(
        &self,
        binding: &Binding,
        payload: &Payload,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        payload::open(&self.keyring, binding, payload)
    }

    /// Randomness that the same request gives again: 32 bytes for a bearer token or a fake key, of which another
    /// purpose or other parts tell nothing.
    pub fn derive(&self, purpose: &str, parts: &[&str]) -> Zeroizing<[u8; 32]> {
        self.keyring.derive(purpose, parts)
    }
}
