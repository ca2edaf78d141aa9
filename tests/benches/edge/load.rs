//! The client: so many connections at once, each asking for the same thing again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_tests::cluster_world::HOST;
use http::{Request, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For one peer's round of work. On the way to it hangs whatever takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a client gets to the upstream.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) address: SocketAddr,
    /// What CONNECT names, and what else its head says; none where the address speaks TLS at once.
    pub(crate) connect: Option<(String, String)>,
    pub(crate) ca_pem: String,
    /// The value of Authorization.
    pub(crate) key: String,
}

/// One kind of load.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) connections: usize,
    pub(crate) requests: usize,
    /// Bytes of each answer.
    pub(crate) size: usize,
    pub(crate) each: Each,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    /// With this many requests at once on each connection.
    Http2(usize),
}

/// What happens to a connection after a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Each {
    Kept,
    New,
    /// A new one that takes up the TLS session of the one before.
    Resumed,
}

/// What the client saw.
pub(crate) struct Served {
    pub(crate) took: Duration,
    /// Of each request, its connection included where that is new.
    pub(crate) latencies: Vec<Duration>,
}

impl Served {
    pub(crate) fn median(&mut self) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() / 2]
    }
}

/// Does the work, and panics unless every answer was a 200 of the right size.
pub(crate) async fn run(route: &Route, work: Work) -> Served {
    let served = tokio::time::timeout(PATIENCE, all_of(route, work)).await;
    served.unwrap_or_else(|_| panic!("{}: {:?} and no end of it", route.address, PATIENCE))
}

async fn all_of(route: &Route, work: Work) -> Served {
    let tls = Arc::new(client_config(route, work.protocol, work.each));
    let left = Arc::new(AtomicUsize::new(work.requests));
    let start = Instant::now();
    let tasks: Vec<_> = (0..work.connections)
        .map(|_| tokio::spawn(one_connection(route.clone(), work, Arc::clone(&tls), left.clone())))
        .collect();
    let mut latencies = Vec::with_capacity(work.requests);
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    assert_eq!(latencies.len(), work.requests);
    Served { took: start.elapsed(), latencies }
}

async fn one_connection(
    route: Route,
    work: Work,
    tls: Arc<rustls::ClientConfig>,
    left: Arc<AtomicUsize>,
) -> Vec<Duration> {
    let mut latencies = Vec::new();
    let mut kept: Option<Sender> = None;
    while take(&left) {
        let start = Instant::now();
        let mut sender = match kept.take() {
            Some(sender) => sender,
            None => Sender::open(&route, work.protocol, Arc::clone(&tls)).await,
        };
        if let (Sender::Two(two), Protocol::Http2(at_once)) = (&sender, work.protocol) {
            let more = (1..at_once).filter(|_| take(&left)).count();
            let all = (0..=more).map(|_| {
                let mut sender = Sender::Two(two.clone());
                let route = &route;
                async move {
                    let start = Instant::now();
                    sender.ask(route, work.size).await;
                    start.elapsed()
                }
            });
            latencies.extend(futures::future::join_all(all).await);
        } else {
            sender.ask(&route, work.size).await;
            latencies.push(start.elapsed());
        }
        kept = (work.each == Each::Kept).then_some(sender);
    }
    latencies
}

fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

enum Sender {
    One(http1::SendRequest<Empty<Bytes>>),
    Two(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    async fn open(route: &Route, protocol: Protocol, tls: Arc<rustls::ClientConfig>) -> Self {
        let stream = TokioIo::new(secured(route, tls).await);
        match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                Self::One(sender)
            }
            Protocol::Http2(_) => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                tokio::spawn(connection);
                Self::Two(sender)
            }
        }
    }

    async fn ask(&mut self, route: &Route, size: usize) {
        let request = Request::get(format!("/{size}"))
            .header(header::AUTHORIZATION, &route.key)
            .header(header::USER_AGENT, "bench");
        let answer = match self {
            Self::One(sender) => {
                let request = request.header(header::HOST, HOST).body(Empty::new()).unwrap();
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::Two(sender) => {
                let request = request
                    .uri(format!("https://{HOST}/{size}"))
                    .version(Version::HTTP_2)
                    .body(Empty::new())
                    .unwrap();
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
        };
        let status = answer.status();
        let mut body = answer.into_body();
        if status != StatusCode::OK {
            let said = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let to = route.address;
            panic!("{to}: {status} {}; the real key has to arrive", String::from_utf8_lossy(&said));
        }
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(read, size);
    }
}

/// A connection to the upstream by this way, TLS and all.
pub(crate) async fn secured(route: &Route, tls: Arc<rustls::ClientConfig>) -> TlsStream<TcpStream> {
    let mut stream = TcpStream::connect(route.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    if let Some((authority, more)) = &route.connect {
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::with_capacity(256);
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let ok = answer.get(8..12) == Some(b" 200");
        assert!(ok, "no tunnel: {}", String::from_utf8_lossy(&answer));
    }
    let name = ServerName::try_from(HOST).unwrap();
    TlsConnector::from(tls).connect(name, stream).await.unwrap()
}

/// For HTTP/1.1, without resumption.
pub(crate) fn plain_config(route: &Route) -> rustls::ClientConfig {
    client_config(route, Protocol::Http1, Each::New)
}

fn client_config(route: &Route, protocol: Protocol, each: Each) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(route.ca_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    if each != Each::Resumed {
        config.resumption = rustls::client::Resumption::disabled();
    }
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2(_) => vec![b"h2".to_vec()],
    };
    config
}
