//! OAuth 2 (RFC 6749): a refresh token (§6) or a client's own credentials (§4.4), for an access token.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Number;

use super::call::{Call, NoToken, Token, basic, form};
use super::secret::{ClientSecret, Secret};
use crate::state::{ClientAuth, Mint, OAuthGrant};

/// A token of which nobody said how long it lasts.
const UNSAID: Duration = Duration::from_secs(5 * 60);

pub(super) fn request(mint: &Mint, secret: &ClientSecret) -> Result<Call, NoToken> {
    let Mint::OAuth { grant, token_url, client_id, client_auth, scopes, parameters } = mint else {
        return Err(NoToken::unreadable());
    };
    let missing = |what: &str| NoToken::for_good(format!("there is no {what} stored: rotate it"));
    let scope = scopes.join(" ");
    let mut fields = match grant {
        OAuthGrant::ClientCredentials => vec![("grant_type", "client_credentials")],
        OAuthGrant::RefreshToken => {
            let token = secret.refresh_token.as_ref().ok_or_else(|| missing("refresh token"))?;
            vec![("grant_type", "refresh_token"), ("refresh_token", token.as_str())]
        }
    };
    if !scope.is_empty() {
        fields.push(("scope", &scope));
    }
    let client_secret = || secret.client_secret.as_ref().ok_or_else(|| missing("client secret"));
    let mut headers = Vec::new();
    match client_auth {
        ClientAuth::Basic => headers.push(basic(client_id, client_secret()?)),
        ClientAuth::Body => {
            fields.extend([("client_id", client_id.as_str()), ("client_secret", client_secret()?)]);
        }
        ClientAuth::None => fields.push(("client_id", client_id)),
    }
    Ok(Call {
        url: token_url.clone(),
        headers,
        content_type: "application/x-www-form-urlencoded",
        body: form(fields, parameters),
    })
}

/// A successful answer (§5.1). `used`: a refresh token that the answer may have replaced.
pub(super) fn answer(body: &[u8], used: Option<&ClientSecret>) -> Result<Token, NoToken> {
    let said: Said = serde_json::from_slice(body).map_err(|_| NoToken::unreadable())?;
    if said.error.is_some() {
        return Err(NoToken::for_good("its issuer refused it, with a status that says otherwise"));
    }
    // A token that is worth something only with a signature by its holder would be handed out in vain.
    let bound = |kind: &String| ["dpop", "mac"].iter().any(|it| kind.eq_ignore_ascii_case(it));
    if said.token_type.as_ref().is_some_and(bound) {
        return Err(NoToken::for_good("its issuer answered with a token that is no bearer token"));
    }
    let lasts = said.expires_in.map_or(Ok(UNSAID), lasts)?;
    let mut token = Token::new(said.access_token.ok_or_else(NoToken::unreadable)?, lasts)?;
    token.successor = match (used, said.refresh_token) {
        (Some(used), Some(next)) => used.replaced_by(next)?.map(Secret::Client),
        _ => None,
    };
    Ok(token)
}

#[derive(Deserialize)]
struct Said {
    access_token: Option<String>,
    error: Option<serde::de::IgnoredAny>,
    expires_in: Option<Lasts>,
    refresh_token: Option<String>,
    token_type: Option<String>,
}

/// A number, which some write as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lasts {
    Number(Number),
    Text(String),
}

