//! Held and a signed decision to what happens: signatures and threshold, then ticket, then time.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::decision::{Decision, Malformed, SealedRef, Word};
use crate::encoding::{Reader, Writer, list};
use crate::hold::{Circumstances, Held};
use crate::release::Released;

/// DSSE payload types: bytes signed as one of these are never taken for another.
pub const DECISION_TYPE: &str = "application/vnd.countersign.release-decision.v1";
pub const TRUST_TYPE: &str = "application/vnd.countersign.trust-bundle.v1";

/// A DSSE envelope. The key ids are hints and carry no weight: every signature is tried with every key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub payload_type: String,
    pub payload: Vec<u8>,
    pub signatures: Vec<[u8; 64]>,
}

/// One signature over DSSE's pre-authentication encoding (v1.0.2) of a payload.
pub fn sign(key: &SigningKey, payload_type: &str, payload: &[u8]) -> [u8; 64] {
    key.sign(&pre_authentication(payload_type, payload)).to_bytes()
}

fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out =
        format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend(payload);
    out
}

/// A node's signing key, as the trust bundle lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeKey {
    pub node: u64,
    pub public: [u8; 32],
    pub state: KeyState,
}

/// `Next` keys do not count yet, `Revoked` ones no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    Active,
    Next,
    Retired,
    Revoked,
}

/// Whose signatures count, and how many it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    pub cluster: String,
    pub epoch: u64,
    pub threshold: u32,
    pub keys: Vec<NodeKey>,
}

impl Trust {
    pub fn encode(&self) -> Vec<u8> {
        let key = |k: &NodeKey| {
            Writer::new(11).number(1, k.node).field(2, k.public).field(3, [k.state as u8]).finish()
        };
        Writer::new(10)
            .field(1, &self.cluster)
            .number(2, self.epoch)
            .number(3, u64::from(self.threshold))
            .field(4, list(self.keys.iter().map(key)))
            .finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let key = |bytes: &[u8]| {
            let mut r = Reader::new(bytes, 11)?;
            let node = r.number(1)?;
            let public = r.array(2)?;
            let state = match r.array(3)? {
                [0] => KeyState::Active,
                [1] => KeyState::Next,
                [2] => KeyState::Retired,
                [3] => KeyState::Revoked,
                _ => return None,
            };
            r.end(NodeKey { node, public, state })
        };
        let mut r = Reader::new(bytes, 10)?;
        let trust = Self {
            cluster: r.text(1)?,
            epoch: r.number(2)?,
            threshold: r.number(3)?.try_into().ok()?,
            keys: r.list(4, key)?,
        };
        r.end(trust)
    }

    /// Reads a bundle signed by the cluster's root key. `known` is the one in force, if any: epoch and threshold
    /// never go down, and the cluster never changes.
    ///
    /// # Errors
    /// Says what is wrong with it; the one in force stays.
    pub fn accept(
        signed: &Signed,
        root: &[u8; 32],
        known: Option<&Self>,
    ) -> Result<Self, Unverified> {
        if signed.payload_type != TRUST_TYPE {
            return Err(Unverified::Type);
        }
        if count(signed, [(0, root)].into_iter()) < 1 {
            return Err(Unverified::Signatures { valid: 0, needed: 1 });
        }
        let trust = Self::decode(&signed.payload).ok_or(Unverified::Malformed(Malformed))?;
        let lower = |known: &Self| {
            trust.cluster != known.cluster
                || trust.epoch < known.epoch
                || trust.threshold < known.threshold
        };
        if trust.threshold == 0 || known.is_some_and(lower) {
            return Err(Unverified::Downgrade);
        }
        Ok(trust)
    }

    /// Whether enough nodes signed this payload as this type. The payload may be read if so, and only then.
    ///
    /// # Errors
    /// [`Unverified::Type`] or [`Unverified::Signatures`].
    pub fn check(&self, signed: &Signed, payload_type: &str) -> Result<(), Unverified> {
        if signed.payload_type != payload_type {
            return Err(Unverified::Type);
        }
        let live = |key: &&NodeKey| matches!(key.state, KeyState::Active | KeyState::Retired);
        let valid = count(signed, self.keys.iter().filter(live).map(|k| (k.node, &k.public)));
        if valid < self.threshold.max(1) {
            return Err(Unverified::Signatures { valid, needed: self.threshold.max(1) });
        }
        Ok(())
    }
}

