//! Certificates of edges, nodes and listeners: short-lived, and of them nothing but the key is their owner's choice.

use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CidrSubnet, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{SignError, edge_ca_key, shown_ca_key};
use crate::state::node::node_name;
use crate::state::{Audience, Command, EdgeCa, Payload, ShownCa};
use crate::vault::{Binding, SealError, Vault};

/// How long an edge's certificate holds: it renews it by itself. A CA that signs no more counts for longer
/// (`state::edge_ca::FORMER_CA_MS`).
pub const EDGE_CERTIFICATE_DAYS: u32 = 1;
/// How long what nodes show to each other holds, and what their listeners show.
pub const NODE_CERTIFICATE_DAYS: u32 = 90;
const CA_DAYS: u32 = 3650;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Behind every node's name; no DNS server has it.
const NODES: &str = "node.countersign";

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
    cluster_id: &str,
    ca: &EdgeCa,
    vault: &Vault,
    csr_pem: &str,
    edge_id: &str,
) -> Result<EdgeCertificate, SignError> {
    let key = read_request(csr_pem)?.public_key;
    let ca =
        Ca { pem: &ca.certificate_pem, binding: edge_ca_key(cluster_id, ca.number), key: &ca.key };
    let mut params = leaf(edge_id, &[ExtendedKeyUsagePurpose::ClientAuth], EDGE_CERTIFICATE_DAYS);
    params.subject_alt_names = vec![uri(&edge_uri(cluster_id, edge_id))?];
    let pem = ca.sign(vault, &params, &key)?;
    Ok(EdgeCertificate { pem, key_sha256: Sha256::digest(key.subject_public_key_info()).into() })
}

/// SHA-256 of the SubjectPublicKeyInfo in a certificate request, as `Command::EnrollEdge` takes it.
///
/// # Errors
/// [`SignError::Request`].
pub fn requested_key_sha256(csr_pem: &str) -> Result<[u8; 32], SignError> {
    let key = read_request(csr_pem)?.public_key;
    Ok(Sha256::digest(key.subject_public_key_info()).into())
}

/// The command that puts another CA for edges in force: the one of this number, whose key is made here and sealed.
///
/// # Errors
/// [`SignError::Certificate`] when it cannot be made.
pub fn edge_ca_rotation(
    cluster_id: &str,
    number: u64,
    vault: &Vault,
) -> Result<Command, SignError> {
    let (certificate_pem, key) = make_edge_ca(number)?;
    let key = vault.seal_payload(&edge_ca_key(cluster_id, number), key.as_bytes());
    Ok(Command::RotateEdgeCa { number, certificate_pem, key })
}

/// The command that puts another CA of what nodes show in force: the one of the number after this, whose key is made here
/// and sealed, and which this one signs.
///
/// # Errors
/// [`SignError::Certificate`] when it cannot be made; what the vault says of the present CA's key.
pub fn shown_ca_rotation(
    cluster_id: &str,
    to: Audience,
    present: &ShownCa,
    vault: &Vault,
) -> Result<Command, SignError> {
    let number = present.number.saturating_add(1);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate_pem = shown_ca_params(to, number, Place::Anchor).self_signed(&key)?.pem();
    let bridge = shown_ca_params(to, number, Place::Bridge);
    let bridge_pem = Ca::shown(cluster_id, to, present).sign(vault, &bridge, &key)?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    let key = vault.seal_payload(&shown_ca_key(cluster_id, to, number), key_pem.as_bytes());
    Ok(Command::RotateCa { to, number, certificate_pem, bridge_pem, key })
}

