//! As many signatures of distinct nodes as the trust bundle in force demands.

use std::time::Duration;

use bytes::Bytes;
use countersign_gate::Signed;
use countersign_proto::v1;
use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use countersign_proto::v1::co_sign_request::Subject;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use super::trust::InForce;
use super::witness::Witness;
use super::{SignError, key_id};
use crate::cluster::Cluster;
use crate::state::node::node_name;

/// What is to be signed, as this node's own state says it.
pub(super) struct Draft {
    /// Nobody can say the same before it has applied this much.
    pub(super) index: u64,
    pub(super) payload_type: &'static str,
    pub(super) payload: Vec<u8>,
    pub(super) subject: Subject,
}

/// A payload that a quorum signed, and the trust bundle under which it is one.
pub(super) struct Gathered {
    /// Of the draft.
    pub(super) index: u64,
    pub(super) epoch: u64,
    pub(super) envelope: v1::Envelope,
}

/// After so long, nothing was signed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Before a node that could not sign yet is asked again.
const PAUSE: Duration = Duration::from_millis(50);
/// A node has two keys at most, or three for a moment.
const SIGNATURES_OF_ONE: usize = 4;

/// Asks the other nodes of the trust bundle all at once, and returns when there are enough. What this node's own state
/// says is drafted again whenever another node did not agree: it may have moved on.
///
/// # Errors
/// [`SignError::Quorum`] after two seconds, or once nobody is left to ask; whatever `draft` says.
pub(super) async fn gather(
    witness: &Witness,
    draft: impl Fn(&InForce) -> Result<Draft, SignError>,
) -> Result<Gathered, SignError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let in_force = witness.in_force().ok_or(SignError::NotBegun)?;
        let drafted = draft(&in_force)?;
        let mut collected = Collected::new(&in_force, &drafted);
        let own = witness.cluster.node_id();
        collected.take(own, witness.sign(&in_force, drafted.payload_type, &drafted.payload));
        if let Some(gathered) = collected.finish() {
            return Ok(gathered);
        }
        let request = witness.cluster.peek(|state| v1::CoSignRequest {
            cluster_id: state
                .genesis()
                .map(|genesis| genesis.cluster_id.clone())
                .unwrap_or_default(),
            index: drafted.index,
            payload_type: drafted.payload_type.to_owned(),
            payload: drafted.payload.clone().into(),
            subject: Some(drafted.subject.clone()),
        });
        let asking = |node: u64, pause: Duration| {
            let request = request.clone();
            async move {
                // Even a sleep of nothing lasts until the timer's next millisecond.
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                (node, ask(&witness.cluster, node, request).await)
            }
        };
        let others = in_force.signers().into_iter().filter(|node| *node != own);
        let mut asked: FuturesUnordered<_> =
            others.map(|node| asking(node, Duration::ZERO)).collect();
        loop {
            let answered = timeout_at(deadline, asked.next()).await;
            let Ok(Some((node, answer))) = answered else { return Err(collected.short()) };
            match answer {
                Ok(response) => {
                    collected.take(node, response.signatures);
                    if let Some(gathered) = collected.finish() {
                        return Ok(gathered);
                    }
                }
                Err(status) => {
                    if may_change(&status) {
                        asked.push(asking(node, PAUSE));
                    }
                    collected.why = format!("node {}: {}", node_name(node), status.message());
                    let now = witness.in_force().ok_or(SignError::NotBegun)?;
                    if draft(&now)?.payload != drafted.payload {
                        break;
                    }
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(collected.short());
        }
    }
}

async fn ask(
    cluster: &Cluster,
    node: u64,
    request: v1::CoSignRequest,
) -> Result<v1::CoSignResponse, Status> {
    let channel =
        cluster.channel_to(node).ok_or_else(|| Status::unavailable("it has no address"))?;
    Ok(ClusterServiceClient::new(channel).co_sign(request).await?.into_inner())
}

fn may_change(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
    )
}

/// Signatures that count, so far.
struct Collected<'a> {
    in_force: &'a InForce,
    draft: &'a Draft,
    signatures: Vec<v1::Signature>,
    /// Nodes that signed.
    signers: Vec<u64>,
    /// What kept the last one from signing.
    why: String,
}

impl<'a> Collected<'a> {
    fn new(in_force: &'a InForce, draft: &'a Draft) -> Self {
        let why = "no other node was reached".to_owned();
        Self { in_force, draft, signatures: Vec::new(), signers: Vec::new(), why }
    }

    /// Whatever is not a signature of this very node over this very payload is left out: the envelope stays good.
    fn take(&mut self, node: u64, signatures: Vec<v1::Signature>) {
        let Draft { payload_type, payload, .. } = self.draft;
        for v1::Signature { signature, .. } in signatures.into_iter().take(SIGNATURES_OF_ONE) {
            if self.signatures.iter().any(|known| known.signature == signature) {
                continue;
            }
            let Some(public) = self.in_force.signer(node, payload_type, payload, &signature) else {
                self.why =
                    format!("node {} answered with a signature that is none", node_name(node));
                tracing::error!(
                    node = node_name(node),
                    "a node answered with a signature that is none"
                );
                continue;
            };
            self.signatures.push(v1::Signature {
                key_id: Bytes::copy_from_slice(&key_id(&public)),
                signature,
            });
            if !self.signers.contains(&node) {
                self.signers.push(node);
            }
        }
    }

    fn finish(&mut self) -> Option<Gathered> {
        if (self.signers.len() as u64) < u64::from(self.in_force.trust.threshold) {
            return None;
        }
        let payload_type = self.draft.payload_type;
        let signatures =
            self.signatures.iter().filter_map(|s| s.signature.as_ref().try_into().ok());
        let signed = Signed {
            payload_type: payload_type.to_owned(),
            payload: self.draft.payload.clone(),
            signatures: signatures.collect(),
        };
        self.in_force.trust.check(&signed, payload_type).ok()?;
        let envelope = v1::Envelope {
            payload_type: payload_type.to_owned(),
            payload: signed.payload.into(),
            signatures: std::mem::take(&mut self.signatures),
        };
        Some(Gathered { index: self.draft.index, epoch: self.in_force.trust.epoch, envelope })
    }

    fn short(&self) -> SignError {
        SignError::Quorum {
            signed: self.signers.len(),
            needed: self.in_force.trust.threshold,
            why: self.why.clone(),
        }
    }
}
