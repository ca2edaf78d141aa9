//! A node that is too far behind for the log gets a snapshot: whole, checked, and not from the start again when cut.

use std::fs;
use std::time::{Duration, Instant};

use countersign_control_plane::state::Actor;
use countersign_proto::v1;
use futures::stream;
use sha2::{Digest as _, Sha256};
use tonic::Code;

use crate::support::{note_of_size, noted};
use crate::town::{Town, eventually};
use crate::world::CLUSTER;

/// A founder with a snapshot of some megabytes that it has just taken, and a small log; the founder and the snapshot.
async fn with_snapshot() -> (Town, u64, String) {
    let town = Town::founded_with(EVERY).await;
    let founder = town.ids()[0];
    let propose = async |serial: u64, size| {
        let note = note_of_size(&format!("subject-{serial}"), size);
        town.any().propose(Actor::System, note).await.unwrap();
    };
    for serial in 0..130 {
        propose(serial, 50_000).await;
    }
    let mut before = None;
    for serial in 130.. {
        propose(serial, 10).await;
        let newest = newest_snapshot(&town, founder);
        if serial == 130 + 3 * EVERY {
            before = newest.clone();
        } else if before.is_some() && newest != before {
            break;
        }
    }
    let id = newest_snapshot(&town, founder).unwrap();
    (town, founder, id)
}

/// Entries from one snapshot to the next, and kept behind it.
const EVERY: u64 = 40;

fn newest_snapshot(town: &Town, of: u64) -> Option<String> {
    snapshots(town, of).into_iter().max()
}

fn snapshots(town: &Town, of: u64) -> Vec<String> {
    let folder = town.dir(of).join("snapshots");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let finished = files.filter(|path| path.extension().is_some_and(|e| e == "snapshot"));
    finished.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn r_19_a_snapshot_that_was_cut_off_goes_on_where_it_was() {
    let (mut town, founder, _) = with_snapshot().await;
    town.net.allow(Some(2_500_000));
    let joined = town.join("node-2").await;
    eventually("that the transfer is cut", || town.net.is_used_up().then_some(())).await;
    let rpc = town.node(joined).rpc();
    let until = Instant::now() + Duration::from_secs(60);
    // The founder may have made another one since, and sends the newest.
    let (id, begun) = 'found: loop {
        for snapshot_id in snapshots(&town, founder) {
            let (cluster_id, id) = (CLUSTER.into(), snapshot_id.clone());
            let asked = v1::SnapshotOffsetRequest { cluster_id, snapshot_id };
            match rpc.snapshot_offset(founder, asked).await {
                Ok(answer) if answer.offset > 0 => break 'found (id, answer.offset),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        assert!(Instant::now() < until, "nothing of a snapshot arrived");
    };
    assert!(begun >= 256 * 1024, "{begun}");
    assert_eq!(town.node(joined).applied_index(), 0, "nothing of a part is installed");

    // What is sent from now on is less than the whole would be.
    let size = fs::metadata(town.dir(founder).join("snapshots").join(format!("{id}.snapshot")));
    let size = size.unwrap().len();
    assert!(begun < size);
    town.net.allow(Some(size - begun / 2));
    eventually("that it is installed", || (town.node(joined).applied_index() > 0).then_some(()))
        .await;
    assert!(!town.net.is_used_up(), "it was sent from the start again");
    town.net.allow(None);
    town.settled().await;
    town.agree(&town.ids()).await;
    assert_eq!(noted(town.node(joined)), noted(town.node(founder)));
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_7_a_snapshot_that_was_tampered_with_is_not_installed_and_stops_nobody() {
    let (mut town, founder, id) = with_snapshot().await;
    let file = town.dir(founder).join("snapshots").join(format!("{id}.snapshot"));
    let sound = fs::read(file).unwrap();
    town.net.isolate(founder);
    let learner = town.join("node-2").await;
    let rpc = town.node(learner).rpc();
    let vote = v1::RaftVote { term: town.node(founder).term(), node_id: founder, committed: true };
    let greeting = v1::GreetRequest {
        cluster_id: CLUSTER.into(),
        node_id: founder,
        boot_counter: 1,
        vote: Some(v1::RaftVote { committed: false, ..vote }),
        ..Default::default()
    };
    rpc.greet(founder, greeting).await.unwrap();
    let chunk =
        |data: &[u8], offset: usize, done: bool, sha256: &[u8]| v1::InstallSnapshotRequest {
            cluster_id: CLUSTER.into(),
            vote: Some(vote),
            snapshot_id: id.clone(),
            offset: offset as u64,
            data: data.to_vec().into(),
            done,
            sha256: sha256.to_vec().into(),
            // Of nobody, by no entry.
            membership: vec![0; 9].into(),
            ..Default::default()
        };
    let offer = async |bytes: &[u8], sha256: &[u8]| {
        let half = bytes.len() / 2;
        let chunks = [
            Ok(chunk(&bytes[..half], 0, false, &[])),
            Ok(chunk(&bytes[half..], half, true, sha256)),
        ];
        rpc.install_snapshot(founder, stream::iter(chunks)).await.unwrap_err().code()
    };

    let mut flipped = sound.clone();
    flipped[sound.len() / 3] ^= 1;
    let honest = Sha256::digest(&sound);
    assert_eq!(offer(&flipped, &honest).await, Code::DataLoss, "the hash is another's");
    assert_eq!(offer(&flipped, &Sha256::digest(&flipped)).await, Code::DataLoss, "a forged hash");
    let cut = &sound[..sound.len() - 1];
    assert_eq!(offer(cut, &Sha256::digest(cut)).await, Code::DataLoss, "cut short");
    // Announced with another end and another membership than it has.
    assert_eq!(offer(&sound, &honest).await, Code::DataLoss, "announced as another");
    // A part that does not go on where the last one ended.
    let astray = stream::iter([Ok(chunk(&sound, 77, true, &honest))]);
    let astray = rpc.install_snapshot(founder, astray).await.unwrap_err();
    assert_eq!(astray.code(), Code::OutOfRange);
    // And one that never ends.
    let endless = stream::iter([Ok(chunk(&sound, 0, false, &[]))]);
    assert_eq!(rpc.install_snapshot(founder, endless).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(town.node(learner).applied_index(), 0);

    // It takes the true one as if nothing had been.
    town.net.heal(founder);
    town.settled().await;
    town.agree(&town.ids()).await;
    assert_eq!(noted(town.node(learner)), noted(town.node(founder)));
    town.shutdown().await;
}
