//! What an edge has seen stays, its certificate is renewed, and the audit log is signed by itself.

use std::time::Duration;

use countersign_control_plane::sign::{self, SigningKeys};
use countersign_control_plane::state::{Audience, Command};
use countersign_proto::v1;
use countersign_proto::v1::gateway_service_client::GatewayServiceClient;
use rcgen::{CertificateParams, KeyPair};
use tonic::{Code, Status};

use crate::edge::{Process, connect};
use crate::quorum::attached;
use crate::world::{CLUSTER, Enrolled, Ground, World, request};

async fn renew(world: &World, enrolled: &Enrolled, csr_pem: String) -> Result<String, Status> {
    let mut client = GatewayServiceClient::new(connect(world, enrolled).await?);
    let renewed = client.renew_certificate(v1::RenewCertificateRequest { csr_pem }).await?;
    Ok(renewed.into_inner().certificate_pem)
}

fn request_of(enrolled: &Enrolled) -> String {
    let key = KeyPair::from_pem(&enrolled.key_pem).unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_gets_another_certificate_for_its_own_key_and_for_no_other() {
    let world = World::new().await;
    let (process, session) = attached(&world, "one").await;
    let recorded = world.cluster.applied_index();
    let renewed = renew(&world, &process.enrolled, request_of(&process.enrolled)).await.unwrap();
    assert_ne!(renewed, process.enrolled.certificate_pem);
    let (_, pem) = x509_parser::pem::parse_x509_pem(renewed.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let own = "[URI(\"spiffe://test-cluster/edge/id-of-one\")]";
    assert_eq!(format!("{:?}", names.value.general_names), own);
    let left = certificate.validity().time_to_expiration().unwrap();
    assert!(left.whole_hours() <= i64::from(sign::EDGE_CERTIFICATE_DAYS) * 24);
    assert_eq!(world.cluster.applied_index(), recorded, "nothing had to be committed");
    drop(session);

    let enrolled = Enrolled { certificate_pem: renewed, ..process.enrolled.clone() };
    let mut same_process = process.clone();
    same_process.enrolled = enrolled;
    same_process.attach(&world).await;

    let other = renew(&world, &process.enrolled, request().0).await.unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition, "{other}");
    let none = renew(&world, &process.enrolled, "no request".into()).await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument, "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_was_evicted_or_has_a_newer_key_renews_nothing() {
    let world = World::new().await;
    let (first, second) = (world.enroll("one").await, world.enroll("one").await);
    let refused = renew(&world, &first, request_of(&first)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    renew(&world, &second, request_of(&second)).await.unwrap();
    world.propose(Command::EvictEdge { name: "one".into(), reason: "stolen".into() }).await;
    let refused = renew(&world, &second, request_of(&second)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r_17_a_cluster_that_is_behind_an_edge_is_refused_its_service_and_the_alarm_is_raised() {
    let world = World::new().await;
    let enrolled = world.enroll("one").await;
    let here = world.cluster.peek(|state| state.position());
    let ahead = [
        (here.term, here.index + 1000, 0, 0),
        (here.term + 1, 1, 0, 0),
        (0, 0, here.index + 1000, 0),
        (0, 0, 0, 2),
    ];
    for (number, seen) in ahead.into_iter().enumerate() {
        let mut process = Process::new(enrolled.clone());
        process.seen = seen;
        for _ in 0..2 {
            let refused = process.attach_with(&world, Vec::new()).await.err().unwrap();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(refused.message().starts_with("rolled back"), "{refused}");
        }
        assert_eq!(world.recorded("cluster.rolled_back"), number + 1, "once for each process");
    }
    assert!(world.intake.connected_edges().is_empty());
    let mut behind = Process::new(enrolled);
    behind.seen = (here.term, here.index, here.index, 1);
    behind.attach(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_signed_when_there_is_enough_of_it() {
    let world = World::new().await;
    for number in 0..260 {
        let note =
            Command::Note { action: "test".into(), subject: number.to_string(), details: vec![] };
        world.propose(note).await;
    }
    world.until_true(|state| state.audit_checkpoints().last().is_some()).await;
    let last = world.cluster.peek(|state| state.audit_checkpoints().last().cloned()).unwrap();
    assert!(last.checkpoint.index >= 256 && last.counts(&world.trust()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_audit_records_are_signed_once_it_is_quiet() {
    let world = World::new().await;
    let records = world.cluster.peek(|state| state.audit().records().len() as u64);
    assert!(records < 256);
    let signed = async {
        world
            .until_true(|state| {
                state
                    .audit_checkpoints()
                    .last()
                    .is_some_and(|last| last.checkpoint.index == records)
            })
            .await;
    };
    tokio::time::timeout(Duration::from_secs(30), signed).await.unwrap();
}

#[test]
fn a_key_that_was_made_before_there_was_a_vault_is_sealed_by_it() {
    let ground = Ground::new();
    let dir = ground.data_dir();
    let public = SigningKeys::prepare(&dir).unwrap();
    assert_eq!(SigningKeys::prepare(&dir).unwrap(), public);
    let waiting = std::fs::read_to_string(dir.join("signing-key.waiting")).unwrap();
    assert_eq!(ground.keys().newest_public(), public);
    assert!(!dir.join("signing-key.waiting").exists());
    let sealed = std::fs::read_to_string(dir.join("signing-keys.json")).unwrap();
    assert!(!sealed.contains(waiting.trim()));
    assert_eq!(ground.keys().newest_public(), public);
    assert_eq!(SigningKeys::prepare(&dir).unwrap(), public);
    std::fs::write(dir.join("signing-keys.json"), "[]").unwrap();
    assert!(
        SigningKeys::open_or_make(&dir, &ground.vault).is_err(),
        "no key is made beside others"
    );
}

#[test]
fn a_nodes_certificate_names_it_and_nothing_else() {
    let ground = Ground::new();
    let root = sign::RootKey::generate();
    let genesis = crate::world::beginning(&ground.vault, &root, &ground.keys(), 1, "");
    let pem = sign::issue_node_certificate(
        &genesis.cluster_id,
        &genesis.shown_ca(Audience::Nodes),
        &ground.vault,
        &request().0,
        0xbeef,
    )
    .unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    assert!(!certificate.is_ca());
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        format!("{:?}", names.value.general_names),
        format!(
            "[URI(\"spiffe://{CLUSTER}/node/000000000000beef\"), DNSName(\"000000000000beef.node.countersign\")]"
        )
    );
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any);
}
