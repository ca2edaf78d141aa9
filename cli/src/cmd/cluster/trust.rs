//! `countersign cluster trust`: the trust root's signature is made here, over what is read here.
//!
//! A node that lies could propose keys of its own and describe them as somebody else's. So what would change is read
//! off the bytes that are to be signed; every node whose address is known must propose the same ones; and what was not
//! asked for is never signed without a person's yes.

mod bundle;

use std::collections::BTreeMap;

use countersign_control_plane::sign::RootKey;
use countersign_gate::{KeyState, TRUST_TYPE, Trust};
use countersign_proto::v1;
use serde::Serialize;

pub(super) use bundle::Change;
use bundle::{Bundle, changes, read_proposed, read_signed};

use super::add;
use crate::args::{Output, Show, Signing};
use crate::client::{self, Admin};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{args, print, secret};

pub(super) async fn run(context: &Context, command: args::Trust) -> Done {
    let args::Trust { signing, wait, revoke, timeout, show } = command;
    let hand = RootHand::open(&signing)?;
    let mut admin = client::connect(context).await?;
    if !wait.is_empty() {
        add::until_they_vote(context, &mut admin, &wait, timeout).await?;
    }
    match hand {
        None => shown(&Proposal::fetch(context, &mut admin).await?, &show),
        Some(hand) => {
            #[derive(Serialize)]
            struct Signed {
                /// None: nothing was to be signed.
                epoch: Option<u64>,
            }
            let epoch = match &revoke {
                None => sign(context, &mut admin, &hand, &|_| true, &show).await?,
                Some(node) => {
                    let (proposal, id) =
                        Proposal::without(context, &mut admin, &hand, node).await?;
                    let ours = |change: &Change| change.takes_away(&id);
                    put_in_force(proposal, &mut admin, &hand, &ours, &show).await?
                }
            };
            if show.output == Output::Json { print::json(&Signed { epoch }) } else { Ok(()) }
        }
    }
}

/// The key of the trust root, and whether it signs without asking. It has no `Debug`.
pub(super) struct RootHand {
    key: RootKey,
    yes: bool,
}

impl RootHand {
    /// None when nothing is to be signed. Called before anything is done: half of a change is none.
    pub(super) fn open(signing: &Signing) -> Result<Option<Self>, Failure> {
        let Some(path) = &signing.root_key else { return Ok(None) };
        if !signing.yes && !secret::can_ask() {
            return Err(Failure::usage(
                "nothing was done: there is nobody to ask before signing; see `countersign cluster trust`, and say --yes",
            ));
        }
        let text = secret::read_word(Some(path), "the key of the trust root")?;
        let key = RootKey::from_hex(&text).ok_or_else(|| {
            Failure::Usage(format!(
                "nothing was done: {} does not hold the key of a trust root (64 hexadecimal digits)",
                path.display()
            ))
        })?;
        Ok(Some(Self { key, yes: signing.yes }))
    }
}

/// What is in force and what is called for, as all nodes say that were asked.
pub(super) struct Proposal {
    root: [u8; 32],
    current: Option<Trust>,
    /// Encoded; empty when nothing is to be changed.
    proposed: Vec<u8>,
    names: BTreeMap<u64, String>,
}

impl Proposal {
    pub(super) async fn fetch(context: &Context, admin: &mut Admin) -> Result<Self, Failure> {
        let answer = admin.get_trust(v1::GetTrustRequest {}).await?.into_inner();
        for one in context.each().filter(|_| context.nodes.len() > 1) {
            // One that is down or sealed cannot contradict; whoever answers must not.
            let Ok(mut other) = client::connect(&one).await else { continue };
            let Ok(said) = other.get_trust(v1::GetTrustRequest {}).await else { continue };
            let said = said.into_inner();
            if said.proposed != answer.proposed || said.root_public_key != answer.root_public_key {
                return Err(Failure::Refused(format!(
                    "nothing was signed: {} proposes another trust bundle than the rest; if that is so again in a minute, \
                     do not trust that node, nor what it says here",
                    one.nodes
                )));
            }
        }
        let nodes = admin.get_cluster(v1::GetClusterRequest {}).await?.into_inner().nodes;
        let name =
            |node: v1::ClusterNode| Some((u64::from_str_radix(&node.node_id, 16).ok()?, node.name));
        let root = answer.root_public_key.as_ref().try_into().map_err(|_| incomplete())?;
        let current = answer.current.map(|envelope| read_signed(&envelope, &root)).transpose()?;
        Ok(Self {
            root,
            current,
            proposed: answer.proposed.to_vec(),
            names: nodes.into_iter().filter_map(name).collect(),
        })
    }

