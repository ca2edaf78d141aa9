//! One call for a token, and what comes of it. Nothing here sends, reads a clock, or keeps anything.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderName};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::secret::Secret;
use super::{github, google, oauth};
use crate::state::{Millis, Mint};

/// A POST that is ready to be sent.
pub(crate) struct Call {
    pub(crate) url: String,
    pub(crate) headers: Vec<(HeaderName, Zeroizing<String>)>,
    pub(crate) content_type: &'static str,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// A token, and how long it lasts from when it was asked for.
pub(crate) struct Token {
    pub(crate) value: Zeroizing<String>,
    pub(crate) lasts: Duration,
    /// What is stored from now on: the secret that was used is worth nothing any more.
    pub(crate) successor: Option<Secret>,
}

/// Why there is no token. The words are ours: a provider's own may hold anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoToken {
    pub(crate) why: String,
    /// It takes a person.
    pub(crate) for_good: bool,
}

/// A token that lasts less is none to hand out.
pub(crate) const SHORTEST: Duration = Duration::from_secs(10);
/// No token is kept longer, whatever its issuer says.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Larger than any token that fits into a header.
const TOKEN_BYTES: usize = 8 * 1024;

/// The call that brings a token. `now` is the wall clock's.
pub(crate) fn request(mint: &Mint, secret: &Secret, now: Millis) -> Result<Call, NoToken> {
    let seconds = now / 1000;
    match (mint, secret) {
        (Mint::GitHubApp { .. }, Secret::Key(key)) => github::request(mint, key, seconds),
        (Mint::GoogleServiceAccount { .. }, Secret::Key(key)) => {
            google::request(mint, key, seconds)
        }
        (Mint::OAuth { .. }, Secret::Client(client)) => oauth::request(mint, client),
        _ => Err(NoToken::for_good("what is stored is no secret of its kind: rotate it")),
    }
}

/// What an answer to it brings.
pub(crate) fn answer(
    mint: &Mint,
    secret: &Secret,
    answer: &Answer,
    now: Millis,
) -> Result<Token, NoToken> {
    if !(200..300).contains(&answer.status) {
        return Err(refused(answer));
    }
    match (mint, secret) {
        (Mint::GitHubApp { .. }, _) => github::answer(mint, &answer.body, now),
        (Mint::GoogleServiceAccount { .. }, _) => oauth::answer(&answer.body, None),
        (Mint::OAuth { .. }, Secret::Client(client)) => oauth::answer(&answer.body, Some(client)),
        (Mint::OAuth { .. }, Secret::Key(_)) => oauth::answer(&answer.body, None),
    }
}

/// Error codes of RFC 6749 §5.2: these words, and no others of an answer, are repeated.
const CODES: [&str; 6] = [
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "unauthorized_client",
    "unsupported_grant_type",
];

fn refused(answer: &Answer) -> NoToken {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    let status = answer.status;
    match status {
        300..400 => NoToken::for_good(format!(
            "its issuer answered with a redirect (HTTP {status}), which is never followed: give the address it leads to"
        )),
        408 | 425 | 429 | 500.. => {
            NoToken::for_now(format!("its issuer cannot serve it now (HTTP {status})"))
        }
        _ => {
            let said = serde_json::from_slice::<Refusal>(&answer.body).ok();
            let code = said.and_then(|said| CODES.into_iter().find(|code| *code == said.error));
            let code = code.map(|code| format!(", {code}")).unwrap_or_default();
            NoToken::for_good(format!("its issuer refused it (HTTP {status}{code})"))
        }
    }
}

impl Token {
    /// # Errors
    /// What no slot can hold, and a life that is too short to use.
    pub(super) fn new(value: String, lasts: Duration) -> Result<Self, NoToken> {
        let value = Zeroizing::new(value);
        if value.is_empty() || value.len() > TOKEN_BYTES {
            return Err(NoToken::for_good("its issuer answered with a token of no usable size"));
        }
        if !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(NoToken::for_good(
                "its issuer answered with a token that no header can hold",
            ));
        }
        if lasts < SHORTEST {
            return Err(NoToken::for_good(
                "its issuer answered with a token that ends in less than 10 seconds: compare the clocks",
            ));
        }
        Ok(Self { value, lasts: lasts.min(LONGEST), successor: None })
    }
}

