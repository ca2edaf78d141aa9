//! Raft's log and vote on an [`Engine`]: framed, chained, and never served shorter than it was acknowledged.
//!
//! A record is its length, a checksum over where it belongs and what it holds, the [`Chain`] up to it, and the
//! entry; it lies in chunks of 3 KiB under keys that sort by index. The mark outside the engine says how far the log
//! was acknowledged, with which chain, and which vote was given: at open the two must agree.

use std::fmt::Debug;
use std::ops::{Bound, Range, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, EntryPayload, OptionalSend, RaftLogReader, StorageIOError};
use sha2::{Digest, Sha256};

use super::consensus::{
    Chain, Entry, Input, LogId, Malformed, Sealed, StorageError, Types, Vote, decode_entry,
    encode_entry, put_log_id, put_optional, put_vote,
};
use super::data_dir::StartError;
use super::engine::{Change, Engine, Halted, Pair, Tree, Write};

const CHUNK: usize = 3 * 1024;
const CHECKSUM: usize = 16;
/// Entries read in one go, when openraft leaves the choice to us and when the log is checked at open.
const WINDOW: u64 = 64;

const NODE: &[u8] = b"node";
const PURGED: &[u8] = b"purged";
const VOTE: &[u8] = b"vote";

/// Clones are the same log: openraft writes through one and reads through others.
#[derive(Clone)]
pub struct LogStore {
    engine: Arc<dyn Engine>,
    path: Arc<Path>,
    head: Arc<Mutex<Head>>,
    anchor: Anchor,
}

/// Where the state machine tells the log the chain at the end of an installed snapshot, from where the log goes on.
pub type Anchor = Arc<Mutex<Option<Tip>>>;

/// An entry's id and the chain up to and including it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    pub id: LogId,
    pub chain: Chain,
}

