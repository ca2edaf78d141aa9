//! The types that openraft is given, and the shape that votes and entries have on disk.
//!
//! The encoding is ours, not serde of openraft's types, so that another release of openraft changes two adapter
//! files and no byte that was written. Everything is big-endian; each encoding starts with its version.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{BasicNode, CommittedLeaderId, EntryPayload, LeaderId, StoredMembership};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::state::{Millis, Outcome};

openraft::declare_raft_types!(
    /// What openraft is parametrised with.
    pub Types:
        D = Sealed,
        R = Applied,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = tokio::fs::File,
);

pub type Entry = openraft::Entry<Types>;
pub type LogId = openraft::LogId<u64>;
pub(super) type Membership = openraft::Membership<u64, BasicNode>;
pub(super) type Members = StoredMembership<u64, BasicNode>;
pub type StorageError = openraft::StorageError<u64>;
pub type Vote = openraft::Vote<u64>;

/// A batch of commands as it is stored and sent: only who has the keyring can read it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// What applying one entry came to: log time after it, and an outcome for each of its commands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Applied {
    pub at: Millis,
    pub outcomes: Vec<Outcome>,
}

/// `H_i = SHA-256(H_{i-1} ‖ i ‖ SHA-256(entry i as encoded))`, over the whole log: equal on all nodes at every
/// index, so any changed, lost or swapped entry shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain(pub [u8; 32]);

impl Chain {
    #[must_use]
    pub fn then(self, index: u64, encoded_entry: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(index.to_be_bytes());
        hash.update(Sha256::digest(encoded_entry));
        Self(hash.finalize().into())
    }
}

/// Bytes that are not what this release, or any, writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not in a form that this release knows")]
pub(super) struct Malformed;

const VERSION: u8 = 1;
const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.push(VERSION);
    put_log_id(&mut out, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => out.push(BLANK),
        EntryPayload::Normal(sealed) => {
            out.push(NORMAL);
            out.extend(&sealed.0);
        }
        EntryPayload::Membership(membership) => {
            out.push(MEMBERSHIP);
            put_membership(&mut out, membership);
        }
    }
    out
}

pub(super) fn decode_entry(bytes: &[u8]) -> Result<Entry, Malformed> {
    let mut input = Input(bytes);
    input.version()?;
    let log_id = input.log_id()?;
    let payload = match input.byte()? {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Sealed(input.rest().to_vec())),
        MEMBERSHIP => EntryPayload::Membership(input.membership()?),
        _ => return Err(Malformed),
    };
    input.finished()?;
    Ok(Entry { log_id, payload })
}

pub(super) fn put_log_id(out: &mut Vec<u8>, id: &LogId) {
    for number in [id.leader_id.term, id.leader_id.node_id, id.index] {
        out.extend(number.to_be_bytes());
    }
}

pub(super) fn put_optional<T>(
    out: &mut Vec<u8>,
    value: Option<&T>,
    put: impl FnOnce(&mut Vec<u8>, &T),
) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

pub(super) fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    for number in [vote.leader_id.term, vote.leader_id.node_id] {
        out.extend(number.to_be_bytes());
    }
    out.push(u8::from(vote.committed));
}

pub(super) fn put_members(out: &mut Vec<u8>, members: &Members) {
    put_optional(out, members.log_id().as_ref(), put_log_id);
    put_membership(out, members.membership());
}

fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.extend((configs.len() as u32).to_be_bytes());
    for config in configs {
        out.extend((config.len() as u32).to_be_bytes());
        for id in config {
            out.extend(id.to_be_bytes());
        }
    }
    let nodes: Vec<_> = membership.nodes().collect();
    out.extend((nodes.len() as u32).to_be_bytes());
    for (id, node) in nodes {
        out.extend(id.to_be_bytes());
        out.extend((node.addr.len() as u32).to_be_bytes());
        out.extend(node.addr.as_bytes());
    }
}

/// Bytes still to be read.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn version(&mut self) -> Result<(), Malformed> {
        if self.byte()? == VERSION { Ok(()) } else { Err(Malformed) }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn finished(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| Malformed)
    }

    pub(super) fn hash(&mut self) -> Result<[u8; 32], Malformed> {
        self.take(32)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Malformed),
        }
    }

    pub(super) fn log_id(&mut self) -> Result<LogId, Malformed> {
        let (term, node, index) = (self.number()?, self.number()?, self.number()?);
        Ok(LogId::new(CommittedLeaderId::new(term, node), index))
    }

    pub(super) fn vote(&mut self) -> Result<Vote, Malformed> {
        let (term, node) = (self.number()?, self.number()?);
        let committed = match self.byte()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed),
        };
        Ok(Vote { leader_id: LeaderId::new(term, node), committed })
    }

    pub(super) fn members(&mut self) -> Result<Members, Malformed> {
        let log_id = self.optional(Self::log_id)?;
        Ok(StoredMembership::new(log_id, self.membership()?))
    }

    pub(super) fn count(&mut self) -> Result<usize, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_be_bytes(bytes) as usize)
    }

    fn membership(&mut self) -> Result<Membership, Malformed> {
        let mut configs = Vec::new();
        for _ in 0..self.count()? {
            let mut voters = BTreeSet::new();
            for _ in 0..self.count()? {
                voters.insert(self.number()?);
            }
            configs.push(voters);
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..self.count()? {
            let id = self.number()?;
            let length = self.count()?;
            let addr = std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)?;
            nodes.insert(id, BasicNode::new(addr));
        }
        Ok(Membership::new(configs, nodes))
    }
}
