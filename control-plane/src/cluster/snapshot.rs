//! Snapshots: one file each, sealed, written beside its name and renamed into it.
//!
//! A [`sealed_state`] whose header is what Raft needs to know without the keyring: the entry that the state was taken
//! after, the chain over the log up to it, and the members.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::{BasicNode, SnapshotMeta};

use super::barrier::{Barrier, Purpose};
use super::consensus::{Chain, Input, Malformed, Members, put_log_id, put_members};
use super::data_dir::{StartError, files_in, private_folder};
use super::engine::{FailStop, Fsync};
use super::log::Tip;
use super::sealed_state::{self, Magic, SealedState};
use crate::state::State;

const MAGIC: &Magic = b"CSS2";

/// The state as of an entry.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) tip: Tip,
    pub(super) members: Members,
    pub(super) state: Arc<State>,
}

impl Snapshot {
    pub(super) fn meta(&self) -> Meta {
        let last_membership = self.members.clone();
        SnapshotMeta { last_log_id: Some(self.tip.id), last_membership, snapshot_id: self.id() }
    }

    fn id(&self) -> String {
        format!("{:020}-{:020}", self.tip.id.index, self.tip.id.leader_id.term)
    }
}

/// The folder of snapshots.
#[derive(Clone)]
pub(super) struct Snapshots {
    folder: Arc<Path>,
    barrier: Arc<dyn Barrier>,
    fsync: Arc<dyn Fsync>,
    fail: FailStop,
    kept: Arc<Mutex<Kept>>,
}

/// Held while a file is written, and while the newest one is opened: so it is there.
#[derive(Default)]
struct Kept {
    newest: Option<Meta>,
    closed: bool,
}

pub(super) type Meta = SnapshotMeta<u64, BasicNode>;

impl Snapshots {
    /// Creates the folder if need be and clears away what was never finished.
    pub(super) fn open(
        folder: &Path,
        barrier: Arc<dyn Barrier>,
        fsync: Arc<dyn Fsync>,
        fail: FailStop,
    ) -> Result<Self, StartError> {
        private_folder(folder)?;
        let failed = |source| StartError::Io { doing: "tidy", path: folder.to_owned(), source };
        for file in files_in(folder).map_err(failed)? {
            if file.extension().is_some_and(|e| e == "new") {
                fs::remove_file(&file).map_err(failed)?;
            }
        }
        Ok(Self { folder: folder.into(), barrier, fsync, fail, kept: Arc::default() })
    }

    /// The newest snapshot, if there is any.
    pub(super) fn newest(&self) -> Result<Option<Snapshot>, StartError> {
        let failed =
            |source| StartError::Io { doing: "read", path: self.folder.to_path_buf(), source };
        let Some(path) = self.finished().map_err(failed)?.pop() else { return Ok(None) };
        let bytes = fs::read(&path).map_err(failed)?;
        let snapshot =
            self.decode(&bytes).map_err(|what| StartError::Damaged { path: path.clone(), what })?;
        if path != self.path(&snapshot.id()) {
            return Err(StartError::Damaged {
                path,
                what: format!("it holds snapshot {}", snapshot.id()),
            });
        }
        self.kept().newest = Some(snapshot.meta());
        Ok(Some(snapshot))
    }

    /// Writes a snapshot and removes all but the newest; durable when this returns. The file is for reading.
    pub(super) fn save(&self, snapshot: &Snapshot, encoded: &[u8]) -> io::Result<File> {
        let mut kept = self.kept();
        if kept.closed {
            return Err(io::Error::other("this node is stopping"));
        }
        self.fail.check().map_err(io::Error::other)?;
        let path = self.path(&snapshot.id());
        let written = self.write(&path, encoded);
        written.map_err(|e| {
            io::Error::other(self.fail.trip(format!("writing {} failed: {e}", path.display())))
        })?;
        let file = File::open(&path)?;
        let meta = snapshot.meta();
        // One that was begun earlier may be done later.
        let newest = kept.newest.take().filter(|newest| newest.last_log_id > meta.last_log_id);
        let newest = self.path(&kept.newest.insert(newest.unwrap_or(meta)).snapshot_id);
        for older in self.finished()?.into_iter().filter(|other| *other < newest) {
            fs::remove_file(older)?;
        }
        Ok(file)
    }

    /// The newest snapshot that was read or saved, to send.
    pub(super) fn current(&self) -> io::Result<Option<(Meta, File)>> {
        let kept = self.kept();
        let Some(meta) = &kept.newest else { return Ok(None) };
        Ok(Some((meta.clone(), File::open(self.path(&meta.snapshot_id))?)))
    }

    /// Waits for what is being saved; nothing is saved any more.
    pub(super) fn close(&self) {
        self.kept().closed = true;
    }

    pub(super) fn encode(&self, snapshot: &Snapshot) -> Result<Vec<u8>, io::Error> {
        let mut header = Vec::new();
        put_log_id(&mut header, &snapshot.tip.id);
        header.extend(snapshot.tip.chain.0);
        put_members(&mut header, &snapshot.members);
        let barrier = self.barrier.as_ref();
        sealed_state::encode(barrier, Purpose::Snapshot, MAGIC, &header, &snapshot.state)
    }

    /// Takes in the seal file of a snapshot that was sealed with a newer key than any here. Says what is wrong in
    /// words that follow "is damaged: ".
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Snapshot, String> {
        let file = SealedState::parse(MAGIC, bytes)?;
        let header = || -> Result<_, Malformed> {
            let mut input = Input(file.header);
            let tip = Tip { id: input.log_id()?, chain: Chain(input.hash()?) };
            let members = input.members()?;
            input.finished()?;
            Ok((tip, members))
        };
        let (tip, members) = header().map_err(|e| e.to_string())?;
        let state = file.open(self.barrier.as_ref(), Purpose::Snapshot)?;
        Ok(Snapshot { tip, members, state: Arc::new(state) })
    }

    /// A file to receive a snapshot in; it has no name, so nothing is left of it if it is not installed.
    pub(super) fn receive(&self) -> io::Result<File> {
        let path = self.folder.join(format!("{:016x}.new", rand::random::<u64>()));
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, path: &Path, encoded: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(encoded)?;
        self.fsync.whole(&file)?;
        fs::rename(&temporary, path)?;
        self.fsync.folder(&self.folder)
    }

    /// Oldest first: the names sort by index.
    fn finished(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = files_in(&self.folder)?;
        files.retain(|file| file.extension().is_some_and(|e| e == "snapshot"));
        files.sort();
        Ok(files)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id).with_extension("snapshot")
    }
}