fn lasts(said: Lasts) -> Result<Duration, NoToken> {
    let seconds = match said {
        Lasts::Number(number) => number.as_f64(),
        Lasts::Text(text) => text.trim().parse::<u64>().ok().map(|seconds| seconds as f64),
    };
    let seconds = seconds.filter(|seconds| seconds.is_finite()).ok_or_else(NoToken::unreadable)?;
    // Anything longer is cut off later.
    Ok(Duration::from_secs(seconds.clamp(0.0, 1e9) as u64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::super::call::{LONGEST, SHORTEST};
    use super::*;

    fn mint(grant: OAuthGrant, client_auth: ClientAuth) -> Mint {
        Mint::OAuth {
            grant,
            token_url: "https://auth.example.com/token".into(),
            client_id: "client".into(),
            client_auth,
            scopes: vec!["a".into(), "b:c".into()],
            parameters: BTreeMap::from([("audience".into(), "https://api".into())]),
        }
    }

    fn stored() -> ClientSecret {
        ClientSecret {
            refresh_token: Some(Zeroizing::new("refresh/1".into())),
            client_secret: Some(Zeroizing::new("s3cret&".into())),
        }
    }

    fn body(call: &Call) -> String {
        String::from_utf8(call.body.to_vec()).expect("a form")
    }

    fn told(text: &str) -> Result<Token, NoToken> {
        answer(text.as_bytes(), Some(&stored()))
    }

    #[test]
    fn a_refresh_is_section_6_with_the_client_in_the_header_or_the_body() {
        let call = request(&mint(OAuthGrant::RefreshToken, ClientAuth::Basic), &stored());
        let call = call.unwrap_or_else(|no| panic!("{no:?}"));
        assert_eq!(call.url, "https://auth.example.com/token");
        assert_eq!(
            body(&call),
            "grant_type=refresh_token&refresh_token=refresh%2F1&scope=a+b%3Ac&audience=https%3A%2F%2Fapi"
        );
        assert_eq!(call.headers.len(), 1);
        let call = request(&mint(OAuthGrant::RefreshToken, ClientAuth::Body), &stored());
        let call = call.unwrap_or_else(|no| panic!("{no:?}"));
        assert!(call.headers.is_empty());
        assert!(
            body(&call).contains("&client_id=client&client_secret=s3cret%26"),
            "{}",
            body(&call)
        );
    }

    #[test]
    fn a_client_of_its_own_is_section_4_4_and_a_public_one_shows_no_secret() {
        let call = request(&mint(OAuthGrant::ClientCredentials, ClientAuth::Body), &stored());
        let call = call.unwrap_or_else(|no| panic!("{no:?}"));
        assert!(body(&call).starts_with("grant_type=client_credentials&scope="));
        assert!(!body(&call).contains("refresh"));
        let call = request(&mint(OAuthGrant::RefreshToken, ClientAuth::None), &stored());
        let call = call.unwrap_or_else(|no| panic!("{no:?}"));
        assert!(!body(&call).contains("secret") && call.headers.is_empty());
    }

    #[test]
    fn what_is_not_stored_is_not_made_up() {
        let none = ClientSecret { refresh_token: None, client_secret: None };
        for (grant, auth) in [
            (OAuthGrant::RefreshToken, ClientAuth::None),
            (OAuthGrant::ClientCredentials, ClientAuth::Basic),
            (OAuthGrant::ClientCredentials, ClientAuth::Body),
        ] {
            assert!(request(&mint(grant, auth), &none).is_err_and(|no| no.for_good));
        }
    }

    #[test]
    fn a_refresh_token_that_is_another_one_takes_the_place_of_the_stored_one() {
        let next = told(r#"{"access_token":"at","expires_in":60,"refresh_token":"refresh/2"}"#);
        let Ok(Token { successor: Some(Secret::Client(next)), .. }) = next else { panic!("none") };
        assert_eq!(next.refresh_token.as_ref().map(|t| t.as_str()), Some("refresh/2"));
        assert_eq!(next.client_secret.as_ref().map(|t| t.as_str()), Some("s3cret&"));
        let same = told(r#"{"access_token":"at","expires_in":60,"refresh_token":"refresh/1"}"#);
        assert!(same.is_ok_and(|token| token.successor.is_none()));
    }

    #[test]
    fn a_life_is_read_as_a_number_or_as_text_and_bounded_on_both_sides() {
        let life = |said: &str| {
            let text = format!(r#"{{"access_token":"at","token_type":"Bearer"{said}}}"#);
            told(&text).map(|token| token.lasts)
        };
        assert_eq!(life(""), Ok(UNSAID));
        assert_eq!(life(r#","expires_in":null"#), Ok(UNSAID));
        assert_eq!(life(r#","expires_in":3599"#), Ok(Duration::from_secs(3599)));
        assert_eq!(life(r#","expires_in":"3600""#), Ok(Duration::from_secs(3600)));
        assert_eq!(life(r#","expires_in":59.9"#), Ok(Duration::from_secs(59)));
        for huge in ["18446744073709551615", "99999999999999999999999", "1e300"] {
            assert_eq!(life(&format!(r#","expires_in":{huge}"#)), Ok(LONGEST), "{huge}");
        }
        for short in ["0", "-1", "-9223372036854775808", "9", r#""0""#, "-1e300"] {
            assert!(life(&format!(r#","expires_in":{short}"#)).is_err(), "{short}");
        }
        for other in [r#""soon""#, r#""-5""#, "true", "[]", "{}", r#""""#] {
            assert!(life(&format!(r#","expires_in":{other}"#)).is_err(), "{other}");
        }
    }

    #[test]
    fn what_is_no_token_answer_is_none() {
        for text in [
            "",
            "null",
            "[]",
            "\"at\"",
            "{}",
            r#"{"access_token":null}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":7}"#,
            r#"{"access_token":"a b"}"#,
            r#"{"access_token":"a\r\nx-evil: 1"}"#,
            r#"{"access_token":"ä"}"#,
            r#"{"access_token":"one","access_token":"two"}"#,
            r#"{"access_token":"at","token_type":"DPoP"}"#,
            r#"{"access_token":"at","refresh_token":"a\u0000b"}"#,
            r#"{"error":"invalid_grant","access_token":"at"}"#,
        ] {
            assert!(told(text).is_err(), "{text}");
        }
        let large = format!(r#"{{"access_token":"{}"}}"#, "x".repeat(9000));
        assert!(told(&large).is_err());
    }

    proptest! {
        #[test]
        fn whatever_an_issuer_says_a_token_fits_a_header_and_lasts_between_10_s_and_a_day(
            token in "\\PC{0,40}", seconds in any::<f64>(), text in any::<bool>(), noise in "\\PC{0,60}",
        ) {
            let number = Number::from_f64(seconds);
            let expires = match number {
                Some(number) if text => serde_json::Value::String(number.to_string()),
                Some(number) => serde_json::Value::Number(number),
                None => serde_json::Value::Null,
            };
            let body = serde_json::json!({ "access_token": token, "expires_in": expires, "scope": noise });
            if let Ok(read) = told(&body.to_string()) {
                prop_assert_eq!(read.value.as_str(), token);
                prop_assert!(read.value.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(read.lasts >= SHORTEST && read.lasts <= LONGEST);
            }
        }

        #[test]
        fn bytes_of_any_kind_and_size_never_panic(body in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = answer(&body, Some(&stored()));
        }
    }
}
