//! The other side of things: an origin that records what reaches it, certificates to be right or wrong with, and
//! requests that went through the gate.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use countersign_edge_gateway::upstream::{BodyError, BoxBody};
use countersign_gate::{
    Circumstances, Class, DECISION_TYPE, Decision, Destination, Key, KeyState, NodeKey, Now,
    Origin, Outbound, Outcome, Payload, Released, Request, Scheme, SealedRef, Signed, Trust,
    Verdict, Word, classify, sign, verify,
};
use ed25519_dalek::SigningKey;
use http::{HeaderMap, Method, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;

pub(crate) struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: CertificateDer<'static>,
}

impl TestAuthority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    pub(crate) fn leaf(&self, name: &str) -> Leaf {
        self.leaf_with(name, |_| {})
    }

    pub(crate) fn leaf_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = leaf_params(name);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Leaf { certificate, key }
    }
}

fn leaf_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = (SystemTime::now() - std::time::Duration::from_secs(3600)).into();
    params.not_after = (SystemTime::now() + std::time::Duration::from_secs(3600)).into();
    params
}

pub(crate) struct Leaf {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Leaf {
    pub(crate) fn self_signed(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf_params(name).self_signed(&key).unwrap().der().clone();
        Self { certificate, key }
    }
}

/// A request as an origin saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) connection: usize,
    pub(crate) method: Method,
    pub(crate) uri: http::Uri,
    pub(crate) version: http::Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

type Answer = Arc<dyn Fn(&Seen) -> Response<BoxBody> + Send + Sync>;

/// An upstream on loopback.
pub(crate) struct TestOrigin {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    goodbye: Goodbye,
}

struct Goodbye {
    leaving: Arc<Notify>,
    left: Arc<Semaphore>,
}

impl TestOrigin {
    pub(crate) async fn tls(
        leaf: Leaf,
        alpn: &[&str],
        answer: impl Fn(&Seen) -> Response<BoxBody> + Send + Sync + 'static,
    ) -> Self {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![leaf.certificate],
                    PrivateKeyDer::Pkcs8(leaf.key.serialize_der().into()),
                )
                .unwrap();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Self::start(Some(TlsAcceptor::from(Arc::new(config))), Arc::new(answer)).await
    }

    pub(crate) async fn plain(
        answer: impl Fn(&Seen) -> Response<BoxBody> + Send + Sync + 'static,
    ) -> Self {
        Self::start(None, Arc::new(answer)).await
    }

