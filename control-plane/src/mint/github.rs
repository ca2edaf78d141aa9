//! An installation token of a GitHub App: an assertion by the app, for a token of so many repositories and permissions.

use std::time::{Duration, UNIX_EPOCH};

use http::header::{ACCEPT, AUTHORIZATION, HeaderName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::call::{Call, NoToken, Token};
use super::jwt;
use super::secret::SigningKey;
use crate::state::{Millis, Mint};

/// GitHub takes at most ten minutes, and clocks differ.
const BEFORE_S: u64 = 60;
const AFTER_S: u64 = 9 * 60;

#[derive(Serialize)]
struct Claims<'a> {
    iat: u64,
    exp: u64,
    iss: &'a str,
}

pub(super) fn request(mint: &Mint, key: &SigningKey, seconds: u64) -> Result<Call, NoToken> {
    let Mint::GitHubApp { api_url, app_id, installation_id, repositories, permissions } = mint
    else {
        return Err(NoToken::unreadable());
    };
    let iat = seconds.saturating_sub(BEFORE_S);
    let claims = Claims { iat, exp: seconds + AFTER_S, iss: app_id };
    let assertion = jwt::signed(&key.pem, None, &claims)?;
    let mut wanted = serde_json::Map::new();
    if !repositories.is_empty() {
        wanted.insert("repositories".into(), repositories.as_slice().into());
    }
    if !permissions.is_empty() {
        let permissions = permissions.iter().map(|(k, v)| (k.clone(), v.as_str().into()));
        wanted.insert("permissions".into(), serde_json::Value::Object(permissions.collect()));
    }
    let bearer = Zeroizing::new(format!("Bearer {}", *assertion));
    let plain = |text: &str| Zeroizing::new(text.to_owned());
    Ok(Call {
        url: format!("{api_url}/app/installations/{installation_id}/access_tokens"),
        headers: vec![
            (AUTHORIZATION, bearer),
            (ACCEPT, plain("application/vnd.github+json")),
            (HeaderName::from_static("x-github-api-version"), plain("2022-11-28")),
        ],
        content_type: "application/json",
        body: Zeroizing::new(serde_json::Value::Object(wanted).to_string().into_bytes()),
    })
}

#[derive(Deserialize)]
struct Said {
    token: String,
    expires_at: String,
    repository_selection: Option<String>,
}

/// It says when the token ends, by its own clock.
pub(super) fn answer(mint: &Mint, body: &[u8], now: Millis) -> Result<Token, NoToken> {
    let said: Said = serde_json::from_slice(body).map_err(|_| NoToken::unreadable())?;
    let scoped = matches!(mint, Mint::GitHubApp { repositories, .. } if !repositories.is_empty());
    if scoped && said.repository_selection.as_deref() == Some("all") {
        let why =
            "its issuer answered with a token for all repositories, where some were asked for";
        drop(Zeroizing::new(said.token));
        return Err(NoToken::for_good(why));
    }
    let ends = humantime::parse_rfc3339(&said.expires_at).map_err(|_| NoToken::unreadable())?;
    let ends = ends.duration_since(UNIX_EPOCH).unwrap_or_default();
    Token::new(said.token, ends.saturating_sub(Duration::from_millis(now)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::secret::tests::RSA_PEM;
    use super::*;

    const NOW: Millis = 1_700_000_000_000;

    fn mint(repositories: &[&str]) -> Mint {
        Mint::GitHubApp {
            api_url: "https://api.github.com".into(),
            app_id: "Iv1.abc".into(),
            installation_id: 42,
            repositories: repositories.iter().map(|it| (*it).to_owned()).collect(),
            permissions: BTreeMap::from([("contents".into(), "read".into())]),
        }
    }

    fn key() -> SigningKey {
        SigningKey { pem: Zeroizing::new(RSA_PEM.into()), key_id: None }
    }

    #[test]
    fn the_app_asks_for_its_installation_and_for_no_more_than_it_was_told() {
        let call = request(&mint(&["one", "two"]), &key(), NOW / 1000);
        let call = call.unwrap_or_else(|no| panic!("{no:?}"));
        assert_eq!(call.url, "https://api.github.com/app/installations/42/access_tokens");
        let wanted: serde_json::Value = serde_json::from_slice(&call.body).expect("JSON");
        let expected =
            serde_json::json!({"repositories":["one","two"],"permissions":{"contents":"read"}});
        assert_eq!(wanted, expected);
        let (name, bearer) = &call.headers[0];
        assert_eq!(name, AUTHORIZATION);
        let parts: Vec<&str> = bearer.strip_prefix("Bearer ").expect("bearer").split('.').collect();
        assert_eq!(parts.len(), 3);
    }

    #[test]
    fn a_token_lasts_until_it_says_and_one_for_everything_is_not_taken_for_one_for_some() {
        let said = |ends: &str, of: &str| {
            format!(r#"{{"token":"ghs_1","expires_at":"{ends}","repository_selection":"{of}"}}"#)
        };
        let hour = said("2023-11-14T23:13:20Z", "selected");
        let read = answer(&mint(&["one"]), hour.as_bytes(), NOW).map(|token| token.lasts);
        assert_eq!(read, Ok(Duration::from_secs(3600)));
        let all = said("2023-11-14T23:13:20Z", "all");
        assert!(answer(&mint(&["one"]), all.as_bytes(), NOW).is_err());
        assert!(answer(&mint(&[]), all.as_bytes(), NOW).is_ok());
        for ended in ["2023-11-14T22:13:20Z", "1960-01-01T00:00:00Z", "tomorrow", ""] {
            let said = said(ended, "selected");
            assert!(answer(&mint(&[]), said.as_bytes(), NOW).is_err(), "{ended}");
        }
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(body in proptest::collection::vec(any::<u8>(), 0..2048), now in any::<u64>()) {
            let _ = answer(&mint(&["one"]), &body, now);
        }
    }
}
