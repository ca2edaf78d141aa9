//! Raft's log and vote on an [`Engine`]: framed, chained, and never served shorter than it was acknowledged.
//!
//! A record is its length, a checksum over where it belongs and what it holds, the [`Chain`] up to it, and the
//! entry; it lies in chunks of 3 KiB under keys that sort by index. The mark outside the engine says how far the log
//! was acknowledged, with which chain, and which vote was given: at open the two must agree.

mod head;
mod record;

use std::fmt::Debug;
use std::ops::{Bound, Range, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, EntryPayload, OptionalSend, RaftLogReader, StorageIOError};
use tokio::sync::watch;

use super::consensus::{
    Chain, Entry, LogId, Sealed, StorageError, Types, Vote, encode_entry, put_vote,
};
use super::data_dir::StartError;
use super::engine::{Change, Engine, Halted, Tree, Write};
use head::{Head, put_tip, survey};
use record::{framed, key, meta, put_record, records};

pub use head::Tip;

/// Entries read in one go, when openraft leaves the choice to us and when the log is checked at open.
const WINDOW: u64 = 64;
/// Entries are sent to another node until they are this many bytes; one at least.
const MESSAGE: usize = 1024 * 1024;
const STEP: u64 = 8;

const NODE: &[u8] = b"node";
const PURGED: &[u8] = b"purged";
const VOTE: &[u8] = b"vote";

/// Clones are the same log: openraft writes through one and reads through others.
#[derive(Clone)]
pub struct LogStore {
    /// None once the log was closed: Raft's tasks may keep their clones for a while.
    engine: Arc<RwLock<Option<Arc<dyn Engine>>>>,
    path: Arc<Path>,
    head: Arc<Mutex<Head>>,
    anchor: Anchor,
}

/// Where the state machine tells the log the chain at the end of an installed snapshot, from where the log goes on.
pub type Anchor = Arc<watch::Sender<Option<Tip>>>;

/// For a snapshot to be installed.
const INSTALLED: Duration = Duration::from_secs(60);

impl LogStore {
    /// The mark of a log in which nothing was written yet.
    pub fn first_mark(node: u64) -> Vec<u8> {
        Head { node, purged: None, last: None, vote: None, committed: None }.to_mark()
    }

    /// Reads the whole log once and holds it against the mark. `legible` says whether an entry can be opened.
    ///
    /// # Errors
    /// [`StartError::Damaged`] when anything acknowledged is missing, changed or illegible. Nothing is deleted.
    pub async fn open(
        engine: Arc<dyn Engine>,
        path: &Path,
        anchor: Anchor,
        legible: impl Fn(&Sealed) -> bool,
    ) -> Result<Self, StartError> {
        let damaged = |what| StartError::Damaged { path: path.to_owned(), what };
        let marked = Head::from_mark(&engine.mark())
            .map_err(|e| damaged(format!("of the mark beside it, {e}")))?;
        let head = survey(engine.as_ref(), &marked, legible).map_err(damaged)?;

        let named = meta(engine.as_ref(), NODE).map_err(damaged)?.is_some();
        let engine = Arc::new(RwLock::new(Some(engine)));
        let store = Self { engine, path: path.into(), head: Arc::new(Mutex::new(head)), anchor };
        let halted = |e: Halted| StartError::Io {
            doing: "write",
            path: path.to_owned(),
            source: std::io::Error::other(e),
        };
        if !named {
            let put =
                Change::Put(NODE.to_vec(), framed(Tree::Meta, NODE, &marked.node.to_be_bytes()));
            store.write(Tree::Meta, vec![put], None).await.map_err(halted)?;
        }
        // A purge that the power interrupted is finished.
        // Taken out first: a lock held over an await would make starting a node unfit for a spawned task.
        let purged = store.head().purged;
        if let Some(purged) = purged {
            let left_over = vec![Change::Remove(key(0, 0)..key(purged.id.index + 1, 0))];
            store.write(Tree::Log, left_over, None).await.map_err(halted)?;
        }
        Ok(store)
    }

    pub fn node_id(&self) -> u64 {
        self.head().node
    }

    /// Index of the last entry, purged or not.
    pub(super) fn last_index(&self) -> u64 {
        self.head().last.map_or(0, |tip| tip.id.index)
    }