    async fn start(tls: Option<TlsAcceptor>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (leaving, left) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        let goodbye = Goodbye { leaving: leaving.clone(), left: left.clone() };
        let (all, count) = (seen.clone(), connections.clone());
        tokio::spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else { return };
                let connection = count.fetch_add(1, Ordering::SeqCst);
                let (all, answer, tls) = (all.clone(), answer.clone(), tls.clone());
                let (leaving, left) = (leaving.clone(), left.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request: http::Request<Incoming>| {
                        let (all, answer) = (all.clone(), answer.clone());
                        async move {
                            let (head, body) = request.into_parts();
                            let body =
                                body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                            let seen = Seen {
                                connection,
                                method: head.method,
                                uri: head.uri,
                                version: head.version,
                                headers: head.headers,
                                body,
                            };
                            all.lock().unwrap().push(seen.clone());
                            Ok::<_, Infallible>(answer(&seen))
                        }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    match tls {
                        Some(tls) => {
                            let Ok(stream) = tls.accept(tcp).await else { return };
                            let mut serving = std::pin::pin!(
                                server.serve_connection(TokioIo::new(stream), service)
                            );
                            tokio::select! {
                                _ = serving.as_mut() => {}
                                () = leaving.notified() => {
                                    serving.as_mut().graceful_shutdown();
                                    let _ = serving.await;
                                    left.add_permits(1);
                                }
                            }
                        }
                        None => drop(server.serve_connection(TokioIo::new(tcp), service).await),
                    }
                });
            }
        });
        Self { address, seen, connections, goodbye }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Says goodbye on its one TLS connection, and returns when that is over.
    pub(crate) async fn leave(&self) {
        self.goodbye.leaving.notify_waiters();
        self.goodbye.left.acquire().await.unwrap().forget();
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> BoxBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

pub(crate) fn ok(_: &Seen) -> Response<BoxBody> {
    Response::new(full("fine"))
}

pub(crate) async fn text(answer: Response<BoxBody>) -> Result<String, BodyError> {
    Ok(String::from_utf8_lossy(&answer.into_body().collect().await?.to_bytes()).into_owned())
}

pub(crate) fn https(authority: &str) -> Destination {
    Destination::parse(Scheme::Https, authority, Some(443)).unwrap()
}

pub(crate) fn http(authority: &str) -> Destination {
    Destination::parse(Scheme::Http, authority, Some(80)).unwrap()
}

/// What a test asks for; `..Ask::to(destination)` for the rest.
pub(crate) struct Ask {
    pub(crate) destination: Destination,
    pub(crate) method: Method,
    pub(crate) target: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
}

impl Ask {
    pub(crate) fn to(destination: &Destination) -> Self {
        Self {
            destination: destination.clone(),
            method: Method::GET,
            target: "/v1/things?page=2",
            headers: HeaderMap::new(),
            payload: Payload::Whole(Bytes::new()),
        }
    }

    fn request(self) -> Request {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (self.target.to_owned(), None),
        };
        let origin =
            Origin { cluster: "test".into(), org: "default".into(), agent: "agent-1".into() };
        Request::new(
            origin,
            self.destination,
            self.method,
            path,
            query,
            self.headers,
            self.payload,
            Vec::new(),
        )
        .unwrap()
    }

    /// Released by policy.
    pub(crate) fn allowed(self) -> Outbound {
        match classify(self.request(), Verdict::Allow { rule: "read".into(), per_request: false }) {
            Class::Pass(released) => released.with_keys(Vec::<Key>::new()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Released by a signed decision.
    pub(crate) fn approved(self) -> Outbound {
        released(self.request()).with_keys(Vec::new()).unwrap()
    }
}

fn released(request: Request) -> Released {
    let Class::Hold(judged) = classify(request, Verdict::Approve { rule: "write".into() }) else {
        panic!("not held")
    };
    let circumstances = Circumstances {
        request_id: [1; 16],
        edge: "edge-1".into(),
        edge_key: [2; 32],
        incarnation: [3; 16],
        protocol: "h1".into(),
        policy_version: 1,
        started_ms: 1_000,
        hold_ms: 60_000,
        nonce: [4; 32],
    };
    let held = judged.hold(circumstances, 0);
    let decision = Decision {
        cluster: "test".into(),
        decision_id: [5; 16],
        word: Word::Release,
        approval_id: Some([6; 16]),
        request_id: [1; 16],
        request_digest: held.ticket().request_digest,
        intent_digest: held.ticket().intent_digest,
        edge: "edge-1".into(),
        incarnation: [3; 16],
        term: 1,
        index: 1,
        policy_version: 1,
        approvers: Vec::new(),
        not_before_ms: 1_000,
        expires_ms: 60_000,
        sealed: Vec::<SealedRef>::new(),
        epoch: 1,
    };
    let node = SigningKey::from_bytes(&[7; 32]);
    let payload = decision.encode();
    let signed = Signed {
        payload_type: DECISION_TYPE.into(),
        signatures: vec![sign(&node, DECISION_TYPE, &payload)],
        payload,
    };
    let keys =
        vec![NodeKey { node: 1, public: node.verifying_key().to_bytes(), state: KeyState::Active }];
    let trust = Trust { cluster: "test".into(), epoch: 1, threshold: 1, keys };
    match verify(held, &signed, &trust, Now { boottime_ms: 10, wall_ms: 1_010 }) {
        Outcome::Release(released) => released,
        other => panic!("{other:?}"),
    }
}