/// Signs the certificate (PEM) that the node `node_id` shows to other nodes, whichever of them dials; the bridge from the
/// CA before comes behind it, if there was one. Of the request, the key alone is read.
///
/// # Errors
/// As [`issue_edge_certificate`].
pub fn issue_node_certificate(
    cluster_id: &str,
    ca: &ShownCa,
    vault: &Vault,
    csr_pem: &str,
    node_id: u64,
) -> Result<String, SignError> {
    let key = read_request(csr_pem)?.public_key;
    let usages = [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let mut params = leaf(&node_name(node_id), &usages, NODE_CERTIFICATE_DAYS);
    params.subject_alt_names = vec![
        uri(&format!("spiffe://{cluster_id}/node/{}", node_name(node_id)))?,
        SanType::DnsName(Ia5String::try_from(node_dns_name(node_id))?),
    ];
    chain(cluster_id, Audience::Nodes, ca, vault, &params, &key)
}

/// Signs the certificate (PEM) of a listener for operators and edges, which find it under these DNS names and
/// addresses; the bridge as with [`issue_node_certificate`]. Of the request, the key alone is read.
///
/// # Errors
/// As [`issue_edge_certificate`]; [`SignError::Certificate`] for a name that is none.
pub fn issue_server_certificate(
    cluster_id: &str,
    ca: &ShownCa,
    vault: &Vault,
    csr_pem: &str,
    names: &[String],
) -> Result<String, SignError> {
    let key = read_request(csr_pem)?.public_key;
    let usages = [ExtendedKeyUsagePurpose::ServerAuth];
    let mut params = leaf("countersign control plane", &usages, NODE_CERTIFICATE_DAYS);
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    chain(cluster_id, Audience::Clients, ca, vault, &params, &key)
}

fn chain(
    cluster_id: &str,
    to: Audience,
    ca: &ShownCa,
    vault: &Vault,
    params: &CertificateParams,
    key: &impl PublicKeyData,
) -> Result<String, SignError> {
    let leaf = Ca::shown(cluster_id, to, ca).sign(vault, params, key)?;
    Ok([leaf.as_str()].into_iter().chain(ca.bridge_pem.as_deref()).collect())
}

/// What a node is dialled as by other nodes.
pub fn node_dns_name(node_id: u64) -> String {
    format!("{}.{NODES}", node_name(node_id))
}

/// A CA whose key lies in the vault.
struct Ca<'a> {
    pem: &'a str,
    binding: Binding,
    key: &'a Payload,
}

impl<'a> Ca<'a> {
    fn shown(cluster_id: &str, to: Audience, ca: &'a ShownCa) -> Self {
        let binding = shown_ca_key(cluster_id, to, ca.number);
        Self { pem: &ca.certificate_pem, binding, key: &ca.key }
    }

    fn sign(
        &self,
        vault: &Vault,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<String, SignError> {
        let key_pem = vault.open_payload(&self.binding, self.key)?;
        let key_pem = std::str::from_utf8(&key_pem).map_err(|_| SealError::Tampered)?;
        let issuer = Issuer::from_ca_cert_pem(self.pem, KeyPair::from_pem(key_pem)?)?;
        Ok(params.signed_by(key, &issuer)?.pem())
    }
}

fn read_request(csr_pem: &str) -> Result<CertificateSigningRequestParams, SignError> {
    CertificateSigningRequestParams::from_pem(csr_pem).map_err(|_| SignError::Request)
}

fn leaf(name: &str, usages: &[ExtendedKeyUsagePurpose], days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, days);
    params
}

fn uri(uri: &str) -> Result<SanType, SignError> {
    Ok(SanType::URI(Ia5String::try_from(uri)?))
}

/// The name in an edge's certificate.
fn edge_uri(cluster_id: &str, edge_id: &str) -> String {
    format!("spiffe://{cluster_id}/edge/{edge_id}")
}

/// The CA of edge certificates and its key, both PEM. It can name no server: every DNS name and address is excluded.
pub(super) fn make_edge_ca(number: u64) -> Result<(String, Zeroizing<String>), SignError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("Countersign edge CA {number}"));
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

/// The first CA of what nodes show to each other, and its key, both PEM.
pub(super) fn make_node_ca() -> Result<(String, Zeroizing<String>), SignError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let pem = shown_ca_params(Audience::Nodes, 1, Place::Anchor).self_signed(&key)?.pem();
    Ok((pem, Zeroizing::new(key.serialize_pem())))
}

/// Where in a chain a CA's certificate stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At its end: one bridge may come between it and what nodes show.
    Anchor,
    /// Right above what nodes show.
    Bridge,
}

/// That of nodes can name nodes, and no other host.
fn shown_ca_params(to: Audience, number: u64, place: Place) -> CertificateParams {
    let name = match to {
        Audience::Clients => "API",
        Audience::Nodes => "node",
    };
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("Countersign {name} CA {number}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(u8::from(place == Place::Anchor)));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    if to == Audience::Nodes {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(NODES.to_owned())],
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
    }
    valid_for(&mut params, CA_DAYS);
    params
}

/// From yesterday, so that a peer whose clock is behind still takes it.
fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
}
