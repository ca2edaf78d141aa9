//! I1 to I4, and I9: what left, what people had said of it, and what was in force then.

use std::collections::{BTreeMap, BTreeSet};

use super::record::claims;
use super::{Arrival, Card, Evidence, Node, Violation, intent};
use crate::history::{Op, Operation, Seen, Told};

fn risky(evidence: &Evidence) -> impl Iterator<Item = &Arrival> {
    evidence.arrivals.iter().filter(|arrival| arrival.keyed && arrival.risky)
}

fn cards(evidence: &Evidence) -> impl Iterator<Item = (&Node, &Card)> {
    evidence.nodes.iter().flat_map(|node| node.cards.iter().map(move |card| (node, card)))
}

/// People who tapped approve on it before, and were not told that it does not count.
fn approvers<'a>(evidence: &'a Evidence, approval: &str, arrival: &Arrival) -> BTreeSet<&'a str> {
    evidence
        .operations
        .iter()
        .filter(|o| o.approval == approval && o.invoked <= arrival.at)
        .filter(|o| !matches!(o.returned, Some((_, Told::Refused))))
        .filter_map(|o| match &o.op {
            Op::Approve(who) => Some(who.as_str()),
            _ => None,
        })
        .collect()
}

/// I1: whatever needs an approval and reached the upstream with a real key shows, byte for byte, on an approval that
/// enough people had approved by then. That means its host and headers, the agent, the rule and the key too: the digest
/// that people approved is computed anew from what arrived.
pub(super) fn approved_bytes_only(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for arrival in risky(evidence) {
        let mut shown = cards(evidence).filter(|(_, card)| card.shows(arrival)).peekable();
        if shown.peek().is_none() {
            let what = format!(
                "{} {} with a body of {} arrived, and nobody was shown that",
                arrival.method, arrival.target, arrival.body_sha256
            );
            found.push(Violation::new(1, what));
            continue;
        }
        let mut intended = shown
            .filter(|(node, card)| {
                claims(node)
                    .filter(|claim| claim.detail("approval") == Some(&card.id))
                    .filter_map(|claim| intent::digest(&evidence.cluster, claim, arrival))
                    .any(|digest| digest == card.intent_digest)
            })
            .peekable();
        if intended.peek().is_none() {
            let what = format!(
                "{} {} arrived at {} with other headers or another key than anybody was shown",
                arrival.method, arrival.target, arrival.host
            );
            found.push(Violation::new(1, what));
            continue;
        }
        let agreed = intended
            .any(|(_, card)| approvers(evidence, &card.id, arrival).len() >= evidence.quorum);
        if !agreed {
            let what = format!(
                "{} {} arrived before {} people had approved it",
                arrival.method, arrival.target, evidence.quorum
            );
            found.push(Violation::new(1, what));
        }
    }
    found
}

/// I2: no approval is claimed or carried out twice.
pub(super) fn at_most_once(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for node in &evidence.nodes {
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for claim in claims(node) {
            if let Some(approval) = claim.detail("approval").filter(|id| !id.is_empty()) {
                *times.entry(approval).or_default() += 1;
            }
        }
        for (approval, times) in times.iter().filter(|(_, times)| **times > 1) {
            let what = format!("{} has {times} claims of {approval}", node.name);
            found.push(Violation::new(2, what));
        }
    }
    let mut times: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for arrival in risky(evidence) {
        *times.entry((&arrival.method, &arrival.target, &arrival.body_sha256)).or_default() += 1;
    }
    for ((method, target, body), times) in times {
        let allowed = evidence
            .nodes
            .iter()
            .map(|node| {
                let same = |card: &&Card| {
                    (&*card.method, &*card.target, &*card.body_sha256) == (method, target, body)
                };
                node.cards.iter().filter(same).filter(|card| card.state == Seen::Released).count()
            })
            .max()
            .unwrap_or_default();
        if times > allowed {
            let what =
                format!("{method} {target} arrived {times} times, and {allowed} were released");
            found.push(Violation::new(2, what));
        }
    }
    found
}

