//! What this node shows, and whom it takes for another node: both follow the state, without a restart.
//!
//! In this order, so that nobody who should know a node ever fails to: it trusts another CA, shows a certificate of it,
//! and only then says so. The former CA ends once all have said so, or when somebody ends it.

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
use crate::state::{Actor, Audience, Command, Event, ShownCa};
use crate::tls;

/// What this node shows is of the CA of this number, and of others it takes what is of that CA.
#[derive(Clone, Copy, Debug)]
pub(super) struct GoneOver {
    to: Audience,
    number: u64,
}

impl Node {
    /// Trusts what the state says, and has issued what is missing, nearly over, under other names, or not of the newest
    /// CA.
    ///
    /// # Errors
    /// What was not done: this node goes on showing what it has.
    pub(super) fn go_over(&self, house: &Unsealed, to: Audience) -> anyhow::Result<GoneOver> {
        let newest = house.cluster.peek(|state| {
            let id = state.genesis()?.cluster_id.clone();
            Some((id, state.shown_ca(to)?.into_owned()))
        });
        let (cluster_id, ca) = newest.context("the cluster did not begin")?;
        match to {
            Audience::Clients => self.renew_for_clients(house, &cluster_id, &ca)?,
            Audience::Nodes if self.addresses.cluster.is_none() => {}
            Audience::Nodes => self.renew_for_nodes(house, &cluster_id, &ca)?,
        }
        Ok(GoneOver { to, number: ca.number })
    }

    fn renew_for_clients(
        &self,
        house: &Unsealed,
        cluster_id: &str,
        ca: &ShownCa,
    ) -> anyhow::Result<()> {
        let ca_path = self.identity.ca_path();
        let known = tls::read_if_there(ca_path)?.map_or_else(Vec::new, |pem| certificates(&pem));
        let trusted_pem = ca.trusted_pem();
        if known != certificates(&trusted_pem) {
            tls::write_public(ca_path, trusted_pem.as_bytes())
                .with_context(|| format!("{} cannot be written", ca_path.display()))?;
            tracing::info!(
                ca = ca.number,
                path = %ca_path.display(),
                "operators and edges know this node by another CA: pin what is there now"
            );
        }
        if self.identity.is_due(SystemTime::now(), &ca.certificate_pem)? {
            let (request, names) = (self.identity.request()?, self.identity.names());
            let vault = &house.vault;
            let issued = sign::issue_server_certificate(cluster_id, ca, vault, &request, names)?;
            self.identity.install(&issued)?;
            tracing::info!(ca = ca.number, "the certificate for operators and edges was renewed");
        }
        Ok(())
    }

    fn renew_for_nodes(
        &self,
        house: &Unsealed,
        cluster_id: &str,
        ca: &ShownCa,
    ) -> anyhow::Result<()> {
        let dir = &self.config.data_dir;
        let (ca_path, pair) = (tls::node_ca_path(dir), tls::node_pair(dir));
        let trusted_pem = ca.trusted_pem();
        let trusted = certificates(&trusted_pem);
        // Not what the files say: a try that failed may have written them, and nobody is shown that.
        let loaded = self.line.now();
        let known = loaded.as_ref().map_or_else(Vec::new, |loaded| certificates(&loaded.ca_pem));
        let kept = pair.certificate()?;
        let renews = kept
            .as_ref()
            .is_none_or(|kept| kept.is_due(SystemTime::now()) || !kept.is_of(&ca.certificate_pem));
        let first = loaded.is_none();
        let is_shown = loaded.zip(kept).is_some_and(|(now, kept)| now.certificate_pem == kept.pem);
        if known == trusted && is_shown && !renews {
            return Ok(());
        }
        tls::write_public(&ca_path, trusted_pem.as_bytes())
            .with_context(|| format!("{} cannot be written", ca_path.display()))?;
        if renews {
            let (request, id) = (pair.request()?, house.cluster.node_id());
            let vault = &house.vault;
            let issued = sign::issue_node_certificate(cluster_id, ca, vault, &request, id)?;
            pair.install(&issued)?;
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

    /// Says so, if the cluster waits for that.
    pub(super) async fn tell_gone_over(
        &self,
        house: &Unsealed,
        GoneOver { to, number }: GoneOver,
    ) -> anyhow::Result<()> {
        let id = house.cluster.node_id();
        let is_waited_for = house.cluster.peek(|state| {
            state.shown_ca(to).is_some_and(|ca| ca.number == number)
                && state.nodes_to_renew(to).any(|node| node.id == id)
        });
        if is_waited_for {
            let command = Command::RenewNode { id, to, number };
            house.cluster.propose(Actor::System, command).await?;
        }
        Ok(())
    }
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect()
}

/// Returns once which CAs count may have changed.
pub(super) async fn shown_cas_changed(events: &mut broadcast::Receiver<Arc<Committed<Event>>>) {
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

/// With the last node that needs it, removed or not, a former CA ends.
fn may_change(event: &Event) -> bool {
    matches!(event, Event::CaChanged { .. } | Event::NodeChanged { .. } | Event::Restored)
}
