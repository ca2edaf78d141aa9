//! Sealed and unsealed: what there is in the process, and the two ways between.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock, PoisonError};

use anyhow::Context as _;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;

use super::begin::Secrets;
use super::settle::Settled;
use super::upkeep::Readiness;
use super::{Node, join};
use crate::cluster::{Clock as _, Cluster, Committed, Settings, Start, SystemClock, Timing};
use crate::mint::Minter;
use crate::notify::channels::Channels;
use crate::operator::Rekeying;
use crate::sign::{Signer, Witness};
use crate::state::{Event, Role};
use crate::vault::{EncryptedShare, NewSeal, SealError, Unsealing, Vault};

pub(super) enum Life {
    Sealed {
        /// Tokens of those who were administrators when somebody sealed the node; None after a start.
        by: Option<BTreeSet<[u8; 32]>>,
    },
    Unsealed(Arc<Unsealed>),
}

/// The rooms of a node that is not sealed.
pub(crate) struct Unsealed {
    pub(crate) cluster: Cluster,
    pub(crate) vault: Arc<Vault>,
    pub(super) witness: Arc<Witness>,
    /// Cancelled before the cluster stops: whoever holds this for long lets go of it then.
    pub(crate) closing: CancellationToken,
    /// Of the seal, as far as it is; forgotten when the node is sealed.
    pub(crate) rekeying: Mutex<Option<Rekeying>>,
    /// Why the newest attempt to read the state up to date failed, if it did.
    pub(super) out_of_touch: std::sync::Mutex<Option<String>>,
    /// How many other nodes of the cluster answered, unsealed, when they were asked last.
    pub(super) neighbours: AtomicUsize,
    pub(super) settled: OnceLock<Settled>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) minter: Arc<Minter>,
    pub(super) tasks: TaskTracker,
}

impl Unsealed {
    /// Goes on until it is done or the node is sealed, which waits for it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Ids of the edges that are attached now.
    pub(crate) fn connected_edges(&self) -> BTreeSet<String> {
        let edges = self.settled.get().map(|settled| settled.intake.connected_edges());
        edges.unwrap_or_default().into_iter().map(|edge| edge.id).collect()
    }

    /// Returns once the attached edges decide with what was committed; see [`crate::intake::Intake::told`].
    pub(crate) async fn told(&self, committed: &Committed<Event>) {
        if let Some(settled) = self.settled.get() {
            settled.intake.told(committed).await;
        }
    }

