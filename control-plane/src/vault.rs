//! The vault: keys for what is stored, and for what is sent to edges.
//!
//! ```text
//! provider ─ wraps ─▶ root key ─ wraps ─▶ keyring {term → barrier key}
//!  key file            │                    ├─ "raft-entry", "snapshot", …  (Barrier)
//!  passphrase          │                    └─ "payload" ─ wraps ─▶ one data key per secret
//!  shares, k of n      ├─ "local"           (secrets of this node's disk)
//!  PKCS#11 token       └─ "derive"          (bearer tokens)
//! ```
//!
//! It owns `seal.json` and knows no Raft, no state and no policy: what a secret may be used for reaches it as a
//! [`Binding`], which is authenticated with the ciphertext. Nothing here prints, copies or compares a key.
//!
//! `seal.json` is the same on every node. What changes it ([`Vault::rotate`], [`Rekey`]) gives the bytes of a new file, which
//! are in force on no node until they were replicated and taken in: [`Barrier::adopt`](crate::cluster::Barrier).

mod provider;
mod rekey;
mod seal_file;
mod shares;
pub mod sharing;

mod barrier;
mod edge;
mod keyring;
mod local;
mod payload;

mod cipher;
mod error;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use zeroize::Zeroizing;

pub use edge::{SealedToEdge, seal_to_edge};
pub use error::{SealError, ShareError, TokenError};
pub use keyring::KeyringTerm;
pub use payload::Binding;
pub use provider::{NewSeal, Pin, Token, Unsealing};
pub use rekey::{Authority, Rekey, Verified};
pub use shares::{EncryptedShare, Progress, Recipient, Share, ShareSet, UnsealProgress};

use crate::state::{Millis, Payload};
use cipher::Key;
use keyring::Keyring;
use seal_file::{SealFile, WrappedRoot};

/// An unsealed vault. Dropping it seals the node again: its keys are overwritten.
pub struct Vault {
    dir: PathBuf,
    root: Key,
    derive: Key,
    local: Key,
    held: RwLock<Arc<Held>>,
    adopting: Mutex<()>,
}

/// A seal file and what is in it.
struct Held {
    file: Vec<u8>,
    seal: SealFile,
    keyring: Keyring,
}

/// A vault that was just made.
pub struct Created {
    pub vault: Vault,
    /// For their keepers; empty unless it is sealed with shares. They are nowhere else.
    pub shares: Vec<EncryptedShare>,
}

/// What anybody who can read the data directory may know of a seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealParameters {
    /// "key-file", "passphrase", "pkcs11" or "shamir".
    pub provider: &'static str,
    /// One more with every change of the seal file.
    pub revision: u64,
    /// What opens it, if shares do.
    pub shares: Option<ShareSet>,
}

impl Vault {
    /// Whether `dir` holds a vault.
    pub fn exists(dir: &Path) -> bool {
        SealFile::path(dir).exists()
    }

    /// What opens the vault in `dir`.
    ///
    /// # Errors
    /// [`SealError::Missing`], [`SealError::Damaged`] or [`SealError::File`].
    pub fn parameters(dir: &Path) -> Result<SealParameters, SealError> {
        let (seal, _) = SealFile::read(dir)?;
        let parameters = seal.wrapped().parameters();
        Ok(SealParameters {
            provider: parameters.name(),
            revision: seal.revision(),
            shares: parameters.share_set().cloned(),
        })
    }

    /// Makes a root key and a keyring and writes `dir/seal.json`, whole or not at all, never over another. A key
    /// file that does not exist yet is made too. Takes about as long as one Argon2id pass over 64 MiB thrice:
    /// call it off the async threads. `now` is when the first term of the keyring begins.
    ///
    /// # Errors
    /// [`SealError`]; nothing was written then, except perhaps a new key file.
    pub fn create(dir: &Path, new: NewSeal, now: Millis) -> Result<Created, SealError> {
        if Self::exists(dir) {
            return Err(SealError::AlreadyExists(SealFile::path(dir).display().to_string()));
        }
        let (provider, shares) = new.provider()?;
        let root = cipher::random_key();
        let wrapped = WrappedRoot::wrap(provider.as_ref(), &root)?;
        let keyring = Keyring::first(now);
        let seal = SealFile::new(1, wrapped, &root, &keyring);
        let file = seal.encode();
        seal_file::write_first(dir, &file)?;
        provider.warn();
        Ok(Created { vault: Self::of(dir, root, Held { file, seal, keyring }), shares })
    }

