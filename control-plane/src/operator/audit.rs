//! The audit log, as it is: listed, verified, exported.

use std::pin::Pin;

use countersign_proto::v1;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tonic::Status;

use super::page::{Page, timestamp};
use super::refuse;
use crate::access::Admitted;
use crate::state::Record;
use crate::state::audit::{BrokenAt, verify_records};

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListAuditRequest,
) -> Result<v1::ListAuditResponse, Status> {
    let page = Page::of("audit", request.page_size, &request.page_token)?;
    // Records have no gaps, so the index of the last one is how many came before.
    let before = page.after().map_or(Ok(0), str::parse::<usize>);
    let before =
        before.map_err(|_| refuse::field("page_token", "is not one that this list gave"))?;
    let read = asked.house.cluster.read(|state| {
        let rest = state.audit().records().iter().skip(before);
        page.cut_sorted(rest.map(|record| (record.index.to_string(), record)), to_proto)
    });
    let (records, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListAuditResponse { records, next_page_token })
}

/// Verifies the chain stretch by stretch: nothing is applied while a stretch is read, so it is copied out first.
pub(super) async fn verify(
    asked: &Admitted,
    _: v1::VerifyAuditRequest,
) -> Result<v1::VerifyAuditResponse, Status> {
    let (mut entries, mut head) = (0, [0; 32]);
    loop {
        let stretch = stretch(asked, entries).await?;
        let Some(first) = stretch.first() else { break };
        let follows = first.index == entries + 1 && first.previous == head;
        let verified = if follows { verify_records(&stretch) } else { Err(BrokenAt(entries + 1)) };
        if let Err(BrokenAt(index)) = verified {
            let head = hex::encode(head);
            return Ok(v1::VerifyAuditResponse {
                ok: false,
                entries,
                head,
                broken_at: Some(index),
                checkpointed: 0,
            });
        }
        entries += stretch.len() as u64;
        head = stretch.last().map_or(head, |record| record.hash);
    }
    Ok(v1::VerifyAuditResponse {
        ok: true,
        entries,
        head: hex::encode(head),
        broken_at: None,
        checkpointed: 0,
    })
}

/// Records in order, from the first.
pub(super) type Export =
    Pin<Box<dyn Stream<Item = Result<v1::ExportAuditResponse, Status>> + Send>>;

const AT_ONCE: usize = 1024;

pub(super) async fn export(asked: &Admitted, _: v1::ExportAuditRequest) -> Result<Export, Status> {
    let asked = asked.clone();
    let stretches = futures::stream::try_unfold(0, move |before| {
        let asked = asked.clone();
        async move {
            let records = stretch(&asked, before).await?;
            let next = before + records.len() as u64;
            Ok::<_, Status>((!records.is_empty()).then_some((records, next)))
        }
    });
    let records = stretches.map_ok(|stretch| futures::stream::iter(stretch.into_iter().map(Ok)));
    let answers = records.try_flatten().map_ok(|record: Record| v1::ExportAuditResponse {
        item: Some(v1::export_audit_response::Item::Record(to_proto(&record))),
    });
    Ok(answers.boxed())
}

/// The next records after so many.
async fn stretch(asked: &Admitted, before: u64) -> Result<Vec<Record>, Status> {
    let before = usize::try_from(before).unwrap_or(usize::MAX);
    let read = asked
        .house
        .cluster
        .read(|state| state.audit().records().iter().skip(before).take(AT_ONCE).cloned().collect());
    read.await.map_err(|e| refuse::unavailable(&e))
}

fn to_proto(record: &Record) -> v1::AuditRecord {
    let detail = |(name, value): &(String, String)| v1::AuditDetail {
        name: name.clone(),
        value: value.clone(),
    };
    v1::AuditRecord {
        index: record.index,
        at: timestamp(record.at),
        actor: record.actor.clone(),
        action: record.action.clone(),
        subject: record.subject.clone(),
        details: record.details.iter().map(detail).collect(),
        previous_hash: hex::encode(record.previous),
        hash: hex::encode(record.hash),
    }
}
