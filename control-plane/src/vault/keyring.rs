//! The keyring: one barrier key per term, and the subkeys that are drawn from each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::cipher::{self, Key};
use crate::state::Millis;

/// Terms from 1. The highest seals; every one opens.
pub(super) struct Keyring {
    terms: BTreeMap<u64, Arc<Subkeys>>,
    current: u64,
}

/// Of one term. The barrier key stays, since a keyring is wrapped again when a term is added.
pub(super) struct Subkeys {
    barrier: Key,
    created_at: Millis,
    sealed: AtomicU64,
    pub(super) backup: Key,
    pub(super) entry: Key,
    pub(super) forward: Key,
    pub(super) payload: Key,
    pub(super) snapshot: Key,
}

/// The term that seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyringTerm {
    pub term: u64,
    /// Milliseconds since 1970.
    pub created_at: Millis,
    /// What this node sealed with it since it was unsealed.
    pub operations: u64,
}

impl KeyringTerm {
    /// Whether it sealed 2^32 times, or is 30 days old.
    pub fn is_due(&self, now: Millis) -> bool {
        self.operations >= MOST_OPERATIONS || now.saturating_sub(self.created_at) >= LONGEST
    }
}

impl Keyring {
    /// A keyring of one new term.
    pub(super) fn first(now: Millis) -> Self {
        let keys = Arc::new(Subkeys::of(cipher::random_key(), now));
        Self { terms: BTreeMap::from([(1, keys)]), current: 1 }
    }

    /// These terms and a new one, which seals.
    pub(super) fn rotated(&self, now: Millis) -> Self {
        let (mut terms, current) = (self.terms.clone(), self.current + 1);
        terms.insert(current, Arc::new(Subkeys::of(cipher::random_key(), now)));
        Self { terms, current }
    }

    /// Whether every term of `other` is here too, the same.
    pub(super) fn has_all_of(&self, other: &Self) -> bool {
        other
            .terms
            .iter()
            .all(|(term, theirs)| self.terms.get(term).is_some_and(|ours| ours.same(theirs)))
    }

    /// This keyring, whose terms go on counting where those of `before` stood.
    pub(super) fn after(mut self, before: &Self) -> Self {
        for (term, keys) in &before.terms {
            self.terms.insert(*term, keys.clone());
        }
        self
    }

    /// `(term u64 ‖ created at u64 ‖ key)*`, to be wrapped.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(self.terms.len() * ENCODED));
        for (term, keys) in &self.terms {
            out.extend(term.to_be_bytes());
            out.extend(keys.created_at.to_be_bytes());
            out.extend(keys.barrier.as_slice());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (entries, rest) = bytes.as_chunks::<ENCODED>();
        let mut terms = BTreeMap::new();
        for entry in entries {
            let (term, entry) = entry.split_first_chunk::<8>()?;
            let (created_at, key) = entry.split_first_chunk::<8>()?;
            let key = Zeroizing::new(key.try_into().ok()?);
            let keys = Subkeys::of(key, u64::from_be_bytes(*created_at));
            terms.insert(u64::from_be_bytes(*term), Arc::new(keys));
        }
        let current = *terms.keys().next_back()?;
        (rest.is_empty() && terms.len() == entries.len()).then_some(Self { terms, current })
    }

    /// The term that seals, and its keys: to seal once.
    pub(super) fn to_seal(&self) -> (u64, &Subkeys) {
        let keys = &self.terms[&self.current];
        keys.sealed.fetch_add(1, Ordering::Relaxed);
        (self.current, keys)
    }

    pub(super) fn term(&self, term: u64) -> Option<&Subkeys> {
        self.terms.get(&term).map(|keys| &**keys)
    }

    pub(super) fn newest(&self) -> KeyringTerm {
        let keys = &self.terms[&self.current];
        KeyringTerm {
            term: self.current,
            created_at: keys.created_at,
            operations: keys.sealed.load(Ordering::Relaxed),
        }
    }
}

impl Subkeys {
    fn of(barrier: Key, created_at: Millis) -> Self {
        Self {
            created_at,
            sealed: AtomicU64::new(0),
            backup: expand(&barrier, b"countersign/v1/backup"),
            entry: expand(&barrier, b"countersign/v1/raft-entry"),
            forward: expand(&barrier, b"countersign/v1/forward"),
            payload: expand(&barrier, b"countersign/v1/payload"),
            snapshot: expand(&barrier, b"countersign/v1/snapshot"),
            barrier,
        }
    }

    fn same(&self, other: &Self) -> bool {
        let same_key: bool = self.barrier.ct_eq(other.barrier.as_slice()).into();
        same_key && self.created_at == other.created_at
    }
}

/// HKDF-SHA256 (RFC 5869) without a salt: the key is uniform already.
pub(super) fn expand(key: &Key, info: &[u8]) -> Key {
    let mut out = Key::default();
    Hkdf::<Sha256>::new(None, key.as_slice())
        .expand(info, out.as_mut_slice())
        .expect("32 bytes are fewer than the 255 blocks that HKDF can give");
    out
}

const ENCODED: usize = 48;
const LONGEST: Millis = 30 * 24 * 60 * 60 * 1000;
const MOST_OPERATIONS: u64 = 1 << 32;
