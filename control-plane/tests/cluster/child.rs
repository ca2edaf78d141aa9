//! Roles that this test binary plays when it runs itself: a process that can be killed, stopped or abort.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use countersign_control_plane::cluster::engine::Fsync;
use countersign_control_plane::cluster::{Cluster, Settings, Surroundings};
use countersign_control_plane::state::Actor;

use crate::support::{barrier, note_of_size, noted};

const ROLE: &str = "COUNTERSIGN_TEST_ROLE";
const DIRECTORY: &str = "COUNTERSIGN_TEST_DIRECTORY";
const PREFIX: &str = "COUNTERSIGN_TEST_PREFIX";

/// A process of this binary in a role.
pub(crate) fn spawn(role: &str, directory: &Path, prefix: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child::plays_its_role", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIRECTORY, directory)
        .env(PREFIX, prefix)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a child says, without what its test harness says.
pub(crate) fn words(output: ChildStdout) -> impl Iterator<Item = String> {
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    lines.filter_map(|line| line.strip_prefix("child: ").map(str::to_owned))
}

/// Does nothing unless this process was started by [`spawn`].
#[test]
fn plays_its_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let directory = std::env::var(DIRECTORY).unwrap();
    let prefix = std::env::var(PREFIX).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "propose" => propose(Path::new(&directory), &prefix, Surroundings::default()).await,
            "propose without syncing" => {
                let surroundings =
                    Surroundings { fsync: Arc::new(NoFsync), ..Surroundings::default() };
                propose(Path::new(&directory), &prefix, surroundings).await;
            }
            "open" => open(Path::new(&directory)).await,
            other => panic!("no such role: {other}"),
        }
    });
}

/// Proposes for ever and says what was acknowledged, after it was.
async fn propose(directory: &Path, prefix: &str, surroundings: Surroundings) {
    let settings = Settings::alone(directory.to_owned(), 60);
    let cluster = Cluster::start_in(settings, barrier(), surroundings).await.unwrap();
    say("started");
    let mut proposers = tokio::task::JoinSet::new();
    for proposer in 0..4 {
        let (cluster, prefix) = (cluster.clone(), prefix.to_owned());
        proposers.spawn(async move {
            for serial in 0_usize.. {
                let subject = format!("{prefix}-{proposer}-{serial}");
                // Mostly small; now and then far above sled's page, its segment's quarter, and one chunk.
                let size = match serial % 16 {
                    3 => 5_000,
                    7 => 20_000,
                    11 => 150_000,
                    other => other * 30,
                };
                cluster.propose(Actor::System, note_of_size(&subject, size)).await.unwrap();
                say(&subject);
            }
        });
    }
    proposers.join_all().await;
}

/// Opens what is there and says what it is.
async fn open(directory: &Path) {
    let settings = Settings::alone(directory.to_owned(), 100_000);
    match Cluster::start(settings, barrier()).await {
        Ok(cluster) => {
            for subject in noted(&cluster).keys() {
                say(subject);
            }
            cluster.shutdown().await;
            say("opened");
        }
        Err(e) => say(&format!("refused: {e}")),
    }
}

fn say(word: &str) {
    let mut out = io::stdout().lock();
    // The harness may have left a line open.
    out.write_all(format!("\nchild: {word}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Says yes and does nothing.
struct NoFsync;

impl Fsync for NoFsync {
    fn data(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn whole(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn folder(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}
