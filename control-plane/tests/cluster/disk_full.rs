//! when the disk is full the node stops, and once there is space it goes on with all that it acknowledged.

use std::process::Command;
use std::time::Duration;

use crate::child::{spawn, words};
use crate::power_cut::able_to_mount;
use crate::support::{noted, start};

#[tokio::test(flavor = "multi_thread")]
async fn r_11_a_full_disk_stops_the_node_and_loses_nothing_acknowledged() {
    if !able_to_mount() {
        return;
    }
    let at = tempfile::tempdir().unwrap();
    let place = at.path().to_str().unwrap();
    mount(&["-t", "tmpfs", "-o", "size=16m", "countersign-test", place]);
    let _mounted = Unmount(place.to_owned());
    let mut child = spawn("propose", &at.path().join("data"), "full");
    let output = child.stdout.take().unwrap();
    let listening = std::thread::spawn(move || words(output).collect::<Vec<_>>());
    // It proposes for ever, unless it stops.
    let mut left = Duration::from_secs(120);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if left.is_zero() {
            child.kill().unwrap();
        }
        left = left.saturating_sub(Duration::from_millis(50));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!left.is_zero(), "the node neither went on nor stopped");
    assert!(!status.success(), "{status}");
    let mut acknowledged = listening.join().unwrap();
    acknowledged.retain(|word| word != "started");
    assert!(acknowledged.len() > 10, "{} proposals before the disk was full", acknowledged.len());

    mount(&["-o", "remount,size=256m", place]);
    let cluster = start(&at.path().join("data")).await.unwrap();
    let found = noted(&cluster);
    let lost: Vec<_> =
        acknowledged.iter().filter(|subject| found.get(*subject) != Some(&1)).collect();
    assert!(
        lost.is_empty(),
        "of {} acknowledged, not there exactly once: {lost:?}",
        acknowledged.len()
    );
    cluster.shutdown().await;
}

fn mount(arguments: &[&str]) {
    let output = Command::new("mount").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "mount {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(unmounted.unwrap().success());
        }
    }
}
