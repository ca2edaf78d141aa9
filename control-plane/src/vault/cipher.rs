//! XChaCha20-Poly1305 with a random 192-bit nonce in front, and the dice.
//!
//! Several nodes encrypt under one key: 192 random bits do not collide, 96 would.

use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{KeyInit as _, Tag, XChaCha20Poly1305, XNonce};
use rand::Rng as _;
use zeroize::Zeroizing;

/// A 256-bit key; overwritten when dropped.
pub(super) type Key = Zeroizing<[u8; 32]>;

const NONCE: usize = 24;
const TAG: usize = 16;

/// `nonce ‖ ciphertext ‖ tag`.
pub(super) fn seal(key: &Key, context: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let nonce = random::<NONCE>();
    let mut out = Vec::with_capacity(NONCE + plaintext.len() + TAG);
    out.extend(nonce);
    out.extend(plaintext);
    let tag = XChaCha20Poly1305::new((&**key).into())
        .encrypt_inout_detached(&XNonce::from(nonce), context, (&mut out[NONCE..]).into())
        .expect("the cipher takes any message shorter than 256 GiB");
    out.extend(tag);
    out
}

/// What [`seal`] was given, if key and context are the same and no bit changed.
pub(super) fn open(key: &Key, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>()?;
    let (ciphertext, tag) = rest.split_last_chunk::<TAG>()?;
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    XChaCha20Poly1305::new((&**key).into())
        .decrypt_inout_detached(
            &XNonce::from(*nonce),
            context,
            plaintext.as_mut_slice().into(),
            &Tag::from(*tag),
        )
        .ok()?;
    Some(plaintext)
}

pub(super) fn open_key(key: &Key, context: &[u8], sealed: &[u8]) -> Option<Key> {
    let plaintext = open(key, context, sealed)?;
    Some(Zeroizing::new(plaintext.as_slice().try_into().ok()?))
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::rng().fill_bytes(&mut out);
    out
}

pub(super) fn random_key() -> Key {
    let mut key = Key::default();
    rand::rng().fill_bytes(key.as_mut_slice());
    key
}

/// `u32 length ‖ bytes` for each: no two lists of parts have one encoding.
pub(super) fn parts<T: AsRef<[u8]>>(label: &str, items: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let mut put = |bytes: &[u8]| {
        out.extend((bytes.len() as u32).to_be_bytes());
        out.extend(bytes);
    };
    put(label.as_bytes());
    items.into_iter().for_each(|item| put(item.as_ref()));
    out
}
