//! An approval, and what came of it, in words that a language model acts on.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::result_of;
use crate::control::{Approval, Standing};
use crate::park::{Body, Kept, What};

/// The approval as its agent sees it. `here`: what this gateway has of it.
pub(super) fn of(approval: &Approval, here: Option<What>) -> Value {
    let parked = matches!(here, Some(What::Parked | What::Carrying));
    let kept = matches!(here, Some(What::Answered(..) | What::Failed(_)));
    let mut seen = json!({
        "id": approval.id,
        "state": approval.state.word(),
        "method": approval.method,
        "url": approval.url,
        "rule": approval.rule,
        "why": why(approval),
        "created_at": time(approval.created_ms),
        "expires_at": time(approval.expires_ms),
        "parked": parked,
        "result": kept.then(|| result_of(&approval.id)),
        "next": next(approval, here.as_ref()),
    });
    if !approval.reason.is_empty() {
        seen["reason"] = approval.reason.as_str().into();
    }
    if let Some(status) = approval.status {
        seen["upstream_status"] = status.into();
    }
    seen
}

fn why(approval: &Approval) -> String {
    let Approval { rule, method, .. } = approval;
    format!("Rule \"{rule}\" of the policy has people approve such a {method} before it is sent.")
}

/// What its agent is to do.
fn next(approval: &Approval, here: Option<&What>) -> String {
    match (approval.state, here) {
        (_, Some(What::Answered(..) | What::Failed(_))) => {
            format!("Nothing waits any more: what came of it is at {}.", result_of(&approval.id))
        }
        (Standing::Pending | Standing::Approved | Standing::Released, Some(_)) => format!(
            "Nothing but to wait: this gateway keeps the request, and sends it once as soon as it is approved. What comes \
             of it will be at {}. Do not send it again.",
            result_of(&approval.id)
        ),
        (Standing::Pending, None) => "Wait for a person: ask here with ?wait=50, as often as it takes, then repeat the \
             identical request. Do not change it: a changed request is a new one."
            .into(),
        (Standing::Approved, None) => format!(
            "Repeat the identical request now: it is sent at once. The approval can be used until {}.",
            time(approval.expires_ms)
        ),
        (Standing::Released, None) => "It is being sent. Look again in a moment; do not repeat it.".into(),
        (Standing::Completed, _) => match approval.status {
            Some(status) => format!(
                "It was sent once, and the upstream answered with status {status}. Do not repeat it, or people are asked again."
            ),
            None => "The approval was used, and nothing was sent in the end. Repeating the request asks people again.".into(),
        },
        (Standing::Denied, _) => "A person said no. Do not repeat it; ask what to do instead.".into(),
        (Standing::Expired, _) => "Nobody answered in time, or the approval was not used in time. Repeating the request \
             asks again; do so only if it is still wanted."
            .into(),
        (Standing::Cancelled | Standing::Revoked, _) => "It was withdrawn. Do not repeat it.".into(),
        (Standing::Unknown, _) => "It was approved and sent, and it may or may not have happened. Check at the upstream \
             before you do anything else."
            .into(),
    }
}

/// Code and reason of a result that is not there.
pub(super) fn no_result(approval: &Approval, here: Option<What>) -> (&'static str, String) {
    let next = next(approval, here.as_ref());
    match (approval.state, here) {
        (Standing::Pending | Standing::Approved | Standing::Released, Some(_)) => {
            ("result_pending", format!("The request has not been carried out yet. {next}"))
        }
        (Standing::Pending | Standing::Approved, None) => {
            ("result_not_parked", format!("This gateway does not keep the request. {next}"))
        }
        (Standing::Released, None) => ("result_pending", next),
        (Standing::Completed, _) => ("result_not_kept", format!("There is no result here. {next}")),
        (Standing::Unknown, _) => ("outcome_unknown", next),
        (Standing::Denied, _) => ("approval_denied", format!("Nothing was sent. {next}")),
        (Standing::Expired, _) => ("approval_expired", format!("Nothing was sent. {next}")),
        (Standing::Cancelled | Standing::Revoked, _) => {
            ("approval_cancelled", format!("Nothing was sent. {next}"))
        }
    }
}

/// The upstream's answer, in an envelope: its status is not ours.
pub(super) fn result(approval_id: &str, kept: &Kept, at_ms: u64) -> Value {
    let Kept { status, headers, body } = kept;
    let mut response = json!({ "status": status, "headers": headers });
    match body {
        Body::Whole(body) => match std::str::from_utf8(body) {
            Ok(text) => response["body"] = text.into(),
            Err(_) => response["body_base64"] = STANDARD.encode(body).into(),
        },
        Body::NotKept(why) => {
            response["body_not_kept"] = format!("The body was not kept: {why}.").into()
        }
    }
    json!({ "id": approval_id, "state": "completed", "carried_out_at": time(at_ms), "response": response })
}

/// RFC 3339, to the second.
fn time(ms: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}
