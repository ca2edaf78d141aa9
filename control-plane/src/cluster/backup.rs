//! Backups: the whole state in one sealed file, and a data directory made out of one.
//!
//! A backup is a [`sealed_state`] whose header is a version, the cluster's id, and the entry after which the state
//! was taken. It opens with what unsealed the vault when it was made: the seal file that it carries asks for the
//! passphrase, the shares or the key file of that time.
//!
//! Restoring makes one node, with an id that nobody had, the only one of the cluster (`State::restore_for` says what
//! that does to the state). Its log begins far beyond where that of the backup ended, in terms and in entries: so
//! whatever it decides is newer than anything that edges saw of the cluster that was lost, and nothing that the lost
//! one decided is taken for newer. Edges trust the new node once the holder of the root key has signed a trust bundle
//! with it. They never accept a lower threshold: a cluster of which two nodes had to sign releases nothing before it
//! has two nodes again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::RaftLogStorage as _;
use openraft::{BasicNode, CommittedLeaderId};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::barrier::{Barrier, Purpose};
use super::consensus::{
    Chain, Input, LogId, Malformed, Members, Membership, StorageError, Vote, put_log_id,
};
use super::data_dir::{DataDir, StartError, files_in};
use super::engine::{Disk, FailStop, Fsync, OsFsync};
use super::log::{LogStore, Tip};
use super::machine::on_disk;
use super::sealed_state::{self, Magic, SealedState};
use super::snapshot::{Snapshot, Snapshots};
use super::{Cluster, Unavailable};
use crate::state::{Newcomer, Position, Refused};

const MAGIC: &Magic = b"CSK1";
const VERSION: u8 = 1;
/// More than any cluster gets through between a backup and its use.
const TERMS_AHEAD: u64 = 1 << 20;
const ENTRIES_AHEAD: u64 = 1 << 40;
/// What goes into the chain where the restored log begins.
const DOMAIN: &[u8] = b"countersign/v1/restore\0";

/// What can be read of a backup without opening it. Nothing vouches for it until it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AboutBackup {
    pub cluster_id: String,
    /// Where the log was.
    pub position: Position,
    /// `seal.json` of that time: write it to the directory to restore to, and unseal that.
    pub seal_file: Vec<u8>,
}

/// Why nothing was restored. Nothing was deleted.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("nothing was restored: the backup is damaged: {0}; take another one")]
    Damaged(String),
    #[error("nothing was restored, and {} is to be emptied before another try: {source}", directory.display())]
    Io { directory: PathBuf, source: io::Error },
    #[error(
        "nothing was restored: a node has lived in {} already ({found} is there); restore to an empty directory",
        directory.display()
    )]
    NotEmpty { directory: PathBuf, found: &'static str },
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("nothing was restored: {0}")]
    Start(#[from] StartError),
}

impl Cluster {
    /// The state, up to date, as a file that only this cluster's keyring opens. The cluster goes on meanwhile.
    ///
    /// # Errors
    /// When the state cannot be read up to date, or nothing was committed yet.
    pub async fn snapshot_now(&self) -> Result<Vec<u8>, Unavailable> {
        self.read(|_| ()).await?;
        let snapshot = self.inner.view.snapshot();
        let snapshot = snapshot.ok_or_else(|| Unavailable("nothing was committed yet".into()))?;
        let barrier = self.inner.barrier.clone();
        let encoded = on_disk(move || encode(barrier.as_ref(), &snapshot)).await;
        encoded.map_err(|e| Unavailable(e.to_string()))
    }
}

/// Reads what stands in front of a backup, and checks that the file is whole.
///
/// # Errors
/// [`RestoreError::Damaged`].
pub fn about_backup(backup: &[u8]) -> Result<AboutBackup, RestoreError> {
    let file = SealedState::parse(MAGIC, backup).map_err(RestoreError::Damaged)?;
    let Header { cluster_id, tip } = header(&file)?;
    let position = Position { term: tip.id.leader_id.term, index: tip.id.index };
    Ok(AboutBackup { cluster_id, position, seal_file: file.seal_file.to_vec() })
}

/// Makes a data directory of one node out of a backup; gives the node's id. `directory` may hold the seal, keys and
/// certificates, and nothing that a node that ran leaves. All of the backup is verified before anything is written.
///
/// # Errors
/// [`RestoreError`].
pub async fn restore(
    directory: &Path,
    backup: Vec<u8>,
    barrier: Arc<dyn Barrier>,
    newcomer: Newcomer,
) -> Result<u64, RestoreError> {
    let (path, runtime) = (directory.to_owned(), Handle::current());
    let failed = |source| RestoreError::Io { directory: path.clone(), source };
    let (directory, node_id) = (path.clone(), rand::random());
    let work = move || -> io::Result<Result<u64, RestoreError>> {
        let restored = restored(&backup, barrier.as_ref(), node_id, &newcomer);
        Ok(restored.and_then(|snapshot| {
            runtime.block_on(write(&directory, node_id, &snapshot, barrier))?;
            Ok(node_id)
        }))
    };
    on_disk(work).await.map_err(failed)?
}

