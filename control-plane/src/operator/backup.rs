//! A copy of everything, as encrypted as it lies here.

use std::pin::Pin;

use bytes::Bytes;
use countersign_proto::v1;
use futures::{Stream, StreamExt as _};
use tonic::Status;

use super::refuse;
use super::seal::note;
use crate::access::Admitted;

pub(super) type Backup =
    Pin<Box<dyn Stream<Item = Result<v1::BackupClusterResponse, Status>> + Send>>;

const CHUNK: usize = 256 * 1024;

pub(super) async fn backup(
    asked: &Admitted,
    _: v1::BackupClusterRequest,
) -> Result<Backup, Status> {
    // Before it is taken: so it says of itself who took it.
    note(asked, "cluster.backup", "state", Vec::new()).await?;
    let taken = asked.house.cluster.snapshot_now().await;
    let taken = Bytes::from(taken.map_err(|e| refuse::unavailable(&e))?);
    let chunks = (0..taken.len()).step_by(CHUNK).map(move |from| {
        let data = taken.slice(from..taken.len().min(from + CHUNK));
        Ok(v1::BackupClusterResponse { data })
    });
    Ok(futures::stream::iter(chunks.collect::<Vec<_>>()).boxed())
}
