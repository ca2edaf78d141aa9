//! What of meetings lies in the data directory: how often this node was started, what it saw of others, and whether it
//! was told that it came back with less.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::data_dir::StartError;
use super::engine::{FailStop, Fsync};
use super::machine::on_disk;
use super::marks::{Marks, count_start, write_whole};

pub(super) struct Remembered {
    pub(super) boot: u64,
    /// What this node was told before.
    pub(super) told: Option<String>,
    /// Whether an operator gave leave to forget.
    pub(super) forgiven: bool,
    verdict: PathBuf,
    fsync: Arc<dyn Fsync>,
    /// Whether there is a verdict on disk, or on its way.
    kept: AtomicBool,
    fail: FailStop,
}

impl Remembered {
    /// Counts the start. `forget` is an operator's leave to forget marks, and the verdict.
    pub(super) fn open(
        directory: &Path,
        forget: bool,
        fsync: Arc<dyn Fsync>,
        fail: FailStop,
    ) -> Result<(Self, Marks), StartError> {
        let verdict = directory.join("rolled-back");
        let io = |doing| {
            let path = verdict.clone();
            move |source| StartError::Io { doing, path, source }
        };
        if forget && verdict.exists() {
            fs::remove_file(&verdict).map_err(io("remove"))?;
        }
        let told = match fs::read_to_string(&verdict) {
            Ok(told) => Some(told),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io("read")(e)),
        };
        let marks = Marks::open(directory.join("peers.mark"), forget)?;
        let boot = count_start(&directory.join("starts"), fsync.as_ref())?;
        let kept = AtomicBool::new(told.is_some());
        Ok((Self { boot, told, forgiven: forget, verdict, fsync, kept, fail }, marks))
    }

    /// Several nodes may say it at once, and the first is as good as any.
    pub(super) async fn keep_verdict(&self, told: &str) {
        if !self.kept.swap(true, Ordering::SeqCst) {
            self.write(self.verdict.clone(), told.as_bytes().to_vec()).await;
        }
    }

    /// What was not remembered would be forgotten silently, so a disk that fails stops the node.
    pub(super) async fn write(&self, path: PathBuf, bytes: Vec<u8>) {
        let (fsync, shown) = (self.fsync.clone(), path.display().to_string());
        let written = on_disk(move || write_whole(&path, &bytes, fsync.as_ref())).await;
        if let Err(e) = written {
            self.fail.trip(format!("writing {shown} failed: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::engine::OsFsync;

    #[tokio::test(flavor = "multi_thread")]
    async fn two_nodes_may_say_at_once_that_this_one_was_rolled_back() {
        let dir = tempfile::tempdir().unwrap();
        let open = |fail| Remembered::open(dir.path(), false, Arc::new(OsFsync), fail).unwrap().0;
        let disk = open(FailStop::then(|why| panic!("{why}")));
        tokio::join!(disk.keep_verdict("one says"), disk.keep_verdict("another says"));
        assert_eq!(open(FailStop::abort()).told.unwrap(), "one says");
    }
}
