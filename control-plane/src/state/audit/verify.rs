//! What a stranger can check of an exported audit log with the cluster's root public key, which they have from
//! elsewhere, and with nothing else of the cluster.
//!
//! An edit, a gap or a swap breaks the chain. Who writes the chain anew from some record on, or cuts it, must forge
//! the checkpoints from there on, and lacks the keys of a quorum; or must leave those checkpoints out. What was left
//! out together with all records after it shows only beside an index and a head that somebody kept: keep the ones
//! that a verification ends with.

use std::collections::BTreeMap;

use countersign_gate::{TRUST_TYPE, Trust};
use sha2::{Digest as _, Sha256};

use super::{BrokenAt, Checkpoint, Record, SignedCheckpoint, TRUST_ACTIONS, verify_records};
use crate::state::{SignedBytes, State};

/// A whole audit log, as it was exported.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    pub records: &'a [Record],
    pub checkpoints: &'a [SignedCheckpoint],
    /// All that there ever were, oldest first.
    pub trust_bundles: &'a [SignedBytes],
}

/// How far a log went, and with which record: kept outside of what is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub index: u64,
    /// Hash of that record.
    pub head: [u8; 32],
}

impl From<&Checkpoint> for Known {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self { index: checkpoint.index, head: checkpoint.head }
    }
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Records in the export.
    pub entries: u64,
    /// Hash of the last one; zeros when there is none.
    pub head: [u8; 32],
    /// Index of the last record that enough nodes signed for, 0 for none. Of records after it, only the chain says
    /// that they belong together.
    pub checkpointed: u64,
    /// The first thing that is wrong. None: nothing was changed, dropped or put in another order.
    pub fault: Option<Fault>,
}

/// What is wrong with an exported audit log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Broken(#[from] BrokenAt),
    #[error(
        "the log was forked: record {index} is another one than {}",
        if *.signed { "the one that nodes signed for" } else { "the one that was kept elsewhere" }
    )]
    Forked { index: u64, signed: bool },
    #[error(
        "a trust bundle is missing: record {record} says that one came into force, and it is not in the export"
    )]
    TrustMissing { record: u64 },
    #[error(
        "the log was cut: it ends with record {entries}, and {} up to record {index}",
        if *.signed { "nodes signed for it" } else { "what was kept elsewhere says that it went" }
    )]
    Truncated { index: u64, entries: u64, signed: bool },
    #[error(
        "the checkpoint of record {index} is forged or out of its place: too few of the nodes that were trusted then signed it"
    )]
    Unsigned { index: u64 },
    #[error(
        "trust bundle {place} is forged or out of its place: it is not signed with the root key that was given, or goes back behind the one before it"
    )]
    UntrustedTrust { place: usize },
}

impl Fault {
    /// The first record that is not to be believed any more.
    pub fn record(&self) -> Option<u64> {
        match self {
            Self::Broken(BrokenAt(index)) | Self::Forked { index, .. } => Some(*index),
            Self::TrustMissing { record } => Some(*record),
            Self::Truncated { entries, .. } => Some(entries.saturating_add(1)),
            Self::Unsigned { .. } | Self::UntrustedTrust { .. } => None,
        }
    }
}

/// Verifies a whole export. `root_public_key` must come from elsewhere: an export that brings its own proves nothing.
pub fn verify_export(
    export: Export<'_>,
    root_public_key: &[u8; 32],
    known: Option<Known>,
) -> Verdict {
    let records = export.records;
    let mut verdict = Verdict {
        entries: records.len() as u64,
        head: records.last().map_or([0; 32], |record| record.hash),
        checkpointed: 0,
        fault: None,
    };
    let mut check = || -> Result<(), Fault> {
        verify_from_one(records)?;
        let bundles = trusted(export.trust_bundles, root_public_key)?;
        let in_force = tied(records, export.trust_bundles, &bundles)?;
        for checkpoint in export.checkpoints {
            verify_checkpoint(records, checkpoint, &bundles, &in_force, verdict.checkpointed)?;
            verdict.checkpointed = checkpoint.checkpoint.index;
        }
        known.map_or(Ok(()), |known| verify_place(records, known, false))
    };
    verdict.fault = check().err();
    verdict
}

