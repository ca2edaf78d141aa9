//! What counts because it is signed: whom we trust, what we decide with, and how far the cluster's log had come in what
//! we saw of it. None of it ever goes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail};
use countersign_gate::{Decision, Digest, Trust};
use countersign_proto::v1 as pb;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::session::Names;
use super::{Alarm, Control, lock, wire};
use crate::bundle::{Bundle, InForce};
use crate::identity::Stored;

/// DSSE payload type of an edge bundle.
const BUNDLE_TYPE: &str = "application/vnd.countersign.edge-bundle.v1";

/// What was verified so far.
pub(super) struct Verified {
    root_key: [u8; 32],
    trust: watch::Sender<Option<Arc<Trust>>>,
    floor: Mutex<Floor>,
    /// What was refused last, by kind, so that one lie is one alarm however often it is repeated.
    refused: Mutex<HashMap<&'static str, String>>,
}

/// The highest of what verified: a cluster that is below it has lost something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Floor {
    /// Raft term and index of a claim.
    pub(super) fence: (u64, u64),
    pub(super) bundle_revision: u64,
    /// Of the bundle with this revision.
    payload: Digest,
}

impl Verified {
    pub(super) fn new(root_key: [u8; 32]) -> Self {
        Self {
            root_key,
            trust: watch::Sender::new(None),
            floor: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    pub(super) fn trust(&self) -> Option<Arc<Trust>> {
        self.trust.borrow().clone()
    }

    pub(super) fn changes_of_trust(&self) -> watch::Receiver<Option<Arc<Trust>>> {
        self.trust.subscribe()
    }

    pub(super) fn floor(&self) -> Floor {
        *lock(&self.floor)
    }

    /// A decision verified: the log had come at least as far as its claim.
    pub(super) fn decision(&self, payload: &[u8]) {
        let Ok(decision) = Decision::decode(payload) else { return };
        let mut floor = lock(&self.floor);
        floor.fence = floor.fence.max((decision.term, decision.index));
    }
}

impl Control {
    /// Checks a trust bundle against the pinned root key and the one in force, and puts it in its place. What comes
    /// after it is checked against it.
    ///
    /// # Errors
    /// Another cluster's, a lower epoch or threshold, or another bundle of the same epoch: the one in force stays,
    /// and somebody is told.
    pub(super) fn take_trust(&self, envelope: pb::Envelope) -> anyhow::Result<Arc<Trust>> {
        let known = self.verified.trust();
        let taken = wire::signed(envelope).and_then(|signed| {
            let trust = Trust::accept(&signed, &self.verified.root_key, known.as_deref())
                .map_err(|why| anyhow::anyhow!("the trust bundle is refused: {why:?}"))?;
            if let Some(known) = known.as_deref()
                && known.epoch == trust.epoch
                && *known != trust
            {
                bail!("the trust bundle is refused: there is another one of epoch {}", trust.epoch);
            }
            Ok(Arc::new(trust))
        });
        let trust = self.noted("trust_bundle_refused", taken)?;
        if known.is_none_or(|known| known.epoch < trust.epoch) {
            tracing::info!(
                epoch = trust.epoch,
                threshold = trust.threshold,
                "a trust bundle is in force"
            );
            self.metrics.trust_epoch.set(i64::try_from(trust.epoch).unwrap_or(i64::MAX));
            self.verified.trust.send_replace(Some(Arc::clone(&trust)));
        }
        Ok(trust)
    }

    /// Verifies a bundle and puts it in force.
    ///
    /// # Errors
    /// One that not enough nodes have signed, or that is older than one that was seen: what is in force stays.
    pub(super) fn take_bundle(
        self: &Arc<Self>,
        bundle: pb::EdgeBundle,
        names: &Names,
    ) -> anyhow::Result<()> {
        let signed = wire::signed(bundle.envelope.context("a bundle without its envelope")?)?;
        let trust = self.trust().context("a bundle before any trust")?;
        let checked = trust
            .check(&signed, BUNDLE_TYPE)
            .map_err(|why| anyhow::anyhow!("it is not signed as it must be: {why:?}"));
        self.noted("bundle_refused", checked)?;
        let state = pb::EdgeState::decode(signed.payload.as_slice())
            .context("a payload that is no EdgeState")?;
        let payload: Digest = Sha256::digest(&signed.payload).into();
        let floor = self.verified.floor();
        if state.revision < floor.bundle_revision {
            bail!("its revision {} is lower than {}", state.revision, floor.bundle_revision);
        }
        if self.in_force().is_some() && payload == floor.payload {
            return Ok(());
        }
        let authorities = state.gateway_ca_pem.clone();
        let bundle = Bundle::new(wire::bundle(state)?)?;
        if !authorities.is_empty() && self.authorities.follow(&authorities)? {
            self.store_authorities();
        }
        tracing::info!(
            revision = bundle.revision,
            policy_version = bundle.policy_version,
            "a bundle is in force"
        );
        self.metrics.bundle_revision.set(i64::try_from(bundle.revision).unwrap_or(i64::MAX));
        self.leases.keep(|id, version| {
            bundle.credential(id).is_some_and(|c| c.version == version && c.leasable)
        });
        let mut floor = lock(&self.verified.floor);
        (floor.bundle_revision, floor.payload) = (bundle.revision, payload);
        drop(floor);
        let Names { cluster, org, edge } = names.clone();
        self.in_force.send_replace(Some(Arc::new(InForce { cluster, org, edge, bundle })));
        Ok(())
    }

    /// A file is written: not on the threads that serve.
    fn store_authorities(self: &Arc<Self>) {
        let control = Arc::clone(self);
        tokio::task::spawn_blocking(move || match control.authorities.store() {
            Stored::Written => tracing::info!("the nodes are known by other CAs from now on"),
            Stored::Kept(why) => tracing::warn!(
                why,
                "the nodes are known by other CAs from now on, which are in memory only: after two changes of the API's \
                 CA, a restarted edge needs the newest in its file"
            ),
        });
    }

    /// Raises an alarm about what was refused, unless the same was refused before and nothing of its kind accepted
    /// since.
    fn noted<T>(&self, kind: &'static str, result: anyhow::Result<T>) -> anyhow::Result<T> {
        let mut refused = lock(&self.verified.refused);
        match &result {
            Ok(_) => drop(refused.remove(kind)),
            Err(why) => {
                let detail = format!("{why:#}");
                if refused.insert(kind, detail.clone()).as_ref() != Some(&detail) {
                    drop(refused);
                    self.alarm(Alarm::of_the_edge(kind, detail));
                }
            }
        }
        result
    }
}
