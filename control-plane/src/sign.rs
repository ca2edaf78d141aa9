//! Signatures: what a committed claim becomes on its way to an edge, and whom edges trust.
//!
//! A decision is derived from the committed claim and the state, and from nothing else, so that the same claim gives
//! the same decision again after a reconnect. Envelopes are DSSE: what is signed is what is shipped. Keys come out
//! of the vault here and are overwritten when the signer is dropped.

mod certificate;
mod genesis;
mod keys;

use std::path::Path;

use countersign_gate::{Approver, DECISION_TYPE, Decision, SealedRef, TRUST_TYPE, Word};
use countersign_proto::v1;
use ed25519_dalek::SigningKey;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

pub use certificate::{EDGE_CERTIFICATE_DAYS, EdgeCertificate, issue_edge_certificate};
pub use genesis::{Beginning, RootKey, genesis};
pub use keys::SigningKeys;

use crate::cluster::{Cluster, Committed};
use crate::state::{Approval, Event, HeldRequest, KeySignature, SignedBytes, VoteWord};
use crate::vault::{Binding, SealError, Vault};

/// DSSE payload type of an edge bundle (a [`v1::EdgeState`]).
pub const BUNDLE_TYPE: &str = "application/vnd.countersign.edge-bundle.v1";

/// Signs for this node. It has no `Debug`.
pub struct Signer {
    cluster_id: String,
    org_id: String,
    keys: SigningKeys,
    trust: v1::Envelope,
    epoch: u64,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("nothing was signed: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error(
        "nothing was signed: the claim and the request that it is said to release do not belong together"
    )]
    Mismatch,
    #[error(
        "nothing can be signed: the signing keys in {0} cannot be used ({1}); restore that file, or remove this node and add it anew"
    )]
    Keys(String, std::io::Error),
    #[error("nothing can be signed: this cluster has not begun yet")]
    NotBegun,
    #[error(
        "the certificate request was not signed: it is not PKCS #10 in PEM with a valid signature of its own key"
    )]
    Request,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("nothing can be signed: the state cannot be read now; try again")]
    Unavailable,
}

impl Signer {
    /// Takes this node's keys out of its own file, and the trust bundle from the state.
    ///
    /// # Errors
    /// [`SignError::NotBegun`], [`SignError::Keys`], or what the vault says.
    pub async fn open(cluster: &Cluster, dir: &Path, vault: &Vault) -> Result<Self, SignError> {
        let read = cluster.read(|state| {
            let genesis = state.genesis()?;
            let (cluster_id, org_id) = (genesis.cluster_id.clone(), genesis.org_id.clone());
            Some((cluster_id, org_id, state.trust_bundles().last().cloned()?, state.trust()?.epoch))
        });
        let read = read.await.map_err(|_| SignError::Unavailable)?;
        let (cluster_id, org_id, trust, epoch) = read.ok_or(SignError::NotBegun)?;
        let keys = SigningKeys::open_or_make(dir, vault)?;
        Ok(Self { cluster_id, org_id, keys, trust: to_envelope(TRUST_TYPE, trust), epoch })
    }

    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub fn org_id(&self) -> &str {
        &self.org_id
    }

    /// The signed release that a committed claim is. `held` and `approval` are the claim's, read after it was applied;
    /// `sealed` are the keys that go with it, in the plan's order.
    ///
    /// # Errors
    /// [`SignError::Mismatch`] for an event that is no claim, or another request's.
    pub fn decision(
        &self,
        claimed: &Committed<Event>,
        held: &HeldRequest,
        approval: Option<&Approval>,
        sealed: Vec<SealedRef>,
    ) -> Result<v1::Envelope, SignError> {
        let decision = release(&self.cluster_id, self.epoch, claimed, held, approval, sealed)
            .ok_or(SignError::Mismatch)?;
        Ok(self.envelope(DECISION_TYPE, decision.encode()))
    }

    /// Whom edges trust, signed by the root key that they pinned.
    pub fn trust_bundle(&self) -> v1::Envelope {
        self.trust.clone()
    }

