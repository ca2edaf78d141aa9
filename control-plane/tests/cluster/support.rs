//! What the tests share: a barrier, a clock, settings, something to propose.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_control_plane::cluster::{
    Barrier, Clock, Cluster, Purpose, Settings, StartError, Tampered,
};
use countersign_control_plane::state::{Command, Millis};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Authenticates, and turns every bit: enough to see what is changed on a disk, and what went past it.
pub(crate) struct TestBarrier(pub(crate) [u8; 16]);

impl Barrier for TestBarrier {
    fn seal(&self, purpose: Purpose, plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = self.tag(purpose, plaintext).to_vec();
        sealed.extend(plaintext.iter().map(|byte| !byte));
        sealed
    }

    fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Tampered> {
        let (tag, turned) = sealed.split_first_chunk::<32>().ok_or(Tampered)?;
        let plaintext: Vec<u8> = turned.iter().map(|byte| !byte).collect();
        if self.tag(purpose, &plaintext) == *tag {
            Ok(Zeroizing::new(plaintext))
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

/// Stands still unless told otherwise.
#[derive(Default)]
pub(crate) struct TestClock {
    pub(crate) since_boot: AtomicU64,
    pub(crate) wall: AtomicU64,
}

impl Clock for TestClock {
    fn since_boot(&self) -> Duration {
        Duration::from_millis(self.since_boot.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Millis {
        self.wall.load(Ordering::SeqCst)
    }
}

pub(crate) fn settings(data_dir: &Path) -> Settings {
    Settings::alone(data_dir.to_owned(), 10_000)
}

pub(crate) async fn start(data_dir: &Path) -> Result<Cluster, StartError> {
    Cluster::start(settings(data_dir), barrier()).await
}

/// A record of the audit log, and no other change.
pub(crate) fn note(subject: &str) -> Command {
    note_of_size(subject, 0)
}

pub(crate) fn note_of_size(subject: &str, size: usize) -> Command {
    let details = vec![("text".into(), "x".repeat(size))];
    Command::Note { action: "test".into(), subject: subject.into(), details }
}

/// Subjects of the notes that are in the state, and how often each.
pub(crate) fn noted(cluster: &Cluster) -> BTreeMap<String, usize> {
    cluster.peek(|state| {
        let mut times = BTreeMap::new();
        for record in state.audit().records() {
            *times.entry(record.subject.clone()).or_default() += 1;
        }
        times
    })
}

/// Writes down, in the form of the scenarios with real processes, that one passed here: after so many faults, with so
/// many acknowledgements held against what was found. `COUNTERSIGN_TEST_REPORT` names the file.
pub(crate) fn passed(scenario: &str, faults: usize, acknowledged: usize) {
    use std::io::Write as _;
    let Some(report) = std::env::var_os("COUNTERSIGN_TEST_REPORT") else { return };
    let line = serde_json::json!({
        "scenario": scenario,
        "seed": "-",
        "faults": faults,
        "histories": acknowledged,
        "arrivals": 0,
        "violations": 0,
    });
    let mut file = std::fs::File::options().create(true).append(true).open(report).unwrap();
    writeln!(file, "{line}").unwrap();
}