struct Header {
    cluster_id: String,
    tip: Tip,
}

fn encode(barrier: &dyn Barrier, snapshot: &Snapshot) -> io::Result<Vec<u8>> {
    let cluster_id = snapshot.state.genesis().map_or("", |genesis| &genesis.cluster_id);
    let mut header = vec![VERSION];
    header.extend((cluster_id.len() as u32).to_be_bytes());
    header.extend(cluster_id.as_bytes());
    put_log_id(&mut header, &snapshot.tip.id);
    header.extend(snapshot.tip.chain.0);
    sealed_state::encode(barrier, Purpose::Backup, MAGIC, &header, &snapshot.state)
}

fn header(file: &SealedState<'_>) -> Result<Header, RestoreError> {
    let read = || -> Result<_, Malformed> {
        let mut input = Input(file.header);
        if input.byte()? != VERSION {
            return Err(Malformed);
        }
        let length = input.count()?;
        let cluster_id =
            std::str::from_utf8(input.take(length)?).map_err(|_| Malformed)?.to_owned();
        let tip = Tip { id: input.log_id()?, chain: Chain(input.hash()?) };
        input.finished()?;
        Ok(Header { cluster_id, tip })
    };
    read().map_err(|e| RestoreError::Damaged(e.to_string()))
}

/// What the one node begins with.
fn restored(
    backup: &[u8],
    barrier: &dyn Barrier,
    node_id: u64,
    newcomer: &Newcomer,
) -> Result<Snapshot, RestoreError> {
    let file = SealedState::parse(MAGIC, backup).map_err(RestoreError::Damaged)?;
    let Header { cluster_id, tip } = header(&file)?;
    let mut state = file.open(barrier, Purpose::Backup).map_err(RestoreError::Damaged)?;
    if state.genesis().is_none_or(|genesis| genesis.cluster_id != cluster_id) {
        return Err(RestoreError::Damaged("its state is of another cluster".into()));
    }
    let position = Position {
        term: tip.id.leader_id.term.saturating_add(TERMS_AHEAD),
        index: tip.id.index.saturating_add(ENTRIES_AHEAD),
    };
    state.restore_for(node_id, newcomer, position)?;
    let id = LogId::new(CommittedLeaderId::new(position.term, node_id), position.index);
    let chain = tip.chain.then(position.index, &[DOMAIN, &node_id.to_be_bytes()].concat());
    let only = BTreeMap::from([(node_id, BasicNode::default())]);
    let membership = Membership::new(vec![[node_id].into()], only);
    let members = Members::new(Some(id), membership);
    Ok(Snapshot { tip: Tip { id, chain }, members, state: Arc::new(state) })
}

/// The log first, the snapshot last: what is half written does not start.
async fn write(
    path: &Path,
    node_id: u64,
    snapshot: &Snapshot,
    barrier: Arc<dyn Barrier>,
) -> Result<(), RestoreError> {
    let directory = DataDir::lock(path)?;
    let io = |source| RestoreError::Io { directory: path.to_owned(), source };
    if let Some(found) = lived_in(&directory).map_err(io)? {
        return Err(RestoreError::NotEmpty { directory: path.to_owned(), found });
    }
    let (fsync, fail): (Arc<dyn Fsync>, _) = (Arc::new(OsFsync), FailStop::then(|_| {}));
    let folder = directory.snapshots();
    let snapshots = Snapshots::open(&folder, barrier, fsync.clone(), fail.clone())?;
    let encoded = snapshots.encode(snapshot).map_err(io)?;
    let folder = directory.log();
    let first_mark = || LogStore::first_mark(node_id);
    let disk = Arc::new(Disk::open(directory, first_mark, fsync, fail)?);
    let anchor = Arc::new(watch::Sender::new(Some(snapshot.tip)));
    let mut log = LogStore::open(disk.clone(), &folder, anchor, |_| true).await?;
    let begun = |e: StorageError| io(io::Error::other(e));
    log.purge(snapshot.tip.id).await.map_err(begun)?;
    let vote = Vote::new(snapshot.tip.id.leader_id.term, node_id);
    log.save_vote(&vote).await.map_err(begun)?;
    drop(log);
    // Locked until the snapshot is there.
    let locked = Arc::into_inner(disk).and_then(Disk::close);
    snapshots.save(snapshot, &encoded).map_err(io)?;
    drop(locked);
    Ok(())
}

/// Something that only a node that ran, or was to run, leaves.
fn lived_in(directory: &DataDir) -> io::Result<Option<&'static str>> {
    let left = ["log", "log.aside", "mark", "joining", "peers.mark", "starts", "rolled-back"];
    let found = left.into_iter().find(|name| directory.path().join(name).exists());
    let snapshots = !files_in(&directory.snapshots())?.is_empty();
    Ok(found.or_else(|| snapshots.then_some("snapshots")))
}
