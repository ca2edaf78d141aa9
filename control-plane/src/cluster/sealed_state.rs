//! The state in a file: what can be read without the keyring in front, then the state, sealed, and a checksum.
//!
//! ```text
//! magic (4 bytes) ‖ length ‖ header ‖ length ‖ seal file ‖ sealed( SHA-256(all before) ‖ state ) ‖ SHA-256(all before)
//! ```
//!
//! Lengths are unsigned 32-bit numbers, big-endian. The seal file is the one in force when the state was sealed, so a
//! node whose keyring is older takes that in first. Sealing the digest of what stands in front binds the two: who
//! changes a byte of it, or puts another state behind it, gets nothing opened.

use std::io;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::barrier::{Barrier, Purpose};
use super::consensus::{Input, Malformed};
use crate::state::State;

const HASH: usize = 32;
pub(super) type Magic = [u8; 4];

/// # Errors
/// When the state has no CBOR form, or the seal file changes faster than it can be read.
pub(super) fn encode(
    barrier: &dyn Barrier,
    purpose: Purpose,
    magic: &Magic,
    header: &[u8],
    state: &State,
) -> io::Result<Vec<u8>> {
    let mut encoded = Zeroizing::new(Vec::new());
    ciborium::into_writer(state, &mut *encoded).map_err(io::Error::other)?;
    for _ in 0..8 {
        let seal_file = barrier.seal_file();
        let mut out = magic.to_vec();
        for part in [header, &seal_file] {
            out.extend((part.len() as u32).to_be_bytes());
            out.extend(part);
        }
        let mut plaintext = Zeroizing::new(Vec::with_capacity(HASH + encoded.len()));
        plaintext.extend(Sha256::digest(&out));
        plaintext.extend(encoded.iter());
        out.extend(barrier.seal(purpose, &plaintext));
        // Sealed under a keyring that came meanwhile, it would not open with the seal file in front of it.
        if barrier.seal_file() == seal_file {
            let sum = Sha256::digest(&out);
            out.extend(sum);
            return Ok(out);
        }
    }
    Err(io::Error::other("the seal changed again and again while the state was sealed"))
}

/// What stands in front, and what is not opened yet.
pub(super) struct SealedState<'a> {
    pub(super) header: &'a [u8],
    pub(super) seal_file: &'a [u8],
    front: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> SealedState<'a> {
    /// Says what is wrong in words that follow "is damaged: ".
    pub(super) fn parse(magic: &Magic, bytes: &'a [u8]) -> Result<Self, String> {
        let (written, sum) = bytes.split_last_chunk::<HASH>().ok_or("it is cut off")?;
        if Sha256::digest(written)[..] != sum[..] {
            return Err("it does not match its checksum: it is cut off, or was changed".into());
        }
        let parts = || -> Result<_, Malformed> {
            let mut input = Input(written);
            if input.take(magic.len())? != magic {
                return Err(Malformed);
            }
            let length = input.count()?;
            let header = input.take(length)?;
            let length = input.count()?;
            let seal_file = input.take(length)?;
            Ok((header, seal_file, input.rest()))
        };
        let (header, seal_file, sealed) = parts().map_err(|e| e.to_string())?;
        let front = &written[..written.len() - sealed.len()];
        Ok(Self { header, seal_file, front, sealed })
    }

    /// Opens it; takes the seal file in first when only that brings the key, and afterwards in any case.
    ///
    /// Says what is wrong in words that follow "is damaged: ".
    pub(super) fn open(&self, barrier: &dyn Barrier, purpose: Purpose) -> Result<State, String> {
        if barrier.is_ahead(self.sealed) {
            self.take_in_seal(barrier)?;
        }
        let plaintext = barrier.open(purpose, self.sealed).map_err(|e| e.to_string())?;
        let (bound, state) = plaintext.split_first_chunk::<HASH>().ok_or("it is cut off")?;
        if Sha256::digest(self.front)[..] != bound[..] {
            return Err("its header was changed".into());
        }
        self.take_in_seal(barrier)?;
        ciborium::from_reader(state).map_err(|e| format!("its state cannot be read: {e}"))
    }

    /// One that is older than the node's own changes nothing there.
    fn take_in_seal(&self, barrier: &dyn Barrier) -> Result<(), String> {
        if self.seal_file == barrier.seal_file() {
            return Ok(());
        }
        let taken = barrier.adopt(self.seal_file);
        taken.map_err(|e| format!("the seal that it came with was not taken in: {e}"))
    }
}
