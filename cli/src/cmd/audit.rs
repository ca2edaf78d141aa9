//! `countersign audit`: reads the log, and checks it, also without the control plane that wrote it.

mod export;
mod line;
mod verify;

use countersign_proto::v1;

pub(crate) use export::exported;
pub(crate) use line::{Entry, Line};
pub(crate) use verify::{Verdict, chained};

use super::every_page;
use crate::args::{Audit, Output, Show};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{client, print};

pub(crate) async fn run(context: impl Fn() -> Result<Context, Failure>, command: Audit) -> Done {
    match command {
        Audit::Checkpoint => export::checkpoint(&context()?).await,
        Audit::Export { to } => export::export(&context()?, to.as_deref()).await,
        Audit::List(show) => list(&context()?, &show).await,
        Audit::Verify { file: None, show, .. } => {
            let mut admin = client::connect(&context()?).await?;
            let answer = admin.verify_audit(v1::VerifyAuditRequest {}).await?.into_inner();
            verify::tell(&answer.into(), &show)
        }
        Audit::Verify { file: Some(file), against, show } => {
            verify::tell(&verify::verify(&file, &against)?, &show)
        }
    }
}

async fn list(context: &Context, show: &Show) -> Done {
    let mut admin = client::connect(context).await?;
    let records = every_page!(admin, list_audit, ListAuditRequest {}, records);
    let entries: Vec<Entry> = records.into_iter().map(Entry::from).collect();
    if show.output == Output::Json {
        return print::json(&entries);
    }
    let row = |entry: Entry| {
        let details: Vec<String> = entry
            .details
            .iter()
            .map(|detail| format!("{}={}", detail.name, detail.value))
            .collect();
        vec![
            entry.index.to_string(),
            entry.at,
            entry.actor,
            entry.action,
            entry.subject,
            details.join(" "),
        ]
    };
    let rows: Vec<_> = entries.into_iter().map(row).collect();
    print::table(
        &["INDEX", "AT", "ACTOR", "ACTION", "SUBJECT", "DETAILS"],
        &rows,
        "The log is empty.",
    )
}
