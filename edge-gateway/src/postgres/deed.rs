//! Something that a signed decision released, until it is known what came of it: the control plane is told once.

use std::sync::Arc;

use bytes::Bytes;

use crate::control::{Control, Receipt, RequestId};

/// One that is dropped was sent, and nobody knows what came of it.
pub(super) struct Deed {
    control: Arc<Control>,
    request_id: RequestId,
    approval_id: Option<[u8; 16]>,
    body: Bytes,
    told: bool,
}

/// Receipts speak of requests as HTTP does: carried out, and carried out with an error of the server's.
const DONE: u16 = 200;
const FAILED: u16 = 400;

impl Deed {
    pub(super) fn new(
        control: Arc<Control>,
        request_id: RequestId,
        approval_id: Option<[u8; 16]>,
        body: Bytes,
    ) -> Self {
        Self { control, request_id, approval_id, body, told: false }
    }

    /// The server carried it out.
    pub(super) fn done(self) {
        self.tell(Receipt::Completed { status: DONE });
    }

    /// The server answered with an error.
    pub(super) fn failed(self) {
        self.tell(Receipt::Completed { status: FAILED });
    }

    /// Nothing of it was sent, or the server discarded it unread.
    pub(super) fn not_sent(self) {
        self.tell(Receipt::NotSent);
    }

    fn tell(mut self, receipt: Receipt) {
        self.told = true;
        self.control.receipt(self.request_id, self.approval_id, receipt, &self.body);
    }
}

impl Drop for Deed {
    fn drop(&mut self) {
        if !self.told {
            self.control.receipt(self.request_id, self.approval_id, Receipt::Unknown, &self.body);
        }
    }
}
