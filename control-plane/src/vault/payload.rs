//! One secret, its own data key, and the record that both belong to.

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::SealError;
use super::cipher;
use super::keyring::Keyring;
use crate::state::{Channel, Credential, Payload, ReleaseClass};

/// What a secret is for; authenticated with it. Whoever moves a ciphertext under another record, or changes the
/// host of its record, gets nothing opened.
pub struct Binding {
    data_key: Vec<u8>,
    secret: Vec<u8>,
}

impl Binding {
    /// The version of a credential that may go to this host and port, in this slot, released in this way.
    #[allow(clippy::too_many_arguments)] // the fields of the record, in its order
    pub fn credential(
        cluster: &str,
        id: &str,
        version: u64,
        host: &str,
        port: u16,
        slot: &str,
        template: &str,
        class: ReleaseClass,
    ) -> Self {
        let class: &[u8] = match class {
            ReleaseClass::Auto => b"auto",
            ReleaseClass::Lease => b"lease",
            ReleaseClass::PerRequest => b"per-request",
        };
        let port = port.to_be_bytes();
        let record = cipher::parts(
            "record",
            [host.as_bytes(), &port, slot.as_bytes(), template.as_bytes(), class],
        );
        Self::of(cluster, "credential", id, version, &Sha256::digest(record))
    }

    /// The credential's own record, as it stands.
    pub fn of_credential(cluster: &str, credential: &Credential) -> Self {
        let Credential { id, version, host, port, slot, template, class, .. } = credential;
        Self::credential(cluster, id, *version, host, *port, slot, template, *class)
    }

    /// The secrets of a channel, for the platform and the addresses that it has.
    pub fn of_channel(cluster: &str, channel: &Channel) -> Self {
        Self::of(cluster, "channel", &channel.name, channel.version, &channel.settings_sha256())
    }

    /// A key of the cluster itself, such as a node's signing key.
    pub fn key(cluster: &str, kind: &'static str, id: &str) -> Self {
        // No record: an empty digest is none of SHA-256's.
        Self::of(cluster, kind, id, 0, &[])
    }

    fn of(cluster: &str, kind: &str, id: &str, version: u64, record: &[u8]) -> Self {
        let version = version.to_be_bytes();
        let fields: [&[u8]; 5] =
            [cluster.as_bytes(), kind.as_bytes(), id.as_bytes(), &version, record];
        Self {
            data_key: cipher::parts("countersign/v1/data-key", fields),
            secret: cipher::parts("countersign/v1/secret", fields),
        }
    }
}

pub(super) fn seal(keyring: &Keyring, binding: &Binding, secret: &[u8]) -> Payload {
    let (keyring_term, keys) = keyring.to_seal();
    let data_key = cipher::random_key();
    Payload::Sealed {
        keyring_term,
        wrapped_key: cipher::seal(&keys.payload, &binding.data_key, data_key.as_slice()),
        ciphertext: cipher::seal(&data_key, &binding.secret, secret),
    }
}

pub(super) fn open(
    keyring: &Keyring,
    binding: &Binding,
    payload: &Payload,
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let Payload::Sealed { keyring_term, wrapped_key, ciphertext } = payload;
    let keys = keyring.term(*keyring_term).ok_or(SealError::UnknownTerm(*keyring_term))?;
    let data_key = cipher::open_key(&keys.payload, &binding.data_key, wrapped_key)
        .ok_or(SealError::Tampered)?;
    cipher::open(&data_key, &binding.secret, ciphertext).ok_or(SealError::Tampered)
}
