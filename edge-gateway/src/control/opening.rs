//! A held request's line to the control plane, and what is remembered of it when it is gone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use countersign_gate::Held;
use countersign_proto::v1 as pb;
use tokio::sync::mpsc;

use super::{Alarm, Answer, Control, Kept, Link, Out, Receipt, RequestId, Why, lock};

/// A held request's line to the control plane. Dropped before it is finished, it says that the agent went away.
pub(crate) struct Opening {
    request_id: RequestId,
    answers: mpsc::Receiver<Box<Answer>>,
    control: Arc<Control>,
    fate: Option<Fate>,
    /// A decision came, and did not count: the request may have been claimed.
    decided: bool,
}

/// What became of a held request at this edge. One that was dropped here was certainly not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Carried,
    Dropped,
}

/// How many settled requests are remembered, to tell a late decision from a stray one.
const SETTLED: usize = 8_192;

impl Opening {
    pub(super) fn new(
        request_id: RequestId,
        answers: mpsc::Receiver<Box<Answer>>,
        control: Arc<Control>,
    ) -> Self {
        Self { request_id, answers, control, fate: None, decided: false }
    }

    /// The next thing said of it.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        self.answers.recv().await.map(|answer| *answer)
    }

    /// Announces the same request anew, judged by a newer policy.
    pub(crate) fn again(&mut self, held: &Held, why: &Why) {
        self.answers = self.control.announce(held, why);
    }

    /// A decision came that does not count.
    pub(crate) fn undecided(&mut self) {
        self.decided = true;
    }

    /// Announces the request as it is once more: a control plane that decided about it before decides anew.
    pub(crate) fn remind(&self) {
        self.control.push(Out::Open(self.request_id));
    }

    /// A decision released it: it is being carried out.
    pub(crate) fn carried(mut self) {
        self.fate = Some(Fate::Carried);
    }

    /// The control plane said no, and needs no telling.
    pub(crate) fn refused(mut self) {
        self.fate = Some(Fate::Dropped);
    }

    /// This edge gives up waiting.
    pub(crate) fn given_up(self, reason: &str) {
        self.control.cancel(self.request_id, reason, self.decided);
        self.refused();
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        lock(&self.control.held).remove(&self.request_id);
        let fate = self.fate.unwrap_or(Fate::Dropped);
        lock(&self.control.settled).remember(self.request_id, fate);
        if self.fate.is_none() {
            self.control.cancel(self.request_id, "the agent went away", self.decided);
        }
        // A decision may have come in the same moment, and lie here unread: nobody will act on it.
        let unread = std::iter::from_fn(|| self.answers.try_recv().ok());
        let claimed = unread.filter(|answer| matches!(**answer, Answer::Signed { .. })).count() > 0;
        if claimed && fate == Fate::Dropped {
            self.control.receipt(self.request_id, None, Receipt::NotSent, &Bytes::new());
        }
    }
}

impl Control {
    fn cancel(&self, request_id: RequestId, reason: &str, decided: bool) {
        let message = pb::HeldCancelled {
            request_id: Bytes::copy_from_slice(&request_id),
            reason: reason.to_owned(),
        };
        self.push(Out::Kept(Kept::Cancelled(message)));
        // While nobody listens it may have been claimed, and its decision lost on the way; and one whose decision did
        // not count was. Said of a request that was not claimed, this changes nothing.
        if decided || self.link() != Link::Attached {
            self.receipt(request_id, None, Receipt::NotSent, &Bytes::new());
        }
    }

    /// A decision that nobody waits for any more. If this edge dropped its request, nothing was sent, and saying so
    /// frees the approval; if it was carried out, its receipt says so already.
    pub(super) fn orphan(&self, request_id: RequestId, approval_id: Option<[u8; 16]>) {
        let fate = lock(&self.settled).fate(&request_id);
        self.metrics.decisions_ignored.with_label_values(&["orphan"]).inc();
        match fate {
            Some(Fate::Carried) => {}
            Some(Fate::Dropped) => {
                self.receipt(request_id, approval_id, Receipt::NotSent, &Bytes::new())
            }
            None => self.alarm(Alarm::of_the_edge(
                "orphan_decision",
                format!(
                    "a decision about request {}, which this edge never held",
                    hex::encode(request_id)
                ),
            )),
        }
    }
}

/// The last requests that were settled here, oldest first.
#[derive(Default)]
pub(super) struct Settled {
    fates: HashMap<RequestId, Fate>,
    pub(super) order: VecDeque<RequestId>,
}

impl Settled {
    fn remember(&mut self, request_id: RequestId, fate: Fate) {
        if self.fates.insert(request_id, fate).is_none() {
            self.order.push_back(request_id);
        }
        while self.order.len() > SETTLED {
            if let Some(oldest) = self.order.pop_front() {
                self.fates.remove(&oldest);
            }
        }
    }

    fn fate(&self, request_id: &RequestId) -> Option<Fate> {
        self.fates.get(request_id).copied()
    }
}
