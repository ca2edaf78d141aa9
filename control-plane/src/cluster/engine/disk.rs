//! The engine on disk: sled for the data, and the discipline that sled alone does not keep.
//!
//! `flush` of sled is not durable (it never calls fsync), so one thread does all writing: it takes what is queued,
//! applies it, flushes, syncs new blobs and the data file, then the mark, and only then acknowledges.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::compaction::is_bloated;
use super::mark::MarkFile;
use super::{Acknowledgement, Change, Engine, FailStop, Halted, Pair, Tree, Write};
use crate::cluster::data_dir::{DataDir, StartError, files_in, private_folder};

const SEGMENT: usize = 512 * 1024;
const CACHE: u64 = 64 * 1024 * 1024;
/// Far above any chunk of a record; sled moves large values to files that it never syncs.
const LARGEST_VALUE: usize = 64 * 1024;
/// Writes waiting for the thread; openraft waits for each, so there are seldom more than two.
const QUEUE: usize = 256;

/// How files reach the disk. The other implementation is a test's, whose disk fails.
pub trait Fsync: Send + Sync + 'static {
    /// # Errors
    /// When the contents may not be on the disk.
    fn data(&self, file: &File) -> io::Result<()>;
    /// # Errors
    /// When contents or length may not be on the disk.
    fn whole(&self, file: &File) -> io::Result<()>;
    /// # Errors
    /// When the names in the folder may not be on the disk.
    fn folder(&self, path: &Path) -> io::Result<()>;
}

/// fsync and fdatasync.
pub struct OsFsync;

impl Fsync for OsFsync {
    fn data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn whole(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

pub struct Disk {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    trees: Trees,
    mark: Arc<Mutex<Vec<u8>>>,
    fail: FailStop,
    // After the trees: the directory is free once sled has let go of it.
    directory: Option<DataDir>,
}

struct Job {
    write: Write,
    acknowledge: oneshot::Sender<Result<(), Halted>>,
}

#[derive(Clone)]
pub(super) struct Trees {
    pub(super) db: sled::Db,
    pub(super) log: sled::Tree,
    pub(super) meta: sled::Tree,
}

impl Trees {
    fn tree(&self, tree: Tree) -> &sled::Tree {
        match tree {
            Tree::Log => &self.log,
            Tree::Meta => &self.meta,
        }
    }
}

impl Disk {
    /// Opens what is in the directory, or begins there with `first_mark` when nothing is.
    ///
    /// # Errors
    /// [`StartError::Damaged`] when the mark or sled's files cannot be read as they were written (sled panics at
    /// some of what a disk can do to it: caught here), [`StartError::Io`] when the disk refuses.
    pub fn open(
        directory: DataDir,
        first_mark: impl FnOnce() -> Vec<u8>,
        sync: Arc<dyn Fsync>,
        fail: FailStop,
    ) -> Result<Self, StartError> {
        let folder = directory.log();
        let mark = open_mark(&directory, first_mark, sync.as_ref())?;
        private_folder(&folder)?;
        let trees = open_sled(&folder)?;
        let unsynced = |source| StartError::Io { doing: "sync", path: folder.clone(), source };
        let synced = sync_everything(&folder, sync.as_ref()).map_err(unsynced)?;
        sync.folder(directory.path()).map_err(unsynced)?;
        let data = File::open(folder.join("db")).map_err(unsynced)?;

        let held = Arc::new(Mutex::new(mark.held().to_vec()));
        let (jobs, queue) = sync_channel(QUEUE);
        let syncer = Syncer {
            trees: trees.clone(),
            data,
            blobs: folder.join("blobs"),
            synced_blobs: synced,
            mark,
            held: held.clone(),
            sync,
            fail: fail.clone(),
        };
        let thread = thread::Builder::new()
            .name("log-syncer".into())
            .spawn(move || syncer.run(&queue))
            .map_err(|source| StartError::Io {
                doing: "start the thread that writes",
                path: folder,
                source,
            })?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            trees,
            mark: held,
            fail,
            directory: Some(directory),
        })
    }