impl State {
    /// Verifies the audit log with the checkpoints and trust bundles that are here.
    pub fn verify_audit(&self, known: Option<Known>) -> Verdict {
        let export = Export {
            records: self.audit().records(),
            checkpoints: self.audit_checkpoints(),
            trust_bundles: self.trust_bundles(),
        };
        let root = self.genesis().map(|genesis| genesis.root_public_key).unwrap_or_default();
        verify_export(export, &root, known)
    }
}

fn verify_from_one(records: &[Record]) -> Result<(), BrokenAt> {
    match records.first() {
        Some(first) if first.index != 1 => Err(BrokenAt(1)),
        _ => verify_records(records),
    }
}

/// Each signed by the root key, and none going back.
fn trusted(bundles: &[SignedBytes], root: &[u8; 32]) -> Result<Vec<Trust>, Fault> {
    let mut trusted: Vec<Trust> = Vec::with_capacity(bundles.len());
    for (place, bundle) in bundles.iter().enumerate() {
        let last = trusted.last();
        let next = Trust::accept(&bundle.as_type(TRUST_TYPE), root, last)
            .ok()
            .filter(|next| last.is_none_or(|last| next.epoch > last.epoch));
        trusted.push(next.ok_or(Fault::UntrustedTrust { place: place + 1 })?);
    }
    Ok(trusted)
}

/// The chain says which bundles there were, and from which record on each was in force: index to epoch.
fn tied(
    records: &[Record],
    bundles: &[SignedBytes],
    trusted: &[Trust],
) -> Result<BTreeMap<u64, u64>, Fault> {
    let mut in_force = BTreeMap::new();
    let told = records.iter().filter(|record| TRUST_ACTIONS.contains(&record.action.as_str()));
    for record in told {
        let bundle = bundles.get(in_force.len()).zip(trusted.get(in_force.len()));
        let digest = |bundle: &SignedBytes| hex::encode(Sha256::digest(&bundle.payload));
        let same = bundle.filter(|(bundle, _)| record.detail("sha256") == Some(&digest(bundle)));
        let (_, trust) = same.ok_or(Fault::TrustMissing { record: record.index })?;
        in_force.insert(record.index, trust.epoch);
    }
    // One of which the chain knows nothing was never in force.
    if in_force.len() < trusted.len() {
        return Err(Fault::UntrustedTrust { place: in_force.len() + 1 });
    }
    Ok(in_force)
}

fn verify_checkpoint(
    records: &[Record],
    signed: &SignedCheckpoint,
    bundles: &[Trust],
    in_force: &BTreeMap<u64, u64>,
    after: u64,
) -> Result<(), Fault> {
    let index = signed.checkpoint.index;
    let trust = bundles.iter().find(|trust| trust.epoch == signed.epoch);
    // Keys that a bundle took out of use sign for nothing that came after it.
    let least = in_force.range(..=index).next_back().map_or(0, |(_, epoch)| *epoch);
    if index <= after || !trust.is_some_and(|trust| trust.epoch >= least && signed.counts(trust)) {
        return Err(Fault::Unsigned { index });
    }
    verify_place(records, Known::from(&signed.checkpoint), true)
}

fn verify_place(records: &[Record], known: Known, signed: bool) -> Result<(), Fault> {
    let Known { index, head } = known;
    let place = index.checked_sub(1).and_then(|place| usize::try_from(place).ok());
    match place.and_then(|place| records.get(place)) {
        Some(record) if record.hash == head => Ok(()),
        Some(_) => Err(Fault::Forked { index, signed }),
        // Nothing, of which nothing is known.
        None if index == 0 && head == [0; 32] => Ok(()),
        None => Err(Fault::Truncated { index, entries: records.len() as u64, signed }),
    }
}
