//! A Google service account: an assertion by its key (RFC 7523 §2.1), for an access token of some scopes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::call::{Call, NoToken, form};
use super::jwt;
use super::secret::SigningKey;
use crate::state::Mint;

/// The longest that Google takes.
const LASTS_S: u64 = 60 * 60;
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub: &'a str,
}

pub(super) fn request(mint: &Mint, key: &SigningKey, seconds: u64) -> Result<Call, NoToken> {
    let Mint::GoogleServiceAccount { token_url, email, scopes, subject } = mint else {
        return Err(NoToken::unreadable());
    };
    let claims = Claims {
        iss: email,
        scope: &scopes.join(" "),
        aud: token_url,
        iat: seconds,
        exp: seconds + LASTS_S,
        sub: subject,
    };
    let assertion = jwt::signed(&key.pem, key.key_id.as_deref(), &claims)?;
    let fields = [("grant_type", GRANT), ("assertion", assertion.as_str())];
    Ok(Call {
        url: token_url.clone(),
        headers: Vec::new(),
        content_type: "application/x-www-form-urlencoded",
        body: form(fields, &BTreeMap::new()),
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use zeroize::Zeroizing;

    use super::super::secret::tests::RSA_PEM;
    use super::*;

    #[test]
    fn an_assertion_says_who_asks_whom_for_what_and_for_an_hour() {
        let mint = Mint::GoogleServiceAccount {
            token_url: "https://oauth2.googleapis.com/token".into(),
            email: "robot@project.iam.gserviceaccount.com".into(),
            scopes: vec!["https://www.googleapis.com/auth/devstorage.read_only".into()],
            subject: String::new(),
        };
        let key = SigningKey { pem: Zeroizing::new(RSA_PEM.into()), key_id: Some("k1".into()) };
        let call = request(&mint, &key, 1_700_000_000).unwrap_or_else(|no| panic!("{no:?}"));
        let body = String::from_utf8(call.body.to_vec()).expect("a form");
        let assertion = body
            .strip_prefix(
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=",
            )
            .expect("the grant of RFC 7523");
        let read = |part: usize| -> serde_json::Value {
            let part = assertion.split('.').nth(part).expect("three parts");
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url");
            serde_json::from_slice(&bytes).expect("JSON")
        };
        assert_eq!(read(0), serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        let claims = serde_json::json!({
            "iss": "robot@project.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/devstorage.read_only",
            "aud": "https://oauth2.googleapis.com/token",
            "iat": 1_700_000_000_u64,
            "exp": 1_700_003_600_u64,
        });
        assert_eq!(read(1), claims);
    }
}
