//! A snapshot that arrives from a leader: kept in a file without a name until it is whole and has been checked.
//!
//! One at a time. What a transfer that was cut has brought is kept, for the same sender and the same snapshot only:
//! another node's snapshot of the same entry holds the same state in other bytes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use countersign_proto::v1;
use futures::{Stream, StreamExt as _};
use openraft::raft::SnapshotResponse;
use openraft::{Raft, Snapshot};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tonic::Status;

use super::consensus::Types;
use super::machine::on_disk;
use super::snapshot::Snapshots;
use super::wire;

pub(super) struct Receiving {
    snapshots: Snapshots,
    partial: Mutex<Option<Partial>>,
}

struct Partial {
    from: u64,
    id: String,
    file: Arc<File>,
    length: u64,
}

impl Receiving {
    pub(super) fn new(snapshots: Snapshots) -> Self {
        Self { snapshots, partial: Mutex::new(None) }
    }

    pub(super) fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// How much of this snapshot has arrived from that node.
    pub(super) async fn offset(&self, from: u64, id: &str) -> u64 {
        let partial = self.partial.lock().await;
        partial.as_ref().filter(|p| p.from == from && p.id == id).map_or(0, |p| p.length)
    }

    /// Takes chunks in until the last, and installs what they make. `admits` is asked for each chunk.
    pub(super) async fn receive(
        &self,
        from: u64,
        raft: &Raft<Types>,
        chunks: impl Stream<Item = Result<v1::InstallSnapshotRequest, Status>>,
        admits: impl Fn(&v1::InstallSnapshotRequest) -> Result<(), Status>,
    ) -> Result<SnapshotResponse<u64>, Status> {
        let mut chunks = std::pin::pin!(chunks);
        let mut partial = self.partial.try_lock().map_err(|_| {
            Status::unavailable("this node is taking in a snapshot already; try again")
        })?;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            admits(&chunk)?;
            self.take(&mut partial, from, &chunk).await?;
            if chunk.done {
                let whole = partial.take().ok_or_else(cut_off)?;
                return self.install(whole, raft, &chunk).await;
            }
        }
        Err(cut_off())
    }

    async fn take(
        &self,
        partial: &mut Option<Partial>,
        from: u64,
        chunk: &v1::InstallSnapshotRequest,
    ) -> Result<(), Status> {
        let goes_on = partial.as_ref().is_some_and(|p| p.from == from && p.id == chunk.snapshot_id);
        if !goes_on || chunk.offset == 0 {
            let file = Arc::new(self.snapshots.receive().map_err(unwritten)?);
            *partial = Some(Partial { from, id: chunk.snapshot_id.clone(), file, length: 0 });
        }
        let partial = partial.as_mut().ok_or_else(cut_off)?;
        if chunk.offset != partial.length {
            return Err(Status::out_of_range(format!(
                "the snapshot goes on at {}, not at {}",
                partial.length, chunk.offset
            )));
        }
        let (file, data, offset) = (partial.file.clone(), chunk.data.clone(), chunk.offset);
        let written = on_disk(move || file.write_all_at(&data, offset)).await;
        written.map_err(unwritten)?;
        partial.length += chunk.data.len() as u64;
        Ok(())
    }

    /// Raft stops for good when it is given a snapshot that it cannot install, so nothing reaches it unchecked.
    async fn install(
        &self,
        whole: Partial,
        raft: &Raft<Types>,
        last: &v1::InstallSnapshotRequest,
    ) -> Result<SnapshotResponse<u64>, Status> {
        let meta = wire::to_meta(last)?;
        let vote = wire::to_vote(last.vote)?;
        let Partial { file, length, .. } = whole;
        let (snapshots, announced, sha256) =
            (self.snapshots.clone(), meta.clone(), last.sha256.clone());
        let checked = on_disk(move || {
            // A write that was cut short may have left more.
            file.set_len(length)?;
            let mut encoded = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            let mut reader = file.as_ref();
            reader.rewind()?;
            reader.read_to_end(&mut encoded)?;
            if Sha256::digest(&encoded)[..] != sha256[..] {
                return Ok(Err("its hash is another".to_owned()));
            }
            let decoded = snapshots.decode(&encoded).and_then(|snapshot| {
                let same = snapshot.meta() == announced;
                same.then_some(()).ok_or_else(|| "it is not the one that was announced".into())
            });
            Ok(decoded.map(|()| file))
        });
        let file = checked.await.map_err(unwritten)?.map_err(|what| {
            tracing::error!(what, "a snapshot was not installed");
            Status::data_loss(format!("the snapshot was not installed: {what}"))
        })?;
        let file = file.try_clone().map_err(unwritten)?;
        let snapshot = Snapshot { meta, snapshot: Box::new(tokio::fs::File::from_std(file)) };
        let installed = raft.install_full_snapshot(vote, snapshot).await;
        installed.map_err(|e| Status::unavailable(format!("the snapshot was not installed: {e}")))
    }
}

fn cut_off() -> Status {
    Status::aborted("nothing was installed: the snapshot did not arrive to its end")
}

fn unwritten(error: io::Error) -> Status {
    Status::resource_exhausted(format!(
        "nothing was installed: the snapshot is not on disk: {error}"
    ))
}
