//! Edge certificates: short-lived, for clients only, and of them nothing but the key is the edge's own choice.

use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CidrSubnet, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{SignError, edge_ca_key};
use crate::state::Genesis;
use crate::vault::{SealError, Vault};

/// How long an edge's certificate holds. It is thirty days until edges renew theirs by themselves; then it is one.
pub const EDGE_CERTIFICATE_DAYS: u32 = 30;
const CA_DAYS: u32 = 3650;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate for an edge, and what the state keeps of it.
#[derive(Clone, Debug)]
pub struct EdgeCertificate {
    pub pem: String,
    /// SHA-256 of the SubjectPublicKeyInfo, as `Command::EnrollEdge` takes it.
    pub key_sha256: [u8; 32],
}

/// Signs a certificate for the edge `edge_id` and the public key of a certificate request (PKCS #10, PEM). Whatever
/// else the request asks for is not read.
///
/// # Errors
/// [`SignError::Request`] unless the request is signed by its own key; what the vault says of the CA's key.
pub fn issue_edge_certificate(
    genesis: &Genesis,
    vault: &Vault,
    csr_pem: &str,
    edge_id: &str,
) -> Result<EdgeCertificate, SignError> {
    let request =
        CertificateSigningRequestParams::from_pem(csr_pem).map_err(|_| SignError::Request)?;
    let key_pem = vault.open_payload(&edge_ca_key(&genesis.cluster_id), &genesis.edge_ca_key)?;
    let key_pem = std::str::from_utf8(&key_pem).map_err(|_| SealError::Tampered)?;
    let issuer = Issuer::from_ca_cert_pem(&genesis.edge_ca_pem, KeyPair::from_pem(key_pem)?)?;

    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, edge_id);
    params.subject_alt_names =
        vec![SanType::URI(Ia5String::try_from(edge_uri(&genesis.cluster_id, edge_id))?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, EDGE_CERTIFICATE_DAYS);
    let certificate = params.signed_by(&request.public_key, &issuer)?;
    let key_sha256 = Sha256::digest(request.public_key.subject_public_key_info()).into();
    Ok(EdgeCertificate { pem: certificate.pem(), key_sha256 })
}

/// The name in an edge's certificate.
pub(crate) fn edge_uri(cluster_id: &str, edge_id: &str) -> String {
    format!("spiffe://{cluster_id}/edge/{edge_id}")
}

/// The CA of edge certificates and its key, both PEM. It can name no server: every DNS name and address is excluded.
pub(super) fn make_edge_ca() -> Result<(String, Zeroizing<String>), SignError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Countersign edge CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: Vec::new(),
        excluded_subtrees: vec![
            GeneralSubtree::DnsName(String::new()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    valid_for(&mut params, CA_DAYS);
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Zeroizing::new(key.serialize_pem())))
}

/// The CA of what nodes show to each other, and its key, both PEM.
pub(super) fn make_node_ca() -> Result<(String, Zeroizing<String>), SignError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Countersign node CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, CA_DAYS);
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Zeroizing::new(key.serialize_pem())))
}

/// From yesterday, so that a peer whose clock is behind still takes it.
fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
}
