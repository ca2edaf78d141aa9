//! What a start does without being asked, and the first command of a cluster's life.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Node;
use super::life::{Opening, UnsealError, Unsealed};
use crate::cluster::ProposeError;
use crate::config::{Begin, SealConfig};
use crate::sign::{self, RootKey, SigningKeys};
use crate::state::{self, Actor, Command};
use crate::tls::write_private;
use crate::vault::{EncryptedShare, NewSeal, SealError, Vault};

/// What whoever begins a cluster has to keep. It has no `Debug`.
pub(crate) struct Secrets {
    pub(crate) admin_token: Zeroizing<String>,
    pub(crate) root: RootKey,
}

/// A cluster that began because somebody said so. It has no `Debug`.
pub(crate) struct Begun {
    pub(crate) cluster_id: String,
    pub(crate) node_id: u64,
    /// These are nowhere else.
    pub(crate) secrets: Secrets,
    pub(crate) shares: Vec<EncryptedShare>,
}

/// Why no cluster began.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error(
        "no cluster began: this node has a vault already; if its first InitCluster was never answered, empty the data directory and begin again"
    )]
    Already,
    #[error(transparent)]
    NotOpened(#[from] UnsealError),
}

impl Node {
    /// Unseals the node, or begins a cluster, if that takes nobody.
    pub(super) async fn begin(self: &Arc<Self>) -> anyhow::Result<()> {
        let _one_at_a_time = self.changing.lock().await;
        let opening = if Vault::exists(&self.config.data_dir) {
            self.unattended_opening()?
        } else {
            self.first_opening()?
        };
        let Some(opening) = opening else { return Ok(()) };
        self.open(opening, None).await.map(drop).map_err(|e| match e {
            UnsealError::Start(error) => error,
            error => anyhow::Error::new(error),
        })
    }

    fn unattended_opening(&self) -> anyhow::Result<Option<Opening>> {
        let dir = &self.config.data_dir;
        let provider = Vault::parameters(dir)?.provider;
        let configured = self.config.seal.provider();
        match self.unattended(provider) {
            Ok(Some(unsealing)) => Ok(Some(Opening::Present(unsealing))),
            Ok(None) => {
                if provider != configured {
                    tracing::warn!(
                        provider,
                        configured,
                        "seal.provider is not what the vault is sealed with now: correct it"
                    );
                }
                tracing::warn!("the node is sealed: `countersign seal unseal` opens it");
                Ok(None)
            }
            Err(SealError::WrongProvider { made_with: "key-file", .. }) => anyhow::bail!(
                "the vault in {} was made with a key file: set seal.provider = \"key-file\" and seal.key_file",
                dir.display()
            ),
            Err(SealError::WrongProvider { made_with: "pkcs11", .. }) => anyhow::bail!(
                "the vault in {} was made with a PKCS#11 token: set seal.provider = \"pkcs11\" and the keys that go with it",
                dir.display()
            ),
            Err(error) => Err(error.into()),
        }
    }

    fn first_opening(&self) -> anyhow::Result<Option<Opening>> {
        if self.log_dir().exists() {
            anyhow::bail!(
                "{} holds a cluster without its vault (seal.json): restore that file from a backup; without it nothing can be read",
                self.config.data_dir.display()
            );
        }
        let new = match (self.config.cluster.begin, &self.config.seal) {
            (Begin::Auto, SealConfig::PassphraseFile(path)) => {
                Some(NewSeal::Passphrase(read_passphrase(path)?))
            }
            (Begin::Auto, SealConfig::Passphrase) => {
                tracing::warn!("there is no vault yet: `countersign seal unseal` makes one");
                None
            }
            (Begin::Auto, _) => self.configured_seal()?,
            (Begin::Manual, _) => None,
        };
        if new.is_none() {
            tracing::warn!("there is no cluster yet: `countersign cluster init` begins one");
        }
        Ok(new.map(Opening::New))
    }

