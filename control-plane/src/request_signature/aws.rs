//! AWS Signature Version 4: "Create a signed AWS API request" of the IAM user guide, and "Authenticating Requests:
//! Using the Authorization Header" of the S3 API reference.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use countersign_gate::{Payload, Request};
use hmac::digest::KeyInit as _;
use hmac::{Hmac, Mac as _};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{NoSigningKey, Unsigned};
use crate::state::Millis;

const CONTENT_SHA256: &str = "x-amz-content-sha256";
const DATE: &str = "x-amz-date";
const TOKEN: &str = "x-amz-security-token";

/// What a signature is good for, and over which headers it is made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    region: String,
    service: String,
    /// In order; of the request, or set by the signing itself.
    signed: Vec<String>,
}

impl Scope {
    /// Reads `aws-sigv4 REGION/SERVICE SIGNED-HEADERS` in the one way in which an edge writes it for this request.
    pub(super) fn read(names: &[HeaderName], manner: &str, request: &Request) -> Option<Self> {
        if !names.iter().map(HeaderName::as_str).eq([AUTHORIZATION.as_str(), DATE, TOKEN]) {
            return None;
        }
        let (scope, signed) = manner.strip_prefix("aws-sigv4 ")?.split_once(' ')?;
        let (region, service) = scope.split_once('/')?;
        let word = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let signed: Vec<String> = signed.split(';').map(str::to_owned).collect();
        let signs = |name: &str| signed.iter().any(|signed| signed == name);
        let headers = request.headers();
        let there = |name: &String| {
            name == "host"
                || name == DATE
                || (headers.keys().any(|there| there.as_str() == name) && name != TOKEN)
        };
        let amazon =
            |name: &HeaderName| !name.as_str().starts_with("x-amz-") || signs(name.as_str());
        let whole = word(region)
            && word(service)
            && signed.is_sorted_by(|left, right| left < right)
            && signs("host")
            && signs(DATE)
            && signed.iter().all(there)
            && headers.keys().all(amazon)
            && vouched(headers, request);
        whole.then(|| Self { region: region.into(), service: service.into(), signed })
    }

    /// S3 and its kin take a path as it is; others want it escaped once more (SigV4, "Canonical URI").
    fn takes_path_as_it_is(&self) -> bool {
        matches!(self.service.as_str(), "s3" | "s3-object-lambda" | "s3-outposts" | "s3express")
    }
}

/// Whether X-Amz-Content-Sha256, if it is there, says of the body what a signature over it may vouch for.
fn vouched(headers: &HeaderMap, request: &Request) -> bool {
    let mut values = headers.get_all(CONTENT_SHA256).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(said), None) => match (said.as_bytes(), request.payload()) {
            (b"UNSIGNED-PAYLOAD" | b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", _) => true,
            (said, Payload::Whole(body)) => said == hex::encode(Sha256::digest(body)).as_bytes(),
            (_, Payload::Streamed) => false,
        },
        (Some(_), Some(_)) => false,
    }
}

/// `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, and `:SESSION_TOKEN` for temporary ones.
struct Key<'a> {
    id: &'a str,
    secret: &'a str,
    token: Option<&'a str>,
}

impl<'a> Key<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.splitn(3, ':');
        let (id, secret, token) = (parts.next()?, parts.next()?, parts.next());
        let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        let whole = (1..=128).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric())
            && !secret.is_empty()
            && visible(secret)
            && token.is_none_or(|token| !token.is_empty() && visible(token));
        whole.then_some(Self { id, secret, token })
    }
}

/// The value as it is kept, of a value as it is given: parts on lines of their own, or with colons between them.
///
/// # Errors
/// What is wrong with it, without repeating any of it.
pub(crate) fn check_key(given: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let mut kept = Zeroizing::new(given.to_vec());
    let ends = kept.iter().rev().take_while(|b| matches!(b, b'\n' | b'\r')).count();
    let length = kept.len() - ends;
    kept.truncate(length);
    // A line may end in CR LF.
    kept.retain(|byte| *byte != b'\r');
    kept.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b':');
    // No shorter ones are given out: it would be something else, or the two the wrong way round.
    let long = |key: &Key<'_>| key.id.len() >= 16 && key.secret.len() >= 16;
    if Key::read(&kept).filter(long).is_none() {
        return Err(
            "is not an access key: give ACCESS_KEY_ID:SECRET_ACCESS_KEY, or the two on lines of their own, and the session token third if there is one",
        );
    }
    Ok(kept)
}

