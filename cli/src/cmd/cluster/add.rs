//! `countersign cluster add`: an invitation, and the wait for whom it invites.

use std::path::PathBuf;
use std::time::Duration;

use countersign_proto::v1;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::trust::{self, Change, Proposal, RootHand};
use crate::args::{Add, Output};
use crate::client::{self, Admin};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::keep::Place;
use crate::print;
use crate::progress::Progress;

/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct Invited<'a> {
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
    /// Once it votes.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_epoch: Option<u64>,
}

pub(super) async fn run(context: &Context, command: Add) -> Done {
    let Add { name, token_file, ca_file, signing, timeout, show } = command;
    let json = show.output == Output::Json;
    let hand = RootHand::open(&signing)?;
    if json && hand.is_some() && token_file.is_none() {
        return Err(Failure::usage(
            "nothing was done: with --root-key and -o json the token comes too late on standard output; say where it goes with --token-file",
        ));
    }
    let take = |path: &Option<PathBuf>, what| {
        path.as_deref().map(|path| Place::take(path, what)).transpose()
    };
    let token_place = take(&token_file, "the token")?;
    let ca_place = take(&ca_file, "the authority of the API")?;

    let mut admin = client::connect(context).await?;
    let request = v1::AddNodeRequest { request_id: client::request_id(), name: name.clone() };
    let answer = admin.add_node(request).await?.into_inner();
    let token = Zeroizing::new(answer.token);
    let line = Zeroizing::new(format!("{}\n", token.as_str()));
    let mut invited = Invited {
        node: &name,
        token: token_file.is_none().then_some(token.as_str()),
        token_file: token_place.map(|place| place.keep(line.as_bytes())).transpose()?,
        expires_at: print::time(answer.expires_at.as_ref()),
        ca_file: ca_place.map(|place| place.keep(answer.api_ca_pem.as_bytes())).transpose()?,
        node_id: None,
        trust_epoch: None,
    };
    if !json {
        told(&invited)?;
    }
    if let Some(hand) = &hand {
        let nodes =
            until_they_vote(context, &mut admin, std::slice::from_ref(&name), timeout).await?;
        let ours = |change: &Change| nodes.iter().any(|node| change.brings_in(&node.node_id));
        invited.trust_epoch = trust::sign(context, &mut admin, hand, &ours, &show).await?;
        invited.node_id = nodes.into_iter().next().map(|node| node.node_id);
    }
    if json { print::json(&invited) } else { Ok(()) }
}

fn told(invited: &Invited<'_>) -> Done {
    let until = invited.expires_at.as_deref().unwrap_or("-");
    match (&invited.token_file, invited.token) {
        (Some(file), _) => print::line(&format!(
            "A token for {} is in {}: it joins once, until {until}.",
            invited.node,
            file.display()
        )),
        (None, token) => print::facts(&[
            ("node", invited.node.to_owned()),
            ("token", token.unwrap_or_default().to_owned()),
            ("until", until.to_owned()),
        ]),
    }
}

/// Waits until each of these nodes (names or ids) votes, and its key is in the trust bundle in force or proposed.
///
/// # Errors
/// `Refused` when that takes longer than `limit`, or what the control plane refuses.
pub(super) async fn until_they_vote(
    context: &Context,
    admin: &mut Admin,
    wanted: &[String],
    limit: Duration,
) -> Result<Vec<v1::ClusterNode>, Failure> {
    let deadline = Instant::now() + limit;
    let mut progress = Progress::begin();
    loop {
        let missing = match look(context, admin, wanted).await {
            Ok(Look::All(nodes)) => return Ok(nodes),
            Ok(Look::Waiting(missing)) => missing,
            // Such as while another node becomes the leader.
            Err(Failure::Unreachable(why)) => why,
            Err(failure) => return Err(failure),
        };
        if Instant::now() + LOOK >= deadline {
            return Err(Failure::Refused(format!(
                "after {} {missing}; see the node's log, and `countersign cluster status`; when it votes, \
                 `countersign cluster trust --root-key FILE` does the rest",
                humantime::format_duration(limit)
            )));
        }
        progress.say(&format!("waiting: {missing}"));
        sleep(LOOK).await;
    }
}

enum Look {
    All(Vec<v1::ClusterNode>),
    /// Whom is waited for, in words.
    Waiting(String),
}

async fn look(context: &Context, admin: &mut Admin, wanted: &[String]) -> Result<Look, Failure> {
    let cluster = admin.get_cluster(v1::GetClusterRequest {}).await?.into_inner();
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for wanted in wanted {
        let node = cluster.nodes.iter().find(|node| {
            (node.name == *wanted || node.node_id == *wanted)
                && node.state() != v1::NodeState::Removed
        });
        match node.map(|node| (node, node.state())) {
            Some((node, v1::NodeState::Voter)) => found.push(node.clone()),
            Some((_, v1::NodeState::Learner)) => missing.push(format!("{wanted} is catching up")),
            Some(_) => missing.push(format!("{wanted} has joined and is not yet a member")),
            None => missing.push(format!("{wanted} has not joined")),
        }
    }
    if missing.is_empty() {
        let proposal = Proposal::fetch(context, admin).await?;
        for node in &found {
            if !proposal.counts(&node.node_id)? {
                missing.push(format!("{}'s key is not proposed yet", node.name));
            }
        }
    }
    Ok(if missing.is_empty() { Look::All(found) } else { Look::Waiting(missing.join(", ")) })
}
