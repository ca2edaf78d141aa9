//! `countersign login`: remembers a control plane, after it answered.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_proto::v1;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::approver;
use crate::args::Login;
use crate::context::{self, Context, Edge, Nodes, Saved};
use crate::failure::{Done, Failure};
use crate::progress::Progress;
use crate::{client, print, secret, variable};

/// Between two attempts, with --wait.
const TRY: Duration = Duration::from_millis(200);

pub(crate) async fn run(command: Login) -> Done {
    let path = context::login_path(variable).ok_or_else(|| {
        Failure::usage(
            "there is no home directory to save the context in: set HOME or XDG_CONFIG_HOME",
        )
    })?;
    let nodes = Nodes::parse(&command.addr, "--addr")?;
    let given = match variable("COUNTERSIGN_TOKEN").map(Zeroizing::new) {
        _ if command.token_file.is_some() => None,
        Some(token) => Some(secret::word(token.as_bytes(), "COUNTERSIGN_TOKEN")?),
        None => Some(secret::read_word(None, "the token")?),
    };
    let deadline = Instant::now() + command.wait.unwrap_or_default();
    let mut progress = Progress::begin();
    let (context, me) = loop {
        match attempt(&command, &nodes, given.clone()).await {
            Ok(answered) => break answered,
            Err(failure) if !will_change(&failure, &command) => return Err(failure),
            Err(failure) if Instant::now() + TRY >= deadline => return Err(failure),
            Err(failure) => progress.say(&format!("waiting: {failure}")),
        }
        sleep(TRY).await;
    };
    drop(progress);
    save(&path, context)?;
    let roles: Vec<_> = me.roles().map(approver::role_name).collect();
    print::line(&format!(
        "Logged in as {} ({}); saved in {}.",
        me.principal,
        roles.join(", "),
        path.display()
    ))
}

async fn attempt(
    command: &Login,
    nodes: &Nodes,
    given: Option<Zeroizing<String>>,
) -> Result<(Context, v1::WhoAmIResponse), Failure> {
    let token = match given {
        Some(token) => token,
        None => secret::read_word(command.token_file.as_deref(), "the token")?,
    };
    let context = Context {
        nodes: nodes.clone(),
        ca: absolute(command.ca.clone())?,
        token: Some(token),
        edge: Edge { proxy: command.edge.clone(), ca: absolute(command.edge_ca.clone())? },
        source: "--addr".into(),
    };
    let me = client::connect(&context).await?.who_am_i(v1::WhoAmIRequest {}).await?.into_inner();
    Ok((context, me))
}

/// A node that starts for the first time makes its authority and the token, and then serves.
fn will_change(failure: &Failure, command: &Login) -> bool {
    let files = [command.ca.as_deref(), command.token_file.as_deref()];
    matches!(failure, Failure::Unreachable(_)) || files.into_iter().flatten().any(|f| !f.exists())
}

fn save(path: &Path, context: Context) -> Done {
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| {
        Failure::Refused(format!("{} cannot be created: {error}", dir.display()))
    })?;
    let Context { nodes, ca, token, edge, .. } = context;
    let saved = Saved {
        addr: nodes.to_string(),
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
