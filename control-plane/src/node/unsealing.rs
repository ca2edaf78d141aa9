//! What opens this node's vault: what its configuration names, or what people present.

use std::sync::{Arc, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::Node;
use super::life::{Life, Opening, UnsealError};
use crate::cluster::{Clock as _, SystemClock};
use crate::config::{Begin, Pkcs11Config, SealConfig};
use crate::state::Millis;
use crate::vault::{
    NewSeal, Pin, Progress, SealError, SealParameters, Share, ShareError, Token, TokenError,
    UnsealProgress, Unsealing, Vault,
};

/// What somebody presents to open the vault. It has no `Debug`.
pub(crate) struct Presented {
    /// Empty: none.
    pub(crate) passphrase: Zeroizing<String>,
    pub(crate) share: Option<Result<Share, ShareError>>,
    /// Forgets the shares that were given so far.
    pub(crate) reset: bool,
    pub(crate) token_sha256: Option<[u8; 32]>,
}

/// What became of an attempt.
pub(crate) enum Tried {
    Unsealed,
    /// More shares are needed.
    Waiting(Progress),
}

/// Shares that were given since the node was sealed, and the set that they are of.
pub(super) type Given = Option<(String, UnsealProgress)>;

impl Node {
    /// Tries to unseal the node. Doing it again does nothing.
    pub(crate) async fn unseal(
        self: &Arc<Self>,
        presented: Presented,
    ) -> Result<Tried, UnsealError> {
        let _one_at_a_time = self.changing.lock().await;
        if self.unsealed().is_some() {
            self.attempts
                .note("seal.unseal_idle", "it is open: nothing that was presented was read");
            return Ok(Tried::Unsealed);
        }
        let tried = match self.opening(presented) {
            Ok(Some(opening)) => self.open(opening, None).await.map(|_| Tried::Unsealed),
            Ok(None) => Ok(Tried::Waiting(self.shares_given()?)),
            Err(error) => Err(error),
        };
        if let Err(error) = &tried {
            self.attempts.note("seal.unseal_refused", error.to_string());
        }
        tried
    }

    /// What is presented, once it is enough.
    fn opening(&self, presented: Presented) -> Result<Option<Opening>, UnsealError> {
        let dir = &self.config.data_dir;
        if !Vault::exists(dir) {
            return match (&self.config.seal, self.config.cluster.begin) {
                (SealConfig::Passphrase | SealConfig::PassphraseFile(_), Begin::Auto) => {
                    Ok(Some(Opening::New(NewSeal::Passphrase(presented.passphrase))))
                }
                _ => Err(UnsealError::NotBegun),
            };
        }
        let there = Vault::parameters(dir)?;
        if let Some(unsealing) = self.unattended(there.provider)? {
            self.demand_admin(presented.token_sha256)?;
            return Ok(Some(Opening::Present(unsealing)));
        }
        if there.provider == "passphrase" {
            return Ok(Some(Opening::Present(Unsealing::Passphrase(presented.passphrase))));
        }
        let now = since_boot();
        let mut given = self.given();
        let progress = progress_of(&mut given, there)?;
        if presented.reset {
            progress.reset();
            self.attempts.note("seal.unseal_reset", "the shares that were given are forgotten");
        }
        if let Some(share) = presented.share {
            let share = share.map_err(SealError::from)?;
            let given = format!("share {} was taken", share.id());
            progress.submit(share, now).map_err(SealError::from)?;
            self.attempts.note("seal.unseal_share", given);
        }
        Ok(progress.take(now).map(Opening::Present))
    }

    /// What opens a vault of this provider without anybody, if its provider is such a one.
    ///
    /// # Errors
    /// This node's configuration does not name it.
    pub(crate) fn unattended(&self, provider: &str) -> Result<Option<Unsealing>, SealError> {
        unattended(&self.config.seal, provider)
    }

    /// The seal that this node's configuration asks for, if nobody has to say more.
    pub(crate) fn configured_seal(&self) -> Result<Option<NewSeal>, SealError> {
        Ok(match &self.config.seal {
            SealConfig::KeyFile(path) => Some(NewSeal::KeyFile(path.clone())),
            SealConfig::Pkcs11(config) => Some(NewSeal::Token(token(config)?)),
            SealConfig::Passphrase | SealConfig::PassphraseFile(_) | SealConfig::Shamir => None,
        })
    }

    /// Shares that were given since the node was sealed.
    pub(crate) fn shares_given(&self) -> Result<Progress, SealError> {
        let none = Progress { threshold: 0, have: 0, ids: Vec::new() };
        if self.unsealed().is_some() || !Vault::exists(&self.config.data_dir) {
            return Ok(none);
        }
        let there = Vault::parameters(&self.config.data_dir)?;
        if there.shares.is_none() {
            return Ok(none);
        }
        let mut given = self.given();
        Ok(progress_of(&mut given, there)?.standing(since_boot()))
    }

    /// What seals the vault now.
    pub(crate) fn seal_parameters(&self) -> Result<SealParameters, SealError> {
        Vault::parameters(&self.config.data_dir)
    }

    /// A node that opens itself and was sealed by somebody takes one who was an administrator then.
    fn demand_admin(&self, token_sha256: Option<[u8; 32]>) -> Result<(), UnsealError> {
        match &*self.life.read().unwrap_or_else(PoisonError::into_inner) {
            Life::Sealed { by: Some(admins) }
                if !token_sha256.is_some_and(|token| admins.contains(&token)) =>
            {
                Err(UnsealError::AdminNeeded)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What opens a vault of this provider without anybody, where a configuration names that.
pub(super) fn unattended(
    configured: &SealConfig,
    provider: &str,
) -> Result<Option<Unsealing>, SealError> {
    match (provider, configured) {
        ("key-file", SealConfig::KeyFile(path)) => Ok(Some(Unsealing::KeyFile(path.clone()))),
        ("pkcs11", SealConfig::Pkcs11(config)) => Ok(Some(Unsealing::Token(token(config)?))),
        ("key-file", other) => {
            Err(SealError::WrongProvider { made_with: "key-file", given: other.provider() })
        }
        ("pkcs11", other) => {
            Err(SealError::WrongProvider { made_with: "pkcs11", given: other.provider() })
        }
        _ => Ok(None),
    }
}

/// The progress towards the seal that is there now: a change of the seal begins another.
fn progress_of(given: &mut Given, there: SealParameters) -> Result<&mut UnsealProgress, SealError> {
    let set = there
        .shares
        .ok_or(SealError::WrongProvider { made_with: there.provider, given: "shamir" })?;
    if given.as_ref().is_none_or(|(id, _)| id != set.id()) {
        *given = None;
    }
    match given {
        Some((_, progress)) => Ok(progress),
        none => {
            let id = set.id().to_owned();
            Ok(&mut none.insert((id, UnsealProgress::new(set)?)).1)
        }
    }
}

fn token(config: &Pkcs11Config) -> Result<Token, TokenError> {
    Ok(Token {
        module: config.module.clone(),
        token_label: config.token_label.clone(),
        key_label: config.key_label.clone(),
        pin: Pin::from_file(&config.pin_file)?,
    })
}

/// Milliseconds; never set back, unlike the time of day.
fn since_boot() -> Millis {
    u64::try_from(SystemClock.since_boot().as_millis()).unwrap_or(u64::MAX)
}
