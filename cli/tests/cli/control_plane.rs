//! A control plane that says what a test tells it to: gRPC over TLS, with the answers given beforehand.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tonic::Status;

/// A running one; it ends when it is dropped.
pub(crate) struct ControlPlane {
    addr: String,
    ca_pem: String,
    answers: Arc<Answers>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Answers {
    given: Mutex<BTreeMap<&'static str, Result<Vec<Bytes>, Status>>>,
    ends: Mutex<BTreeMap<&'static str, Status>>,
    turns: Mutex<BTreeMap<&'static str, VecDeque<Bytes>>>,
    asked: Mutex<Vec<Asked>>,
}

struct Asked {
    method: String,
    authorization: Option<String>,
    message: Bytes,
}

impl ControlPlane {
    pub(crate) fn start() -> Self {
        Self::of(&Authority::new())
    }

    /// One whose certificate this authority signed, as another node's.
    pub(crate) fn of(authority: &Authority) -> Self {
        let runtime = Runtime::new().unwrap();
        let (ca_pem, tls) = (authority.pem.clone(), authority.acceptor());
        let listener =
            runtime.block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let addr = format!("https://{}", listener.local_addr().unwrap());
        let answers = Arc::<Answers>::default();
        runtime.spawn(serve(listener, tls, Arc::clone(&answers)));
        Self { addr, ca_pem, answers, _runtime: runtime }
    }

    /// What this method answers from now on; more than one message for a stream.
    pub(crate) fn answers(self, method: &'static str, messages: &[impl Message]) -> Self {
        let messages = messages.iter().map(|message| message.encode_to_vec().into()).collect();
        self.answers.given.lock().unwrap().insert(method, Ok(messages));
        self
    }

    /// What it answers to one call after the other.
    pub(crate) fn answers_in_turn(self, method: &'static str, messages: &[impl Message]) -> Self {
        let turns = messages.iter().map(|message| message.encode_to_vec().into()).collect();
        self.answers.turns.lock().unwrap().insert(method, turns);
        self
    }

    /// A stream that breaks off.
    pub(crate) fn breaks_off(
        self,
        method: &'static str,
        messages: &[impl Message],
        status: Status,
    ) -> Self {
        self.answers.ends.lock().unwrap().insert(method, status);
        self.answers(method, messages)
    }

    pub(crate) fn refuses(self, method: &'static str, status: Status) -> Self {
        self.answers.given.lock().unwrap().insert(method, Err(status));
        self
    }

    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The one request that this method got.
    pub(crate) fn asked<M: Message + Default>(&self, method: &str) -> M {
        let mut all = self.all_asked(method);
        assert_eq!(all.len(), 1, "{method}");
        all.remove(0)
    }

    /// Every request that this method got; each had the token.
    pub(crate) fn all_asked<M: Message + Default>(&self, method: &str) -> Vec<M> {
        self.all_asked_with(method, Some("Bearer cs_adm_right"))
    }

    /// Every request that this method got; none had a token.
    pub(crate) fn all_asked_without_token<M: Message + Default>(&self, method: &str) -> Vec<M> {
        self.all_asked_with(method, None)
    }

    fn all_asked_with<M: Message + Default>(&self, method: &str, token: Option<&str>) -> Vec<M> {
        let asked = self.answers.asked.lock().unwrap();
        let decoded = |asked: &Asked| {
            assert_eq!(asked.authorization.as_deref(), token);
            M::decode(asked.message.clone()).unwrap()
        };
        asked.iter().filter(|asked| asked.method == method).map(decoded).collect()
    }

    pub(crate) fn was_asked(&self, method: &str) -> bool {
        self.answers.asked.lock().unwrap().iter().any(|asked| asked.method == method)
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        self.addr.trim_start_matches("https://")
    }

    pub(crate) fn was_asked_nothing(&self) -> bool {
        self.answers.asked.lock().unwrap().is_empty()
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, answers: Arc<Answers>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, answers) = (tls.clone(), Arc::clone(&answers));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(socket).await else { return };
            let service = service_fn(move |request| {
                let answers = Arc::clone(&answers);
                async move { Ok::<_, Infallible>(answers.answer(request).await) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Body = StreamBody<futures_like::Frames>;

impl Answers {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let authorization = request.headers().get("authorization");
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        let framed = request.into_body().collect().await.unwrap().to_bytes();
        let message = framed.slice(5..);
        self.asked.lock().unwrap().push(Asked { method: method.clone(), authorization, message });

        let turn =
            self.turns.lock().unwrap().get_mut(method.as_str()).and_then(VecDeque::pop_front);
        let given = turn.map(|message| Ok(vec![message]));
        let given = given.or_else(|| self.given.lock().unwrap().get(method.as_str()).cloned());
        let given = given.unwrap_or_else(|| Err(Status::unimplemented("the test gave no answer")));
        let mut frames = Vec::new();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        match given {
            Ok(messages) => {
                for message in messages {
                    let mut framed = BytesMut::new();
                    framed.put_u8(0);
                    framed.put_u32(u32::try_from(message.len()).unwrap());
                    framed.put(message);
                    frames.push(Frame::data(framed.freeze()));
                }
                let mut trailers = HeaderMap::new();
                let end = self.ends.lock().unwrap().get(method.as_str()).cloned();
                end.unwrap_or_else(|| Status::ok("")).add_header(&mut trailers).unwrap();
                frames.push(Frame::trailers(trailers));
            }
            // With the head, as servers do that have nothing else to say.
            Err(status) => status.add_header(&mut headers).unwrap(),
        }
        let mut response = Response::new(StreamBody::new(futures_like::frames(frames)));
        *response.headers_mut() = headers;
        response
    }
}

/// A body that is all there.
mod futures_like {
    use std::convert::Infallible;

    use bytes::Bytes;
    use hyper::body::Frame;
    use tokio_stream::Iter;

    pub(super) type Frames = Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

    pub(super) fn frames(frames: Vec<Frame<Bytes>>) -> Frames {
        tokio_stream::iter(frames.into_iter().map(Ok).collect::<Vec<_>>())
    }
}

/// What signs the certificates of a cluster's nodes.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}
