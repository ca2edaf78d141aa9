//! C-4 on the wire: nodes over real mutual TLS, and everyone who has no business with them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_control_plane::cluster::{Cluster, Settings, Start, Transport};
use countersign_control_plane::peers::{MutualTls, NodeIdentity, service};
use countersign_control_plane::state::{Actor, Addresses, Command, Event, Genesis, Node};
use countersign_proto::v1;
use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::support::{barrier, note};
use crate::town::{Nobody, eventually};
use crate::world::{self, CLUSTER};

/// A CA that signs whatever a test wants.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// As a node's certificate is, but for the names.
    fn identity(&self, uri: &str, dns: &str, trusts: &Self) -> NodeIdentity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            vec![SanType::URI(uri.try_into().unwrap()), SanType::DnsName(dns.try_into().unwrap())];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate_pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let key_pem = Zeroizing::new(key.serialize_pem());
        NodeIdentity { certificate_pem, key_pem, ca_pem: trusts.pem.clone() }
    }

    fn of_node(&self, id: u64) -> NodeIdentity {
        self.identity(&node_uri(id), &node_dns(id), self)
    }
}

fn node_uri(id: u64) -> String {
    format!("spiffe://{CLUSTER}/node/{id:016x}")
}

fn node_dns(id: u64) -> String {
    format!("{id:016x}.node.countersign")
}

struct Seat {
    cluster: Cluster,
    address: SocketAddr,
    _dir: TempDir,
}

