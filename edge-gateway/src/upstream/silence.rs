//! An answer's body, and the connection that it comes over. It may not be silent for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::BodyError;
use super::connection::Connection;
use super::pool::Shelf;

/// So much is taken in one turn; then others have theirs.
const TURN: usize = 256 * 1024;

/// Breaks off when nothing comes for so long while somebody waits for it.
pub(super) struct Silence {
    body: Incoming,
    ended: bool,
    /// How much came since others had their turn.
    taken: usize,
    over: Option<Over>,
    patience: Duration,
    /// Since when nothing came is known by this; made when nothing comes for the first time.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

/// What an answer comes over, and where that goes once all of it came. What comes half, or not at all, goes nowhere.
pub(super) struct Over {
    pub(super) connection: Connection,
    pub(super) shelf: Option<Arc<Shelf>>,
}

impl Silence {
    pub(super) fn new(body: Incoming, over: Over, patience: Duration) -> Self {
        let over = Some(over);
        Self { body, ended: false, taken: 0, over, patience, timer: None, waiting: false }
    }

    /// What is here of it, or comes when the connection is read.
    fn next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match (Pin::new(&mut self.body).poll_frame(context), &mut self.over) {
            (Poll::Pending, Some(over)) => {
                over.connection.drive(context);
                Pin::new(&mut self.body).poll_frame(context)
            }
            (frame, _) => frame,
        }
    }

    fn waits(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.taken = 0;
        let until = Instant::now() + self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !std::mem::replace(&mut self.waiting, true) {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(context)
    }
}

impl Body for Silence {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.taken >= TURN {
            self.taken = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.next(context) {
            Poll::Pending => self.waits(context).map(|()| {
                let seconds = self.patience.as_secs();
                Some(Err(format!("the upstream sent nothing for {seconds} s").into()))
            }),
            Poll::Ready(came) => {
                self.waiting = false;
                self.ended |= came.is_none();
                let data = came.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                self.taken += data.map_or(0, Bytes::len);
                Poll::Ready(came.map(|frame| frame.map_err(BodyError::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(Over { connection, shelf: Some(shelf) }) = self.over.take()
            && (self.ended || self.body.is_end_stream())
        {
            shelf.keep(connection);
        }
    }
}
