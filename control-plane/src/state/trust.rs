//! Whose signatures count: the trust bundles that the holder of the root key signed, and the seal that all nodes share.

use std::collections::BTreeSet;

use countersign_gate::{KeyState, NodeKey, Signed, TRUST_TYPE, Trust, Unverified};
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::audit::Entry;
use super::name::{REASON_BYTES, clipped, joined};
use super::node::{node_name, signing_nodes};
use super::{Actor, Done, Event, Refused, Role, State};

/// A payload and who signed it, as it is shipped to edges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBytes {
    pub payload: Vec<u8>,
    pub signatures: Vec<KeySignature>,
}

/// One signature; the key id is a hint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySignature {
    pub key_id: Vec<u8>,
    /// 64 bytes; one of any other length counts for nothing.
    pub signature: Vec<u8>,
}

impl SignedBytes {
    /// As the gate reads it.
    pub fn as_type(&self, payload_type: &str) -> Signed {
        let signatures =
            self.signatures.iter().filter_map(|s| s.signature.as_slice().try_into().ok());
        Signed {
            payload_type: payload_type.to_owned(),
            payload: self.payload.clone(),
            signatures: signatures.collect(),
        }
    }
}

impl State {
    /// The trust bundle in force: what edges demand of a signature. None before the cluster began.
    pub fn trust(&self) -> Option<Trust> {
        let root = &self.genesis()?.root_public_key;
        Trust::accept(&self.trust_bundles.last()?.as_type(TRUST_TYPE), root, None).ok()
    }

    /// The bundle in force without the keys of nodes that were removed since: what nodes count among themselves.
    /// Whatever satisfies it satisfies edges too.
    pub fn signers(&self) -> Option<Trust> {
        let mut trust = self.trust()?;
        trust.keys.retain(|key| self.nodes.get(&key.node).is_some_and(|node| !node.removed));
        Some(trust)
    }

    /// Every trust bundle that was ever in force, oldest first.
    pub fn trust_bundles(&self) -> &[SignedBytes] {
        &self.trust_bundles
    }

    /// The epoch that the next bundle must have.
    pub fn next_trust_epoch(&self) -> u64 {
        let next = self.trust().map_or(1, |trust| trust.epoch.saturating_add(1));
        next.max(self.least_trust_epoch)
    }

    /// The bundle that the members call for, for the holder of the root key to sign: each with its newest key, and
    /// with the one before it retired if edges count that one now. A key that is retired already is left out, so
    /// after a key was changed there are two bundles to sign, some minutes apart. None when nothing is to change.
    pub fn next_trust(&self) -> Option<Trust> {
        let current = self.trust()?;
        let state = |public: &[u8; 32]| {
            current.keys.iter().find(|key| key.public == *public).map(|key| key.state)
        };
        let mut keys = Vec::new();
        for node in self.nodes.values().filter(|node| !node.removed) {
            let Some((newest, former)) = node.public_keys.split_last() else { continue };
            let key = |public: &[u8; 32], state| NodeKey { node: node.id, public: *public, state };
            let counted = former.iter().filter(|public| state(public) == Some(KeyState::Active));
            keys.extend(counted.map(|public| key(public, KeyState::Retired)));
            // What was revoked stays so, until its node makes itself another key.
            let revoked = state(newest) == Some(KeyState::Revoked);
            keys.push(key(newest, if revoked { KeyState::Revoked } else { KeyState::Active }));
        }
        let mut next = Trust {
            cluster: current.cluster.clone(),
            epoch: self.next_trust_epoch(),
            threshold: current.threshold,
            keys,
        };
        next.threshold = next.threshold.max(half(signing_nodes(&next).count()));
        let same = next.threshold == current.threshold
            && next.keys.len() == current.keys.len()
            && next.keys.iter().all(|key| current.keys.contains(key));
        (!same).then_some(next)
    }

    /// `seal.json` as every node keeps it: wrapped keys only. Empty before the cluster began.
    pub fn seal_file(&self) -> &[u8] {
        &self.seal_file
    }

