//! The answer to what people approved, which ends: one approval is one request and one answer, and not a line that the
//! upstream may talk over for as long as it likes.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::upstream::{BodyError, BoxBody};

/// How much an answer may be, and by when all of it has to be here.
pub(crate) struct Bounds {
    bytes: u64,
    /// On the boot-time clock.
    deadline_ms: u64,
}

/// Why an answer broke off.
#[derive(Clone, Copy, Debug)]
enum Over {
    Bytes,
    Time,
}

impl Bounds {
    /// From now on.
    pub(crate) fn new(clock: &Clock, bytes: u64, time: Duration) -> Self {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self { bytes, deadline_ms: clock.boottime_ms().saturating_add(time) }
    }

    /// Holds an answer to them: beyond them it breaks off.
    pub(crate) fn hold(self, clock: &Clock, answer: Response<BoxBody>) -> Response<BoxBody> {
        let (mut alarm, over) = oneshot::channel();
        let clock = clock.clone();
        tokio::spawn(async move {
            let rung = tokio::select! {
                () = clock.reached(self.deadline_ms) => true,
                () = alarm.closed() => false,
            };
            if rung {
                // The answer may have ended meanwhile.
                let _ = alarm.send(());
            }
        });
        answer.map(|body| BoxBody::new(Bounded { body, left: self.bytes, over, broken: false }))
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => {
                "the answer broke off: it is larger than that to an approved request may be"
            }
            Self::Time => {
                "the answer broke off: it took longer than that to an approved request may"
            }
        })
    }
}

impl std::error::Error for Over {}

struct Bounded {
    body: BoxBody,
    left: u64,
    over: oneshot::Receiver<()>,
    broken: bool,
}

impl Bounded {
    fn breaks(&mut self, over: Over) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        tracing::warn!(%over, "an answer was cut");
        self.broken = true;
        Poll::Ready(Some(Err(over.into())))
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.broken {
            return Poll::Ready(None);
        }
        if Pin::new(&mut this.over).poll(cx).is_ready() {
            return this.breaks(Over::Time);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            match this.left.checked_sub(data.len() as u64) {
                Some(left) => this.left = left,
                None => return this.breaks(Over::Bytes),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.broken || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
