//! `kill -9` at any moment loses nothing that was acknowledged.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use crate::child::{spawn, words};
use crate::support::{noted, start};

const ROUNDS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn r_3_kill_9_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut child = spawn("propose", dir.path(), &round.to_string());
        let output = child.stdout.take().unwrap();
        let listening = thread::spawn(move || {
            words(output).filter(|word| word != "started").collect::<Vec<_>>()
        });
        // From the middle of opening to some hundred proposals in.
        tokio::time::sleep(Duration::from_millis(100 + rand::random::<u64>() % 900)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(listening.join().unwrap());

        let cluster = start(dir.path()).await.unwrap();
        let times = noted(&cluster);
        let lost: Vec<_> =
            acknowledged.iter().filter(|subject| times.get(*subject) != Some(&1)).collect();
        assert!(lost.is_empty(), "round {round}: not there exactly once: {lost:?}");
        assert!(cluster.peek(|state| state.audit().verify()).is_ok());
        cluster.shutdown().await;
    }
    assert!(acknowledged.len() > ROUNDS, "only {} proposals were acknowledged", acknowledged.len());
}
