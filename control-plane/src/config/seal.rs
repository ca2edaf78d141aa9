//! `[seal]`: what opens the vault.

use std::path::PathBuf;

use super::source::Source;

/// What opens the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealConfig {
    /// The node unseals itself. The file is made at the first start, with mode 0600.
    KeyFile(PathBuf),
    /// The node starts sealed and waits for `AdminService.Unseal`, which on a node without a vault makes one.
    Passphrase,
    /// As `Passphrase`, except that a node without a vault makes one with the passphrase in this file.
    PassphraseFile(PathBuf),
    /// The node unseals itself with a key that does not leave its token.
    Pkcs11(Pkcs11Config),
    /// The node starts sealed and waits for shares; one without a vault waits for `AdminService.InitCluster`.
    Shamir,
}

/// Where a PKCS #11 key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Config {
    /// The library that speaks to the token.
    pub module: PathBuf,
    pub token_label: String,
    pub key_label: String,
    /// A file, for its owner alone, with the user PIN.
    pub pin_file: PathBuf,
}

impl SealConfig {
    /// "key-file", "passphrase", "pkcs11" or "shamir".
    pub fn provider(&self) -> &'static str {
        match self {
            Self::KeyFile(_) => "key-file",
            Self::Passphrase | Self::PassphraseFile(_) => "passphrase",
            Self::Pkcs11(_) => "pkcs11",
            Self::Shamir => "shamir",
        }
    }
}

const KEY_FILE: [&str; 1] = ["seal.key_file"];
const PASSPHRASE: [&str; 2] = ["seal.passphrase_fd", "seal.passphrase_file"];
const PKCS11: [&str; 4] = [
    "seal.pkcs11_key_label",
    "seal.pkcs11_module",
    "seal.pkcs11_pin_file",
    "seal.pkcs11_token_label",
];

pub(super) fn read(source: &mut Source) -> SealConfig {
    let provider = source.text("seal.provider").unwrap_or_else(|| "passphrase".into());
    let read = match provider.as_str() {
        "key-file" => needed_path(source, KEY_FILE[0], &provider).map(SealConfig::KeyFile),
        "passphrase" => passphrase(source),
        "pkcs11" => pkcs11(source, &provider),
        "shamir" => Some(SealConfig::Shamir),
        _ => {
            source.mistake(
                "seal.provider",
                "must be \"key-file\", \"passphrase\", \"pkcs11\" or \"shamir\"",
            );
            return SealConfig::Passphrase;
        }
    };
    for (owner, keys) in
        [("key-file", &KEY_FILE[..]), ("passphrase", &PASSPHRASE[..]), ("pkcs11", &PKCS11[..])]
    {
        for &key in keys.iter().filter(|_| owner != provider) {
            if source.has(key) {
                source.mistake(key, &format!("does nothing unless seal.provider is \"{owner}\""));
            }
        }
    }
    read.unwrap_or(SealConfig::Passphrase)
}

fn passphrase(source: &mut Source) -> Option<SealConfig> {
    let file = source.path("seal.passphrase_file");
    let number = "must be the number of an open file descriptor, such as 3";
    let descriptor = source.number("seal.passphrase_fd", number);
    let descriptor = descriptor.map(|number| PathBuf::from(format!("/dev/fd/{number}")));
    match (file, descriptor) {
        (Some(_), Some(_)) => {
            source
                .mistake("seal.passphrase_fd", "and seal.passphrase_file are both there: keep one");
            None
        }
        (Some(path), None) | (None, Some(path)) => Some(SealConfig::PassphraseFile(path)),
        (None, None) => Some(SealConfig::Passphrase),
    }
}

fn pkcs11(source: &mut Source, provider: &str) -> Option<SealConfig> {
    let module = needed_path(source, "seal.pkcs11_module", provider);
    let token_label = needed(source, "seal.pkcs11_token_label", provider);
    let key_label = needed(source, "seal.pkcs11_key_label", provider);
    let pin_file = needed_path(source, "seal.pkcs11_pin_file", provider);
    Some(SealConfig::Pkcs11(Pkcs11Config {
        module: module?,
        token_label: token_label?,
        key_label: key_label?,
        pin_file: pin_file?,
    }))
}

fn needed(source: &mut Source, key: &'static str, provider: &str) -> Option<String> {
    if !source.has(key) {
        source.mistake(key, &format!("is needed when seal.provider is \"{provider}\""));
        return None;
    }
    source.text(key)
}

fn needed_path(source: &mut Source, key: &'static str, provider: &str) -> Option<PathBuf> {
    needed(source, key, provider).map(PathBuf::from)
}
