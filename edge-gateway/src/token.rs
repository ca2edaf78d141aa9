//! Where tokens are issued (N-TOKENEP). An agent's own client asks there for one, with the fake key that it takes for its
//! secret: it is answered here, with that fake key for its token, and nothing is sent. And what comes back from there to
//! a request that went out with a key is passed on only where no token is in it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use countersign_gate::Destination;
use http::header::{CACHE_CONTROL, HeaderValue, PRAGMA};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::bundle::{Agent, Bundle, Credential};
use crate::freeze::Draft;
use crate::inject::Misplaced;
use crate::refuse::{self, Refusal};
use crate::upstream::BoxBody;

/// Clients ask again when that has passed; a fake key has no end.
const EXPIRES_IN_S: u64 = 3600;
/// Larger than any answer of an issuer.
const ANSWER_BYTES: usize = 64 * 1024;
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Whether tokens of any credential are issued there.
pub(crate) fn issues(bundle: &Bundle, destination: &Destination, path: &str) -> bool {
    bundle.issued_at(destination, path).next().is_some()
}

/// Answers a request for a token that brings the fake key of a credential whose tokens are issued there. None for any
/// other request: that goes the way of all.
///
/// # Errors
/// [`Misplaced`] if no rule of the policy gives the agent that credential.
pub(crate) fn answered(
    bundle: &Bundle,
    agent: &Agent,
    draft: &Draft,
    body: &Bytes,
) -> Result<Option<Response<BoxBody>>, Misplaced> {
    if draft.method != Method::POST || draft.query.is_some() {
        return Ok(None);
    }
    let Some(credential) = asked_for(bundle, draft, body) else { return Ok(None) };
    if !bundle.policy.gives(&agent.name, &credential.name) {
        return Err(Misplaced::new(credential, "sent by an agent that no rule gives it to"));
    }
    let Some(fake) = credential.fake_keys.last() else { return Ok(None) };
    // RFC 6749 §5.1.
    let token = serde_json::json!({
        "access_token": fake,
        "token_type": "Bearer",
        "expires_in": EXPIRES_IN_S,
    });
    let mut answer = refuse::answer(StatusCode::OK, "application/json", token.to_string());
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(Some(answer))
}

fn asked_for<'a>(bundle: &'a Bundle, draft: &Draft, body: &Bytes) -> Option<&'a Credential> {
    let values = draft.headers.values().map(HeaderValue::as_bytes);
    let found =
        std::iter::once(body.as_ref()).chain(values).find_map(|it| bundle.tripwire.find(it))?;
    let mut issued = bundle.issued_at(&draft.destination, &draft.path);
    issued
        .find(|index| *index == found)
        .and_then(|index| bundle.credentials.get(index).map(|it| &**it))
}

/// An answer of an issuer to a request that went out with a key, as far as it may be passed on.
///
/// # Errors
/// [`Refusal::TokensWithheld`] for whatever is not plainly without a token: names of tokens at any depth, and all that
/// cannot be looked into.
pub(crate) async fn without_tokens(
    answer: Response<BoxBody>,
) -> Result<Response<BoxBody>, Refusal> {
    let (head, body) = answer.into_parts();
    let whole = tokio::time::timeout(ANSWER_TIME, take_in(body)).await;
    let whole = whole.ok().flatten().ok_or(Refusal::TokensWithheld)?;
    let plain = whole.is_empty()
        || serde_json::from_slice::<Value>(&whole)
            .is_ok_and(|value| value.is_object() && !holds(&value));
    if !plain {
        return Err(Refusal::TokensWithheld);
    }
    Ok(Response::from_parts(head, refuse::whole(whole)))
}

async fn take_in(mut body: BoxBody) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if whole.len() + data.len() > ANSWER_BYTES {
            return None;
        }
        whole.extend_from_slice(&data);
    }
    Some(whole.freeze())
}

fn holds(value: &Value) -> bool {
    const TOKENS: [&str; 3] = ["access_token", "id_token", "refresh_token"];
    match value {
        Value::Array(items) => items.iter().any(holds),
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            TOKENS.iter().any(|token| name.eq_ignore_ascii_case(token)) || holds(value)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn passed_on(body: &str) -> Option<String> {
        let answer = Response::new(refuse::whole(Bytes::copy_from_slice(body.as_bytes())));
        let passed = without_tokens(answer).await.ok()?;
        let bytes = passed.into_body().collect().await.expect("is all there").to_bytes();
        Some(String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn n_tokenep_an_answer_is_passed_on_only_where_there_is_plainly_no_token_in_it() {
        for plain in ["", r#"{"error":"invalid_grant"}"#, r#"{"active":true,"scope":"a"}"#] {
            assert_eq!(passed_on(plain).await.as_deref(), Some(plain));
        }
        for other in [
            r#"{"access_token":"x"}"#,
            r#"{"ACCESS_TOKEN":"x"}"#,
            r#"{"access\u005ftoken":"x"}"#,
            r#"{"ok":1,"data":{"refresh_token":"x"}}"#,
            r#"{"all":[{"id_token":"x"}]}"#,
            r#"{"access_token":null,"access_token":"x"}"#,
            "access_token=x&token_type=bearer",
            r#"[{"error":"x"}]"#,
            "<html></html>",
            "{",
        ] {
            assert_eq!(passed_on(other).await, None, "{other}");
        }
        let large = format!(r#"{{"error":"{}"}}"#, "x".repeat(ANSWER_BYTES));
        assert_eq!(passed_on(&large).await, None);
    }
}
