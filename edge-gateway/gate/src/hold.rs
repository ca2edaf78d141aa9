//! A request that waits, and what identifies it while it does.

use crate::classify::Judged;
use crate::encoding::{Digest, Writer, digest};
use crate::request::Request;

/// What makes this one request different from an identical one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// 128 random bits.
    pub request_id: [u8; 16],
    pub edge: String,
    /// SHA-256 of the edge's SubjectPublicKeyInfo.
    pub edge_key: Digest,
    /// 128 random bits per process start.
    pub incarnation: [u8; 16],
    /// What the agent's client spoke: `h1` or `h2`.
    pub protocol: String,
    pub policy_version: u64,
    /// The edge's wall clock, milliseconds since 1970.
    pub started_ms: u64,
    /// How long the edge holds it, milliseconds.
    pub hold_ms: u64,
    /// 256 random bits.
    pub nonce: [u8; 32],
}

/// The two digests of a held request and what they commit to. It can be copied; it releases nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub circumstances: Circumstances,
    pub intent_digest: Digest,
    pub request_digest: Digest,
}

/// A request that leaves only by a decision about exactly it.
#[derive(Debug)]
pub struct Held {
    pub(crate) request: Request,
    pub(crate) ticket: Ticket,
    /// Boot-time clock, milliseconds: it goes on while the machine sleeps.
    pub(crate) deadline: u64,
}

impl Judged {
    /// Holds the request until `now + hold_ms` on the boot-time clock (milliseconds).
    pub fn hold(self, circumstances: Circumstances, boottime_ms: u64) -> Held {
        let bound = Writer::new(3)
            .field(1, self.intent)
            .field(2, circumstances.request_id)
            .field(3, &circumstances.edge)
            .field(4, circumstances.edge_key)
            .field(5, circumstances.incarnation)
            .field(6, self.request.headers_digest())
            .field(7, &circumstances.protocol)
            .number(8, circumstances.policy_version)
            .number(9, circumstances.started_ms)
            .number(10, circumstances.hold_ms)
            .field(11, circumstances.nonce);
        let request_digest = digest("request", &bound.finish());
        let deadline = boottime_ms.saturating_add(circumstances.hold_ms);
        let ticket = Ticket { circumstances, intent_digest: self.intent, request_digest };
        Held { request: self.request, ticket, deadline }
    }
}

impl Held {
    pub fn request(&self) -> &Request {
        &self.request
    }

    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The boot-time clock's reading (milliseconds) from which on no decision releases it.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }
}
