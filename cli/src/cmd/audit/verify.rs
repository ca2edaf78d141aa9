//! `countersign audit verify`.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use countersign_control_plane::state::audit::{BrokenAt, Record, verify_records};
use countersign_proto::v1;
use serde::Serialize;

use super::line::Line;
use crate::args::{Output, Show};
use crate::failure::{Done, Failure};
use crate::print;

#[derive(Serialize)]
pub(crate) struct Verdict {
    pub(crate) ok: bool,
    pub(crate) entries: u64,
    pub(crate) head: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken_at: Option<u64>,
}

impl From<v1::VerifyAuditResponse> for Verdict {
    fn from(answer: v1::VerifyAuditResponse) -> Self {
        let v1::VerifyAuditResponse { ok, entries, head, broken_at, .. } = answer;
        Self { ok, entries, head, broken_at }
    }
}

/// Checks an exported log with nothing but SHA-256. `Err` is the position, from 1, of what is no record.
pub(crate) fn verified(lines: &[Line]) -> Result<Verdict, usize> {
    let entries = lines.iter().enumerate().filter_map(|(position, line)| match line {
        Line::Record(entry) => Some(entry.record().ok_or(position + 1)),
        Line::Checkpoint(_) | Line::Preamble(_) => None,
    });
    let records: Vec<Record> = entries.collect::<Result<_, _>>()?;
    if records.first().is_some_and(|record| record.index != 1) {
        return Ok(broken(&records, BrokenAt(1)));
    }
    Ok(match verify_records(&records) {
        Ok(()) => Verdict {
            ok: true,
            entries: records.len() as u64,
            head: head(&records),
            broken_at: None,
        },
        Err(at) => broken(&records, at),
    })
}

pub(super) fn verify(file: &Path) -> Result<Verdict, Failure> {
    let unread = |error: std::io::Error| {
        Failure::Refused(format!("the export {} cannot be read: {error}", file.display()))
    };
    let not_one = |position: usize| {
        Failure::Refused(format!(
            "{}:{position}: this is not a line of an audit export",
            file.display()
        ))
    };
    let mut lines = Vec::new();
    for (number, text) in BufReader::new(File::open(file).map_err(unread)?).lines().enumerate() {
        let line = Line::parse(&text.map_err(unread)?);
        lines.push(line.ok_or_else(|| not_one(number + 1))?);
    }
    verified(&lines).map_err(not_one)
}

fn broken(records: &[Record], BrokenAt(index): BrokenAt) -> Verdict {
    Verdict {
        ok: false,
        entries: records.len() as u64,
        head: head(records),
        broken_at: Some(index),
    }
}

/// Hash of the last record; zeros before the first.
fn head(records: &[Record]) -> String {
    hex::encode(records.last().map_or([0; 32], |record| record.hash))
}

pub(super) fn tell(verdict: &Verdict, show: &Show) -> Done {
    match show.output {
        Output::Json => print::json(verdict)?,
        Output::Table if verdict.ok => {
            print::line(&format!(
                "{} records, each fits what comes before it. Head {}.",
                verdict.entries, verdict.head
            ))?;
        }
        Output::Table => {}
    }
    if verdict.ok {
        return Ok(());
    }
    let at = verdict.broken_at.map(|index| format!(" at record {index}")).unwrap_or_default();
    Err(Failure::Refused(format!(
        "the audit log does not verify{at}: something in it was changed, removed or reordered"
    )))
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
        verify(&path)
    }

    #[test]
    fn an_export_verifies_without_a_control_plane() {
        let lines = log();
        let verdict = through_a_file(&lines).unwrap();
        assert!(verdict.ok);
        assert_eq!((verdict.entries, &verdict.head), (5, &lines[4].hash));
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
