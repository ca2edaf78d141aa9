//! What a refusal says to whoever reads it, which is often a language model.

use super::{NotUpgraded, Refusal};
use crate::local::{approval_at, result_of};

impl Refusal {
    /// What was not done, why, and what to do next.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::AddressDenied { why } => format!(
                "Not sent: {why}. Requests to such addresses are never forwarded. Use a public host that the policy \
                 names, or ask an operator to allow this network for the gateway."
            ),
            Self::AlreadyExecuted { approval_id: Some(id), kept: true } => format!(
                "Not sent again: the approval for this request was already used by an identical one. Do not repeat it; if \
                 it was the one that this gateway had parked, what came of it is at {}.",
                result_of(id)
            ),
            Self::AlreadyExecuted { .. } => "Not sent again: the approval for this request was already used by an \
                 identical one, which was carried out. Do not repeat it; look at the result of the first."
                .into(),
            Self::AmbiguousTarget { why } => format!(
                "Not sent: {why}, so that the gateway and the upstream could read two different requests. Send the \
                 plain path, without encoded slashes, dot segments or doubled characters."
            ),
            Self::ApprovalCancelled { detail, .. } => {
                format!("Not sent: the approval of this request was withdrawn{}. Do not repeat it.", after(detail))
            }
            Self::ApprovalDenied { detail, .. } => format!(
                "Not sent: a person was asked and said no{}. Do not repeat this request; ask what to do instead.",
                after(detail)
            ),
            Self::ApprovalExpired { .. } => "Not sent: nobody answered before the approval expired. Repeating the \
                 request asks again; do so only if it is still wanted."
                .into(),
            Self::ApprovalPending { approval_id, request, parked: true } => format!(
                "Not sent yet: {request} waits for a person's approval. This gateway has parked it: it is kept here, and \
                 sent once as soon as it is approved, whether you wait or not. Do not send another one like it; what comes \
                 of it will be at {}. Should this gateway restart before, the identical request attaches to the same \
                 approval.",
                result_of(approval_id)
            ),
            Self::ApprovalPending { approval_id, request, .. } => format!(
                "Not sent yet: {request} waits for a person's approval. Repeat the identical request to keep waiting; \
                 it attaches to the same approval. Do not change it: a changed request is a new one. How it stands is at \
                 {}.",
                approval_at(approval_id)
            ),
            Self::BadRequest { why } => format!("Not sent: {why}."),
            Self::BodyTooLarge { limit } => format!(
                "Not sent: the body is larger than {limit} bytes, which is the most that can be inspected or shown to \
                 a person. Split the request, or send less."
            ),
            Self::BodyTooSlow => "Not carried out: the body came too slowly. What is inspected or shown to a person has to be \
                 here whole within 30 seconds, and any other has to come at a kibibyte a second. Send it again, without \
                 pauses."
                .into(),
            Self::ClockOff => "Not sent: the clock of this gateway and that of the control plane are more than 30 seconds \
                 apart, so that it cannot be told whether an approval still holds. An operator has to set the clock \
                 right; try again later."
                .into(),
            Self::ControlPlaneUnavailable => "Not sent: the control plane, which has the keys and the policy, cannot \
                 be reached right now. Try again in a few seconds."
                .into(),
            Self::DestinationMismatch { why } => format!(
                "Not sent: {why}. The host of CONNECT, of TLS and of the request itself must be one and the same."
            ),
            Self::Draining { .. } => "Not sent: this gateway is going down. Repeat the identical request: another one \
                 takes it, and an approval that is open stays open."
                .into(),
            Self::Evicted => "Not sent: this gateway was evicted by an operator, and forwards nothing any more. Repeating \
                 the request here changes nothing; ask an operator which gateway to use."
                .into(),
            Self::FakeKeyMisplaced { why } => format!(
                "Not sent: {why}. A key belongs only in its own place of requests to its own host. This was reported. \
                 Take the key out and send the request again."
            ),
            Self::FakeKeyMissing { credentials, why, .. } => format!(
                "Not sent: {why}. Send the key that you were given for {} in its usual place.",
                quoted(credentials)
            ),
            Self::HeadTooLarge { what } => format!(
                "Not sent: there is {what}, which servers do not take. Put what is large into the body, or send less."
            ),
            Self::LeaseRefused { credential, detail } => format!(
                "Not sent: the control plane does not give out the key of \"{credential}\"{}. Ask an operator.",
                after(detail)
            ),
            Self::LookOnly => "Nothing was changed: approvals can be looked at here, with GET, and nothing can be decided. \
                 People decide, elsewhere; wait for them."
                .into(),
            Self::MethodNotAllowed => "Not sent: only DELETE, GET, HEAD, OPTIONS, PATCH, POST and PUT, in capitals, \
                 are forwarded."
                .into(),
            Self::NoResult { why, .. } => why.clone(),
            Self::NoSuchApproval => "Nothing was found: none of your approvals has this id, or it ended so long ago that \
                 it is not kept any more. GET /approvals lists those that there are."
                .into(),
            Self::NoToken { detail, .. } => format!(
                "Not sent: {detail}. This is no fault of the request: send the same again in a while, and an approval that \
                 it has counts still. If that goes on, an operator has to look at that key."
            ),
            Self::NothingHere => "Nothing was found: there is GET /approvals, /approvals/ID (with ?wait=SECONDS, to wait for \
                 an answer), and /approvals/ID/result."
                .into(),
            Self::OutcomeUnknown { .. } => "It was approved and sent, and then the connection was lost: it may or may \
                 not have happened. It is never repeated by itself. Check at the upstream before you do anything else."
                .into(),
            Self::Overloaded { of } => {
                format!("Not sent: there are too many {of} already. Wait for some of them to finish, then try again.")
            }
            Self::PolicyDenied { rule: Some(rule), detail } => format!(
                "Not sent: rule \"{rule}\" of the policy does not allow it{}. Repeating it changes nothing; do \
                 something that the policy allows, or ask an operator to change that rule.",
                after(detail.as_deref().unwrap_or_default())
            ),
            Self::PolicyDenied { rule: None, detail } => format!(
                "Not sent: no rule of the policy names this request{}, and what no rule names is refused. Repeating it \
                 changes nothing; ask an operator to add a rule if it is needed.",
                after(detail.as_deref().unwrap_or_default())
            ),
            Self::PolicyFailed => "Not sent: something went wrong while the policy was applied to this request, and what \
                 cannot be judged is refused. Repeating it as it is changes nothing; report it to an operator."
                .into(),
            Self::ProxyCredential => "Not sent: the proxy needs the agent's name and token, as in \
                 HTTPS_PROXY=http://NAME:TOKEN@HOST:PORT, and none that it knows was given."
                .into(),
            Self::Sealed => "Not sent: the vault is sealed, so no key can be used and nothing can be approved. An \
                 operator has to unseal it; try again later."
                .into(),
            Self::TokensWithheld => "It was sent, and what came back is not passed on: answers of this address hold tokens, \
                 which agents are not given. Use the key that you have as it is: it stands for a token already."
                .into(),
            Self::TooManyPending { detail } => format!(
                "Not sent, and nobody was asked{}. Wait until people have answered what waits (GET \
                 https://countersign.local/approvals shows it), then repeat this request; asking for more now changes nothing.",
                after(detail)
            ),
            Self::UpgradeRefused { rule, because } => because.detail(rule),
            Self::UpstreamFailed { why } => format!("Not carried out: {why}. Try again later."),
        }
    }
}

impl NotUpgraded {
    fn detail(&self, rule: &str) -> String {
        match self {
            Self::Asked => format!(
                "Not sent: rule \"{rule}\" of the policy asks people about this request, and one answer must not open a \
                 connection through which anything could be sent afterwards. Do it with single requests, or ask an operator for \
                 a rule that allows it as a WebSocket with a key of its own."
            ),
            Self::InTurns => format!(
                "Not sent: under rule \"{rule}\" each request is recorded, or has its key, one at a time, and a WebSocket would \
                 be many. Do it with single requests, or ask an operator for a rule with `upgrade = \"websocket\"` and a key \
                 that may be leased."
            ),
            Self::Unlooked { protocol } => format!(
                "Not sent: it asks to go on as {protocol}, which is not looked into here and therefore never let through. Rule \
                 \"{rule}\" allows single requests; a rule with `upgrade = \"websocket\"` allows a WebSocket. Use a client \
                 that speaks that (kubectl does from 1.31 on), and ask an operator for such a rule if there is none."
            ),
        }
    }
}

fn after(detail: &str) -> String {
    let detail = detail.trim().trim_end_matches('.');
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
}
