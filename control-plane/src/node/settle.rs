//! From an open vault and a state that is here, to a node that serves.

use std::sync::Arc;

use anyhow::Context as _;
use tonic::service::Routes;

use super::figures::count_approvals;
use super::{Node, Unsealed};
use crate::intake::{Intake, IntakeSettings};
use crate::sign::{Signer, Witness};
use crate::state::{Actor, Command};
use crate::tls::write_public;

/// What there is once the state is here.
pub(super) struct Settled {
    pub(super) intake: Intake,
}

impl Node {
    /// Lets edges in, and says in the log that the node was unsealed.
    pub(super) async fn settle(self: &Arc<Self>, house: &Arc<Unsealed>) -> anyhow::Result<()> {
        let edge_ca = house
            .cluster
            .peek(|state| state.genesis().map(|genesis| genesis.edge_ca_pem.clone()))
            .context("the cluster did not begin")?;
        // For a sealed restart: edges are then told that the node is sealed, by one that they know.
        write_public(&self.edge_ca_path(), edge_ca.as_bytes())
            .with_context(|| format!("{} cannot be written", self.edge_ca_path().display()))?;
        self.identity.forget_ca_key()?;
        self.record_attempts(house).await?;

        self.describe(house).await?;
        let witness = Witness::open(&house.cluster, &self.config.data_dir, &house.vault)?;
        let signer = Arc::new(Signer::open(Arc::new(witness)).await?);
        let settings = IntakeSettings::default();
        let intake = Intake::new(house.cluster.clone(), house.vault.clone(), signer, settings);
        house.tasks.spawn(count_approvals(self.clone(), house.clone()));
        self.open_gateway(&edge_ca, Routes::new(intake.clone().into_service()).prepare())?;
        let _ = house.settled.set(Settled { intake });
        Ok(())
    }

    /// Says where this node is found, if that has changed.
    async fn describe(&self, house: &Unsealed) -> anyhow::Result<()> {
        let (id, addresses) = (house.cluster.node_id(), self.addresses.told());
        let same = house
            .cluster
            .peek(|state| state.node(id).is_some_and(|node| node.addresses == *addresses));
        if !same {
            let describe = Command::DescribeNode { id, addresses: addresses.clone() };
            house.cluster.propose(Actor::System, describe).await?;
        }
        Ok(())
    }

    /// What could not be recorded while the node was sealed.
    async fn record_attempts(&self, house: &Unsealed) -> anyhow::Result<()> {
        let failed = self.attempts.so_far();
        for attempt in &failed.first {
            let details =
                vec![("at".into(), attempt.at.to_string()), ("why".into(), attempt.why.clone())];
            self.note(house, "seal.unseal_refused", details).await?;
        }
        let count = vec![("refused_attempts".to_owned(), failed.count.to_string())];
        self.note(house, "seal.unseal", count).await?;
        self.attempts.recorded(&failed);
        Ok(())
    }

    async fn note(
        &self,
        house: &Unsealed,
        action: &str,
        details: Vec<(String, String)>,
    ) -> anyhow::Result<()> {
        let subject = self.config.cluster.name.clone();
        let note = Command::Note { action: action.into(), subject, details };
        house.cluster.propose(Actor::System, note).await?;
        Ok(())
    }
}
