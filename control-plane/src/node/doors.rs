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
    peers: watch::Sender<Door<Routes>>,
}

impl Doors {
    /// Doors that nobody comes in by, until they are opened.
    pub(super) fn shut() -> Self {
        let shut = || Door { tls: None, service: sealed_service(), cut: CancellationToken::new() };
        Self { gateway: watch::channel(shut()).0, peers: watch::channel(shut()).0 }
    }

    /// For the listener of edges.
    pub(super) fn gateway(&self) -> watch::Receiver<Door<Routes>> {
        self.gateway.subscribe()
    }

    /// For the listener of nodes.
    pub(super) fn peers(&self) -> watch::Receiver<Door<Routes>> {
        self.peers.subscribe()
    }
}

impl Node {
    /// Lets edges in.
    pub(super) fn open_gateway(&self, edge_ca_pem: &str, service: Routes) -> anyhow::Result<()> {
        let tls = Some(self.identity.for_certificates(edge_ca_pem)?);
        change(&self.doors.gateway, Door { tls, service, cut: CancellationToken::new() });
        Ok(())
    }

    /// Takes certificates of another CA too; whoever is connected stays.
    pub(super) fn widen_gateway(&self, edge_ca_pem: &str) -> anyhow::Result<()> {
        let tls = Some(self.identity.for_certificates(edge_ca_pem)?);
        self.doors.gateway.send_modify(|door| door.tls = tls);
        Ok(())
    }

    /// Takes certificates of fewer CAs. Whoever is connected is cut off, since nobody knows any more which CA let them
    /// in; edges that have renewed their certificates attach again at once.
    pub(super) fn narrow_gateway(&self, edge_ca_pem: &str) -> anyhow::Result<()> {
        let service = self.doors.gateway.borrow().service.clone();
        self.open_gateway(edge_ca_pem, service)
    }

    /// Lets other nodes in.
    pub(super) fn open_to_peers(&self, service: Routes) {
        let tls = self.line.server_config();
        change(&self.doors.peers, Door { tls, service, cut: CancellationToken::new() });
    }

    /// Shows other nodes the newest certificate; whoever is connected stays.
    pub(super) fn show_peers_newest(&self) {
        self.doors.peers.send_modify(|door| door.tls = self.line.server_config());
    }

    /// Takes certificates of fewer CAs. Whoever is connected is cut off, since nobody knows any more which CA let them
    /// in; the other nodes connect again at once.
    pub(super) fn narrow_peers(&self) {
        let service = self.doors.peers.borrow().service.clone();
        self.open_to_peers(service);
    }

    /// Edges and nodes that are connected are cut off; those that come are told that the node is sealed.
    pub(super) fn show_sealed(&self) {
        let edge_ca = fs::read_to_string(self.edge_ca_path()).ok();
        let gateway = edge_ca.and_then(|pem| self.identity.for_certificates(&pem).ok());
        for (door, tls) in
            [(&self.doors.gateway, gateway), (&self.doors.peers, self.line.server_config())]
        {
            change(door, Door { tls, service: sealed_service(), cut: CancellationToken::new() });
        }
    }
}

/// Who came in by the former door is cut off.
fn change(door: &watch::Sender<Door<Routes>>, new: Door<Routes>) {
    door.send_replace(new).cut.cancel();
}

fn sealed_service() -> Routes {
    Routes::from(
        axum::Router::new().fallback(|| async { refuse::sealed().into_http::<axum::body::Body>() }),
    )
}
