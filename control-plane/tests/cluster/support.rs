//! What the tests share: a barrier, settings, something to propose.

use std::path::Path;
use std::sync::Arc;

use countersign_control_plane::cluster::{
    Barrier, Cluster, Purpose, Settings, StartError, Tampered,
};
use countersign_control_plane::state::Command;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Authenticates and does not hide: enough to see what is changed on disk.
pub(crate) struct TestBarrier(pub [u8; 16]);

impl Barrier for TestBarrier {
    fn seal(&self, purpose: Purpose, plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = self.tag(purpose, plaintext).to_vec();
        sealed.extend(plaintext);
        sealed
    }

    fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Tampered> {
        let (tag, plaintext) = sealed.split_first_chunk::<32>().ok_or(Tampered)?;
        if self.tag(purpose, plaintext) == *tag {
            Ok(Zeroizing::new(plaintext.to_vec()))
        } else {
            Err(Tampered)
        }
    }
}

impl TestBarrier {
    fn tag(&self, purpose: Purpose, plaintext: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update([purpose as u8]);
        hash.update(plaintext);
        hash.finalize().into()
    }
}

pub(crate) fn barrier() -> Arc<dyn Barrier> {
    Arc::new(TestBarrier([7; 16]))
}

pub(crate) fn settings(data_dir: &Path) -> Settings {
    Settings { data_dir: data_dir.to_owned(), snapshot_every: 10_000 }
}

pub(crate) async fn start(data_dir: &Path) -> Result<Cluster, StartError> {
    Cluster::start(settings(data_dir), barrier()).await
}

/// A record of the audit log, and no other change.
pub(crate) fn note(subject: &str) -> Command {
    Command::Note { action: "test".into(), subject: subject.into(), details: Vec::new() }
}
