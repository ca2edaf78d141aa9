//! What becomes of a frozen request, given what the policy says of it.

use crate::release::Released;
use crate::request::{Payload, Request};

/// What the policy says. `rule` is the one that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may leave; `per_request` when its key is handed out one request at a time, by a signed decision.
    Allow {
        rule: String,
        per_request: bool,
    },
    /// People decide.
    Approve {
        rule: String,
    },
    Deny {
        rule: String,
    },
    /// No rule names it.
    Unnamed,
}

/// The three ways on.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // lives for one match
pub enum Class {
    Hold(Judged),
    Pass(Released),
    Refuse(Refusal),
}

/// Why a request goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Denied {
        rule: String,
    },
    /// Only a body that is all there can be shown, hashed and held.
    Unheld {
        rule: String,
    },
    Unnamed,
}

/// A request that waits for a signed decision; [`Judged::hold`] says which one it is.
#[derive(Debug)]
pub struct Judged {
    pub(crate) request: Request,
    pub(crate) rule: String,
    pub(crate) intent: crate::Digest,
}

/// Policy's verdict to what happens; no rule means no.
pub fn classify(request: Request, verdict: Verdict) -> Class {
    match verdict {
        Verdict::Allow { per_request: false, .. } => Class::Pass(Released::by_policy(request)),
        Verdict::Allow { rule, per_request: true } | Verdict::Approve { rule } => {
            match request.intent_digest(&rule) {
                Some(intent) => Class::Hold(Judged { request, rule, intent }),
                None => Class::Refuse(Refusal::Unheld { rule }),
            }
        }
        Verdict::Deny { rule } => Class::Refuse(Refusal::Denied { rule }),
        Verdict::Unnamed => Class::Refuse(Refusal::Unnamed),
    }
}

impl Judged {
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The rule that decided.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Whether the body is here: always, for what is judged.
    pub fn body(&self) -> bytes::Bytes {
        match &self.request.payload {
            Payload::Whole(body) => body.clone(),
            Payload::Streamed => bytes::Bytes::new(),
        }
    }
}