/// How many distinct nodes made one of the signatures, however many keys each has. `verify_strict` refuses low-order
/// keys and points that are not canonical (RFC 8032 §5.1.7, and stricter), so that one key cannot count as two.
fn count<'a>(signed: &Signed, keys: impl Iterator<Item = (u64, &'a [u8; 32])>) -> u32 {
    let message = pre_authentication(&signed.payload_type, &signed.payload);
    let (mut nodes, mut used): (Vec<u64>, Vec<&[u8; 32]>) = (Vec::new(), Vec::new());
    for (node, public) in keys {
        let Ok(key) = VerifyingKey::from_bytes(public) else { continue };
        let made = |signature: &[u8; 64]| {
            key.verify_strict(&message, &Signature::from_bytes(signature)).is_ok()
        };
        if !nodes.contains(&node) && !used.contains(&public) && signed.signatures.iter().any(made) {
            nodes.push(node);
            used.push(public);
        }
    }
    nodes.len() as u32
}

/// Readings of two clocks, milliseconds. The boot-time one decides; the wall clock only narrows.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub boottime_ms: u64,
    pub wall_ms: u64,
}

/// What a decision does to a held request.
#[derive(Debug)]
pub enum Outcome {
    /// A verified no. The request is gone.
    Deny(Word),
    /// Not a decision about this request by those who may decide: it is still held.
    Ignore(Held, Unverified),
    Release(Released),
}

/// Why bytes are not a decision about this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unverified {
    Downgrade,
    Expired,
    Malformed(Malformed),
    /// Another request, edge, incarnation or cluster.
    Mismatch,
    Signatures {
        valid: u32,
        needed: u32,
    },
    Type,
}

/// How far the edge's wall clock may be off the log's (milliseconds).
const SKEW_MS: u64 = 60_000;

/// Consumes the held request if the decision is about it and counts; gives it back otherwise (G4, G5).
pub fn verify(held: Held, signed: &Signed, trust: &Trust, now: Now) -> Outcome {
    match check(&held, signed, trust, now) {
        Ok(decision) if decision.word == Word::Release => {
            let Decision { approval_id, decision_id, sealed, .. } = decision;
            Outcome::Release(Released::by_decision(
                held.request,
                held.ticket,
                approval_id,
                decision_id,
                sealed,
            ))
        }
        Ok(decision) => Outcome::Deny(decision.word),
        Err(reason) => Outcome::Ignore(held, reason),
    }
}

fn check(held: &Held, signed: &Signed, trust: &Trust, now: Now) -> Result<Decision, Unverified> {
    trust.check(signed, DECISION_TYPE)?;
    let decision = Decision::decode(&signed.payload).map_err(Unverified::Malformed)?;

    let Circumstances { request_id, edge, incarnation, .. } = &held.ticket.circumstances;
    let ours = decision.cluster == trust.cluster
        && decision.cluster == held.request.origin.cluster
        && decision.request_id == *request_id
        && decision.edge == *edge
        && decision.incarnation == *incarnation
        && decision.request_digest == held.ticket.request_digest
        && decision.intent_digest == held.ticket.intent_digest;
    if !ours {
        return Err(Unverified::Mismatch);
    }
    let keys_match = |plan: &[crate::Injection], sealed: &[SealedRef]| {
        plan.iter()
            .map(|i| (&i.credential, i.version))
            .eq(sealed.iter().map(|s| (&s.credential, s.version)))
    };
    if decision.word == Word::Release && !keys_match(&held.request.injections, &decision.sealed) {
        return Err(Unverified::Mismatch);
    }

    let late = now.boottime_ms >= held.deadline
        || now.wall_ms > decision.expires_ms.saturating_add(SKEW_MS);
    let early = now.wall_ms.saturating_add(SKEW_MS) < decision.not_before_ms;
    if decision.word == Word::Release && (late || early) {
        return Err(Unverified::Expired);
    }
    Ok(decision)
}
