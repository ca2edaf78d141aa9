//! One connection to an upstream, in either version, and one exchange on it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use countersign_gate::Destination;
use http::header::{self, HeaderValue};
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{BodyError, BoxBody, absolute};

/// The largest head of an answer, and of its trailers.
const HEAD_LIMIT: u32 = 64 * 1024;
/// Of an answer's body. It must hold the largest head.
const READ_AT_ONCE: usize = HEAD_LIMIT as usize;
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const PING_EVERY: Duration = Duration::from_secs(15);

pub(super) enum Connection {
    One(One),
    Two(http2::SendRequest<Watched>),
}

/// HTTP/1.1.
pub(super) struct One {
    sender: http1::SendRequest<Watched>,
    /// What reads and writes, as often as it is polled; none when a task of its own does it, or when it has ended.
    /// Whoever waits for an answer polls it along, so that no task has to wake another one.
    driver: Option<Driver>,
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send + Sync>>;

/// Why there is no answer.
pub(super) enum NotAnswered {
    /// The connection gave the request back: no byte of it was written.
    Unwritten(Box<Request<Watched>>, String),
    Written(String),
}

/// How an exchange is had.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// How long the upstream may be silent while nothing of the request's body moves either.
    pub(super) patience: Duration,
    /// The connection is read and written by a task of its own: a request is written to its end whoever waits for what,
    /// and while nobody takes its answer.
    pub(super) apart: bool,
}

impl Connection {
    pub(super) async fn one<I>(io: I) -> hyper::Result<Self>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
    {
        let (sender, driver) = http1::Builder::new()
            .max_header_size(HEAD_LIMIT as usize)
            .max_buf_size(READ_AT_ONCE)
            .handshake(TokioIo::new(io))
            .await?;
        Ok(Self::One(One { sender, driver: Some(Box::pin(driver)) }))
    }

    /// One that an answer may take out of HTTP.
    pub(super) async fn to_switch<I>(io: I) -> hyper::Result<Self>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = http1::Builder::new()
            .max_header_size(HEAD_LIMIT as usize)
            .max_buf_size(READ_AT_ONCE)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(driver.with_upgrades());
        Ok(Self::One(One { sender, driver: None }))
    }

    pub(super) async fn two<I>(io: I) -> hyper::Result<Self>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_LIMIT)
            .keep_alive_interval(PING_EVERY)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(driver); // its end is seen by the sender
        Ok(Self::Two(sender))
    }

    /// Writes the request, and waits for the head of the answer.
    pub(super) async fn exchange(
        mut self,
        request: Request<Watched>,
        destination: &Destination,
        progress: &Progress,
        manner: Manner,
    ) -> Result<(Response<Incoming>, Self), NotAnswered> {
        progress.touch();
        let answer = match &mut self {
            Self::One(one) => {
                if manner.apart {
                    one.set_apart();
                }
                if let Err(error) = one.ready().await {
                    return Err(NotAnswered::Unwritten(Box::new(request), error.to_string()));
                }
                let request = in_origin_form(request, destination);
                let back = |request| back_to_origin_form(request);
                let One { sender, driver } = one;
                let mut sending = std::pin::pin!(sender.try_send_request(request));
                let driven = poll_fn(|context| {
                    drive(driver, context);
                    sending.as_mut().poll(context)
                });
                patient(driven, progress, manner.patience, back).await
            }
            Self::Two(sender) => {
                if let Err(error) = sender.ready().await {
                    return Err(NotAnswered::Unwritten(Box::new(request), error.to_string()));
                }
                let uri = request.uri().clone();
                let request = in_absolute_form(request, destination)?;
                let back = |mut request: Request<Watched>| {
                    *request.uri_mut() = uri;
                    back_to_origin_form(request)
                };
                patient(sender.try_send_request(request), progress, manner.patience, back).await
            }
        };
        answer.map(|answer| (answer, self))
    }

    /// Reads and writes what can be, where nobody else does.
    pub(super) fn drive(&mut self, context: &mut Context<'_>) {
        if let Self::One(one) = self {
            drive(&mut one.driver, context);
        }
    }
}

