//! Refusals as clients of Kubernetes read them: a Status of its API (meta/v1), whose message they show. Of any other body
//! they tell their users that it is unknown.

use http::Response;
use http::header::{HeaderMap, HeaderValue, USER_AGENT};

use super::{CODE, Refusal, answer, kubernetes_reason};
use crate::upstream::BoxBody;

/// Whether a client is made of Kubernetes' own library, which names itself so:
/// `kubectl/v1.32.4 (linux/amd64) kubernetes/59526cd`.
pub(super) fn asks(headers: &HeaderMap) -> bool {
    let mut agents = headers.get_all(USER_AGENT).iter();
    agents.any(|agent| agent.to_str().is_ok_and(|agent| agent.contains(") kubernetes/")))
}

impl Refusal {
    pub(super) fn into_status(self) -> Response<BoxBody> {
        let (status, code, title) = self.row();
        let mut details = serde_json::json!({ "causes": [{ "reason": code, "message": title }] });
        if let Some(seconds) = self.retry_after() {
            details["retryAfterSeconds"] = seconds.into();
        }
        let said = serde_json::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.detail(),
            "reason": kubernetes_reason(status),
            "details": details,
            "code": status.as_u16(),
        });
        let mut response = answer(status, "application/json", said.to_string());
        response.headers_mut().extend(self.headers());
        response.headers_mut().insert(CODE, HeaderValue::from_static(code));
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn its_clients_are_known_by_the_name_of_its_library() {
        let head = |agent: &'static str| {
            HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(agent))])
        };
        for agent in [
            "kubectl/v1.32.4 (linux/amd64) kubernetes/59526cd",
            "kubectl/v1.20.2 (linux/amd64) kubernetes/faecb19",
            "terraform-provider/v2 (darwin/arm64) kubernetes/$Format",
        ] {
            assert!(asks(&head(agent)), "{agent}");
        }
        for agent in ["curl/8.5.0", "kubernetes/1", "OpenAPI-Generator/31.0.0/python"] {
            assert!(!asks(&head(agent)), "{agent}");
        }
        assert!(!asks(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn one_that_waits_says_when_to_try_again() {
        let refusal = Refusal::ApprovalPending {
            approval_id: "ab12".into(),
            request: "DELETE api.test/api/v1/namespaces/a/pods/b".into(),
            parked: false,
        };
        let answer = refusal.clone().into_status();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "15");
        assert_eq!(answer.headers()["countersign-code"], "approval_pending");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let body = answer.into_body().collect().await.expect("it is all there").to_bytes();
        let said: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            (&said["kind"], &said["status"], &said["code"]),
            (&"Status".into(), &"Failure".into(), &503.into())
        );
        assert_eq!(said["message"], refusal.detail());
        assert_eq!(said["reason"], "ServiceUnavailable");
        assert_eq!(said["details"]["retryAfterSeconds"], 15);
    }
}
