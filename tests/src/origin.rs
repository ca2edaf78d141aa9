//! An upstream that records what arrives: TLS with a CA of its own, HTTP/1.1 and HTTP/2.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// One request as the upstream got it: the ground truth of every test.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    /// As the request is addressed, in whichever way its protocol does that.
    pub host: String,
    pub target: String,
    pub version: Version,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// When all of it was there, by a clock that is never set.
    pub arrived: Instant,
}

/// On an answer of a test's handler: hang up instead of answering.
pub const HANG_UP: &str = "x-hang-up";

/// A client's own name for what it does, the same in each of its tries.
pub const OPERATION: &str = "x-operation";

impl Seen {
    /// The value of [`OPERATION`], where the client sent one.
    pub fn operation(&self) -> Option<&str> {
        self.headers.get(OPERATION)?.to_str().ok()
    }

    /// What it was authenticated with: Authorization as it stands.
    pub fn credential(&self) -> Option<&str> {
        self.headers.get("authorization")?.to_str().ok()
    }

    /// Whether this key is anywhere in the head, raw or in Basic credentials.
    pub fn carries(&self, key: &str) -> bool {
        carries(self, key)
    }

    /// SHA-256 of the body as it arrived, in hex.
    pub fn body_sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.body))
    }

    /// All of it as text, for searching.
    pub fn text(&self) -> String {
        let headers: Vec<String> = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        format!(
            "{} {}\n{}\n\n{}",
            self.method,
            self.target,
            headers.join("\n"),
            String::from_utf8_lossy(&self.body)
        )
    }
}

/// Answers 200 with a small JSON body to whoever brings the key, 401 to others; records all.
pub struct Origin {
    address: SocketAddr,
    ca_pem: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _runtime: tokio::runtime::Runtime,
}

type Handler = dyn Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync;

impl Origin {
    /// Serves `names` and takes `key` anywhere in the head (raw, or in Basic credentials) for an authenticated
    /// request.
    pub fn start(names: &[&str], key: &str) -> Self {
        let key = key.to_owned();
        Self::with(names, move |seen| {
            if carries(seen, &key) {
                let body = format!(
                    r#"{{"ok":true,"method":"{}","path":"{}"}}"#,
                    seen.method,
                    seen.target.replace(&key, "KEY")
                );
                Response::builder()
                    .header("content-type", "application/json")
                    .body(Full::new(body.into()))
                    .unwrap()
            } else {
                Response::builder()
                    .status(401)
                    .body(Full::new("no key, no service\n".into()))
                    .unwrap()
            }
        })
    }

    pub fn with(
        names: &[&str],
        handler: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, names, handler)
    }

    /// Listens on this address of the machine.
    pub fn at(
        address: Ipv4Addr,
        names: &[&str],
        handler: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let (ca_pem, config) = tls(names);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind((address, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(handler);
        runtime.spawn(accept(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            Arc::clone(&seen),
            handler,
        ));
        Self { address, ca_pem, seen, _runtime: runtime }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests of this method arrived.
    pub fn count(&self, method: &Method) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| seen.method == *method).count()
    }
}

fn carries(seen: &Seen, key: &str) -> bool {
    use base64::Engine as _;
    let basic = |value: &str| {
        let pair = value
            .strip_prefix("Basic ")
            .and_then(|b| base64::prelude::BASE64_STANDARD.decode(b).ok());
        pair.is_some_and(|pair| String::from_utf8_lossy(&pair).contains(key))
    };
    seen.target.contains(key)
        || seen
            .headers
            .values()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.contains(key) || basic(v))
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    seen: Arc<Mutex<Vec<Seen>>>,
    handler: Arc<Handler>,
) {
    for connection in 0.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (tls, seen, handler) = (tls.clone(), Arc::clone(&seen), Arc::clone(&handler));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (seen, handler) = (Arc::clone(&seen), Arc::clone(&handler));
                async move {
                    let (head, body) = request.into_parts();
                    let Ok(body) = body.collect().await else {
                        return Ok(Response::builder().status(400).body(Full::default()).unwrap());
                    };
                    let arrived = Seen {
                        method: head.method,
                        host: head
                            .uri
                            .authority()
                            .map(ToString::to_string)
                            .or_else(|| Some(head.headers.get("host")?.to_str().ok()?.to_owned()))
                            .unwrap_or_default(),
                        target: head
                            .uri
                            .path_and_query()
                            .map_or_else(String::new, ToString::to_string),
                        version: head.version,
                        headers: head.headers,
                        body: body.to_bytes(),
                        connection,
                        arrived: Instant::now(),
                    };
                    seen.lock().unwrap().push(arrived.clone());
                    let answer = handler(&arrived);
                    if answer.headers().contains_key(HANG_UP) {
                        return Err(std::io::Error::other("hung up, as it was told"));
                    }
                    Ok(answer)
                }
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// A fresh CA and a server certificate for `names`.
pub fn certificate(names: &[&str]) -> (String, String, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "upstream test CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    (ca_pem, leaf.pem(), key.serialize_pem())
}

/// A fresh CA, and what a server with a certificate for `names` needs.
pub(crate) fn tls(names: &[&str]) -> (String, rustls::ServerConfig) {
    use rustls::pki_types::pem::PemObject as _;
    let (ca_pem, leaf_pem, key_pem) = certificate(names);
    let leaf = rustls::pki_types::CertificateDer::from_pem_slice(leaf_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (ca_pem, config)
}
