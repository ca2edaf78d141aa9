//! The numbers of a session: what was sent, what was taken in, and how far that is acknowledged.

use std::collections::BTreeSet;

use countersign_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

type Sender = mpsc::Sender<Result<v1::AttachResponse, Status>>;

/// Numbers what goes out, and acknowledges what came in once nothing of it can be lost any more.
pub(super) struct Outbox {
    sender: Sender,
    sent: u64,
    taken_in: u64,
    /// Taken in, and not yet committed.
    under_way: BTreeSet<u64>,
}

impl Outbox {
    pub(super) fn new(sender: Sender) -> Self {
        Self { sender, sent: 0, taken_in: 0, under_way: BTreeSet::new() }
    }

    pub(super) fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Answers the message's number, and never waits. An edge that does not take in what it is sent loses its session,
    /// and nothing else: the next one begins with whatever the state says.
    pub(super) fn send(&mut self, message: v1::attach_response::Message) -> Result<u64, Status> {
        self.sent += 1;
        let acknowledged = self.under_way.first().map_or(self.taken_in, |first| first - 1);
        let response =
            v1::AttachResponse { sequence: self.sent, acknowledged, message: Some(message) };
        match self.sender.try_send(Ok(response)) {
            Ok(()) => Ok(self.sent),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(Status::resource_exhausted("the edge is too slow: attach again"))
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Status::cancelled("the edge is gone")),
        }
    }

    /// Takes in the message of this number, which must be the next one.
    pub(super) fn take_in(&mut self, number: u64) -> Result<(), Status> {
        if number != self.taken_in + 1 {
            return Err(Status::invalid_argument(format!(
                "message {number} came after message {}: attach again",
                self.taken_in
            )));
        }
        self.taken_in = number;
        self.under_way.insert(number);
        Ok(())
    }

    /// Whatever the message of this number asked for is done, or needs no doing.
    pub(super) fn settle(&mut self, number: u64) {
        self.under_way.remove(&number);
    }
}
