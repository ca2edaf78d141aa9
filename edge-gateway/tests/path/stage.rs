//! An upstream that the test plays itself: it takes connections as they come and says on them what the test wants.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Either, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::agent::{Answer, read_head};
use crate::world::{Authority, STAGED};

pub(crate) struct Stage {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    /// Without HTTP/2.
    old: TlsAcceptor,
}

/// One connection, as the edge opened it.
pub(crate) type Line = TlsStream<TcpStream>;

/// What is sent over HTTP/2, a frame at a time.
pub(crate) type Frames = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;
pub(crate) type Streamed =
    Either<StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>, Empty<Bytes>>;

/// Frames as they are sent, and where they are sent from.
pub(crate) fn streamed() -> (Frames, Streamed) {
    let (frames, body) = mpsc::channel(64);
    (frames, Either::Left(StreamBody::new(ReceiverStream::new(body))))
}

impl Stage {
    pub(crate) async fn start(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let names: Vec<&str> = STAGED.into_iter().filter(|name| *name != "hidden.test").collect();
        let (certificate, key) = authority.leaf_for(&names, ExtendedKeyUsagePurpose::ServerAuth);
        let chain =
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("TLS");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let old = TlsAcceptor::from(Arc::new(config.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), old }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().expect("an address").port()
    }

    /// The next connection.
    pub(crate) async fn line(&self) -> Line {
        self.next().await.expect("TLS")
    }

    /// The next connection, with an upstream that knows HTTP/1.1 alone.
    pub(crate) async fn line_in_http_1(&self) -> Line {
        let line = self.next_by(&self.old).await.expect("TLS");
        assert_eq!(line.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        line
    }

    /// The next connection, whose TLS may fail.
    pub(crate) async fn next(&self) -> std::io::Result<Line> {
        self.next_by(&self.acceptor).await
    }

    async fn next_by(&self, acceptor: &TlsAcceptor) -> std::io::Result<Line> {
        let accepted = async {
            let (stream, _) = self.listener.accept().await.expect("a connection");
            acceptor.accept(stream).await
        };
        in_time("a connection to the upstream", accepted).await
    }

    /// Whether nobody is at the door.
    pub(crate) fn is_empty(&self) -> bool {
        self.listener.accept().now_or_never().is_none()
    }

    /// The next connection, which speaks HTTP/2, and the first request on it.
    pub(crate) async fn call(&self) -> Call {
        let line = self.line().await;
        assert_eq!(line.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "HTTP/2 is preferred");
        let (calls, called) = mpsc::channel(16);
        let serving = tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let calls = calls.clone();
                async move {
                    let (answer, answered) = oneshot::channel();
                    let _ = calls.send((request, answer)).await;
                    answered.await
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(line), service).await;
        });
        Session { called, serving }.call().await
    }
}

/// One connection over HTTP/2, which ends when this is dropped.
pub(crate) struct Session {
    called: mpsc::Receiver<(Request<Incoming>, oneshot::Sender<Response<Streamed>>)>,
    serving: JoinHandle<()>,
}

impl Session {
    /// The next request on it.
    pub(crate) async fn call(mut self) -> Call {
        let (request, answer) =
            in_time("a request", self.called.recv()).await.expect("the connection is open");
        Call { request, answer, session: self }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A request over HTTP/2 that waits for its answer.
pub(crate) struct Call {
    pub(crate) request: Request<Incoming>,
    answer: oneshot::Sender<Response<Streamed>>,
    pub(crate) session: Session,
}

/// A call whose answer has begun.
pub(crate) struct Answering {
    pub(crate) request: Request<Incoming>,
    pub(crate) frames: Option<Frames>,
    _session: Session,
}

impl Call {
    /// Begins to answer.
    pub(crate) fn answer(self, head: http::response::Builder) -> Answering {
        let Self { request, answer, session } = self;
        let (frames, body) = streamed();
        let response = head.body(body).expect("an answer");
        assert!(answer.send(response).is_ok(), "somebody waits for it");
        Answering { request, frames: Some(frames), _session: session }
    }
}

impl Call {
    /// Answers with a head that is all there is.
    pub(crate) fn answer_at_once(self, head: http::response::Builder) -> Session {
        let response = head.body(Either::Right(Empty::new())).expect("an answer");
        assert!(self.answer.send(response).is_ok(), "somebody waits for it");
        self.session
    }
}

impl Answering {
    pub(crate) async fn say(&self, bytes: impl Into<Bytes>) {
        let frame = Ok(Frame::data(bytes.into()));
        self.frames.as_ref().expect("not ended").send(frame).await.expect("heard");
    }

    /// Ends with trailers.
    pub(crate) async fn end(&mut self, trailers: &[(&'static str, &str)]) {
        let trailers = trailers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), value.parse().expect("a value"))
        });
        let frames = self.frames.take().expect("not ended");
        frames.send(Ok(Frame::trailers(trailers.collect()))).await.expect("heard");
    }

    /// The next piece of the request's body; none when it is over, whether it ends or breaks off.
    pub(crate) async fn hear(&mut self) -> Option<Bytes> {
        loop {
            let frame = in_time("a piece of the request", self.request.body_mut().frame()).await?;
            let data = frame.ok()?.into_data().unwrap_or_else(|other| panic!("no data: {other:?}"));
            if !data.is_empty() {
                return Some(data);
            }
        }
    }
}

/// A connection and what comes first on it.
pub(crate) async fn head(line: &mut Line) -> Answer {
    // It reads up to the empty line, whoever wrote it.
    read_head(line).await.expect("a request")
}

pub(crate) async fn say(line: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: impl AsRef<[u8]>) {
    line.write_all(bytes.as_ref()).await.expect("written");
    line.flush().await.expect("written");
}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap_or_else(|_| panic!("it never came: {what}"))
}
