//! The gate: decides whether a request may leave with a real key. This package is the part that must be right.
//!
//! ```text
//!                     ┌─ Refuse
//! Request ─ classify ─┼─ Pass(Released) ─────────────────────┐
//!                     └─ Hold(Judged) ─ hold ─▶ Held         ├─ with_keys ─▶ Outbound
//!                                                 │ verify   │
//!                                     Deny ◀──────┴─▶ Release(Released)
//! ```
//!
//! Each arrow consumes its left side, so these are facts about types:
//!
//! * **G1** No request leaves unapproved: only [`Outbound`] can be written upstream, only [`Released`] becomes
//!   one, and [`Released`] is made in two places, `classify` (policy allows) and `verify` (signed release).
//! * **G2** What was frozen is what leaves: nothing here or later can change a [`Request`], save for the key.
//! * **G3** No key leaves to the wrong host: a [`Key`] carries its destination and its credential.
//! * **G4** One decision releases one request once: [`Held`] is consumed, and its digest is in the decision.
//! * **G5** Noise neither releases nor kills: a decision that does not verify gives the [`Held`] back.
//!
//! No I/O, no clock, no randomness, no global state: time and nonces are arguments. It returns reasons; it does
//! not log. Read: `request`, `classify`, `hold`, `decision`, `verify`, `release`; `encoding` when in doubt.

mod request;

mod classify;
mod hold;

mod decision;
mod verify;

mod encoding;
mod release;

pub use classify::{Class, Judged, Refusal, Verdict, classify};
pub use decision::{
    Approver, Decision, Malformed, SealedRef, Word, lease_context, seal_context, seal_info,
};
pub use encoding::{Digest, digest, hex};
pub use hold::{Circumstances, Held, Ticket};
pub use release::{Key, Outbound, Released, Sent, SwapError};
pub use request::{
    Destination, HOLE, Injection, Origin, Payload, Rejected, Request, Scheme, Slot,
    VOLATILE_HEADERS,
};
pub use verify::{
    DECISION_TYPE, KeyState, NodeKey, Now, Outcome, Signed, TRUST_TYPE, Trust, Unverified, sign,
    verify,
};
