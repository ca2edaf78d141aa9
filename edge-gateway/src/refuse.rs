//! Every way to say no, and the only table of statuses. The texts are read by language models: what was not done,
//! why, and what to do next.

use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, PROXY_AUTHENTICATE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};

use crate::upstream::BoxBody;

pub(crate) const APPROVAL_ID: HeaderName = HeaderName::from_static("countersign-approval-id");
pub(crate) const APPROVAL_STATUS: HeaderName =
    HeaderName::from_static("countersign-approval-status");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An approval's id, as people see it.
pub(crate) type ApprovalId = String;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    AddressDenied {
        why: String,
    },
    AlreadyExecuted {
        approval_id: Option<ApprovalId>,
    },
    AmbiguousTarget {
        why: String,
    },
    ApprovalCancelled {
        approval_id: Option<ApprovalId>,
        detail: String,
    },
    ApprovalDenied {
        approval_id: Option<ApprovalId>,
        detail: String,
    },
    ApprovalExpired {
        approval_id: Option<ApprovalId>,
    },
    ApprovalPending {
        approval_id: ApprovalId,
        request: String,
    },
    BadRequest {
        why: String,
    },
    BodyTooLarge {
        limit: usize,
    },
    BodyTooSlow,
    ClockOff,
    ControlPlaneUnavailable,
    DestinationMismatch {
        why: String,
    },
    Draining {
        approval_id: Option<ApprovalId>,
    },
    Evicted,
    FakeKeyMisplaced {
        why: String,
    },
    /// `basic`: the slot is a user name or password, so the client is asked for one.
    FakeKeyMissing {
        credentials: Vec<String>,
        basic: bool,
        why: &'static str,
    },
    LeaseRefused {
        credential: String,
        detail: String,
    },
    MethodNotAllowed,
    OutcomeUnknown {
        approval_id: Option<ApprovalId>,
    },
    Overloaded {
        of: &'static str,
    },
    PolicyDenied {
        rule: Option<String>,
        detail: Option<String>,
    },
    /// The policy could not be asked about it.
    PolicyFailed,
    ProxyCredential,
    Sealed,
    UpstreamFailed {
        why: String,
    },
}

