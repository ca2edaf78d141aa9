//! T4-REWRITE, I10: a node whose history is another one stops, and the others go on.

use std::fs;
use std::path::Path;

use ciborium::Value;
use countersign_control_plane::cluster::{Cluster, Entry, Purpose};
use countersign_control_plane::state::{Actor, Command, CommandId, Proposal};
use countersign_proto::v1;
use sha2::{Digest as _, Sha256};

use crate::replica::{Replica, entry, is_noted};
use crate::support::{barrier, note, noted, settings};
use crate::town::{Town, eventually};

/// Entries 0 to `last`; entry `rewritten` notes something else.
fn history(last: u64, rewritten: Option<u64>) -> impl Iterator<Item = Entry> {
    (0..=last).map(move |index| {
        let word = if Some(index) == rewritten { "rewritten" } else { "as it was" };
        entry(barrier().as_ref(), index, note(word))
    })
}

fn said(index: u64, (after, chain): (u64, [u8; 32])) -> Entry {
    entry(barrier().as_ref(), index, Command::Checkpoint { index: after, chain })
}

#[tokio::test]
async fn t4_rewrite_a_node_that_was_given_another_entry_stops_and_the_others_go_on() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut nodes: Vec<_> = dirs.iter().map(|dir| Replica::open(dir.path(), barrier())).collect();
    for (place, node) in nodes.iter_mut().enumerate() {
        let rewritten = (place == 2).then_some(100);
        node.apply(history(300, rewritten)).await.unwrap();
    }
    let (after, chain) = nodes[0].machine.view().fingerprint().unwrap();
    assert_eq!(after, 256);
    let checkpoint = said(301, (after, chain));
    let next = || entry(barrier().as_ref(), 302, note("after"));
    for node in &mut nodes[..2] {
        assert!(is_noted(&node.apply([checkpoint.clone(), next()]).await.unwrap()[1]));
        assert!(node.last_words.lock().unwrap().is_empty());
        assert_eq!(node.applied(), 302);
    }
    let diverged = &mut nodes[2];
    assert!(diverged.apply([checkpoint, next()]).await.is_err());
    let words = diverged.last_words.lock().unwrap().clone();
    assert!(words.len() == 1 && words[0].contains("at entry 256"), "{words:?}");
    assert!(!diverged.subjects().contains(&"after".to_owned()), "it applies nothing more");
}

#[tokio::test]
async fn i_10_a_fingerprint_says_what_came_before_it_and_nothing_of_what_comes_after() {
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut found = Vec::new();
    for (dir, (last, rewritten)) in
        dirs.iter().zip([(256, None), (300, Some(257)), (256, Some(0)), (256, Some(256))])
    {
        let mut node = Replica::open(dir.path(), barrier());
        node.apply(history(last, rewritten)).await.unwrap();
        found.push(node.machine.view().fingerprint().unwrap());
    }
    assert_eq!(found[0], found[1]);
    assert_ne!(found[0], found[2]);
    assert_ne!(found[0], found[3]);
    assert_ne!(found[2], found[3]);
}

