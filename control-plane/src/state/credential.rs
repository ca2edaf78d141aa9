//! Credentials: what is known of a key, and the key itself only as ciphertext.

use serde::{Deserialize, Serialize};

use super::Millis;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleaseClass {
    /// A lease where only allow rules use it, per request otherwise.
    Auto,
    Lease,
    PerRequest,
}

/// A secret as it is replicated. A variant, so that keys split over the nodes can join it later.
#[derive(Clone, Serialize, Deserialize)]
pub enum Payload {
    /// XChaCha20-Poly1305 under a fresh data key that is itself wrapped by the barrier key of `keyring_term`.
    Sealed {
        keyring_term: u64,
        #[serde(with = "serde_bytes")]
        wrapped_key: Vec<u8>,
        #[serde(with = "serde_bytes")]
        ciphertext: Vec<u8>,
    },
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Payload(sealed)")
    }
}

/// A fake key that agents hold. Low in secrecy, high in tripwire value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fake {
    pub key: String,
    pub active: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Credential {
    pub id: String,
    pub name: String,
    /// Grows with each rotation, from 1.
    pub version: u64,
    pub host: String,
    pub port: u16,
    /// "header:authorization", "basic", "query:api_key", "path".
    pub slot: String,
    /// With one "{key}"; "" where the slot needs none.
    pub template: String,
    pub class: ReleaseClass,
    pub fakes: Vec<Fake>,
    pub payload: Payload,
    pub active: bool,
    pub created_at: Millis,
}
