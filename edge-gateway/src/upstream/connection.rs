//! One connection to an upstream, in either version, and one exchange on it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
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
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const PING_EVERY: Duration = Duration::from_secs(15);

pub(super) enum Connection {
    One(http1::SendRequest<Watched>),
    Two(http2::SendRequest<Watched>),
}

/// Why there is no answer.
pub(super) enum NotAnswered {
    /// The connection gave the request back: no byte of it was written.
    Unwritten(Box<Request<Watched>>, String),
    Written(String),
}

impl Connection {
    pub(super) async fn one<I>(io: I) -> hyper::Result<Self>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = http1::Builder::new()
            .max_header_size(HEAD_LIMIT as usize)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(driver); // its end is seen by the sender
        Ok(Self::One(sender))
    }

    /// One that an answer may take out of HTTP.
    pub(super) async fn to_switch<I>(io: I) -> hyper::Result<Self>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = http1::Builder::new()
            .max_header_size(HEAD_LIMIT as usize)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(driver.with_upgrades());
        Ok(Self::One(sender))
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
        tokio::spawn(driver);
        Ok(Self::Two(sender))
    }

    /// Writes the request, and waits for the head of the answer until the upstream has been silent for `patience`
    /// and nothing of the request's body has moved either.
    pub(super) async fn exchange(
        mut self,
        request: Request<Watched>,
        destination: &Destination,
        progress: &Progress,
        patience: Duration,
    ) -> Result<(Response<Incoming>, Self), NotAnswered> {
        progress.touch();
        let answer = match &mut self {
            Self::One(sender) => {
                if let Err(error) = sender.ready().await {
                    return Err(NotAnswered::Unwritten(Box::new(request), error.to_string()));
                }
                let request = in_origin_form(request, destination);
                let back = |request| back_to_origin_form(request);
                patient(sender.try_send_request(request), progress, patience, back).await
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
                patient(sender.try_send_request(request), progress, patience, back).await
            }
        };
        answer.map(|answer| (answer, self))
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
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
