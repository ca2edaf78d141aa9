//! The vault from outside: what opens, and above all what does not.

#![allow(clippy::unwrap_used)]

mod edge;
mod local;
mod payload;
mod rekey;
mod rotation;
mod seal;
mod shares;
mod sharing;
mod team;
mod token;

use std::path::Path;

use countersign_control_plane::vault::{NewSeal, Unsealing, Vault};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

fn passphrase(text: &str) -> Unsealing {
    Unsealing::Passphrase(Zeroizing::new(text.to_owned()))
}

/// A vault of a key file: quick, since nothing is stretched.
fn vault(dir: &Path) -> Vault {
    Vault::create(dir, NewSeal::KeyFile(dir.join("seal.key")), 0).unwrap().vault
}

/// Opens what [`vault`] made.
fn again(dir: &Path) -> Vault {
    Vault::unseal(dir, &Unsealing::KeyFile(dir.join("seal.key"))).unwrap()
}

/// A seal file that was edited by somebody who knows how its checksum is made.
fn edited(seal_file: &[u8], edit: impl Fn(String) -> String) -> Vec<u8> {
    let text: String = std::str::from_utf8(seal_file).unwrap().split_whitespace().collect();
    let (head, rest) = text.split_once(r#""seal":"#).unwrap();
    let (seal, _) = rest.rsplit_once(r#","sha256""#).unwrap();
    let seal = edit(seal.to_owned());
    let sum = hex::encode(Sha256::digest(&seal));
    format!(r#"{head}"seal":{seal},"sha256":"{sum}"}}"#).into_bytes()
}

/// The text of a field of a seal file.
fn field(seal_file: &[u8], name: &str) -> String {
    let text = std::str::from_utf8(seal_file).unwrap();
    let (_, rest) = text.split_once(&format!(r#""{name}": ""#)).unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}
