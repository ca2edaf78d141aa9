//! `countersign login`: remembers a control plane, after it answered.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use countersign_proto::v1;
use zeroize::Zeroizing;

use super::approver;
use crate::args::Login;
use crate::context::{self, Context, Edge, Saved};
use crate::failure::{Done, Failure};
use crate::{client, print, secret, variable};

pub(crate) async fn run(command: Login) -> Done {
    let path = context::login_path(variable).ok_or_else(|| {
        Failure::usage(
            "there is no home directory to save the context in: set HOME or XDG_CONFIG_HOME",
        )
    })?;
    if !command.addr.starts_with("https://") {
        return Err(Failure::Usage(format!(
            "{} is not an https:// address, such as https://127.0.0.1:7443",
            command.addr
        )));
    }
    let token = match variable("COUNTERSIGN_TOKEN").map(Zeroizing::new) {
        Some(token) if command.token_file.is_none() => {
            secret::word(token.as_bytes(), "COUNTERSIGN_TOKEN")?
        }
        _ => secret::read_word(command.token_file.as_deref(), "the token")?,
    };
    let edge = Edge { proxy: command.edge, ca: absolute(command.edge_ca)? };
    let context = Context {
        addr: command.addr,
        ca: absolute(command.ca)?,
        token: Some(token),
        edge,
        source: "--addr".into(),
    };

    let me = client::connect(&context).await?.who_am_i(v1::WhoAmIRequest {}).await?.into_inner();
    save(&path, context)?;
    let roles: Vec<_> = me.roles().map(approver::role_name).collect();
    print::line(&format!(
        "Logged in as {} ({}); saved in {}.",
        me.principal,
        roles.join(", "),
        path.display()
    ))
}

fn save(path: &Path, context: Context) -> Done {
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| {
        Failure::Refused(format!("{} cannot be created: {error}", dir.display()))
    })?;
    let Context { addr, ca, token, edge, .. } = context;
    let saved = Saved {
        addr,
        ca,
        token: token.unwrap_or_default(),
        edge_proxy: edge.proxy,
        edge_ca: edge.ca,
    };
    saved.write(path)
}

fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let absolute = |path: PathBuf| {
        path.canonicalize()
            .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", path.display())))
    };
    path.map(absolute).transpose()
}
