//! How long an agent may take over what it sends: a head that has begun is here within ten seconds, a body comes at a
//! kibibyte a second, and an HTTP/2 connection is not flooded with frames that ask for nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::frames::{Flood, Frames};
use crate::upstream::{BodyError, BoxBody};

/// A client that has begun to say what it wants, and has not finished by then, is sent away.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(10);
/// From when on a body has to come at [`RATE`].
const GRACE: Duration = Duration::from_secs(10);
/// Bytes of a body a second.
const RATE: u64 = 1024;

/// How long a body has kept us waiting, and how much of it came. Only time in which we waited for it counts: an upstream
/// that takes it slowly is not the agent's fault.
#[derive(Default)]
pub(crate) struct Pace {
    came: u64,
    waited: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    since: Option<Instant>,
}

impl Pace {
    /// The pace of a body that streams past; none for gRPC, whose streams may say nothing for as long as they like. These
    /// are bounded by the agent's seats.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
        let grpc =
            kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/grpc"));
        (!grpc).then(Self::default)
    }

    /// So many bytes came.
    pub(crate) fn came(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
        self.came += bytes as u64;
    }

    /// Nothing is there now. Ready once it was waited for too long.
    pub(crate) fn waits(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let allowed = GRACE + Duration::from_millis(self.came.saturating_mul(1_000) / RATE);
        let until = since + allowed.saturating_sub(self.waited);
        let timer = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(context)
    }
}

/// Whether an HTTP/1.1 connection has a request whose answer is not complete: what comes meanwhile is no head. It counts
/// beginnings and ends, so that an odd number is a request that is on.
#[derive(Clone, Default)]
pub(crate) struct Turn(Arc<AtomicU64>);

/// One request's turn; over when dropped.
pub(crate) struct Taken(Option<Turn>);

impl Turn {
    pub(crate) fn take(&self) -> Taken {
        self.0.fetch_add(1, Ordering::Relaxed);
        Taken(Some(self.clone()))
    }

    /// Which pause between two requests it is, if it is one.
    fn pause(&self) -> Option<u64> {
        let number = self.0.load(Ordering::Relaxed);
        number.is_multiple_of(2).then_some(number)
    }
}

impl Taken {
    /// The connection becomes something else: no head comes after this request.
    pub(crate) fn for_good(mut self) -> Self {
        self.0 = None;
        self
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(turn) = &self.0 {
            turn.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An answer, and what is kept for as long as it is on its way.
pub(crate) struct Along<T> {
    body: BoxBody,
    _kept: T,
}

impl<T> Along<T> {
    pub(crate) fn new(body: BoxBody, kept: T) -> Self {
        Self { body, _kept: kept }
    }
}

impl<T: Unpin> Body for Along<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What is watched on a connection.
enum Watched {
    /// `begun`: in which pause something came.
    One { turn: Turn, begun: Option<u64> },
    Two {
        frames: Frames,
        calm: CancellationToken,
        flooded: bool,
        /// What is to be written has waited for others.
        waited: bool,
    },
}

/// An agent's connection, which ends when a head takes too long.
pub(crate) struct Brisk<S> {
    stream: S,
    watched: Watched,
    /// For the head of this number.
    timer: Option<(u64, Pin<Box<Sleep>>)>,
}

impl<S> Brisk<S> {
    /// With HTTP/1.1: `turn` says when a request is on.
    pub(crate) fn one(stream: S, turn: Turn) -> Self {
        Self { stream, watched: Watched::One { turn, begun: None }, timer: None }
    }

    /// With HTTP/2: `calm` is cancelled when it is flooded, and nothing is read from then on.
    pub(crate) fn two(stream: S, calm: CancellationToken) -> Self {
        let frames = Frames::new(std::time::Instant::now());
        Self {
            stream,
            watched: Watched::Two { frames, calm, flooded: false, waited: false },
            timer: None,
        }
    }

    /// Nothing came. Ready once a head that has begun was waited for too long.
    fn waits(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(head) = self.watched.head() else {
            self.timer = None;
            return Poll::Pending;
        };
        if self.timer.as_ref().is_some_and(|(of, _)| *of != head) {
            self.timer = None;
        }
        let (_, timer) =
            self.timer.get_or_insert_with(|| (head, Box::pin(tokio::time::sleep(HEAD_TIME))));
        match timer.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "a head that had begun did not end in time",
            ))),
        }
    }
}

impl Watched {
    /// The number of the head that has begun and not ended.
    fn head(&self) -> Option<u64> {
        match self {
            Self::One { turn, begun } => turn.pause().filter(|pause| *begun == Some(*pause)),
            Self::Two { frames, .. } => frames.head(),
        }
    }

    /// Takes in what came.
    fn came(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        match self {
            Self::One { turn, begun } => {
                *begun = turn.pause();
                Ok(())
            }
            Self::Two { frames, calm, flooded, .. } => {
                frames.feed(bytes, std::time::Instant::now).inspect_err(|_| {
                    *flooded = true;
                    calm.cancel();
                })
            }
        }
    }

    /// Whether what is to be written waits, once, until everybody who is about to do something has done it: answers that
    /// are ready together leave together, over the one connection that they share.
    fn waits_for_others(&mut self, context: &Context<'_>) -> bool {
        let Self::Two { waited, .. } = self else { return false };
        let waits = !std::mem::replace(waited, true);
        if waits {
            context.waker().wake_by_ref();
        }
        waits
    }

    fn has_written(&mut self) {
        if let Self::Two { waited, .. } = self {
            *waited = false;
        }
    }

    fn is_flooded(&self) -> bool {
        matches!(self, Self::Two { flooded: true, .. })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Brisk<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.watched.is_flooded() {
            return Poll::Pending;
        }
        let before = into.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, into) {
            Poll::Ready(Ok(())) => {
                // An end is no beginning.
                if into.filled().len() > before
                    && let Err(flood) = this.watched.came(&into.filled()[before..])
                {
                    tracing::warn!(%flood, "a connection of an agent is ended");
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(why)) => Poll::Ready(Err(why)),
            Poll::Pending => this.waits(context),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Brisk<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.watched.waits_for_others(context) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.watched.has_written();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.watched.waits_for_others(context) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
