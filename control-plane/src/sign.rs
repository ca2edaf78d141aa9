//! Signatures: what a committed claim becomes on its way to an edge, and whom edges trust.
//!
//! ```text
//! state ─ decision | bundle | checkpoint ─▶ Draft ─ gather ─┬─ this node's Witness ─┬─▶ envelope of k signatures
//!                                                           └─ ask ─▶ the others' ──┘
//! ```
//!
//! Whatever is signed is derived from the state, and from nothing else: so each node can derive it for itself before it
//! signs, and the same claim gives the same decision again after a reconnect. Envelopes are DSSE: what is signed is
//! what is shipped. A node's keys are its own; they are overwritten when the witness is dropped.

mod gather;
mod witness;

mod trust;

mod bundle;
mod bundles;
mod checkpoints;
mod decision;

mod certificate;
mod genesis;
mod keys;

mod policies;
mod slot;

use std::sync::Arc;

use bytes::Bytes;
use countersign_gate::{DECISION_TYPE, SealedRef};
use countersign_policy::Policy;
use countersign_proto::v1;
use countersign_proto::v1::co_sign_request::Subject;
use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use bundle::leasable;
pub use bundles::SignedBundle;
pub use certificate::{
    EDGE_CERTIFICATE_DAYS, EdgeCertificate, NODE_CERTIFICATE_DAYS, edge_ca_rotation,
    issue_edge_certificate, issue_node_certificate, issue_server_certificate, node_dns_name,
    requested_key_sha256, shown_ca_rotation,
};
pub use decision::NoDecision;
pub use genesis::{Beginning, RootKey, genesis};
pub use keys::SigningKeys;
pub(crate) use slot::Place;
pub use witness::{CoSigner, Witness};

use crate::cluster::{Committed, ProposeError};
use crate::state::{Actor, Audience, Event, KeySignature, SignedBytes, State};
use crate::vault::{Binding, SealError};
use gather::{Draft, gather};

/// DSSE payload type of an edge bundle (a [`v1::EdgeState`]).
pub const BUNDLE_TYPE: &str = "application/vnd.countersign.edge-bundle.v1";

/// Gathers the signatures of a quorum, for this node's edges and for the audit log.
pub struct Signer {
    witness: Arc<Witness>,
    cluster_id: String,
    org_id: String,
    bundles: watch::Receiver<Option<Arc<SignedBundle>>>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("nothing was signed: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error(
        "nothing can be signed: the signing keys in {0} cannot be used ({1}); restore that file, or remove this node and add it anew"
    )]
    Keys(String, std::io::Error),
    #[error("no decision was signed: {0}")]
    NoDecision(#[from] NoDecision),
    #[error("nothing can be signed: this cluster has not begun yet")]
    NotBegun,
    #[error("nothing was committed: {0}")]
    Proposal(#[from] ProposeError),
    #[error(
        "nothing was signed: {signed} of the {needed} nodes that it takes did so ({why}); it is tried again"
    )]
    Quorum { signed: usize, needed: u32, why: String },
    #[error(
        "the certificate request was not signed: it is not PKCS #10 in PEM with a valid signature of its own key"
    )]
    Request,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(
        "no key was made: the cluster knows none of the signing keys that this node has; remove this node and add it anew"
    )]
    Stranger,
    #[error("nothing can be signed: the state cannot be read now; try again")]
    Unavailable,
    #[error("the request was not signed: {0}")]
    UnsignedRequest(&'static str),
}

impl Signer {
    /// For a cluster that has begun. From here on, the newest bundle for edges is kept signed, and, while this node
    /// leads, the audit log is signed now and then; until the signer is closed or dropped.
    ///
    /// # Errors
    /// [`SignError::NotBegun`] or [`SignError::Unavailable`].
    pub async fn open(witness: Arc<Witness>) -> Result<Self, SignError> {
        let read = witness.cluster.read(|state| {
            state.genesis().map(|genesis| (genesis.cluster_id.clone(), genesis.org_id.clone()))
        });
        let read = read.await.map_err(|_| SignError::Unavailable)?;
        let (cluster_id, org_id) = read.ok_or(SignError::NotBegun)?;
        let stop = CancellationToken::new();
        let bundles = bundles::keep_signed(Arc::clone(&witness), stop.clone());
        checkpoints::keep_signed(Arc::clone(&witness), stop.clone());
        let _stop_when_dropped = stop.clone().drop_guard();
        Ok(Self { witness, cluster_id, org_id, bundles, stop, _stop_when_dropped })
    }

    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub fn org_id(&self) -> &str {
        &self.org_id
    }

