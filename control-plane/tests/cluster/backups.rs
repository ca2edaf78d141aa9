//! Backups, and the cluster of one node that comes out of one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_control_plane::cluster::{
    Cluster, RestoreError, Settings, StartError, about_backup, restore,
};
use countersign_control_plane::state::{
    Actor, Addresses, ApprovalState, Command, Event, Genesis, Newcomer, State,
};
use countersign_control_plane::vault::{NewSeal, Unsealing, Vault};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::support::{note, noted, settings};
use crate::town::eventually;
use crate::world;

const CANARY: &str = "canary-4711";

/// A cluster of one node with a vault of its own, in which some things happened.
struct Lived {
    _dir: tempfile::TempDir,
    data: PathBuf,
    vault: Arc<Vault>,
    cluster: Cluster,
}

impl Lived {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let key_file = NewSeal::KeyFile(dir.path().join("seal.key"));
        let vault = Arc::new(Vault::create(&data, key_file, 0).unwrap().vault);
        let cluster = Cluster::start(settings(&data), vault.clone()).await.unwrap();
        let lived = Self { data, vault, cluster, _dir: dir };
        let genesis = world::genesis_of(lived.cluster.node_id());
        let genesis = Genesis { seal_file: lived.vault.seal_file(), ..genesis };
        for command in world::beginning_with(genesis) {
            lived.system(command).await;
        }
        lived.system(Command::Open(Box::new(world::open(1)))).await;
        lived.system(note(CANARY)).await;
        lived
    }

    async fn system(&self, command: Command) -> Event {
        (*self.cluster.propose(Actor::System, command).await.unwrap()).clone()
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.data.with_file_name(name)
    }

    /// The vault of another directory, opened with what opened this one.
    fn unsealed(&self, directory: &Path, seal_file: &[u8]) -> Arc<Vault> {
        Vault::install(directory, seal_file).unwrap();
        let unsealing = Unsealing::KeyFile(self.beside("seal.key"));
        Arc::new(Vault::unseal(directory, &unsealing).unwrap())
    }

    /// As an operator restores: the seal first, then the rest.
    async fn restore(&self, name: &str, backup: &[u8]) -> (PathBuf, Arc<Vault>, u64) {
        let directory = self.beside(name);
        let vault = self.unsealed(&directory, &about_backup(backup).unwrap().seal_file);
        let node = restore(&directory, backup.to_vec(), vault.clone(), newcomer()).await.unwrap();
        (directory, vault, node)
    }
}

fn newcomer() -> Newcomer {
    Newcomer {
        name: "restored".into(),
        addresses: Addresses::default(),
        public_key: world::public_key(77),
    }
}