    /// The bundle in force with every key of this node revoked, and the node's id. It is made here: whoever has that
    /// node's key may have the node propose what they like.
    async fn without(
        context: &Context,
        admin: &mut Admin,
        hand: &RootHand,
        node: &str,
    ) -> Result<(Self, String), Failure> {
        let root = hand.key.public();
        let nodes = admin.get_cluster(v1::GetClusterRequest {}).await?.into_inner().nodes;
        let mut newest: Option<Trust> = None;
        for one in context.each() {
            let Ok(mut other) = client::connect(&one).await else { continue };
            let Ok(said) = other.get_trust(v1::GetTrustRequest {}).await else { continue };
            let Some(envelope) = said.into_inner().current else { continue };
            let Ok(trust) = read_signed(&envelope, &root) else { continue };
            if newest.as_ref().is_none_or(|newest| newest.epoch < trust.epoch) {
                newest = Some(trust);
            }
        }
        let current = newest.ok_or_else(|| {
            Failure::refused(
                "nothing was signed: no node has a trust bundle that this root key signed",
            )
        })?;
        let known = nodes.iter().find(|it| it.name == node || it.node_id == node);
        let id = known.map_or_else(|| node.to_owned(), |it| it.node_id.clone());
        let number = u64::from_str_radix(&id, 16).ok();
        let mut next = Trust { epoch: current.epoch.saturating_add(1), ..current.clone() };
        let keys = next.keys.iter_mut();
        let theirs: Vec<_> =
            keys.filter(|key| Some(key.node) == number && key.state != KeyState::Revoked).collect();
        if theirs.is_empty() {
            return Err(Failure::Refused(format!(
                "nothing was signed: no key of {node:?} is in the trust bundle in force; see `countersign cluster trust`"
            )));
        }
        theirs.into_iter().for_each(|key| key.state = KeyState::Revoked);
        let name =
            |node: v1::ClusterNode| Some((u64::from_str_radix(&node.node_id, 16).ok()?, node.name));
        let proposal = Self {
            root,
            proposed: next.encode(),
            current: Some(current),
            names: nodes.into_iter().filter_map(name).collect(),
        };
        Ok((proposal, id))
    }

    /// Whether this node's signature counts, or would once the proposal is in force.
    pub(super) fn counts(&self, node_id: &str) -> Result<bool, Failure> {
        let next = self.next()?;
        let counted = self.current.iter().chain(&next).flat_map(|trust| &trust.keys);
        let id = u64::from_str_radix(node_id, 16).ok();
        Ok(counted.into_iter().any(|key| Some(key.node) == id && bundle::counts(key.state)))
    }

    fn next(&self) -> Result<Option<Trust>, Failure> {
        if self.proposed.is_empty() {
            return Ok(None);
        }
        read_proposed(&self.proposed, self.current.as_ref()).map(Some)
    }

    fn changes(&self, next: &Trust) -> Vec<Change> {
        changes(self.current.as_ref(), next, &self.names)
    }
}

/// Shows what would change, asks, signs, and puts it in force: its epoch. None when nothing is called for. `ours` are
/// the changes that were asked for: without a person, no others are signed.
pub(super) async fn sign(
    context: &Context,
    admin: &mut Admin,
    hand: &RootHand,
    ours: &(dyn Fn(&Change) -> bool + Sync),
    show: &Show,
) -> Result<Option<u64>, Failure> {
    let proposal = Proposal::fetch(context, admin).await?;
    put_in_force(proposal, admin, hand, ours, show).await
}

