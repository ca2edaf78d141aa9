//! People who keep shares, and somebody who knows how shares are written.

use std::path::Path;

use age::x25519::Identity;
use countersign_control_plane::vault::{
    Created, EncryptedShare, NewSeal, Recipient, Share, ShareError, Unsealing, Vault,
};
use sha2::{Digest as _, Sha256};

/// Keepers with an age identity each.
pub(crate) struct Team(Vec<Identity>);

impl Team {
    pub(crate) fn of(people: usize) -> Self {
        Self((0..people).map(|_| Identity::generate()).collect())
    }

    pub(crate) fn recipients(&self) -> Vec<Recipient> {
        self.0.iter().map(|person| person.to_public().to_string().parse().unwrap()).collect()
    }

    pub(crate) fn seal(&self, threshold: u8) -> NewSeal {
        NewSeal::Shares { threshold, recipients: self.recipients() }
    }

    /// What each keeper reads when they decrypt their own.
    pub(crate) fn decrypt(&self, shares: &[EncryptedShare]) -> Vec<String> {
        assert_eq!(shares.len(), self.0.len());
        let texts = self.0.iter().zip(shares).map(|(person, share)| {
            assert_eq!(share.recipient, person.to_public().to_string());
            String::from_utf8(age::decrypt(person, share.encrypted.as_bytes()).unwrap()).unwrap()
        });
        texts.collect()
    }

    pub(crate) fn identity(&self, index: usize) -> &Identity {
        &self.0[index]
    }
}

/// A vault of `threshold` of `people`, and the shares' texts in their order.
pub(crate) fn vault_of(dir: &Path, threshold: u8, people: usize) -> (Vault, Vec<String>) {
    let team = Team::of(people);
    let Created { vault, shares } = Vault::create(dir, team.seal(threshold), 0).unwrap();
    let texts = team.decrypt(&shares);
    (vault, texts)
}

pub(crate) fn share(text: &str) -> Share {
    text.parse().unwrap_or_else(|error: ShareError| panic!("{error}"))
}

/// The shares with these numbers.
pub(crate) fn given(texts: &[String], ids: &[usize]) -> Unsealing {
    Unsealing::Shares(ids.iter().map(|id| share(&texts[id - 1])).collect())
}

/// A share as its 42 bytes: threshold, number, set, value.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let digits = text.trim().strip_prefix("cs-share-").unwrap().split_once('-').unwrap().1;
    let mut bits = digits.chars().filter(|c| *c != '-').flat_map(|c| {
        let value = ALPHABET.find(c).unwrap();
        (0..5).rev().map(move |bit| value >> bit & 1 == 1)
    });
    (0..42).map(|_| (0..8).fold(0, |byte, _| byte << 1 | u8::from(bits.next().unwrap()))).collect()
}

/// The text of a share of these bytes, with the right checksum.
pub(crate) fn written(bytes: &[u8]) -> String {
    let sum = Sha256::digest(parts("countersign/v1/share", &[bytes]));
    let whole: Vec<u8> = bytes.iter().chain(&sum[..4]).copied().collect();
    let bit = |at: usize| whole.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let digits = (0..74).map(|digit| {
        let value = (0..5).fold(0, |value, at| value << 1 | usize::from(bit(digit * 5 + at)));
        ALPHABET.as_bytes()[value] as char
    });
    format!("cs-share-{}-{}", bytes[1], digits.collect::<String>())
}

/// What `seal.json` says of a share.
pub(crate) fn commitment(salt: &str, bytes: &[u8]) -> String {
    let fields = [salt.as_bytes(), &bytes[2..10], &bytes[..2], &bytes[10..]];
    hex::encode(Sha256::digest(parts("countersign/v1/share-commitment", &fields)))
}

fn parts(label: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in [label.as_bytes()].iter().chain(fields) {
        out.extend((field.len() as u32).to_be_bytes());
        out.extend(*field);
    }
    out
}

const ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";
