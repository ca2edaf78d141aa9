//! The API's CA while its key lies on this node's disk: from the first start until the cluster has begun.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::{api_ca_path, folder, make_folder, write_private, write_public};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A CA that can sign. It has no `Debug`.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The CA in `data_dir`, or a new one; none when the vault has its key.
    pub(super) fn open_or_make(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let (ca_path, key_path) = (api_ca_path(data_dir), key_path(data_dir));
        match (ca_path.exists(), key_path.exists()) {
            (true, true) => read(&ca_path, &key_path).map(Some),
            // The key goes first, so a key without a certificate was left by a first start that was cut short.
            (false, _) => make(data_dir, &ca_path, &key_path).map(Some),
            (true, false) => Ok(None),
        }
    }

    /// A certificate for the key of a request, with these names.
    pub(super) fn issue(&self, request: &str, names: &[String]) -> anyhow::Result<String> {
        let request = CertificateSigningRequestParams::from_pem(request)?;
        let mut params = CertificateParams::new(names)
            .context("the server names are not DNS names or addresses")?;
        params.distinguished_name.push(DnType::CommonName, "countersign control plane");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, 397);
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }
}

/// The key, for the vault to take when the cluster begins.
pub(super) fn key_pem(data_dir: &Path) -> anyhow::Result<Zeroizing<String>> {
    let path = key_path(data_dir);
    let read = fs::read_to_string(&path).map(Zeroizing::new);
    read.with_context(|| {
        format!("the API CA's key cannot be read from {}; restore it", path.display())
    })
}

/// Removes the key: the vault has it.
pub(super) fn forget_key(data_dir: &Path) -> anyhow::Result<()> {
    let path = key_path(data_dir);
    match fs::remove_file(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        removed => {
            removed.and_then(|()| fs::File::open(folder(data_dir))?.sync_all()).with_context(|| {
                format!(
                    "the API CA's key is in the vault, and still in {}: remove it",
                    path.display()
                )
            })
        }
    }
}

/// The certificate of the CA.
pub(super) fn certificate_pem(data_dir: &Path) -> anyhow::Result<String> {
    let path = api_ca_path(data_dir);
    let damaged = || {
        format!(
            "the API's CA is damaged ({}): copy that file from another node, or from whoever pins it",
            path.display()
        )
    };
    let pem = fs::read_to_string(&path).with_context(damaged)?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok().with_context(damaged)?;
    x509_parser::parse_x509_certificate(&der).ok().with_context(damaged)?;
    Ok(pem)
}

fn key_path(data_dir: &Path) -> PathBuf {
    folder(data_dir).join("api-ca.key")
}

fn read(ca_path: &Path, key_path: &Path) -> anyhow::Result<Authority> {
    let damaged = || {
        format!(
            "the API's CA is damaged ({} or {}); restore both",
            ca_path.display(),
            key_path.display()
        )
    };
    let pem = fs::read_to_string(ca_path).with_context(damaged)?;
    let key_pem = fs::read_to_string(key_path).map(Zeroizing::new).with_context(damaged)?;
    let key = KeyPair::from_pem(&key_pem).with_context(damaged)?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok().with_context(damaged)?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(&certificate).ok().with_context(damaged)?;
    if parsed.public_key().subject_public_key.data != key.public_key_raw() {
        anyhow::bail!(damaged());
    }
    let issuer = Issuer::from_ca_cert_pem(&pem, key).with_context(damaged)?;
    Ok(Authority { issuer })
}

fn make(data_dir: &Path, ca_path: &Path, key_path: &Path) -> anyhow::Result<Authority> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Countersign API CA 1");
    // Between it and what nodes show may come the next one, which it signs.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, 3650);
    let pem = params.self_signed(&key)?.pem();
    let failed = || format!("the API's CA could not be written to {}", ca_path.display());
    make_folder(data_dir).with_context(failed)?;
    write_private(key_path, Zeroizing::new(key.serialize_pem()).as_bytes()).with_context(failed)?;
    write_public(ca_path, pem.as_bytes()).with_context(failed)?;
    Ok(Authority { issuer: Issuer::new(params, key) })
}

/// From yesterday, so that a client whose clock is behind still takes it.
fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
}
