//! An upstream that says what the test says, byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::world::{Authority, HOSTS};

/// One connection from the edge.
pub(crate) struct Line {
    pub(crate) stream: TlsStream<TcpStream>,
}

/// What happens on a connection.
pub(crate) type Script = Arc<dyn Fn(Line) -> BoxFuture<'static, ()> + Send + Sync>;

pub(crate) fn script<F>(act: impl Fn(Line) -> F + Send + Sync + 'static) -> Script
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |line| Box::pin(act(line)))
}

/// Answers every request with these bytes, and keeps the connection open.
pub(crate) fn always(answer: impl Into<Vec<u8>>) -> Script {
    let answer: Arc<Vec<u8>> = Arc::new(answer.into());
    script(move |mut line| {
        let answer = Arc::clone(&answer);
        async move {
            while line.head().await.is_some() {
                if line.stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    })
}

impl Line {
    /// The head of the next request; none when the edge has hung up.
    pub(crate) async fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.ok()?);
        }
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// Whether it could be written.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Returns when the edge has closed.
    pub(crate) async fn closed(&mut self) {
        let mut buffer = [0; 4096];
        while self.stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    }
}

/// The upstream of every host.
pub(crate) struct Raw {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Raw {
    pub(crate) async fn start(authority: &Authority, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (certificate, key) = authority.leaf_for(&HOSTS, ExtendedKeyUsagePurpose::ServerAuth);
        let chain =
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("TLS");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let connections: Arc<AtomicUsize> = Arc::default();
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    script(Line { stream }).await;
                });
            }
        });
        Self { addr, connections }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}
