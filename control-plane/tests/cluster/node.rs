//! One node, started and stopped in order.

use countersign_control_plane::state::{Actor, Event};

use crate::support::{note, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path()).await.unwrap();
    let node_id = cluster.node_id();
    for serial in 0..20 {
        eprintln!("{:?}", cluster.propose(Actor::System, note(&serial.to_string())).await);
    }
    let (chain, index) = (cluster.chain(), cluster.applied_index());
    cluster.shutdown().await;

    let again = start(dir.path()).await.unwrap();
    assert_eq!(again.node_id(), node_id);
    assert!(again.applied_index() > index);
    assert_ne!(again.chain(), chain);
    again.shutdown().await;
    let _ = Event::Noted;
}
