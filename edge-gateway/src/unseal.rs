//! The edge's own key: what the control plane seals keys to. It lives as long as the process and is never written.

use countersign_gate::Digest;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, Serializable};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// One process start of an edge: its name among starts, and the key pair that only it has.
pub(crate) struct Incarnation {
    pub(crate) id: [u8; 16],
    pub(crate) public: [u8; 32],
    private: <X25519HkdfSha256 as Kem>::PrivateKey,
}

/// A key as it came: still closed.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) credential: String,
    pub(crate) version: u64,
    pub(crate) encapsulated_key: Vec<u8>,
    pub(crate) ciphertext: Vec<u8>,
}

/// A sealed key that does not open here, for this purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unopened;

impl Incarnation {
    /// Fresh randomness and a fresh X25519 pair.
    pub(crate) fn new() -> Self {
        let (private, public) = X25519HkdfSha256::gen_keypair();
        Self { id: rand::random(), public: public.to_bytes().into(), private }
    }

    /// Opens a sealed key. `info` names cluster, edge and start; `context` names what it was sealed for.
    ///
    /// # Errors
    /// [`Unopened`] for another edge, another start, another request, or changed bytes.
    pub(crate) fn open(
        &self,
        sealed: &Sealed,
        info: &[u8],
        context: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        type Encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey;
        let encapsulated =
            Encapsulated::from_bytes(&sealed.encapsulated_key).map_err(|_| Unopened)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private,
            &encapsulated,
            info,
            &sealed.ciphertext,
            context,
        )
        .map(Zeroizing::new)
        .map_err(|_| Unopened)
    }
}

impl Sealed {
    /// What a decision names it by: SHA-256 of encapsulated key, then ciphertext.
    pub(crate) fn digest(&self) -> Digest {
        Sha256::new()
            .chain_update(&self.encapsulated_key)
            .chain_update(&self.ciphertext)
            .finalize()
            .into()
    }
}
