//! `countersign seal`, and what a seal is made of.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::Show;

#[derive(Debug, Subcommand)]
pub(crate) enum Vault {
    /// Whether the vault is sealed, and what opens it
    Status(Show),
    /// Open the vault: with its passphrase, or with one of the shares that open it together
    ///
    /// It comes from standard input, or from a file. Where COUNTERSIGN_ADDR names several nodes, each of them that is
    /// sealed is given it.
    Unseal(Unseal),
    /// Close the vault: nothing is released until it is opened again
    ///
    /// Where COUNTERSIGN_ADDR names several nodes, each of them is sealed.
    Seal,
    /// Have the vault opened by something else: new shares, a new passphrase, another provider
    ///
    /// It takes what opens the vault now, and then shows that the new seal opens it too; until then nothing changes. It
    /// walks through these steps; when it stops on the way, --rekey-id goes on.
    Rekey(Box<Rekey>),
    /// Seal what is stored from now on under a new key
    Rotate(Show),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Unseal {
    /// Read the passphrase from this file
    #[arg(long, value_name = "FILE", conflicts_with = "share_file")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Read the share from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) share_file: Option<PathBuf>,
    /// Forget the shares that were given so far
    #[arg(long, conflicts_with_all = ["share_file", "passphrase_file"])]
    pub(crate) reset: bool,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rekey {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// For a new passphrase: read it from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// For shamir: write the new shares, encrypted, into this directory, a file for each
    #[arg(long, value_name = "DIR")]
    pub(crate) shares_dir: Option<PathBuf>,
    /// Go on with this rekey
    #[arg(long, value_name = "ID", conflicts_with = "seal")]
    pub(crate) rekey_id: Option<String>,
    #[command(flatten)]
    pub(crate) step: Step,
    /// A share, of the seal that this step asks about; as often as needed
    #[arg(long = "share-file", value_name = "FILE", conflicts_with = "passphrase_file")]
    pub(crate) share_files: Vec<PathBuf>,
    /// The passphrase, of the seal that this step asks about
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) show: Show,
}

/// One step alone.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(crate) struct Step {
    /// Only begin
    #[arg(long, requires = "seal")]
    pub(crate) start: bool,
    /// Only give what opens the vault now
    #[arg(long, requires = "rekey_id")]
    pub(crate) authorize: bool,
    /// Only show what is to open the vault from now on
    #[arg(long, requires = "rekey_id")]
    pub(crate) verify: bool,
    /// Leave everything as it is
    #[arg(long, requires = "rekey_id")]
    pub(crate) cancel: bool,
}

/// What a seal is made of.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Shape {
    /// What is to open the vault
    #[arg(long, value_enum, value_name = "PROVIDER")]
    pub(crate) seal: Option<Provider>,
    /// For shamir: so many shares open it
    #[arg(long, value_name = "K", required_if_eq("seal", "shamir"))]
    pub(crate) threshold: Option<u32>,
    /// For shamir: an age recipient (age1…) whom a share is encrypted to; one for each share
    #[arg(long = "recipient", value_name = "RECIPIENT", required_if_eq("seal", "shamir"))]
    pub(crate) recipients: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Provider {
    /// A file on each node, the same one: as seal.key_file of their configuration says
    KeyFile,
    /// One passphrase
    Passphrase,
    /// A key in a hardware security module: as seal.pkcs11_… of the nodes' configuration says
    Pkcs11,
    /// K of N shares, each of them somebody's
    Shamir,
}