pub(super) fn sign(
    request: &Unsigned,
    scope: &Scope,
    key: &[u8],
    now: Millis,
) -> Result<Zeroizing<Vec<u8>>, NoSigningKey> {
    let key = Key::read(key).ok_or(NoSigningKey)?;
    let date = basic_date(now);
    let day = &date[..8];
    let Scope { region, service, .. } = scope;
    let credential_scope = format!("{day}/{region}/{service}/aws4_request");

    let mut signed: Vec<&str> = scope.signed.iter().map(String::as_str).collect();
    if key.token.is_some() {
        signed.push(TOKEN);
        signed.sort_unstable();
    }
    let canonical = canonical(request, scope, &signed, &date, key.token);
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{date}\n{credential_scope}\n{}",
        hex::encode(Sha256::digest(canonical.as_bytes()))
    );

    let mut first = Zeroizing::new(Vec::with_capacity(4 + key.secret.len()));
    first.extend(b"AWS4");
    first.extend(key.secret.as_bytes());
    let mut signing = hmac(&first, day)?;
    for part in [region.as_str(), service.as_str(), "aws4_request"] {
        signing = hmac(&*signing, part)?;
    }
    let signature = hex::encode(*hmac(&*signing, &to_sign)?);

    let mut lines = Zeroizing::new(format!(
        "authorization: AWS4-HMAC-SHA256 Credential={}/{credential_scope}, SignedHeaders={}, Signature={signature}\n{DATE}: {date}",
        key.id,
        signed.join(";"),
    ));
    if let Some(token) = key.token {
        // Sized once: growing would leave a copy behind.
        let mut longer =
            Zeroizing::new(String::with_capacity(lines.len() + TOKEN.len() + token.len() + 3));
        for part in [lines.as_str(), "\n", TOKEN, ": ", token] {
            longer.push_str(part);
        }
        lines = longer;
    }
    Ok(Zeroizing::new(lines.as_bytes().to_vec()))
}

fn hmac(key: &[u8], text: &str) -> Result<Zeroizing<[u8; 32]>, NoSigningKey> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| NoSigningKey)?;
    mac.update(text.as_bytes());
    Ok(Zeroizing::new(mac.finalize().into_bytes().into()))
}

/// `20150830T123600Z`
fn basic_date(now: Millis) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(now);
    humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':'], "")
}

fn canonical(
    request: &Unsigned,
    scope: &Scope,
    signed: &[&str],
    date: &str,
    token: Option<&str>,
) -> Zeroizing<String> {
    let path = if scope.takes_path_as_it_is() {
        escape(&percent_decode_str(&request.path).collect::<Vec<_>>(), b"/")
    } else {
        escape(without_empty_segments(&request.path).as_bytes(), b"/")
    };
    let mut text = Zeroizing::new(format!(
        "{}\n{path}\n{}\n",
        request.method,
        canonical_query(request.query.as_deref().unwrap_or_default())
    ));
    for name in signed {
        let value: Cow<'_, str> = match *name {
            "host" => request.authority.as_str().into(),
            DATE => date.into(),
            TOKEN => token.unwrap_or_default().into(),
            name => header_value(&request.headers, name).into(),
        };
        text.push_str(&format!("{name}:{value}\n"));
    }
    let payload = match request.headers.get(CONTENT_SHA256).and_then(|said| said.to_str().ok()) {
        Some(said) => said.to_owned(),
        None => hex::encode(request.body_sha256),
    };
    text.push_str(&format!("\n{}\n{payload}", signed.join(";")));
    text
}

/// Values of one name with commas between them, without space around them and with single spaces inside.
fn header_value(headers: &HeaderMap, name: &str) -> String {
    let value = |value: &http::HeaderValue| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    };
    headers.get_all(name).iter().map(value).collect::<Vec<_>>().join(",")
}

/// Sorted by name, then value, each escaped in the one way that AWS has.
fn canonical_query(query: &str) -> String {
    let decoded = |text: &str| -> Vec<u8> { percent_decode_str(&text.replace('+', " ")).collect() };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (escape(&decoded(name), b""), escape(&decoded(value), b""))
    };
    let mut pairs: Vec<_> = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Percent-encoded but for RFC 3986's unreserved characters and `also`.
fn escape(bytes: &[u8], also: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || also.contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Paths with dot segments were refused before.
fn without_empty_segments(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

#[cfg(test)]
mod tests;
