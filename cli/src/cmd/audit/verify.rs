//! `countersign audit verify`: what was exported, held against what did not come with it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use countersign_control_plane::sign::RootKey;
use countersign_control_plane::state::SignedBytes;
use countersign_control_plane::state::audit::{
    BrokenAt, Export, Fault, Known, Record, SignedCheckpoint, verify_export, verify_records,
};
use countersign_gate::TRUST_TYPE;
use countersign_proto::v1;
use serde::Serialize;

use super::line::{Line, Preamble};
use crate::args::{Against, Output, Show};
use crate::failure::{Done, Failure};
use crate::{print, secret};

/// What was found.
#[derive(Serialize)]
pub(crate) struct Verdict {
    /// Nothing was found to be wrong.
    pub(crate) ok: bool,
    pub(crate) entries: u64,
    pub(crate) head: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken_at: Option<u64>,
    /// Index of the last record that enough nodes signed for, as far as that was checked.
    checkpointed: u64,
    /// Of a file: whether signatures were checked, under a root key that did not come with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signatures_checked: Option<bool>,
    /// The record from which on it goes on from a checkpoint that was kept elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    continues: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

impl From<v1::VerifyAuditResponse> for Verdict {
    fn from(answer: v1::VerifyAuditResponse) -> Self {
        Self {
            ok: answer.ok,
            entries: answer.entries,
            head: answer.head,
            broken_at: answer.broken_at,
            checkpointed: answer.checkpointed,
            signatures_checked: None,
            continues: None,
            fault: None,
        }
    }
}

/// Holds a file against a root key and a kept checkpoint, as far as they are given.
pub(super) fn verify(file: &Path, against: &Against) -> Result<Verdict, Failure> {
    let named = |position| {
        Failure::Refused(format!(
            "{}:{position}: this is not a line of an audit export",
            file.display()
        ))
    };
    let exported = Exported::read(&lines(file)?).map_err(named)?;
    let kept = against.checkpoint.as_deref().map(kept).transpose()?;
    match root_key(against)? {
        None => Ok(exported.chain(kept)),
        Some(root) => exported.signatures(&root, kept),
    }
}

/// Whether each record fits what comes before it: all that can be said of lines by themselves. `Err` is the position,
/// from 1, of what is no part of an export.
pub(crate) fn chained(lines: &[Line]) -> Result<Verdict, usize> {
    Ok(Exported::read(lines)?.chain(None))
}

fn lines(file: &Path) -> Result<Vec<Line>, Failure> {
    let unread = |error: std::io::Error| {
        Failure::Refused(format!("the export {} cannot be read: {error}", file.display()))
    };
    let mut lines = Vec::new();
    for (number, text) in BufReader::new(File::open(file).map_err(unread)?).lines().enumerate() {
        let line = Line::parse(&text.map_err(unread)?).ok_or_else(|| {
            Failure::Refused(format!(
                "{}:{}: this is not a line of an audit export",
                file.display(),
                number + 1
            ))
        })?;
        lines.push(line);
    }
    Ok(lines)
}

/// The parts of an export.
#[derive(Default)]
struct Exported {
    root_public_key: String,
    trust_bundles: Vec<SignedBytes>,
    records: Vec<Record>,
    checkpoints: Vec<SignedCheckpoint>,
}

impl Exported {
    /// `Err` is the position, from 1, of a line that is malformed, or that is out of its place.
    fn read(lines: &[Line]) -> Result<Self, usize> {
        let mut exported = Self::default();
        for (place, line) in lines.iter().enumerate() {
            exported.take(place == 0, line).ok_or(place + 1)?;
        }
        Ok(exported)
    }

