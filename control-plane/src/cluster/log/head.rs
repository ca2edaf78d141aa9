//! How far the log goes, as the mark has it and as the records show, and whether the two agree.

use openraft::EntryPayload;

use super::record::{index_of, key, meta, records};
use super::{NODE, PURGED, VOTE, WINDOW};
use crate::cluster::consensus::{
    Chain, Input, LogId, Malformed, Sealed, Vote, encode_entry, put_log_id, put_optional, put_vote,
};
use crate::cluster::engine::{Engine, Tree};

/// An entry's id and the chain up to and including it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    pub id: LogId,
    pub chain: Chain,
}

/// What is in the log, as of the last acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) node: u64,
    pub(super) purged: Option<Tip>,
    /// Of the last entry; of the last purged one when no entry is left.
    pub(super) last: Option<Tip>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
}

impl Head {
    pub(super) fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.id.index + 1)
    }

    pub(super) fn to_mark(&self) -> Vec<u8> {
        let mut mark = vec![MARK_VERSION];
        mark.extend(self.node.to_be_bytes());
        put_optional(&mut mark, self.purged.as_ref(), put_tip);
        put_optional(&mut mark, self.last.as_ref(), put_tip);
        put_optional(&mut mark, self.vote.as_ref(), put_vote);
        put_optional(&mut mark, self.committed.as_ref(), put_log_id);
        mark
    }

    pub(super) fn from_mark(mark: &[u8]) -> Result<Self, Malformed> {
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
pub(super) fn survey(
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
            let before = head.last.map_or_else(Chain::default, |last| last.chain);
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
        let end =
            reached.map_or_else(|| "is empty".into(), |index| format!("ends with entry {index}"));
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

pub(super) fn put_tip(out: &mut Vec<u8>, tip: &Tip) {
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
    vote.map_or_else(|| "no vote".into(), |v| format!("vote {v}"))
}
