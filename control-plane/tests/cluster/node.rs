//! One node from start to end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_control_plane::cluster::engine::{FailStop, OsFsync, compact};
use countersign_control_plane::cluster::{
    Barrier, Cluster, DataDir, ProposeError, Purpose, Settings, StartError, Surroundings, Tampered,
};
use countersign_control_plane::state::{Actor, Command, CommandId, Event, Refused};
use zeroize::Zeroizing;

use crate::support::{TestClock, barrier, note, note_of_size, noted, settings, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path()).await.unwrap();
    let node_id = cluster.node_id();
    for serial in 0..20 {
        let committed = cluster.propose(Actor::System, note(&serial.to_string())).await.unwrap();
        assert_eq!(*committed, Event::Noted);
        assert_eq!(committed.position().index, cluster.applied_index());
    }
    let index = cluster.applied_index();
    let records = cluster.read(|state| state.audit().records().to_vec()).await.unwrap();
    assert_eq!(records.len(), 20);
    cluster.shutdown().await;

    let again = start(dir.path()).await.unwrap();
    assert_eq!(again.node_id(), node_id);
    assert!(again.is_leader());
    assert!(again.applied_index() > index);
    assert_eq!(again.peek(|state| state.audit().records().to_vec()), records);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_the_log_behind_it_give_the_same_state_as_the_log_alone() {
    let dir = tempfile::tempdir().unwrap();
    let with_snapshots = || Settings::alone(dir.path().to_owned(), 500);
    let cluster = Cluster::start(with_snapshots(), barrier()).await.unwrap();
    for serial in 0..2_200 {
        cluster.propose(Actor::System, note(&serial.to_string())).await.unwrap();
    }
    let (chain, records) =
        (cluster.chain(), cluster.peek(|state| state.audit().records().to_vec()));
    cluster.shutdown().await;
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 1);

    let again = Cluster::start(with_snapshots(), barrier()).await.unwrap();
    assert_eq!(again.peek(|state| state.audit().records().to_vec()), records);
    assert_ne!(again.chain(), chain, "the entry that a start makes is in the chain too");
    let before = again.chain();
    again.shutdown().await;

    // Chain and records come out the same when the snapshot is another one.
    let once_more = Cluster::start(settings(dir.path()), barrier()).await.unwrap();
    assert_ne!(once_more.chain(), before);
    assert_eq!(once_more.peek(|state| state.audit().records().to_vec()), records);
    once_more.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path()).await.unwrap();
    cluster.propose(Actor::System, note("first")).await.unwrap();

    let refusal = start(dir.path()).await.err().unwrap();
    assert!(matches!(refusal, StartError::InUse { .. }), "{refusal}");
    let path = dir.path().display();
    let process = std::process::id();
    assert_eq!(
        refusal.to_string(),
        format!("data directory {path} is already in use by process {process}")
    );

    cluster.propose(Actor::System, note("second")).await.unwrap();
    cluster.shutdown().await;
    let again = start(dir.path()).await.unwrap();
    assert_eq!(noted(&again).len(), 2);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_that_wait_together_share_entries_and_each_has_its_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path()).await.unwrap();
    let mut events = cluster.subscribe();
    let before = cluster.applied_index();
    let mut proposers = tokio::task::JoinSet::new();
    for serial in 0..2_000 {
        let cluster = cluster.clone();
        proposers.spawn(async move {
            cluster.propose(Actor::System, note(&serial.to_string())).await.unwrap()
        });
    }
    let committed = proposers.join_all().await;
    let entries = cluster.applied_index() - before;
    assert!((8..1_000).contains(&entries), "{entries} entries for 2,000 proposals");
    assert_eq!(noted(&cluster).len(), 2_000);

    let mut told = Vec::new();
    for _ in 0..2_000 {
        told.push(events.recv().await.unwrap().position());
    }
    assert!(told.is_sorted(), "events are told in the order of the log");
    let mut positions: Vec<_> = committed.iter().map(|c| c.position()).collect();
    positions.sort();
    assert_eq!(told, positions);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_command_again_has_the_first_outcome_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path()).await.unwrap();
    let id = CommandId { client: [3; 16], serial: 1 };
    for _ in 0..3 {
        assert_eq!(
            *cluster.propose_as(id, Actor::System, note("once")).await.unwrap(),
            Event::Noted
        );
    }
    assert_eq!(noted(&cluster).get("once"), Some(&1));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_commands_are_kept_and_larger_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path()).await.unwrap();
    cluster.propose(Actor::System, note_of_size("large", 1_900_000)).await.unwrap();
    let refused = cluster.propose(Actor::System, note_of_size("larger", 2_200_000)).await;
    assert!(matches!(refused, Err(ProposeError::Refused(Refused::Invalid(_)))), "{refused:?}");
    cluster.shutdown().await;

    let again = start(dir.path()).await.unwrap();
    assert_eq!(noted(&again).into_keys().collect::<Vec<_>>(), ["large"]);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_shutdown_nothing_is_answered_as_done() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path()).await.unwrap();
    cluster.shutdown().await;
    let late = cluster.propose(Actor::System, note("late")).await;
    assert!(matches!(late, Err(ProposeError::Unavailable(_))), "{late:?}");
    assert!(cluster.read(|_| ()).await.is_err());
    let again = start(dir.path()).await.unwrap();
    assert_eq!(noted(&again).len(), 0);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i_14_log_time_never_goes_back_and_never_falls_behind_the_time_that_passed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    let in_time = || Surroundings { clock: clock.clone(), ..Surroundings::default() };
    clock.wall.store(1_000_000, Ordering::SeqCst);
    let cluster = Cluster::start_in(settings(dir.path()), barrier(), in_time()).await.unwrap();
    let at =
        async |cluster: &Cluster| cluster.propose(Actor::System, note("now")).await.unwrap().at();

    assert_eq!(at(&cluster).await, 1_000_000);
    clock.since_boot.fetch_add(500, Ordering::SeqCst);
    assert_eq!(at(&cluster).await, 1_000_500, "the wall clock stood still");
    clock.wall.store(100_000, Ordering::SeqCst);
    clock.since_boot.fetch_add(500, Ordering::SeqCst);
    assert_eq!(at(&cluster).await, 1_001_000, "the wall clock went back an hour");
    clock.wall.store(5_000_000, Ordering::SeqCst);
    assert_eq!(at(&cluster).await, 5_000_000, "the wall clock jumped ahead");
    cluster.shutdown().await;

    // Another boot: the clock since then is young, and the wall clock wrong.
    clock.since_boot.store(0, Ordering::SeqCst);
    clock.wall.store(0, Ordering::SeqCst);
    let again = Cluster::start_in(settings(dir.path()), barrier(), in_time()).await.unwrap();
    assert_eq!(at(&again).await, 5_000_000);
    clock.since_boot.store(70, Ordering::SeqCst);
    assert_eq!(at(&again).await, 5_000_070);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_command_is_an_outcome_and_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path()).await.unwrap();
    let mut events = cluster.subscribe();
    let revoke = Command::RevokeAgent { name: "nobody".into() };
    let refused = cluster.propose(Actor::System, revoke).await;
    assert!(matches!(refused, Err(ProposeError::Refused(_))), "{refused:?}");
    assert!(events.try_recv().is_err());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_log_is_the_same_log() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path()).await.unwrap();
    for serial in 0..100 {
        cluster
            .propose(Actor::System, note_of_size(&serial.to_string(), serial * 100))
            .await
            .unwrap();
    }
    let (chain, records) =
        (cluster.chain(), cluster.peek(|state| state.audit().records().to_vec()));
    let tip = cluster.applied_index();
    cluster.shutdown().await;
    compact(&DataDir::lock(dir.path()).unwrap(), &OsFsync, &FailStop::abort()).unwrap();
    assert!(
        dir.path().join("log.aside").exists(),
        "the old log stays until the new one is checked"
    );

    let again = start(dir.path()).await.unwrap();
    assert!(!dir.path().join("log.aside").exists());
    assert_eq!(again.applied_index(), tip + 1, "only the start's own entry is new");
    assert_ne!(again.chain(), chain);
    assert_eq!(again.peek(|state| state.audit().records().to_vec()), records);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_disk_grep_nothing_that_was_proposed_is_on_the_disk_in_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::alone(dir.path().to_owned(), 20);
    let cluster = Cluster::start(settings, Arc::new(Inverted)).await.unwrap();
    for serial in 0..60 {
        cluster.propose(Actor::System, note(&format!("canary-{serial}"))).await.unwrap();
    }
    cluster.shutdown().await;
    let mut folders = vec![dir.path().to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                !bytes.windows(7).any(|w| w == b"canary-"),
                "{} holds a canary",
                path.display()
            );
            files += 1;
        }
    }
    assert!(files >= 4, "only {files} files were searched");
}

/// Not a secret, but not what was said either.
struct Inverted;

impl Barrier for Inverted {
    fn seal(&self, _purpose: Purpose, plaintext: &[u8]) -> Vec<u8> {
        plaintext.iter().map(|byte| !byte).collect()
    }

    fn open(&self, _purpose: Purpose, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Tampered> {
        Ok(Zeroizing::new(sealed.iter().map(|byte| !byte).collect()))
    }
}