/// What is in the log, as of the last acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    node: u64,
    purged: Option<Tip>,
    /// Of the last entry; of the last purged one when no entry is left.
    last: Option<Tip>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

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

        let store = Self { engine, path: path.into(), head: Arc::new(Mutex::new(head)), anchor };
        let halted = |e: Halted| StartError::Io {
            doing: "write",
            path: path.to_owned(),
            source: std::io::Error::other(e),
        };
        if meta(store.engine.as_ref(), NODE).map_err(damaged)?.is_none() {
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

    /// Whether anything was ever written: a vote or an entry.
    pub fn is_blank(&self) -> bool {
        let head = self.head();
        head.vote.is_none() && head.last.is_none()
    }

    /// Id and chain of an entry that is in the log, or of the last purged one.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn tip_at(&self, index: u64) -> Result<Option<Tip>, StorageError> {
        let purged = self.head().purged;
        if let Some(purged) = purged.filter(|purged| purged.id.index >= index) {
            return Ok(Some(purged).filter(|purged| purged.id.index == index));
        }
        let records = self.records(index..index + 1)?;
        Ok(records.first().map(|(entry, chain)| Tip { id: entry.log_id, chain: *chain }))
    }

    /// First entry that is in the log, as long as there is one.
    pub fn first_index(&self) -> u64 {
        self.head().first()
    }

    fn head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Durable when it returns `Ok`, and so is the mark that `head` makes.
    async fn write(
        &self,
        tree: Tree,
        changes: Vec<Change>,
        head: Option<&Head>,
    ) -> Result<(), Halted> {
        let mark = head.map(Head::to_mark);
        match self.engine.submit(Write { tree, changes, mark, durable: true }).await {
            Ok(done) => done,
            Err(_gone) => Err(Halted(format!("the log in {} is closed", self.path.display()))),
        }
    }

    fn records(&self, indexes: Range<u64>) -> Result<Vec<(Entry, Chain)>, StorageError> {
        let read = || -> Result<_, AnyError> {
            let pairs = self
                .engine
                .scan(Tree::Log, key(indexes.start, 0)..key(indexes.end, 0))
                .map_err(|e| AnyError::new(&e))?;
            records(pairs).map_err(AnyError::error)
        };
        read().map_err(|e| StorageIOError::read_logs(e).into())
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
        self.try_get_log_entries(start..end.min(start + WINDOW)).await
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
            let chain = head.last.map_or(Chain::default(), |last| last.chain).then(index, &encoded);
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
        let anchor = *self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let chain = match self.tip_at(log_id.index)? {
            Some(tip) => tip.chain,
            None => anchor.filter(|tip| tip.id == log_id).map(|tip| tip.chain).ok_or_else(|| {
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

impl Head {
    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.id.index + 1)
    }

    fn to_mark(&self) -> Vec<u8> {
        let mut mark = vec![MARK_VERSION];
        mark.extend(self.node.to_be_bytes());
        put_optional(&mut mark, self.purged.as_ref(), put_tip);
        put_optional(&mut mark, self.last.as_ref(), put_tip);
        put_optional(&mut mark, self.vote.as_ref(), put_vote);
        put_optional(&mut mark, self.committed.as_ref(), put_log_id);
        mark
    }

    fn from_mark(mark: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input(mark);
        input.version()?;
        let head = Self {
            node: input.number()?,
            purged: input.optional(tip)?,
            last: input.optional(tip)?,
            vote: input.optional(Input::vote)?,
            committed: input.optional(Input::log_id)?,
        };
        input.finished()?;
        Ok(head)
    }
}

const MARK_VERSION: u8 = 1;

/// Reads everything and compares it with the mark; says what is wrong in words that follow "is damaged: ".
fn survey(
    engine: &dyn Engine,
    marked: &Head,
    legible: impl Fn(&Sealed) -> bool,
) -> Result<Head, String> {
    let node = meta(engine, NODE)?;
    let node = node
        .map(|body| Input(&body).number())
        .transpose()
        .map_err(|e| format!("of this node's id, {e}"))?;
    let vote = meta(engine, VOTE)?;
    let vote = vote
        .map(|body| Input(&body).vote())
        .transpose()
        .map_err(|e| format!("of the vote, {e}"))?;
    let purged = meta(engine, PURGED)?;
    let purged = purged
        .map(|body| tip(&mut Input(&body)))
        .transpose()
        .map_err(|e| format!("of its start, {e}"))?;

    match node {
        Some(node) if node != marked.node => {
            return Err(format!(
                "it belongs to node {node:016x} and the mark beside it to node {:016x}",
                marked.node
            ));
        }
        None if marked.vote.is_some() || marked.last.is_some() => {
            return Err("the id of its node is missing".into());
        }
        _ => {}
    }
    if order(vote) < order(marked.vote) {
        return Err(format!(
            "it holds {} although {} was given",
            in_words(vote),
            in_words(marked.vote)
        ));
    }
    if purged.map(|tip| tip.id.index) < marked.purged.map(|tip| tip.id.index) {
        return Err("it has lost where it starts".into());
    }

    let mut head =
        Head { node: marked.node, purged, last: purged, vote, committed: marked.committed };
    let mut agrees = marked.last.is_none();
    let mut agree_with = |tip: Tip| match marked.last {
        Some(mark) if mark.id.index == tip.id.index => {
            agrees = mark == tip;
            if agrees {
                Ok(())
            } else {
                Err(format!("entry {} is not the one that was acknowledged", tip.id.index))
            }
        }
        _ => Ok(()),
    };
    if let Some(purged) = purged {
        agree_with(purged)?;
    }
    loop {
        let next = head.last.map_or(0, |last| last.id.index + 1);
        let pairs = engine
            .scan(Tree::Log, key(next, 0)..key(next + WINDOW, 0))
            .map_err(|e| e.to_string())?;
        if pairs.is_empty() {
            let beyond = engine
                .scan(Tree::Log, key(next, 0)..key(u64::MAX, u16::MAX))
                .map_err(|e| e.to_string())?;
            if let Some((after, _)) = beyond.first() {
                return Err(format!(
                    "entry {next} is missing although entry {} is there",
                    index_of(after)?
                ));
            }
            break;
        }
        for (entry, chain) in records(pairs)? {
            let expected = head.last.map_or(0, |last| last.id.index + 1);
            let id = entry.log_id;
            if id.index != expected {
                return Err(format!(
                    "entry {expected} is missing although entry {} is there",
                    id.index
                ));
            }
            let before = head.last.map_or(Chain::default(), |last| last.chain);
            if before.then(id.index, &encode_entry(&entry)) != chain
                || head.last.is_some_and(|last| last.id >= id)
            {
                return Err(format!(
                    "entry {} does not follow from entry {}",
                    id.index,
                    id.index.wrapping_sub(1)
                ));
            }
            if let EntryPayload::Normal(sealed) = &entry.payload
                && !legible(sealed)
            {
                return Err(format!(
                    "entry {} cannot be opened with this cluster's keyring",
                    id.index
                ));
            }
            agree_with(Tip { id, chain })?;
            head.last = Some(Tip { id, chain });
        }
    }
    let reached = head.last.map(|last| last.id.index);
    if let Some(mark) = marked.last
        && reached < Some(mark.id.index)
    {
        let end = reached.map_or("is empty".into(), |index| format!("ends with entry {index}"));
        return Err(format!("it {end} although entries up to {} were acknowledged", mark.id.index));
    }
    if !agrees
        && reached.is_some()
        && purged.map(|tip| tip.id.index) <= marked.last.map(|mark| mark.id.index)
    {
        return Err("the last acknowledged entry is missing".into());
    }
    // Entries behind the mark may be there without having been acknowledged: they are kept, as Raft allows.
    Ok(head)
}

/// Chunks of consecutive records, put together and checked.
fn records(pairs: Vec<Pair>) -> Result<Vec<(Entry, Chain)>, String> {
    let mut whole: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut chunk = 0;
    for (key, value) in pairs {
        let index = index_of(&key)?;
        match whole.last_mut().filter(|(current, _)| *current == index) {
            Some((_, bytes)) => {
                chunk += 1;
                bytes.extend(value);
            }
            None => {
                chunk = 0;
                whole.push((index, value));
            }
        }
        if key[8..] != u16::to_be_bytes(chunk) {
            return Err(format!("entry {index} is not whole"));
        }
    }
    whole
        .into_iter()
        .map(|(index, bytes)| record(index, &bytes).map_err(|e| format!("entry {index} {e}")))
        .collect()
}

fn record(index: u64, bytes: &[u8]) -> Result<(Entry, Chain), String> {
    let body = unframed(Tree::Log, &index.to_be_bytes(), bytes)?;
    let read = || -> Result<_, Malformed> {
        let mut input = Input(body);
        let chain = Chain(input.hash()?);
        Ok((decode_entry(input.rest())?, chain))
    };
    let (entry, chain) = read().map_err(|e| format!("cannot be read: {e}"))?;
    if entry.log_id.index == index { Ok((entry, chain)) } else { Err("is another entry".into()) }
}

fn put_record(changes: &mut Vec<Change>, index: u64, chain: Chain, encoded: &[u8]) {
    let mut body = chain.0.to_vec();
    body.extend(encoded);
    let record = framed(Tree::Log, &index.to_be_bytes(), &body);
    for (chunk, bytes) in record.chunks(CHUNK).enumerate() {
        changes.push(Change::Put(key(index, chunk as u16), bytes.to_vec()));
    }
}

fn meta(engine: &dyn Engine, name: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut end = name.to_vec();
    end.push(0);
    let pairs = engine.scan(Tree::Meta, name.to_vec()..end).map_err(|e| e.to_string())?;
    let said = |e| format!("its record \"{}\" {e}", String::from_utf8_lossy(name));
    pairs
        .first()
        .map(|(_, value)| unframed(Tree::Meta, name, value).map(<[u8]>::to_vec).map_err(said))
        .transpose()
}

/// Length and checksum before the body. The checksum covers the place too: a record moved elsewhere is no record.
fn framed(tree: Tree, place: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + CHECKSUM + body.len());
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(checksum(tree, place, body));
    out.extend(body);
    out
}

fn unframed<'a>(tree: Tree, place: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], String> {
    let mut input = Input(bytes);
    let (Ok(length), Ok(sum)) = (input.count(), input.take(CHECKSUM)) else {
        return Err("is cut off".into());
    };
    let body = input.rest();
    if body.len() != length {
        return Err(format!("has {} of its {length} bytes", body.len()));
    }
    if checksum(tree, place, body) == sum {
        Ok(body)
    } else {
        Err("does not match its checksum".into())
    }
}

