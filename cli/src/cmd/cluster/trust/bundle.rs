//! A trust bundle in words: who signs, and what would change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use countersign_control_plane::sign::RootKey;
use countersign_gate::{KeyState, NodeKey, Signed, TRUST_TYPE, Trust};
use countersign_proto::v1;
use serde::Serialize;

use crate::failure::Failure;

/// One thing that a new bundle makes different.
pub(in crate::cmd::cluster) enum Change {
    Key {
        node: u64,
        name: String,
        public: [u8; 32],
        from: Option<KeyState>,
        to: Option<KeyState>,
    },
    /// Numbers are left out, as after a restore: edges may know bundles that the backup does not.
    Epoch {
        from: u64,
        to: u64,
    },
    Threshold {
        from: u32,
        to: u32,
    },
}

impl Change {
    /// Whether it lets this node's signature count; more signatures may be demanded for it.
    pub(in crate::cmd::cluster) fn brings_in(&self, node_id: &str) -> bool {
        match self {
            Self::Key { to, .. } => self.is_about(node_id) && to.is_some_and(counts),
            Self::Threshold { from, to } => to >= from,
            Self::Epoch { .. } => false,
        }
    }

    /// Whether a key of this node no longer counts.
    pub(in crate::cmd::cluster) fn takes_away(&self, node_id: &str) -> bool {
        matches!(self, Self::Key { to, .. } if self.is_about(node_id) && !to.is_some_and(counts))
    }

    /// Whether it only drops a key that another one of its node took the place of: that comes along with whatever is
    /// signed next.
    pub(super) fn is_due(&self) -> bool {
        matches!(self, Self::Key { from: Some(KeyState::Retired), to, .. } if !to.is_some_and(counts))
    }

    /// Whether a key of this node counts in another way than before.
    pub(in crate::cmd::cluster) fn is_about(&self, node_id: &str) -> bool {
        matches!(self, Self::Key { node, .. } if u64::from_str_radix(node_id, 16) == Ok(*node))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, name, public, from, to) = match self {
            Self::Epoch { from, to } => {
                return write!(f, "~ it is bundle {to}, and the one in force is {from}");
            }
            Self::Threshold { from, to } => {
                return write!(f, "~ {to} signatures are demanded, not {from}");
            }
            Self::Key { node, name, public, from, to } => (node, name, public, from, to),
        };
        let key = &hex::encode(public)[..16];
        let (before, after) = (from.is_some_and(counts), to.is_some_and(counts));
        match (before, after) {
            (false, true) => write!(f, "+ {name} ({node:016x}) signs with key {key}…"),
            (true, false) => write!(f, "- {name} ({node:016x}) signs no more with key {key}…"),
            _ => write!(
                f,
                "~ {name} ({node:016x}): key {key}… is {}, not {}",
                state_name(*to),
                state_name(*from)
            ),
        }
    }
}

/// What `next` makes different, by node and key.
pub(super) fn changes(
    known: Option<&Trust>,
    next: &Trust,
    names: &BTreeMap<u64, String>,
) -> Vec<Change> {
    let states = |trust: &Trust| -> BTreeMap<(u64, [u8; 32]), KeyState> {
        trust.keys.iter().map(|key| ((key.node, key.public), key.state)).collect()
    };
    let (before, after) = (known.map(states).unwrap_or_default(), states(next));
    let all: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let change = |key: (u64, [u8; 32])| {
        let (from, to) = (before.get(&key).copied(), after.get(&key).copied());
        let (node, public) = key;
        let name = names.get(&node).cloned().unwrap_or_else(|| "?".into());
        (from != to).then_some(Change::Key { node, name, public, from, to })
    };
    let from = known.map_or(0, |known| known.threshold);
    let threshold =
        (from != next.threshold).then_some(Change::Threshold { from, to: next.threshold });
    let from = known.map_or(0, |known| known.epoch);
    let epoch =
        (next.epoch != from.saturating_add(1)).then_some(Change::Epoch { from, to: next.epoch });
    all.into_iter().filter_map(change).chain(threshold).chain(epoch).collect()
}

/// `Active` and `Retired` keys do.
pub(super) fn counts(state: KeyState) -> bool {
    matches!(state, KeyState::Active | KeyState::Retired)
}

/// The nodes whose signatures count.
pub(super) fn signers(trust: &Trust) -> BTreeSet<u64> {
    trust.keys.iter().filter(|key| counts(key.state)).map(|key| key.node).collect()
}

/// What the root key `root` signed.
pub(super) fn read_signed(envelope: &v1::Envelope, root: &[u8; 32]) -> Result<Trust, Failure> {
    let signatures =
        envelope.signatures.iter().filter_map(|s| s.signature.as_ref().try_into().ok());
    let signed = Signed {
        payload_type: envelope.payload_type.clone(),
        payload: envelope.payload.to_vec(),
        signatures: signatures.collect(),
    };
    Trust::accept(&signed, root, None).map_err(|_| {
        Failure::refused(
            "the trust bundle in force is not signed by the root key that the control plane names: trust nothing of it",
        )
    })
}

/// What is proposed, though nobody has signed it. The gate reads nothing that is not signed, so a key made for this
/// moment signs it; what goes out is signed anew.
pub(super) fn read_proposed(proposed: &[u8], known: Option<&Trust>) -> Result<Trust, Failure> {
    let reader = RootKey::generate();
    let signed = reader.sign(proposed.to_vec()).as_type(TRUST_TYPE);
    let not = |why: String| Failure::Refused(format!("nothing was signed: what is proposed {why}"));
    let next = Trust::accept(&signed, &reader.public(), known)
        .map_err(|why| not(format!("is no trust bundle that could follow ({why:?})")))?;
    if known.is_some_and(|known| next.epoch <= known.epoch) {
        return Err(not(format!("has the epoch {} once more", next.epoch)));
    }
    let signers = signers(&next).len();
    if (next.threshold as usize) < signers.div_ceil(2) || next.threshold as usize > signers {
        return Err(not(format!("demands {} signatures of {signers} nodes", next.threshold)));
    }
    Ok(next)
}

/// A bundle for programs.
#[derive(Serialize)]
pub(super) struct Bundle {
    pub(super) epoch: u64,
    pub(super) threshold: u32,
    pub(super) keys: Vec<Key>,
    #[serde(skip)]
    nodes: usize,
}

#[derive(Serialize)]
pub(super) struct Key {
    node_id: String,
    name: Option<String>,
    public_key: String,
    state: &'static str,
}

impl Bundle {
    pub(super) fn new(trust: &Trust, names: &BTreeMap<u64, String>) -> Self {
        let key = |key: &NodeKey| Key {
            node_id: format!("{:016x}", key.node),
            name: names.get(&key.node).cloned(),
            public_key: hex::encode(key.public),
            state: state_name(Some(key.state)),
        };
        Self {
            epoch: trust.epoch,
            threshold: trust.threshold,
            keys: trust.keys.iter().map(key).collect(),
            nodes: signers(trust).len(),
        }
    }

    /// How many nodes' signatures count.
    pub(super) fn nodes(&self) -> usize {
        self.nodes
    }
}

impl Key {
    pub(super) fn row(self) -> Vec<String> {
        let name = self.name.unwrap_or_else(|| "?".into());
        vec![name, self.node_id, self.public_key, self.state.into()]
    }
}

fn state_name(state: Option<KeyState>) -> &'static str {
    match state {
        None => "not in it",
        Some(KeyState::Active) => "active",
        Some(KeyState::Next) => "next",
        Some(KeyState::Retired) => "retired",
        Some(KeyState::Revoked) => "revoked",
    }
}