    /// Whether anything was ever written: a vote or an entry.
    pub fn is_blank(&self) -> bool {
        let head = self.head();
        head.vote.is_none() && head.last.is_none()
    }

    /// Id and chain of an entry that is in the log, or of the last purged one.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn tip_at(&self, index: u64) -> Result<Option<Tip>, Unreadable> {
        let purged = self.head().purged;
        if let Some(purged) = purged.filter(|purged| purged.id.index >= index) {
            return Ok(Some(purged).filter(|purged| purged.id.index == index));
        }
        let records = self.records(index..index + 1)?;
        Ok(records.first().map(|(entry, chain)| Tip { id: entry.log_id, chain: *chain }))
    }

    /// The last entry and the vote that are on disk.
    pub(super) fn reached(&self) -> (Option<LogId>, Option<Vote>) {
        let head = self.head();
        (head.last.map(|last| last.id), head.vote)
    }

    /// Goes on as nobody's leader, in a term that is newer than the present one: what this node did in that one is not
    /// all there any more, so it must not go on with it.
    pub(super) async fn leave_term(&self) -> Result<(), StorageError> {
        let Some(vote) = self.head().vote else { return Ok(()) };
        let node = self.node_id();
        self.clone().save_vote(&Vote::new(vote.leader_id.term + 1, node)).await
    }

    /// As far as Raft said that the log is committed.
    pub(super) fn committed(&self) -> Option<LogId> {
        self.head().committed
    }

    /// First entry that is in the log, as long as there is one.
    pub fn first_index(&self) -> u64 {
        self.head().first()
    }

    fn head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chain at the end of a snapshot of this entry. Raft tells the log to purge while the state machine is still
    /// installing what makes up for it.
    async fn installed(&self, log_id: LogId) -> Option<Chain> {
        let mut anchor = self.anchor.subscribe();
        let reached = anchor.wait_for(|tip| tip.is_some_and(|tip| tip.id >= log_id));
        let tip = *tokio::time::timeout(INSTALLED, reached).await.ok()?.ok()?;
        tip.filter(|tip| tip.id == log_id).map(|tip| tip.chain)
    }

    /// Durable when it returns `Ok`, and so is the mark that `head` makes.
    async fn write(
        &self,
        tree: Tree,
        changes: Vec<Change>,
        head: Option<&Head>,
    ) -> Result<(), Halted> {
        let mark = head.map(Head::to_mark);
        let write = Write { tree, changes, mark, durable: true };
        let acknowledged = self.engine().as_ref().map(|engine| engine.submit(write));
        match acknowledged {
            Some(acknowledged) => acknowledged.await.unwrap_or_else(|_gone| Err(self.closed())),
            None => Err(self.closed()),
        }
    }

    /// Lets go of the disk, once and for all clones: nothing is read or written any more. Blocks until what is under
    /// way is done.
    pub(super) fn close(&self) {
        let closed = self.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(closed);
    }

    fn engine(&self) -> RwLockReadGuard<'_, Option<Arc<dyn Engine>>> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> Halted {
        Halted(format!("the log in {} is closed", self.path.display()))
    }

    fn records(&self, indexes: Range<u64>) -> Result<Vec<(Entry, Chain)>, Unreadable> {
        let keys = key(indexes.start, 0)..key(indexes.end, 0);
        let engine = self.engine();
        let engine = engine.as_ref().ok_or_else(|| Unreadable(self.closed().0))?;
        let pairs = engine.scan(Tree::Log, keys).map_err(|e| Unreadable(e.0))?;
        records(pairs).map_err(Unreadable)
    }
}

/// Entries that cannot be read back as they were written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be read: {0}")]
pub struct Unreadable(String);

