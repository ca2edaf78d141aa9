//! The API's own CA, the servers' certificate, and what a listener demands of its clients.
//!
//! The CA is made at the first start and stays: `data_dir/api-ca.pem` is what operators and edges pin. The
//! certificate and its key are made anew at each start and never touch the disk.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The API's CA and one certificate of it, for both listeners.
pub(crate) struct ServerIdentity {
    ca_path: PathBuf,
    ca_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ServerIdentity {
    /// Takes the CA from `data_dir`, or makes one there, and issues a certificate for this process.
    pub(crate) fn open(data_dir: &Path, server_names: &[String]) -> anyhow::Result<Self> {
        let ca_path = data_dir.join("api-ca.pem");
        let key_path = data_dir.join("tls").join("api-ca.key");
        let (ca_pem, issuer) = match (ca_path.exists(), key_path.exists()) {
            (true, true) => read_ca(&ca_path, &key_path)?,
            // The key goes first, so a certificate without a key was not left by a first start that was cut short.
            (false, _) => make_ca(&ca_path, &key_path)?,
            (true, false) => anyhow::bail!(
                "the API's CA cannot sign: {} is gone; restore it, or remove {} to make a new CA that every client must be given",
                key_path.display(),
                ca_path.display()
            ),
        };
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        names.extend(
            server_names.iter().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>(),
        );
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names)
            .context("the server names are not DNS names or addresses")?;
        params.distinguished_name.push(DnType::CommonName, "countersign control plane");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, 397);
        let certificate = params.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self { ca_path, ca_pem, chain: vec![certificate.der().clone()], key })
    }

    /// The CA's certificate: stable across restarts.
    pub(crate) fn ca_path(&self) -> &Path {
        &self.ca_path
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The CA's key, as long as it still lies beside its certificate: the vault takes it when the cluster begins.
    pub(crate) fn ca_key_pem(&self) -> anyhow::Result<Zeroizing<String>> {
        let path = self.ca_path.with_file_name("tls").join("api-ca.key");
        let read = fs::read_to_string(&path).map(Zeroizing::new);
        read.with_context(|| format!("the API CA's key cannot be read from {}", path.display()))
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
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    write_whole(path, bytes, 0o600)
}

/// Writes a file that anybody may read, whole or not at all.
pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    write_whole(path, bytes, 0o644)
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn read_ca(ca_path: &Path, key_path: &Path) -> anyhow::Result<(String, Issuer<'static, KeyPair>)> {
    let damaged = || {
        format!(
            "the API's CA is damaged ({} or {}); restore both",
            ca_path.display(),
            key_path.display()
        )
    };
    let ca_pem = fs::read_to_string(ca_path).with_context(damaged)?;
    let key_pem = Zeroizing::new(fs::read_to_string(key_path).with_context(damaged)?);
    let key = KeyPair::from_pem(&key_pem).with_context(damaged)?;
    let certificate =
        CertificateDer::from_pem_slice(ca_pem.as_bytes()).ok().with_context(damaged)?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(&certificate).ok().with_context(damaged)?;
    if parsed.public_key().subject_public_key.data != key.public_key_raw() {
        anyhow::bail!(damaged());
    }
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).with_context(damaged)?;
    Ok((ca_pem, issuer))
}

fn make_ca(ca_path: &Path, key_path: &Path) -> anyhow::Result<(String, Issuer<'static, KeyPair>)> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Countersign API CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, 3650);
    let ca_pem = params.self_signed(&key)?.pem();
    let failed = || format!("the API's CA could not be written to {}", ca_path.display());
    if let Some(folder) = key_path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(failed)?;
    }
    write_private(key_path, Zeroizing::new(key.serialize_pem()).as_bytes()).with_context(failed)?;
    write_public(ca_path, ca_pem.as_bytes()).with_context(failed)?;
    Ok((ca_pem, Issuer::new(params, key)))
}

/// From yesterday, so that a client whose clock is behind still takes it.
fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
}
