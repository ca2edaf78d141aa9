//! Whose signatures count: the trust bundles that the holder of the root key signed, and the seal that all nodes share.

use countersign_gate::{KeyState, Signed, TRUST_TYPE, Trust};
use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::name::joined;
use super::node::node_name;
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
    /// The trust bundle in force; none before the cluster began.
    pub fn trust(&self) -> Option<Trust> {
        let root = &self.genesis()?.root_public_key;
        Trust::accept(&self.trust_bundles.last()?.as_type(TRUST_TYPE), root, None).ok()
    }

    /// Every trust bundle that was ever in force, oldest first.
    pub fn trust_bundles(&self) -> &[SignedBytes] {
        &self.trust_bundles
    }

    /// `seal.json` as every node keeps it: wrapped keys only. Empty before the cluster began.
    pub fn seal_file(&self) -> &[u8] {
        &self.seal_file
    }

    pub(super) fn set_trust(
        &mut self,
        actor: &Actor,
        signed: &SignedBytes,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let not = |why: String| Refused::Invalid(format!("the trust bundle was not taken: {why}"));
        let root = self.genesis().map(|genesis| genesis.root_public_key).unwrap_or_default();
        let known = self.trust();
        let trust =
            Trust::accept(&signed.as_type(TRUST_TYPE), &root, known.as_ref()).map_err(|why| {
                not(format!("{why:?}; sign the one that `cluster trust` shows, with the root key"))
            })?;
        let next = known.map_or(1, |known| known.epoch + 1);
        if trust.epoch != next {
            return Err(Refused::Precondition(format!(
                "the trust bundle was not taken: its epoch is {}, and the next one is {next}; sign the one that is proposed now",
                trust.epoch
            )));
        }
        if self.genesis().is_none_or(|genesis| genesis.cluster_id != trust.cluster) {
            return Err(not("it is of another cluster".into()));
        }
        let live = |state: KeyState| matches!(state, KeyState::Active | KeyState::Retired);
        let stranger = trust.keys.iter().find(|key| {
            live(key.state)
                && !self
                    .nodes
                    .get(&key.node)
                    .is_some_and(|node| !node.removed && node.public_keys.contains(&key.public))
        });
        if let Some(key) = stranger {
            return Err(not(format!(
                "it trusts a key of node {} that this cluster does not know",
                node_name(key.node)
            )));
        }
        let mut signers: Vec<_> =
            trust.keys.iter().filter(|key| live(key.state)).map(|key| key.node).collect();
        signers.sort_unstable();
        signers.dedup();
        if (signers.len() as u64) < u64::from(trust.threshold) {
            return Err(not(format!(
                "{} signatures are to be demanded of {} nodes",
                trust.threshold,
                signers.len()
            )));
        }
        self.trust_bundles.push(signed.clone());
        let entry = Entry::new("trust.set", trust.epoch)
            .with("threshold", trust.threshold)
            .with("nodes", joined(signers.into_iter().map(node_name)));
        Ok(Done::changed(Event::TrustChanged { epoch: trust.epoch }, entry))
    }

    /// A new seal file, made and verified by the node that proposes it: `what` is "rekey" or "rotate".
    pub(super) fn set_seal(
        &mut self,
        actor: &Actor,
        seal_file: &[u8],
        former_sha256: &[u8; 32],
        what: &str,
    ) -> Result<Done, Refused> {
        use sha2::{Digest as _, Sha256};
        self.demand_role(actor, &[Role::Admin])?;
        let former: [u8; 32] = Sha256::digest(&self.seal_file).into();
        if former != *former_sha256 {
            return Err(Refused::Precondition(
                "the seal was not changed: somebody else changed it meanwhile; begin again".into(),
            ));
        }
        self.seal_file = seal_file.to_vec();
        let entry =
            Entry::new("seal.change", what).with("sha256", hex::encode(Sha256::digest(seal_file)));
        Ok(Done::changed(Event::SealChanged, entry))
    }
}
