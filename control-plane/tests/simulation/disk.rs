//! A node's disk: what was not synced is gone when the power goes.
//!
//! The log stands on the engine in memory, which forgets; snapshots, marks and keys are files, which are written at once
//! and survive.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use countersign_control_plane::cluster::DataDir;
use countersign_control_plane::cluster::engine::{
    Acknowledgement, Engine, Fsync, Halted, Memory, OpenEngine, Pair, Tree, Write,
};
use tokio::sync::oneshot;

/// What a disk says of writes that it has not synced yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing.
    Honest,
    /// That it has.
    Lying,
}

pub(crate) struct SimulatedDisk {
    /// None until the node's first start.
    memory: Mutex<Option<Memory>>,
    word: Word,
    /// The longest that a sync takes, milliseconds.
    pub(crate) sync_ms: u64,
}

impl SimulatedDisk {
    pub(crate) fn new(word: Word, sync_ms: u64) -> Arc<Self> {
        Arc::new(Self { memory: Mutex::default(), word, sync_ms })
    }

    pub(crate) fn opener(self: &Arc<Self>) -> OpenEngine {
        let disk = Arc::clone(self);
        Box::new(move |directory, first_mark| {
            let mut memory = disk.memory.lock().unwrap();
            let memory = memory.get_or_insert_with(|| Memory::new(first_mark)).clone();
            Arc::new(Mounted { memory, word: disk.word, _directory: directory })
        })
    }

    /// From now on syncing takes as long as [`sync`](Self::sync) is not called.
    pub(crate) fn slow_down(&self) {
        if let Some(memory) = &*self.memory.lock().unwrap() {
            memory.by_hand();
        }
    }

    /// At most so many steps of what waits to be synced.
    pub(crate) fn sync(&self, steps: usize) {
        if let Some(memory) = &*self.memory.lock().unwrap() {
            let _ = (0..steps).all(|_| memory.step());
        }
    }

    /// The power goes. So many writes that were not synced are there all the same.
    pub(crate) fn lose_power(&self, survivors: usize) {
        if let Some(memory) = &*self.memory.lock().unwrap() {
            memory.crash(survivors);
        }
    }
}

struct Mounted {
    memory: Memory,
    word: Word,
    _directory: DataDir,
}

impl Engine for Mounted {
    fn submit(&self, write: Write) -> Acknowledgement {
        let acknowledged = self.memory.submit(write);
        if self.word == Word::Honest {
            return acknowledged;
        }
        let (sender, at_once) = oneshot::channel();
        // Nobody may be waiting for it.
        let _ = sender.send(Ok(()));
        at_once
    }

    fn scan(&self, tree: Tree, keys: Range<Vec<u8>>) -> Result<Vec<Pair>, Halted> {
        self.memory.scan(tree, keys)
    }

    fn mark(&self) -> Vec<u8> {
        self.memory.mark()
    }
}

/// The files of a simulation do not outlive it.
pub(crate) struct NoFsync;

impl Fsync for NoFsync {
    fn data(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn whole(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn folder(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}