#[tokio::test]
async fn a_checkpoint_of_what_a_node_does_not_know_any_more_stops_nobody() {
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut ahead = Replica::open(dirs[0].path(), barrier());
    ahead.apply(history(600, None)).await.unwrap();
    let (meta, bytes) = ahead.snapshot().await;

    // It never applied entry 512 itself.
    let mut installed = Replica::open(dirs[1].path(), barrier());
    installed.install(&meta, &bytes).await.unwrap();
    let unknown = said(601, (512, [9; 32]));
    assert!(installed.apply([unknown]).await.is_ok());
    // From here on it knows: what it was given is what it goes on from.
    let more = |node: u64| {
        (602..=800).map(move |i| entry(barrier().as_ref(), i, note(&format!("{node}"))))
    };
    installed.apply(more(1)).await.unwrap();
    ahead.apply([said(601, (512, ahead.machine.view().fingerprint().unwrap().1))]).await.unwrap();
    ahead.apply(more(2)).await.unwrap();
    let (after, chain) = ahead.machine.view().fingerprint().unwrap();
    assert_eq!(after, 768);
    assert!(installed.apply([said(801, (after, chain))]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_says_what_it_came_to_and_nobody_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(settings(dir.path()), barrier()).await.unwrap();
    let mut events = cluster.subscribe();
    let proposed = 600;
    for serial in 0..proposed {
        cluster.propose(Actor::System, note(&serial.to_string())).await.unwrap();
    }
    // Entries beside those proposed are checkpoints; there is one at last, and not one for each look.
    let before = cluster.applied_index();
    let waited = async {
        while cluster.checkpointed() < 512 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), waited).await.unwrap();
    assert!(cluster.applied_index() - before <= 2);
    cluster.propose(Actor::System, note("last")).await.unwrap();
    let mut told = 0;
    while let Ok(event) = events.try_recv() {
        assert!(event.position().index > 0);
        told += 1;
    }
    assert_eq!(told, proposed + 1, "a checkpoint is no news");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t4_rewrite_a_node_whose_stored_history_was_rewritten_stops_and_the_cluster_goes_on() {
    let mut town = Town::founded_with(20).await;
    let first = town.ids()[0];
    let second = town.join("node-2").await;
    let third = town.join("node-3").await;
    town.settled().await;
    for serial in 0..60 {
        town.node(first).propose(Actor::System, note(&serial.to_string())).await.unwrap();
    }
    town.agree(&[first, second, third]).await;

    // By somebody who has the keyring, and knows how everything is made.
    town.stop(third).await;
    rewrite_last_record(&town.dir(third).join("snapshots"));
    let last_words = town.start_and_listen(third).await;
    let others = [first, second];
    for serial in 60..400 {
        let node = town.node(others[serial % 2]);
        let committed = node.propose(Actor::System, note(&serial.to_string())).await.unwrap();
        // It keeps up, so nobody sends it a snapshot, which would mend it.
        eventually("the third node", || {
            let there = town.node(third).applied_index() >= committed.position().index;
            (there || !last_words.lock().unwrap().is_empty()).then_some(())
        })
        .await;
    }
    let words = eventually("the end of the third node", || last_words.lock().unwrap().pop()).await;
    assert!(words.contains("came to something else than the cluster"), "{words}");

    for node in others {
        town.node(node).propose(Actor::System, note(&format!("after-{node}"))).await.unwrap();
    }
    town.agree(&others).await;
    assert!(town.node(first).checkpointed() >= 256);
    for node in others {
        assert_eq!(noted(town.node(node)).get("399"), Some(&1));
        assert!(!noted(town.node(third)).contains_key(&format!("after-{node}")));
    }
    town.shutdown().await;
}

/// In the newest snapshot, another hash for the last audit record; all checksums and seals are as they should be.
fn rewrite_last_record(snapshots: &Path) {
    let path = fs::read_dir(snapshots).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&path).unwrap();
    let length = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let seal_file = 8 + length(4);
    let sealed = seal_file + 4 + length(seal_file);
    let plaintext = barrier().open(Purpose::Snapshot, &bytes[sealed..bytes.len() - 32]).unwrap();
    let mut state: Value = ciborium::from_reader(&plaintext[32..]).unwrap();
    let Value::Array(records) = field(field(&mut state, "audit"), "records") else { panic!() };
    let Value::Array(hash) = field(records.last_mut().unwrap(), "hash") else { panic!() };
    hash.reverse();

    let mut forged = plaintext[..32].to_vec();
    ciborium::into_writer(&state, &mut forged).unwrap();
    let mut out = bytes[..sealed].to_vec();
    out.extend(barrier().seal(Purpose::Snapshot, &forged));
    let sum = Sha256::digest(&out);
    out.extend(sum);
    assert_ne!(out, bytes);
    fs::write(path, out).unwrap();
}

fn field<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    let Value::Map(fields) = value else { panic!("{name} is a field of nothing") };
    let found = fields.iter_mut().find(|(key, _)| key.as_text() == Some(name));
    &mut found.unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_says_what_the_log_came_to() {
    let town = Town::of(2).await;
    let leader = town.leader().await;
    let follower = town.any_but(leader).node_id();
    let command = Command::Checkpoint { index: 1, chain: [9; 32] };
    let id = CommandId { client: [3; 16], serial: 1 };
    let mut plaintext = Vec::new();
    let proposal = Proposal { id, actor: Actor::System, command };
    ciborium::into_writer(&proposal, &mut plaintext).unwrap();
    let request = v1::ForwardProposalRequest {
        cluster_id: crate::world::CLUSTER.into(),
        sealed: barrier().seal(Purpose::Forward, &plaintext).into(),
    };
    let refused = town.node(leader).rpc().forward_proposal(follower, request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("the leader says by itself"), "{refused}");
    assert_eq!(town.node(leader).checkpointed(), 0);
    town.shutdown().await;
}
