//! Bodies on their way in: bounded, contiguous, any number of them interleaved.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use countersign_proto::v1::{OpenBody, OpenHead};

use super::waiting::RequestId;

/// Requests whose body is not all here yet.
#[derive(Default)]
pub(super) struct Spools {
    spools: HashMap<RequestId, Spool>,
    held_bytes: u64,
}

struct Spool {
    head: OpenHead,
    body: BytesMut,
}

/// What a piece makes of its request.
pub(super) enum Spooled {
    /// All of it is here.
    Whole(Box<OpenHead>, Bytes),
    /// More to come.
    Part,
    /// Not a request that is being announced: it was cancelled or refused meanwhile.
    Unknown,
    /// Not what the head said; the request is gone from here.
    Wrong(&'static str),
}

/// All bodies of one session that are on their way in.
const MOST_BYTES: u64 = 128 * 1024 * 1024;

impl Spools {
    /// Takes a head whose body is to come. Announcing it anew begins again. False: no room for the body now.
    pub(super) fn begin(&mut self, request_id: RequestId, head: OpenHead) -> bool {
        self.forget(&request_id);
        if self.held_bytes.saturating_add(head.body_bytes) > MOST_BYTES {
            return false;
        }
        self.held_bytes += head.body_bytes;
        self.spools.insert(request_id, Spool { head, body: BytesMut::new() });
        true
    }

    pub(super) fn add(&mut self, request_id: RequestId, piece: &OpenBody) -> Spooled {
        let Some(spool) = self.spools.get_mut(&request_id) else { return Spooled::Unknown };
        let here = spool.body.len() as u64;
        let after = here + piece.data.len() as u64;
        let whole = after == spool.head.body_bytes;
        let wrong = if piece.offset != here {
            Some("a piece of the body does not follow the one before it")
        } else if after > spool.head.body_bytes {
            Some("the body is longer than its head says")
        } else if piece.last != whole {
            Some("the body's last piece is not where its head says")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.forget(&request_id);
            return Spooled::Wrong(wrong);
        }
        spool.body.extend_from_slice(&piece.data);
        if !whole {
            return Spooled::Part;
        }
        match self.take(&request_id) {
            Some(Spool { head, body }) => Spooled::Whole(Box::new(head), body.freeze()),
            None => Spooled::Unknown,
        }
    }

    /// Whether it was on its way in.
    pub(super) fn forget(&mut self, request_id: &RequestId) -> bool {
        self.take(request_id).is_some()
    }

    fn take(&mut self, request_id: &RequestId) -> Option<Spool> {
        let spool = self.spools.remove(request_id)?;
        self.held_bytes -= spool.head.body_bytes;
        Some(spool)
    }
}
