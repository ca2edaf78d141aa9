//! Requests that are signed with a shared secret (RFC 2104), each service in its own way: a template says how.
//!
//! `sha256 base64 key=base64 v1,{signature} | {header:webhook-id}.{timestamp}.{body}`: the algorithm, how the signature
//! is written, how the secret is, if not as it stands, and what the timestamp is, if not in seconds; then the header's
//! value, and behind the bar what is signed.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gate::Request;
use hmac::digest::KeyInit as _;
use hmac::{Hmac, Mac as _};
use http::header::HeaderName;
use sha2::{Sha256, Sha512};
use zeroize::Zeroizing;

use super::{NoSigningKey, Unsigned};
use crate::state::Millis;

/// A template, read, and the headers that it fills: the signature's, and the timestamp's if that has its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    names: Vec<HeaderName>,
    algorithm: Algorithm,
    encoding: Encoding,
    /// The secret is base64, behind `whsec_` or bare.
    base64_key: bool,
    time: Time,
    value: Vec<Part>,
    signed: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha512,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Base64,
    Hex,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    Milliseconds,
    Rfc3339,
    Seconds,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Body,
    Header(HeaderName),
    Host,
    Method,
    Path,
    Query,
    Signature,
    Target,
    Text(String),
    Timestamp,
}

const FORM: &str = "must be ALGORITHM ENCODING VALUE | SIGNED, as in \"sha256 hex sha256={signature} | {timestamp}.{body}\"";

impl Recipe {
    /// Reads a template for these headers.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(names: Vec<HeaderName>, template: &str) -> Result<Self, String> {
        let (settings, signed) = template.split_once(" | ").ok_or(FORM)?;
        let (algorithm, rest) = settings.split_once(' ').ok_or(FORM)?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(format!("{algorithm:?} is not an algorithm: write sha256 or sha512")),
        };
        let (encoding, mut rest) = rest.split_once(' ').ok_or(FORM)?;
        let encoding = match encoding {
            "base64" => Encoding::Base64,
            "hex" => Encoding::Hex,
            _ => return Err(format!("{encoding:?} is not an encoding: write hex or base64")),
        };
        let base64_key = rest.strip_prefix("key=base64 ");
        rest = base64_key.unwrap_or(rest);
        let mut time = Time::Seconds;
        if let Some((word, value)) = rest.strip_prefix("time=").and_then(|r| r.split_once(' ')) {
            rest = value;
            time = match word {
                "ms" => Time::Milliseconds,
                "rfc3339" => Time::Rfc3339,
                "s" => Time::Seconds,
                _ => return Err(format!("{word:?} is not a time: write s, ms or rfc3339")),
            };
        }
        let (value, signed) = (parts(rest)?, parts(signed)?);

        let in_value =
            |part: &Part| matches!(part, Part::Signature | Part::Text(_) | Part::Timestamp);
        let signatures = |parts: &[Part]| parts.iter().filter(|p| **p == Part::Signature).count();
        let visible =
            rest.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) && rest.trim() == rest;
        if !visible || signatures(&value) != 1 || !value.iter().all(in_value) {
            return Err("must write the header's value in visible ASCII, with {signature} once and {timestamp} at most".into());
        }
        let of_request = |part: &Part| matches!(part, Part::Body | Part::Path | Part::Target);
        if signatures(&signed) > 0 || !signed.iter().any(of_request) {
            return Err("must sign something of the request, {body}, {path} or {target} at least, and cannot sign {signature}".into());
        }
        let fills = |part: &Part| matches!(part, Part::Header(name) if names.contains(name));
        if signed.iter().any(fills) {
            return Err("cannot sign a header that the signing sets: write {timestamp}".into());
        }
        if names.len() > 1 && !signed.contains(&Part::Timestamp) {
            return Err("must sign the {timestamp} that it sends".into());
        }
        Ok(Self {
            names,
            algorithm,
            encoding,
            base64_key: base64_key.is_some(),
            time,
            value,
            signed,
        })
    }

    /// Reads `hmac TEMPLATE`, if whatever it signs is in the request.
    pub(super) fn read(names: &[HeaderName], manner: &str, request: &Request) -> Option<Self> {
        let recipe = Self::parse(names.to_vec(), manner.strip_prefix("hmac ")?).ok()?;
        let there = |part: &Part| match part {
            Part::Header(name) => request.headers().get_all(name).iter().count() == 1,
            _ => true,
        };
        recipe.signed.iter().all(there).then_some(recipe)
    }

    pub(super) fn signs_body(&self) -> bool {
        self.signed.contains(&Part::Body)
    }

    /// The secret as its bytes.
    fn secret(&self, key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if !self.base64_key {
            return Some(Zeroizing::new(key.to_vec()));
        }
        let bare = key.strip_prefix(b"whsec_").unwrap_or(key);
        STANDARD.decode(bare).ok().map(Zeroizing::new).filter(|secret| !secret.is_empty())
    }

    /// # Errors
    /// Why a value is no secret for this template, without repeating any of it.
    pub(crate) fn check_key(&self, value: &[u8]) -> Result<(), &'static str> {
        self.secret(value).map(drop).ok_or("is not base64, which the template says that it is")
    }
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("has a { without its }")?;
        push_text(&mut parts, before);
        parts.push(match (name, name.strip_prefix("header:")) {
            ("body", _) => Part::Body,
            ("host", _) => Part::Host,
            ("method", _) => Part::Method,
            ("path", _) => Part::Path,
            ("query", _) => Part::Query,
            ("signature", _) => Part::Signature,
            ("target", _) => Part::Target,
            ("timestamp", _) => Part::Timestamp,
            (_, Some(name)) => Part::Header(
                name.parse().map_err(|_| format!("{name:?} is not a header's name"))?,
            ),
            _ => {
                return Err(format!(
                    "{{{name}}} is not known: there are {{method}}, {{host}}, {{path}}, {{query}}, {{target}}, {{header:NAME}}, {{timestamp}}, {{body}} and {{signature}}"
                ));
            }
        });
        rest = after;
    }
    push_text(&mut parts, rest);
    Ok(parts)
}