    /// Opens `dir/seal.json`. As slow as [`Vault::create`].
    ///
    /// # Errors
    /// [`SealError::WrongPassphrase`], [`SealError::Damaged`] and the like; nothing changed.
    pub fn unseal(dir: &Path, unsealing: &Unsealing) -> Result<Self, SealError> {
        let (seal, file) = SealFile::read(dir)?;
        let provider = unsealing.provider(seal.wrapped().parameters())?;
        let root = seal.wrapped().unwrap(provider.as_ref())?;
        let keyring = seal.open_keyring(&root).ok_or_else(|| SealError::Damaged {
            path: SealFile::path(dir).display().to_string(),
            what: "its keyring does not open with its root key",
        })?;
        provider.warn();
        Ok(Self::of(dir, root, Held { file, seal, keyring }))
    }

    /// Writes the seal file of a cluster that this node joins to `dir`, where there is none yet. The same again is
    /// fine.
    ///
    /// # Errors
    /// [`SealError::NotASealFile`], [`SealError::AlreadyExists`] or [`SealError::File`]; nothing changed.
    pub fn install(dir: &Path, seal_file: &[u8]) -> Result<(), SealError> {
        SealFile::parse(seal_file).map_err(SealError::NotASealFile)?;
        if fs::read(SealFile::path(dir)).is_ok_and(|there| there == seal_file) {
            return Ok(());
        }
        seal_file::write_first(dir, seal_file)
    }

    /// The seal file with one more keyring term, which begins `now` and seals from when the file is adopted. Until
    /// then nothing changes; a file that is never adopted is forgotten. Of several files that were made from the
    /// same one, a cluster must adopt one and refuse the others.
    pub fn rotate(&self, now: Millis) -> Vec<u8> {
        let held = self.held();
        let (revision, wrapped) = (held.seal.revision() + 1, held.seal.wrapped().clone());
        SealFile::new(revision, wrapped, &self.root, &held.keyring.rotated(now)).encode()
    }

    /// `seal.json` as it stands: wrapped keys only.
    pub fn seal_file(&self) -> Vec<u8> {
        self.held().file.clone()
    }

    /// The keyring term that seals.
    pub fn keyring_term(&self) -> KeyringTerm {
        self.held().keyring.newest()
    }

    /// Whether it is time to [`rotate`](Self::rotate).
    pub fn rotation_due(&self, now: Millis) -> bool {
        self.keyring_term().is_due(now)
    }

    /// A secret as it is replicated: under a fresh data key, and only ever opened under the same binding.
    pub fn seal_payload(&self, binding: &Binding, secret: &[u8]) -> Payload {
        payload::seal(&self.held().keyring, binding, secret)
    }

    /// # Errors
    /// [`SealError::Tampered`] when binding and payload do not belong together; [`SealError::UnknownTerm`].
    pub fn open_payload(
        &self,
        binding: &Binding,
        payload: &Payload,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        payload::open(&self.held().keyring, binding, payload)
    }

    /// A secret that is not replicated, such as this node's signing keys, as it may lie on its disk. `context` says
    /// whose and what it is: it opens under the same only. Rotation does not touch it.
    pub fn seal_local(&self, context: &[&str], secret: &[u8]) -> Vec<u8> {
        local::seal(&self.local, context, secret)
    }

    /// # Errors
    /// [`SealError::Tampered`] when it was sealed by another vault or under another context, or was changed.
    pub fn open_local(
        &self,
        context: &[&str],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        local::open(&self.local, context, sealed).ok_or(SealError::Tampered)
    }

    /// Randomness that the same request gives again, on every node and after every rotation: 32 bytes for a bearer
    /// token or a fake key, of which another purpose or other parts tell nothing.
    pub fn derive(&self, purpose: &str, parts: &[&str]) -> Zeroizing<[u8; 32]> {
        keyring::expand(&self.derive, &cipher::parts(purpose, parts))
    }

    fn of(dir: &Path, root: Key, held: Held) -> Self {
        Self {
            dir: dir.to_owned(),
            derive: keyring::expand(&root, b"countersign/v1/derive"),
            local: keyring::expand(&root, b"countersign/v1/local"),
            root,
            held: RwLock::new(held.into()),
            adopting: Mutex::new(()),
        }
    }

    fn held(&self) -> Arc<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
