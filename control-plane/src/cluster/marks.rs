//! What this node remembers of how far others had come, and whether one has come back with less.
//!
//! The log and the vote of a node never go back: acknowledged entries stay unless a leader of a newer term replaces
//! them, and it gave that leader its vote first. So a node whose vote is older than one that was seen, or whose vote
//! is no newer than the term under which it acknowledged an entry that it now lacks, had its disk put back. A log
//! that is shorter under a newer vote is no sign of that: its end may just have been replaced.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use countersign_proto::v1;
use sha2::{Digest as _, Sha256};

use super::consensus::{Input, LogId, Malformed, Vote, put_log_id, put_optional};
use super::data_dir::StartError;
use super::engine::Fsync;
use super::wire;

/// How far a node says that it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Starts of the node, this one included.
    pub(super) boot: u64,
    pub(super) last: Option<LogId>,
    pub(super) vote: Ballot,
}

/// A vote, without whether it won: term and candidate.
pub(super) type Ballot = (u64, u64);

pub(super) fn ballot(vote: &Vote) -> Ballot {
    (vote.leader_id.term, vote.leader_id.node_id)
}

/// How far another node is known to have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    boot: u64,
    vote: Ballot,
    /// The newest acknowledgement: under which term, and up to which entry.
    acknowledged: Option<(u64, LogId)>,
}

impl Mark {
    /// In words that follow "node N ".
    fn regression(&self, shown: &Shown) -> Option<String> {
        if shown.boot < self.boot {
            let (now, seen) = (shown.boot, self.boot);
            return Some(format!("counts {now} starts, and had counted {seen}"));
        }
        if shown.vote < self.vote {
            let (now, seen) = (shown.vote.0, self.vote.0);
            return Some(format!(
                "gave its last vote in term {now}, and had given one in term {seen}"
            ));
        }
        let (term, acknowledged) = self.acknowledged?;
        if shown.vote.0 <= term && shown.last < Some(acknowledged) {
            let end = shown.last.map_or_else(
                || "has an empty log".into(),
                |last| format!("has entries up to {}", last.index),
            );
            return Some(format!("{end}, and had acknowledged entry {}", acknowledged.index));
        }
        None
    }

    fn raised(mut self, boot: u64, vote: Ballot, acknowledged: Option<(u64, LogId)>) -> Self {
        self.boot = self.boot.max(boot);
        self.vote = self.vote.max(vote);
        self.acknowledged = self.acknowledged.max(acknowledged);
        self
    }
}

/// The marks of all others, as they are and as they are on disk.
pub(super) struct Marks {
    path: PathBuf,
    marks: BTreeMap<u64, Mark>,
    /// Whether they are newer than what is on disk.
    changed: bool,
}

