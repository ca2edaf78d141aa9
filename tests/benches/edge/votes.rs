//! From a person's answer to bytes at the upstream, one node and one edge in one process.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use countersign_proto::v1;
use countersign_proto::v1::admin_service_client::AdminServiceClient;
use countersign_tests::{Agent, Credential, Origin, REAL_KEY, World, eventually};
use http::Response;
use http_body_util::Full;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

const HOST: &str = "api.example.test";
const POLICY: &str = r#"
version = 1
[[rule]]
name = "change"
host = "api.example.test"
methods = ["POST"]
then = "approve"
credential = "change"
hold = "280s"
"#;

/// Prints how long it takes.
pub(crate) fn measure() {
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let arrived = Arc::clone(&arrivals);
    let origin = Origin::with(&[HOST], move |seen| {
        arrived.lock().unwrap().push(Instant::now());
        let real = seen.credential() == Some(&format!("Bearer {REAL_KEY}"));
        let status = if real { 200 } else { 401 };
        Response::builder().status(status).body(Full::new(Bytes::new())).unwrap()
    });
    let world = World::start(&origin, &[HOST], POLICY);
    let agent = world.agent("robot");
    let change = world.credential("change", REAL_KEY, &["--host", HOST, "--slot", "header"]);
    vote_to_upstream(&world, &agent, &change, &arrivals);
}

/// One vote at a time, from the call of VoteApproval to the request's arrival at the upstream.
fn vote_to_upstream(
    world: &World,
    agent: &Agent,
    credential: &Credential,
    arrivals: &Mutex<Vec<Instant>>,
) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut client = runtime.block_on(admin(world));
    let mut times = Vec::new();
    for round in 0..60 {
        let tunnel = Tunnel::open(world, agent);
        let tunnel = tunnel.post(credential, &format!("/v1/round/{round}"));
        let id = runtime.block_on(async {
            loop {
                let request = v1::ListApprovalsRequest {
                    state: v1::ApprovalState::Pending as i32,
                    ..Default::default()
                };
                let list = client.list_approvals(request).await.unwrap().into_inner();
                if let Some(approval) = list.approvals.first() {
                    return approval.approval_id.clone();
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        let before = arrivals.lock().unwrap().len();
        let start = Instant::now();
        let vote = v1::VoteApprovalRequest {
            approval_id: id,
            decision: v1::VoteDecision::Approve as i32,
            ..Default::default()
        };
        runtime.block_on(client.vote_approval(vote)).unwrap();
        let arrival = eventually("the request at the upstream", || {
            arrivals.lock().unwrap().get(before).copied()
        });
        times.push(arrival.saturating_duration_since(start));
        assert!(tunnel.answer().starts_with("HTTP/1.1 200"));
    }
    times.sort();
    println!(
        "vote -> bytes at the upstream, ms: p50 {:.2}  p90 {:.2}  max {:.2}",
        ms(times[30]),
        ms(times[54]),
        ms(times[59])
    );
}

/// A client's own tunnel through the edge, blocking, one request.
struct Tunnel(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);
struct Posted(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);

impl Tunnel {
    fn open(world: &World, agent: &Agent) -> Self {
        let mut stream = TcpStream::connect(world.edge_address()).unwrap();
        stream.set_nodelay(true).unwrap();
        let connect = format!(
            "CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\nProxy-Authorization: Basic {}\r\n\r\n",
            basic(agent)
        );
        stream.write_all(connect.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(world.edge_ca()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(HOST).unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        Self(rustls::StreamOwned::new(connection, stream))
    }

    fn post(mut self, credential: &Credential, path: &str) -> Posted {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nContent-Length: 3\r\n\r\na=1",
            credential.fake_key
        );
        self.0.write_all(request.as_bytes()).unwrap();
        self.0.flush().unwrap();
        Posted(self.0)
    }
}

impl Posted {
    fn answer(mut self) -> String {
        let mut buffer = [0; 64];
        let count = self.0.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }
}

type Authorised =
    AdminServiceClient<tonic::service::interceptor::InterceptedService<Channel, Bearer>>;

#[derive(Clone)]
struct Bearer(MetadataValue<tonic::metadata::Ascii>);

impl tonic::service::Interceptor for Bearer {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

async fn admin(world: &World) -> Authorised {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(std::fs::read(world.api_ca()).unwrap()));
    let channel = Channel::from_shared(world.api_address())
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .connect()
        .await
        .unwrap();
    AdminServiceClient::with_interceptor(
        channel,
        Bearer(format!("Bearer {}", world.admin_token()).parse().unwrap()),
    )
}

fn basic(agent: &Agent) -> String {
    base64::prelude::BASE64_STANDARD.encode(format!("{}:{}", agent.name, agent.token))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
