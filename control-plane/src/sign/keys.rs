//! This node's own signing keys: made here, kept on this node's disk alone, sealed by the vault.

use std::fs;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::SignError;
use crate::tls::write_private;
use crate::vault::{SealError, Vault};

const NAME: &str = "signing-keys.json";
/// A first key that waits for a vault to be sealed by: hexadecimal.
const WAITING: &str = "signing-key.waiting";

/// The keys of this node, oldest first; never empty. It has no `Debug`.
pub struct SigningKeys {
    keys: Vec<SigningKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Hexadecimal: which key it is, for whoever reads the file.
    public: String,
    /// Hexadecimal.
    sealed: String,
}

impl SigningKeys {
    /// Makes the first key of a node that has no open vault yet, and gives its public half. The key waits in
    /// `dir/signing-key.waiting`, as a file that only its owner may read, until
    /// [`open_or_make`](Self::open_or_make) seals it. Asking again gives the same one again.
    ///
    /// # Errors
    /// [`SignError::Keys`].
    pub fn prepare(dir: &Path) -> Result<[u8; 32], SignError> {
        if let Some(newest) = read_stored(dir)?.as_ref().and_then(|stored| stored.last()) {
            let mut public = [0; 32];
            hex::decode_to_slice(&newest.public, &mut public).map_err(|_| damaged(dir, NAME))?;
            return Ok(public);
        }
        if let Some(waiting) = read_waiting(dir)? {
            return Ok(waiting.verifying_key().to_bytes());
        }
        let key = new_key();
        let seed = Zeroizing::new(key.to_bytes());
        let line =
            Zeroizing::new(format!("{}\n", Zeroizing::new(hex::encode(seed.as_slice())).as_str()));
        write_private(&dir.join(WAITING), line.as_bytes()).map_err(|e| file(dir, WAITING, e))?;
        Ok(key.verifying_key().to_bytes())
    }

    /// Reads `dir/signing-keys.json`. Where there is none yet, it is written with the key that waits, or with one
    /// that is made now.
    ///
    /// # Errors
    /// The file cannot be read or written, or does not open with this vault.
    pub fn open_or_make(dir: &Path, vault: &Vault) -> Result<Self, SignError> {
        let Some(stored) = read_stored(dir)? else {
            let first = read_waiting(dir)?.unwrap_or_else(new_key);
            let keys = Self { keys: vec![first] };
            keys.write(dir, vault)?;
            return forget_waiting(dir).map(|()| keys);
        };
        let keys = stored.iter().map(|stored| {
            let sealed = hex::decode(&stored.sealed).map_err(|_| SealError::Tampered)?;
            let bytes = vault.open_local(&context(&stored.public), &sealed)?;
            let seed = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| SealError::Tampered)?;
            let key = SigningKey::from_bytes(&Zeroizing::new(seed));
            let same = hex::encode(key.verifying_key().to_bytes()) == stored.public;
            same.then_some(key).ok_or(SealError::Tampered)
        });
        let keys: Vec<_> = keys.collect::<Result<_, SealError>>()?;
        if keys.is_empty() {
            return Err(damaged(dir, NAME));
        }
        // A start that was cut short after the keys were written leaves it.
        forget_waiting(dir).map(|()| Self { keys })
    }

    pub fn newest_public(&self) -> [u8; 32] {
        self.keys.last().map(|key| key.verifying_key().to_bytes()).unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SigningKey> {
        self.keys.iter()
    }

    /// These, and a new one.
    pub(super) fn with_new(&self) -> Self {
        Self { keys: self.keys.iter().cloned().chain([new_key()]).collect() }
    }

    /// The newest, and those that `wanted` names; None when that is all of them.
    pub(super) fn without_unwanted(&self, wanted: impl Fn(&[u8; 32]) -> bool) -> Option<Self> {
        let newest = self.newest_public();
        let kept = self.keys.iter().filter(|key| {
            let public = key.verifying_key().to_bytes();
            public == newest || wanted(&public)
        });
        let kept: Vec<_> = kept.cloned().collect();
        (kept.len() < self.keys.len()).then_some(Self { keys: kept })
    }

    pub(super) fn write(&self, dir: &Path, vault: &Vault) -> Result<(), SignError> {
        let stored: Vec<_> = self
            .keys
            .iter()
            .map(|key| {
                let public = hex::encode(key.verifying_key().to_bytes());
                let seed = Zeroizing::new(key.to_bytes());
                let sealed = hex::encode(vault.seal_local(&context(&public), seed.as_slice()));
                Stored { public, sealed }
            })
            .collect();
        let text = serde_json::to_vec_pretty(&stored).map_err(|e| file(dir, NAME, e.into()))?;
        write_private(&dir.join(NAME), &text).map_err(|e| file(dir, NAME, e))
    }
}

fn new_key() -> SigningKey {
    let mut seed = Zeroizing::new([0; 32]);
    rand::rng().fill_bytes(seed.as_mut_slice());
    SigningKey::from_bytes(&seed)
}

fn read_stored(dir: &Path) -> Result<Option<Vec<Stored>>, SignError> {
    match fs::read(dir.join(NAME)) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| file(dir, NAME, e.into())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file(dir, NAME, e)),
    }
}

fn read_waiting(dir: &Path) -> Result<Option<SigningKey>, SignError> {
    let text = match fs::read_to_string(dir.join(WAITING)) {
        Ok(text) => Zeroizing::new(text),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(file(dir, WAITING, e)),
    };
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), seed.as_mut_slice()).map_err(|_| damaged(dir, WAITING))?;
    Ok(Some(SigningKey::from_bytes(&seed)))
}

fn forget_waiting(dir: &Path) -> Result<(), SignError> {
    match fs::remove_file(dir.join(WAITING)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(file(dir, WAITING, e)),
        _ => Ok(()),
    }
}

fn context(public: &str) -> [&str; 2] {
    ["node-signing-key", public]
}

fn damaged(dir: &Path, name: &str) -> SignError {
    file(dir, name, Error::new(ErrorKind::InvalidData, "it is damaged"))
}

fn file(dir: &Path, name: &str, error: Error) -> SignError {
    let path: PathBuf = dir.join(name);
    SignError::Keys(path.display().to_string(), error)
}
