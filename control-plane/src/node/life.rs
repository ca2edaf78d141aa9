//! Sealed and unsealed: what there is in the process, and the two ways between.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, PoisonError};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use zeroize::Zeroizing;

use super::Node;
use super::settle::Settled;
use crate::cluster::{Clock as _, Cluster, Committed, Settings, SystemClock};
use crate::config::SealConfig;
use crate::state::{Event, Role};
use crate::vault::{NewSeal, SealError, Unsealing, Vault};

const ENTRIES_PER_SNAPSHOT: u64 = 10_000;

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
    /// Cancelled before the cluster stops: whoever holds this for long lets go of it then.
    pub(crate) closing: CancellationToken,
    pub(super) settled: OnceLock<Settled>,
    pub(super) tasks: TaskTracker,
}

impl Unsealed {
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

    /// Lets go of whoever is there for long: watchers, edges, tasks.
    pub(super) fn close(&self) {
        self.closing.cancel();
        if let Some(settled) = self.settled.get() {
            settled.intake.close();
        }
    }
}

/// Why a node is sealed still.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnsealError {
    #[error("it takes the token of an administrator")]
    AdminNeeded,
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
        there.map_or(self.config.seal.provider(), |there| there.provider)
    }

    /// Unseals the node. `passphrase` counts where the node has one; `token_sha256` where a key file opens it and
    /// somebody had sealed it. Doing it again does nothing.
    pub(crate) async fn unseal(
        self: &Arc<Self>,
        passphrase: Zeroizing<String>,
        token_sha256: Option<[u8; 32]>,
    ) -> Result<(), UnsealError> {
        let _one_at_a_time = self.changing.lock().await;
        let opened = match self.admitted_to_unseal(token_sha256) {
            Ok(true) => return Ok(()),
            Ok(false) => {
                let unsealing = match &self.config.seal {
                    SealConfig::KeyFile(path) => Unsealing::KeyFile(path.clone()),
                    _ => Unsealing::Passphrase(passphrase),
                };
                self.open(unsealing).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &opened {
            self.attempts.failed(error.to_string());
        }
        opened
    }

    /// Whether it is unsealed already.
    fn admitted_to_unseal(&self, token_sha256: Option<[u8; 32]>) -> Result<bool, UnsealError> {
        match &*self.life.read().unwrap_or_else(PoisonError::into_inner) {
            Life::Unsealed(_) => Ok(true),
            Life::Sealed { by: Some(admins) }
                if self.provider_name() == "key-file"
                    && !token_sha256.is_some_and(|token| admins.contains(&token)) =>
            {
                Err(UnsealError::AdminNeeded)
            }
            Life::Sealed { .. } => Ok(false),
        }
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
        house.cluster.shutdown().await;
    }

    /// Opens or makes the vault, starts the cluster, and lets the faces in.
    pub(super) async fn open(self: &Arc<Self>, unsealing: Unsealing) -> Result<(), UnsealError> {
        let (dir, log_dir) = (self.config.data_dir.clone(), self.config.data_dir.join("cluster"));
        if !Vault::exists(&dir) && log_dir.exists() {
            return Err(UnsealError::Start(anyhow::anyhow!(
                "{} holds a cluster without its vault (seal.json): restore that file from a backup; without it nothing can be read",
                dir.display()
            )));
        }
        // Argon2 takes its time, and disks do.
        let vault = tokio::task::spawn_blocking(move || {
            if Vault::exists(&dir) {
                Vault::unseal(&dir, &unsealing)
            } else {
                let new = NewSeal::try_from(unsealing)?;
                Ok(Vault::create(&dir, new, SystemClock.wall())?.vault)
            }
        });
        let vault = Arc::new(vault.await.context("the vault was not opened")??);
        let settings = Settings::alone(log_dir, ENTRIES_PER_SNAPSHOT);
        let cluster = Cluster::start(settings, vault.clone()).await.map_err(anyhow::Error::new)?;
        let house = Arc::new(Unsealed {
            cluster,
            vault,
            closing: CancellationToken::new(),
            settled: OnceLock::new(),
            tasks: TaskTracker::new(),
        });
        match self.move_in(&house).await {
            Ok(()) => Ok(()),
            Err(error) => {
                house.close();
                house.tasks.close();
                house.tasks.wait().await;
                house.cluster.shutdown().await;
                Err(UnsealError::Start(error))
            }
        }
    }

    async fn move_in(self: &Arc<Self>, house: &Arc<Unsealed>) -> anyhow::Result<()> {
        if house.cluster.read(|state| state.genesis().is_none()).await? {
            self.found(&house.cluster, &house.vault).await?;
        }
        self.settle(house).await?;
        house.tasks.close();
        *self.life.write().unwrap_or_else(PoisonError::into_inner) = Life::Unsealed(house.clone());
        self.tell_health(ServingStatus::Serving).await;
        Ok(())
    }
}
