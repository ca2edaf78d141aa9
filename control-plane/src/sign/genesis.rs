//! The keys that a cluster begins with.

use ed25519_dalek::SigningKey;
use rand::Rng as _;
use zeroize::Zeroizing;

use super::certificate::make_edge_ca;
use super::{SignError, edge_ca_key, node_key, root_key};
use crate::state::{Genesis, Payload};
use crate::vault::{Binding, Vault};

/// Makes a cluster's first keys, sealed: this node's, the root's and the edge CA's. `cluster_id` is the trust domain
/// of edge identities, so it is a DNS label: lower-case letters, digits and dashes.
///
/// # Errors
/// [`SignError::Certificate`] when the edge CA cannot be made.
pub fn genesis(
    vault: &Vault,
    cluster_id: &str,
    org_id: &str,
    node_id: u64,
    admin_token_sha256: [u8; 32],
) -> Result<Genesis, SignError> {
    let (node_public_key, node_private_key) = make_key(vault, &node_key(cluster_id, node_id));
    let (root_public_key, root_private_key) = make_key(vault, &root_key(cluster_id));
    let (edge_ca_pem, key_pem) = make_edge_ca()?;
    Ok(Genesis {
        cluster_id: cluster_id.to_owned(),
        org_id: org_id.to_owned(),
        node_id,
        node_public_key,
        node_private_key,
        root_public_key,
        root_private_key,
        edge_ca_pem,
        edge_ca_key: vault.seal_payload(&edge_ca_key(cluster_id), key_pem.as_bytes()),
        admin_token_sha256,
    })
}

fn make_key(vault: &Vault, binding: &Binding) -> ([u8; 32], Payload) {
    let mut seed = Zeroizing::new([0; 32]);
    rand::rng().fill_bytes(seed.as_mut_slice());
    let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    (public, vault.seal_payload(binding, seed.as_slice()))
}
