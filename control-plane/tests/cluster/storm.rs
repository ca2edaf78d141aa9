//! R-19, on one node: snapshots all the time.

use countersign_control_plane::cluster::{Cluster, Settings};
use countersign_control_plane::state::Actor;

use crate::support::{barrier, note, noted, passed, settings};

#[tokio::test(flavor = "multi_thread")]
async fn r_19_a_node_that_stops_while_it_writes_a_snapshot_starts_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut proposed = 0;
    for start in 0..12 {
        let often = Settings { snapshot_every: 5, ..settings(dir.path()) };
        let cluster = Cluster::start(often, barrier()).await.unwrap();
        assert_eq!(noted(&cluster).len(), proposed, "start {start}");
        for _ in 0..20 + start {
            cluster.propose(Actor::System, note(&proposed.to_string())).await.unwrap();
            proposed += 1;
        }
        cluster.shutdown().await;
        let folder = std::fs::read_dir(dir.path().join("snapshots")).unwrap();
        let names: Vec<_> = folder.map(|file| file.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1, "only the newest, and nothing half written: {names:?}");
    }
    passed("R-19", 12, proposed);
}
