//! Shares of a random key, k of n.

use std::collections::BTreeSet;

use super::{Parameters, Provider};
use crate::vault::cipher::{self, Key};
use crate::vault::shares::{self, EncryptedShare, Recipient, Share, ShareSet};
use crate::vault::{SealError, ShareError};

pub(super) struct Shamir {
    parameters: Parameters,
    key: Key,
    /// Of the shares that gave the key; empty when it is a new one.
    ids: BTreeSet<u8>,
}

impl Shamir {
    pub(super) fn first(
        threshold: u8,
        recipients: &[Recipient],
    ) -> Result<(Self, Vec<EncryptedShare>), SealError> {
        let (key, set, handed_out) = shares::hand_out(threshold, recipients)?;
        let parameters = Parameters::Shamir(set);
        Ok((Self { parameters, key, ids: BTreeSet::new() }, handed_out))
    }

    pub(super) fn again(shares: &[Share], set: &ShareSet) -> Result<Self, SealError> {
        let key = set.combine(shares)?;
        let ids = shares.iter().map(Share::id).collect();
        Ok(Self { parameters: Parameters::Shamir(set.clone()), key, ids })
    }
}

impl Provider for Shamir {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn wrap(&self, root: &Key) -> Result<Vec<u8>, SealError> {
        Ok(cipher::seal(&self.key, &self.parameters.context(), root.as_slice()))
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Key, SealError> {
        cipher::open_key(&self.key, &self.parameters.context(), wrapped)
            .ok_or_else(|| ShareError::DoNotFit(shares::named(self.ids.clone())).into())
    }
}
