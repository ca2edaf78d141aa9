//! A snapshot on its way to another node: in chunks, from where the last transfer was cut.

use std::io;
use std::time::Duration;

use countersign_proto::v1;
use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use futures::Stream;
use openraft::Snapshot;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tonic::Status;
use tonic::transport::Channel;

use super::consensus::{Types, Vote};
use super::wire;

const CHUNK: usize = 256 * 1024;
/// For a whole snapshot to be sent and installed; a connection that is dead ends sooner.
const PATIENCE: Duration = Duration::from_secs(600);

/// Sends what the other node has not got yet, and returns when it has installed the whole.
///
/// # Errors
/// What the other node said, or that it was not reached. What it received it keeps for the next time.
pub(super) async fn send(
    mut client: ClusterServiceClient<Channel>,
    cluster_id: String,
    process: u64,
    vote: Vote,
    snapshot: Snapshot<Types>,
) -> Result<v1::InstallSnapshotResponse, Status> {
    let Snapshot { meta, snapshot: file } = snapshot;
    let snapshot_id = meta.snapshot_id.clone();
    let asked = v1::SnapshotOffsetRequest { cluster_id: cluster_id.clone(), snapshot_id };
    let offset = client.snapshot_offset(asked).await?.into_inner().offset;
    let unread = |e: io::Error| Status::internal(format!("the snapshot cannot be read: {e}"));
    let reading = Reading::from_offset(*file, offset).await.map_err(unread)?;

    let head = wire::from_meta(cluster_id, process, vote, &meta);
    let mut request = tonic::Request::new(chunks(head, reading));
    request.set_timeout(PATIENCE);
    Ok(client.install_snapshot(request).await?.into_inner())
}

/// A file that is read in chunks while its hash is taken.
struct Reading {
    file: File,
    offset: u64,
    left: u64,
    hash: Sha256,
}

impl Reading {
    /// The hash is of the whole, so what is not sent again is read nevertheless.
    async fn from_offset(mut file: File, offset: u64) -> io::Result<Self> {
        file.rewind().await?;
        let left = file.metadata().await?.len();
        let mut reading = Self { file, offset: 0, left, hash: Sha256::new() };
        // A receiver that claims to have more than there is gets everything again.
        let offset = if offset < left { offset } else { 0 };
        while reading.offset < offset {
            let most = usize::try_from(offset - reading.offset).unwrap_or(CHUNK);
            reading.next(most.min(CHUNK)).await?;
        }
        Ok(reading)
    }

    /// The next bytes and where they belong.
    async fn next(&mut self, most: usize) -> io::Result<(u64, Vec<u8>)> {
        let size = usize::try_from(self.left).unwrap_or(most).min(most);
        let mut data = vec![0; size];
        self.file.read_exact(&mut data).await?;
        self.hash.update(&data);
        let offset = self.offset;
        self.offset += size as u64;
        self.left -= size as u64;
        Ok((offset, data))
    }
}

/// Ends without a last chunk when the file cannot be read: the receiver then installs nothing.
fn chunks(
    head: v1::InstallSnapshotRequest,
    reading: Reading,
) -> impl Stream<Item = v1::InstallSnapshotRequest> + Send {
    futures::stream::unfold(Some((head, reading)), |remaining| async {
        let (head, mut reading) = remaining?;
        let (offset, data) = match reading.next(CHUNK).await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(%error, "a snapshot was not sent to its end: it cannot be read");
                return None;
            }
        };
        let mut chunk = v1::InstallSnapshotRequest { offset, data: data.into(), ..head.clone() };
        if reading.left > 0 {
            return Some((chunk, Some((head, reading))));
        }
        chunk.done = true;
        chunk.sha256 = reading.hash.finalize().to_vec().into();
        Some((chunk, None))
    })
}
