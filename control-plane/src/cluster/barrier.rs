//! The door to the vault: nothing of the state reaches a disk or a wire but through it.

use zeroize::Zeroizing;

/// Seals what the cluster stores. The vault implements it.
pub trait Barrier: Send + Sync + 'static {
    /// Encrypts and authenticates; what comes back says itself with which key.
    fn seal(&self, purpose: Purpose, plaintext: &[u8]) -> Vec<u8>;

    /// # Errors
    /// [`Tampered`] when it was not sealed by this keyring for this purpose, or was changed since.
    fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Tampered>;
}

/// What was sealed: one purpose's bytes do not open as another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Entry,
    Snapshot,
}

/// Sealed bytes that do not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "what is stored does not open with this cluster's keyring: it was changed, or belongs to another cluster"
)]
pub struct Tampered;
