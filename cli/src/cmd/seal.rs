//! `countersign seal`: what opens the vault, node by node.

mod rekey;
mod shape;
mod shares;
mod unseal;

use countersign_proto::v1;
use serde::Serialize;

pub(super) use shape::parameters;
pub(super) use shares::{Share, SharesDir, keep_shares, told_shares};

use crate::args::{Output, Show, Vault};
use crate::client;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::print;

pub(crate) async fn run(context: &Context, command: Vault) -> Done {
    match command {
        Vault::Rekey(command) => rekey::run(context, *command).await,
        Vault::Rotate(show) => rotate(context, &show).await,
        Vault::Seal => seal(context).await,
        Vault::Status(show) => status(context, &show).await,
        Vault::Unseal(command) => unseal::run(context, &command).await,
    }
}

/// Every node that is known, one after the other; all are tried before a failure is told.
async fn seal(context: &Context) -> Done {
    let mut failed = None;
    for one in context.each() {
        let sealed = async {
            Ok::<_, Failure>(client::connect(&one).await?.seal(v1::SealRequest {}).await?)
        };
        match sealed.await {
            Ok(_) => print::line(&format!(
                "{}Sealed: nothing is released until `countersign seal unseal`.",
                whose(context, &one)
            ))?,
            Err(failure) => failed = Some(failure),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn rotate(context: &Context, show: &Show) -> Done {
    #[derive(Serialize)]
    struct Rotated {
        keyring_term: u64,
    }
    let request = v1::RotateKeyringRequest { request_id: client::request_id() };
    let keyring_term =
        client::connect(context).await?.rotate_keyring(request).await?.into_inner().keyring_term;
    match show.output {
        Output::Json => print::json(&Rotated { keyring_term }),
        Output::Table => print::line(&format!(
            "The keyring is in its term {keyring_term}: what is stored from now on is sealed under a new key, and credentials that are there follow (`countersign seal status`)."
        )),
    }
}

/// The fields of the first node that answers, except that `sealed` is true when any of them is; then each by itself.
#[derive(Serialize)]
struct Status {
    sealed: bool,
    provider: String,
    initialized: bool,
    shares: u32,
    threshold: u32,
    given: Vec<u32>,
    keyring_term: u64,
    keyring_created_at: Option<String>,
    /// Credentials that are not sealed under that term yet.
    under_older_terms: u32,
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Node {
    addr: String,
    /// None: it does not answer.
    sealed: Option<bool>,
    given: Vec<u32>,
}

async fn status(context: &Context, show: &Show) -> Done {
    let mut first = None;
    let mut silent = None;
    let mut nodes = Vec::new();
    for one in context.each() {
        let addr = one.nodes.to_string();
        match asked(&one).await {
            Ok(answer) => {
                let (sealed, given) = (Some(answer.sealed), answer.given.clone());
                nodes.push(Node { addr, sealed, given });
                first.get_or_insert(answer);
            }
            Err(failure) => {
                nodes.push(Node { addr, sealed: None, given: Vec::new() });
                silent.get_or_insert(failure);
            }
        }
    }
    let Some(first) = first else {
        return Err(silent.unwrap_or_else(|| Failure::usage("no address is known")));
    };
    let status = Status {
        sealed: nodes.iter().any(|node| node.sealed == Some(true)),
        keyring_created_at: print::time(first.keyring_created_at.as_ref()),
        provider: first.provider,
        initialized: first.initialized,
        shares: first.shares,
        threshold: first.threshold,
        given: first.given,
        keyring_term: first.keyring_term,
        under_older_terms: first.under_older_terms,
        nodes,
    };
    if show.output == Output::Json { print::json(&status) } else { told(&status) }
}

async fn asked(one: &Context) -> Result<v1::GetSealStatusResponse, Failure> {
    let mut admin = client::connect_to_sealed(one).await?;
    Ok(admin.get_seal_status(v1::GetSealStatusRequest {}).await?.into_inner())
}

fn told(status: &Status) -> Done {
    let opened_by = match status.provider.as_str() {
        "shamir" => format!("{} of {} shares", status.threshold, status.shares),
        provider => provider.to_owned(),
    };
    let vault = match (status.initialized, status.sealed) {
        (false, _) => "there is none yet: `countersign cluster init`",
        (true, true) => "sealed",
        (true, false) => "open",
    };
    let mut facts = vec![("vault", vault.to_owned()), ("opened by", opened_by)];
    if let [Node { given, .. }] = status.nodes.as_slice()
        && !given.is_empty()
    {
        facts.push(("given", progress(given, status.threshold)));
    }
    if status.keyring_term > 0 {
        let since = status.keyring_created_at.as_ref().map(|at| format!(", since {at}"));
        let term = format!("term {}{}", status.keyring_term, since.unwrap_or_default());
        facts.push(("keyring", term));
        if status.under_older_terms > 0 {
            let to_do = format!("{} credentials are being sealed again", status.under_older_terms);
            facts.push(("older terms", to_do));
        }
    }
    print::facts(&facts)?;
    if status.nodes.len() < 2 {
        return Ok(());
    }
    let row = |node: &Node| {
        let state = match node.sealed {
            None => "does not answer",
            Some(true) => "sealed",
            Some(false) => "open",
        };
        let given = match (node.sealed, node.given.as_slice()) {
            (Some(true), given @ [_, ..]) => progress(given, status.threshold),
            _ => "-".into(),
        };
        vec![node.addr.clone(), state.into(), given]
    };
    let rows: Vec<_> = status.nodes.iter().map(row).collect();
    print::line("")?;
    print::table(&["NODE", "VAULT", "GIVEN"], &rows, "")
}

/// `2 of 3 (shares 1, 4)`.
fn progress(given: &[u32], needed: u32) -> String {
    let ids: Vec<String> = given.iter().map(u32::to_string).collect();
    let which = match given {
        [] => return format!("0 of {needed}"),
        [_] => "share",
        _ => "shares",
    };
    format!("{} of {needed} ({which} {})", given.len(), ids.join(", "))
}

/// Which node is spoken of, where there are several.
fn whose(all: &Context, one: &Context) -> String {
    if all.nodes.len() > 1 { format!("{}: ", one.nodes) } else { String::new() }
}
