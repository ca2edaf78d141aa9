//! A secret on its way to one edge process: HPKE (RFC 9180), base mode, one context per secret.
//!
//! Base mode does not say who sealed it; the signed decision names [`SealedToEdge::sha256`] for that.

use hpke::aead::ChaCha20Poly1305;
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, OpModeS, Serializable as _, single_shot_seal_inout_detached};
use sha2::{Digest as _, Sha256};

use super::SealError;

/// What travels: it opens with the edge's private key, `info` and `aad`, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedToEdge {
    /// The ephemeral X25519 public key, 32 bytes.
    pub encapsulated_key: Vec<u8>,
    /// With its tag.
    pub ciphertext: Vec<u8>,
}

impl SealedToEdge {
    /// SHA-256 of `encapsulated key ‖ ciphertext`, as [`countersign_gate::SealedRef`] has it.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(&self.encapsulated_key)
            .chain_update(&self.ciphertext)
            .finalize()
            .into()
    }
}

/// Seals `secret` to the process that holds the private half of `public_key`.
///
/// # Errors
/// [`SealError::EdgeKey`] when `public_key` is not 32 bytes, or is a point of low order.
pub fn seal_to_edge(
    public_key: &[u8],
    info: &[u8],
    aad: &[u8],
    secret: &[u8],
) -> Result<SealedToEdge, SealError> {
    type Recipient = <X25519HkdfSha256 as hpke::Kem>::PublicKey;
    let recipient = Recipient::from_bytes(public_key).map_err(|_| SealError::EdgeKey)?;
    let mut ciphertext = Vec::with_capacity(secret.len() + 16);
    ciphertext.extend(secret);
    let (encapsulated, tag) =
        single_shot_seal_inout_detached::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &recipient,
            info,
            InOutBuf::from(ciphertext.as_mut_slice()),
            aad,
        )
        .map_err(|_| SealError::EdgeKey)?;
    ciphertext.extend(tag.to_bytes());
    Ok(SealedToEdge { encapsulated_key: encapsulated.to_bytes().to_vec(), ciphertext })
}
