//! A state machine without Raft: it applies the entries that a test gives it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use countersign_control_plane::cluster::engine::{FailStop, OsFsync};
use countersign_control_plane::cluster::{
    Applied, Barrier, DataDir, Entry, LogId, Machine, Purpose, Sealed, StorageError, SystemClock,
};
use countersign_control_plane::state::{
    Actor, Batch, Command, CommandId, Event, Outcome, Proposal,
};
use openraft::storage::RaftStateMachine as _;
use openraft::{BasicNode, EntryPayload, RaftSnapshotBuilder as _, SnapshotMeta};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

type Meta = SnapshotMeta<u64, BasicNode>;

pub(crate) struct Replica {
    pub(crate) machine: Machine,
    /// What it said when it stopped.
    pub(crate) last_words: Arc<Mutex<Vec<String>>>,
    _directory: DataDir,
}

impl Replica {
    pub(crate) fn open(path: &Path, barrier: Arc<dyn Barrier>) -> Self {
        let directory = DataDir::lock(path).unwrap();
        let last_words = Arc::<Mutex<Vec<String>>>::default();
        let heard = last_words.clone();
        let fail = FailStop::then(move |why| heard.lock().unwrap().push(why.to_owned()));
        let machine =
            Machine::open(&directory, barrier, Arc::new(SystemClock), Arc::new(OsFsync), fail);
        Self { machine: machine.unwrap(), last_words, _directory: directory }
    }

    pub(crate) async fn apply(
        &mut self,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<Vec<Outcome>, StorageError> {
        let entries: Vec<_> = entries.into_iter().collect();
        let applied: Vec<Applied> = self.machine.apply(entries).await?;
        Ok(applied.into_iter().flat_map(|applied| applied.outcomes).collect())
    }

    /// A snapshot as it would be sent.
    pub(crate) async fn snapshot(&mut self) -> (Meta, Vec<u8>) {
        let built = self.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        let mut bytes = Vec::new();
        let mut file = built.snapshot;
        file.read_to_end(&mut bytes).await.unwrap();
        (built.meta, bytes)
    }

    /// Installs one that was sent.
    pub(crate) async fn install(&mut self, meta: &Meta, bytes: &[u8]) -> Result<(), StorageError> {
        let mut file = self.machine.begin_receiving_snapshot().await?;
        file.write_all(bytes).await.unwrap();
        file.flush().await.unwrap();
        self.machine.install_snapshot(meta, file).await
    }

    pub(crate) fn applied(&self) -> u64 {
        self.machine.view().tip().map_or(0, |tip| tip.id.index)
    }

    pub(crate) fn subjects(&self) -> Vec<String> {
        let records = |state: &countersign_control_plane::state::State| {
            state.audit().records().iter().map(|record| record.subject.clone()).collect()
        };
        self.machine.view().read(records)
    }
}

/// An entry of one command by the control plane, sealed as this barrier seals now.
pub(crate) fn entry(barrier: &dyn Barrier, index: u64, command: Command) -> Entry {
    let id = CommandId { client: u128::from(index).to_be_bytes(), serial: 1 };
    let proposals = vec![Proposal { id, actor: Actor::System, command }];
    let mut plaintext = Vec::new();
    ciborium::into_writer(&Batch { at: 1_700_000_000_000 + index, proposals }, &mut plaintext)
        .unwrap();
    let sealed = Sealed(barrier.seal(Purpose::Entry, &plaintext));
    let log_id = LogId { index, ..openraft::testing::log_id(1, 1, index) };
    Entry { log_id, payload: EntryPayload::Normal(sealed) }
}

pub(crate) fn is_noted(outcome: &Outcome) -> bool {
    *outcome == Ok(Event::Noted)
}