    /// Whether it is time to [`compact`](super::compact).
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn is_bloated(&self) -> io::Result<bool> {
        self.directory().map_or(Ok(false), |directory| is_bloated(&self.trees, &directory.log()))
    }

    pub fn directory(&self) -> Option<&DataDir> {
        self.directory.as_ref()
    }

    /// Closes the log and keeps the lock.
    pub fn close(mut self) -> Option<DataDir> {
        self.directory.take()
    }
}

impl Engine for Disk {
    fn submit(&self, write: Write) -> Acknowledgement {
        let (acknowledge, acknowledged) = oneshot::channel();
        if let Some(jobs) = &self.jobs {
            // When the thread is gone the job is dropped with its sender, and the caller hears that.
            let _ = jobs.send(Job { write, acknowledge });
        }
        acknowledged
    }

    fn scan(&self, tree: Tree, keys: Range<Vec<u8>>) -> Result<Vec<Pair>, Halted> {
        self.fail.check()?;
        let mut pairs = Vec::new();
        for pair in self.trees.tree(tree).range(keys) {
            // Nothing was written, so there is nothing to stop for: who reads says what is wrong.
            let (key, value) = pair.map_err(|e| Halted(format!("reading the log failed: {e}")))?;
            pairs.push((key.to_vec(), value.to_vec()));
        }
        Ok(pairs)
    }

    fn mark(&self) -> Vec<u8> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has tripped nothing, but acknowledges nothing either.
            let _ = thread.join();
        }
    }
}

struct Syncer {
    trees: Trees,
    data: File,
    blobs: PathBuf,
    synced_blobs: BTreeSet<PathBuf>,
    mark: MarkFile,
    held: Arc<Mutex<Vec<u8>>>,
    sync: Arc<dyn Fsync>,
    fail: FailStop,
}

impl Syncer {
    fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let jobs: Vec<Job> = std::iter::once(first).chain(queue.try_iter()).collect();
            let done = self.fail.check().and_then(|()| {
                // sled panics where it finds its own files not as it left them.
                catch_unwind(AssertUnwindSafe(|| self.carry_out(&jobs)))
                    .unwrap_or_else(|_panic| Err("writing the log panicked".into()))
                    .map_err(|why| self.fail.trip(why))
            });
            for job in jobs {
                // A writer that no longer listens loses nothing.
                let _ = job.acknowledge.send(done.clone());
            }
        }
    }

    fn carry_out(&mut self, jobs: &[Job]) -> Result<(), String> {
        for job in jobs {
            self.apply(&job.write)?;
        }
        if !jobs.iter().any(|job| job.write.durable) || crate::planted::planted(1) {
            return Ok(());
        }
        self.trees.db.flush().map_err(|e| format!("flushing the log failed: {e}"))?;
        self.sync_new_blobs()
            .map_err(|e| format!("syncing {} failed: {e}", self.blobs.display()))?;
        self.sync.data(&self.data).map_err(|e| format!("syncing the log failed: {e}"))?;
        if let Some(mark) = jobs.iter().rev().find_map(|job| job.write.mark.as_ref()) {
            let written = self.mark.write(mark, self.sync.as_ref());
            written.map_err(|e| format!("writing {} failed: {e}", self.mark.path().display()))?;
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = mark.clone();
        }
        Ok(())
    }

    fn apply(&self, write: &Write) -> Result<(), String> {
        let tree = self.trees.tree(write.tree);
        let mut batch = sled::Batch::default();
        for change in &write.changes {
            match change {
                Change::Put(key, value) if value.len() > LARGEST_VALUE => {
                    return Err(format!(
                        "a value of {} bytes under key {key:02x?} is too large for the log",
                        value.len()
                    ));
                }
                Change::Put(key, value) => batch.insert(key.as_slice(), value.as_slice()),
                Change::Remove(keys) => {
                    for key in tree.range(keys.clone()).keys() {
                        batch.remove(key.map_err(|e| format!("reading the log failed: {e}"))?);
                    }
                }
            }
        }
        tree.apply_batch(batch).map_err(|e| format!("writing the log failed: {e}"))
    }

    /// There should never be any: the alarm says that a value went where sled does not sync.
    fn sync_new_blobs(&mut self) -> io::Result<()> {
        let mut fresh = false;
        for blob in files_in(&self.blobs)? {
            if !self.synced_blobs.contains(&blob) {
                tracing::error!(blob = %blob.display(), "a value of the log was put into a file of its own; it is synced all the same");
                self.sync.whole(&File::open(&blob)?)?;
                self.synced_blobs.insert(blob);
                fresh = true;
            }
        }
        if fresh { self.sync.folder(&self.blobs) } else { Ok(()) }
    }
}

