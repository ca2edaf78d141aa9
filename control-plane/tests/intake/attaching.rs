//! Who may attach: the certificate says so, and the state.

use countersign_control_plane::sign::{self, RootKey};
use countersign_control_plane::state::Command;
use countersign_proto::v1::attach_response::Message as Out;
use rcgen::{CertificateParams, KeyPair, SanType};
use tonic::Code;

use crate::edge::Process;
use crate::world::{CLUSTER, Enrolled, World, beginning};

async fn refusal(world: &World, enrolled: Enrolled) -> tonic::Status {
    match Process::new(enrolled).attach_with(world, Vec::new()).await {
        Ok(_) => panic!("it was attached"),
        Err(status) => status,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_edge_attaches_and_is_seen() {
    let world = World::new().await;
    let process = Process::new(world.enroll("one").await);
    let session = process.attach(&world).await;
    let connected = world.intake.connected_edges();
    assert_eq!(connected.len(), 1);
    assert_eq!(
        (connected[0].id.as_str(), connected[0].incarnation),
        ("id-of-one", process.incarnation)
    );
    assert_eq!(session.version(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn r_5_a_node_that_is_out_of_touch_sends_its_edges_away_and_takes_none() {
    let world = World::new().await;
    let process = Process::new(world.enroll("one").await);
    let mut session = process.attach(&world).await;
    world.intake.strand(true);
    let ended = loop {
        if let Err(ended) = session.hear().await {
            break ended;
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(ended.message().contains("attach to another"), "{ended}");
    let refused = process.attach_with(&world, Vec::new()).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    world.intake.strand(false);
    let _session = process.attach(&world).await;
    assert_eq!(world.intake.connected_edges().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c_3_a_certificate_without_an_enrolment_is_refused() {
    let world = World::new().await;
    let refused = refusal(&world, world.issue("id-of-nobody")).await;
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c_3_a_certificate_with_another_edges_name_but_not_its_key_is_refused() {
    let world = World::new().await;
    world.enroll("one").await;
    let refused = refusal(&world, world.issue("id-of-one")).await;
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c_3_a_certificate_of_another_ca_is_refused() {
    let world = World::new().await;
    let enrolled = world.enroll("one").await;
    let root = RootKey::generate();
    let other = beginning(&world.vault, &root, &world.keys(), 1, "");
    let key = KeyPair::from_pem(&enrolled.key_pem).unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let ca = other.edge_ca();
    let forged = sign::issue_edge_certificate(CLUSTER, &ca, &world.vault, &request, &enrolled.id);
    // The other genesis sealed its own CA key under the same name, so it does sign; nobody here trusts it.
    let forged = Enrolled { certificate_pem: forged.unwrap().pem, ..enrolled };
    refusal(&world, forged).await;
    assert!(world.intake.connected_edges().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn c_3_headers_that_name_an_edge_are_ignored() {
    let world = World::new().await;
    let (one, two) = (world.enroll("one").await, world.enroll("two").await);
    let headers = vec![
        ("x-edge-id", two.id.as_str()),
        ("x-forwarded-client-cert", "By=spiffe://test-cluster/edge/id-of-two"),
    ];
    // The session checks that HelloAck names the certificate's edge.
    let _session = Process::new(one).attach_with(&world, headers).await.unwrap();
    assert_eq!(world.intake.connected_edges()[0].id, "id-of-one");
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_evict_an_evicted_edge_is_told_so_and_stays_out() {
    let world = World::new().await;
    let process = Process::new(world.enroll("one").await);
    let mut session = process.attach(&world).await;
    world.propose(Command::EvictEdge { name: "one".into(), reason: "stolen".into() }).await;
    assert!(matches!(session.answer().await, Out::Evicted(_)));
    assert_eq!(session.hear().await.unwrap_err().code(), Code::PermissionDenied);
    let again = process.attach_with(&world, Vec::new()).await;
    assert_eq!(again.err().unwrap().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_session_ends_the_older_one() {
    let world = World::new().await;
    let process = Process::new(world.enroll("one").await);
    let mut older = process.attach(&world).await;
    let newer = process.attach(&world).await;
    assert_eq!(older.hear().await.unwrap_err().code(), Code::Aborted);
    assert_eq!(world.intake.connected_edges().len(), 1);
    drop(newer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_intake_lets_nobody_stay() {
    let world = World::new().await;
    let process = Process::new(world.enroll("one").await);
    let mut session = process.attach(&world).await;
    world.intake.close();
    let ended = session.hear().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().starts_with("sealed"), "{ended}");
}

#[test]
fn a_certificate_request_gives_its_key_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let seal = countersign_control_plane::vault::NewSeal::KeyFile(dir.path().join("key"));
    let vault = countersign_control_plane::vault::Vault::create(dir.path(), seal, 0).unwrap().vault;
    let keys = sign::SigningKeys::open_or_make(dir.path(), &vault).unwrap();
    let genesis = beginning(&vault, &RootKey::generate(), &keys, 1, "");

    let key = KeyPair::generate().unwrap();
    let mut asked = CertificateParams::new(vec!["control-plane.example".to_owned()]).unwrap();
    asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    asked
        .subject_alt_names
        .push(SanType::URI("spiffe://test-cluster/edge/other".try_into().unwrap()));
    let request = asked.serialize_request(&key).unwrap().pem().unwrap();
    let ca = genesis.edge_ca();
    let issue = |csr: &str| sign::issue_edge_certificate(CLUSTER, &ca, &vault, csr, "id-of-one");
    let issued = issue(&request).unwrap();

    let (_, pem) = x509_parser::pem::parse_x509_pem(issued.pem.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    assert!(!certificate.is_ca());
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        format!("{:?}", names.value.general_names),
        "[URI(\"spiffe://test-cluster/edge/id-of-one\")]"
    );
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);

    let tampered = request.replace('A', "B");
    assert!(issue(&tampered).is_err());
    assert!(issue("").is_err());
}
