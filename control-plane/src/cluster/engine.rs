//! What the log stands on: ordered writes, and a word only when they will survive a power cut.
//!
//! An engine knows keys, values and one small mark, nothing of Raft. Its promise: writes take effect in the order
//! they were submitted; a write that asked to be durable is acknowledged only after it and every write before it
//! are on the disk, and after the mark that came with it is too. After any error it acknowledges nothing more.

mod compaction;
mod disk;
mod mark;
mod memory;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use tokio::sync::oneshot;

use super::data_dir::DataDir;

pub use compaction::{clear_aside, compact};
pub use disk::{Disk, Fsync, OsFsync};
pub use memory::Memory;

/// Stores changes and says when they are durable.
pub trait Engine: Send + Sync + 'static {
    /// Queues a write. The receiver hears `Ok` when the write is applied and, if it asked for it, durable.
    fn submit(&self, write: Write) -> Acknowledgement;

    /// Pairs of a range of keys in key order, as last written.
    ///
    /// # Errors
    /// When the store cannot be read; nothing was changed.
    fn scan(&self, tree: Tree, keys: Range<Vec<u8>>) -> Result<Vec<Pair>, Halted>;

    /// The last durable mark: what was acknowledged, kept apart from the data so that data which went missing is
    /// missed.
    fn mark(&self) -> Vec<u8>;
}

/// Opens an engine of the caller's choice, which has this mark when it is blank, and which holds the data directory for
/// as long as it is there.
pub type OpenEngine = Box<dyn FnOnce(DataDir, Vec<u8>) -> Arc<dyn Engine> + Send>;
pub type Acknowledgement = oneshot::Receiver<Result<(), Halted>>;
pub type Pair = (Vec<u8>, Vec<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    Log,
    Meta,
}

/// Changes to one tree that happen together or not at all.
#[derive(Clone, Debug)]
pub struct Write {
    pub tree: Tree,
    pub changes: Vec<Change>,
    /// Replaces the mark once the changes are durable.
    pub mark: Option<Vec<u8>>,
    /// Whether the acknowledgement waits for the disk.
    pub durable: bool,
}

#[derive(Clone, Debug)]
pub enum Change {
    Put(Vec<u8>, Vec<u8>),
    Remove(Range<Vec<u8>>),
}

/// The engine has stopped: what was not acknowledged may or may not be on the disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Halted(pub String);

/// Trips once, at the first error of the disk or the first sign that this node's history is not the cluster's, and
/// never lets go: after a failed fsync the kernel may call the next one a success although the data is gone, so there
/// is no next one.
#[derive(Clone)]
pub struct FailStop {
    why: Arc<OnceLock<String>>,
    last_act: Arc<dyn Fn(&str) + Send + Sync>,
}

impl FailStop {
    /// Ends the process.
    pub fn abort() -> Self {
        Self::then(|why| {
            tracing::error!(
                why,
                "this node stops now, before it acknowledges what it may have lost or cannot vouch for"
            );
            std::process::abort()
        })
    }

    /// For tests: does something else than ending the process.
    pub fn then(last_act: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { why: Arc::default(), last_act: Arc::new(last_act) }
    }

    /// Latches. The first reason stays.
    pub fn trip(&self, why: String) -> Halted {
        if self.why.set(why.clone()).is_ok() {
            (self.last_act)(&why);
        }
        self.check().err().unwrap_or(Halted(why))
    }

    /// # Errors
    /// Once tripped, always.
    pub fn check(&self) -> Result<(), Halted> {
        match self.why.get() {
            Some(why) => Err(Halted(why.clone())),
            None => Ok(()),
        }
    }
}
