//! A seal that changes: who lags takes it in before it reads what was sealed under it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use countersign_control_plane::cluster::{Barrier as _, Cluster};
use countersign_control_plane::state::{Actor, Command, Event, Genesis};
use countersign_control_plane::vault::{NewSeal, Unsealing, Vault};
use sha2::{Digest as _, Sha256};

use crate::replica::{Replica, entry, is_noted};
use crate::support::{note, noted, settings};
use crate::world;

fn key_file(dir: &Path) -> std::path::PathBuf {
    dir.with_extension("key")
}

fn create(dir: &Path) -> Arc<Vault> {
    Arc::new(Vault::create(dir, NewSeal::KeyFile(key_file(dir)), 0).unwrap().vault)
}

fn unseal(dir: &Path, key: &Path) -> Arc<Vault> {
    Arc::new(Vault::unseal(dir, &Unsealing::KeyFile(key.to_owned())).unwrap())
}

fn genesis(vault: &Vault) -> Command {
    genesis_of(1, vault)
}

fn genesis_of(node: u64, vault: &Vault) -> Command {
    let genesis = world::genesis_of(node);
    Command::Genesis(Box::new(Genesis { seal_file: vault.seal_file(), ..genesis }))
}

/// One more keyring term, as the node that this vault is of would propose it.
fn rotation(vault: &Vault) -> Command {
    Command::SetSeal {
        seal_file: vault.rotate(1),
        former_sha256: Sha256::digest(vault.seal_file()).into(),
        what: "rotate".into(),
    }
}

/// Two nodes with a vault of their own each, of one cluster.
struct Two {
    _dir: tempfile::TempDir,
    first: Replica,
    second: Replica,
    vaults: [Arc<Vault>; 2],
    second_dir: std::path::PathBuf,
    key: std::path::PathBuf,
}

fn two() -> Two {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let first = create(&one);
    Vault::install(&two, &first.seal_file()).unwrap();
    let second = unseal(&two, &key_file(&one));
    Two {
        first: Replica::open(&one, first.clone()),
        second: Replica::open(&two, second.clone()),
        vaults: [first, second],
        second_dir: two,
        key: key_file(&one),
        _dir: dir,
    }
}

impl Two {
    /// Entries 0 to 2: the beginning, a rotation, and a note that is sealed under what it brought. The first node has
    /// applied them.
    async fn rotated(&mut self) -> Vec<countersign_control_plane::cluster::Entry> {
        let vault = self.vaults[0].clone();
        let mut entries = vec![entry(vault.as_ref(), 0, genesis(&vault))];
        entries.push(entry(vault.as_ref(), 1, rotation(&vault)));
        self.first.apply(entries.clone()).await.unwrap();
        assert_eq!(vault.keyring_term().term, 2);
        entries.push(entry(vault.as_ref(), 2, note("under the second term")));
        assert!(is_noted(&self.first.apply(entries[2..].to_vec()).await.unwrap()[0]));
        entries
    }
}

#[tokio::test]
async fn a_seal_is_taken_in_before_the_next_entry() {
    let mut two = two();
    let entries = two.rotated().await;
    assert_eq!(two.vaults[1].keyring_term().term, 1);
    let outcomes = two.second.apply(entries.clone()).await.unwrap();
    assert_eq!(outcomes[1], Ok(Event::SealChanged));
    assert!(is_noted(&outcomes[2]));
    assert_eq!(two.vaults[1].seal_file(), two.vaults[0].seal_file());
    assert_eq!(fs::read(two.second_dir.join("seal.json")).unwrap(), two.vaults[0].seal_file());

    // The log is applied again after a start: what was taken in stays as it is.
    let before = two.vaults[1].seal_file();
    drop(two.second);
    let vault = unseal(&two.second_dir, &two.key);
    let mut again = Replica::open(&two.second_dir, vault.clone());
    again.apply(entries).await.unwrap();
    assert_eq!(vault.seal_file(), before);
}

#[tokio::test]
async fn r_19_who_gets_a_snapshot_takes_in_its_seal_first_and_tells_that_everything_changed() {
    let mut two = two();
    two.rotated().await;
    let (meta, bytes) = two.first.snapshot().await;
    let mut events = two.second.machine.view().subscribe();
    two.second.install(&meta, &bytes).await.unwrap();
    let told = events.try_recv().unwrap();
    assert_eq!((&**told, told.position().index), (&Event::Restored, 2));
    assert_eq!(two.vaults[1].seal_file(), two.vaults[0].seal_file());
    let times = [&two.first, &two.second].map(|node| node.machine.view().read(|s| s.log_time()));
    assert_eq!(times[0], times[1], "log time goes on from the snapshot's");
    assert!(two.second.machine.view().now() >= times[0]);

    // And it goes on with what is sealed under it, in a process of its own too.
    let next = |index| entry(two.vaults[0].as_ref(), index, note("more"));
    assert!(is_noted(&two.second.apply([next(3)]).await.unwrap()[0]));
    drop(two.second);
    let again = Replica::open(&two.second_dir, unseal(&two.second_dir, &two.key));
    assert_eq!(again.applied(), 2);
}

