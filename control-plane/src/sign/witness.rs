//! A node's own word: what its own applied state says, signed with its own keys.
//!
//! Nothing of what is asked for is signed. The payload is derived here, compared with the one that was asked for, and
//! the derived one is signed. The digests of sealed keys are the one part of a decision that a node cannot derive.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use countersign_gate::{DECISION_TYPE, Decision, KeyState};
use countersign_policy::Policy;
use countersign_proto::v1;
use countersign_proto::v1::co_sign_request::Subject;
use prost::Message as _;
use tonic::Status;

use super::keys::SigningKeys;
use super::policies::Policies;
use super::trust::{InForce, Trusted};
use super::{BUNDLE_TYPE, SignError, bundle, decision, key_id};
use crate::cluster::Cluster;
use crate::state::audit::CHECKPOINT_TYPE;
use crate::state::node::{NEW_KEY_TYPE, new_key_payload, node_name};
use crate::state::{Actor, Command};
use crate::vault::Vault;

/// Signs what another node asks it to sign, if this node's own state says the same.
#[tonic::async_trait]
pub trait CoSigner: Send + Sync + 'static {
    /// `from` is the node that asks, by its certificate. Waits up to two seconds for what was committed up to the
    /// request's index.
    ///
    /// # Errors
    /// `Aborted` or `Unavailable` when asking again may help; any other code says why this is not signed.
    async fn co_sign(
        &self,
        from: u64,
        request: v1::CoSignRequest,
    ) -> Result<v1::CoSignResponse, Status>;
}

/// This node as a co-signer. It has no `Debug`.
pub struct Witness {
    pub(super) cluster: Cluster,
    dir: PathBuf,
    vault: Arc<Vault>,
    keys: RwLock<SigningKeys>,
    /// Held while the keys change on disk.
    changing: tokio::sync::Mutex<()>,
    trusted: Trusted,
    policies: Policies,
    bundle: Mutex<Option<Arc<Unsigned>>>,
}

/// An encoded [`v1::EdgeState`].
pub(super) struct Unsigned {
    pub(super) revision: u64,
    pub(super) payload: Vec<u8>,
}

/// How long another node's question waits for this node to catch up.
const PATIENCE: Duration = Duration::from_secs(2);

#[tonic::async_trait]
impl CoSigner for Witness {
    async fn co_sign(
        &self,
        from: u64,
        request: v1::CoSignRequest,
    ) -> Result<v1::CoSignResponse, Status> {
        let answer = self.answer(from, &request).await;
        if let Err(why) = &answer {
            let (from, what) = (node_name(from), request.payload_type.as_str());
            match why.code() {
                tonic::Code::Aborted | tonic::Code::Unavailable => {
                    tracing::debug!(from, what, why = why.message(), "not signed yet");
                }
                tonic::Code::PermissionDenied => {
                    tracing::error!(
                        from,
                        what,
                        why = why.message(),
                        "a node asked for a signature that this node refuses"
                    );
                }
                _ => tracing::warn!(from, what, why = why.message(), "a signature was refused"),
            }
        }
        answer
    }
}

impl Witness {
    /// Takes this node's keys out of its own file; a node that has none yet gets its first one.
    ///
    /// # Errors
    /// [`SignError::Keys`], or what the vault says.
    pub fn open(cluster: &Cluster, dir: &Path, vault: &Arc<Vault>) -> Result<Self, SignError> {
        Ok(Self {
            cluster: cluster.clone(),
            keys: RwLock::new(SigningKeys::open_or_make(dir, vault)?),
            dir: dir.to_owned(),
            vault: Arc::clone(vault),
            changing: tokio::sync::Mutex::default(),
            trusted: Trusted::default(),
            policies: Policies::default(),
            bundle: Mutex::default(),
        })
    }

