//! What an agent may know of its own approvals, and nothing of anybody else's.

use bytes::Bytes;
use countersign_proto::v1;
use v1::AgentApprovalState as Told;

use crate::state::{Approval, ApprovalId, ApprovalState, State};

/// About which approvals an agent asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Those that wait, and those that came to an end a short while ago.
    All,
    One(ApprovalId),
}

/// How long one that came to an end is still listed.
const LISTED_MS: u64 = 60 * 60 * 1000;
/// As many as fit into a message, whatever is in them.
const MOST: usize = 100;
/// A longer URL is cut.
const URL_BYTES: usize = 2048;
const REASON_BYTES: usize = 1000;

/// The agent's own, newest first; nothing for an agent that is not known or was revoked, and for an approval that is
/// another agent's.
pub(super) fn known(state: &State, agent: &str, which: Which) -> Vec<v1::AgentApproval> {
    if state.agent(agent).is_none_or(|agent| !agent.active) {
        return Vec::new();
    }
    let own = |approval: &&Approval| approval.agent == agent;
    match which {
        Which::One(id) => state.approval(id).filter(own).map(told).into_iter().collect(),
        Which::All => {
            let since = state.log_time().saturating_sub(LISTED_MS);
            let listed = |approval: &&Approval| {
                !approval.state.is_terminal() || approval.settled_at.is_some_and(|at| at >= since)
            };
            let mut approvals: Vec<_> = state.approvals().filter(own).filter(listed).collect();
            approvals.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(a.id.cmp(&b.id)));
            approvals.truncate(MOST);
            approvals.into_iter().map(told).collect()
        }
    }
}

fn told(approval: &Approval) -> v1::AgentApproval {
    let shown = &approval.shown;
    let host =
        if shown.host.contains(':') { format!("[{}]", shown.host) } else { shown.host.clone() };
    let port = match (shown.scheme.as_str(), shown.port) {
        ("https", 443) | ("http", 80) | ("postgres", 5432) => String::new(),
        (_, port) => format!(":{port}"),
    };
    let query = shown.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let url = format!("{}://{host}{port}{}{query}", shown.scheme, shown.path);
    v1::AgentApproval {
        approval_id: Bytes::copy_from_slice(&approval.id.0),
        state: state(approval.state).into(),
        method: shown.method.clone(),
        url: cut(url, URL_BYTES),
        rule: approval.rule.clone(),
        reason: cut(approval.reason.clone(), REASON_BYTES),
        created_at_unix_ms: approval.created_at,
        expires_at_unix_ms: approval.due,
        status: approval.outcome.as_ref().map_or(0, |(_, status, _)| (*status).into()),
    }
}

fn state(state: ApprovalState) -> Told {
    match state {
        ApprovalState::Pending => Told::Pending,
        ApprovalState::Approved => Told::Approved,
        ApprovalState::Denied => Told::Denied,
        ApprovalState::Expired => Told::Expired,
        ApprovalState::Cancelled => Told::Cancelled,
        ApprovalState::Revoked => Told::Revoked,
        ApprovalState::Released => Told::Released,
        ApprovalState::Completed => Told::Completed,
        ApprovalState::Unknown => Told::Unknown,
    }
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}
