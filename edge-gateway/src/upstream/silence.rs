//! An answer's body that may not be silent for ever.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::BodyError;

/// Breaks off when nothing comes for so long while somebody waits for it.
pub(super) struct Silence {
    body: Incoming,
    patience: Duration,
    /// Since when nothing came is known by this; made when nothing comes for the first time.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Silence {
    pub(super) fn new(body: Incoming, patience: Duration) -> Self {
        Self { body, patience, timer: None, waiting: false }
    }

    fn waits(&mut self, context: &mut Context<'_>) -> Poll<()> {
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
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => self.waits(context).map(|()| {
                let seconds = self.patience.as_secs();
                Some(Err(format!("the upstream sent nothing for {seconds} s").into()))
            }),
            Poll::Ready(came) => {
                self.waiting = false;
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
