//! An upstream that writes down what it got.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::world::{Authority, HOSTS};

#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) struct Origin {
    addr: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    patience: Arc<Notify>,
}

impl Origin {
    pub(crate) async fn start(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (certificate, key) = authority.leaf_for(&HOSTS, ExtendedKeyUsagePurpose::ServerAuth);
        let chain =
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("TLS");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let record = Arc::clone(&got);
        let patience: Arc<Notify> = Arc::default();
        let slow = Arc::clone(&patience);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, record, slow) =
                    (acceptor.clone(), Arc::clone(&record), Arc::clone(&slow));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        answer(request, Arc::clone(&record), Arc::clone(&slow))
                    });
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { addr, got, patience }
    }

    /// Lets a request whose path has `slow` in it be answered.
    pub(crate) fn answer_slow_one(&self) {
        self.patience.notify_one();
    }

    /// Waits until something has arrived.
    pub(crate) async fn reached(&self) {
        let arrived = async {
            while self.got().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("it arrives");
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Everything that arrived so far.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().expect("no panic").clone()
    }
}

/// Says back what it got: every header value, so that a test can see what of it comes through. A path with `slow` in it
/// waits to be told; one with `hang-up` gets no answer, and one with `garbled` an encoding that breaks.
async fn answer(
    request: Request<Incoming>,
    record: Arc<Mutex<Vec<Got>>>,
    slow: Arc<Notify>,
) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let target = head.uri.to_string();
    let text = String::from_utf8_lossy(&body);
    let echo = format!("{} {target}\n{:?}\n{text}", head.method, head.headers);
    let [hangs_up, waits, garbles] =
        ["hang-up", "slow", "garbled"].map(|word| target.contains(word));
    let got = Got { method: head.method, target, headers: head.headers, body };
    record.lock().expect("no panic").push(got);
    if hangs_up {
        return Err("no answer".into());
    }
    if waits {
        slow.notified().await;
    }
    if garbles {
        let answer = Response::builder().header("content-encoding", "gzip");
        return Ok(answer.body(Full::new(Bytes::from_static(b"\x1f\x8bthis is no gzip")))?);
    }
    Ok(Response::builder().header("x-origin", "yes").body(Full::new(Bytes::from(echo)))?)
}