    fn take(&mut self, first: bool, line: &Line) -> Option<()> {
        match line {
            Line::Checkpoint(checkpoint) => self.checkpoints.push(checkpoint.signed()?),
            Line::Preamble(Preamble { root_public_key, trust_bundles, .. }) if first => {
                self.root_public_key.clone_from(root_public_key);
                let bundles = trust_bundles.iter().map(|bundle| bundle.signed(TRUST_TYPE));
                self.trust_bundles = bundles.collect::<Option<_>>()?;
            }
            Line::Preamble(_) => return None,
            Line::Record(entry) => self.records.push(entry.record()?),
        }
        Some(())
    }

    /// Without a root key: the chain, and whether it goes on from what was kept.
    fn chain(&self, kept: Option<Known>) -> Verdict {
        let records = &self.records;
        let whole = match records.first() {
            Some(first) if first.index != 1 => Err(BrokenAt(1)),
            _ => verify_records(records),
        };
        let fault = whole.err().map(Fault::from);
        let place = |known: Known| {
            let Known { index, head } = known;
            let record = records.iter().find(|record| record.index == index);
            match record {
                Some(record) if record.hash == head => None,
                Some(_) => Some(Fault::Forked { index, signed: false }),
                None => {
                    let entries = records.len() as u64;
                    Some(Fault::Truncated { index, entries, signed: false })
                }
            }
        };
        let fault = fault.or_else(|| kept.and_then(place));
        self.verdict(fault, 0, false, kept)
    }

    fn signatures(&self, root: &[u8; 32], kept: Option<Known>) -> Result<Verdict, Failure> {
        let own = RootKey::from_hex(&hex::encode(root)).map(|key| hex::encode(key.public()));
        if own.as_ref() == Some(&self.root_public_key) {
            return Err(Failure::Usage(format!(
                "that is the key of the trust root itself: keep it offline, and give its public half, {}",
                self.root_public_key
            )));
        }
        let export = Export {
            records: &self.records,
            checkpoints: &self.checkpoints,
            trust_bundles: &self.trust_bundles,
        };
        let found = verify_export(export, root, kept);
        Ok(self.verdict(found.fault, found.checkpointed, true, kept))
    }

    fn verdict(
        &self,
        fault: Option<Fault>,
        checkpointed: u64,
        signatures_checked: bool,
        kept: Option<Known>,
    ) -> Verdict {
        Verdict {
            ok: fault.is_none(),
            entries: self.records.len() as u64,
            head: hex::encode(self.records.last().map_or([0; 32], |record| record.hash)),
            broken_at: fault.as_ref().and_then(Fault::record),
            checkpointed,
            signatures_checked: Some(signatures_checked),
            continues: kept.filter(|_| fault.is_none()).map(|known| known.index),
            fault: fault.map(|fault| fault.to_string()),
        }
    }
}

/// What `audit checkpoint` printed. It was kept where nobody else writes, so it is believed.
fn kept(file: &Path) -> Result<Known, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::Refused(format!("the checkpoint {} cannot be read: {error}", file.display()))
    })?;
    let signed = match Line::parse(text.trim()) {
        Some(Line::Checkpoint(checkpoint)) => checkpoint.signed(),
        _ => None,
    };
    signed.map(|signed| Known::from(&signed.checkpoint)).ok_or_else(|| {
        Failure::Usage(format!(
            "{} is not a checkpoint: keep what `countersign audit checkpoint` prints",
            file.display()
        ))
    })
}

fn root_key(against: &Against) -> Result<Option<[u8; 32]>, Failure> {
    let text = match (&against.root_key, &against.root_key_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => {
            secret::read_word(Some(file), "the public root key")?.as_str().to_owned()
        }
        (None, None) => return Ok(None),
    };
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_| {
        Failure::usage("the public root key has to be 64 hexadecimal digits: `countersign cluster trust` shows it")
    })?;
    Ok(Some(key))
}