    /// Everything that an edge decides with.
    pub fn edge_bundle(&self, state: &v1::EdgeState) -> v1::Envelope {
        self.envelope(BUNDLE_TYPE, state.encode_to_vec())
    }

    fn envelope(&self, payload_type: &str, payload: Vec<u8>) -> v1::Envelope {
        let signatures = self.keys.iter().map(|key| signature(key, payload_type, &payload));
        to_envelope(payload_type, SignedBytes { signatures: signatures.collect(), payload })
    }
}

/// Claim and state to decision; `None` when they are not about the same request.
fn release(
    cluster_id: &str,
    epoch: u64,
    event: &Event,
    held: &HeldRequest,
    approval: Option<&Approval>,
    sealed: Vec<SealedRef>,
) -> Option<Decision> {
    let Event::Claimed { request_id, approval: approval_id, claim } = event else { return None };
    let same = held.request_id == *request_id
        && held.claim.as_ref() == Some(claim)
        && held.approval == *approval_id
        && approval.map(|a| a.id) == *approval_id
        && approval.is_none_or(|a| a.claim.as_ref() == Some(claim))
        && held
            .credentials
            .iter()
            .map(|(id, version)| (id, *version))
            .eq(sealed.iter().map(|s| (&s.credential, s.version)));
    if !same {
        return None;
    }
    let approvers = approval.iter().flat_map(|approval| &approval.votes);
    let approvers = approvers.filter(|vote| vote.word == VoteWord::Approve && !vote.withdrawn);
    let approvers = approvers.map(|vote| Approver {
        principal: vote.principal.clone(),
        channel: vote.channel.clone(),
        at_ms: vote.at,
    });
    Some(Decision {
        cluster: cluster_id.to_owned(),
        decision_id: claim.decision_id,
        word: Word::Release,
        approval_id: approval_id.map(|id| id.0),
        request_id: *request_id,
        request_digest: held.request_digest,
        intent_digest: held.intent_digest,
        edge: claim.edge.clone(),
        incarnation: claim.incarnation,
        term: claim.position.term,
        index: claim.position.index,
        policy_version: claim.policy_version,
        approvers: approvers.collect(),
        not_before_ms: claim.at,
        expires_ms: claim.expires_at,
        sealed,
        epoch,
    })
}

fn to_envelope(payload_type: &str, signed: SignedBytes) -> v1::Envelope {
    let signatures = signed.signatures.into_iter().map(|KeySignature { key_id, signature }| {
        v1::Signature { key_id: key_id.into(), signature: signature.into() }
    });
    v1::Envelope {
        payload_type: payload_type.to_owned(),
        signatures: signatures.collect(),
        payload: signed.payload.into(),
    }
}

fn signed_bytes(key: &SigningKey, payload_type: &str, payload: Vec<u8>) -> SignedBytes {
    SignedBytes { signatures: vec![signature(key, payload_type, &payload)], payload }
}

fn signature(key: &SigningKey, payload_type: &str, payload: &[u8]) -> KeySignature {
    KeySignature {
        key_id: key_id(&key.verifying_key().to_bytes()).to_vec(),
        signature: countersign_gate::sign(key, payload_type, payload).to_vec(),
    }
}

/// First 8 bytes of SHA-256 of the SubjectPublicKeyInfo (RFC 8410 §4). A hint: nobody relies on it.
fn key_id(public: &[u8; 32]) -> [u8; 8] {
    const PREFIX: [u8; 12] =
        [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let digest: [u8; 32] =
        Sha256::new().chain_update(PREFIX).chain_update(public).finalize().into();
    let mut id = [0; 8];
    id.copy_from_slice(&digest[..8]);
    id
}

fn edge_ca_key(cluster_id: &str) -> Binding {
    Binding::key(cluster_id, "edge-ca-key", cluster_id)
}

fn node_ca_key(cluster_id: &str) -> Binding {
    Binding::key(cluster_id, "node-ca-key", cluster_id)
}

fn api_ca_key(cluster_id: &str) -> Binding {
    Binding::key(cluster_id, "api-ca-key", cluster_id)
}