impl Marks {
    /// Those that were written last; none when `forget`, or when nothing was ever written.
    ///
    /// # Errors
    /// [`StartError::Damaged`], [`StartError::Io`].
    pub(super) fn open(path: PathBuf, forget: bool) -> Result<Self, StartError> {
        let marks = match fs::read(&path) {
            _ if forget => BTreeMap::new(),
            Ok(bytes) => decode(&bytes).map_err(|e| StartError::Damaged {
                path: path.clone(),
                what: format!("of what other nodes acknowledged, {e}"),
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(StartError::Io { doing: "read", path, source }),
        };
        Ok(Self { path, marks, changed: forget })
    }

    /// Compares what a node shows with what was seen of it, and remembers it if it is no less.
    ///
    /// # Errors
    /// What it came back without, in words that follow "node N ".
    pub(super) fn compare(&mut self, node: u64, shown: &Shown) -> Result<(), String> {
        let mark = self.marks.get(&node).copied().unwrap_or_default();
        mark.regression(shown).map_or(Ok(()), Err)?;
        self.saw(node, shown);
        Ok(())
    }

    /// Remembers what a node shows, as far as it is more than was seen.
    pub(super) fn saw(&mut self, node: u64, shown: &Shown) {
        let mark = self.marks.get(&node).copied().unwrap_or_default();
        // Whoever sent its last entry led in that entry's term.
        let last = shown.last.map(|last| (last.leader_id.term, last));
        self.raise(node, mark.raised(shown.boot, shown.vote, last));
    }

    /// A node acknowledged entries up to `last` to the leader of this ballot.
    pub(super) fn acknowledged(&mut self, node: u64, leader: Ballot, last: Option<LogId>) {
        let mark = self.marks.get(&node).copied().unwrap_or_default();
        self.raise(node, mark.raised(0, leader, last.map(|last| (leader.0, last))));
    }

    /// What another node has seen of it.
    pub(super) fn heard_of(
        &mut self,
        node: u64,
        boot: u64,
        vote: &Vote,
        acknowledged: Option<(u64, LogId)>,
    ) {
        let mark = self.marks.get(&node).copied().unwrap_or_default();
        self.raise(node, mark.raised(boot, ballot(vote), acknowledged));
    }

    /// The last entry that a node is known to have acknowledged.
    pub(super) fn last_of(&self, node: u64) -> Option<u64> {
        let (_, last) = self.marks.get(&node)?.acknowledged?;
        Some(last.index)
    }

    /// What was seen of a node, for another.
    pub(super) fn seen(&self, node: u64, process: u64) -> v1::SeenNode {
        let Mark { boot, vote, acknowledged } = self.marks.get(&node).copied().unwrap_or_default();
        let (term, candidate) = vote;
        v1::SeenNode {
            node_id: node,
            process,
            boot_counter: boot,
            vote: Some(v1::RaftVote { term, node_id: candidate, committed: false }),
            acknowledged_term: acknowledged.map_or(0, |(term, _)| term),
            acknowledged: acknowledged.map(|(_, last)| wire::from_log_id(last)),
        }
    }

    fn raise(&mut self, node: u64, mark: Mark) {
        if self.marks.insert(node, mark) != Some(mark) {
            self.changed = true;
        }
    }

    /// The file that should be there now; `None` when it is.
    pub(super) fn unwritten(&mut self) -> Option<(PathBuf, Vec<u8>)> {
        std::mem::take(&mut self.changed).then(|| (self.path.clone(), encode(&self.marks)))
    }
}

const VERSION: u8 = 1;

fn encode(marks: &BTreeMap<u64, Mark>) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend((marks.len() as u32).to_be_bytes());
    for (node, Mark { boot, vote: (term, candidate), acknowledged }) in marks {
        for number in [node, boot, term, candidate] {
            out.extend(number.to_be_bytes());
        }
        put_optional(&mut out, acknowledged.as_ref(), |out, (term, last)| {
            out.extend(term.to_be_bytes());
            put_log_id(out, last);
        });
    }
    let sum = Sha256::digest(&out);
    out.extend(sum);
    out
}

fn decode(bytes: &[u8]) -> Result<BTreeMap<u64, Mark>, Malformed> {
    let (written, sum) = bytes.split_last_chunk::<32>().ok_or(Malformed)?;
    if Sha256::digest(written)[..] != sum[..] {
        return Err(Malformed);
    }
    let mut input = Input(written);
    if input.byte()? != VERSION {
        return Err(Malformed);
    }
    let mut marks = BTreeMap::new();
    for _ in 0..input.count()? {
        let node = input.number()?;
        let boot = input.number()?;
        let vote = (input.number()?, input.number()?);
        let acknowledged = input.optional(|input| Ok((input.number()?, input.log_id()?)))?;
        marks.insert(node, Mark { boot, vote, acknowledged });
    }
    input.finished()?;
    Ok(marks)
}

/// Counts this start: durable when it returns.
pub(super) fn count_start(path: &Path, fsync: &dyn Fsync) -> Result<u64, StartError> {
    let failed = |doing| move |source| StartError::Io { doing, path: path.to_owned(), source };
    let before = match fs::read_to_string(path) {
        Ok(text) => text.trim().parse::<u64>().map_err(|_| StartError::Damaged {
            path: path.to_owned(),
            what: "it does not say how often this node was started".into(),
        })?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(failed("read")(e)),
    };
    let starts = before.saturating_add(1);
    write_whole(path, starts.to_string().as_bytes(), fsync).map_err(failed("write"))?;
    Ok(starts)
}

/// Writes a file, whole or not at all; durable when it returns.
pub(super) fn write_whole(path: &Path, bytes: &[u8], fsync: &dyn Fsync) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    fsync.whole(&file)?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |folder| fsync.folder(folder))
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    fn shown(boot: u64, term: u64, last: LogId) -> Shown {
        Shown { boot, vote: (term, 1), last: Some(last) }
    }

    fn marks() -> Marks {
        Marks { path: PathBuf::new(), marks: BTreeMap::new(), changed: false }
    }

    #[test]
    fn a_node_that_comes_back_with_less_is_noticed_and_one_with_as_much_is_not() {
        let mut marks = marks();
        marks.compare(7, &shown(3, 2, id(2, 40))).unwrap();
        marks.acknowledged(7, (2, 1), Some(id(2, 50)));
        marks.compare(7, &shown(3, 2, id(2, 50))).unwrap();
        assert!(marks.compare(7, &shown(4, 2, id(2, 49))).unwrap_err().contains("entry 50"));
        assert!(marks.compare(7, &shown(2, 2, id(2, 60))).unwrap_err().contains("starts"));
        assert!(marks.compare(7, &shown(4, 1, id(2, 60))).unwrap_err().contains("term 2"));
        assert!(marks.compare(7, &Shown { last: None, ..shown(4, 2, id(0, 0)) }).is_err());
        // What was refused is not remembered.
        marks.compare(7, &shown(3, 2, id(2, 50))).unwrap();
        marks.compare(8, &Shown::default()).unwrap();
    }

    #[test]
    fn an_end_that_a_newer_leader_replaces_is_not_missed() {
        let mut marks = marks();
        marks.acknowledged(7, (2, 1), Some(id(2, 50)));
        // It voted in term 3, and was stopped between losing its end and getting another.
        marks.compare(7, &shown(2, 3, id(2, 45))).unwrap();
        marks.acknowledged(7, (3, 1), Some(id(3, 46)));
        marks.compare(7, &shown(3, 3, id(2, 45))).unwrap_err();
    }

    #[test]
    fn marks_are_read_back_as_they_were_written_or_not_at_all() {
        let mut marks = marks();
        marks.compare(7, &shown(3, 2, id(2, 40))).unwrap();
        marks.acknowledged(9, (5, 7), None);
        let (_, bytes) = marks.unwritten().unwrap();
        assert_eq!(decode(&bytes).unwrap(), marks.marks);
        assert_eq!(marks.unwritten(), None);
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            assert!(decode(&flipped).is_err(), "byte {place}");
            assert!(decode(&bytes[..place]).is_err());
        }
    }
}