fn checksum(tree: Tree, place: &[u8], body: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = Sha256::new();
    hash.update([tree as u8, place.len() as u8]);
    hash.update(place);
    hash.update(body);
    let whole: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|i| whole[i])
}

fn key(index: u64, chunk: u16) -> Vec<u8> {
    let mut key = index.to_be_bytes().to_vec();
    key.extend(chunk.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> Result<u64, String> {
    let (index, _chunk) = key
        .split_first_chunk()
        .filter(|(_, chunk)| chunk.len() == 2)
        .ok_or("it has a key that is none of its own")?;
    Ok(u64::from_be_bytes(*index))
}

fn put_tip(out: &mut Vec<u8>, tip: &Tip) {
    put_log_id(out, &tip.id);
    out.extend(tip.chain.0);
}

fn tip(input: &mut Input<'_>) -> Result<Tip, Malformed> {
    Ok(Tip { id: input.log_id()?, chain: Chain(input.hash()?) })
}

fn order(vote: Option<Vote>) -> Option<(u64, u64, bool)> {
    vote.map(|v| (v.leader_id.term, v.leader_id.node_id, v.committed))
}

fn in_words(vote: Option<Vote>) -> String {
    vote.map_or("no vote".into(), |v| format!("vote {v}"))
}

/// Where the log is, for messages.
impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogStore").field(&PathBuf::from(self.path.as_ref())).finish()
    }
}