    /// Why this node cannot read what the others know, if it cannot.
    pub(super) fn out_of_touch(&self) -> Option<String> {
        self.out_of_touch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn tell_out_of_touch(&self, why: Option<String>) {
        // Its edges would wait here for what the others decide, and hear of nothing.
        if let Some(settled) = self.settled.get() {
            settled.intake.strand(why.is_some());
        }
        *self.out_of_touch.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Whether it is the only node of its cluster, and so leads it.
    pub(super) fn is_alone(&self) -> bool {
        self.cluster.members().iter().all(|member| member.id == self.cluster.node_id())
            && self.cluster.is_leader()
    }

    /// Who gathers signatures, once this node has settled.
    pub(crate) fn signer(&self) -> Option<&Arc<Signer>> {
        self.settled.get().map(|settled| &settled.signer)
    }

    /// Lets go of whoever is there for long: watchers, edges, tasks.
    pub(super) fn close(&self) {
        self.closing.cancel();
        self.minter.close();
        if let Some(settled) = self.settled.get() {
            settled.intake.close();
            settled.signer.close();
        }
    }
}

/// How a vault comes to be open. It has no `Debug`.
pub(super) enum Opening {
    /// There is none: make one.
    New(NewSeal),
    Present(Unsealing),
}

/// Why a node is sealed still.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnsealError {
    #[error("it takes the token of an administrator")]
    AdminNeeded,
    #[error("there is no vault to unseal")]
    NotBegun,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Start(#[from] anyhow::Error),
}

impl Node {
    pub(crate) fn unsealed(&self) -> Option<Arc<Unsealed>> {
        match &*self.life.read().unwrap_or_else(PoisonError::into_inner) {
            Life::Sealed { .. } => None,
            Life::Unsealed(house) => Some(house.clone()),
        }
    }

    /// What opens the vault; what would, while there is none.
    pub(crate) fn provider_name(&self) -> &'static str {
        let there = Vault::parameters(&self.config.data_dir);
        there.map_or_else(|_| self.config.seal.provider(), |there| there.provider)
    }

    /// Stops the cluster and drops the vault. Who may unseal a node with a key file again is kept.
    pub(crate) async fn seal(&self) {
        let _one_at_a_time = self.changing.lock().await;
        let Some(house) = self.unsealed() else { return };
        let admins = house.cluster.peek(|state| {
            let admins = state.principals().filter(|p| p.active && p.roles.contains(&Role::Admin));
            admins.map(|p| p.token_sha256).collect()
        });
        *self.life.write().unwrap_or_else(PoisonError::into_inner) =
            Life::Sealed { by: Some(admins) };
        self.tell_health(ServingStatus::NotServing).await;
        house.close();
        self.show_sealed();
        house.tasks.wait().await;
        house.minter.ended().await;
        // Once more: a task that was about to open a door may have done so.
        self.show_sealed();
        house.cluster.shutdown().await;
    }

    /// Opens or makes the vault, starts the cluster, and lets the faces in; gives the shares that were made.
    pub(super) async fn open(
        self: &Arc<Self>,
        opening: Opening,
        secrets: Option<&Secrets>,
    ) -> Result<Vec<EncryptedShare>, UnsealError> {
        let (dir, log_dir) = (self.config.data_dir.clone(), self.log_dir());
        // Argon2 takes its time, and disks do.
        let opened = tokio::task::spawn_blocking(move || match opening {
            Opening::New(new) => {
                Vault::create(&dir, new, SystemClock.wall()).map(|made| (made.vault, made.shares))
            }
            Opening::Present(unsealing) => {
                Vault::unseal(&dir, &unsealing).map(|vault| (vault, Vec::new()))
            }
        });
        let (vault, shares) = opened.await.context("the vault was not opened")??;
        let vault = Arc::new(vault);
        let joined = join::remembered(&self.config.data_dir)?;
        let start = match &joined {
            Some(joined) => Start::Join { node_id: joined.node_id()? },
            None => Start::Found,
        };
        self.line.load(&self.config.data_dir)?;
        let settings = Settings {
            data_dir: log_dir,
            snapshot_every: self.config.cluster.snapshot_every,
            start,
            transport: self.line.clone(),
            cluster_id: joined.as_ref().map(|it| it.cluster_id.clone()).unwrap_or_default(),
            timing: Timing {
                heartbeat: self.config.cluster.heartbeat,
                election: self.config.cluster.election..2 * self.config.cluster.election,
            },
            accept_rollback: self.config.accept_rollback,
        };
        let cluster = Cluster::start(settings, vault.clone()).await.map_err(anyhow::Error::new)?;
        let witness = match Witness::open(&cluster, &self.config.data_dir, &vault) {
            Ok(witness) => Arc::new(witness),
            Err(error) => {
                cluster.shutdown().await;
                return Err(UnsealError::Start(error.into()));
            }
        };
        let minter = Minter::new(cluster.clone(), vault.clone(), self.config.mint.clone());
        let house = Arc::new(Unsealed {
            cluster,
            vault,
            minter,
            witness,
            closing: CancellationToken::new(),
            rekeying: Mutex::default(),
            out_of_touch: std::sync::Mutex::new(Some("it was unsealed just now".into())),
            neighbours: AtomicUsize::new(0),
            settled: OnceLock::new(),
            channels: Arc::new(Channels::new(self.addresses.hooks.clone())?),
            tasks: TaskTracker::new(),
        });
        match self.move_in(&house, joined.is_some(), secrets).await {
            Ok(()) => Ok(shares),
            Err(error) => {
                house.close();
                house.tasks.close();
                house.tasks.wait().await;
                house.minter.ended().await;
                self.show_sealed();
                house.cluster.shutdown().await;
                Err(UnsealError::Start(error))
            }
        }
    }

    async fn move_in(
        self: &Arc<Self>,
        house: &Arc<Unsealed>,
        joined: bool,
        secrets: Option<&Secrets>,
    ) -> anyhow::Result<()> {
        if self.line.server_config().is_some() {
            self.let_peers_in(house);
        }
        if !joined && house.cluster.peek(|state| state.genesis().is_none()) {
            self.found(house, secrets).await?;
        }
        // A node that has others beside it may have to wait for them, and is there to be asked meanwhile.
        if house.is_alone() {
            self.settle(house).await?;
            house.tell_out_of_touch(None);
        }
        *self.life.write().unwrap_or_else(PoisonError::into_inner) = Life::Unsealed(house.clone());
        *self.given() = None;
        if self.readiness() == Readiness::Ready {
            self.tell_health(ServingStatus::Serving).await;
        }
        house.tasks.spawn(self.clone().keep_up(house.clone()));
        house.tasks.close();
        Ok(())
    }

    pub(super) fn log_dir(&self) -> PathBuf {
        self.config.data_dir.join("cluster")
    }
}
