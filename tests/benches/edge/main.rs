//! The edge as a process: `./tests/bench`. Prints ratios beside a plain CONNECT tunnel of the same run, the time from
//! a vote to bytes at the upstream, and memory per held request. It asserts only that the work was really done.

#![allow(clippy::unwrap_used)] // a bench that cannot measure stops

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use countersign_proto::v1;
use countersign_proto::v1::admin_service_client::AdminServiceClient;
use countersign_tests::{Agent, Credential, Origin, REAL_KEY, World, eventually, peers};
use http::Response;
use http_body_util::Full;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

/// oha looks names up itself, proxy or not, so it is one that every machine knows.
const HOST: &str = "localhost";
const POLICY: &str = r#"
version = 1
[[rule]]
name = "read"
host = "localhost"
methods = ["GET"]
then = "allow"
credential = "read"
[[rule]]
name = "change"
host = "localhost"
methods = ["POST"]
then = "approve"
credential = "change"
hold = "280s"
"#;

fn main() {
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let arrived = Arc::clone(&arrivals);
    let origin = Origin::with(&[HOST], move |seen| {
        if seen.method == http::Method::POST {
            arrived.lock().unwrap().push(Instant::now());
        }
        let real =
            seen.headers.get("authorization").is_some_and(|v| v == &format!("Bearer {REAL_KEY}"));
        let status = if real { 200 } else { 401 };
        Response::builder()
            .status(status)
            .body(Full::new(Bytes::from_static(&[b'x'; 1024])))
            .unwrap()
    });
    let world = World::start(&origin, &[HOST], POLICY);
    let agent = world.agent("robot");
    let read = world.credential("read", REAL_KEY, &["--host", HOST, "--slot", "header"]);
    let change = world.credential("change", REAL_KEY, &["--host", HOST, "--slot", "header"]);
    println!("load average: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());

    vote_to_upstream(&world, &agent, &change, &arrivals);
    pass_path(&world, &origin, &agent, &read);
    held(&world, &agent, &change);
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

/// The same load through the edge and through a plain tunnel, in turns: CPU per request of the proxy's process.
fn pass_path(world: &World, origin: &Origin, agent: &Agent, credential: &Credential) {
    let Some(oha) = program("oha") else {
        println!("pass path: not measured, oha is not installed (cargo install oha --locked)");
        return;
    };
    let tinyproxy = program("tinyproxy").map(|path| Tinyproxy::start(&path, origin));
    for connections in [1, 16, 64] {
        let mut edge = Vec::new();
        let mut plain = Vec::new();
        for _ in 0..3 {
            edge.push(load(
                &oha,
                world.pid(),
                connections,
                &[
                    "-x",
                    &format!("http://{}", world.edge_address()),
                    "--proxy-header",
                    &format!("proxy-authorization: Basic {}", basic(agent)),
                    "-H",
                    &format!("authorization: Bearer {}", credential.fake_key),
                    "--cacert",
                    &world.edge_ca(),
                    "https://localhost/v1/things",
                ],
            ));
            if let Some(tinyproxy) = &tinyproxy {
                plain.push(load(
                    &oha,
                    tinyproxy.child.id(),
                    connections,
                    &[
                        "-x",
                        &format!("http://127.0.0.1:{}", tinyproxy.port),
                        "-H",
                        &format!("authorization: Bearer {REAL_KEY}"),
                        "--insecure",
                        &format!("https://127.0.0.1:{}/v1/things", origin.address().port()),
                    ],
                ));
            }
        }
        let median = |mut all: Vec<Load>| {
            all.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
            all.into_iter().nth(1)
        };
        let edge = median(edge).unwrap();
        print!(
            "pass path, {connections:2} connections: edge process {:.0} µs CPU/request, {:.0} requests/s, RSS {} MiB",
            edge.cpu_us, edge.rate, edge.rss_mib
        );
        match median(plain) {
            Some(plain) => println!(
                "; plain tunnel {:.0} µs, {:.0}/s; CPU ratio {:.2}",
                plain.cpu_us,
                plain.rate,
                edge.cpu_us / plain.cpu_us
            ),
            None => println!("; no plain tunnel beside it (tinyproxy is not installed)"),
        }
    }
}

struct Load {
    cpu_us: f64,
    rate: f64,
    rss_mib: u64,
}

fn load(oha: &PathBuf, pid: u32, connections: u32, arguments: &[&str]) -> Load {
    let before = cpu(pid);
    let output = Command::new(oha)
        .args(["--no-tui", "--output-format", "json", "-n", "6000", "-c", &connections.to_string()])
        .args(arguments)
        .output()
        .unwrap();
    let used = cpu(pid) - before;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let good = report["statusCodeDistribution"]["200"].as_u64().unwrap_or(0);
    assert_eq!(good, 6000, "every request reached the upstream with the real key: {report}");
    Load {
        cpu_us: used * 1e6 / 6000.0,
        rate: report["summary"]["requestsPerSec"].as_f64().unwrap(),
        rss_mib: rss_kib(pid) / 1024,
    }
}

/// Holds 2,000 different requests at once and looks at what they cost.
fn held(world: &World, agent: &Agent, credential: &Credential) {
    const COUNT: usize = 2000;
    let before = rss_kib(world.pid());
    let tunnels: Vec<Posted> = (0..COUNT)
        .map(|number| Tunnel::open(world, agent).post(credential, &format!("/v1/held/{number}")))
        .collect();
    eventually("all of them held", || {
        let output = Command::new("curl")
            .args(["-sS", &format!("{}/metrics", world.web())])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .any(|l| {
                l.starts_with("countersign_held_requests") && l.ends_with(&format!(" {COUNT}"))
            })
            .then_some(())
    });
    let each = (rss_kib(world.pid()) - before) as f64 / COUNT as f64;
    println!(
        "held: {COUNT} at once, {each:.1} KiB each of the whole process (edge, control plane and both TLS sides)"
    );
    drop(tunnels);
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

/// A plain CONNECT tunnel that others wrote.
struct Tinyproxy {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Tinyproxy {
    fn start(path: &PathBuf, origin: &Origin) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.path().join("tinyproxy.conf");
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 200\nConnectPort {}\nLogLevel Error\n",
            origin.address().port()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new(path)
            .arg("-d")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("tinyproxy", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, port, _dir: dir }
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    folders.push(peers::tools().join("bin"));
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.exists())
}

fn basic(agent: &Agent) -> String {
    base64::prelude::BASE64_STANDARD.encode(format!("{}:{}", agent.name, agent.token))
}

/// User and system time, seconds (proc(5): fields 14 and 15, in ticks of 10 ms).
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<u64> =
        after.split_whitespace().skip(11).take(2).map(|f| f.parse().unwrap()).collect();
    (fields[0] + fields[1]) as f64 / 100.0
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
