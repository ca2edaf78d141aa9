//! I5, I10, I14: the audit logs, read by somebody who has nothing but SHA-256.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Evidence, Node, Violation};
use crate::history::{Op, Told};

/// One line of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub index: u64,
    /// Milliseconds since 1970, of the cluster's time.
    pub at: u64,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub details: Vec<(String, String)>,
    pub previous: String,
    pub hash: String,
}

impl Record {
    /// The first detail of that name.
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.details.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// What its hash must be.
    pub fn computed_hash(&self) -> String {
        let mut bytes = b"countersign/v1/audit\0".to_vec();
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u32).to_be_bytes());
            bytes.extend(text.as_bytes());
        };
        bytes.extend(self.index.to_be_bytes());
        bytes.extend(self.at.to_be_bytes());
        text(&mut bytes, &self.actor);
        text(&mut bytes, &self.action);
        text(&mut bytes, &self.subject);
        bytes.extend((self.details.len() as u32).to_be_bytes());
        for (name, value) in &self.details {
            text(&mut bytes, name);
            text(&mut bytes, value);
        }
        bytes.extend(hex::decode(&self.previous).unwrap_or_default());
        hex::encode(Sha256::digest(&bytes))
    }
}

/// The records of an export; what is no record of one (a signed checkpoint) is passed over.
///
/// # Errors
/// The first line that is no JSON.
pub fn parse_export(text: &str) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).map_err(|e| format!("{e}: {line}"))?;
        let text = |name: &str| value[name].as_str().map(ToOwned::to_owned);
        let details = |value: &Value| {
            let pairs = value["details"].as_array()?.iter();
            pairs
                .map(|d| Some((d["name"].as_str()?.to_owned(), d["value"].as_str()?.to_owned())))
                .collect::<Option<Vec<_>>>()
        };
        let record = || {
            Some(Record {
                index: value["index"].as_u64()?,
                at: milliseconds(value["at"].as_str()?)?,
                actor: text("actor")?,
                action: text("action")?,
                subject: text("subject")?,
                details: details(&value)?,
                previous: text("previous_hash")?,
                hash: text("hash")?,
            })
        };
        records.extend(record());
    }
    Ok(records)
}

/// Of a time as RFC 3339 writes it.
pub(crate) fn milliseconds(text: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis().try_into().ok()
}

/// Every node's chain is whole from its first record on, and says of each release what the upstream saw.
pub(super) fn audited(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for node in &evidence.nodes {
        found.extend(broken(node));
        let claimed: BTreeSet<&str> = claims(node).filter_map(|r| r.detail("approval")).collect();
        for arrival in evidence.arrivals.iter().filter(|a| a.keyed && a.risky) {
            let recorded =
                node.cards.iter().any(|card| card.shows(arrival) && claimed.contains(&*card.id));
            if !recorded {
                let what = format!(
                    "{} {} reached the upstream, and {} has no record of its release",
                    arrival.method, arrival.target, node.name
                );
                found.push(Violation::new(5, what));
            }
        }
        for operation in evidence.operations.iter().filter(|o| o.is_accepted()) {
            let (who, word) = match &operation.op {
                Op::Approve(who) => (who, "approve"),
                Op::Deny(who) => (who, "deny"),
                _ => continue,
            };
            let recorded = node.audit.iter().any(|r| {
                r.action == "approval.vote"
                    && r.subject == operation.approval
                    && r.detail("principal") == Some(who)
                    && r.detail("word") == Some(word)
            });
            if !recorded {
                let what = format!(
                    "{who} was told that {word} of {} counts, and {} has no record of it",
                    operation.approval, node.name
                );
                found.push(Violation::new(5, what));
            }
        }
    }
    found
}

fn broken(node: &Node) -> Option<Violation> {
    let mut previous = "0".repeat(64);
    for (number, record) in node.audit.iter().enumerate() {
        let fits = record.index == number as u64 + 1
            && record.previous == previous
            && record.hash == record.computed_hash();
        if !fits {
            let what = format!("the audit log of {} is broken at {}", node.name, number + 1);
            return Some(Violation::new(5, what));
        }
        previous.clone_from(&record.hash);
    }
    None
}

pub(super) fn claims(node: &Node) -> impl Iterator<Item = &Record> {
    node.audit.iter().filter(|record| record.action == "request.claim")
}

/// All nodes have the same records and show the same approvals.
pub(super) fn replicas_agree(evidence: &Evidence) -> Vec<Violation> {
    let Some((first, others)) = evidence.nodes.split_first() else { return Vec::new() };
    let mut found = Vec::new();
    let states = |node: &Node| -> BTreeMap<String, String> {
        node.cards.iter().map(|card| (card.id.clone(), format!("{card:?}"))).collect()
    };
    for other in others {
        let pairs = first.audit.iter().zip(&other.audit);
        if let Some((one, _)) = pairs.clone().find(|(one, other)| one.hash != other.hash) {
            let what =
                format!("{} and {} differ from record {} on", first.name, other.name, one.index);
            found.push(Violation::new(10, what));
        }
        if first.audit.len() != other.audit.len() {
            let what = format!(
                "{} has {} records at the end, {} has {}",
                first.name,
                first.audit.len(),
                other.name,
                other.audit.len()
            );
            found.push(Violation::new(10, what));
        }
        if states(first) != states(other) {
            let what = format!("{} and {} show different approvals", first.name, other.name);
            found.push(Violation::new(10, what));
        }
    }
    found
}

/// What two machines' clocks may drift apart by in a run, and what rounding to milliseconds takes.
const SLACK: Duration = Duration::from_millis(500);

/// The cluster's time never goes back, and never slower than time: between two taps, the second of which began after
/// the first was answered, the records are at least as far apart as that.
pub(super) fn time_goes_on(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for node in &evidence.nodes {
        for pair in node.audit.windows(2) {
            if pair[1].at < pair[0].at {
                let what = format!(
                    "on {}, record {} is {} ms before the one it follows",
                    node.name,
                    pair[1].index,
                    pair[0].at - pair[1].at
                );
                found.push(Violation::new(14, what));
            }
        }
    }
    let Some(node) = evidence.nodes.first() else { return found };
    let mut taps: Vec<_> = evidence
        .operations
        .iter()
        .filter_map(|operation| {
            let (who, word) = match &operation.op {
                Op::Approve(who) => (who, "approve"),
                Op::Deny(who) => (who, "deny"),
                _ => return None,
            };
            let Some((returned, Told::Accepted)) = &operation.returned else { return None };
            let mut records = node.audit.iter().filter(|r| {
                r.action == "approval.vote"
                    && r.subject == operation.approval
                    && r.detail("principal") == Some(who)
                    && r.detail("word") == Some(word)
            });
            // One that said the same twice has one record, and it is not known of which tap.
            let record = records.next()?;
            let alone = evidence
                .operations
                .iter()
                .filter(|o| o.approval == operation.approval && o.op == operation.op)
                .count()
                == 1;
            (alone && records.next().is_none()).then_some((operation.invoked, *returned, record.at))
        })
        .collect();
    taps.sort();
    // Every pair: what falls behind by a little with each tap has fallen behind in the end.
    let pairs =
        taps.iter().enumerate().flat_map(|(n, later)| taps[..n].iter().map(move |e| (e, later)));
    for (earlier, later) in pairs {
        let passed = later.0.saturating_duration_since(earlier.1);
        let logged = Duration::from_millis(later.2.saturating_sub(earlier.2));
        if logged + SLACK < passed {
            let what = format!("{passed:?} passed between two taps, and the log says {logged:?}");
            found.push(Violation::new(14, what));
        }
    }
    found
}
