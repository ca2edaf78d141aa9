//! What Meta's platforms have in common, with Python's hmac as the signer.

use http::Method;
use serde_json::json;

use crate::support::{Signer, Webhook, judge};

/// Signed by Python.
pub(crate) fn signed(signer: &Signer<'_>, body: &str) -> Webhook {
    let mac = judge("hmac_sign.py", &json!({ "secret": signer.secret, "text": body }));
    let signature = format!("sha256={}", mac["hex"].as_str().unwrap());
    let headers =
        [("content-type", "application/json"), ("x-hub-signature-256", signature.as_str())];
    Webhook::post(&headers, body)
}

pub(crate) fn challenge(query: &str) -> Webhook {
    let mut hook = Webhook::post(&[], "");
    hook.method = Method::GET;
    hook.query = Some(query.to_owned());
    hook
}
