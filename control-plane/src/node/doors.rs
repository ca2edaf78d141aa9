//! What the listeners for edges and for nodes offer right now.

use std::fs;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::Node;
use crate::listen::Door;
use crate::operator::refuse;

/// The doors that change when the node is sealed.
pub(super) struct Doors {
    gateway: watch::Sender<Door<Routes>>,
}

impl Doors {
    /// Doors that nobody comes in by, and what serves them.
    pub(super) fn shut() -> (Self, watch::Receiver<Door<Routes>>) {
        let shut = Door { tls: None, service: sealed(), cut: CancellationToken::new() };
        let (gateway, gateway_door) = watch::channel(shut);
        (Self { gateway }, gateway_door)
    }
}

impl Node {
    /// Lets edges in.
    pub(super) fn open_gateway(&self, edge_ca_pem: &str, service: Routes) -> anyhow::Result<()> {
        let tls = Some(self.identity.for_certificates(edge_ca_pem)?);
        change(&self.doors.gateway, Door { tls, service, cut: CancellationToken::new() });
        Ok(())
    }

    /// Edges that are attached are cut off; those that come are told that the node is sealed.
    pub(super) fn show_sealed(&self) {
        let edge_ca = fs::read_to_string(self.edge_ca_path()).ok();
        let tls = edge_ca.and_then(|pem| self.identity.for_certificates(&pem).ok());
        let door = Door { tls, service: sealed(), cut: CancellationToken::new() };
        change(&self.doors.gateway, door);
    }
}

/// Who came in by the former door is cut off.
fn change(door: &watch::Sender<Door<Routes>>, new: Door<Routes>) {
    door.send_replace(new).cut.cancel();
}

fn sealed() -> Routes {
    Routes::from(
        axum::Router::new().fallback(|| async { refuse::sealed().into_http::<axum::body::Body>() }),
    )
}