impl From<Unreadable> for StorageError {
    fn from(e: Unreadable) -> Self {
        StorageIOError::read_logs(AnyError::new(&e)).into()
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let start = start.max(self.first_index());
        if start >= end {
            return Ok(Vec::new());
        }
        Ok(self.records(start..end)?.into_iter().map(|(entry, _)| entry).collect())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let end = end.min(start + WINDOW);
        let mut entries: Vec<Entry> = Vec::new();
        let mut size = 0;
        // Purged meanwhile, it would begin later than the entries that the reader says come before.
        while start >= self.first_index() && start + (entries.len() as u64) < end {
            let next = start + entries.len() as u64;
            let read = self.records(next..end.min(next + STEP))?;
            if read.is_empty() {
                break;
            }
            for (entry, _) in read {
                size += size_of_payload(&entry);
                if size > MESSAGE && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

fn size_of_payload(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(sealed) => sealed.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let head = self.head();
        Ok(LogState {
            last_purged_log_id: head.purged.map(|tip| tip.id),
            last_log_id: head.last.map(|tip| tip.id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let head = Head { vote: Some(*vote), ..self.head().clone() };
        let mut body = Vec::new();
        put_vote(&mut body, vote);
        let put = Change::Put(VOTE.to_vec(), framed(Tree::Meta, VOTE, &body));
        self.write(Tree::Meta, vec![put], Some(&head))
            .await
            .map_err(|e| StorageIOError::write_vote(AnyError::new(&e)))?;
        self.head().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.head().vote)
    }

    /// Kept with the mark of the next write: it may lag on disk, which only means that more is applied again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.head().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.head().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut head = self.head().clone();
        let mut changes = Vec::new();
        for entry in entries {
            let index = entry.log_id.index;
            let next = head.last.map_or(0, |last| last.id.index + 1);
            if index != next {
                let gap = AnyError::error(format!(
                    "entry {index} was to be appended where entry {next} belongs"
                ));
                return Err(StorageIOError::write_log_entry(entry.log_id, gap).into());
            }
            let encoded = encode_entry(&entry);
            let chain =
                head.last.map_or_else(Chain::default, |last| last.chain).then(index, &encoded);
            put_record(&mut changes, index, chain, &encoded);
            head.last = Some(Tip { id: entry.log_id, chain });
        }
        match self.write(Tree::Log, changes, Some(&head)).await {
            Ok(()) => {
                self.head().last = head.last;
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(e) => {
                let failed = StorageIOError::write_logs(AnyError::new(&e));
                callback.log_io_completed(Err(std::io::Error::other(e)));
                Err(failed.into())
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let last = match log_id.index.checked_sub(1) {
            Some(index) => self.tip_at(index)?,
            None => None,
        };
        let head = Head { last, ..self.head().clone() };
        let failed = |e: Halted| StorageIOError::write_logs(AnyError::new(&e));
        // The mark goes first: were it second, a power cut in between would leave a log shorter than its mark.
        self.write(Tree::Log, Vec::new(), Some(&head)).await.map_err(failed)?;
        let tail = Change::Remove(key(log_id.index, 0)..key(u64::MAX, u16::MAX));
        self.write(Tree::Log, vec![tail], Some(&head)).await.map_err(failed)?;
        self.head().last = last;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut head = self.head().clone();
        if head.purged.is_some_and(|purged| purged.id.index >= log_id.index) {
            return Ok(());
        }
        let chain = match self.tip_at(log_id.index)? {
            Some(tip) => tip.chain,
            None => self.installed(log_id).await.ok_or_else(|| {
                let unknown = format!("entries up to {log_id} are not in the log, nor in a snapshot that was installed");
                StorageIOError::write_logs(AnyError::error(unknown))
            })?,
        };
        let purged = Tip { id: log_id, chain };
        head.purged = Some(purged);
        if head.last.is_none_or(|last| last.id.index < log_id.index) {
            head.last = Some(purged);
        }
        let mut body = Vec::new();
        put_tip(&mut body, &purged);
        let put = Change::Put(PURGED.to_vec(), framed(Tree::Meta, PURGED, &body));
        let failed = |e: Halted| StorageIOError::write_logs(AnyError::new(&e));
        // First that they may be missing, then away with them.
        self.write(Tree::Meta, vec![put], Some(&head)).await.map_err(failed)?;
        {
            let mut current = self.head();
            (current.purged, current.last) = (head.purged, head.last);
        }
        let purged = Change::Remove(key(0, 0)..key(log_id.index + 1, 0));
        self.write(Tree::Log, vec![purged], None).await.map_err(failed)?;
        Ok(())
    }
}

/// Where the log is, for messages.
impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogStore").field(&PathBuf::from(self.path.as_ref())).finish()
    }
}