async fn put_in_force(
    proposal: Proposal,
    admin: &mut Admin,
    hand: &RootHand,
    ours: &(dyn Fn(&Change) -> bool + Sync),
    show: &Show,
) -> Result<Option<u64>, Failure> {
    if proposal.root != hand.key.public() {
        return Err(Failure::Refused(
            "nothing was signed: this is the key of another trust root; edges of this cluster would not take what it signs".into(),
        ));
    }
    let Some(next) = proposal.next()? else {
        if show.output == Output::Table {
            print::line("The trust bundle in force is as it should be: nothing was signed.")?;
        }
        return Ok(None);
    };
    let changes = proposal.changes(&next);
    let expected = |change: &Change| change.is_due() || ours(change);
    let surprises = changes.iter().filter(|change| !expected(change)).count();
    let lines = changes.iter().map(|change| {
        let note = if expected(change) { "" } else { "   (not asked for)" };
        format!("{change}{note}")
    });
    let lines: Vec<String> = lines.collect();
    if show.output == Output::Table {
        lines.iter().try_for_each(|line| print::line(line))?;
    } else if !hand.yes {
        lines.iter().for_each(|line| eprintln!("{}", print::visible(line)));
    }
    if hand.yes && surprises > 0 {
        return Err(Failure::Refused(
            "nothing was signed: more would change than what was asked for; see `countersign cluster trust`, and sign there".into(),
        ));
    }
    if !hand.yes && !secret::confirmed(&format!("Sign trust bundle {}?", next.epoch))? {
        return Err(Failure::refused("nothing was signed"));
    }
    let signed = hand.key.sign(proposal.proposed);
    let signatures = signed.signatures.into_iter().map(|signature| v1::Signature {
        key_id: signature.key_id.into(),
        signature: signature.signature.into(),
    });
    let envelope = v1::Envelope {
        payload_type: TRUST_TYPE.into(),
        signatures: signatures.collect(),
        payload: signed.payload.into(),
    };
    let request =
        v1::SetTrustRequest { request_id: client::request_id(), envelope: Some(envelope) };
    let epoch = admin.set_trust(request).await?.into_inner().epoch;
    if show.output == Output::Table {
        print::line(&format!(
            "Trust bundle {epoch} is in force: {} of {} nodes have to sign.",
            next.threshold,
            bundle::signers(&next).len()
        ))?;
    }
    Ok(Some(epoch))
}

#[derive(Serialize)]
struct Shown {
    root_public_key: String,
    current: Option<Bundle>,
    proposed: Option<Bundle>,
    changes: Vec<String>,
}

fn shown(proposal: &Proposal, show: &Show) -> Done {
    let next = proposal.next()?;
    let bundle = |trust: &Trust| Bundle::new(trust, &proposal.names);
    let changes = next.as_ref().map(|next| proposal.changes(next)).unwrap_or_default();
    let shown = Shown {
        root_public_key: hex::encode(proposal.root),
        current: proposal.current.as_ref().map(bundle),
        proposed: next.as_ref().map(bundle),
        changes: changes.iter().map(ToString::to_string).collect(),
    };
    if show.output == Output::Json {
        return print::json(&shown);
    }
    let in_force = |current: &Bundle| {
        format!(
            "{}: {} of {} nodes have to sign",
            current.epoch,
            current.threshold,
            current.nodes()
        )
    };
    print::facts(&[
        ("root public key", shown.root_public_key),
        ("trust bundle", shown.current.as_ref().map_or_else(|| "-".into(), in_force)),
    ])?;
    let keys = shown.current.map(|current| current.keys).unwrap_or_default();
    let rows: Vec<_> = keys.into_iter().map(bundle::Key::row).collect();
    print::line("")?;
    print::table(&["NODE", "ID", "KEY", "STATE"], &rows, "No key is in it.")?;
    let Some(proposed) = shown.proposed else { return Ok(()) };
    print::line("")?;
    print::line(&format!("Proposed as {}:", proposed.epoch))?;
    shown.changes.iter().try_for_each(|change| print::line(&format!("  {change}")))?;
    print::line("Sign it with `countersign cluster trust --root-key FILE`.")
}

fn incomplete() -> Failure {
    Failure::refused("the control plane's answer is incomplete: is it of another version?")
}
