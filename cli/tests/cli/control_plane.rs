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
        let runtime = Runtime::new().unwrap();
        let (ca_pem, tls) = certificate();
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
        let asked = self.answers.asked.lock().unwrap();
        let decoded = |asked: &Asked| {
            assert_eq!(asked.authorization.as_deref(), Some("Bearer cs_adm_right"));
            M::decode(asked.message.clone()).unwrap()
        };
        asked.iter().filter(|asked| asked.method == method).map(decoded).collect()
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
        let mut trailers = HeaderMap::new();
        match given {
            Ok(messages) => {
                for message in messages {
                    let mut framed = BytesMut::new();
                    framed.put_u8(0);
                    framed.put_u32(u32::try_from(message.len()).unwrap());
                    framed.put(message);
                    frames.push(Frame::data(framed.freeze()));
                }
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
            }
            Err(status) => status.add_header(&mut trailers).unwrap(),
        }
        frames.push(Frame::trailers(trailers));
        let mut response = Response::new(StreamBody::new(futures_like::frames(frames)));
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
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

fn certificate() -> (String, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    (ca_pem, TlsAcceptor::from(Arc::new(config)))
}
