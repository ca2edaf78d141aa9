//! This node's own signing keys: made here, kept on this node's disk alone, sealed by the vault.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use ed25519_dalek::SigningKey;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::SignError;
use crate::state::Payload;
use crate::tls::write_private;
use crate::vault::{Binding, SealError, Vault};

const NAME: &str = "signing-keys.json";

/// The keys of this node, oldest first; never empty. It has no `Debug`.
pub struct SigningKeys {
    keys: Vec<SigningKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Hexadecimal: which key it is, for whoever reads the file.
    public: String,
    sealed: Payload,
}

impl SigningKeys {
    /// Reads `dir/signing-keys.json`, or makes a first key and writes it there.
    ///
    /// # Errors
    /// The file cannot be read or written, or does not open with this vault.
    pub fn open_or_make(dir: &Path, vault: &Vault) -> Result<Self, SignError> {
        let path = dir.join(NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let keys = Self { keys: vec![new_key()] };
                keys.write(dir, vault)?;
                return Ok(keys);
            }
            Err(e) => return Err(SignError::Keys(path.display().to_string(), e)),
        };
        let stored: Vec<Stored> = serde_json::from_slice(&text)
            .map_err(|e| SignError::Keys(path.display().to_string(), e.into()))?;
        let keys = stored.iter().map(|stored| {
            let bytes = vault.open_payload(&binding(&stored.public), &stored.sealed)?;
            let seed = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| SealError::Tampered)?;
            Ok(SigningKey::from_bytes(&Zeroizing::new(seed)))
        });
        let keys: Vec<_> = keys.collect::<Result<_, SealError>>()?;
        if keys.is_empty() {
            return Err(SignError::Seal(SealError::Tampered));
        }
        Ok(Self { keys })
    }

    pub fn newest_public(&self) -> [u8; 32] {
        self.keys.last().map(|key| key.verifying_key().to_bytes()).unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SigningKey> {
        self.keys.iter()
    }

    fn write(&self, dir: &Path, vault: &Vault) -> Result<(), SignError> {
        let stored: Vec<_> = self
            .keys
            .iter()
            .map(|key| {
                let public = hex::encode(key.verifying_key().to_bytes());
                let seed = Zeroizing::new(key.to_bytes());
                let sealed = vault.seal_payload(&binding(&public), seed.as_slice());
                Stored { public, sealed }
            })
            .collect();
        let text = serde_json::to_vec_pretty(&stored).unwrap_or_default();
        let path = dir.join(NAME);
        write_private(&path, &text).map_err(|e| SignError::Keys(path.display().to_string(), e))
    }
}

fn new_key() -> SigningKey {
    let mut seed = Zeroizing::new([0; 32]);
    rand::rng().fill_bytes(seed.as_mut_slice());
    SigningKey::from_bytes(&seed)
}

fn binding(public: &str) -> Binding {
    Binding::key("", "node-signing-key", public)
}
