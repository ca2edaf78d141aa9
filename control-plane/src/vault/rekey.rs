//! Another seal for the same root key: new shares, a new passphrase, another provider.
//!
//! ```text
//! Vault::authority ─▶ Authority ─ Rekey::start ─▶ Rekey ─ verify ─▶ Verified ─ finish ─▶ the bytes of a seal file
//! ```
//!
//! Whoever opens the present seal has the [`Authority`] to change it; what opens the new one has to be presented back
//! before there is a file of it. Dropping any of these cancels: what is in force stays as it was throughout.

use subtle::ConstantTimeEq as _;

use super::provider::{NewSeal, Unsealing};
use super::seal_file::{SealFile, WrappedRoot};
use super::shares::{EncryptedShare, ShareSet};
use super::{SealError, Vault};

/// Proof that somebody opened the seal that is in force.
pub struct Authority {
    opened: WrappedRoot,
}

/// A new seal that nobody has shown to be able to open: there is no way from here to a seal file but
/// [`Rekey::verify`].
///
/// ```compile_fail,E0599
/// use countersign_control_plane::vault::{Rekey, Vault};
///
/// fn unverified(vault: &Vault, rekey: Rekey) {
///     rekey.finish(vault);
/// }
/// ```
///
/// ```compile_fail,E0451
/// use countersign_control_plane::vault::{Rekey, Verified};
///
/// fn forged(rekey: Rekey) -> Verified {
///     Verified { opened: rekey.opened, wrapped: rekey.wrapped }
/// }
/// ```
pub struct Rekey {
    opened: WrappedRoot,
    wrapped: WrappedRoot,
    handed_out: Vec<EncryptedShare>,
}

/// A new seal that was opened once.
pub struct Verified {
    opened: WrappedRoot,
    wrapped: WrappedRoot,
}

impl Vault {
    /// Opens the seal in force once more, as unsealing does: with its passphrase, its key file, its token, or its
    /// threshold of shares. As slow as [`Vault::unseal`].
    ///
    /// # Errors
    /// Those of [`Vault::unseal`].
    pub fn authority(&self, unsealing: &Unsealing) -> Result<Authority, SealError> {
        let opened = self.held().seal.wrapped().clone();
        self.opens(&opened, unsealing)?;
        Ok(Authority { opened })
    }

    fn opens(&self, wrapped: &WrappedRoot, unsealing: &Unsealing) -> Result<(), SealError> {
        let provider = unsealing.provider(wrapped.parameters())?;
        let root = wrapped.unwrap(provider.as_ref())?;
        let same: bool = root.ct_eq(self.root.as_slice()).into();
        if same { Ok(()) } else { Err(SealError::AnotherVault) }
    }
}

impl Rekey {
    /// Wraps the root key anew. New shares are made and encrypted here; a key file or a token's key that is not there
    /// yet is made too. As slow as [`Vault::create`].
    ///
    /// # Errors
    /// [`SealError::Overtaken`] when another seal is in force than the authority is of; what the new provider says.
    pub fn start(vault: &Vault, authority: Authority, to: NewSeal) -> Result<Self, SealError> {
        let Authority { opened } = authority;
        is_in_force(vault, &opened)?;
        let (provider, handed_out) = to.provider()?;
        let wrapped = WrappedRoot::wrap(provider.as_ref(), &vault.root)?;
        Ok(Self { opened, wrapped, handed_out })
    }

    /// The new shares, for their keepers; none for other providers.
    pub fn shares(&self) -> &[EncryptedShare] {
        &self.handed_out
    }

    /// What the new shares are of; none for other providers.
    pub fn share_set(&self) -> Option<&ShareSet> {
        self.wrapped.parameters().share_set()
    }

    /// What opens the new seal: "key-file", "passphrase", "shamir" or "pkcs11".
    pub fn provider(&self) -> &'static str {
        self.wrapped.parameters().name()
    }

    /// Opens the new seal with what is presented back: the threshold of new shares, or the passphrase that was meant.
    /// As slow as [`Vault::unseal`].
    ///
    /// # Errors
    /// Those of [`Vault::unseal`]; it can be tried again.
    pub fn verify(&self, vault: &Vault, back: &Unsealing) -> Result<Verified, SealError> {
        vault.opens(&self.wrapped, back)?;
        Ok(Verified { opened: self.opened.clone(), wrapped: self.wrapped.clone() })
    }
}

impl Verified {
    /// The seal file, with the keyring as it is now. It is in force once it is adopted; until then, and if it never
    /// is, the old one is.
    ///
    /// # Errors
    /// [`SealError::Overtaken`] when another seal came into force since the rekey began.
    pub fn finish(self, vault: &Vault) -> Result<Vec<u8>, SealError> {
        let Self { opened, wrapped } = self;
        is_in_force(vault, &opened)?;
        let held = vault.held();
        let revision = held.seal.revision() + 1;
        Ok(SealFile::new(revision, wrapped, &vault.root, &held.keyring).encode())
    }
}

fn is_in_force(vault: &Vault, opened: &WrappedRoot) -> Result<(), SealError> {
    if vault.held().seal.wrapped() == opened { Ok(()) } else { Err(SealError::Overtaken) }
}