    /// The signed release that a committed claim is, and the epoch of the trust bundle under which it is one; `sealed`
    /// are the keys that go with it, in the plan's order.
    ///
    /// # Errors
    /// [`SignError::NoDecision`] for an event that is no claim, or one that nobody may act on any more;
    /// [`SignError::Quorum`] when too few nodes signed within two seconds.
    pub async fn decision(
        &self,
        claimed: &Committed<Event>,
        sealed: Vec<SealedRef>,
    ) -> Result<(u64, v1::Envelope), SignError> {
        let Event::Claimed { request_id, claim, .. } = &**claimed else {
            return Err(NoDecision::NotClaimed.into());
        };
        let draft = |in_force: &trust::InForce| {
            let (epoch, now) = (in_force.trust.epoch, self.witness.cluster.log_time());
            let derived = self
                .witness
                .cluster
                .peek(|state| decision::of_claim(state, request_id, sealed.clone(), epoch, now))?;
            if derived.decision_id != claim.decision_id {
                return Err(NoDecision::Mismatch.into());
            }
            Ok(Draft {
                index: claim.position.index,
                payload_type: DECISION_TYPE,
                payload: derived.encode(),
                subject: Subject::RequestId(Bytes::copy_from_slice(request_id)),
            })
        };
        let gathered = gather(&self.witness, draft).await?;
        Ok((gathered.epoch, gathered.envelope))
    }

    /// What edges decide with, signed: as new as the state is here now, or newer. All sessions of this node share it.
    ///
    /// # Errors
    /// [`SignError::Unavailable`] when too few nodes signed it within two seconds.
    pub async fn edge_bundle(&self) -> Result<Arc<SignedBundle>, SignError> {
        let revision = self.witness.cluster.peek(State::bundle_revision);
        let epoch = self.witness.in_force().map_or(0, |in_force| in_force.trust.epoch);
        bundles::wait_for(self.bundles.clone(), revision, epoch).await
    }

    /// The newest signed bundle, and every one to come.
    pub fn bundles(&self) -> watch::Receiver<Option<Arc<SignedBundle>>> {
        self.bundles.clone()
    }

    /// Has the audit log signed as far as it goes now, and commits that; gives the index of the last record that a
    /// quorum signed. On an empty log it is 0.
    ///
    /// # Errors
    /// [`SignError::Quorum`], or why the checkpoint was perhaps not committed.
    pub async fn checkpoint_now(&self) -> Result<u64, SignError> {
        checkpoints::checkpoint(&self.witness).await
    }

    /// Whom edges trust, signed by the root key that they pinned, and its epoch. None before the cluster began.
    pub fn trust_bundle(&self) -> Option<(u64, v1::Envelope)> {
        let in_force = self.witness.in_force()?;
        Some((in_force.trust.epoch, in_force.envelope.clone()))
    }

    /// The policy in force, compiled once per version.
    pub(crate) fn policy_in_force(&self) -> (u64, Arc<Policy>) {
        self.witness.policy_in_force()
    }

    /// Makes this node another signing key and gives its public half, which counts once a trust bundle names it. The
    /// former one is kept until no trust bundle does. A rotation that is under way is gone on with.
    ///
    /// # Errors
    /// [`SignError::Keys`], or why the key was perhaps not committed: rotating again goes on from there.
    pub async fn rotate(&self, actor: Actor) -> Result<[u8; 32], SignError> {
        self.witness.rotate(actor).await
    }

    /// Signs no more by itself.
    pub fn close(&self) {
        self.stop.cancel();
    }
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
    let signature = KeySignature {
        key_id: key_id(&key.verifying_key().to_bytes()).to_vec(),
        signature: countersign_gate::sign(key, payload_type, &payload).to_vec(),
    };
    SignedBytes { signatures: vec![signature], payload }
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

fn edge_ca_key(cluster_id: &str, number: u64) -> Binding {
    Binding::key(cluster_id, "edge-ca-key", &number.to_string())
}

fn shown_ca_key(cluster_id: &str, to: Audience, number: u64) -> Binding {
    let kind = match to {
        Audience::Clients => "api-ca-key",
        Audience::Nodes => "node-ca-key",
    };
    match number {
        // As clusters keep it that began before there could be another.
        1 => Binding::key(cluster_id, kind, cluster_id),
        _ => Binding::key(cluster_id, kind, &number.to_string()),
    }
}
