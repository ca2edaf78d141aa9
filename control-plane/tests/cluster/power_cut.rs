//! the power goes right after an acknowledgement.
//!
//! The data directory lies on an ext4 image behind a loop device. The writing process is stopped, never to go on,
//! and the image is copied as the device holds it, without what the file system has only in memory. The copy is
//! mounted and opened: whatever was acknowledged is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::child::{spawn, words};
use crate::support::{noted, start};

const SKIP: &str = "COUNTERSIGN_SKIP_POWER_CUT";
const RUNS: usize = 50;
const IMAGE: u64 = 192 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn r_13_a_power_cut_loses_nothing_acknowledged() {
    if std::env::var(SKIP).is_ok_and(|set| set == "1") {
        eprintln!("skipped: {SKIP}=1. Nothing was shown about power cuts.");
        return;
    }
    let able = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    assert!(
        able,
        "this test mounts ext4 images: it needs root and loop devices. Set {SKIP}=1 to go without it"
    );

    let work = tempfile::tempdir().unwrap();
    let blank = work.path().join("blank");
    fs::File::create(&blank).unwrap().set_len(IMAGE).unwrap();
    run("mkfs.ext4", &["-q", "-F", path(&blank)]);
    let mut total = 0;
    for cut in 0..RUNS {
        total += cut_the_power(work.path(), &blank, cut).await;
    }
    assert!(total > RUNS * 10, "only {total} proposals were acknowledged in {RUNS} runs");
    eprintln!("{total} proposals acknowledged before {RUNS} power cuts, none lost");
}

/// One run; returns how many proposals were acknowledged before the power went.
async fn cut_the_power(work: &Path, blank: &Path, cut: usize) -> usize {
    let (image, copy) = (work.join("image"), work.join("copy"));
    run("cp", &["--sparse=always", path(blank), path(&image)]);
    let mut acknowledged = BTreeSet::new();
    {
        let mounted = Mounted::new(&image, &work.join("live"));
        let data = mounted.at.join("data");
        let mut child = Ended(spawn("propose", &data, "p"));
        let (heard, hear) = mpsc::channel();
        let output = child.0.stdout.take().unwrap();
        let listening =
            thread::spawn(move || words(output).for_each(|word| drop(heard.send(word))));

        // Any number of them: a cut just after the start, or after snapshots and purges.
        let patience = Duration::from_secs(60);
        for _ in 0..=(rand::random::<u32>() % 12) * (cut as u32 % 20) {
            acknowledged.insert(hear.recv_timeout(patience).expect("the child said nothing"));
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
    let cluster =
        start(&mounted.at.join("data")).await.unwrap_or_else(|e| panic!("run {cut}: {e}"));
    let times = noted(&cluster);
    let lost: Vec<_> =
        acknowledged.iter().filter(|subject| times.get(*subject) != Some(&1)).collect();
    assert!(
        lost.is_empty(),
        "run {cut}: of {} acknowledged, not there exactly once: {lost:?}",
        acknowledged.len()
    );
    cluster.shutdown().await;
    acknowledged.len()
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
