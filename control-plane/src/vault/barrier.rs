//! What the cluster stores, under a header that says with which key.

use std::sync::PoisonError;

use zeroize::Zeroizing;

use super::keyring::Subkeys;
use super::seal_file::{self, SealFile};
use super::{Held, Vault, cipher};
use crate::cluster::{Barrier, NotAdopted, Purpose, Tampered};

/// `"CSB1" ‖ purpose u8 ‖ keyring term u64 ‖ nonce ‖ ciphertext ‖ tag`; all before the nonce is authenticated.
const MAGIC: &[u8; 4] = b"CSB1";
const HEADER: usize = 13;

impl Barrier for Vault {
    fn seal(&self, purpose: Purpose, plaintext: &[u8]) -> Vec<u8> {
        let held = self.held();
        let (term, keys) = held.keyring.to_seal();
        let header = header(purpose, term);
        let mut out = header.to_vec();
        out.extend(cipher::seal(key(keys, purpose), &header, plaintext));
        out
    }

    fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Tampered> {
        let (found, rest) = sealed.split_first_chunk::<HEADER>().ok_or(Tampered)?;
        let term = term_of(found);
        let held = self.held();
        let keys = held.keyring.term(term).ok_or(Tampered)?;
        if *found != header(purpose, term) {
            return Err(Tampered);
        }
        cipher::open(key(keys, purpose), found, rest).ok_or(Tampered)
    }

    fn adopt(&self, seal_file: &[u8]) -> Result<(), NotAdopted> {
        let _one_at_a_time = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.held();
        if held.file == seal_file {
            return Ok(());
        }
        let seal = SealFile::parse(seal_file).map_err(|_what| Tampered)?;
        let keyring = seal.open_keyring(&self.root).ok_or(Tampered)?;
        if seal.revision() <= held.seal.revision() {
            // One of the past, applied again. Two files of one revision are a fork.
            let past = seal.revision() < held.seal.revision() && held.keyring.has_all_of(&keyring);
            return if past { Ok(()) } else { Err(Tampered.into()) };
        }
        if !keyring.has_all_of(&held.keyring) {
            return Err(Tampered.into());
        }
        seal_file::replace(&self.dir, seal_file)?;
        let keyring = keyring.after(&held.keyring);
        let held = Held { file: seal_file.to_vec(), seal, keyring };
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = held.into();
        Ok(())
    }

    fn is_ahead(&self, sealed: &[u8]) -> bool {
        let Some(found) = sealed.first_chunk::<HEADER>() else { return false };
        let term = term_of(found);
        term > self.held().keyring.newest().term
            && PURPOSES.iter().any(|purpose| *found == header(*purpose, term))
    }

    fn seal_file(&self) -> Vec<u8> {
        Self::seal_file(self)
    }
}

fn header(purpose: Purpose, term: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(MAGIC);
    header[4] = match purpose {
        Purpose::Entry => 1,
        Purpose::Snapshot => 2,
        Purpose::Forward => 3,
        Purpose::Backup => 4,
    };
    header[5..].copy_from_slice(&term.to_be_bytes());
    header
}

fn term_of(header: &[u8; HEADER]) -> u64 {
    let mut term = [0; 8];
    term.copy_from_slice(&header[5..]);
    u64::from_be_bytes(term)
}

fn key(keys: &Subkeys, purpose: Purpose) -> &cipher::Key {
    match purpose {
        Purpose::Backup => &keys.backup,
        Purpose::Entry => &keys.entry,
        Purpose::Forward => &keys.forward,
        Purpose::Snapshot => &keys.snapshot,
    }
}

const PURPOSES: [Purpose; 4] =
    [Purpose::Backup, Purpose::Entry, Purpose::Forward, Purpose::Snapshot];
