//! What a start does with the data directory before Raft is there.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use openraft::{Config, SnapshotPolicy};

use super::barrier::Barrier;
use super::consensus::Sealed;
use super::data_dir::{DataDir, StartError};
use super::engine::{Disk, FailStop, Fsync, clear_aside, compact};
use super::log::LogStore;
use super::machine::{self, Machine};
use super::marks::Marks;
use super::remembered::Remembered;
use super::{Start, Surroundings, Timing};
use crate::state::node::node_name;

/// Entries that stay in the log behind a snapshot, for followers that are a little late; never more than lie between
/// two snapshots.
const KEPT: u64 = 1000;

/// What was found in a data directory, checked.
pub(super) struct Opened {
    pub(super) machine: Machine,
    pub(super) log: LogStore,
    pub(super) remembered: Remembered,
    pub(super) marks: Marks,
    /// Whether this node, which nobody ever heard of, is to begin a cluster.
    pub(super) begins: bool,
}

/// Reads and checks everything; call it where it may block.
pub(super) async fn open(
    data_dir: &Path,
    start: Start,
    accept_rollback: bool,
    barrier: Arc<dyn Barrier>,
    surroundings: Surroundings,
) -> Result<Opened, StartError> {
    let Surroundings { clock, fsync, fail, engine } = surroundings;
    let directory = DataDir::lock(data_dir)?;
    let path = directory.log();
    let joining = remember_to_join(&directory, start, fsync.as_ref())?;
    let node_id = match start {
        Start::Found => rand::random(),
        Start::Join { node_id } => node_id,
    };
    let mut machine =
        Machine::open(&directory, barrier.clone(), clock, fsync.clone(), fail.clone())?;
    let first_mark = LogStore::first_mark(node_id);
    let legible = |sealed: &Sealed| machine::legible(barrier.as_ref(), sealed);
    let log = match engine {
        Some(engine) => {
            let engine = engine(directory, first_mark);
            let log = LogStore::open(engine, &path, machine.anchor(), legible).await?;
            fits(&machine, &log, &path)?;
            log
        }
        None => on_disk(directory, first_mark, &machine, legible, &fsync, &fail).await?,
    };
    let fresh = log.is_blank() && machine.restored().is_none();
    if let Start::Join { node_id } = start
        && fresh
        && log.node_id() != node_id
    {
        return Err(StartError::OtherNode {
            path: data_dir.to_owned(),
            there: node_name(log.node_id()),
            asked: node_name(node_id),
        });
    }
    let (remembered, marks) = Remembered::open(data_dir, accept_rollback, fsync, fail)?;
    machine.goes_on_after(log.last_index());
    if accept_rollback {
        log.leave_term().await.map_err(|e| StartError::Raft(e.to_string()))?;
    }
    Ok(Opened { machine, log, remembered, marks, begins: fresh && !joining })
}

/// The log in the data directory; compacted first, if it has grown too large for what is in it.
async fn on_disk(
    mut directory: DataDir,
    first_mark: Vec<u8>,
    machine: &Machine,
    legible: impl Fn(&Sealed) -> bool,
    fsync: &Arc<dyn Fsync>,
    fail: &FailStop,
) -> Result<LogStore, StartError> {
    let path = directory.log();
    let mut compacted = false;
    loop {
        let mark = || first_mark.clone();
        let disk = Arc::new(Disk::open(directory, mark, fsync.clone(), fail.clone())?);
        let log = LogStore::open(disk.clone(), &path, machine.anchor(), &legible).await?;
        fits(machine, &log, &path)?;
        let bloated = disk.is_bloated();
        let bloated = bloated.map_err(|source| StartError::Io {
            doing: "read",
            path: path.clone(),
            source,
        })?;
        if compacted || !bloated {
            disk.directory().map_or(Ok(()), clear_aside)?;
            return Ok(log);
        }
        drop(log);
        let closed = Arc::into_inner(disk).and_then(Disk::close);
        directory = closed.ok_or_else(|| StartError::Raft("the log could not be closed".into()))?;
        if let Err(e) = compact(&directory, fsync.as_ref(), fail) {
            tracing::warn!(error = %e, "the log stays larger than it need be");
        }
        compacted = true;
    }
}

/// A node that was to join must not begin a second cluster, whatever its settings say when it is started again
/// before anyone called it.
fn remember_to_join(
    directory: &DataDir,
    start: Start,
    fsync: &dyn Fsync,
) -> Result<bool, StartError> {
    let path = directory.joining();
    let Start::Join { node_id } = start else { return Ok(path.exists()) };
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = match options.write(true).create_new(true).mode(0o600).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            opened => opened?,
        };
        file.write_all(node_name(node_id).as_bytes())?;
        fsync.whole(&file)?;
        fsync.folder(directory.path())
    };
    // A directory that has a log already says itself what it is.
    if !directory.log().exists() {
        write().map_err(|source| StartError::Io { doing: "write", path: path.clone(), source })?;
    }
    Ok(path.exists())
}

/// The log must go on where the snapshot ends, from the same history.
fn fits(machine: &Machine, log: &LogStore, path: &Path) -> Result<(), StartError> {
    let damaged = |what| StartError::Damaged { path: path.to_owned(), what };
    let restored = machine.restored();
    let after = restored.map_or(0, |tip| tip.id.index + 1);
    if log.first_index() > after {
        let first = log.first_index();
        return Err(damaged(match restored {
            Some(tip) => format!(
                "it starts with entry {first} and the newest snapshot ends with entry {}",
                tip.id.index
            ),
            None => format!(
                "it starts with entry {first} and the snapshot of what came before is missing"
            ),
        }));
    }
    let Some(tip) = restored else { return Ok(()) };
    match log.tip_at(tip.id.index).map_err(|e| damaged(e.to_string()))? {
        Some(same) if same != tip => {
            Err(damaged(format!("its entry {} is not the one in the snapshot", tip.id.index)))
        }
        _ => Ok(()),
    }
}

pub(super) fn config(snapshot_every: u64, timing: &Timing) -> Result<Config, StartError> {
    let millis = |duration: std::time::Duration| duration.as_millis() as u64;
    let config = Config {
        cluster_name: "countersign".into(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election.start),
        election_timeout_max: millis(timing.election.end),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: KEPT.min(snapshot_every),
        // From when this node has met the others.
        enable_elect: false,
        ..Config::default()
    };
    config.validate().map_err(|e| StartError::Raft(e.to_string()))
}
