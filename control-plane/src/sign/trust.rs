//! The trust bundle in force, verified once.

use std::sync::{Arc, Mutex, PoisonError};

use countersign_gate::{KeyState, NodeKey, Signed, TRUST_TYPE, Trust};
use countersign_proto::v1;

use super::to_envelope;
use crate::state::State;

/// Whose signatures count now, and the bundle that edges are told so by.
pub(super) struct InForce {
    /// Without the keys of nodes that were removed since.
    pub(super) trust: Trust,
    pub(super) envelope: v1::Envelope,
}

impl InForce {
    /// Which key of the node made this signature, if it is one that edges count.
    pub(super) fn signer(
        &self,
        node: u64,
        payload_type: &str,
        payload: &[u8],
        signature: &[u8],
    ) -> Option<[u8; 32]> {
        let signed = Signed {
            payload_type: payload_type.to_owned(),
            payload: payload.to_vec(),
            signatures: vec![signature.try_into().ok()?],
        };
        let own = self.trust.keys.iter().filter(|key| key.node == node);
        let mut one_each =
            own.map(|key| Trust { threshold: 1, keys: vec![key.clone()], ..self.trust.clone() });
        let made = one_each.find(|alone| alone.check(&signed, payload_type).is_ok())?;
        made.keys.first().map(|key| key.public)
    }

    /// Nodes of which at least one key counts.
    pub(super) fn signers(&self) -> Vec<u64> {
        let mut nodes: Vec<_> =
            self.trust.keys.iter().filter(|key| is_live(key)).map(|key| key.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Whether edges count this key of the node.
    pub(super) fn counts_key(&self, node: u64, public: &[u8; 32]) -> bool {
        self.trust.keys.iter().any(|key| is_live(key) && key.node == node && key.public == *public)
    }

    /// What it says of this key of the node, if anything.
    pub(super) fn names_key(&self, node: u64, public: &[u8; 32]) -> Option<KeyState> {
        let mut keys = self.trust.keys.iter();
        keys.find(|key| key.node == node && key.public == *public).map(|key| key.state)
    }
}

fn is_live(key: &NodeKey) -> bool {
    matches!(key.state, KeyState::Active | KeyState::Retired)
}

/// Keeps what was verified, as long as neither a newer bundle nor the removal of a node was committed.
#[derive(Default)]
pub(super) struct Trusted {
    newest: Mutex<Option<(usize, usize, Arc<InForce>)>>,
}

impl Trusted {
    /// None before the cluster began.
    pub(super) fn in_force(&self, state: &State) -> Option<Arc<InForce>> {
        let bundles = state.trust_bundles();
        let removed = state.nodes().filter(|node| node.removed).count();
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, gone, known)) = &*newest
            && (*count, *gone) == (bundles.len(), removed)
        {
            return Some(Arc::clone(known));
        }
        let envelope = to_envelope(TRUST_TYPE, bundles.last()?.clone());
        let in_force = Arc::new(InForce { trust: state.signers()?, envelope });
        *newest = Some((bundles.len(), removed, Arc::clone(&in_force)));
        Some(in_force)
    }
}