fn open_mark(
    directory: &DataDir,
    first: impl FnOnce() -> Vec<u8>,
    sync: &dyn Fsync,
) -> Result<MarkFile, StartError> {
    let path = directory.mark();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::InvalidData => {
            StartError::Damaged { path: path.clone(), what: source.to_string() }
        }
        _ => StartError::Io { doing: "open", path: path.clone(), source },
    };
    if let Some(mark) = MarkFile::open(&path).map_err(failed)? {
        return Ok(mark);
    }
    if directory.log().join("db").exists() {
        let what = "it is missing although there is a log beside it".into();
        return Err(StartError::Damaged { path, what });
    }
    MarkFile::create(&path, &first(), sync).map_err(failed)
}

pub(super) fn open_sled(folder: &Path) -> Result<Trees, StartError> {
    let config = sled::Config::new()
        .path(folder)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(Some(500))
        .segment_size(SEGMENT)
        .cache_capacity(CACHE);
    let opening = thread::Builder::new().name("log-opening".into()).spawn(move || {
        let db = patiently(|| config.open())?;
        let (log, meta) = (db.open_tree("log")?, db.open_tree("meta")?);
        Ok::<_, sled::Error>(Trees { db, log, meta })
    });
    let opening = opening.map_err(|source| StartError::Io {
        doing: "open",
        path: folder.to_owned(),
        source,
    })?;
    match opening.join() {
        Ok(Ok(trees)) => Ok(trees),
        Ok(Err(sled::Error::Io(source))) if source.kind() != io::ErrorKind::InvalidData => {
            Err(StartError::Io { doing: "open", path: folder.to_owned(), source })
        }
        Ok(Err(e)) => Err(StartError::Damaged { path: folder.to_owned(), what: e.to_string() }),
        Err(_panicked) => {
            let what = "its files do not fit together (sled panicked while it read them)".into();
            Err(StartError::Damaged { path: folder.to_owned(), what })
        }
    }
}

/// sled locks its file and leaves unlocking to closing, while a process that is just being spawned holds a copy of
/// everything open. The data directory's lock is ours, so nobody else can be meant: it passes.
fn patiently(open: impl Fn() -> sled::Result<sled::Db>) -> sled::Result<sled::Db> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match open() {
            Err(sled::Error::Io(e))
                if e.to_string().contains("could not acquire lock") && Instant::now() < until =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

/// What opening wrote is on the disk before anything builds on it. Returns the blobs that are there.
pub(super) fn sync_everything(folder: &Path, sync: &dyn Fsync) -> io::Result<BTreeSet<PathBuf>> {
    let blobs = folder.join("blobs");
    for file in files_in(folder)? {
        // sled removes its old snapshot files in its own time.
        match File::open(&file) {
            Ok(file) => sync.whole(&file)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    let mut synced = BTreeSet::new();
    if blobs.exists() {
        for blob in files_in(&blobs)? {
            sync.whole(&File::open(&blob)?)?;
            synced.insert(blob);
        }
        sync.folder(&blobs)?;
    }
    sync.folder(folder)?;
    Ok(synced)
}
