//! `countersign audit export` and `audit checkpoint`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use countersign_proto::v1;

use super::line::Line;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{client, print};

pub(super) async fn export(context: &Context, to: Option<&Path>) -> Done {
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
        "{count} records are in {0}; check them with `countersign audit verify {0} --root-key HEX`.",
        path.display()
    ))
}

/// A line for each item; how many records there were.
async fn write(admin: &mut client::Admin, out: &mut (impl Write + Send)) -> Result<u64, Failure> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::Left,
        _ => Failure::Refused(format!("the export cannot be written: {error}")),
    };
    let mut answers = admin.export_audit(v1::ExportAuditRequest {}).await?.into_inner();
    let mut count = 0;
    while let Some(answer) = answers.message().await? {
        let line = Line::try_from(answer)?;
        count += u64::from(matches!(line, Line::Record(_)));
        let line = serde_json::to_string(&line).map_err(Failure::refused)?;
        writeln!(out, "{line}").map_err(failed)?;
    }
    out.flush().map_err(failed)?;
    Ok(count)
}

/// The whole log.
pub(crate) async fn exported(admin: &mut client::Admin) -> Result<Vec<Line>, Failure> {
    let mut answers = admin.export_audit(v1::ExportAuditRequest {}).await?.into_inner();
    let mut lines = Vec::new();
    while let Some(answer) = answers.message().await? {
        lines.push(Line::try_from(answer)?);
    }
    Ok(lines)
}

/// One line, as an export has it: what is kept is what an export is held against.
pub(super) async fn checkpoint(context: &Context) -> Done {
    let mut admin = client::connect_to_watch(context).await?;
    let mut answers = admin.export_audit(v1::ExportAuditRequest {}).await?.into_inner();
    let mut newest = None;
    while let Some(answer) = answers.message().await? {
        if let Line::Checkpoint(checkpoint) = Line::try_from(answer)? {
            newest = Some(checkpoint);
        }
    }
    let newest = newest.ok_or_else(|| {
        Failure::refused(
            "there is no checkpoint yet: enough nodes sign one every now and then; try again later",
        )
    })?;
    print::json_line(&Line::Checkpoint(newest))
}
