//! A passphrase, stretched by Argon2id.

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};

use super::{Parameters, Provider};
use crate::vault::SealError;
use crate::vault::cipher::{self, Key};
use crate::vault::seal_file;

/// Only its stretched form is kept.
pub(super) struct Passphrase {
    parameters: Parameters,
    key: Key,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::vault) struct Stretching {
    /// Hexadecimal.
    salt: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Passphrase {
    /// With a new salt.
    pub(super) fn first(text: &str) -> Result<Self, SealError> {
        let salt = hex::encode(cipher::random::<16>());
        Self::again(text, &Stretching { salt, memory_kib: 64 * 1024, passes: 3, lanes: 4 })
    }

    pub(super) fn again(text: &str, stretching: &Stretching) -> Result<Self, SealError> {
        if text.is_empty() {
            return Err(SealError::EmptyPassphrase);
        }
        Ok(Self {
            key: stretch(text, stretching)?,
            parameters: Parameters::Passphrase(stretching.clone()),
        })
    }
}

impl Provider for Passphrase {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn wrap(&self, root: &Key) -> Result<Vec<u8>, SealError> {
        Ok(cipher::seal(&self.key, &self.parameters.context(), root.as_slice()))
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Key, SealError> {
        cipher::open_key(&self.key, &self.parameters.context(), wrapped)
            .ok_or(SealError::WrongPassphrase)
    }
}

fn stretch(passphrase: &str, stretching: &Stretching) -> Result<Key, SealError> {
    let damaged = |what| SealError::Damaged { path: seal_file::NAME.into(), what };
    let Stretching { salt, memory_kib, passes, lanes } = stretching;
    // Cheaper is what an attacker would like, and much dearer is a way to stop the node from starting.
    if !(64 * 1024..=1024 * 1024).contains(memory_kib)
        || !(3..=16).contains(passes)
        || !(1..=16).contains(lanes)
    {
        return Err(damaged("its Argon2id parameters are out of bounds"));
    }
    let salt = hex::decode(salt).map_err(|_| damaged("its salt is not hexadecimal"))?;
    let parameters = Params::new(*memory_kib, *passes, *lanes, Some(32))
        .map_err(|_| damaged("its Argon2id parameters"))?;
    let mut key = Key::default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_into(passphrase.as_bytes(), &salt, key.as_mut_slice())
        .map_err(|_| damaged("its salt has the wrong length"))?;
    Ok(key)
}
