//! Refusals as gRPC clients read them: a response that is all trailers, with our own headers beside (gRPC over HTTP/2,
//! "Trailers-Only"; google.rpc for what is in its details).

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{CODE, Refusal, whole};
use crate::upstream::BoxBody;

/// How long a client that tries again by itself waits (gRFC A6).
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Whether a request's head is that of a gRPC call, in any of its forms.
pub(super) fn calls(headers: &HeaderMap) -> bool {
    let prefix = b"application/grpc";
    headers.get(CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes().get(..prefix.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(prefix))
    })
}

impl Refusal {
    /// The code of gRPC: the table.
    fn grpc_code(&self) -> Code {
        match self {
            Self::AddressDenied { .. }
            | Self::ApprovalCancelled { .. }
            | Self::ApprovalDenied { .. }
            | Self::ApprovalExpired { .. }
            | Self::FakeKeyMisplaced { .. }
            | Self::LeaseRefused { .. }
            | Self::PolicyDenied { .. }
            | Self::PolicyFailed
            | Self::UpgradeRefused { .. } => Code::PermissionDenied,
            Self::AlreadyExecuted { .. } => Code::AlreadyExists,
            Self::AmbiguousTarget { .. }
            | Self::BadRequest { .. }
            | Self::DestinationMismatch { .. } => Code::InvalidArgument,
            Self::ApprovalPending { .. }
            | Self::ClockOff
            | Self::ControlPlaneUnavailable
            | Self::Draining { .. }
            | Self::Evicted
            | Self::NoToken { .. }
            | Self::Overloaded { .. }
            | Self::Sealed
            | Self::UpstreamFailed { .. } => Code::Unavailable,
            Self::BodyTooLarge { .. } | Self::HeadTooLarge { .. } | Self::TooManyPending { .. } => {
                Code::ResourceExhausted
            }
            Self::BodyTooSlow => Code::DeadlineExceeded,
            Self::FakeKeyMissing { .. } | Self::ProxyCredential => Code::Unauthenticated,
            Self::LookOnly | Self::MethodNotAllowed => Code::Unimplemented,
            Self::NoResult { .. } | Self::NoSuchApproval | Self::NothingHere => Code::NotFound,
            // Whether it happened is what is not known.
            Self::OutcomeUnknown { .. } => Code::Unknown,
            Self::TokensWithheld => Code::DataLoss,
        }
    }

    /// The answer to a gRPC call: HTTP 200, the status in the only headers, nothing else.
    pub(super) fn into_grpc(self) -> Response<BoxBody> {
        let (.., code, _) = self.row();
        let mut about = HashMap::new();
        if let Some(id) = self.approval_id() {
            about.insert("approval_id".to_owned(), id.to_owned());
        }
        if let Self::PolicyDenied { rule: Some(rule), .. } = &self {
            about.insert("rule".to_owned(), rule.clone());
        }
        let mut details = ErrorDetails::with_error_info(code, "countersign", about);
        let retry_after = self.retry_after();
        if let Some(seconds) = retry_after {
            details.set_retry_info(Some(Duration::from_secs(seconds)));
        }
        let status = Status::with_error_details(self.grpc_code(), self.detail(), details);
        let ours = self.headers();
        let mut response = Response::new(whole(Bytes::new()));
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        if let Err(status) = status.add_header(headers) {
            tracing::error!(%status, "a refusal cannot be written as headers");
        }
        headers.extend(ours);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(CODE, HeaderValue::from_static(code));
        // Below nothing a client would try at once; a number that is none says: not at all.
        let pushback = retry_after.map_or(HeaderValue::from_static("-1"), |seconds| {
            HeaderValue::from(seconds.saturating_mul(1000))
        });
        headers.insert(PUSHBACK, pushback);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_calls_is_known_by_its_content_type() {
        let head = |kind: &'static str| {
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))])
        };
        for kind in ["application/grpc", "application/grpc+proto", "Application/GRPC-Web"] {
            assert!(calls(&head(kind)), "{kind}");
        }
        assert!(!calls(&head("application/json")) && !calls(&HeaderMap::new()));
    }

    #[test]
    fn one_that_waits_is_unavailable_and_says_when_to_try_again() {
        let refusal = Refusal::ApprovalPending {
            approval_id: "ab12".into(),
            request: "POST api.test/s/M".into(),
            parked: false,
        };
        let answer = refusal.into_grpc();
        assert_eq!(answer.status(), 200);
        let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(header("grpc-status"), "14");
        assert_eq!(header("countersign-code"), "approval_pending");
        assert_eq!(header("countersign-approval-id"), "ab12");
        assert_eq!(
            (header("retry-after"), header("grpc-retry-pushback-ms")),
            ("15".into(), "15000".into())
        );
        let status = Status::from_header_map(answer.headers()).expect("a status");
        let details = status.get_error_details();
        assert_eq!(details.retry_info().and_then(|r| r.retry_delay), Some(Duration::from_secs(15)));
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("approval_pending"));
    }

    #[test]
    fn a_last_word_is_not_tried_again() {
        let refusal = Refusal::PolicyDenied { rule: Some("never \u{e9}".into()), detail: None };
        let answer = refusal.into_grpc();
        assert_eq!(answer.headers()["grpc-status"], "7");
        assert_eq!(answer.headers()["grpc-retry-pushback-ms"], "-1");
        assert_eq!(answer.headers()["x-should-retry"], "false");
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert!(status.message().contains("never \u{e9}"), "{status:?}");
    }
}
