//! What must be true when a seed is over, of all that was written down and of what every node says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use countersign_control_plane::cluster::Cluster;
use countersign_control_plane::state::{
    Approval, ApprovalId, ApprovalState, Record, State, VoteWord,
};

use crate::history::{self, Op, Operation};
use crate::ledger::{Inner, Ledger};
use crate::town::Town;

/// Gives how many histories were checked.
pub(crate) fn check(town: &Town) -> usize {
    let nodes: Vec<_> =
        town.houses.iter().filter_map(|house| Some((&house.name, house.up()?.cluster))).collect();
    let Some((_, any)) = nodes.first() else {
        town.ledger.violated("no node is up at the end");
        return 0;
    };
    let mut violations = Vec::new();
    let records = any.peek(|state| state.audit().records().to_vec());
    for (name, node) in &nodes {
        violations.extend(audit(name, node, &records));
    }
    violations.extend(time_goes_on(&records));
    let approvals = any.peek(|state: &State| {
        state.approvals().map(|approval| (approval.id, approval.clone())).collect()
    });
    let inner = town.ledger.inner();
    violations.extend(releases(&inner, &approvals, &records));
    violations.extend(votes(&inner, &approvals));
    drop(inner);
    let histories = match history::check(&operations(&town.ledger, &approvals), 1) {
        Ok(histories) => histories,
        Err(faults) => {
            violations.extend(faults.into_iter().map(|fault| format!("I6: {fault:?}")));
            0
        }
    };
    violations.into_iter().for_each(|violation| town.ledger.violated(violation));
    histories
}

/// I5: whole on every node, and the same.
fn audit(name: &str, node: &Cluster, records: &[Record]) -> Vec<String> {
    node.peek(|state| {
        let mut violations = Vec::new();
        if let Err(broken) = state.audit().verify() {
            violations.push(format!("I5: on {name}, {broken}"));
        }
        if state.audit().records() != records {
            violations.push(format!("I5: {name} has other audit records than the others"));
        }
        violations
    })
}

/// I14.
fn time_goes_on(records: &[Record]) -> Option<String> {
    let back = records.windows(2).find(|two| two[1].at < two[0].at)?;
    Some(format!("I14: record {} is earlier than the one before it", back[1].index))
}

/// I1, I2, I4, I5: what was carried out, against what was approved.
fn releases(
    inner: &Inner,
    approvals: &BTreeMap<ApprovalId, Approval>,
    records: &[Record],
) -> Vec<String> {
    let mut violations = Vec::new();
    let mut claims: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.action == "request.claim") {
        let approval = record.detail("approval").map_or("", String::as_str);
        claims.entry(approval).or_default().insert(&record.subject);
    }
    for (approval, requests) in claims.iter().filter(|(_, requests)| requests.len() > 1) {
        violations
            .push(format!("I2: approval {approval} was claimed by {} requests", requests.len()));
    }
    let (mut used, mut sent) = (BTreeSet::new(), BTreeSet::new());
    for execution in &inner.executions {
        let (id, request) = (execution.approval, hex::encode(execution.request));
        if !used.insert(id) || !sent.insert(execution.request) {
            violations.push(format!("I2: approval {id} was carried out twice"));
        }
        if !claims.get(id.to_string().as_str()).is_some_and(|c| c.contains(request.as_str())) {
            violations.push(format!("I5: the release to request {request} is in no audit record"));
        }
        let Some(approval) = approvals.get(&id) else {
            violations.push(format!("I1: request {request} was released by no approval"));
            continue;
        };
        if approval.shown.intent_digest != execution.intent {
            violations.push(format!("I1: request {request} is not what approval {id} shows"));
        }
        let Some(claim) = approval.claim.as_ref().filter(|c| c.request_id == execution.request)
        else {
            violations.push(format!("I2: approval {id} was not released to request {request}"));
            continue;
        };
        if claim.at >= approval.due {
            violations.push(format!("I4: approval {id} was released after it had expired"));
        }
        let counts = |word| {
            let mut votes = approval.votes.iter();
            votes.any(|vote| vote.word == word && !vote.withdrawn && vote.at <= claim.at)
        };
        if !counts(VoteWord::Approve) {
            violations.push(format!("I1: nobody had approved {id} when it was released"));
        }
        let released = matches!(
            approval.state,
            ApprovalState::Released | ApprovalState::Completed | ApprovalState::Unknown
        );
        if counts(VoteWord::Deny) || !released {
            violations.push(format!("I4: {id} is {} and was carried out", approval.state));
        }
    }
    violations
}

/// I3.
fn votes(inner: &Inner, approvals: &BTreeMap<ApprovalId, Approval>) -> Vec<String> {
    let kept = |vote: &&crate::ledger::Vote| {
        approvals.get(&vote.approval).is_some_and(|approval| {
            let denied = approval.state == ApprovalState::Denied;
            let mut votes = approval.votes.iter();
            votes.any(|v| v.principal == vote.principal && v.word == vote.word && !v.withdrawn)
                && (vote.word == VoteWord::Approve || denied)
        })
    };
    let lost = inner.votes.iter().filter(|vote| !kept(vote));
    lost.map(|vote| {
        format!(
            "I3: {}'s acknowledged vote ({:?}) on {} is not kept",
            vote.principal, vote.word, vote.approval
        )
    })
    .collect()
}

/// What was done and told, and what the state says was done without anyone having been told.
fn operations(ledger: &Ledger, approvals: &BTreeMap<ApprovalId, Approval>) -> Vec<Operation> {
    let mut operations = ledger.journal.operations();
    let Some(began) = operations.iter().map(|operation| operation.invoked).min() else {
        return operations;
    };
    let inner = ledger.inner();
    let untold = |approval: &Approval, op, invoked: Option<&Instant>| Operation {
        approval: approval.id.to_string(),
        op,
        at: "the state".into(),
        invoked: invoked.copied().unwrap_or(began),
        returned: None,
    };
    for approval in approvals.values() {
        if approval.state == ApprovalState::Expired {
            operations.push(untold(approval, Op::Expire, None));
        }
        if let Some(claim) = &approval.claim
            && !inner.executions.iter().any(|e| e.request == claim.request_id)
        {
            let announced = inner.announced.get(&claim.request_id);
            operations.push(untold(approval, Op::Claim(hex::encode(claim.request_id)), announced));
        }
    }
    operations
}
