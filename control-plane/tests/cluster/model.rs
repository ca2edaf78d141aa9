//! The log against a model, over a disk that forgets what was not synced: after any crash it holds what was
//! acknowledged, and at most the one thing more that was under way.

use std::path::Path;
use std::sync::Arc;

use countersign_control_plane::cluster::engine::Memory;
use countersign_control_plane::cluster::{Entry, LogId, LogStore, Sealed, StorageError, Vote};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{EntryPayload, RaftLogReader};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    /// So many entries off the end.
    Truncate(u64),
    /// So many entries off the start.
    Purge(u64),
    Vote(u64),
}

/// A step, and whether the power goes during it: after so many syncs, with so many unsynced writes on the disk.
type Moment = (Step, Option<(usize, usize)>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    term: u64,
    vote: Option<u64>,
    purged: Option<LogId>,
    entries: Vec<(LogId, Vec<u8>)>,
}

impl Model {
    fn next(&self) -> u64 {
        let last =
            self.entries.last().map(|(id, _)| id.index).or_else(|| self.purged.map(|id| id.index));
        last.map_or(0, |index| index + 1)
    }

    /// The step as calls on the log, and the model after it; none when it would do nothing.
    fn after(&self, step: &Step) -> Option<(Call, Self)> {
        let mut after = self.clone();
        let call = match step {
            Step::Append(sizes) => {
                let mut entries = Vec::new();
                for size in sizes {
                    let id = openraft::testing::log_id(after.term, 1, after.next());
                    let bytes = vec![id.index as u8; *size];
                    after.entries.push((id, bytes.clone()));
                    entries
                        .push(Entry { log_id: id, payload: EntryPayload::Normal(Sealed(bytes)) });
                }
                Call::Append(entries)
            }
            Step::Truncate(count) => {
                let keep = after.entries.len().checked_sub(*count as usize)?;
                let from = after.entries.get(keep)?.0;
                after.entries.truncate(keep);
                // What takes their place comes from a later leader.
                after.term += 1;
                Call::Truncate(from)
            }
            Step::Purge(count) => {
                let upto = after.entries.get((*count as usize).checked_sub(1)?)?.0;
                after.entries.drain(..*count as usize);
                after.purged = Some(upto);
                Call::Purge(upto)
            }
            Step::Vote(more) => {
                after.term += more;
                after.vote = Some(after.term);
                Call::Vote(Vote::new(after.term, 1))
            }
        };
        Some((call, after))
    }

    async fn read(log: &mut LogStore, term: u64) -> Self {
        let entries = log.try_get_log_entries(..).await.unwrap();
        let bytes = |payload| match payload {
            EntryPayload::Normal(Sealed(bytes)) => bytes,
            other => panic!("{other:?}"),
        };
        Self {
            term,
            vote: log.read_vote().await.unwrap().map(|vote| vote.leader_id.term),
            purged: log.get_log_state().await.unwrap().last_purged_log_id,
            entries: entries
                .into_iter()
                .map(|entry| (entry.log_id, bytes(entry.payload)))
                .collect(),
        }
    }
}

enum Call {
    Append(Vec<Entry>),
    Purge(LogId),
    Truncate(LogId),
    Vote(Vote),
}

impl Call {
    async fn make(self, mut log: LogStore) -> Result<(), StorageError> {
        match self {
            Self::Append(entries) => log.blocking_append(entries).await,
            Self::Purge(upto) => log.purge(upto).await,
            Self::Truncate(from) => log.truncate(from).await,
            Self::Vote(vote) => log.save_vote(&vote).await,
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Moment>> {
    let sizes = prop_oneof![4 => 0..300_usize, 1 => 2_900..3_200_usize, 1 => 10_000..40_000_usize];
    let step = prop_oneof![
        6 => prop::collection::vec(sizes, 1..5).prop_map(Step::Append),
        1 => (1..4_u64).prop_map(Step::Truncate),
        1 => (1..6_u64).prop_map(Step::Purge),
        1 => (1..3_u64).prop_map(Step::Vote),
    ];
    prop::collection::vec((step, prop::option::of((0..6_usize, 0..3_usize))), 1..40)
}

async fn open(disk: &Memory) -> LogStore {
    LogStore::open(Arc::new(disk.clone()), Path::new("memory"), Arc::default(), |_| true)
        .await
        .unwrap()
}

async fn live_through(moments: Vec<Moment>) {
    let disk = Memory::new(LogStore::first_mark(1));
    let mut log = open(&disk).await;
    let mut model = Model { term: 1, ..Model::default() };
    for (step, power_cut) in moments {
        let Some((call, after)) = model.after(&step) else { continue };
        let Some((syncs, survivors)) = power_cut else {
            call.make(log.clone()).await.unwrap();
            model = after;
            assert_eq!(Model::read(&mut log, model.term).await, model, "{step:?}");
            continue;
        };
        disk.by_hand();
        let under_way = tokio::spawn(call.make(log.clone()));
        for _ in 0..syncs {
            settle().await;
            disk.step();
        }
        settle().await;
        let acknowledged = under_way.is_finished();
        disk.crash(survivors);
        let outcome = under_way.await.unwrap();
        assert_eq!(outcome.is_ok(), acknowledged, "something was acknowledged by a crash");

        log = open(&disk).await;
        let found = Model::read(&mut log, after.term).await;
        let unchanged = Model { term: after.term, ..model.clone() };
        if acknowledged {
            assert_eq!(found, after, "{step:?} was acknowledged");
        } else {
            assert!(found == after || found == unchanged, "{step:?} halfway: {found:?}");
        }
        model = found;
    }
}

/// Lets the call under way go as far as it can without the disk.
async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn a_crash_loses_nothing_acknowledged_and_leaves_nothing_by_halves(moments in steps()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(live_through(moments));
    }
}