pub(super) fn tell(verdict: &Verdict, show: &Show) -> Done {
    match show.output {
        Output::Json => print::json(verdict)?,
        Output::Table if verdict.ok => print::line(&sentences(verdict))?,
        Output::Table => {}
    }
    if verdict.ok {
        return Ok(());
    }
    let at = verdict.broken_at.map(|index| format!(" at record {index}")).unwrap_or_default();
    let why =
        verdict.fault.as_deref().unwrap_or("something in it was changed, removed or reordered");
    Err(Failure::Refused(format!("the audit log does not verify{at}: {why}")))
}

fn sentences(verdict: &Verdict) -> String {
    let mut said = format!(
        "{} records, each fits what comes before it. Head {}.",
        verdict.entries, verdict.head
    );
    if let Some(index) = verdict.continues {
        said.push_str(&format!(" It goes on from the checkpoint of record {index} that was kept."));
    }
    let signed = match (verdict.signatures_checked, verdict.checkpointed) {
        (Some(false), _) => {
            " Chain ok, signatures not checked: give --root-key, from elsewhere than this file."
                .into()
        }
        (_, 0) => " No checkpoint is signed yet.".into(),
        (_, index) => format!(" Enough nodes signed it up to record {index}."),
    };
    said.push_str(&signed);
    said
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::line::{Detail, Entry};
    use super::*;

    fn log() -> Vec<Entry> {
        let mut previous = [0; 32];
        let one = |index: u64| {
            let mut record = Record {
                index,
                at: 1_700_000_000_000 + index,
                actor: "principal:admin".into(),
                action: "approval.vote".into(),
                subject: "x".into(),
                details: vec![("reason".into(), "a\u{2028}b\n\"c\"".into())],
                previous,
                hash: [0; 32],
            };
            record.hash = record.computed_hash();
            previous = record.hash;
            let at = humantime::format_rfc3339_millis(
                SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(record.at),
            );
            Entry {
                index,
                at: at.to_string(),
                actor: record.actor,
                action: record.action,
                subject: record.subject,
                details: record
                    .details
                    .into_iter()
                    .map(|(name, value)| Detail { name, value })
                    .collect(),
                previous_hash: hex::encode(record.previous),
                hash: hex::encode(record.hash),
            }
        };
        (1..=5).map(one).collect()
    }

    fn through_a_file(lines: &[Entry]) -> Result<Verdict, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let text: Vec<String> =
            lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        std::fs::write(&path, text.join("\n")).unwrap();
        let against = Against { root_key: None, root_key_file: None, checkpoint: None };
        verify(&path, &against)
    }

    #[test]
    fn an_export_verifies_without_a_control_plane() {
        let lines = log();
        let verdict = through_a_file(&lines).unwrap();
        assert!(verdict.ok);
        assert_eq!((verdict.entries, &verdict.head), (5, &lines[4].hash));
        assert_eq!(verdict.signatures_checked, Some(false), "a file that vouches for itself");
        assert!(through_a_file(&[]).unwrap().ok);
    }

    #[test]
    fn c_9_an_edited_record_is_found() {
        let mut lines = log();
        lines[2].actor = "principal:mallory".into();
        assert_eq!(through_a_file(&lines).unwrap().broken_at, Some(3));
        let mut lines = log();
        lines[3].at = "2023-11-14T22:13:21Z".into();
        assert_eq!(through_a_file(&lines).unwrap().broken_at, Some(4));
    }

    #[test]
    fn c_9_a_removed_record_is_found_also_the_first() {
        let mut lines = log();
        lines.remove(2);
        assert_eq!(through_a_file(&lines).unwrap().broken_at, Some(3));
        let mut lines = log();
        lines.remove(0);
        assert_eq!(through_a_file(&lines).unwrap().broken_at, Some(1));
    }

    #[test]
    fn what_is_no_record_is_named_by_its_line() {
        let mut lines = log();
        lines[1].hash = "short".into();
        let Err(Failure::Refused(why)) = through_a_file(&lines) else { panic!("verified") };
        assert!(why.contains("audit.jsonl:2:"), "{why}");
    }
}
