//! The vault from outside: what opens, and above all what does not.

#![allow(clippy::unwrap_used)]

mod edge;
mod payload;
mod seal;

use std::path::Path;

use countersign_control_plane::vault::{Provider, Vault};
use zeroize::Zeroizing;

fn passphrase(text: &str) -> Provider {
    Provider::Passphrase(Zeroizing::new(text.to_owned()))
}

/// A vault of a key file: quick, since nothing is stretched.
fn vault(dir: &Path) -> Vault {
    Vault::create(dir, &Provider::KeyFile(dir.join("seal.key"))).unwrap()
}
