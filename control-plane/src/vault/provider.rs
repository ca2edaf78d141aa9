//! Who keeps the root key while the node is sealed: the one seam between the vault and whatever unseals it.

mod key_file;
mod passphrase;
mod shamir;
mod token;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use token::{Pin, Token};

use super::cipher::{self, Key};
use super::shares::{EncryptedShare, Recipient, Share, ShareSet};
use super::{SealError, ShareError};
use key_file::KeyFile;
use passphrase::{Passphrase, Stretching};
use shamir::Shamir;
use token::TokenKey;

/// Wraps the root key, and unwraps it again. What it needs for that (a key, a session with a token) it has from
/// the start.
///
/// A key management service would be one more implementor: wrap and unwrap are one call each, with
/// [`Parameters::context`] as its additional data, and its parameters name the service's key.
pub(super) trait Provider {
    /// What `seal.json` says of it.
    fn parameters(&self) -> &Parameters;

    /// The root key as it may lie anywhere, bound to the parameters.
    fn wrap(&self, root: &Key) -> Result<Vec<u8>, SealError>;

    /// The error says that this provider is not the one that wrapped it, in its own words.
    fn unwrap(&self, wrapped: &[u8]) -> Result<Key, SealError>;

    /// What the log should say each time that it has opened a vault.
    fn warn(&self) {}
}

/// How a vault is to be sealed from now on. It has no `Debug`.
pub enum NewSeal {
    /// 64 hexadecimal digits in a file that only its owner can read; made if it is not there. Whoever has the file
    /// has the vault.
    KeyFile(PathBuf),
    /// Stretched by Argon2id: 64 MiB, 3 passes, 4 lanes.
    Passphrase(Zeroizing<String>),
    /// A random key in as many shares as there are recipients, each encrypted to its own; `threshold` of them open
    /// the vault. From 2 of 2 to 16 of 16.
    Shares { threshold: u8, recipients: Vec<Recipient> },
    /// An AES-256 key in a PKCS#11 token; made if it is not there.
    Token(Token),
}

/// What opens a vault that is there. It has no `Debug`.
pub enum Unsealing {
    /// The path of the file that the vault was made with.
    KeyFile(PathBuf),
    Passphrase(Zeroizing<String>),
    /// As many as it takes, or more.
    Shares(Vec<Share>),
    Token(Token),
}

/// What `seal.json` says of its provider. Nothing in it is secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Parameters {
    KeyFile,
    Passphrase(Stretching),
    /// Labels of the token and of the key in it.
    Pkcs11 {
        token: String,
        key: String,
    },
    Shamir(ShareSet),
}

impl Parameters {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::KeyFile => "key-file",
            Self::Passphrase(_) => "passphrase",
            Self::Pkcs11 { .. } => "pkcs11",
            Self::Shamir(_) => "shamir",
        }
    }

    pub(super) fn share_set(&self) -> Option<&ShareSet> {
        match self {
            Self::Shamir(set) => Some(set),
            Self::KeyFile | Self::Passphrase(_) | Self::Pkcs11 { .. } => None,
        }
    }

    /// What a wrapped root key is bound to: how its wrapping key came about.
    pub(super) fn context(&self) -> Vec<u8> {
        let parameters = serde_json::to_vec(self).unwrap_or_default();
        cipher::parts("countersign/v1/root", [parameters])
    }
}

impl NewSeal {
    /// And the shares that have to be handed out.
    pub(super) fn provider(self) -> Result<(Box<dyn Provider>, Vec<EncryptedShare>), SealError> {
        let provider: Box<dyn Provider> = match self {
            Self::KeyFile(path) => Box::new(KeyFile::read_or_make(path)?),
            Self::Passphrase(text) => Box::new(Passphrase::first(&text)?),
            Self::Shares { threshold, recipients } => {
                let (shamir, handed_out) = Shamir::first(threshold, &recipients)?;
                return Ok((Box::new(shamir), handed_out));
            }
            Self::Token(token) => Box::new(TokenKey::first(token)?),
        };
        Ok((provider, Vec::new()))
    }
}

impl Unsealing {
    /// The provider of a vault that says this of its own.
    pub(super) fn provider(&self, parameters: &Parameters) -> Result<Box<dyn Provider>, SealError> {
        Ok(match (self, parameters) {
            (Self::KeyFile(path), Parameters::KeyFile) => Box::new(KeyFile::read(path.clone())?),
            (Self::Passphrase(text), Parameters::Passphrase(stretching)) => {
                Box::new(Passphrase::again(text, stretching)?)
            }
            (Self::Shares(shares), Parameters::Shamir(set)) => {
                Box::new(Shamir::again(shares, set)?)
            }
            (Self::Token(given), Parameters::Pkcs11 { token, key }) => {
                Box::new(TokenKey::again(given, token, key)?)
            }
            (given, made_with) => {
                return Err(SealError::WrongProvider {
                    made_with: made_with.name(),
                    given: given.name(),
                });
            }
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::KeyFile(_) => "key-file",
            Self::Passphrase(_) => "passphrase",
            Self::Shares(_) => "shamir",
            Self::Token(_) => "pkcs11",
        }
    }
}

impl TryFrom<Unsealing> for NewSeal {
    type Error = SealError;

    /// A seal that the same will open. Shares are not chosen but handed out: they make none.
    fn try_from(unsealing: Unsealing) -> Result<Self, SealError> {
        Ok(match unsealing {
            Unsealing::KeyFile(path) => Self::KeyFile(path),
            Unsealing::Passphrase(text) => Self::Passphrase(text),
            Unsealing::Shares(_) => return Err(ShareError::NoRecipients.into()),
            Unsealing::Token(token) => Self::Token(token),
        })
    }
}
