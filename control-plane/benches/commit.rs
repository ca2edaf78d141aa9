//! Durable commits: one proposer and sixty-four, beside appending to a file and fdatasync.
//!
//! `cargo bench -p countersign-control-plane --bench commit`; the directory is the temporary one (`TMPDIR` moves it
//! to the disk in question). What counts is the ratio to the raw loop on the same disk.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_control_plane::cluster::{Barrier, Cluster, Purpose, Settings, Tampered};
use countersign_control_plane::state::{Actor, Command};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

criterion_group!(benches, commits);
criterion_main!(benches);

fn commits(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("durable commits");
    group.throughput(Throughput::Elements(1));
    group.sample_size(20).measurement_time(Duration::from_secs(5));

    let directory = tempfile::tempdir().expect("a directory");
    group.bench_function("append + fdatasync, 256 bytes", |bencher| {
        let mut file = File::create(directory.path().join("raw")).expect("a file");
        bencher.iter(|| {
            file.write_all(&[7; 256]).expect("append");
            file.sync_data().expect("sync");
        });
    });
    for proposers in [1, 64] {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = Settings::alone(directory.path().to_owned(), 20_000);
        let cluster =
            runtime.block_on(Cluster::start(settings, Arc::new(Checksum))).expect("a cluster");
        group.bench_function(format!("{proposers} proposers"), |bencher| {
            bencher
                .iter_custom(|proposals| runtime.block_on(propose(&cluster, proposers, proposals)));
        });
        runtime.block_on(cluster.shutdown());
    }
    group.finish();
}

/// How long it takes so many proposers to get so many proposals committed between them.
async fn propose(cluster: &Cluster, proposers: u64, proposals: u64) -> Duration {
    let began = Instant::now();
    let mut working = tokio::task::JoinSet::new();
    for proposer in 0..proposers {
        let share = proposals / proposers + u64::from(proposer < proposals % proposers);
        let cluster = cluster.clone();
        working.spawn(async move {
            for _ in 0..share {
                cluster.propose(Actor::System, Command::Tick).await.expect("committed");
            }
        });
    }
    working.join_all().await;
    began.elapsed()
}

/// Stands in for the vault, at about its cost.
struct Checksum;

impl Barrier for Checksum {
    fn seal(&self, _purpose: Purpose, plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = Sha256::digest(plaintext).to_vec();
        sealed.extend(plaintext);
        sealed
    }

    fn open(&self, _purpose: Purpose, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Tampered> {
        let (sum, plaintext) = sealed.split_first_chunk::<32>().ok_or(Tampered)?;
        if Sha256::digest(plaintext)[..] == sum[..] {
            Ok(Zeroizing::new(plaintext.to_vec()))
        } else {
            Err(Tampered)
        }
    }
}
