//! The upstream of the load: it says 401 unless the real key arrives, and does nothing else that costs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use countersign_tests::cluster_world::{HOST, READ_KEY};
use countersign_tests::origin::certificate;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Bytes of the answer to `/SIZE`.
const LARGEST: usize = 10 << 20;

/// HTTP/1.1 over TLS, as most APIs' connections are.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    /// Of the same authority, for a peer that serves the name itself.
    pub(crate) leaf_pem: String,
    pub(crate) key_pem: String,
}

impl Upstream {
    /// Serves for as long as the runtime lives.
    pub(crate) async fn start() -> Self {
        let (ca_pem, leaf_pem, key_pem) = certificate(&[HOST]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(leaf_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap(),
            )
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let body = Bytes::from(vec![b'x'; LARGEST]);
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(serve(stream, tls.clone(), body.clone()));
            }
        });
        Self { address, ca_pem, leaf_pem, key_pem }
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, body: Bytes) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &body);
        async move { Ok::<_, Infallible>(answer) }
    });
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(request: &Request<Incoming>, body: &Bytes) -> Response<Full<Bytes>> {
    let authorised = request.headers().get(header::AUTHORIZATION).is_some_and(|value| {
        value.as_bytes().strip_prefix(b"Bearer ").is_some_and(|key| key == READ_KEY.as_bytes())
    });
    let size = request.uri().path().strip_prefix('/').and_then(|size| size.parse().ok());
    let (status, size) = match size {
        Some(size) if authorised && size <= LARGEST => (200, size),
        Some(_) if authorised => (404, 0),
        Some(_) | None => (401, 0),
    };
    Response::builder().status(status).body(Full::new(body.slice(..size))).unwrap()
}