    async fn answer(
        &self,
        from: u64,
        request: &v1::CoSignRequest,
    ) -> Result<v1::CoSignResponse, Status> {
        let (same_cluster, member) = self.cluster.peek(|state| {
            let same =
                state.genesis().is_some_and(|genesis| genesis.cluster_id == request.cluster_id);
            (same, state.node(from).is_some_and(|node| !node.removed))
        });
        if !same_cluster {
            return Err(Status::failed_precondition("this is another cluster"));
        }
        if !member {
            return Err(Status::permission_denied("it is no node of this cluster, or was removed"));
        }
        self.cluster.wait_applied(request.index, PATIENCE).await.map_err(|_| {
            Status::unavailable(format!("entry {} is not applied here yet", request.index))
        })?;
        let in_force =
            self.in_force().ok_or_else(|| Status::unavailable("it has not begun here"))?;
        let (payload_type, payload) = self.derive(request, &in_force)?;
        if request.payload_type != payload_type {
            return Err(Status::invalid_argument("the payload's type is not its subject's"));
        }
        if request.payload != payload {
            return Err(Status::permission_denied(
                "the payload is not what this node's state says",
            ));
        }
        let signatures = self.sign(&in_force, payload_type, &payload);
        if signatures.is_empty() {
            return Err(Status::failed_precondition(
                "no key of this node is in the trust bundle in force: `countersign cluster trust` puts it there",
            ));
        }
        Ok(v1::CoSignResponse { signatures })
    }

    /// What this node's own state says about the subject.
    fn derive(
        &self,
        request: &v1::CoSignRequest,
        in_force: &InForce,
    ) -> Result<(&'static str, Vec<u8>), Status> {
        match &request.subject {
            Some(Subject::RequestId(id)) => {
                let id: [u8; 16] = id
                    .as_ref()
                    .try_into()
                    .map_err(|_| Status::invalid_argument("request_id must be 16 bytes"))?;
                let asked = Decision::decode(&request.payload)
                    .map_err(|e| Status::invalid_argument(format!("the decision is {e}")))?;
                if asked.epoch != in_force.trust.epoch {
                    return Err(Status::aborted("another trust bundle is in force here"));
                }
                let now = self.cluster.log_time();
                let derived = self.cluster.peek(|state| {
                    decision::of_claim(state, &id, asked.sealed, in_force.trust.epoch, now)
                });
                let derived =
                    derived.map_err(|why| Status::failed_precondition(why.to_string()))?;
                Ok((DECISION_TYPE, derived.encode()))
            }
            Some(Subject::EdgeBundle(_)) => {
                let asked = v1::EdgeState::decode(request.payload.as_ref())
                    .map_err(|_| Status::invalid_argument("the bundle cannot be read"))?;
                let own = self.bundle();
                if asked.revision != own.revision {
                    return Err(Status::aborted(format!(
                        "the bundle's revision is {}, and {} here",
                        asked.revision, own.revision
                    )));
                }
                Ok((BUNDLE_TYPE, own.payload.clone()))
            }
            Some(Subject::AuditIndex(index)) => {
                let own = self.cluster.peek(|state| state.checkpoint_at(*index));
                let own = own.ok_or_else(|| {
                    Status::failed_precondition(format!("there is no audit record {index} here"))
                })?;
                Ok((CHECKPOINT_TYPE, own.encode()))
            }
            None => Err(Status::invalid_argument("the subject is missing")),
        }
    }

    /// By each key of this node that edges count.
    pub(super) fn sign(
        &self,
        in_force: &InForce,
        payload_type: &str,
        payload: &[u8],
    ) -> Vec<v1::Signature> {
        let node = self.cluster.node_id();
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let counted =
            keys.iter().filter(|key| in_force.counts_key(node, &key.verifying_key().to_bytes()));
        let signatures = counted.map(|key| v1::Signature {
            key_id: Bytes::copy_from_slice(&key_id(&key.verifying_key().to_bytes())),
            signature: Bytes::copy_from_slice(&countersign_gate::sign(key, payload_type, payload)),
        });
        signatures.collect()
    }

