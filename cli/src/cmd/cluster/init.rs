//! `countersign cluster init`: what is shown once goes into files that were not there, or to whoever asked for JSON.

use std::path::{Path, PathBuf};

use countersign_proto::v1;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::args::{Init, Output, Provider};
use crate::client;
use crate::cmd::seal::{self, Share, SharesDir, told_shares};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::keep::Place;
use crate::print;

/// A secret that lies in a file is not said again.
#[derive(Serialize)]
struct Begun {
    cluster_id: String,
    node_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_private_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_key_file: Option<PathBuf>,
    root_public_key: String,
    shares: Vec<Share>,
}

pub(super) async fn run(context: &Context, command: Init) -> Done {
    let Init { shape, passphrase_file, admin_token_file, root_key_file, shares_dir, show } =
        command;
    let shamir = shape.seal == Some(Provider::Shamir);
    let json = show.output == Output::Json;
    if !json && (admin_token_file.is_none() || root_key_file.is_none()) {
        return Err(Failure::usage(
            "nothing was done: the administrator's token and the key of the trust root are shown once; say where they go with \
             --admin-token-file and --root-key-file, or ask for -o json",
        ));
    }
    if shamir && !json && shares_dir.is_none() {
        return Err(Failure::usage(
            "nothing was done: the encrypted shares are shown once; say where they go with --shares-dir, or ask for -o json",
        ));
    }
    if !shamir && shares_dir.is_some() {
        return Err(Failure::usage("--shares-dir is of --seal shamir"));
    }
    let seal = seal::parameters(shape, passphrase_file.as_deref())?;
    let token_place = take(admin_token_file.as_deref(), "the administrator's token")?;
    let root_place = take(root_key_file.as_deref(), "the key of the trust root")?;
    let shares_place = shares_dir.as_deref().map(SharesDir::take).transpose()?;

    let (_, mut admin) = client::connect_to_first(context).await?;
    let answer = admin.init_cluster(v1::InitClusterRequest { seal }).await?.into_inner();
    let token = Zeroizing::new(answer.admin_token);
    let root = Zeroizing::new(answer.root_private_key);
    let kept = keep(token_place, &token).and_then(|token_file| {
        Ok((token_file, keep(root_place, &root)?, seal::keep_shares(answer.shares, shares_place)?))
    });
    let (admin_token_file, root_key_file, shares) = kept.map_err(|failure| {
        Failure::Refused(format!(
            "{failure}; the cluster has begun, and what could not be written is shown no second time: empty the node's data directory and begin again"
        ))
    })?;
    let secret = |file: &Option<PathBuf>, secret: &str| file.is_none().then(|| secret.to_owned());
    let begun = Begun {
        cluster_id: answer.cluster_id,
        node_id: answer.node_id,
        admin_token: secret(&admin_token_file, &token),
        admin_token_file,
        root_private_key: secret(&root_key_file, &root),
        root_key_file,
        root_public_key: hex::encode(answer.root_public_key),
        shares,
    };
    if json { print::json(&begun) } else { told(&begun) }
}

fn told(begun: &Begun) -> Done {
    let file = |file: &Option<PathBuf>| {
        file.as_deref().map_or_else(|| "-".into(), |path| path.display().to_string())
    };
    print::facts(&[
        ("cluster", begun.cluster_id.clone()),
        ("node", begun.node_id.clone()),
        ("admin token", file(&begun.admin_token_file)),
        ("root key", format!("{} (move it offline)", file(&begun.root_key_file))),
        ("root public key", begun.root_public_key.clone()),
    ])?;
    told_shares(&begun.shares)
}

fn take(path: Option<&Path>, what: &'static str) -> Result<Option<Place>, Failure> {
    path.map(|path| Place::take(path, what)).transpose()
}

fn keep(place: Option<Place>, secret: &str) -> Result<Option<PathBuf>, Failure> {
    let line = Zeroizing::new(format!("{secret}\n"));
    place.map(|place| place.keep(line.as_bytes())).transpose()
}
