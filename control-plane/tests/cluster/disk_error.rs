//! an fsync that fails once is the last one; nothing is acknowledged after it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use countersign_control_plane::cluster::engine::{FailStop, Fsync, OsFsync};
use countersign_control_plane::cluster::{Cluster, ProposeError, Surroundings};
use countersign_control_plane::state::Actor;

use crate::support::{barrier, note, noted, passed, settings, start};

/// Fails once when told to; then the disk is said to be well again, as Linux would.
#[derive(Default)]
struct Faulty {
    fail_next: AtomicBool,
    calls: AtomicUsize,
}

impl Faulty {
    fn call(&self) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.fail_next.swap(false, Ordering::SeqCst) {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }
}

impl Fsync for Faulty {
    fn data(&self, file: &File) -> io::Result<()> {
        self.call()?;
        OsFsync.data(file)
    }

    fn whole(&self, file: &File) -> io::Result<()> {
        self.call()?;
        OsFsync.whole(file)
    }

    fn folder(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        OsFsync.folder(path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r_14_one_failed_fsync_stops_the_node_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    let last_words = Arc::new(Mutex::new(Vec::new()));
    let heard = last_words.clone();
    let surroundings = Surroundings {
        fsync: disk.clone(),
        fail: FailStop::then(move |why| heard.lock().unwrap().push(why.to_owned())),
        ..Surroundings::default()
    };
    let cluster = Cluster::start_in(settings(dir.path()), barrier(), surroundings).await.unwrap();
    cluster.propose(Actor::System, note("before")).await.unwrap();

    disk.fail_next.store(true, Ordering::SeqCst);
    let during = cluster.propose(Actor::System, note("during")).await;
    assert!(matches!(during, Err(ProposeError::Unavailable(_))), "{during:?}");
    let calls = disk.calls.load(Ordering::SeqCst);
    let after = cluster.propose(Actor::System, note("after")).await;
    assert!(matches!(after, Err(ProposeError::Unavailable(_))), "{after:?}");

    assert_eq!(disk.calls.load(Ordering::SeqCst), calls, "an fsync was tried again");
    let words = last_words.lock().unwrap().clone();
    assert_eq!(words.len(), 1, "{words:?}");
    assert!(words[0].contains("syncing the log failed"), "{words:?}");
    assert!(cluster.read(|_| ()).await.is_err());
    cluster.shutdown().await;
    drop(cluster);

    let again = start(dir.path()).await.unwrap();
    assert_eq!(noted(&again).get("before"), Some(&1));
    assert_eq!(noted(&again).get("after"), None);
    again.shutdown().await;
    passed("R-14", 1, 1);
}
