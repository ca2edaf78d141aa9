//! What a start does without being asked, and the first command of a cluster's life.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Node;
use super::life::UnsealError;
use crate::cluster::{Cluster, ProposeError};
use crate::config::SealConfig;
use crate::sign::{self, RootKey, SigningKeys};
use crate::state::{self, Actor, Command};
use crate::tls::write_private;
use crate::vault::{Unsealing, Vault};

impl Node {
    /// Unseals the node, or begins a cluster, if that takes nobody.
    pub(super) async fn begin(self: &Arc<Self>) -> anyhow::Result<()> {
        let dir = &self.config.data_dir;
        let there = Vault::exists(dir);
        let unsealing = match &self.config.seal {
            SealConfig::KeyFile(path) => Unsealing::KeyFile(path.clone()),
            SealConfig::PassphraseFile(path) if !there => {
                Unsealing::Passphrase(read_passphrase(path)?)
            }
            _ => {
                if there && Vault::parameters(dir)?.provider != "passphrase" {
                    anyhow::bail!(
                        "the vault in {} was made with a key file: set seal.provider = \"key-file\" and seal.key_file",
                        dir.display()
                    );
                }
                tracing::warn!("the node is sealed: `countersign seal unseal` opens it");
                return Ok(());
            }
        };
        let _one_at_a_time = self.changing.lock().await;
        self.open(unsealing).await.map_err(|e| match e {
            UnsealError::Start(error) => error,
            error => anyhow::Error::new(error),
        })
    }

    /// The first command of the cluster's life. The token is on disk before the cluster knows it: whatever is cut
    /// short, nobody is left without one.
    pub(super) async fn found(&self, cluster: &Cluster, vault: &Vault) -> anyhow::Result<()> {
        let path = self.admin_token_path();
        let token = match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => {
                Zeroizing::new(Zeroizing::new(text).trim().to_owned())
            }
            _ => {
                let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
                let token = Zeroizing::new(format!(
                    "cs_adm_{}",
                    BASE64_URL_SAFE_NO_PAD.encode(bytes.as_slice())
                ));
                let line = Zeroizing::new(format!("{}\n", token.as_str()));
                write_private(&path, line.as_bytes()).with_context(|| {
                    format!("the admin token cannot be written to {}", path.display())
                })?;
                token
            }
        };
        let cluster_id = hex::encode(rand::random::<[u8; 16]>());
        let admin = Sha256::digest(token.as_bytes()).into();
        let root = self.root_key()?;
        let keys = SigningKeys::open_or_make(&self.config.data_dir, vault)?;
        let ca_key = self.identity.ca_key_pem()?;
        let beginning = sign::Beginning {
            cluster_id: &cluster_id,
            org_id: &self.config.org_id,
            node: state::Node {
                id: cluster.node_id(),
                name: self.config.cluster.name.clone(),
                addresses: self.addresses.told().clone(),
                public_keys: Vec::new(),
                removed: false,
                joined_at: 0,
            },
            admin_token_sha256: admin,
            api_ca_pem: self.identity.ca_pem(),
            api_ca_key_pem: &ca_key,
        };
        let genesis = sign::genesis(vault, &root, &keys, beginning)?;
        match cluster.propose(Actor::System, Command::Genesis(Box::new(genesis))).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Refused(why)) => {
                Err(anyhow::anyhow!("the cluster did not begin: {why}"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// On disk before the cluster knows its public half, for the same reason.
    fn root_key(&self) -> anyhow::Result<RootKey> {
        let path = self.config.data_dir.join("trust-root.key");
        if let Ok(text) = fs::read_to_string(&path).map(Zeroizing::new)
            && let Some(root) = RootKey::from_hex(&text)
        {
            return Ok(root);
        }
        let root = RootKey::generate();
        let line = Zeroizing::new(format!("{}\n", root.to_hex().as_str()));
        write_private(&path, line.as_bytes()).with_context(|| {
            format!("the trust root's key cannot be written to {}", path.display())
        })?;
        Ok(root)
    }
}

fn read_passphrase(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).map(Zeroizing::new).with_context(|| {
        format!("the passphrase cannot be read from {} (seal.passphrase_file)", path.display())
    })?;
    Ok(Zeroizing::new(text.strip_suffix('\n').unwrap_or(&text).to_owned()))
}