    /// Makes the vault and begins a cluster, because somebody says so.
    pub(crate) async fn init(self: &Arc<Self>, seal: NewSeal) -> Result<Begun, InitError> {
        let _one_at_a_time = self.changing.lock().await;
        if Vault::exists(&self.config.data_dir) || self.log_dir().exists() {
            return Err(InitError::Already);
        }
        let secrets = Secrets::generate();
        let shares = self.open(Opening::New(seal), Some(&secrets)).await?;
        let house = self.unsealed().context("the node was sealed meanwhile");
        let house = house.map_err(UnsealError::Start)?;
        let cluster_id = house.cluster.peek(|state| {
            state.genesis().map(|genesis| genesis.cluster_id.clone()).unwrap_or_default()
        });
        Ok(Begun { cluster_id, node_id: house.cluster.node_id(), secrets, shares })
    }

    /// The first command of the cluster's life. Unless somebody waits for them, the secrets are on disk before the
    /// cluster knows them: whatever is cut short, nobody is left without.
    pub(super) async fn found(
        &self,
        house: &Unsealed,
        secrets: Option<&Secrets>,
    ) -> anyhow::Result<()> {
        let on_disk;
        let secrets = match secrets {
            Some(secrets) => secrets,
            None => {
                on_disk = Secrets::on_disk(&self.config.data_dir)?;
                &on_disk
            }
        };
        let cluster_id = hex::encode(rand::random::<[u8; 16]>());
        let keys = SigningKeys::open_or_make(&self.config.data_dir, &house.vault)?;
        let ca_key = self.identity.ca_key_pem()?;
        let beginning = sign::Beginning {
            cluster_id: &cluster_id,
            org_id: &self.config.org_id,
            node: state::Node {
                id: house.cluster.node_id(),
                name: self.config.cluster.name.clone(),
                addresses: self.addresses.told().clone(),
                public_keys: Vec::new(),
                removed: false,
                joined_at: 0,
            },
            admin_token_sha256: Sha256::digest(secrets.admin_token.as_bytes()).into(),
            api_ca_pem: &self.identity.ca_pem()?,
            api_ca_key_pem: &ca_key,
        };
        let genesis = sign::genesis(&house.vault, &secrets.root, &keys, beginning)?;
        match house.cluster.propose(Actor::System, Command::Genesis(Box::new(genesis))).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Refused(why)) => {
                Err(anyhow::anyhow!("the cluster did not begin: {why}"))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Secrets {
    fn generate() -> Self {
        Self { admin_token: new_token(), root: RootKey::generate() }
    }

    /// Those in `admin-token` and `trust-root.key`, made where they are not there yet.
    fn on_disk(data_dir: &Path) -> anyhow::Result<Self> {
        let token_path = data_dir.join("admin-token");
        let admin_token = match read_line(&token_path)? {
            Some(token) => token,
            None => keep(&token_path, new_token())?,
        };
        let root_path = data_dir.join("trust-root.key");
        let root = match read_line(&root_path)? {
            Some(text) => RootKey::from_hex(&text).with_context(|| {
                format!(
                    "{} does not hold 64 hexadecimal digits: remove it, and a new one is made",
                    root_path.display()
                )
            })?,
            None => {
                let root = RootKey::generate();
                keep(&root_path, root.to_hex())?;
                root
            }
        };
        Ok(Self { admin_token, root })
    }
}

fn new_token() -> Zeroizing<String> {
    let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
    let text = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(bytes.as_slice()));
    Zeroizing::new(format!("cs_adm_{}", text.as_str()))
}

fn read_line(path: &Path) -> anyhow::Result<Option<Zeroizing<String>>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("{} cannot be read", path.display())),
    };
    let line = Zeroizing::new(text.trim().to_owned());
    Ok((!line.is_empty()).then_some(line))
}

fn keep(path: &Path, secret: Zeroizing<String>) -> anyhow::Result<Zeroizing<String>> {
    let line = Zeroizing::new(format!("{}\n", secret.as_str()));
    write_private(path, line.as_bytes()).with_context(|| {
        format!("a secret that is made once cannot be written to {}", path.display())
    })?;
    Ok(secret)
}

fn read_passphrase(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).map(Zeroizing::new).with_context(|| {
        format!("the passphrase cannot be read from {} (seal.passphrase_file)", path.display())
    })?;
    Ok(Zeroizing::new(text.strip_suffix('\n').unwrap_or(&text).to_owned()))
}