    /// The one in force again changes nothing. No bundle is taken that edges would refuse, that counts a key which
    /// is no node's, or under which fewer than half of its nodes could sign, or not enough.
    pub(super) fn set_trust(
        &mut self,
        actor: &Actor,
        signed: &SignedBytes,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let not = |why: String| Refused::Invalid(format!("the trust bundle was not taken: {why}"));
        let root = self.genesis().map(|genesis| genesis.root_public_key).unwrap_or_default();
        let known = self.trust();
        let trust = Trust::accept(&signed.as_type(TRUST_TYPE), &root, known.as_ref())
            .map_err(|why| not(unacceptable(&why).into()))?;
        let epoch = trust.epoch;
        if self.trust_bundles.last().is_some_and(|last| last.payload == signed.payload) {
            return Ok(Done::unchanged(Event::TrustChanged { epoch }));
        }
        let next = self.next_trust_epoch();
        if epoch != next {
            return Err(Refused::Precondition(format!(
                "the trust bundle was not taken: its epoch is {epoch}, and the next one is {next}; sign the one that is proposed now"
            )));
        }
        if self.genesis().is_none_or(|genesis| genesis.cluster_id != trust.cluster) {
            return Err(not("it is of another cluster".into()));
        }
        check_keys(&trust, |node, public| {
            self.nodes.get(&node).is_some_and(|n| !n.removed && n.public_keys.contains(public))
        })
        .map_err(not)?;
        self.trust_bundles.push(signed.clone());
        let entry = describe(Entry::new("trust.set", epoch), &trust, signed);
        Ok(Done::changed(Event::TrustChanged { epoch }, entry))
    }

    /// A new seal file, made and verified by the node that proposes it: `what` is "rekey" or "rotate". The one in
    /// force again changes nothing.
    pub(super) fn set_seal(
        &mut self,
        actor: &Actor,
        seal_file: &[u8],
        former_sha256: &[u8; 32],
        what: &str,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        if self.seal_file == seal_file {
            return Ok(Done::unchanged(Event::SealChanged));
        }
        let former: [u8; 32] = Sha256::digest(&self.seal_file).into();
        if former != *former_sha256 {
            return Err(Refused::Precondition(
                "the seal was not changed: somebody else changed it meanwhile; begin again".into(),
            ));
        }
        self.seal_file = seal_file.to_vec();
        let entry = Entry::new("seal.change", clipped(what, REASON_BYTES))
            .with("sha256", hex::encode(Sha256::digest(seal_file)));
        Ok(Done::changed(Event::SealChanged, entry))
    }
}

/// How many of so many nodes sign: half, rounded up.
fn half(nodes: usize) -> u32 {
    nodes.div_ceil(2).try_into().unwrap_or(u32::MAX)
}

/// What is wrong with a bundle's keys, in words that follow "the trust bundle was not taken: ".
pub(super) fn check_keys(
    trust: &Trust,
    is_of_node: impl Fn(u64, &[u8; 32]) -> bool,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for key in &trust.keys {
        let node = node_name(key.node);
        if !seen.insert(key.public) {
            return Err(format!("it names a key of node {node} twice"));
        }
        if key.state == KeyState::Revoked {
            continue;
        }
        if !is_of_node(key.node, &key.public) {
            return Err(format!("it trusts a key of node {node} that this cluster does not know"));
        }
        if !VerifyingKey::from_bytes(&key.public).is_ok_and(|key| !key.is_weak()) {
            return Err(format!("nothing can be signed with its key of node {node}"));
        }
    }
    let signing = signing_nodes(trust).count();
    if signing < trust.threshold as usize {
        return Err(format!(
            "{} nodes are to sign, and it counts the keys of {signing}; add nodes until there are enough",
            trust.threshold
        ));
    }
    if trust.threshold < half(signing) {
        return Err(format!(
            "{} of {signing} nodes are to sign, which is fewer than half; sign the one that is proposed",
            trust.threshold
        ));
    }
    Ok(())
}

/// What a record says of a bundle; its digest ties an exported bundle to the chain.
pub(super) fn describe(entry: Entry, trust: &Trust, signed: &SignedBytes) -> Entry {
    entry
        .with("epoch", trust.epoch)
        .with("threshold", trust.threshold)
        .with("nodes", joined(signing_nodes(trust).map(node_name)))
        .with("sha256", hex::encode(Sha256::digest(&signed.payload)))
}

fn unacceptable(why: &Unverified) -> &'static str {
    match why {
        Unverified::Downgrade => {
            "its epoch or its threshold is lower than that of the one in force, or it is of another cluster"
        }
        Unverified::Signatures { .. } => "it is not signed with this cluster's root key",
        _ => "it is no trust bundle; sign the one that is proposed",
    }
}
