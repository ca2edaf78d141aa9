//! files that were cut, flipped or removed are refused or intact; never is less served than was acknowledged.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use countersign_control_plane::cluster::{Cluster, Settings};
use countersign_control_plane::state::Actor;

use crate::child::{spawn, words};
use crate::support::{barrier, note_of_size};

/// A directory with a snapshot, a purged log and entries of all sizes, and the subjects acknowledged in it.
async fn sound(dir: &Path) -> BTreeSet<String> {
    let settings = Settings::alone(dir.to_owned(), 150);
    let cluster = Cluster::start(settings, barrier()).await.unwrap();
    let mut acknowledged = BTreeSet::new();
    for serial in 0..400 {
        let size = if serial % 10 == 0 { 8_000 } else { 200 };
        let subject = format!("subject-{serial}");
        cluster.propose(Actor::System, note_of_size(&subject, size)).await.unwrap();
        acknowledged.insert(subject);
    }
    cluster.shutdown().await;
    assert!(snapshot_of(dir).exists());
    acknowledged
}

#[derive(Clone, Debug)]
enum Damage {
    Cut(PathBuf, u64),
    Flip(PathBuf, u64, u8),
    Remove(PathBuf),
    /// A run of zeros, as a lost sector reads.
    Zero(PathBuf, u64),
}

impl Damage {
    fn inflict(&self, dir: &Path) {
        match self {
            Self::Cut(file, bytes) => {
                let file = OpenOptions::new().write(true).open(dir.join(file)).unwrap();
                let length = file.metadata().unwrap().len();
                file.set_len(length.saturating_sub(*bytes)).unwrap();
            }
            Self::Flip(file, place, bit) => {
                let file = OpenOptions::new().read(true).write(true).open(dir.join(file)).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, *place).unwrap();
                file.write_all_at(&[byte[0] ^ (1 << bit)], *place).unwrap();
            }
            Self::Remove(file) => fs::remove_file(dir.join(file)).unwrap(),
            Self::Zero(file, place) => {
                let file = OpenOptions::new().write(true).open(dir.join(file)).unwrap();
                file.write_all_at(&[0; 512], *place).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r_12_damaged_files_are_refused_or_intact_and_never_served_short() {
    let origin = tempfile::tempdir().unwrap();
    let acknowledged = sound(origin.path()).await;
    let (db, mark) = (PathBuf::from("log/db"), PathBuf::from("mark"));
    let snapshot = PathBuf::from("snapshots").join(snapshot_of(origin.path()).file_name().unwrap());
    let length = |file: &Path| fs::metadata(origin.path().join(file)).unwrap().len();

    let mut damages = Vec::new();
    for bytes in [1, 64, 512, 4_096, 10_000, 20_000, 40_000, 65_536] {
        damages.push(Damage::Cut(db.clone(), bytes));
    }
    for file in [&mark, &snapshot] {
        damages.extend([1, 4_096].map(|bytes| Damage::Cut(file.clone(), bytes)));
        for _ in 0..6 {
            damages.push(Damage::Flip(
                file.clone(),
                rand::random::<u64>() % length(file),
                rand::random::<u8>() % 8,
            ));
        }
    }
    for file in [&db, &mark, &snapshot] {
        damages.push(Damage::Remove(file.clone()));
    }
    for place in places_in_use(&origin.path().join(&db), 60) {
        damages.push(Damage::Flip(db.clone(), place, rand::random::<u8>() % 8));
    }
    for place in places_in_use(&origin.path().join(&db), 12) {
        damages.push(Damage::Zero(db.clone(), place.min(length(&db) - 512)));
    }

    let (mut refused, mut intact, mut sentences) = (0, 0, BTreeSet::new());
    for damage in &damages {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        damage.inflict(dir.path());
        let said = outcome(spawn("open", dir.path(), ""))
            .unwrap_or_else(|| panic!("{damage:?}: opening never ended"));
        match said.last().map(String::as_str) {
            Some("opened") => {
                let found: BTreeSet<String> = said.iter().cloned().collect();
                let short: Vec<_> = acknowledged.difference(&found).collect();
                assert!(short.is_empty(), "{damage:?}: served without {short:?}");
                intact += 1;
            }
            Some(sentence) if sentence.starts_with("refused: ") => {
                assert!(sentence.contains("Nothing was deleted"), "{damage:?}: {sentence}");
                let path = dir.path().to_str().unwrap();
                assert!(sentence.contains(path), "{damage:?}: does not say where: {sentence}");
                assert!(dir.path().join("lock").exists());
                sentences.insert(sentence.replace(path, "DIR"));
                refused += 1;
            }
            other => panic!("{damage:?}: neither refused nor opened: {other:?}"),
        }
    }
    for sentence in sentences {
        eprintln!("{sentence}");
    }
    eprintln!("{refused} refused, {intact} intact");
    assert_eq!(refused + intact, damages.len());
    assert!(refused > 10, "hardly any damage was noticed: {refused} of {}", damages.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_put_back_from_before_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = tempfile::tempdir().unwrap();
    let grow = async |subject: &str| {
        let cluster = crate::support::start(dir.path()).await.unwrap();
        for serial in 0..5 {
            cluster
                .propose(Actor::System, crate::support::note(&format!("{subject}-{serial}")))
                .await
                .unwrap();
        }
        cluster.shutdown().await;
    };
    grow("early").await;
    copy(dir.path(), earlier.path());
    grow("late").await;
    fs::remove_dir_all(dir.path().join("log")).unwrap();
    copy(&earlier.path().join("log"), &dir.path().join("log"));

    let refusal = crate::support::start(dir.path()).await.err().unwrap().to_string();
    assert!(refusal.contains("were acknowledged") || refusal.contains("was given"), "{refusal}");
    assert!(refusal.contains("restore it from a backup"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_another_keyring_sealed_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = crate::support::start(dir.path()).await.unwrap();
    cluster.propose(Actor::System, crate::support::note("mine")).await.unwrap();
    cluster.shutdown().await;
    let other = std::sync::Arc::new(crate::support::TestBarrier([8; 16]));
    let refusal = Cluster::start(crate::support::settings(dir.path()), other)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(refusal.contains("cannot be opened with this cluster's keyring"), "{refusal}");
}

/// What the child said, or nothing when it did not end in time.
fn outcome(mut child: Child) -> Option<Vec<String>> {
    let output = child.stdout.take().unwrap();
    let (said, hear) = mpsc::channel();
    let listening = thread::spawn(move || said.send(words(output).collect::<Vec<_>>()));
    let heard = hear.recv_timeout(Duration::from_secs(90)).ok();
    if heard.is_none() {
        child.kill().unwrap();
    }
    child.wait().unwrap();
    listening.join().unwrap().unwrap();
    heard
}

/// Places in a file where something is written: most of a segment is padding.
fn places_in_use(file: &Path, count: usize) -> Vec<u64> {
    let bytes = fs::read(file).unwrap();
    let used: Vec<u64> =
        bytes.iter().zip(0..).filter(|(byte, _)| **byte != 0).map(|(_, place)| place).collect();
    (0..count).map(|_| used[rand::random::<u64>() as usize % used.len()]).collect()
}

fn snapshot_of(dir: &Path) -> PathBuf {
    let mut files = fs::read_dir(dir.join("snapshots")).unwrap();
    files.next().unwrap().unwrap().path()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
