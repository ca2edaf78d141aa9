//! The keys that a cluster begins with.

use countersign_gate::{KeyState, NodeKey, TRUST_TYPE, Trust};
use ed25519_dalek::SigningKey;
use rand::Rng as _;
use zeroize::Zeroizing;

use super::certificate::{make_edge_ca, make_node_ca};
use super::keys::SigningKeys;
use super::{SignError, edge_ca_key, shown_ca_key, signed_bytes};
use crate::state::{Audience, Genesis, Node};
use crate::vault::Vault;

/// Ed25519 seed of a cluster's trust root. Whoever has it says whom edges trust.
pub struct RootKey(Zeroizing<[u8; 32]>);

impl RootKey {
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(seed.as_mut_slice());
        Self(seed)
    }

    /// From 64 hexadecimal digits, blanks around them allowed.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), seed.as_mut_slice()).ok()?;
        Some(Self(seed))
    }

    /// 64 hexadecimal digits: for the one file that keeps it.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0.as_slice()))
    }

    pub fn public(&self) -> [u8; 32] {
        SigningKey::from_bytes(&self.0).verifying_key().to_bytes()
    }

    /// Signs an encoded trust bundle.
    pub fn sign(&self, trust: Vec<u8>) -> crate::state::SignedBytes {
        signed_bytes(&SigningKey::from_bytes(&self.0), TRUST_TYPE, trust)
    }
}

/// What a cluster begins with beside its own keys.
pub struct Beginning<'a> {
    /// The trust domain of identities, so it is a DNS label: lower-case letters, digits and dashes.
    pub cluster_id: &'a str,
    pub org_id: &'a str,
    /// The first node; its one public key is taken from `keys`.
    pub node: Node,
    pub admin_token_sha256: [u8; 32],
    /// CA of the API: its certificate, and its key.
    pub api_ca_pem: &'a str,
    pub api_ca_key_pem: &'a str,
}

/// Makes a cluster's first keys, sealed, and its first trust bundle, signed by `root`: the node alone.
///
/// # Errors
/// [`SignError::Certificate`] when a CA cannot be made.
pub fn genesis(
    vault: &Vault,
    root: &RootKey,
    keys: &SigningKeys,
    beginning: Beginning<'_>,
) -> Result<Genesis, SignError> {
    let Beginning { cluster_id, org_id, node, admin_token_sha256, api_ca_pem, api_ca_key_pem } =
        beginning;
    let public = keys.newest_public();
    let trust = Trust {
        cluster: cluster_id.to_owned(),
        epoch: 1,
        threshold: 1,
        keys: vec![NodeKey { node: node.id, public, state: KeyState::Active }],
    };
    let (edge_ca_pem, edge_key) = make_edge_ca(1)?;
    let (node_ca_pem, node_key) = make_node_ca()?;
    Ok(Genesis {
        cluster_id: cluster_id.to_owned(),
        org_id: org_id.to_owned(),
        node: Node { public_keys: vec![public], ..node },
        root_public_key: root.public(),
        trust: root.sign(trust.encode()),
        seal_file: vault.seal_file(),
        edge_ca_pem,
        edge_ca_key: vault.seal_payload(&edge_ca_key(cluster_id, 1), edge_key.as_bytes()),
        node_ca_pem,
        node_ca_key: vault
            .seal_payload(&shown_ca_key(cluster_id, Audience::Nodes, 1), node_key.as_bytes()),
        api_ca_pem: api_ca_pem.to_owned(),
        api_ca_key: vault.seal_payload(
            &shown_ca_key(cluster_id, Audience::Clients, 1),
            api_ca_key_pem.as_bytes(),
        ),
        admin_token_sha256,
    })
}
