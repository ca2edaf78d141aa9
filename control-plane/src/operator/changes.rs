//! What waits for a second administrator.

use countersign_proto::v1;
use tonic::Status;

use super::once::Once;
use super::page::{Page, timestamp};
use super::refuse;
use crate::access::Admitted;
use crate::state::{Change, Command};

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListChangesRequest,
) -> Result<v1::ListChangesResponse, Status> {
    let page = Page::of("changes", request.page_size, &request.page_token)?;
    let read = asked.house.cluster.read(|state| {
        let keyed = state.changes().map(|change| (format!("{:020}", change.id), change));
        page.cut(keyed.collect(), to_proto)
    });
    let (changes, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListChangesResponse { changes, next_page_token })
}

pub(super) async fn confirm(
    asked: &Admitted,
    request: v1::ConfirmChangeRequest,
) -> Result<v1::ConfirmChangeResponse, Status> {
    let once = Once::of(asked, "ConfirmChange", &request.request_id)?;
    let change = known(asked, request.change_id).await?;
    once.propose(asked, Command::ConfirmChange { id: request.change_id }).await?;
    Ok(v1::ConfirmChangeResponse { change })
}

pub(super) async fn reject(
    asked: &Admitted,
    request: v1::RejectChangeRequest,
) -> Result<v1::RejectChangeResponse, Status> {
    let once = Once::of(asked, "RejectChange", &request.request_id)?;
    let change = known(asked, request.change_id).await?;
    let command = Command::RejectChange { id: request.change_id, reason: request.reason };
    once.propose(asked, command).await?;
    Ok(v1::RejectChangeResponse { change })
}

/// The change as it waits; None for one that does so no more, which the command that follows says.
async fn known(asked: &Admitted, id: u64) -> Result<Option<v1::Change>, Status> {
    let found = asked.house.cluster.read(|state| {
        let mut changes = state.changes();
        changes.find(|change| change.id == id).map(to_proto)
    });
    found.await.map_err(|e| refuse::unavailable(&e))
}

fn to_proto(change: &Change) -> v1::Change {
    let policy_text = match &*change.command {
        Command::SetPolicy { text, .. } => text.clone(),
        _ => String::new(),
    };
    v1::Change {
        change_id: change.id,
        summary: change.summary(),
        proposed_by: change.by.clone(),
        proposed_at: timestamp(change.at),
        expires_at: timestamp(change.expires_at),
        policy_text,
    }
}