/// A node with its own certificate, listening.
async fn seat(ca: &Ca, start: Start, listener: TcpListener) -> Seat {
    let dir = tempfile::tempdir().unwrap();
    // The first node's id is made at its first start; a certificate that was issued before would not name it.
    let id = match start {
        Start::Join { node_id } => node_id,
        Start::Found => {
            let first = Settings::alone(dir.path().to_owned(), 10_000);
            let first = Cluster::start(first, barrier()).await.unwrap();
            let id = first.node_id();
            first.shutdown().await;
            id
        }
    };
    let tls = Arc::new(MutualTls::new(&ca.of_node(id)).unwrap());
    let settings = Settings {
        start,
        transport: tls.clone(),
        cluster_id: CLUSTER.into(),
        ..Settings::alone(dir.path().to_owned(), 10_000)
    };
    let cluster = Cluster::start(settings, barrier()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(tls.server_config());
    let arriving = TcpListenerStream::new(listener).then(move |tcp| {
        let acceptor = acceptor.clone();
        async move { acceptor.accept(tcp?).await }
    });
    let serving = tonic::transport::Server::builder()
        .add_service(service(cluster.clone(), Arc::new(Nobody), None))
        .serve_with_incoming(arriving.filter(Result::is_ok));
    tokio::spawn(serving);
    Seat { cluster, address, _dir: dir }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn node(id: u64, name: &str, address: SocketAddr, public_key: [u8; 32]) -> Node {
    Node {
        id,
        name: name.into(),
        addresses: Addresses { cluster: address.to_string(), ..Addresses::default() },
        public_keys: vec![public_key],
        removed: false,
        joined_at: 0,
    }
}

/// Two voters.
async fn pair(ca: &Ca) -> [Seat; 2] {
    let first = seat(ca, Start::Found, listen().await).await;
    let id = first.cluster.node_id();
    let mut genesis = world::genesis();
    genesis.trust = world::signed_trust(&world::trust(1, 1, &[(id, 1)]));
    let genesis =
        Genesis { node: node(id, "first", first.address, world::public_key(1)), ..genesis };
    let listener = listen().await;
    let second = node(rand::random(), "second", listener.local_addr().unwrap(), [8; 32]);
    let joins = second.id;
    let token_sha256 = [2; 32];
    for command in [
        Command::Genesis(Box::new(genesis)),
        Command::InviteNode { name: "second".into(), token_sha256 },
        Command::JoinNode { token_sha256, node: second },
    ] {
        first.cluster.propose(Actor::System, command).await.unwrap();
    }
    let second = seat(ca, Start::Join { node_id: joins }, listener).await;
    eventually("two voters", || {
        let members = second.cluster.members();
        (members.len() == 2 && members.iter().all(|member| member.voter)).then_some(())
    })
    .await;
    [first, second]
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_agree_over_mutual_tls() {
    let ca = Ca::new();
    let [first, second] = pair(&ca).await;
    let committed = second.cluster.propose(Actor::System, note("second")).await.unwrap();
    assert_eq!(*committed, Event::Noted);
    for seat in [&first, &second] {
        let seen = seat
            .cluster
            .read(|state| state.audit().records().iter().any(|record| record.subject == "second"));
        assert!(seen.await.unwrap());
    }
    second.cluster.shutdown().await;
    first.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_4_certificates_that_are_not_this_nodes_or_not_a_nodes_come_to_nothing() {
    let (ca, other_ca) = (Ca::new(), Ca::new());
    let [first, second] = pair(&ca).await;
    let (one, two) = (first.cluster.node_id(), second.cluster.node_id());
    let stranger = 0x5eed;
    let edge = format!("spiffe://{CLUSTER}/edge/east");
    let elsewhere = format!("spiffe://cluster-2/node/{two:016x}");

    // In the handshake: an unrelated CA, although the names are a member's.
    let forged = other_ca.identity(&node_uri(two), &node_dns(two), &ca);
    let refused = call(&forged, one, &first).await;
    // A connection that breaks while a call is under way shows as any of these, and never as an answer.
    assert!(
        matches!(refused, Err(Code::Unavailable | Code::Unknown | Code::Cancelled)),
        "{refused:?}"
    );
    // After it: an edge, a node of another cluster, a node that nobody knows.
    let edge = ca.identity(&edge, "east.edge.countersign", &ca);
    assert_eq!(call(&edge, one, &first).await, Err(Code::PermissionDenied));
    let elsewhere = ca.identity(&elsewhere, &node_dns(two), &ca);
    assert_eq!(call(&elsewhere, one, &first).await, Err(Code::PermissionDenied));
    assert_eq!(call(&ca.of_node(stranger), one, &first).await, Err(Code::PermissionDenied));
    // A member that speaks as another: the vote names the first node, the certificate the second.
    assert_eq!(call_as(&ca.of_node(two), one, &first, one).await, Err(Code::PermissionDenied));
    // A member itself is answered: that its process was not met.
    assert_eq!(call(&ca.of_node(two), one, &first).await, Err(Code::FailedPrecondition));
    // Whoever answers at a node's address without being that node is not spoken to.
    assert!(matches!(call(&ca.of_node(two), stranger, &first).await, Err(Code::Unavailable)));
    // Nor is one that shows no certificate at all answered.
    assert!(naked(&first).await.is_err());

    assert!(first.cluster.term() < FORGED, "nobody's term was taken over");
    second.cluster.shutdown().await;
    first.cluster.shutdown().await;
}

/// A term that no election of a test comes to.
const FORGED: u64 = 1_000_000;

/// A vote request of the caller's own, to whom it takes for node `to`.
async fn call(identity: &NodeIdentity, to: u64, at: &Seat) -> Result<(), Code> {
    let named = identity_of(identity);
    call_as(identity, to, at, named).await
}

async fn call_as(identity: &NodeIdentity, to: u64, at: &Seat, named: u64) -> Result<(), Code> {
    let tls = MutualTls::new(identity).unwrap();
    let channel: Channel = tls.channel(to, &at.address.to_string());
    let request = v1::RequestVoteRequest {
        cluster_id: CLUSTER.into(),
        vote: Some(v1::RaftVote { term: FORGED, node_id: named, committed: false }),
        last_log: None,
        process: 0,
    };
    let mut client = ClusterServiceClient::new(channel);
    let answered = tokio::time::timeout(Duration::from_secs(10), client.request_vote(request));
    let answered = answered.await.expect("an answer").map_err(|status| status.code())?;
    assert!(!answered.into_inner().granted);
    Ok(())
}

/// The id in a certificate's own name, or 7.
fn identity_of(identity: &NodeIdentity) -> u64 {
    let der = pem(&identity.certificate_pem);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let uri = names.value.general_names.iter().find_map(|name| match name {
        x509_parser::prelude::GeneralName::URI(uri) => uri.rsplit('/').next(),
        _ => None,
    });
    uri.and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or(7)
}

fn pem(text: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_slice(text.as_bytes()).unwrap().to_vec()
}

/// Plain HTTP/2 to a listener that speaks TLS.
async fn naked(at: &Seat) -> Result<(), Code> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", at.address));
    let channel = endpoint.unwrap().connect_lazy();
    let request = v1::ReadIndexRequest { cluster_id: CLUSTER.into() };
    let answered = ClusterServiceClient::new(channel).read_index(request).await;
    answered.map(drop).map_err(|status| status.code())
}
