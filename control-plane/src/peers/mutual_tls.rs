//! Channels to other nodes: TLS 1.3 under the node CA, a certificate on both sides, and the node's own name in it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use zeroize::Zeroizing;

use super::identity::dns_name;
use crate::cluster::Transport;

/// A node that does not answer at all is given up after this long: Raft's patience is shorter than TCP's.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection that is dead without a word is noticed after both.
const KEEPALIVE: Duration = Duration::from_millis(200);
const KEEPALIVE_ANSWER: Duration = Duration::from_millis(400);

/// What a node shows to others, and how it knows them.
pub struct NodeIdentity {
    /// Its certificate, which names it, for servers and for clients.
    pub certificate_pem: String,
    pub key_pem: Zeroizing<String>,
    /// The node CA.
    pub ca_pem: String,
}

/// Why a node's identity cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("other nodes cannot be reached: {0}; restore this node's TLS files, or add it anew")]
pub struct TlsError(String);

/// Reaches other nodes, and knows each by its own name; is reached by them.
pub struct MutualTls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// By node: where it was found last, and the channel to there.
    channels: Mutex<HashMap<u64, (String, Channel)>>,
}

impl MutualTls {
    /// # Errors
    /// When certificate, key and CA are not PEM or do not belong together.
    pub fn new(identity: &NodeIdentity) -> Result<Self, TlsError> {
        let unusable = |what: &str| TlsError(format!("{what} cannot be used"));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(identity.ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|_| unusable("the node CA"))?;
            roots.add(certificate).map_err(|_| unusable("the node CA"))?;
        }
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| unusable("this node's certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
            .map_err(|_| unusable("this node's key"))?;
        let (roots, provider) = (Arc::new(roots), Arc::new(default_provider()));
        let other = |e: &dyn std::error::Error| TlsError(e.to_string());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|e| other(&e))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| other(&e))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|e| other(&e))?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| other(&e))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| other(&e))?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        client.alpn_protocols = vec![b"h2".to_vec()];
        let channels = Mutex::new(HashMap::new());
        Ok(Self { server: Arc::new(server), client: Arc::new(client), channels })
    }

    /// For the listener that other nodes come to: a connection without a node's certificate ends in the handshake.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    fn connect(&self, node: u64, address: &str) -> Channel {
        let (address, tls) = (address.to_owned(), TlsConnector::from(self.client.clone()));
        let connector = tower::service_fn(move |_| {
            let (address, tls) = (address.clone(), tls.clone());
            async move {
                let connecting = async {
                    let tcp = TcpStream::connect(&address).await?;
                    tcp.set_nodelay(true)?;
                    let name = ServerName::try_from(dns_name(node)).map_err(io::Error::other)?;
                    tls.connect(name, tcp).await.map(TokioIo::new)
                };
                tokio::time::timeout(CONNECT, connecting).await.map_err(|_| {
                    io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {address}"))
                })?
            }
        });
        // TLS is the connector's, so the endpoint must not add its own.
        Endpoint::from_static("http://node.countersign")
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }
}

impl Transport for MutualTls {
    fn channel(&self, node: u64, address: &str) -> Channel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        match channels.get(&node) {
            Some((found, channel)) if found == address => channel.clone(),
            _ => {
                let channel = self.connect(node, address);
                channels.insert(node, (address.to_owned(), channel.clone()));
                channel
            }
        }
    }
}
