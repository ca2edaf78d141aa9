//! The way to other nodes, under the certificate that this node has right now.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use tonic::transport::Channel;

use crate::cluster::{NoPeers, Transport};
use crate::peers::{MutualTls, NodeIdentity};
use crate::tls;

/// Reaches nobody until this node has a certificate; what is asked for after a renewal is under the new one.
#[derive(Default)]
pub(super) struct Line(RwLock<Option<Loaded>>);

/// What is shown and trusted right now, whatever the files say meanwhile.
#[derive(Clone)]
pub(super) struct Loaded {
    tls: Arc<MutualTls>,
    pub(super) certificate_pem: String,
    pub(super) ca_pem: String,
}

impl Line {
    /// Takes the certificate, its key and the node CAs from `data_dir`; says whether they are there.
    ///
    /// # Errors
    /// They cannot be read, or do not belong together.
    pub(super) fn load(&self, data_dir: &Path) -> anyhow::Result<bool> {
        let pair = tls::node_pair(data_dir);
        let Some(ca_pem) = tls::read_if_there(&tls::node_ca_path(data_dir))? else {
            return Ok(false);
        };
        let Some(certificate) = pair.certificate()? else { return Ok(false) };
        let identity =
            NodeIdentity { certificate_pem: certificate.pem, key_pem: pair.key_pem()?, ca_pem };
        let tls = Arc::new(MutualTls::new(&identity)?);
        let NodeIdentity { certificate_pem, ca_pem, .. } = identity;
        let loaded = Loaded { tls, certificate_pem, ca_pem };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
        Ok(true)
    }

    /// For the listener that other nodes come to; none while this node has nothing to show.
    pub(super) fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.now().map(|loaded| loaded.tls.server_config())
    }

    /// None before anything was loaded.
    pub(super) fn now(&self) -> Option<Loaded> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Transport for Line {
    fn channel(&self, node: u64, address: &str) -> Channel {
        match self.now() {
            Some(loaded) => loaded.tls.channel(node, address),
            None => NoPeers.channel(node, address),
        }
    }
}
