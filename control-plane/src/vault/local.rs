//! Secrets that lie on this node's disk alone, such as its signing keys: no rotation touches them.

use zeroize::Zeroizing;

use super::cipher::{self, Key};

/// `"CSL1" ‖ nonce ‖ ciphertext ‖ tag`.
const MAGIC: &[u8; 4] = b"CSL1";

pub(super) fn seal(key: &Key, context: &[&str], secret: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(cipher::seal(key, &bound(context), secret));
    out
}

pub(super) fn open(key: &Key, context: &[&str], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    cipher::open(key, &bound(context), sealed.strip_prefix(MAGIC)?)
}

fn bound(context: &[&str]) -> Vec<u8> {
    cipher::parts("countersign/v1/local", context)
}
