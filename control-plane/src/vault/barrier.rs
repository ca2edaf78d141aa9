//! What the cluster stores, under a header that says with which key.

use zeroize::Zeroizing;

use super::Vault;
use super::cipher;
use super::keyring::Subkeys;
use crate::cluster::{Barrier, Purpose, Tampered};

/// `"CSB1" ‖ purpose u8 ‖ keyring term u64 ‖ nonce ‖ ciphertext ‖ tag`; all before the nonce is authenticated.
const MAGIC: &[u8; 4] = b"CSB1";
const HEADER: usize = 13;

impl Barrier for Vault {
    fn seal(&self, purpose: Purpose, plaintext: &[u8]) -> Vec<u8> {
        let (term, keys) = self.keyring.current();
        let header = header(purpose, term);
        let mut out = header.to_vec();
        out.extend(cipher::seal(key(keys, purpose), &header, plaintext));
        out
    }

    fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Tampered> {
        let (found, rest) = sealed.split_first_chunk::<HEADER>().ok_or(Tampered)?;
        let (_, term) = found.split_last_chunk::<8>().ok_or(Tampered)?;
        let term = u64::from_be_bytes(*term);
        let keys = self.keyring.term(term).ok_or(Tampered)?;
        if *found != header(purpose, term) {
            return Err(Tampered);
        }
        cipher::open(key(keys, purpose), found, rest).ok_or(Tampered)
    }
}

fn header(purpose: Purpose, term: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(MAGIC);
    header[4] = match purpose {
        Purpose::Entry => 1,
        Purpose::Snapshot => 2,
    };
    header[5..].copy_from_slice(&term.to_be_bytes());
    header
}

fn key(keys: &Subkeys, purpose: Purpose) -> &cipher::Key {
    match purpose {
        Purpose::Entry => &keys.entry,
        Purpose::Snapshot => &keys.snapshot,
    }
}
