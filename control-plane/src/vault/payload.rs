//! One secret, its own data key, and the record that both belong to.

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::SealError;
use super::cipher;
use super::keyring::Keyring;
use crate::state::{Channel, Credential, Millis, Mint, Payload, ReleaseClass};

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
        let record = record(host, port, slot, template, class, None);
        Self::of(cluster, "credential", id, version, &record)
    }

    /// The credential's own record, as it stands. Where tokens are minted, where and how is part of it.
    pub fn of_credential(cluster: &str, credential: &Credential) -> Self {
        Self::of(cluster, "credential", &credential.id, credential.version, &whole(credential))
    }

    /// A token that was minted with a credential: until when it counts, and the release that it is for, if it is for one.
    pub fn of_token(
        cluster: &str,
        credential: &Credential,
        expires_at: Millis,
        release: Option<&[u8; 16]>,
    ) -> Self {
        let (whole, ends) = (whole(credential), expires_at.to_be_bytes());
        let parts: [&[u8]; 3] = [&whole, &ends, release.map_or(&[], |id| id.as_slice())];
        let record: [u8; 32] = Sha256::digest(cipher::parts("token", parts)).into();
        Self::of(cluster, "token", &credential.id, credential.version, &record)
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

fn whole(credential: &Credential) -> [u8; 32] {
    let Credential { host, port, slot, template, class, mint, .. } = credential;
    record(host, *port, slot, template, *class, mint.as_ref())
}

/// Of a credential that is handed out itself the digest is what it was before there was minting.
fn record(
    host: &str,
    port: u16,
    slot: &str,
    template: &str,
    class: ReleaseClass,
    mint: Option<&Mint>,
) -> [u8; 32] {
    let class: &[u8] = match class {
        ReleaseClass::Auto => b"auto",
        ReleaseClass::Lease => b"lease",
        ReleaseClass::PerRequest => b"per-request",
    };
    let port = port.to_be_bytes();
    let minted = mint.map(Mint::sha256);
    let fields = [host.as_bytes(), &port, slot.as_bytes(), template.as_bytes(), class];
    let minted = minted.as_ref().map(|digest| digest.as_slice());
    Sha256::digest(cipher::parts("record", fields.into_iter().chain(minted))).into()
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
