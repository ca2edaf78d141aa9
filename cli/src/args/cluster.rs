//! `countersign cluster`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use super::Show;
use super::vault::Shape;

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Begin a cluster on a node that waits for it
    ///
    /// What opens the vault is what the node's configuration says, or --seal. The administrator's token and the key of
    /// the trust root are shown this once: name files for them, or ask for -o json. The trust root says whom edges trust;
    /// keep its key offline.
    Init(Init),
    /// The nodes, who leads, who is behind, and what is wrong
    Status(Show),
    /// Make a one-time token with which a node of this name joins, within ten minutes
    ///
    /// With --root-key it waits until that node votes, and then signs the trust bundle that counts it.
    Add(Add),
    /// Whose signatures count: what is in force, and what is proposed
    ///
    /// With --root-key it shows what would change, signs it here, and puts it in force.
    Trust(Trust),
    /// Take a node out for good; its id is never used again
    Remove(Remove),
    /// Have another node lead
    Transfer {
        /// Its name or id; whichever is furthest along unless given
        node: Option<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Let releases go on after the cluster's clock jumped ahead
    ///
    /// See that the time is right on every node first: what it jumped to stays, and deadlines are counted from it.
    ConfirmClock(Show),
    /// Have a node make a new signing key; it counts once a trust bundle names it
    RotateKey {
        /// The node's name or id, if it is not the first one of COUNTERSIGN_ADDR
        node: Option<String>,
        #[command(flatten)]
        signing: Signing,
        #[command(flatten)]
        show: Show,
    },
    /// Have another CA sign what nodes show: to each other, or to operators and edges
    ///
    /// Unsealed nodes go over to it by themselves, in a moment; certificates of the CA before count until the last node
    /// has, or until that is finished. `cluster status` shows who has not. Edges follow the API's by themselves; people
    /// pin it anew before it changes once more.
    RotateCa {
        which: WhichCa,
        /// Certificates of the CA before count no more, at once
        #[arg(long)]
        finish: bool,
        /// Finish without asking, though some nodes have not gone over
        #[arg(long, requires = "finish")]
        yes: bool,
        #[command(flatten)]
        show: Show,
    },
    /// Write an encrypted copy of everything into a new file, while the cluster serves
    ///
    /// What opens the vault opens the copy too: keep it elsewhere.
    Backup {
        file: PathBuf,
        #[command(flatten)]
        show: Show,
    },
    /// Make the data directory of a first node out of a backup, here: no control plane is needed
    ///
    /// It takes what opened the vault when the backup was made. Start a node on that directory then, and add others to
    /// it. Nodes of the cluster that was backed up must not run any more.
    Restore(Restore),
}

/// Which CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WhichCa {
    /// Of what nodes show to operators and edges
    Api,
    /// Of what nodes show to each other
    Nodes,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// For passphrase: read it from this file (/dev/fd/N for an open one), not from standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Write the administrator's token into this new file
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// Write the key of the trust root into this new file
    #[arg(long, value_name = "FILE")]
    pub(crate) root_key_file: Option<PathBuf>,
    /// For shamir: write the encrypted shares into this directory, a file for each
    #[arg(long, value_name = "DIR")]
    pub(crate) shares_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// What its configuration calls it
    pub(crate) name: String,
    /// Write the token into this new file, not to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Write the authority of the API into this new file: the node that joins needs it
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) signing: Signing,
    /// With --root-key: wait this long for the node, such as 5m
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION", default_value = "10m")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Trust {
    #[command(flatten)]
    pub(crate) signing: Signing,
    /// Wait until this node votes, and its key is proposed or in force; as often as needed
    #[arg(long, value_name = "NODE")]
    pub(crate) wait: Vec<String>,
    /// Take the signature of this node out at once, because its key is in other hands
    ///
    /// The bundle is made here from the one in force, whatever the nodes propose. Edges refuse that key from when they
    /// are told. Remove the node then, or have it make another key with `cluster rotate-key`.
    #[arg(long, value_name = "NODE", requires = "root_key", conflicts_with = "wait")]
    pub(crate) revoke: Option<String>,
    /// With --wait: for this long, such as 5m
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION", default_value = "10m")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// Its name or id
    pub(crate) node: String,
    /// Why; the audit log keeps it
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) signing: Signing,
    #[command(flatten)]
    pub(crate) show: Show,
}

/// The trust root's hand.
#[derive(Debug, clap::Args)]
pub(crate) struct Signing {
    /// The key of the trust root: sign the trust bundle that is called for with it, here
    #[arg(long, value_name = "FILE")]
    pub(crate) root_key: Option<PathBuf>,
    /// With --root-key: do not ask before signing
    #[arg(short, long, requires = "root_key")]
    pub(crate) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// What `cluster backup` wrote
    pub(crate) file: PathBuf,
    /// Where to make it: a directory in which no node has lived
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The configuration of the node that is to start there; the same variables override it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where a passphrase opens the backup: read it from this file, not from standard input
    #[arg(long, value_name = "FILE", conflicts_with = "share_files")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Where shares open the backup: read one from this file; as often as needed
    #[arg(long = "share-file", value_name = "FILE")]
    pub(crate) share_files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) show: Show,
}