/// I3: what people were told of their decisions is still so at the end.
pub(super) fn decisions_stay(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    let denies = |approval: &str| {
        evidence.operations.iter().any(|o| {
            o.approval == approval
                && matches!(o.op, Op::Deny(_))
                && !matches!(o.returned, Some((_, Told::Refused)))
        })
    };
    for Operation { approval, op, .. } in evidence.operations.iter().filter(|o| o.is_accepted()) {
        for node in &evidence.nodes {
            let Some(card) = node.cards.iter().find(|card| card.id == *approval) else {
                let what = format!("{} lost {approval}, which was decided", node.name);
                found.push(Violation::new(3, what));
                continue;
            };
            let reversed = match op {
                Op::Deny(_) => card.state != Seen::Denied,
                Op::Cancel => card.state != Seen::Cancelled,
                Op::Approve(_) => match card.state {
                    Seen::Denied => !denies(approval),
                    // With a larger quorum it waits for others.
                    Seen::Pending => evidence.quorum <= 1,
                    Seen::Approved | Seen::Cancelled | Seen::Expired | Seen::Released => false,
                },
                Op::Claim(_) => card.state != Seen::Released,
                Op::Expire | Op::Read => false,
            };
            if reversed {
                let what = format!(
                    "{op:?} of {approval} was acknowledged, and {} shows it as {:?}",
                    node.name, card.state
                );
                found.push(Violation::new(3, what));
            }
        }
    }
    found
}

/// I4: what was denied, expired or cancelled never leaves; nor does anything after its time.
pub(super) fn no_means_no(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for node in &evidence.nodes {
        for claim in claims(node) {
            let Some(card) = node.cards.iter().find(|c| Some(&*c.id) == claim.detail("approval"))
            else {
                continue;
            };
            if card.state != Seen::Released {
                let what = format!(
                    "{} has a release of {}, which it shows as {:?}",
                    node.name, card.id, card.state
                );
                found.push(Violation::new(4, what));
            }
            if claim.at >= card.expires_at {
                let what = format!("{} was released after its time", card.id);
                found.push(Violation::new(4, what));
            }
        }
    }
    for arrival in risky(evidence) {
        for node in &evidence.nodes {
            let mut shown = node.cards.iter().filter(|card| card.shows(arrival)).peekable();
            if shown.peek().is_some() && !shown.any(|card| card.state == Seen::Released) {
                let what = format!(
                    "{} {} arrived, and {} released nothing like it",
                    arrival.method, arrival.target, node.name
                );
                found.push(Violation::new(4, what));
            }
        }
    }
    found
}

/// I9: after a change is committed, nothing is claimed by what was before.
pub(super) fn revocation_is_immediate(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for node in &evidence.nodes {
        let mut policy = 0_u64;
        let mut evicted = BTreeSet::new();
        let mut removed = BTreeSet::new();
        let mut versions: BTreeMap<&str, Option<u64>> = BTreeMap::new();
        for record in &node.audit {
            let id = record.detail("id").unwrap_or_default();
            match record.action.as_str() {
                "policy.set" => policy = record.subject.parse().unwrap_or(policy),
                "edge.evict" => drop(evicted.insert(id)),
                "edge.enroll" => drop(evicted.remove(id)),
                "principal.remove" => drop(removed.insert(record.subject.as_str())),
                "principal.add" => drop(removed.remove(record.subject.as_str())),
                "credential.create" | "credential.rotate" => {
                    versions.insert(id, record.detail("version").and_then(|v| v.parse().ok()));
                }
                "credential.revoke" => drop(versions.insert(id, None)),
                "request.claim" => {
                    let mut no = |why: String| {
                        let what = format!("record {} of {} claims {why}", record.index, node.name);
                        found.push(Violation::new(9, what));
                    };
                    let judged = record.detail("policy_version").and_then(|v| v.parse().ok());
                    if judged != Some(policy) {
                        no(format!("under policy {judged:?}, and {policy} is in force"));
                    }
                    let edge = record.detail("edge").unwrap_or_default();
                    if evicted.contains(edge) {
                        no(format!("for the evicted edge {edge}"));
                    }
                    let listed = |name| record.detail(name).unwrap_or_default().split(',');
                    for who in listed("approvers").map(str::trim).filter(|w| removed.contains(w)) {
                        no(format!("by the word of {who}, who was removed"));
                    }
                    for key in listed("credentials").map(str::trim).filter(|key| !key.is_empty()) {
                        let (id, version) = key.split_once('@').unwrap_or((key, ""));
                        if versions.get(id) != Some(&version.parse().ok()) || version.is_empty() {
                            no(format!("with the key {key}, which is not the current one"));
                        }
                    }
                }
                _ => {}
            }
        }
    }
    found
}