impl One {
    /// Whether it can be used no more. Nobody reads a connection that lies idle, so that is done here.
    pub(super) fn is_closed(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.sender.is_closed()
    }

    /// Whether the next request can be written.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) fn is_apart(&self) -> bool {
        self.driver.is_none()
    }

    /// Returns once the next request can be written.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        poll_fn(|context| {
            if !self.sender.is_ready() {
                drive(&mut self.driver, context);
            }
            self.sender.poll_ready(context)
        })
        .await
    }

    fn set_apart(&mut self) {
        if let Some(driver) = self.driver.take() {
            tokio::spawn(driver); // its end is seen by the sender
        }
    }
}

fn drive(driver: &mut Option<Driver>, context: &mut Context<'_>) {
    // How it ended is seen by the sender, and by the body of the answer.
    let ended = driver.as_mut().is_some_and(|driver| driver.as_mut().poll(context).is_ready());
    if ended {
        *driver = None;
    }
}

async fn patient(
    sending: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Watched>>>>,
    progress: &Progress,
    patience: Duration,
    back: impl FnOnce(Request<Watched>) -> Request<Watched>,
) -> Result<Response<Incoming>, NotAnswered> {
    let mut sending = std::pin::pin!(sending);
    loop {
        let limit = progress.last() + patience;
        match tokio::time::timeout_at(limit, &mut sending).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(mut failed)) => {
                let why = explain(failed.error());
                return Err(match failed.take_message() {
                    Some(request) => NotAnswered::Unwritten(Box::new(back(request)), why),
                    None => NotAnswered::Written(why),
                });
            }
            Err(_) if progress.last() + patience > limit => {}
            Err(_) => {
                let why =
                    format!("the upstream did not begin to answer within {} s", patience.as_secs());
                return Err(NotAnswered::Written(why));
            }
        }
    }
}

/// hyper's errors name neither address nor request; their sources say what happened.
fn explain(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn in_origin_form(mut request: Request<Watched>, destination: &Destination) -> Request<Watched> {
    // An authority is ASCII without control characters, by its type.
    if let Ok(host) = HeaderValue::try_from(destination.authority()) {
        request.headers_mut().insert(header::HOST, host);
    }
    request
}

fn in_absolute_form(
    mut request: Request<Watched>,
    destination: &Destination,
) -> Result<Request<Watched>, NotAnswered> {
    match absolute(destination, request.uri()) {
        Ok(uri) => *request.uri_mut() = uri,
        Err(error) => return Err(NotAnswered::Unwritten(Box::new(request), error.to_string())),
    }
    *request.version_mut() = Version::HTTP_2;
    // The one hop-by-hop header that HTTP/2 has; gRPC servers refuse requests without it.
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

fn back_to_origin_form(mut request: Request<Watched>) -> Request<Watched> {
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().remove(header::HOST);
    request.headers_mut().remove(header::TE);
    request
}

/// When something of a request's body was last taken.
#[derive(Clone)]
pub(super) struct Progress(Arc<(Instant, AtomicU64)>);

impl Progress {
    fn touch(&self) {
        self.0.1.store(self.0.0.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.0.0 + Duration::from_millis(self.0.1.load(Ordering::Relaxed))
    }
}

/// The body and the sign of its progress.
pub(super) fn watched(body: BoxBody) -> (Watched, Progress) {
    let progress = Progress(Arc::new((Instant::now(), AtomicU64::new(0))));
    (Watched { body, progress: progress.clone() }, progress)
}

/// A request's body: says when it moves, and leaves trailers behind.
pub(super) struct Watched {
    body: BoxBody,
    progress: Progress,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.progress.touch();
        Poll::Ready(match frame {
            Some(Ok(frame)) if frame.is_trailers() => None,
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