    pub(super) fn in_force(&self) -> Option<Arc<InForce>> {
        self.cluster.peek(|state| self.trusted.in_force(state))
    }

    pub(super) fn policy_in_force(&self) -> (u64, Arc<Policy>) {
        self.policies.in_force(&self.cluster)
    }

    /// The newest one, derived once.
    pub(super) fn bundle(&self) -> Arc<Unsigned> {
        let mut derived = self.bundle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (version, policy) = self.policy_in_force();
            let known = derived.as_ref().map(|known| known.revision);
            let found = self.cluster.peek(|state| {
                if known == Some(state.bundle_revision()) {
                    return Some(None);
                }
                // Policy and state are read one after the other: what changed in between is read again.
                let same = state.policy().map_or(0, |current| current.version) == version;
                same.then(|| Some(bundle::of_state(state, &policy)))
            });
            match found {
                None => {}
                Some(Some(newer)) => {
                    let unsigned =
                        Unsigned { revision: newer.revision, payload: newer.encode_to_vec() };
                    return Arc::clone(derived.insert(Arc::new(unsigned)));
                }
                Some(None) => {
                    if let Some(known) = &*derived {
                        return Arc::clone(known);
                    }
                }
            }
        }
    }

    /// Makes another key, or goes on with one that was made and is in no trust bundle yet, and gives its public half:
    /// both halves on disk before the cluster knows one. The former key signs on until no trust bundle names it.
    pub(super) async fn rotate(&self, actor: Actor) -> Result<[u8; 32], SignError> {
        let _one_at_a_time = self.changing.lock().await;
        let node = self.cluster.node_id();
        let in_force = self.in_force().ok_or(SignError::NotBegun)?;
        let more = {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            let begun = in_force.names_key(node, &keys.newest_public()).is_none();
            (!begun).then(|| keys.with_new())
        };
        if let Some(more) = more {
            self.put(more).await?;
        }
        let found = self.cluster.read(|state| {
            let cluster_id = state.genesis()?.cluster_id.clone();
            Some((cluster_id, state.node(node)?.public_keys.clone()))
        });
        let found = found.await.map_err(|_| SignError::Unavailable)?;
        let (cluster_id, known) = found.ok_or(SignError::NotBegun)?;
        let (public_key, by_former) = {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            let public_key = keys.newest_public();
            let payload = new_key_payload(&cluster_id, node, &public_key);
            let former = keys.iter().find(|key| known.contains(&key.verifying_key().to_bytes()));
            let sign = |key| countersign_gate::sign(key, NEW_KEY_TYPE, &payload).to_vec();
            (public_key, former.map(sign).ok_or(SignError::Stranger)?)
        };
        if known.last() != Some(&public_key) {
            let command = Command::AddNodeKey { id: node, public_key, by_former };
            self.cluster.propose(actor, command).await?;
        }
        Ok(public_key)
    }

    /// Lets go of former keys that the trust bundle in force does not name, or names as revoked.
    pub(super) async fn drop_former_keys(&self) -> Result<(), SignError> {
        let _one_at_a_time = self.changing.lock().await;
        let (node, Some(in_force)) = (self.cluster.node_id(), self.in_force()) else {
            return Ok(());
        };
        let wanted = |public: &[u8; 32]| {
            in_force.names_key(node, public).is_some_and(|state| state != KeyState::Revoked)
        };
        let fewer =
            self.keys.read().unwrap_or_else(PoisonError::into_inner).without_unwanted(wanted);
        match fewer {
            Some(fewer) => self.put(fewer).await,
            None => Ok(()),
        }
    }

    /// On disk first.
    async fn put(&self, keys: SigningKeys) -> Result<(), SignError> {
        let (dir, vault) = (self.dir.clone(), Arc::clone(&self.vault));
        let written = tokio::task::spawn_blocking(move || keys.write(&dir, &vault).map(|()| keys));
        let keys = written.await.map_err(|_panicked| SignError::Unavailable)??;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }
}
