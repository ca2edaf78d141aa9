//! The audit log, as it is: listed, verified, exported.

use std::pin::Pin;

use countersign_proto::v1;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tonic::Status;

use super::page::{Page, timestamp};
use super::refuse;
use crate::access::Admitted;
use crate::state::Record;

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListAuditRequest,
) -> Result<v1::ListAuditResponse, Status> {
    let page = Page::of("audit", request.page_size, &request.page_token)?;
    let read = asked.house.cluster.read(|state| {
        // Twenty digits, so that their order as text is their order.
        let (records, next) = page.cut_sorted(
            state.audit().records().iter().map(|record| (format!("{:020}", record.index), record)),
        );
        (records.into_iter().map(to_proto).collect::<Vec<_>>(), next)
    });
    let (records, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListAuditResponse { records, next_page_token })
}

pub(super) async fn verify(
    asked: &Admitted,
    _: v1::VerifyAuditRequest,
) -> Result<v1::VerifyAuditResponse, Status> {
    let read = asked.house.cluster.read(|state| {
        let log = state.audit();
        (log.verify(), log.records().len() as u64, log.head())
    });
    let (verified, entries, head) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::VerifyAuditResponse {
        ok: verified.is_ok(),
        entries,
        head: hex::encode(head),
        broken_at: verified.err().map(|broken| broken.0),
    })
}

/// Records in order, from the first.
pub(super) type Export =
    Pin<Box<dyn Stream<Item = Result<v1::ExportAuditResponse, Status>> + Send>>;

const AT_ONCE: usize = 256;

pub(super) async fn export(asked: &Admitted, _: v1::ExportAuditRequest) -> Result<Export, Status> {
    let house = asked.house.clone();
    let batches = futures::stream::try_unfold(0, move |from| {
        let house = house.clone();
        async move {
            let read = house.cluster.read(|state| {
                state
                    .audit()
                    .records()
                    .iter()
                    .skip(from)
                    .take(AT_ONCE)
                    .map(to_proto)
                    .collect::<Vec<_>>()
            });
            let records = read.await.map_err(|e| refuse::unavailable(&e))?;
            let next = from + records.len();
            Ok::<_, Status>((!records.is_empty()).then_some((records, next)))
        }
    });
    let records =
        batches.map_ok(|records| futures::stream::iter(records.into_iter().map(Ok))).try_flatten();
    Ok(records
        .map(|record| record.map(|record| v1::ExportAuditResponse { record: Some(record) }))
        .boxed())
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