#[tokio::test]
async fn a_snapshot_of_the_time_before_a_rotation_takes_nothing_back() {
    let mut two = two();
    let vault = two.vaults[0].clone();
    two.first.apply([entry(vault.as_ref(), 0, genesis(&vault))]).await.unwrap();
    let (meta, bytes) = two.first.snapshot().await;
    // The second node got the newer seal when it joined.
    vault.adopt(&vault.rotate(1)).unwrap();
    two.vaults[1].adopt(&vault.seal_file()).unwrap();
    two.second.install(&meta, &bytes).await.unwrap();
    assert_eq!(two.vaults[1].keyring_term().term, 2);
    assert_eq!(two.vaults[1].seal_file(), vault.seal_file());
}

#[tokio::test]
async fn c_7_a_snapshot_of_which_a_byte_was_changed_is_not_installed() {
    let mut two = two();
    two.rotated().await;
    let (meta, bytes) = two.first.snapshot().await;
    // Another snapshot's seal file, or none, in front of the same state.
    let seal_file = two.vaults[0].seal_file();
    let at = bytes.windows(seal_file.len()).position(|w| w == seal_file).unwrap();
    let older = create(&two.second_dir.with_file_name("three")).seal_file();
    for other in [&older[..], b""] {
        let mut forged = bytes[..at - 4].to_vec();
        forged.extend((other.len() as u32).to_be_bytes());
        forged.extend(other);
        forged.extend(&bytes[at + seal_file.len()..bytes.len() - 32]);
        let sum = Sha256::digest(&forged);
        forged.extend(sum);
        assert!(two.second.install(&meta, &forged).await.is_err());
    }
    assert_eq!(two.vaults[1].keyring_term().term, 1, "no stranger's seal was taken in");

    let mut places: Vec<_> = (0..bytes.len()).step_by(bytes.len() / 60).collect();
    places.extend(0..12);
    for place in places {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        // With its checksum as it was, and made anew by who knows how.
        for mended in [false, true] {
            if mended {
                let end = changed.len() - 32;
                let sum = Sha256::digest(&changed[..end]);
                changed[end..].copy_from_slice(&sum);
                if changed == bytes {
                    continue;
                }
            }
            assert!(two.second.install(&meta, &changed).await.is_err(), "byte {place}");
            assert_eq!(two.second.applied(), 0);
        }
    }
    // The seal in front of the whole one was this cluster's own, and no other was taken in.
    assert_eq!(two.vaults[1].seal_file(), seal_file);
    two.second.install(&meta, &bytes).await.unwrap();
}

#[tokio::test]
async fn a_node_that_cannot_take_a_seal_in_stops_before_the_next_entry() {
    let mut two = two();
    let entries = two.rotated().await;
    // Its directory is gone: the seal cannot be written.
    fs::rename(&two.second_dir, two.second_dir.with_extension("away")).unwrap();
    let outcome = two.second.apply(entries).await;
    assert!(outcome.is_err());
    let words = two.second.last_words.lock().unwrap().clone();
    assert!(words.len() == 1 && words[0].contains("entry 1"), "{words:?}");
    assert!(!two.second.subjects().contains(&"under the second term".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_went_down_before_it_wrote_a_new_seal_reads_its_log_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let vault = create(&data);
    let before = vault.seal_file();
    let cluster = Cluster::start(settings(&data), vault.clone()).await.unwrap();
    let begin = genesis_of(cluster.node_id(), &vault);
    cluster.propose(Actor::System, begin).await.unwrap();
    let rotated = cluster.propose(Actor::System, rotation(&vault)).await.unwrap();
    assert_eq!(*rotated, Event::SealChanged);
    assert_eq!(vault.keyring_term().term, 2);
    cluster.propose(Actor::System, note("under the second term")).await.unwrap();
    cluster.shutdown().await;
    drop((cluster, vault));

    // As if the power had gone after the entries and before the seal were written.
    fs::write(data.join("seal.json"), before).unwrap();
    let vault = unseal(&data, &key_file(&data));
    assert_eq!(vault.keyring_term().term, 1);
    let again = Cluster::start(settings(&data), vault.clone()).await.unwrap();
    assert_eq!(noted(&again).get("under the second term"), Some(&1));
    assert_eq!(vault.keyring_term().term, 2);
    again.shutdown().await;
}
