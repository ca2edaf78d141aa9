//! Every way to say no, and the only table of statuses. The texts are read by language models: what was not done,
//! why, and what to do next.

mod detail;
mod grpc;
mod kubernetes;

use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};

use crate::local::result_of;
use crate::upstream::BoxBody;

pub(crate) const APPROVAL_ID: HeaderName = HeaderName::from_static("countersign-approval-id");
pub(crate) const APPROVAL_STATUS: HeaderName =
    HeaderName::from_static("countersign-approval-status");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Our `code`, where the body has no place for it.
const CODE: HeaderName = HeaderName::from_static("countersign-code");

/// An approval's id, as people see it.
pub(crate) type ApprovalId = String;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    AddressDenied {
        why: String,
    },
    /// `kept`: what came of it is here, or will be.
    AlreadyExecuted {
        approval_id: Option<ApprovalId>,
        kept: bool,
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
    /// `parked`: it is kept here, and sent once it is approved.
    ApprovalPending {
        approval_id: ApprovalId,
        request: String,
        parked: bool,
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
    HeadTooLarge {
        what: &'static str,
    },
    LeaseRefused {
        credential: String,
        detail: String,
    },
    /// Something other than to look at approvals was asked of ourselves.
    LookOnly,
    MethodNotAllowed,
    /// We have no result of this approval; `code` says how it stands.
    NoResult {
        approval_id: ApprovalId,
        code: &'static str,
        why: String,
    },
    /// None of this agent's.
    NoSuchApproval,
    /// Its key is a token that is minted, and none could be had. What was approved stays so.
    NoToken {
        approval_id: Option<ApprovalId>,
        detail: String,
    },
    /// We have no page of that name.
    NothingHere,
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
    /// It was carried out; its answer had tokens in it, or could have.
    TokensWithheld,
    /// As many of this agent's requests, or of this gateway's, wait for people as may.
    TooManyPending {
        detail: String,
    },
    /// It would become more than one request.
    UpgradeRefused {
        rule: String,
        because: NotUpgraded,
    },
    UpstreamFailed {
        why: String,
    },
}

/// Why a connection may not become what a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotUpgraded {
    /// People would have been asked.
    Asked,
    /// Each request is recorded, or has its key, one at a time.
    InTurns,
    /// Nobody here reads this protocol.
    Unlooked { protocol: String },
}

/// How a client reads a refusal best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Grpc,
    Kubernetes,
    Problem,
}

impl Form {
    /// By what the request says of itself.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if grpc::calls(headers) {
            Self::Grpc
        } else if kubernetes::asks(headers) {
            Self::Kubernetes
        } else {
            Self::Problem
        }
    }
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
            Self::HeadTooLarge { .. } => (
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head_too_large",
                "The request's head is too large",
            ),
            Self::LeaseRefused { .. } => {
                (S::FORBIDDEN, "credential_refused", "The key may not be used")
            }
            Self::LookOnly => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "Nothing is decided here")
            }
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "Unknown method")
            }
            Self::NoResult { code, .. } => (S::NOT_FOUND, code, "No result"),
            Self::NoSuchApproval => {
                (S::NOT_FOUND, "approval_not_found", "No such approval of yours")
            }
            Self::NoToken { .. } => (
                S::SERVICE_UNAVAILABLE,
                "credential_unavailable",
                "The key cannot be had right now",
            ),
            Self::NothingHere => (S::NOT_FOUND, "not_found", "Nothing is here"),
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
            Self::TokensWithheld => {
                (S::BAD_GATEWAY, "tokens_withheld", "The answer is not passed on")
            }
            Self::TooManyPending { .. } => {
                (S::TOO_MANY_REQUESTS, "too_many_pending", "Too many requests wait for approval")
            }
            Self::UpgradeRefused { .. } => {
                (S::FORBIDDEN, "upgrade_refused", "It may not go on as anything but requests")
            }
            Self::UpstreamFailed { .. } => {
                (S::BAD_GATEWAY, "upstream_failed", "The upstream could not be used")
            }
        }
    }

    /// `code` of the answer, for metrics.
    pub(crate) fn code(&self) -> &'static str {
        self.row().1
    }

    /// What it is, in a few words.
    pub(crate) fn title(&self) -> &'static str {
        self.row().2
    }

    /// The approval that it is about.
    pub(crate) fn approval_id(&self) -> Option<&str> {
        match self {
            Self::AlreadyExecuted { approval_id, .. }
            | Self::ApprovalCancelled { approval_id, .. }
            | Self::ApprovalDenied { approval_id, .. }
            | Self::ApprovalExpired { approval_id }
            | Self::Draining { approval_id }
            | Self::NoToken { approval_id, .. }
            | Self::OutcomeUnknown { approval_id } => approval_id.as_deref(),
            Self::ApprovalPending { approval_id, .. } | Self::NoResult { approval_id, .. } => {
                Some(approval_id)
            }
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
            Self::NoResult { code: "result_pending", .. } => Some(5),
            Self::NoToken { .. } => Some(5),
            Self::Overloaded { .. } => Some(1),
            Self::Sealed => Some(30),
            Self::TooManyPending { .. } => Some(15),
            _ => None,
        }
    }

    /// Whether the same request will get the same answer.
    fn last_word(&self) -> bool {
        let (status, ..) = self.row();
        matches!(status, StatusCode::FORBIDDEN | StatusCode::CONFLICT)
            || matches!(self, Self::AmbiguousTarget { .. } | Self::TokensWithheld)
    }

    pub(crate) fn in_form(self, form: Form) -> Response<BoxBody> {
        match form {
            Form::Grpc => self.into_grpc(),
            Form::Kubernetes => self.into_status(),
            Form::Problem => self.into_response(),
        }
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
        if let Self::PolicyDenied { rule: Some(rule), .. } | Self::UpgradeRefused { rule, .. } =
            &self
        {
            problem["rule"] = rule.as_str().into();
        }
        if let Some(id) = self.approval_id() {
            problem["approval_id"] = id.into();
        }
        if let Self::AlreadyExecuted { approval_id: Some(id), kept: true }
        | Self::ApprovalPending { approval_id: id, parked: true, .. } = &self
        {
            problem["result"] = result_of(id).into();
        }
        if let Self::ApprovalPending { parked, .. } = &self {
            problem["parked"] = (*parked).into();
        }
        let mut response = answer(status, "application/problem+json", problem.to_string());
        response.headers_mut().extend(self.headers());
        response
    }

    /// What we say in headers.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
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
                let challenge = if *basic { r#"Basic realm="countersign""# } else { "Bearer" };
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Self::LookOnly => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
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
        headers
    }
}

/// The reason that Kubernetes' API has for a status; empty where it has none.
fn kubernetes_reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
        StatusCode::REQUEST_TIMEOUT => "Timeout",
        StatusCode::CONFLICT => "Conflict",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        _ => "",
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