/// `\n` is a line feed.
fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.replace("\\n", "\n")));
    }
}

pub(super) fn sign(
    request: &Unsigned,
    recipe: &Recipe,
    key: &[u8],
    now: Millis,
) -> Result<Zeroizing<Vec<u8>>, NoSigningKey> {
    let secret = recipe.secret(key).ok_or(NoSigningKey)?;
    let timestamp = match recipe.time {
        Time::Milliseconds => now.to_string(),
        Time::Rfc3339 => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(now)).to_string()
        }
        Time::Seconds => (now / 1000).to_string(),
    };
    let pieces: Vec<&[u8]> =
        recipe.signed.iter().flat_map(|part| written(part, request, &timestamp)).collect();
    let mac = match recipe.algorithm {
        Algorithm::Sha256 => {
            let mut mac = Hmac::<Sha256>::new_from_slice(&secret).map_err(|_| NoSigningKey)?;
            pieces.iter().for_each(|piece| mac.update(piece));
            mac.finalize().into_bytes().to_vec()
        }
        Algorithm::Sha512 => {
            let mut mac = Hmac::<Sha512>::new_from_slice(&secret).map_err(|_| NoSigningKey)?;
            pieces.iter().for_each(|piece| mac.update(piece));
            mac.finalize().into_bytes().to_vec()
        }
    };
    let signature = match recipe.encoding {
        Encoding::Base64 => STANDARD.encode(mac),
        Encoding::Hex => hex::encode(mac),
    };
    let value: String = recipe
        .value
        .iter()
        .map(|part| match part {
            Part::Signature => signature.as_str(),
            Part::Text(text) => text,
            _ => &timestamp,
        })
        .collect();
    let values = [value, timestamp];
    let lines = recipe.names.iter().zip(&values).map(|(name, value)| format!("{name}: {value}"));
    Ok(Zeroizing::new(lines.collect::<Vec<_>>().join("\n").into_bytes()))
}

