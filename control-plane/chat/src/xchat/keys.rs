//! The keys of X's encrypted chat: what they open, sign, and are wrapped for.
//!
//! X's Chat XDK (github.com/xdevplatform/chat-xdk, `crates/core/src/crypto`): two P-256 keys for each account, one that
//! conversation keys are wrapped for and one that signs. ECDSA with SHA-256 (FIPS 186-5), as `r ‖ s`; ECIES with the key
//! derivation of ANSI X9.63 (SEC 1, section 3.6.1) and AES-128-GCM under a nonce of sixteen bytes; XSalsa20-Poly1305 with a
//! random nonce. All of it is what RustCrypto's crates do; here stands in which order.

use aes_gcm::aead::consts::U16;
use aes_gcm::aead::{Aead as _, KeyInit as _};
use aes_gcm::aes::Aes128;
use aes_gcm::{AesGcm, Nonce};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::{PublicKey, SecretKey};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::platform::Unfit;
use crate::secret::Secret;

/// What a conversation's messages are sealed with.
pub(super) type ConversationKey = Zeroizing<[u8; 32]>;

/// Uncompressed: `04 ‖ x ‖ y`.
const POINT: usize = 65;
const NONCE: usize = 24;
/// In front of a point in the DER of RFC 5480: this curve, and no other.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// X writes base64 with padding here and without there.
const EITHER: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Both private keys of the account that sends.
pub(super) struct Identity {
    /// What conversation keys are wrapped for.
    wraps: SecretKey,
    signs: SigningKey,
}

/// An account's public keys, of one version; that they belong together, the second has signed.
pub(super) struct Keys {
    pub(super) version: String,
    wraps: PublicKey,
    signs: VerifyingKey,
}

impl Identity {
    /// As X's own SDK exports them: base64 of 64 bytes.
    pub(super) fn parse(secret: &Secret) -> Result<Self, Unfit> {
        let unfit = || {
            Unfit(
                "the secret private_keys is not what chat-xdk's export_keys gives, in base64: 64 bytes, two keys of P-256".into(),
            )
        };
        let bytes = Zeroizing::new(base64(secret.expose().trim()).ok_or_else(unfit)?);
        let (wraps, signs) =
            bytes.split_at_checked(32).filter(|_| bytes.len() == 64).ok_or_else(unfit)?;
        let wraps = SecretKey::from_slice(wraps).map_err(|_| unfit())?;
        let signs = SigningKey::from_slice(signs).map_err(|_| unfit())?;
        Ok(Self { wraps, signs })
    }

    pub(super) fn public(&self, version: &str) -> Keys {
        Keys {
            version: version.to_owned(),
            wraps: self.wraps.public_key(),
            signs: *self.signs.verifying_key(),
        }
    }

    pub(super) fn sign(&self, payload: &[u8]) -> Vec<u8> {
        let signature: Signature = self.signs.sign(payload);
        signature.to_bytes().to_vec()
    }

    /// A conversation's key that was wrapped for us.
    pub(super) fn unwrapped(&self, wrapped: &[u8]) -> Option<ConversationKey> {
        let (point, sealed) = wrapped.split_at_checked(POINT)?;
        let theirs = PublicKey::from_sec1_bytes(point).ok()?;
        let (cipher, nonce) = cipher(&self.wraps, &theirs, point)?;
        let key = Zeroizing::new(cipher.decrypt(&nonce, sealed).ok()?);
        key.as_slice().try_into().ok().map(Zeroizing::new)
    }
}

impl Keys {
    /// As X's API has them; none where they are not what the account's signing key has vouched for.
    pub(super) fn parse(entry: &Value) -> Option<Self> {
        let field = |name: &str| base64(entry[name].as_str()?);
        let wraps = field("public_key")?;
        let signs = VerifyingKey::from_sec1_bytes(point(&field("signing_public_key")?)?).ok()?;
        let keys = Self {
            version: entry["public_key_version"].as_str()?.to_owned(),
            wraps: PublicKey::from_sec1_bytes(point(&wraps)?).ok()?,
            signs,
        };
        // Over the bytes as they are written.
        keys.have_signed(&wraps, &field("identity_public_key_signature")?).then_some(keys)
    }

    pub(super) fn have_signed(&self, payload: &[u8], signature: &[u8]) -> bool {
        let signature = Signature::from_slice(signature);
        signature.is_ok_and(|signature| self.signs.verify(payload, &signature).is_ok())
    }

    /// A conversation's key for whoever has these keys alone; none in one of four thousand million throws of `chance`.
    pub(super) fn wrapped(&self, key: &ConversationKey, chance: &[u8; 32]) -> Option<Vec<u8>> {
        let once = SecretKey::from_slice(chance).ok()?;
        let mut wrapped = once.public_key().to_sec1_point(false).as_bytes().to_vec();
        let (cipher, nonce) = cipher(&once, &self.wraps, &wrapped)?;
        wrapped.extend(cipher.encrypt(&nonce, key.as_slice()).ok()?);
        Some(wrapped)
    }

    /// The key that signs, as X's API is told of it.
    pub(super) fn signing_public_key(&self) -> String {
        STANDARD.encode(self.signs.to_sec1_point(false).as_bytes())
    }
}

/// `nonce ‖ tag ‖ ciphertext`.
pub(super) fn sealed(
    key: &ConversationKey,
    plaintext: &[u8],
    nonce: &[u8; NONCE],
) -> Option<Vec<u8>> {
    // This crate's traits are of another version than the other's.
    use crypto_secretbox::aead::Aead as _;
    let sealed = secret_box(key).encrypt(nonce.into(), plaintext).ok()?;
    Some([nonce.as_slice(), &sealed].concat())
}

pub(super) fn opened(key: &ConversationKey, sealed: &[u8]) -> Option<Vec<u8>> {
    use crypto_secretbox::aead::Aead as _;
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
    secret_box(key).decrypt(nonce.into(), sealed).ok()
}

fn secret_box(key: &ConversationKey) -> crypto_secretbox::XSalsa20Poly1305 {
    use crypto_secretbox::KeyInit as _;
    crypto_secretbox::XSalsa20Poly1305::new(key.as_slice().into())
}

/// Bytes, whether their base64 has its padding or not.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    EITHER.decode(text).ok()
}

type Ecies = AesGcm<Aes128, U16>;

/// Key and nonce are one block of the derivation. Whoever wraps throws a key of their own each time, so neither comes again.
fn cipher(ours: &SecretKey, theirs: &PublicKey, point: &[u8]) -> Option<(Ecies, Nonce<U16>)> {
    let shared = ours.diffie_hellman(theirs);
    let derived = Sha256::new()
        .chain_update(shared.raw_secret_bytes())
        .chain_update(1_u32.to_be_bytes())
        .chain_update(point);
    let derived = Zeroizing::new(<[u8; 32]>::from(derived.finalize()));
    let (key, nonce) = derived.split_at(16);
    Some((Ecies::new_from_slice(key).ok()?, Nonce::try_from(nonce).ok()?))
}

/// The point of a key that is written as such, or in DER.
fn point(bytes: &[u8]) -> Option<&[u8]> {
    match bytes.len() {
        33 | POINT => Some(bytes),
        _ => bytes.strip_prefix(&SPKI).filter(|point| point.len() == POINT),
    }
}
