//! What this node shows to operators and edges: one certificate for both, which can change while it is shown.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use anyhow::Context as _;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use super::authority::{self, Authority};
use super::pair::{Certificate, Pair};
use super::{api_ca_path, server_pair};

/// The CAs that clients pin, and this node's certificate of it.
pub(crate) struct ServerIdentity {
    data_dir: PathBuf,
    ca_path: PathBuf,
    /// What the certificate should say.
    names: Vec<String>,
    pair: Pair,
    shown: Arc<Shown>,
}

impl ServerIdentity {
    /// Takes what is in `data_dir`. On a node whose cluster has not begun, makes what is not there, and issues the
    /// certificate anew when the names are others.
    ///
    /// # Errors
    /// What is damaged or gone, and what to do.
    pub(crate) fn open(data_dir: &Path, server_names: &[String]) -> anyhow::Result<Self> {
        let authority = Authority::open_or_make(data_dir)?;
        authority::certificate_pem(data_dir)?;
        let pair = server_pair(data_dir);
        let names = with_local(server_names);
        let certificate = match (pair.certificate()?, &authority) {
            (Some(certificate), None) => certificate,
            (Some(certificate), Some(_)) if fits(&certificate, &names) => certificate,
            (_, Some(authority)) => pair.install(&authority.issue(&pair.request()?, &names)?)?,
            (None, None) => anyhow::bail!(
                "this node has nothing to show to its clients: {} is gone; restore it from a backup of this node, or remove the node and add it anew",
                pair.certificate_path().display()
            ),
        };
        let shown = Arc::new(Shown(RwLock::new(certified(&pair, &certificate)?.into())));
        Ok(Self {
            ca_path: api_ca_path(data_dir),
            data_dir: data_dir.to_owned(),
            names,
            pair,
            shown,
        })
    }

    /// The certificates of the CAs that clients pin.
    pub(crate) fn ca_path(&self) -> &Path {
        &self.ca_path
    }

    /// What is there now.
    pub(crate) fn ca_pem(&self) -> anyhow::Result<String> {
        authority::certificate_pem(&self.data_dir)
    }

    /// The CA's key, which lies beside its certificate until the cluster has begun.
    pub(crate) fn ca_key_pem(&self) -> anyhow::Result<Zeroizing<String>> {
        authority::key_pem(&self.data_dir)
    }

    /// To be called once the cluster has begun: the vault has the CA's key.
    pub(crate) fn forget_ca_key(&self) -> anyhow::Result<()> {
        authority::forget_key(&self.data_dir)
    }

    /// What the certificate should say.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// A certificate request (PKCS #10, PEM).
    pub(crate) fn request(&self) -> anyhow::Result<String> {
        self.pair.request()
    }

    /// Whether it is time for another certificate: two thirds of its life are over, the names are others, or it is not
    /// of this CA.
    pub(crate) fn is_due(&self, now: SystemTime, ca_pem: &str) -> anyhow::Result<bool> {
        let certificate = self.pair.certificate()?;
        Ok(certificate
            .is_none_or(|it| it.is_due(now) || !fits(&it, &self.names) || !it.is_of(ca_pem)))
    }

    /// Shows this certificate from now on.
    pub(crate) fn install(&self, certificate_pem: &str) -> anyhow::Result<()> {
        let certificate = self.pair.install(certificate_pem)?;
        self.shown.show(certified(&self.pair, &certificate)?);
        Ok(())
    }

    /// For clients that authenticate by token.
    pub(crate) fn for_tokens(&self) -> anyhow::Result<Arc<ServerConfig>> {
        self.config(WebPkiClientVerifier::no_client_auth())
    }

    /// For clients with a certificate of `client_ca_pem`; any other ends in the handshake.
    pub(crate) fn for_certificates(
        &self,
        client_ca_pem: &str,
    ) -> anyhow::Result<Arc<ServerConfig>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(client_ca_pem.as_bytes()) {
            roots.add(certificate.context("the edges' CA is not PEM")?)?;
        }
        let provider = Arc::new(default_provider());
        self.config(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
    }

    fn config(
        &self,
        clients: Arc<dyn rustls::server::danger::ClientCertVerifier>,
    ) -> anyhow::Result<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(self.shown.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The certificate that the next handshake shows.
struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    fn show(&self, key: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

/// The names that every certificate has, and these.
pub(crate) fn with_local(server_names: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for name in server_names {
        // As it is read back out of a certificate.
        let name = name.parse::<IpAddr>().map_or_else(|_| name.clone(), |ip| ip.to_string());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn fits(certificate: &Certificate, names: &[String]) -> bool {
    certificate.names == names.iter().cloned().collect::<BTreeSet<_>>()
}

fn certified(pair: &Pair, certificate: &Certificate) -> anyhow::Result<CertifiedKey> {
    let pem = pair.key_pem()?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())?;
    let key = default_provider().key_provider.load_private_key(key)?;
    let chain = CertificateDer::pem_slice_iter(certificate.pem.as_bytes());
    Ok(CertifiedKey::new(chain.collect::<Result<_, _>>()?, key))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// Whether a client that looks for this name is satisfied.
    async fn is_shown(config: &Arc<ServerConfig>, ca_pem: &str, name: &'static str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector = TlsConnector::from(Arc::new(client));
        let connecting = connector.connect(ServerName::try_from(name).unwrap(), near);
        let accepting = TlsAcceptor::from(config.clone()).accept(far);
        tokio::join!(connecting, accepting).0.is_ok()
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_shown_by_listeners_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let identity = ServerIdentity::open(folder.path(), &["old.example".into()]).unwrap();
        let (config, ca) = (identity.for_tokens().unwrap(), identity.ca_pem().unwrap());
        assert!(is_shown(&config, &ca, "old.example").await);
        assert!(!is_shown(&config, &ca, "new.example").await);

        let authority = Authority::open_or_make(folder.path()).unwrap().unwrap();
        let request = identity.request().unwrap();
        let names = ["old.example".to_owned(), "new.example".to_owned()];
        identity.install(&authority.issue(&request, &names).unwrap()).unwrap();
        assert!(is_shown(&config, &ca, "new.example").await);
        assert!(
            identity.is_due(SystemTime::now(), &ca).unwrap(),
            "its names are not those it should have"
        );

        // One of another key is not shown.
        let stranger = tempfile::tempdir().unwrap();
        let stranger = ServerIdentity::open(stranger.path(), &[]).unwrap();
        let request = stranger.request().unwrap();
        assert!(identity.install(&authority.issue(&request, &names).unwrap()).is_err());
        assert!(is_shown(&config, &ca, "new.example").await);
    }
}
