//! Whose certificates edges are let in by: it follows the state, without a restart.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{Node, Unsealed};
use crate::cluster::Committed;
use crate::state::{EdgeCa, Event};
use crate::tls::write_public;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Until the node is sealed. `shown` is what the listener for edges takes so far.
pub(super) async fn follow_edge_ca(
    node: Arc<Node>,
    house: Arc<Unsealed>,
    mut events: broadcast::Receiver<Arc<Committed<Event>>>,
    mut shown: String,
) {
    loop {
        let trusted = house.cluster.peek(|state| state.edge_ca().map(EdgeCa::trusted_pem));
        if let Some(trusted) = trusted.filter(|trusted| *trusted != shown) {
            match node.let_edges_in_by(&shown, &trusted) {
                Ok(()) => {
                    tracing::info!("which CAs let edges in was changed");
                    if let Err(error) = node.keep_edge_ca(&trusted) {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "the edges' CA is not on disk: once this node is sealed, newly enrolled edges cannot be told so"
                        );
                    }
                    shown = trusted;
                }
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "which CAs let edges in was not changed yet; it is tried again"
                    );
                    tokio::select! {
                        () = house.closing.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => continue,
                    }
                }
            }
        }
        loop {
            let event = tokio::select! {
                () = house.closing.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(event) if may_change(&event) => break,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}

impl Node {
    fn let_edges_in_by(&self, shown: &str, trusted: &str) -> anyhow::Result<()> {
        let all_count_still = trusted.ends_with(shown);
        if all_count_still { self.widen_gateway(trusted) } else { self.narrow_gateway(trusted) }
    }

    /// For a sealed restart: edges are then told that the node is sealed, by one that they know.
    pub(super) fn keep_edge_ca(&self, trusted: &str) -> anyhow::Result<()> {
        let path = self.edge_ca_path();
        write_public(&path, trusted.as_bytes())
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// With time, the former CA ends.
fn may_change(event: &Event) -> bool {
    matches!(event, Event::EdgeCaChanged { .. } | Event::Restored | Event::Ticked { .. })
}