/// What a node leaves in its directory.
fn traces(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "seal.json" && name != "lock").collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_to_life_as_one_node_that_goes_on_far_beyond_it() {
    let lived = Lived::new().await;
    let backup = lived.cluster.snapshot_now().await.unwrap();
    lived.system(note("after the backup")).await;
    let index = lived.cluster.applied_index();
    let about = about_backup(&backup).unwrap();
    assert_eq!(about.cluster_id, world::CLUSTER);
    assert_eq!(about.position.index, index - 1);
    assert_eq!(about.seal_file, lived.vault.seal_file());

    let (directory, vault, node) = lived.restore("restored", &backup).await;
    let often = Settings { snapshot_every: 50, ..settings(&directory) };
    let restored = Cluster::start(often, vault.clone()).await.unwrap();
    assert_eq!(restored.node_id(), node);
    assert_ne!(restored.node_id(), lived.cluster.node_id());
    assert!(restored.is_leader());
    let known = noted(&restored);
    assert_eq!(known.get(CANARY), Some(&1));
    assert_eq!(known.get("after the backup"), None);
    let state = |cluster: &Cluster| {
        cluster.peek(|state: &State| state.approval(world::open(1).approval).map(|a| a.state))
    };
    assert_eq!(state(&lived.cluster), Some(ApprovalState::Pending));
    assert_eq!(state(&restored), Some(ApprovalState::Revoked));
    restored.peek(|state| {
        assert!(state.node(node).is_some_and(|node| !node.removed));
        assert!(state.node(lived.cluster.node_id()).is_some_and(|node| node.removed));
        assert_eq!(state.verify_audit(None).fault, None);
    });

    // Newer than anything that the lost cluster decides, however long it goes on.
    let committed = restored.propose(Actor::System, note("goes on")).await.unwrap();
    assert!(committed.position().term > about.position.term + 1_000_000);
    assert!(committed.position().index > about.position.index + 1_000_000_000_000);
    for serial in 0..200 {
        restored.propose(Actor::System, note(&serial.to_string())).await.unwrap();
    }
    assert_ne!(restored.chain(), lived.cluster.chain());
    restored.shutdown().await;
    let again = Cluster::start(settings(&directory), vault).await.unwrap();
    assert_eq!(again.node_id(), node);
    assert_eq!(noted(&again).get("goes on"), Some(&1));
    assert_eq!(noted(&again).get("199"), Some(&1));
    again.shutdown().await;
    lived.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_while_the_cluster_serves_and_holds_all_that_was_acknowledged_before() {
    let lived = Lived::new().await;
    let cluster = lived.cluster.clone();
    let (stop, proposed) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let (stopped, counter) = (stop.clone(), proposed.clone());
    let proposer = tokio::spawn(async move {
        while !stopped.is_cancelled() {
            let serial = counter.load(Ordering::SeqCst);
            cluster.propose(Actor::System, note(&format!("busy-{serial}"))).await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut backups = Vec::new();
    for n in 0..5 {
        let so_far = proposed.load(Ordering::SeqCst);
        lived.system(note(&format!("before-{n}"))).await;
        backups.push(lived.cluster.snapshot_now().await.unwrap());
        eventually("another one", || (proposed.load(Ordering::SeqCst) > so_far).then_some(()))
            .await;
    }
    stop.cancel();
    proposer.await.unwrap();
    let busy = proposed.load(Ordering::SeqCst);
    for (n, backup) in backups.iter().enumerate() {
        let (directory, vault, _) = lived.restore(&format!("restored-{n}"), backup).await;
        let restored = Cluster::start(settings(&directory), vault).await.unwrap();
        let known = noted(&restored);
        let before = (0..5).filter(|n| known.contains_key(&format!("before-{n}"))).count();
        assert_eq!(before, n + 1);
        // A prefix of the history, without gaps.
        let serials = (0..busy).take_while(|s| known.contains_key(&format!("busy-{s}"))).count();
        assert_eq!(known.keys().filter(|k| k.starts_with("busy-")).count(), serials);
        restored.shutdown().await;
    }
    lived.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_7_a_backup_that_was_cut_or_changed_is_refused_and_nothing_is_written() {
    let lived = Lived::new().await;
    let backup = lived.cluster.snapshot_now().await.unwrap();
    let directory = lived.beside("restored");
    let vault = lived.unsealed(&directory, &lived.vault.seal_file());
    let mut changed: Vec<Vec<u8>> = Vec::new();
    changed.extend(
        [0, 1, 31, 32, 40, backup.len() / 2, backup.len() - 1].map(|n| backup[..n].to_vec()),
    );
    changed.push([&backup[..], b"x"].concat());
    for place in (0..backup.len()).step_by(backup.len() / 80) {
        let mut flipped = backup.clone();
        flipped[place] ^= 1;
        changed.push(flipped.clone());
        // By somebody who knows how the checksum is made.
        let end = flipped.len() - 32;
        let sum = Sha256::digest(&flipped[..end]);
        flipped[end..].copy_from_slice(&sum);
        if flipped != backup {
            changed.push(flipped);
        }
    }
    assert!(changed.len() > 100);
    for bytes in changed {
        let refused = restore(&directory, bytes, vault.clone(), newcomer()).await.unwrap_err();
        assert!(matches!(refused, RestoreError::Damaged(_)), "{refused}");
        assert!(refused.to_string().starts_with("nothing was restored: the backup is damaged: "));
        assert_eq!(traces(&directory), Vec::<String>::new());
    }
    restore(&directory, backup, vault, newcomer()).await.unwrap();
    lived.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_backup_or_another_clusters_is_refused() {
    let lived = Lived::new().await;
    let stranger = Lived::new().await;
    let directory = lived.beside("restored");
    let vault = lived.unsealed(&directory, &lived.vault.seal_file());
    let foreign = stranger.cluster.snapshot_now().await.unwrap();
    let refused = restore(&directory, foreign, vault.clone(), newcomer()).await.unwrap_err();
    assert!(matches!(refused, RestoreError::Damaged(_)), "{refused}");

    // A snapshot off a disk has the same shape, and is sealed for another purpose.
    lived.cluster.shutdown().await;
    let often = Settings { snapshot_every: 5, ..settings(&lived.data) };
    let again = Cluster::start(often, lived.vault.clone()).await.unwrap();
    for serial in 0..20 {
        again.propose(Actor::System, note(&serial.to_string())).await.unwrap();
    }
    again.shutdown().await;
    let snapshots: Vec<_> = fs::read_dir(lived.data.join("snapshots")).unwrap().collect();
    let mut snapshot = fs::read(snapshots[0].as_ref().unwrap().path()).unwrap();
    for magic in [&b"CSS2"[..], b"CSK1"] {
        snapshot[..4].copy_from_slice(magic);
        let end = snapshot.len() - 32;
        let sum = Sha256::digest(&snapshot[..end]);
        snapshot[end..].copy_from_slice(&sum);
        let refused = restore(&directory, snapshot.clone(), vault.clone(), newcomer()).await;
        assert!(matches!(refused, Err(RestoreError::Damaged(_))));
    }
    assert_eq!(traces(&directory), Vec::<String>::new());
    stranger.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_a_node_lived_in_is_never_restored_to() {
    let lived = Lived::new().await;
    let backup = lived.cluster.snapshot_now().await.unwrap();
    let refused = restore(&lived.data, backup.clone(), lived.vault.clone(), newcomer()).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, RestoreError::Start(StartError::InUse { .. })), "{refused}");
    lived.cluster.shutdown().await;
    let before = fs::read(lived.data.join("mark")).unwrap();
    let refused = restore(&lived.data, backup.clone(), lived.vault.clone(), newcomer()).await;
    assert!(matches!(refused, Err(RestoreError::NotEmpty { .. })), "{refused:?}");
    assert_eq!(fs::read(lived.data.join("mark")).unwrap(), before);

    let (directory, vault, _) = lived.restore("restored", &backup).await;
    let again = restore(&directory, backup.clone(), vault, newcomer()).await;
    assert!(matches!(again, Err(RestoreError::NotEmpty { .. })), "{again:?}");
    for left in ["mark", "joining", "peers.mark", "starts", "rolled-back"] {
        let directory = lived.beside(&format!("with-{left}"));
        let vault = lived.unsealed(&directory, &lived.vault.seal_file());
        fs::write(directory.join(left), b"").unwrap();
        let refused = restore(&directory, backup.clone(), vault, newcomer()).await;
        assert!(matches!(refused, Err(RestoreError::NotEmpty { .. })), "{left}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_interrupted_does_not_start() {
    let lived = Lived::new().await;
    let backup = lived.cluster.snapshot_now().await.unwrap();
    let (directory, vault, _) = lived.restore("restored", &backup).await;
    // As if the power had gone before the last step.
    fs::remove_dir_all(directory.join("snapshots")).unwrap();
    let refused = Cluster::start(settings(&directory), vault.clone()).await.err().unwrap();
    assert!(matches!(refused, StartError::Damaged { .. }), "{refused}");
    let again = restore(&directory, backup, vault, newcomer()).await;
    assert!(matches!(again, Err(RestoreError::NotEmpty { .. })), "{again:?}");
    lived.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_restores_of_one_backup_are_two_nodes() {
    let lived = Lived::new().await;
    let backup = lived.cluster.snapshot_now().await.unwrap();
    let (_, _, one) = lived.restore("one", &backup).await;
    let (_, _, two) = lived.restore("two", &backup).await;
    assert_ne!(one, two);
    lived.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_disk_grep_a_backup_tells_nothing_but_whose_it_is() {
    let lived = Lived::new().await;
    lived.system(Command::AttachEdge { id: "e2".into(), incarnation: [7; 16] }).await;
    let backup = lived.cluster.snapshot_now().await.unwrap();
    let holds = |word: &[u8]| backup.windows(word.len()).any(|window| window == word);
    assert!(holds(world::CLUSTER.as_bytes()));
    for word in [CANARY, "api.stripe.com", "mailer", "ana", "org-1", "fake-of-c1", "canary-body"] {
        assert!(!holds(word.as_bytes()), "{word}");
    }
    lived.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_the_time_before_a_rotation_opens_with_its_own_seal() {
    let lived = Lived::new().await;
    let before = lived.cluster.snapshot_now().await.unwrap();
    let rotation = Command::SetSeal {
        seal_file: lived.vault.rotate(1),
        former_sha256: Sha256::digest(lived.vault.seal_file()).into(),
        what: "rotate".into(),
    };
    assert_eq!(lived.system(rotation).await, Event::SealChanged);
    let after = lived.cluster.snapshot_now().await.unwrap();
    for (name, backup, term) in [("before", before, 1), ("after", after, 2)] {
        let (directory, vault, _) = lived.restore(name, &backup).await;
        assert_eq!(vault.keyring_term().term, term);
        let restored = Cluster::start(settings(&directory), vault).await.unwrap();
        assert_eq!(noted(&restored).get(CANARY), Some(&1));
        restored.shutdown().await;
    }
    lived.cluster.shutdown().await;
}
