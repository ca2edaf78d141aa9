//! From an open vault and a state that is here, to a node that serves.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tonic::service::Routes;

use super::attempts::{Allowance, Attempted};
use super::edge_ca::follow_edge_ca;
use super::figures::count_approvals;
use super::{Node, Unsealed};
use crate::intake::{Intake, IntakeSettings};
use crate::notify;
use crate::peers;
use crate::sign::{Signer, Witness};
use crate::state::{Actor, Audience, Command, EdgeCa};
use crate::tap;

/// What there is once the state is here.
pub(super) struct Settled {
    pub(super) intake: Intake,
    pub(super) signer: Arc<Signer>,
}

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

impl Node {
    /// Settles as soon as the state is here and somebody leads, however often that fails.
    pub(super) async fn settle_sometime(self: &Arc<Self>, house: &Arc<Unsealed>) {
        loop {
            let begun = house.cluster.peek(|state| state.genesis().is_some());
            // First of all, and whatever comes of it: a leader that looks for this node elsewhere cannot tell it.
            if begun && let Err(error) = self.describe(house).await {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "the others may not know where this node is found"
                );
            }
            if begun && house.out_of_touch().is_none() {
                match self.settle(house).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(
                            error = format!("{error:#}"),
                            "this node does not serve yet; it tries again"
                        );
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Lets edges in, and says in the log that the node was unsealed.
    pub(super) async fn settle(self: &Arc<Self>, house: &Arc<Unsealed>) -> anyhow::Result<()> {
        if house.settled.get().is_some() {
            return Ok(());
        }
        // First, so that no change of the edges' CA is missed.
        let events = house.cluster.subscribe();
        let begun = house.cluster.peek(|state| state.edge_ca().map(EdgeCa::trusted_pem));
        let edge_ca_pem = begun.context("the cluster did not begin")?;
        for to in Audience::ALL {
            self.go_over(house, to)?;
        }
        self.identity.forget_ca_key()?;
        self.keep_edge_ca(&edge_ca_pem)?;
        self.record_unsealing(house).await?;
        self.describe(house).await?;

        let signer = Arc::new(Signer::open(house.witness.clone()).await?);
        let (cluster, vault) = (house.cluster.clone(), house.vault.clone());
        let max_pending_per_agent = self.config.max_pending_per_agent;
        let settings = IntakeSettings { max_pending_per_agent, ..IntakeSettings::default() };
        let minter = house.minter.clone();
        let intake = Intake::new(cluster, vault, signer.clone(), minter, settings);
        house.tasks.spawn(notify::run(house.clone(), house.channels.clone()));
        house.tasks.spawn(tap::listen(house.clone(), house.channels.clone()));
        house.tasks.spawn(count_approvals(self.clone(), house.clone()));
        self.open_gateway(&edge_ca_pem, Routes::new(intake.clone().into_service()).prepare())?;
        house.tasks.spawn(follow_edge_ca(self.clone(), house.clone(), events, edge_ca_pem));
        // Whoever settled first wins; they came to the same.
        let _ = house.settled.set(Settled { intake, signer });
        Ok(())
    }

    /// Lets other nodes in, if this node has what it shows to them.
    pub(super) fn let_peers_in(&self, house: &Unsealed) {
        let witness: Arc<Witness> = house.witness.clone();
        let minter = Some(house.minter.clone());
        let service = peers::service(house.cluster.clone(), witness, minter);
        self.open_to_peers(Routes::new(service).prepare());
    }

    /// Tells the cluster where this node is found, if that is not what it knows.
    async fn describe(&self, house: &Unsealed) -> anyhow::Result<()> {
        let (id, told) = (house.cluster.node_id(), self.addresses.told());
        let known = house
            .cluster
            .peek(|state| state.node(id).map(|node| (node.removed, node.addresses == *told)));
        match known {
            Some((false, false)) => {
                let command = Command::DescribeNode { id, addresses: told.clone() };
                house.cluster.propose(Actor::System, command).await?;
            }
            Some((true, _)) => {
                tracing::error!(
                    "this node was removed from its cluster: stop it, and add it anew with an empty data directory"
                );
            }
            Some((false, true)) | None => {}
        }
        Ok(())
    }

    /// Until the node is sealed: what whoever is unknown tries meanwhile.
    pub(super) async fn record_attempts_always(&self, house: &Unsealed) {
        let often = Allowance::new(8, Duration::from_secs(60));
        loop {
            self.attempts.news().await;
            if let Err(wait) = often.take() {
                tokio::time::sleep(wait).await;
            }
            while let Err(error) = self.record_attempts(house).await {
                tracing::debug!(error = format!("{error:#}"), "attempts are not on record yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// What could not be recorded while the node was sealed, and that it is not any more.
    async fn record_unsealing(&self, house: &Unsealed) -> anyhow::Result<()> {
        let refused = self.record_attempts(house).await?.times("seal.unseal_refused");
        let count = vec![("refused_attempts".to_owned(), refused.to_string())];
        self.note(house, "seal.unseal", count).await
    }

    async fn record_attempts(&self, house: &Unsealed) -> anyhow::Result<Attempted> {
        let tried = self.attempts.so_far();
        for attempt in &tried.first {
            let details =
                vec![("at".into(), attempt.at.to_string()), ("why".into(), attempt.what.clone())];
            self.note(house, &attempt.action, details).await?;
        }
        for (action, times) in &tried.more {
            self.note(house, action, vec![("times".into(), times.to_string())]).await?;
        }
        self.attempts.recorded(&tried);
        Ok(tried)
    }

    async fn note(
        &self,
        house: &Unsealed,
        action: &str,
        details: Vec<(String, String)>,
    ) -> anyhow::Result<()> {
        let subject = self.name().to_owned();
        let note = Command::Note { action: action.into(), subject, details };
        house.cluster.propose(Actor::System, note).await?;
        Ok(())
    }
}
