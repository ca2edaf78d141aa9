//! A data directory out of a backup: the next start goes on from it as a cluster of one node.
//!
//! What opened the vault when the backup was made opens it again: that is asked for before anything is made. All of it
//! comes about beside its place and is moved there last, so that what was cut short is begun again.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::addresses::Addresses;
use super::unsealing::unattended;
use crate::cluster::{self, AboutBackup, Cluster, DataDir, Settings, about_backup};
use crate::config::{ClusterConfig, Config};
use crate::sign::{self, SigningKeys};
use crate::state::node::node_name;
use crate::state::{Audience, Newcomer, ShownCa};
use crate::tls::{self, write_public};
use crate::vault::{SealParameters, Unsealing, Vault};

/// A backup that is to be restored to the data directory of a configuration, which nobody else uses meanwhile.
pub struct Restoration {
    config: Config,
    backup: Vec<u8>,
    about: AboutBackup,
    _lock: DataDir,
}

/// What it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub cluster_id: String,
    /// 16 hexadecimal digits: of the one node, which no cluster had before.
    pub node_id: String,
}

impl Restoration {
    /// Reads what can be read of a backup without opening it, and puts its seal in place.
    ///
    /// # Errors
    /// The backup is damaged, or a node has lived in the data directory already.
    pub fn begin(config: Config, backup: Vec<u8>) -> anyhow::Result<Self> {
        let about = about_backup(&backup)?;
        let lock = DataDir::lock(&config.data_dir)?;
        for there in ["cluster", "joined.json"] {
            if config.data_dir.join(there).exists() {
                anyhow::bail!(
                    "nothing was restored: a node has lived in {} already ({there} is there); restore to an empty directory",
                    config.data_dir.display()
                );
            }
        }
        Vault::install(&config.data_dir, &about.seal_file)?;
        Ok(Self { config, backup, about, _lock: lock })
    }

    /// What opens the backup.
    ///
    /// # Errors
    /// Its seal is damaged.
    pub fn seal(&self) -> anyhow::Result<SealParameters> {
        Ok(Vault::parameters(&self.config.data_dir)?)
    }

    /// What opens it without anybody, where the configuration names that.
    ///
    /// # Errors
    /// It takes a key file or a token, and the configuration names none.
    pub fn unattended(&self) -> anyhow::Result<Option<Unsealing>> {
        Ok(unattended(&self.config.seal, self.seal()?.provider)?)
    }

    /// Opens the backup, verifies all of it, and makes the data directory. Edges trust the node once the holder of the
    /// root key has signed a trust bundle with it (`countersign cluster trust`).
    ///
    /// # Errors
    /// What is wrong with the backup, with what was given to open it, or with the disk. It can be tried again.
    pub async fn finish(self, unsealing: Unsealing) -> anyhow::Result<Restored> {
        let dir = self.config.data_dir.clone();
        let opening = {
            let dir = dir.clone();
            tokio::task::spawn_blocking(move || Vault::unseal(&dir, &unsealing))
        };
        let vault = Arc::new(opening.await.context("the vault was not opened")??);
        let newcomer = Newcomer {
            name: self.config.cluster.name.clone(),
            // It says where it is found when it starts.
            addresses: Default::default(),
            public_key: SigningKeys::open_or_make(&dir, &vault)?.newest_public(),
        };
        let aside = dir.join("cluster.restoring");
        match fs::remove_dir_all(&aside) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("{} cannot be removed", aside.display()));
            }
            _ => {}
        }
        let node_id = cluster::restore(&aside, self.backup, vault.clone(), newcomer).await?;
        let begun = started_once(aside.clone(), vault.clone()).await?;
        show(&self.config, &vault, &begun)?;
        fs::rename(&aside, dir.join("cluster"))
            .and_then(|()| fs::File::open(&dir)?.sync_all())
            .with_context(|| format!("{} cannot be put in its place", aside.display()))?;
        Ok(Restored { cluster_id: self.about.cluster_id, node_id: node_name(node_id) })
    }
}

/// What of the state it takes to show something.
struct Begun {
    cluster_id: String,
    api_ca: ShownCa,
    edge_ca_pem: String,
}

/// Starts what was restored, which proves that it starts.
async fn started_once(directory: PathBuf, vault: Arc<Vault>) -> anyhow::Result<Begun> {
    let every = ClusterConfig::default().snapshot_every;
    let cluster = Cluster::start(Settings::alone(directory, every), vault).await?;
    let begun = cluster.peek(|state| {
        Some(Begun {
            cluster_id: state.genesis()?.cluster_id.clone(),
            api_ca: state.shown_ca(Audience::Clients)?.into_owned(),
            edge_ca_pem: state.edge_ca()?.trusted_pem(),
        })
    });
    cluster.shutdown().await;
    begun.context("nothing was restored: the cluster in the backup had not begun")
}

/// What the node shows to operators and edges even while it is sealed.
fn show(config: &Config, vault: &Vault, begun: &Begun) -> anyhow::Result<()> {
    let Begun { cluster_id, api_ca, edge_ca_pem } = begun;
    let dir = &config.data_dir;
    let names = Addresses::of(
        config,
        config.api_listen,
        config.gateway_listen,
        config.web_listen,
        config.cluster.listen,
    )
    .names;
    tls::make_folder(dir)?;
    for (path, pem) in
        [(tls::api_ca_path(dir), &api_ca.trusted_pem()), (super::edge_ca_path(dir), edge_ca_pem)]
    {
        write_public(&path, pem.as_bytes())
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let pair = tls::server_pair(dir);
    let (request, names) = (pair.request()?, tls::with_local(&names));
    pair.install(&sign::issue_server_certificate(cluster_id, api_ca, vault, &request, &names)?)?;
    Ok(())
}