impl Refusal {
    /// Status, `code` and title: the table.
    fn row(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::AddressDenied { .. } => {
                (S::FORBIDDEN, "address_denied", "This address may not be reached")
            }
            Self::AlreadyExecuted { .. } => {
                (S::CONFLICT, "already_executed", "Already carried out")
            }
            Self::AmbiguousTarget { .. } => {
                (S::BAD_REQUEST, "ambiguous_target", "The target can be read in two ways")
            }
            Self::ApprovalCancelled { .. } => {
                (S::FORBIDDEN, "approval_cancelled", "The approval was cancelled")
            }
            Self::ApprovalDenied { .. } => (S::FORBIDDEN, "approval_denied", "A person said no"),
            Self::ApprovalExpired { .. } => {
                (S::FORBIDDEN, "approval_expired", "Nobody answered in time")
            }
            Self::ApprovalPending { .. } => {
                (S::SERVICE_UNAVAILABLE, "approval_pending", "Waiting for approval")
            }
            Self::BadRequest { .. } => {
                (S::BAD_REQUEST, "bad_request", "Not a request that can be forwarded")
            }
            Self::BodyTooLarge { .. } => {
                (S::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large")
            }
            Self::BodyTooSlow => {
                (S::REQUEST_TIMEOUT, "body_too_slow", "The body did not arrive in time")
            }
            Self::ClockOff => {
                (S::SERVICE_UNAVAILABLE, "clock_off", "This gateway's clock is wrong")
            }
            Self::ControlPlaneUnavailable => (
                S::SERVICE_UNAVAILABLE,
                "control_plane_unavailable",
                "The control plane cannot be reached",
            ),
            Self::DestinationMismatch { .. } => (
                S::MISDIRECTED_REQUEST,
                "destination_mismatch",
                "The request names two destinations",
            ),
            Self::Draining { .. } => {
                (S::SERVICE_UNAVAILABLE, "draining", "This gateway is going down")
            }
            Self::Evicted => (S::SERVICE_UNAVAILABLE, "edge_evicted", "This gateway is out of use"),
            Self::FakeKeyMisplaced { .. } => {
                (S::FORBIDDEN, "fake_key_misplaced", "A key is where it must not be")
            }
            Self::FakeKeyMissing { .. } => {
                (S::UNAUTHORIZED, "fake_key_missing", "The key is missing")
            }
            Self::LeaseRefused { .. } => {
                (S::FORBIDDEN, "credential_refused", "The key may not be used")
            }
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "Unknown method")
            }
            Self::OutcomeUnknown { .. } => {
                (S::CONFLICT, "outcome_unknown", "It may or may not have happened")
            }
            Self::Overloaded { .. } => (S::SERVICE_UNAVAILABLE, "overloaded", "Too much at once"),
            Self::PolicyDenied { .. } => {
                (S::FORBIDDEN, "policy_denied", "The policy does not allow it")
            }
            Self::PolicyFailed => {
                (S::FORBIDDEN, "policy_failed", "The policy could not be applied")
            }
            Self::ProxyCredential => {
                (S::PROXY_AUTHENTICATION_REQUIRED, "proxy_credential", "Who is asking is not known")
            }
            Self::Sealed => (S::SERVICE_UNAVAILABLE, "sealed", "The vault is sealed"),
            Self::UpstreamFailed { .. } => {
                (S::BAD_GATEWAY, "upstream_failed", "The upstream could not be used")
            }
        }
    }

    /// `code` of the answer, for metrics.
    pub(crate) fn code(&self) -> &'static str {
        self.row().1
    }

    fn detail(&self) -> String {
        match self {
            Self::AddressDenied { why } => format!(
                "Not sent: {why}. Requests to such addresses are never forwarded. Use a public host that the policy \
                 names, or ask an operator to allow this network for the gateway."
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
            Self::ApprovalPending { request, .. } => format!(
                "Not sent yet: {request} waits for a person's approval. Repeat the identical request to keep waiting; \
                 it attaches to the same approval. Do not change it: a changed request is a new one."
            ),
            Self::BadRequest { why } => format!("Not sent: {why}."),
            Self::BodyTooLarge { limit } => format!(
                "Not sent: the body is larger than {limit} bytes, which is the most that can be inspected or shown to \
                 a person. Split the request, or send less."
            ),
            Self::BodyTooSlow => "Not sent: the body did not arrive whole within 30 seconds. Nothing was opened for \
                 approval. Send it again."
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
            Self::LeaseRefused { credential, detail } => format!(
                "Not sent: the control plane does not give out the key of \"{credential}\"{}. Ask an operator.",
                after(detail)
            ),
            Self::MethodNotAllowed => "Not sent: only DELETE, GET, HEAD, OPTIONS, PATCH, POST and PUT, in capitals, \
                 are forwarded."
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
            Self::UpstreamFailed { why } => format!("Not carried out: {why}. Try again later."),
        }
    }

    fn approval_id(&self) -> Option<&str> {
        match self {
            Self::AlreadyExecuted { approval_id }
            | Self::ApprovalCancelled { approval_id, .. }
            | Self::ApprovalDenied { approval_id, .. }
            | Self::ApprovalExpired { approval_id }
            | Self::Draining { approval_id }
            | Self::OutcomeUnknown { approval_id } => approval_id.as_deref(),
            Self::ApprovalPending { approval_id, .. } => Some(approval_id),
            _ => None,
        }
    }

    /// Seconds after which to try again.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::ApprovalPending { .. } => Some(15),
            Self::ClockOff => Some(30),
            Self::ControlPlaneUnavailable => Some(5),
            Self::Draining { .. } => Some(2),
            Self::Overloaded { .. } => Some(1),
            Self::Sealed => Some(30),
            _ => None,
        }
    }

    /// Whether the same request will get the same answer.
    fn last_word(&self) -> bool {
        let (status, ..) = self.row();
        matches!(status, StatusCode::FORBIDDEN | StatusCode::CONFLICT)
            || matches!(self, Self::AmbiguousTarget { .. })
    }

    /// The answer: `application/problem+json` (RFC 9457).
    pub(crate) fn into_response(self) -> Response<BoxBody> {
        let (status, code, title) = self.row();
        let mut problem = serde_json::json!({
            "type": format!("urn:countersign:problem:{code}"),
            "title": title,
            "status": status.as_u16(),
            "code": code,
            "detail": self.detail(),
        });
        if let Self::PolicyDenied { rule: Some(rule), .. } = &self {
            problem["rule"] = rule.as_str().into();
        }
        if let Some(id) = self.approval_id() {
            problem["approval_id"] = id.into();
        }
        let mut response = answer(status, "application/problem+json", problem.to_string());
        let headers = response.headers_mut();
        if let Some(Ok(id)) = self.approval_id().map(HeaderValue::from_str) {
            headers.insert(APPROVAL_ID, id);
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.last_word() {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        match self {
            Self::AlreadyExecuted { .. } => {
                headers.insert(APPROVAL_STATUS, HeaderValue::from_static("completed"));
            }
            Self::ApprovalPending { .. } => {
                headers.insert(APPROVAL_STATUS, HeaderValue::from_static("pending"));
            }
            Self::FakeKeyMissing { basic, .. } => {
                let challenge = if basic { r#"Basic realm="countersign""# } else { "Bearer" };
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Self::MethodNotAllowed => {
                headers.insert(
                    ALLOW,
                    HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
                );
            }
            Self::ProxyCredential => {
                headers.insert(
                    PROXY_AUTHENTICATE,
                    HeaderValue::from_static(r#"Basic realm="countersign""#),
                );
            }
            Self::BodyTooLarge { .. } | Self::BodyTooSlow => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

/// A short answer of our own.
pub(crate) fn answer(
    status: StatusCode,
    content_type: &'static str,
    text: String,
) -> Response<BoxBody> {
    let mut response = Response::new(whole(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A body that is all there.
pub(crate) fn whole(bytes: Bytes) -> BoxBody {
    BoxBody::new(Full::new(bytes).map_err(|never| match never {}))
}

fn after(detail: &str) -> String {
    let detail = detail.trim().trim_end_matches('.');
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
}
