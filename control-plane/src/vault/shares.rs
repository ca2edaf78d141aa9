//! Shares of the key that wraps the root key: each has its keeper, its number and the name of its set, so that a
//! bad one is known as that one.

mod progress;
mod text;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

pub use progress::{Progress, UnsealProgress};

use super::cipher::{self, Key};
use super::sharing;
use super::{SealError, ShareError, seal_file};

/// One share. It has no `Debug`; its text form is made once, for its keeper.
pub struct Share {
    id: u8,
    threshold: u8,
    set: [u8; 8],
    value: Key,
}

/// What is known of a set of shares by those who have none. Nothing in it is secret.
///
/// The commitments tell a share that was made up from one that was handed out; each is a digest of 256 random bits,
/// from which nobody finds these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareSet {
    threshold: u8,
    /// Hexadecimal, random: no other set has the same.
    set: String,
    /// Hexadecimal.
    salt: String,
    /// Hexadecimal, one for each share in their order.
    commitments: Vec<String>,
}

/// Somebody who keeps a share: the public half of an age X25519 identity.
#[derive(Clone)]
pub struct Recipient(age::x25519::Recipient);

/// A share as it may lie anywhere: only its keeper's age identity opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedShare {
    /// From 1.
    pub id: u8,
    pub recipient: String,
    /// age, armored: the share's text and a line end.
    pub encrypted: String,
}

impl Share {
    /// From 1.
    pub fn id(&self) -> u8 {
        self.id
    }
}

impl FromStr for Share {
    type Err = ShareError;

    /// Spaces, line ends, dashes and capitals do not matter.
    fn from_str(text: &str) -> Result<Self, ShareError> {
        text::parse(text)
    }
}

impl ShareSet {
    /// How many shares it takes.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// How many there are.
    pub fn shares(&self) -> u8 {
        // Their number was checked before anybody could ask.
        u8::try_from(self.commitments.len()).unwrap_or(u8::MAX)
    }

    /// Its name, in hexadecimal.
    pub fn id(&self) -> &str {
        &self.set
    }

    /// Whether this is a set that can be.
    pub(super) fn checked(&self) -> Result<(), SealError> {
        let damaged = |what| Err(SealError::Damaged { path: seal_file::NAME.into(), what });
        if self.commitments.len() > sharing::MOST.into()
            || !(2..=self.shares()).contains(&self.threshold)
        {
            return damaged("its number of shares cannot be");
        }
        let digests = |digest: &String| hex::decode(digest).is_ok_and(|d| d.len() == 32);
        if !self.commitments.iter().all(digests) || hex::decode(&self.salt).is_err() {
            return damaged("a commitment to a share is not one");
        }
        Ok(())
    }

    /// Whether the share is one of this set, as it was handed out.
    pub(super) fn check(&self, share: &Share) -> Result<(), ShareError> {
        let theirs = hex::encode(share.set);
        if theirs != self.set {
            return Err(ShareError::OtherSet { id: share.id, theirs, ours: self.set.clone() });
        }
        let index = usize::from(share.id).checked_sub(1);
        let committed = index.and_then(|index| self.commitments.get(index));
        let same = committed.is_some_and(|committed| {
            let found = commitment(&self.salt, share);
            bool::from(found.as_bytes().ct_eq(committed.as_bytes()))
        });
        if same { Ok(()) } else { Err(ShareError::Forged(share.id)) }
    }

    /// The key that these share. Each is checked, whether or not it is needed.
    pub(super) fn combine(&self, shares: &[Share]) -> Result<Key, SealError> {
        self.checked()?;
        let mut ids = BTreeSet::new();
        for share in shares {
            self.check(share)?;
            if !ids.insert(share.id) {
                return Err(ShareError::AlreadyGiven(share.id).into());
            }
        }
        let threshold = usize::from(self.threshold);
        let Some(enough) = shares.get(..threshold) else {
            let (have, threshold) = (shares.len(), self.threshold);
            return Err(ShareError::TooFew { have, threshold }.into());
        };
        let points: Vec<_> = enough.iter().map(|share| (share.id, &*share.value)).collect();
        sharing::combine(&points).ok_or_else(|| ShareError::DoNotFit(named(ids)).into())
    }
}

impl FromStr for Recipient {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let text = text.trim();
        text.parse().map(Self).map_err(|_| ShareError::Recipient(text.to_owned()))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A new key and its shares, one for each recipient in their order; in clear they are together here alone.
pub(super) fn hand_out(
    threshold: u8,
    recipients: &[Recipient],
) -> Result<(Key, ShareSet, Vec<EncryptedShare>), SealError> {
    let mut names = BTreeSet::new();
    if let Some(twice) =
        recipients.iter().map(Recipient::to_string).find(|r| !names.insert(r.clone()))
    {
        return Err(ShareError::RecipientTwice(twice).into());
    }
    if recipients.is_empty() {
        return Err(ShareError::NoRecipients.into());
    }
    let key = cipher::random_key();
    let values = u8::try_from(recipients.len())
        .ok()
        .and_then(|count| sharing::split(&key, threshold, count))
        .ok_or(ShareError::Count { threshold, shares: recipients.len() })?;
    let (set, salt) = (cipher::random::<8>(), hex::encode(cipher::random::<16>()));
    let numbered = (1..).zip(values);
    let shares: Vec<_> = numbered.map(|(id, value)| Share { id, threshold, set, value }).collect();
    let encrypted = shares.iter().zip(recipients).map(|(share, recipient)| {
        let text = text::write(share);
        let encrypted = age::encrypt_and_armor(&recipient.0, text.as_bytes())
            .map_err(|_| ShareError::Recipient(recipient.to_string()))?;
        Ok(EncryptedShare { id: share.id, recipient: recipient.to_string(), encrypted })
    });
    let encrypted = encrypted.collect::<Result<_, ShareError>>()?;
    let commitments = shares.iter().map(|share| commitment(&salt, share)).collect();
    Ok((key, ShareSet { threshold, set: hex::encode(set), salt, commitments }, encrypted))
}

/// "share 2", "shares 1 and 4" …
pub(super) fn named(ids: BTreeSet<u8>) -> String {
    let ids: Vec<_> = ids.iter().map(u8::to_string).collect();
    match ids.split_last() {
        None => "no shares".into(),
        Some((only, [])) => format!("share {only}"),
        Some((last, others)) => format!("shares {} and {last}", others.join(", ")),
    }
}

fn commitment(salt: &str, share: &Share) -> String {
    let numbers = [share.threshold, share.id];
    let parts: [&[u8]; 4] = [salt.as_bytes(), &share.set, &numbers, share.value.as_slice()];
    let bytes = Zeroizing::new(cipher::parts("countersign/v1/share-commitment", parts));
    hex::encode(Sha256::digest(&*bytes))
}