impl NoToken {
    pub(super) fn for_good(why: impl Into<String>) -> Self {
        Self { why: why.into(), for_good: true }
    }

    pub(super) fn for_now(why: impl Into<String>) -> Self {
        Self { why: why.into(), for_good: false }
    }

    pub(super) fn unreadable() -> Self {
        Self::for_good("its issuer's answer is not what the protocol says")
    }
}

/// `application/x-www-form-urlencoded`, overwritten when it is dropped.
pub(super) fn form<'a>(
    fields: impl IntoIterator<Item = (&'a str, &'a str)>,
    others: &'a BTreeMap<String, String>,
) -> Zeroizing<Vec<u8>> {
    let others = others.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // Large enough for all: a buffer that moves leaves a copy behind.
    let mut body = Zeroizing::new(Vec::with_capacity(64 * 1024));
    for (name, value) in fields.into_iter().chain(others) {
        if !body.is_empty() {
            body.push(b'&');
        }
        encode(name, &mut body);
        body.push(b'=');
        encode(value, &mut body);
    }
    body
}

/// The header of RFC 6749 §2.3.1: both halves are form-encoded first.
pub(super) fn basic(client_id: &str, secret: &str) -> (HeaderName, Zeroizing<String>) {
    let mut pair = Zeroizing::new(Vec::with_capacity(3 * (client_id.len() + secret.len()) + 1));
    encode(client_id, &mut pair);
    pair.push(b':');
    encode(secret, &mut pair);
    let mut value = Zeroizing::new(String::with_capacity(8 + 2 * pair.len()));
    value.push_str("Basic ");
    BASE64_STANDARD.encode_string(pair.as_slice(), &mut value);
    (AUTHORIZATION, value)
}

fn encode(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => out.push(byte),
            b' ' => out.push(b'+'),
            _ => out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(status: u16, body: &str) -> NoToken {
        refused(&Answer { status, body: Zeroizing::new(body.as_bytes().to_vec()) })
    }

    #[test]
    fn of_a_refusal_its_status_and_the_codes_of_the_protocol_are_repeated_and_nothing_else() {
        let told = status(400, r#"{"error":"invalid_grant","error_description":"canary"}"#);
        assert_eq!(told.why, "its issuer refused it (HTTP 400, invalid_grant)");
        assert!(told.for_good);
        let other = status(401, r#"{"error":"canary canary"}"#);
        assert_eq!(other.why, "its issuer refused it (HTTP 401)");
        assert_eq!(status(403, "<html>canary").why, "its issuer refused it (HTTP 403)");
        assert!(!status(503, "").for_good && !status(429, "").for_good);
        let moved = status(302, "");
        assert!(moved.for_good && moved.why.contains("redirect"), "{}", moved.why);
    }

    #[test]
    fn a_pair_is_form_encoded_before_it_is_base64() {
        let (name, value) = basic("client one", "p%ss:w/rd");
        assert_eq!(name, AUTHORIZATION);
        let encoded = value.strip_prefix("Basic ").expect("basic");
        let pair = BASE64_STANDARD.decode(encoded).expect("base64");
        assert_eq!(pair, b"client+one:p%25ss%3Aw%2Frd");
    }

    proptest! {
        #[test]
        fn a_form_reads_back_as_what_was_written(fields in proptest::collection::vec((".{0,20}", ".{0,40}"), 0..6)) {
            let body = form(fields.iter().map(|(n, v)| (n.as_str(), v.as_str())), &BTreeMap::new());
            let text = std::str::from_utf8(&body).expect("ASCII");
            let decode = |part: &str| {
                let spaced = part.replace('+', " ");
                percent_encoding::percent_decode_str(&spaced).decode_utf8().expect("UTF-8").into_owned()
            };
            let read: Vec<(String, String)> = text
                .split('&')
                .filter(|_| !fields.is_empty())
                .map(|pair| pair.split_once('=').expect("a pair"))
                .map(|(n, v)| (decode(n), decode(v)))
                .collect();
            prop_assert_eq!(read, fields);
        }
    }
}
