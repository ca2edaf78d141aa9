//! The CAs that the edge knows the nodes by: those of its file, until a quorum of nodes names others.

use std::path::Path;
use std::time::Duration;

use crate::world::{Authority, Setup, World};

const ATTACHED: &str = "countersign_edge_attached";

/// Two nodes, of which the last shows a certificate of another CA.
async fn world(newer: &Authority, file: &Path) -> World {
    let setup = Setup {
        of_last: Some(newer.clone()),
        ca_file: Some(file.to_owned()),
        ..Setup::cluster(2, 2)
    };
    let world = setup.start().await;
    world.control.hello().await;
    assert_eq!(world.control.attached_to(), 0, "the other is not known yet");
    world
}

/// Returns once this is in the file.
async fn written(file: &Path, pem: &str) {
    let is_there = async {
        while std::fs::read_to_string(file).expect("it is there") != pem {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_there).await.expect("it is written");
}

async fn in_force(world: &World, revision: u64) {
    world.until("countersign_edge_bundle_revision", revision as f64).await;
}

async fn name(world: &World, pem: String) -> u64 {
    world.control.change(|state| state.gateway_ca_pem = pem).await;
    world.control.state().revision
}

#[tokio::test]
async fn a_bundle_names_other_cas_and_the_former_one_is_none_from_then_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let (newer, file) = (Authority::new(), dir.path().join("gateway-ca.pem"));
    let world = world(&newer, &file).await;
    let former = std::fs::read_to_string(&file).expect("it is there");

    let both = format!("{}{former}", newer.pem());
    let revision = name(&world, both.clone()).await;
    in_force(&world, revision).await;
    written(&file, &both).await;
    for from in [0, 1] {
        world.control.kill(from);
        world.control.hello().await;
        assert_eq!(world.control.attached_to(), 1 - from, "it knows either");
        world.control.revive(from).await;
    }

    let revision = name(&world, newer.pem()).await;
    in_force(&world, revision).await;
    written(&file, &newer.pem()).await;
    assert_eq!(world.control.attached_to(), 0, "the session that is there goes on");
    world.control.drop_session();
    world.control.hello().await;
    assert_eq!(world.control.attached_to(), 1);
    world.until(ATTACHED, 1.0).await;
    world.control.kill(1);
    world.until(ATTACHED, 0.0).await;
    // The other node, which is there, is tried meanwhile, and in vain.
    let refused = world.ask(1).await.expect("no panic");
    assert_eq!(refused.status, 503);
    world.control.revive(1).await;
    world.control.hello().await;
    assert_eq!(world.control.attached_to(), 1, "the node that the former CA vouches for is none");
}

#[tokio::test]
async fn cas_that_too_few_nodes_signed_or_that_are_none_change_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (newer, file) = (Authority::new(), dir.path().join("gateway-ca.pem"));
    let world = world(&newer, &file).await;
    let former = std::fs::read_to_string(&file).expect("it is there");
    let before = world.metric("countersign_edge_bundle_revision").await;

    let mut forged = world.control.state();
    (forged.revision, forged.gateway_ca_pem) = (forged.revision + 1, newer.pem());
    world.control.bundle_by(&[world.control.signer(0)], &forged).await;
    // A bundle that does not count ends the session.
    world.control.hello().await;
    assert_eq!(world.control.attached_to(), 0);

    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for pem in ["nothing", nonsense] {
        let mut other = world.control.state();
        (other.revision, other.gateway_ca_pem) = (other.revision + 1, pem.into());
        let signers = [world.control.signer(0), world.control.signer(1)];
        world.control.bundle_by(&signers, &other).await;
        world.control.hello().await;
        assert_eq!(world.control.attached_to(), 0, "{pem}");
    }
    assert_eq!(world.metric("countersign_edge_bundle_revision").await, before);
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), former);
}

#[tokio::test]
async fn a_file_that_somebody_else_has_changed_is_left_and_the_new_ones_count_all_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let (newer, file) = (Authority::new(), dir.path().join("gateway-ca.pem"));
    let world = world(&newer, &file).await;
    std::fs::write(&file, "pinned anew").expect("written");
    let revision = name(&world, newer.pem()).await;
    in_force(&world, revision).await;
    world.control.drop_session();
    world.control.hello().await;
    assert_eq!(world.control.attached_to(), 1);
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "pinned anew");
}