/// What a part is of this request, in pieces.
fn written<'a>(part: &'a Part, request: &'a Unsigned, timestamp: &'a str) -> Vec<&'a [u8]> {
    let query = request.query.as_deref();
    match part {
        Part::Body => vec![&request.body[..]],
        Part::Header(name) => {
            request.headers.get(name).map(http::HeaderValue::as_bytes).into_iter().collect()
        }
        Part::Host => vec![request.authority.as_bytes()],
        Part::Method => vec![request.method.as_bytes()],
        Part::Path => vec![request.path.as_bytes()],
        Part::Query => query.map(str::as_bytes).into_iter().collect(),
        Part::Signature => Vec::new(),
        Part::Target => {
            let query = query.map(|query| [&b"?"[..], query.as_bytes()]);
            [request.path.as_bytes()].into_iter().chain(query.into_iter().flatten()).collect()
        }
        Part::Text(text) => vec![text.as_bytes()],
        Part::Timestamp => vec![timestamp.as_bytes()],
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::Manner;
    use super::*;

    fn recipe(names: &[&str], template: &str) -> Result<Recipe, String> {
        Recipe::parse(names.iter().map(|name| name.parse().unwrap()).collect(), template)
    }

    fn signed(names: &[&str], template: &str, key: &str, body: &str, now: Millis) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap());
        let request = Unsigned {
            request_digest: [0; 32],
            manner: Manner::Hmac(recipe(names, template).unwrap()),
            method: "POST".into(),
            authority: "hooks.example".into(),
            path: "/v1/x".into(),
            query: Some("a=b".into()),
            headers,
            body_sha256: [0; 32],
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        String::from_utf8(request.sign(key.as_bytes(), now).unwrap().to_vec()).unwrap()
    }

    /// "Validating webhook deliveries" of GitHub's documentation.
    #[test]
    fn githubs_example_is_signed_as_github_says() {
        assert_eq!(
            signed(
                &["x-hub-signature-256"],
                "sha256 hex sha256={signature} | {body}",
                "It's a Secret to Everybody",
                "Hello, World!",
                0,
            ),
            "x-hub-signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }

    /// The example of the Standard Webhooks specification, which its libraries test with.
    #[test]
    fn the_example_of_standard_webhooks_is_signed_as_it_says() {
        assert_eq!(
            signed(
                &["webhook-signature", "webhook-timestamp"],
                "sha256 base64 key=base64 v1,{signature} | {header:webhook-id}.{timestamp}.{body}",
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                r#"{"test": 2432232314}"#,
                1_614_265_330_000,
            ),
            "webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=\nwebhook-timestamp: 1614265330"
        );
    }

    /// RFC 4231 §4.3, for both algorithms.
    #[test]
    fn the_examples_of_rfc_4231_have_their_signatures() {
        for (algorithm, expected) in [
            ("sha256", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                "sha512",
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ] {
            let template = format!("{algorithm} hex {{signature}} | {{body}}");
            let lines =
                signed(&["x-signature"], &template, "Jefe", "what do ya want for nothing?", 0);
            assert_eq!(lines, format!("x-signature: {expected}"));
        }
    }

    #[test]
    fn every_part_is_signed_as_it_is_written_in_the_request() {
        let template =
            |signed: &str| format!("sha256 hex time=ms t={{timestamp}} {{signature}} | {signed}");
        let all = template(
            r"{method}\n{host}\n{path}\n{query}\n{target}\n{timestamp}\n{header:webhook-id}\n{body}",
        );
        let plain = "POST\nhooks.example\n/v1/x\na=b\n/v1/x?a=b\n1700000000123\nmsg_p5jXN8AQM9LWM0D4loKWxJek\nthe body";
        let now = 1_700_000_000_123;
        let by_parts = signed(&["x-signature"], &all, "secret", "the body", now);
        let by_body = signed(&["x-signature"], &template("{body}"), "secret", plain, now);
        assert_eq!(by_parts, by_body);
        assert!(by_parts.starts_with("x-signature: t=1700000000123 "), "{by_parts}");
        let rfc3339 = "sha256 hex time=rfc3339 {signature} | {timestamp}{body}";
        let lines = signed(&["x-signature", "x-time"], rfc3339, "secret", "", now);
        assert!(lines.ends_with("\nx-time: 2023-11-14T22:13:20Z"), "{lines}");
    }

    #[test]
    fn a_template_that_signs_nothing_or_says_nothing_is_refused() {
        for (names, template) in [
            (&["x-s"][..], ""),
            (&["x-s"], "sha256"),
            (&["x-s"], "sha256 hex {signature}"),
            (&["x-s"], "md5 hex {signature} | {body}"),
            (&["x-s"], "sha256 base32 {signature} | {body}"),
            (&["x-s"], "sha256 hex time=us {signature} | {body}"),
            (&["x-s"], "sha256 hex sha256= | {body}"),
            (&["x-s"], "sha256 hex {signature}{signature} | {body}"),
            (&["x-s"], "sha256 hex {signature}{body} | {body}"),
            (&["x-s"], "sha256 hex {signature}\r | {body}"),
            (&["x-s"], "sha256 hex {signature} | {timestamp}"),
            (&["x-s"], "sha256 hex {signature} | {method}{host}"),
            (&["x-s"], "sha256 hex {signature} | {body}{signature}"),
            (&["x-s"], "sha256 hex {signature} | {body"),
            (&["x-s"], "sha256 hex {signature} | {everything}"),
            (&["x-s"], "sha256 hex {signature} | {header:a b}{body}"),
            (&["x-s"], "sha256 hex {signature} | {header:x-s}{body}"),
            (&["x-s", "x-t"], "sha256 hex {signature} | {body}"),
            (&["x-s", "x-t"], "sha256 hex {signature} | {header:x-t}{timestamp}{body}"),
        ] {
            assert!(recipe(names, template).is_err(), "{template}");
        }
        let base64 = recipe(&["x-s"], "sha256 hex key=base64 {signature} | {body}").unwrap();
        assert!(base64.check_key(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_ok());
        assert!(base64.check_key(b"not base64 at all").is_err());
    }
}
