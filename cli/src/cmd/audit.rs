//! `countersign audit`: reads the log, and checks it, also without the control plane that wrote it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter};
use std::path::Path;
use std::time::SystemTime;

use countersign_control_plane::state::audit::{BrokenAt, Record, verify_records};
use countersign_proto::v1;
use serde::{Deserialize, Serialize};

use super::every_page;
use crate::args::{Audit, Output, Show};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{client, print};

pub(crate) async fn run(context: impl Fn() -> Result<Context, Failure>, command: Audit) -> Done {
    match command {
        Audit::List(show) => list(&context()?, &show).await,
        Audit::Verify { file: None, show } => {
            let mut admin = client::connect(&context()?).await?;
            let answer = admin.verify_audit(v1::VerifyAuditRequest {}).await?.into_inner();
            let v1::VerifyAuditResponse { ok, entries, head, broken_at, .. } = answer;
            verdict(&Verdict { ok, entries, head, broken_at }, &show)
        }
        Audit::Verify { file: Some(file), show } => verdict(&verify(&file)?, &show),
        Audit::Export { to } => export(&context()?, to.as_deref()).await,
    }
}

/// One record: a line of an export, and an element of `audit list -o json`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    index: u64,
    at: String,
    actor: String,
    pub(crate) action: String,
    subject: String,
    details: Vec<Detail>,
    previous_hash: String,
    hash: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Detail {
    name: String,
    value: String,
}

impl From<v1::AuditRecord> for Line {
    fn from(record: v1::AuditRecord) -> Self {
        let details = record
            .details
            .into_iter()
            .map(|v1::AuditDetail { name, value }| Detail { name, value });
        Self {
            index: record.index,
            at: print::time_or_dash(record.at.as_ref()),
            actor: record.actor,
            action: record.action,
            subject: record.subject,
            details: details.collect(),
            previous_hash: record.previous_hash,
            hash: record.hash,
        }
    }
}

impl Line {
    /// When, who, what, about what.
    pub(crate) fn brief(&self) -> Vec<String> {
        vec![self.at.clone(), self.actor.clone(), self.action.clone(), self.subject.clone()]
    }

    /// Whether it is about this subject, or says so in its details.
    pub(crate) fn names(&self, subject: &str) -> bool {
        self.subject == subject || self.details.iter().any(|detail| detail.value == subject)
    }

    /// As the state machine hashed it; None when a field is not what an export writes.
    fn record(&self) -> Option<Record> {
        let hash = |text: &str| hex::decode(text).ok()?.try_into().ok();
        let at =
            humantime::parse_rfc3339(&self.at).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Record {
            index: self.index,
            at: at.as_millis().try_into().ok()?,
            actor: self.actor.clone(),
            action: self.action.clone(),
            subject: self.subject.clone(),
            details: self
                .details
                .iter()
                .map(|detail| (detail.name.clone(), detail.value.clone()))
                .collect(),
            previous: hash(&self.previous_hash)?,
            hash: hash(&self.hash)?,
        })
    }
}

#[derive(Serialize)]
pub(crate) struct Verdict {
    pub(crate) ok: bool,
    pub(crate) entries: u64,
    pub(crate) head: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken_at: Option<u64>,
}

async fn list(context: &Context, show: &Show) -> Done {
    let mut admin = client::connect(context).await?;
    let records = every_page!(admin, list_audit, ListAuditRequest {}, records);
    let lines: Vec<Line> = records.into_iter().map(Line::from).collect();
    if show.output == Output::Json {
        return print::json(&lines);
    }
    let details = |details: &[Detail]| {
        details
            .iter()
            .map(|detail| format!("{}={}", detail.name, detail.value))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let row = |line: Line| {
        vec![
            line.index.to_string(),
            line.at,
            line.actor,
            line.action,
            line.subject,
            details(&line.details),
        ]
    };
    let rows: Vec<_> = lines.into_iter().map(row).collect();
    print::table(
        &["INDEX", "AT", "ACTOR", "ACTION", "SUBJECT", "DETAILS"],
        &rows,
        "The log is empty.",
    )
}

async fn export(context: &Context, to: Option<&Path>) -> Done {
    let mut admin = client::connect_to_watch(context).await?;
    let Some(path) = to else {
        let mut out = BufWriter::new(std::io::stdout());
        return write(&mut admin, &mut out).await.map(drop);
    };
    // Beside it first: an export that breaks off leaves the former one as it was.
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let failed = |error: std::io::Error| {
        Failure::Refused(format!("the export {} cannot be written: {error}", path.display()))
    };
    let file = File::create(&partial).map_err(failed)?;
    let written = write(&mut admin, &mut BufWriter::new(file)).await;
    let kept =
        written.and_then(|count| std::fs::rename(&partial, path).map_err(failed).map(|()| count));
    let count = kept.inspect_err(|_| drop(std::fs::remove_file(&partial)))?;
    print::line(&format!(
        "{count} records are in {0}; check them with `countersign audit verify {0}`.",
        path.display()
    ))
}

/// A line for each record; how many there were.
async fn write(
    admin: &mut client::Admin,
    out: &mut (impl std::io::Write + Send),
) -> Result<u64, Failure> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::Left,
        _ => Failure::Refused(format!("the export cannot be written: {error}")),
    };
    let mut answers = admin.export_audit(v1::ExportAuditRequest {}).await?.into_inner();
    let mut count = 0;
    while let Some(answer) = answers.message().await? {
        let line = serde_json::to_string(&Line::from(record(answer)?)).map_err(Failure::refused)?;
        writeln!(out, "{line}").map_err(failed)?;
        count += 1;
    }
    out.flush().map_err(failed)?;
    Ok(count)
}

/// The whole log.
pub(crate) async fn exported(admin: &mut client::Admin) -> Result<Vec<Line>, Failure> {
    let mut answers = admin.export_audit(v1::ExportAuditRequest {}).await?.into_inner();
    let mut lines = Vec::new();
    while let Some(answer) = answers.message().await? {
        lines.push(Line::from(record(answer)?));
    }
    Ok(lines)
}

/// Checks an exported log with nothing but SHA-256. `Err` is the position, from 1, of what is no record.
pub(crate) fn verified(lines: &[Line]) -> Result<Verdict, usize> {
    let record = |(position, line): (usize, &Line)| line.record().ok_or(position + 1);
    let records: Vec<Record> = lines.iter().enumerate().map(record).collect::<Result<_, _>>()?;
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

fn verify(file: &Path) -> Result<Verdict, Failure> {
    let unread = |error: std::io::Error| {
        Failure::Refused(format!("the export {} cannot be read: {error}", file.display()))
    };
    let not_one = |position: usize| {
        Failure::Refused(format!(
            "{}:{position}: this is not a record of an audit export",
            file.display()
        ))
    };
    let mut lines = Vec::new();
    for (number, text) in BufReader::new(File::open(file).map_err(unread)?).lines().enumerate() {
        let line = serde_json::from_str::<Line>(&text.map_err(unread)?);
        lines.push(line.map_err(|_| not_one(number + 1))?);
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

fn verdict(verdict: &Verdict, show: &Show) -> Done {
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
    use super::*;

    fn log() -> Vec<Line> {
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
            Line {
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

    fn through_a_file(lines: &[Line]) -> Result<Verdict, Failure> {
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

fn record(answer: v1::ExportAuditResponse) -> Result<v1::AuditRecord, Failure> {
    match answer.item {
        Some(v1::export_audit_response::Item::Record(record)) => Ok(record),
        _ => Err(Failure::refused("the control plane sent something that is no audit record")),
    }
}
