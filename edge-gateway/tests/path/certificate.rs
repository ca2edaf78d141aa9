//! The edge's certificate lasts a day: it is renewed in time, for the key that it is bound to.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::world::{Setup, World};

const UNTIL: &str = "countersign_edge_certificate_not_after_seconds";
const HOUR: Duration = Duration::from_secs(60 * 60);

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate").to_vec()
}

/// Lets the clock go on until the edge asks for a new certificate.
async fn asked(world: &World) {
    while world.control.renewal_asked().await.is_none() {
        world.hands.advance(HOUR / 60);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Returns once the certificate no longer ends when it did.
async fn taken(world: &World, ended: Option<f64>) {
    let renewed = async {
        while world.metric(UNTIL).await == ended {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("it is taken");
}

#[tokio::test]
async fn at_two_thirds_of_its_life_the_certificate_is_renewed_for_the_same_key() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("edge.pem");
    let setup = Setup { certificate_file: Some(file.clone()), ..Setup::default() };
    let world = setup.start().await;
    world.control.hello().await;
    let first = world.control.edge_certificate();
    assert_eq!(der(&std::fs::read_to_string(&file).expect("it is there")), first);
    let until = world.metric(UNTIL).await;

    world.hands.advance(HOUR * 15);
    world.control.tell_time(world.clock.wall_ms()).await;
    assert!(world.control.renewal_asked().await.is_none(), "not before its time");
    world.control.renew_by(|authority, request| authority.sign_for(request, 24 + 17));
    world.hands.advance(HOUR * 2);
    world.control.renewal().await;
    taken(&world, until).await;
    let written = std::fs::read_to_string(&file).expect("it is there");
    assert_eq!(std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_ne!(der(&written), first);

    // A request that is held over the renewal is bound to the key, which is the same one.
    world.control.tell_time(world.clock.wall_ms()).await;
    let waiting = world.ask(30);
    let open = world.control.open().await;
    world.control.drop_session();
    world.control.hello().await;
    assert_eq!(
        world.control.edge_certificate(),
        der(&written),
        "the new session shows the new one"
    );
    let again = world.control.open().await;
    assert_eq!(again.head, open.head);
    world.control.release(&again).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn when_another_ca_signs_the_certificate_is_renewed_at_once_and_until_that_succeeds() {
    let world = World::start().await;
    world.control.hello().await;
    let (first, until) = (world.control.edge_certificate(), world.metric(UNTIL).await);
    let began_ms = world.clock.wall_ms();
    world.control.renew_by(|_, _| "no certificate".into());
    world.control.renew_now().await;
    world.control.renewal().await;
    world.control.renew_by(|authority, request| authority.sign_for(request, 48));
    asked(&world).await;
    taken(&world, until).await;
    assert!(world.clock.wall_ms() - began_ms < 16 * HOUR.as_millis() as u64, "before its time");
    world.control.drop_session();
    world.control.hello().await;
    assert!(world.control.edge_certificate() != first);

    // It was renewed: nothing is left to be done.
    world.control.tell_time(world.clock.wall_ms()).await;
    assert!(world.control.renewal_asked().await.is_none());
}

#[tokio::test]
async fn a_certificate_for_another_key_or_one_that_ends_earlier_is_not_taken() {
    let world = World::start().await;
    world.control.hello().await;
    let first = world.control.edge_certificate();
    world.control.renew_by(|authority, _| authority.edge(48).0);
    asked(&world).await;
    world.control.renew_by(|authority, request| authority.sign_for(request, 20));
    // It asks again only once it has looked at the answer.
    asked(&world).await;
    world.control.renew_by(|_, _| "no certificate".into());
    let until = world.metric(UNTIL).await;
    asked(&world).await;
    assert_eq!(world.metric(UNTIL).await, until, "none of them was taken");
    asked(&world).await;
    taken(&world, until).await;
    world.control.drop_session();
    world.control.hello().await;
    assert!(world.control.edge_certificate() != first, "the last one was a good one");
}

#[tokio::test]
async fn a_file_that_somebody_else_has_changed_is_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("edge.pem");
    let setup = Setup { certificate_file: Some(file.clone()), ..Setup::default() };
    let world = setup.start().await;
    world.control.hello().await;
    let first = world.control.edge_certificate();
    std::fs::write(&file, "enrolled anew").expect("written");
    let until = world.metric(UNTIL).await;
    asked(&world).await;
    taken(&world, until).await;
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "enrolled anew");
    world.control.drop_session();
    world.control.hello().await;
    assert!(world.control.edge_certificate() != first, "in memory it is the new one");
}

#[tokio::test]
async fn an_edge_whose_certificate_has_ended_says_what_to_do() {
    let setup = Setup { certificate_hours: -1, ..Setup::default() };
    let Err(why) = setup.unattached(|_| {}).await else { panic!("it does not start") };
    let why = format!("{why:#}");
    assert!(why.contains("enroll again") && why.contains("edge-1"), "{why}");
}
