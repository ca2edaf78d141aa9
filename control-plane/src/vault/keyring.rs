//! The keyring: one barrier key per term, and the subkeys that are drawn from each.

use std::collections::BTreeMap;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::cipher::{self, Key};

/// Terms from 1. The highest seals; every one opens.
pub(super) struct Keyring {
    terms: BTreeMap<u64, Subkeys>,
    current: u64,
}

/// Of one term. The barrier key stays, since a keyring is wrapped again when a term is added.
pub(super) struct Subkeys {
    barrier: Key,
    pub(super) entry: Key,
    pub(super) payload: Key,
    pub(super) snapshot: Key,
    derive: Key,
}

impl Keyring {
    /// A keyring of one new term.
    pub(super) fn first() -> Self {
        Self { terms: BTreeMap::from([(1, Subkeys::of(cipher::random_key()))]), current: 1 }
    }

    /// `(term u64 ‖ key)*`, to be wrapped.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(self.terms.len() * 40));
        for (term, keys) in &self.terms {
            out.extend(term.to_be_bytes());
            out.extend(keys.barrier.as_slice());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (entries, rest) = bytes.as_chunks::<40>();
        let mut terms = BTreeMap::new();
        for entry in entries {
            let (term, key) = entry.split_first_chunk::<8>()?;
            terms.insert(
                u64::from_be_bytes(*term),
                Subkeys::of(Zeroizing::new(key.try_into().ok()?)),
            );
        }
        let current = *terms.keys().next_back()?;
        (rest.is_empty() && terms.len() == entries.len()).then_some(Self { terms, current })
    }

    /// The term that seals, and its keys.
    pub(super) fn current(&self) -> (u64, &Subkeys) {
        (self.current, &self.terms[&self.current])
    }

    pub(super) fn term(&self, term: u64) -> Option<&Subkeys> {
        self.terms.get(&term)
    }

    pub(super) fn derive(&self, purpose: &str, parts: &[&str]) -> Key {
        let (_, keys) = self.current();
        expand(&keys.derive, &cipher::parts(purpose, parts))
    }
}

impl Subkeys {
    fn of(barrier: Key) -> Self {
        Self {
            entry: expand(&barrier, b"countersign/v1/raft-entry"),
            payload: expand(&barrier, b"countersign/v1/payload"),
            snapshot: expand(&barrier, b"countersign/v1/snapshot"),
            derive: expand(&barrier, b"countersign/v1/derive"),
            barrier,
        }
    }
}

/// HKDF-SHA256 (RFC 5869) without a salt: the key is uniform already.
fn expand(key: &Key, info: &[u8]) -> Key {
    let mut out = Key::default();
    Hkdf::<Sha256>::new(None, key.as_slice())
        .expand(info, out.as_mut_slice())
        .expect("32 bytes are fewer than the 255 blocks that HKDF can give");
    out
}
