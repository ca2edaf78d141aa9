//! The door to the vault: nothing of the state reaches a disk or a wire but through it.

use std::io;

use zeroize::Zeroizing;

/// Seals what the cluster stores. The vault implements it.
pub trait Barrier: Send + Sync + 'static {
    /// Encrypts and authenticates; what comes back says itself with which key.
    fn seal(&self, purpose: Purpose, plaintext: &[u8]) -> Vec<u8>;

    /// # Errors
    /// [`Tampered`] when it was not sealed by this keyring for this purpose, or was changed since.
    fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Tampered>;

    /// Takes in the keyring of a replicated seal file, and has it on disk before it returns. A file that was taken
    /// in before changes nothing: the log is applied again after a start.
    ///
    /// A barrier of one key has no keyring that could grow, and refuses every file.
    ///
    /// # Errors
    /// [`NotAdopted`]; nothing changed, and what the new keyring seals will not open here.
    fn adopt(&self, seal_file: &[u8]) -> Result<(), NotAdopted> {
        let _ = seal_file;
        Err(NotAdopted::Tampered(Tampered))
    }

    /// Whether it says of itself that it was sealed with a key newer than any here. The log's check at a start must
    /// not call that damaged: the entry that brings the key lies before it. Nothing vouches for what it says until
    /// it is opened.
    ///
    /// A barrier of one key knows no newer one.
    fn is_ahead(&self, sealed: &[u8]) -> bool {
        let _ = sealed;
        false
    }

    /// What a snapshot carries in the clear, so that a node that lags can [`adopt`](Self::adopt) it before it opens
    /// the snapshot. A barrier of one key has nothing to carry.
    fn seal_file(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// What was sealed: one purpose's bytes do not open as another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The state in a file that leaves the cluster.
    Backup,
    /// Proposals in the log.
    Entry,
    /// A proposal on its way to the leader.
    Forward,
    /// The state as it stood after an entry.
    Snapshot,
}

/// Why a seal file was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum NotAdopted {
    #[error(
        "the seal file could not be written: {0}; free the disk or repair it, then start the node again"
    )]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Tampered(#[from] Tampered),
}

/// Sealed bytes that do not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "what is stored does not open with this cluster's keyring: it was changed, or belongs to another cluster"
)]
pub struct Tampered;
