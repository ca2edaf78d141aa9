//! `countersign cluster restore`: without a control plane, by whoever has what opened the vault.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use countersign_control_plane::config::Config;
use countersign_control_plane::node::{Restoration, Restored};
use countersign_control_plane::vault::{Share, ShareSet, Unsealing};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::args::{Output, Restore};
use crate::failure::{Done, Failure};
use crate::progress::Progress;
use crate::{print, secret};

#[derive(Serialize)]
struct Made {
    cluster_id: String,
    node_id: String,
    data_dir: PathBuf,
}

pub(super) async fn run(command: Restore) -> Done {
    let Restore { file, data_dir, config, passphrase_file, share_files, show } = command;
    let config = Config::load(config.as_deref(), std::env::vars()).map_err(anyhow::Error::new)?;
    let backup = std::fs::read(&file).map_err(|error| {
        Failure::Refused(format!("the backup {} cannot be read: {error}", file.display()))
    })?;
    let restoration = Restoration::begin(Config { data_dir: data_dir.clone(), ..config }, backup)?;
    let unsealing = opening(&restoration, passphrase_file.as_deref(), share_files)?;
    let mut progress = Progress::begin();
    progress.say("restoring: everything in the backup is verified");
    let Restored { cluster_id, node_id } = restoration.finish(unsealing).await?;
    drop(progress);
    if show.output == Output::Json {
        return print::json(&Made { cluster_id, node_id, data_dir });
    }
    print::facts(&[
        ("cluster", cluster_id),
        ("node", node_id),
        ("data directory", data_dir.display().to_string()),
    ])?;
    print::lines(WHAT_NEXT)
}

/// What nobody but the operator can know or do.
const WHAT_NEXT: &str = "\
Start a node on it; the tokens are those of the time of the backup. Then:
  countersign cluster add NAME                 the others join with empty directories
  countersign cluster trust --root-key FILE    edges trust the new nodes, and no former one any more; it takes as many
                                               nodes as had to sign before
What was taken back since the backup is as it was: remove principals, revoke keys and evict edges once more.";

fn opening(
    restoration: &Restoration,
    passphrase_file: Option<&Path>,
    share_files: Vec<PathBuf>,
) -> Result<Unsealing, Failure> {
    let seal = restoration.seal()?;
    let no_use = |flag: &str| {
        Failure::Usage(format!("{} opens this backup: {flag} is of no use here", seal.provider))
    };
    if let Some(shares) = &seal.shares {
        return match passphrase_file {
            Some(_) => Err(no_use("--passphrase-file")),
            None => gathered(shares, share_files),
        };
    }
    if !share_files.is_empty() {
        return Err(no_use("--share-file"));
    }
    match restoration.unattended()? {
        Some(_) if passphrase_file.is_some() => Err(no_use("--passphrase-file")),
        Some(unsealing) => Ok(unsealing),
        None => {
            let passphrase = secret::read(passphrase_file, "the passphrase")?;
            let text = std::str::from_utf8(&passphrase)
                .map_err(|_| Failure::usage("the passphrase is not UTF-8 text"))?;
            Ok(Unsealing::Passphrase(Zeroizing::new(text.to_owned())))
        }
    }
}

/// As many shares as it takes: from files, and then from whoever sits at the terminal.
fn gathered(set: &ShareSet, files: Vec<PathBuf>) -> Result<Unsealing, Failure> {
    let needed = usize::from(set.threshold());
    let mut files = VecDeque::from(files);
    let mut shares: Vec<Share> = Vec::new();
    while shares.len() < needed {
        let file = files.pop_front();
        if file.is_none() && !secret::can_ask() {
            return Err(Failure::Usage(format!(
                "{needed} shares open this backup: name each with --share-file"
            )));
        }
        let text = secret::read(
            file.as_deref(),
            &format!("a share ({} of {needed} are given)", shares.len()),
        )?;
        let share = std::str::from_utf8(&text).ok().map(str::parse::<Share>);
        match share {
            Some(Ok(share)) => shares.push(share),
            Some(Err(why)) => return Err(Failure::Refused(why.to_string())),
            None => return Err(Failure::usage("a share is plain ASCII text")),
        }
    }
    Ok(Unsealing::Shares(shares))
}
