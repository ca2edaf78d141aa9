//! What this node shows to other nodes, and whom it takes for one: both follow the state, without a restart.
//!
//! In this order, so that at no time two nodes cannot speak: it trusts another CA, shows a certificate of it, and only
//! then says so. The former CA ends once all have said so, or when somebody ends it.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{Node, Unsealed};
use crate::cluster::Committed;
use crate::sign;
use crate::state::{Actor, Command, Event, Genesis};
use crate::tls;

impl Node {
    /// Trusts what the state says, and has a certificate issued where it is missing, nearly over, or not of the newest CA.
    pub(super) fn follow_node_ca(&self, house: &Unsealed, genesis: &Genesis) -> anyhow::Result<()> {
        if self.addresses.cluster.is_none() {
            return Ok(());
        }
        let ca = house.cluster.peek(|state| state.node_ca().map(|ca| ca.into_owned()));
        let ca = ca.context("the cluster did not begin")?;
        let dir = &self.config.data_dir;
        let (ca_path, pair) = (tls::node_ca_path(dir), tls::node_pair(dir));
        let trusted_pem = ca.trusted_pem();
        let trusted = certificates(&trusted_pem);
        let known = tls::node_ca_pem(dir)?.map_or_else(Vec::new, |pem| certificates(&pem));
        let shown = pair.certificate()?;
        let renews = shown.is_none_or(|shown| {
            shown.is_due(SystemTime::now()) || !shown.is_of(&ca.certificate_pem)
        });
        let first = self.line.server_config().is_none();
        if known == trusted && !renews && !first {
            return Ok(());
        }
        tls::write_public(&ca_path, trusted_pem.as_bytes())
            .with_context(|| format!("{} cannot be written", ca_path.display()))?;
        if renews {
            let (request, id) = (pair.request()?, house.cluster.node_id());
            let cluster_id = &genesis.cluster_id;
            pair.install(&sign::issue_node_certificate(
                cluster_id,
                &ca,
                &house.vault,
                &request,
                id,
            )?)?;
            tracing::info!(ca = ca.number, "the certificate for other nodes was renewed");
        }
        self.line.load(dir)?;
        let all_count_still = known.iter().all(|known| trusted.contains(known));
        match (first, all_count_still) {
            (true, _) => self.let_peers_in(house),
            (false, true) => self.show_peers_newest(),
            (false, false) => self.narrow_peers(),
        }
        if known != trusted {
            tracing::info!(ca = ca.number, "which CAs let nodes in was changed");
        }
        Ok(())
    }

    /// Says that this node shows a certificate of the newest CA, where the cluster waits for that.
    pub(super) async fn tell_node_ca(&self, house: &Unsealed) -> anyhow::Result<()> {
        let id = house.cluster.node_id();
        let number = house.cluster.peek(|state| {
            let waited_for = state.nodes_to_renew().any(|node| node.id == id);
            state.node_ca().filter(|_| waited_for).map(|ca| ca.number)
        });
        let Some(number) = number else { return Ok(()) };
        house.cluster.propose(Actor::System, Command::RenewNode { id, number }).await?;
        Ok(())
    }
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect()
}

/// Returns once which CAs count may have changed.
pub(super) async fn node_ca_changed(events: &mut broadcast::Receiver<Arc<Committed<Event>>>) {
    loop {
        match events.recv().await {
            Ok(event) if may_change(&event) => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            // The node is being sealed.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// With the last node that needs it, removed or not, the former CA ends.
fn may_change(event: &Event) -> bool {
    matches!(event, Event::NodeCaChanged { .. } | Event::NodeChanged { .. } | Event::Restored)
}
