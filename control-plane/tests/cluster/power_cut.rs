//! the power goes right after an acknowledgement.
//!
//! The data directory lies on an ext4 image behind a loop device. The writing process is stopped, never to go on,
//! and the image is copied as the device holds it, without what the file system has only in memory. The copy is
//! mounted and opened: whatever was acknowledged is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use countersign_control_plane::cluster::StartError;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::child::{spawn, words};
use crate::support::{noted, passed, start};

const SKIP: &str = "COUNTERSIGN_SKIP_POWER_CUT";
const RUNS: usize = 50;
const IMAGE: u64 = 192 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn r_13_a_power_cut_loses_nothing_acknowledged() {
    let Some(ground) = Ground::new() else { return };
    let mut total = 0;
    for cut in 0..RUNS {
        let (acknowledged, found) = ground.cut_the_power("propose", cut).await;
        let found = found.unwrap_or_else(|e| panic!("run {cut}: {e}"));
        let lost: Vec<_> =
            acknowledged.iter().filter(|subject| found.get(*subject) != Some(&1)).collect();
        assert!(
            lost.is_empty(),
            "run {cut}: of {} acknowledged, not there exactly once: {lost:?}",
            acknowledged.len()
        );
        total += acknowledged.len();
    }
    assert!(total > RUNS * 10, "only {total} proposals were acknowledged in {RUNS} runs");
    eprintln!("{total} proposals acknowledged before {RUNS} power cuts, none lost");
    passed("R-13", RUNS, total);
}

/// P1: a test that cannot fail shows nothing.
#[tokio::test(flavor = "multi_thread")]
async fn r_13_notices_a_disk_that_is_never_synced() {
    let Some(ground) = Ground::new() else { return };
    // sled syncs by itself twice a second, so a single run may be lucky.
    for cut in 5..15 {
        let (acknowledged, found) = ground.cut_the_power("propose without syncing", cut).await;
        match found {
            Ok(found) if acknowledged.iter().all(|subject| found.get(subject) == Some(&1)) => {}
            Ok(_) | Err(StartError::Damaged { .. }) => return,
            Err(e) => panic!("run {cut}: {e}"),
        }
    }
    panic!("everything acknowledged was there after ten power cuts although nothing was synced");
}

/// Where images are made and mounted.
struct Ground {
    work: TempDir,
}

impl Ground {
    /// `None` when somebody said explicitly to go without.
    fn new() -> Option<Self> {
        if !able_to_mount() {
            return None;
        }
        let work = tempfile::tempdir().unwrap();
        let blank = work.path().join("blank");
        fs::File::create(&blank).unwrap().set_len(IMAGE).unwrap();
        run("mkfs.ext4", &["-q", "-F", path(&blank)]);
        Some(Self { work })
    }

    /// One run: what was acknowledged before the power went, and what was found after, how often each.
    async fn cut_the_power(
        &self,
        role: &str,
        cut: usize,
    ) -> (BTreeSet<String>, Result<BTreeMap<String, usize>, StartError>) {
        let work = self.work.path();
        let (image, copy) = (work.join("image"), work.join("copy"));
        run("cp", &["--sparse=always", path(&work.join("blank")), path(&image)]);
        let mut acknowledged = BTreeSet::new();
        {
            let mounted = Mounted::new(&image, &work.join("live"));
            let mut child = Ended(spawn(role, &mounted.at.join("data"), "p"));
            let (heard, hear) = mpsc::channel();
            let output = child.0.stdout.take().unwrap();
            let listening =
                thread::spawn(move || words(output).for_each(|word| drop(heard.send(word))));

            // Any number of them: a cut just after the start, or after snapshots and purges.
            for _ in 0..=(rand::random::<u32>() % 12) * (cut as u32 % 20) {
                acknowledged.insert(
                    hear.recv_timeout(Duration::from_secs(60)).expect("the child said nothing"),
                );
            }
            kill_process(Pid::from_child(&child.0), Signal::STOP).unwrap();
            run("cp", &["--sparse=always", path(&image), path(&copy)]);
            drop(child);
            listening.join().unwrap();
            // It said these before it was stopped.
            acknowledged.extend(hear.try_iter());
        }
        acknowledged.remove("started");

        let mounted = Mounted::new(&copy, &work.join("after"));
        let found = match start(&mounted.at.join("data")).await {
            Ok(cluster) => {
                let found = noted(&cluster);
                cluster.shutdown().await;
                Ok(found)
            }
            Err(e) => Err(e),
        };
        (acknowledged, found)
    }
}

/// False when somebody said explicitly to go without; fails when it cannot and nobody did.
pub(crate) fn able_to_mount() -> bool {
    if std::env::var(SKIP).is_ok_and(|set| set == "1") {
        eprintln!("skipped: {SKIP}=1. Nothing was shown about power cuts and full disks.");
        return false;
    }
    let able = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    assert!(
        able,
        "this test mounts file systems: it needs root and loop devices. Set {SKIP}=1 to go without it"
    );
    true
}

/// An image mounted through a loop device, until dropped.
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(image: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        run("mount", &["-o", "loop", path(image), path(at)]);
        Self { at: at.to_owned() }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[path(&self.at)]);
    }
}

/// A child that is gone when this is.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
