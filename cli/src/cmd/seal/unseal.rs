//! `countersign seal unseal`: one passphrase, or one share at a time, to every node that is sealed.

use bytes::Bytes;
use countersign_proto::v1;
use serde::Serialize;

use super::{asked, progress, whose};
use crate::args::{Output, Unseal};
use crate::client;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{print, secret};

/// What came of it, at one node.
#[derive(Serialize)]
struct Opened {
    addr: String,
    sealed: bool,
    threshold: u32,
    given: Vec<u32>,
}

pub(super) async fn run(context: &Context, command: &Unseal) -> Done {
    let mut sealed = Vec::new();
    let mut open = Vec::new();
    let mut failed = None;
    for one in context.each() {
        match asked(&one).await {
            Ok(answer) if answer.sealed => sealed.push((one, answer)),
            Ok(answer) => {
                let addr = one.nodes.to_string();
                open.push(Opened {
                    addr,
                    sealed: false,
                    threshold: answer.threshold,
                    given: vec![],
                });
            }
            Err(failure) => failed = Some(failure),
        }
    }
    let words = match sealed.first() {
        None => None,
        Some((_, first)) if sealed.iter().all(|(_, answer)| answer.provider == first.provider) => {
            Some(Words::read(&first.provider, command)?)
        }
        Some(_) => {
            return Err(Failure::refused(
                "nothing was unsealed: these nodes are opened by different things; set COUNTERSIGN_ADDR to one of them at a time",
            ));
        }
    };
    let mut opened = Vec::new();
    for (one, _) in &sealed {
        match unseal(one, words.as_ref(), command.reset).await {
            Ok(answer) => {
                let v1::UnsealResponse { sealed, threshold, given } = answer;
                let addr = one.nodes.to_string();
                opened.push((whose(context, one), Opened { addr, sealed, threshold, given }));
            }
            Err(failure) => failed = Some(failure),
        }
    }
    told(command, open, opened)?;
    failed.map_or(Ok(()), Err)
}

/// What is said to a node: nothing, where a key file or a module opens it. There the administrator's token is what
/// counts.
enum Words {
    Nothing,
    Passphrase(Bytes),
    Share(Bytes),
}

impl Words {
    fn read(provider: &str, command: &Unseal) -> Result<Self, Failure> {
        let not = |flag: &str| {
            Err(Failure::Usage(format!("{provider} opens this vault: {flag} is of no use here")))
        };
        match provider {
            _ if command.reset => Ok(Self::Nothing),
            "passphrase" if command.share_file.is_some() => not("--share-file"),
            "passphrase" => {
                let read = secret::read(command.passphrase_file.as_deref(), "the passphrase")?;
                Ok(Self::Passphrase(Bytes::from_owner(read)))
            }
            "shamir" if command.passphrase_file.is_some() => not("--passphrase-file"),
            "shamir" => {
                let read = secret::read(command.share_file.as_deref(), "the share")?;
                Ok(Self::Share(Bytes::from_owner(read)))
            }
            _ if command.share_file.is_some() => not("--share-file"),
            _ if command.passphrase_file.is_some() => not("--passphrase-file"),
            _ => Ok(Self::Nothing),
        }
    }
}

async fn unseal(
    one: &Context,
    words: Option<&Words>,
    reset: bool,
) -> Result<v1::UnsealResponse, Failure> {
    let mut request = v1::UnsealRequest { reset, ..Default::default() };
    match words {
        None | Some(Words::Nothing) => {}
        Some(Words::Passphrase(passphrase)) => request.passphrase = passphrase.clone(),
        Some(Words::Share(share)) => request.share = share.clone(),
    }
    let answer = client::connect_to_sealed(one).await?.unseal(request).await?.into_inner();
    // Only shares come one by one: whatever else there is opens it at once, or not at all.
    if answer.sealed && !reset && !matches!(words, Some(Words::Share(_))) {
        return Err(Failure::Refused(format!("{} is still sealed: see its log", one.nodes)));
    }
    Ok(answer)
}

fn told(command: &Unseal, open: Vec<Opened>, opened: Vec<(String, Opened)>) -> Done {
    if command.show.output == Output::Json {
        let all: Vec<_> = open.into_iter().chain(opened.into_iter().map(|(_, it)| it)).collect();
        return print::json(&all);
    }
    if opened.is_empty() && !open.is_empty() {
        return print::line("It is open already.");
    }
    opened.iter().try_for_each(|(whose, it)| {
        print::line(&match (it.sealed, command.reset) {
            (false, _) => format!("{whose}Open."),
            (true, true) => format!("{whose}The shares that were given are forgotten."),
            (true, false) => {
                format!("{whose}Still sealed: {}.", progress(&it.given, it.threshold))
            }
        })
    })
}
