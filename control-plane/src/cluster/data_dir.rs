//! The data directory: what lies where, whose it is, and what is said when it cannot be used.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A data directory that this process, and no other, works in until this is dropped.
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Creates the directory if need be and takes its lock.
    ///
    /// # Errors
    /// [`StartError::InUse`] when another process has it, [`StartError::Io`] when it cannot be had at all.
    pub fn lock(path: &Path) -> Result<Self, StartError> {
        let io = |doing: &'static str| {
            move |source| StartError::Io { doing, path: path.to_owned(), source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io("create the data directory"))?;
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(&lock_path).map_err(io("open the lock of"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                // Whoever holds it may not have written its number yet: the refusal stands without it.
                let _ = lock.read_to_string(&mut process);
                let process = if process.trim().is_empty() {
                    "unknown".into()
                } else {
                    process.trim().to_owned()
                };
                return Err(StartError::InUse { directory: path.to_owned(), process });
            }
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        let number = std::process::id().to_string();
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(number.as_bytes()))
            .map_err(io("write the lock of"))?;
        Ok(Self { path: path.to_owned(), lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// sled's folder.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where a compaction builds the new log, and then leaves the old one.
    pub fn log_aside(&self) -> PathBuf {
        self.path.join("log.aside")
    }

    /// What was acknowledged, kept outside the log.
    pub fn mark(&self) -> PathBuf {
        self.path.join("mark")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// There from the first start of a node that was to join a cluster: it never begins one.
    pub fn joining(&self) -> PathBuf {
        self.path.join("joining")
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Said, not left to closing: a process that is just being spawned may hold the file open a moment longer.
        let _ = self.lock.unlock();
    }
}

/// Why a node did not start. In every case the data directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What was acknowledged is not all there, or not as it was written.
    #[error(
        "{} is damaged: {what}. The node does not start with less than it acknowledged. \
         Nothing was deleted: move the data directory aside and restore it from a backup",
        path.display()
    )]
    Damaged { path: PathBuf, what: String },
    #[error("data directory {} is already in use by process {process}", directory.display())]
    InUse { directory: PathBuf, process: String },
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// A node that has yet to be called is asked to be another one.
    #[error(
        "{} belongs to node {there}, and node {asked} was to start in it; start node {asked} in an empty data directory",
        path.display()
    )]
    OtherNode { path: PathBuf, there: String, asked: String },
    #[error(
        "the log of this node did not come up: {0}; start it again, and if it stays so, restore from a backup"
    )]
    Raft(String),
}

/// Creates a folder that only this user can enter, if it is not there.
pub(crate) fn private_folder(path: &Path) -> Result<(), StartError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StartError::Io { doing: "create", path: path.to_owned(), source })
}

/// The regular files right inside a folder, none when there is no such folder.
pub(crate) fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
