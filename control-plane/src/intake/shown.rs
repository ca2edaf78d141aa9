//! What people are shown of a request: made from its frozen bytes, bounded, and without what could be a secret.

use countersign_describe::{Undecidable, describe};
use countersign_gate::{Digest, Injection, Payload, Request, Slot};
use countersign_policy::{Body, Head, Subject, body};
use http::header::{HeaderName, HeaderValue};

use crate::state::{Effect, Shown};

/// As much of the body as the state keeps.
const PREVIEW_BYTES: usize = 16 * 1024;
/// A header's value beyond this is cut.
const VALUE_BYTES: usize = 1024;

/// The card's material. `undecided`: a rule asked about something that could not be determined.
pub(super) fn of(
    request: &Request,
    intent_digest: Digest,
    body_sha256: Digest,
    undecided: bool,
) -> Shown {
    let body = match request.payload() {
        Payload::Whole(body) => body.as_ref(),
        Payload::Streamed => &[],
    };
    let view = body::view(request.headers(), body);
    let visible = view.text.as_deref().map_or(body, str::as_bytes);
    let end = match &view.text {
        Some(text) => text.floor_char_boundary(PREVIEW_BYTES),
        None => visible.len().min(PREVIEW_BYTES),
    };
    let destination = request.destination();
    let mut headers: Vec<(String, String)> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), readable(name, value)))
        .collect();
    headers.extend(request.injections().iter().filter_map(signature));
    Shown {
        intent_digest,
        method: request.method().to_string(),
        scheme: destination.scheme().as_str().to_owned(),
        host: destination.host().to_owned(),
        port: destination.port(),
        path: request.path().to_owned(),
        query: request.query().map(str::to_owned),
        headers,
        body_bytes: body.len() as u64,
        body_sha256,
        body_preview: visible[..end].to_vec(),
        uninspectable: undecided || !view.complete || end < visible.len(),
        effect: effect(request),
    }
}

/// What it would do, from all of its bytes and not from those alone that are kept.
fn effect(request: &Request) -> Effect {
    let head = Head {
        // What a request would do is not a matter of whose it is.
        agent: "",
        destination: request.destination(),
        method: request.method(),
        path: request.path(),
        query: request.query(),
        headers: request.headers(),
    };
    let body = match request.payload() {
        Payload::Whole(body) => Body::Whole(body),
        Payload::Streamed => Body::Streamed,
    };
    match describe(&Subject { head, body }) {
        Ok(Some(described)) => Effect::Described(described),
        Ok(None) => Effect::Unknown,
        Err(Undecidable(why)) => Effect::Undecidable(why.to_owned()),
    }
}

/// What stands for a signature that is made only when the request leaves.
fn signature(injection: &Injection) -> Option<(String, String)> {
    let Slot::Signed { names, manner } = &injection.slot else { return None };
    Some((names.first()?.to_string(), format!("(signed as it leaves: {manner})")))
}

fn readable(name: &HeaderName, value: &HeaderValue) -> String {
    if is_sensitive(name.as_str()) {
        return format!("({} bytes)", value.len());
    }
    let bytes = value.as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= VALUE_BYTES => text.to_owned(),
        Ok(text) => {
            format!("{}… ({} bytes)", &text[..text.floor_char_boundary(VALUE_BYTES)], text.len())
        }
        Err(_) => {
            let shown = &bytes[..bytes.len().min(VALUE_BYTES)];
            format!("{} ({} bytes, not text)", shown.escape_ascii(), bytes.len())
        }
    }
}

fn is_sensitive(name: &str) -> bool {
    const PARTS: [&str; 7] = ["auth", "cookie", "credential", "key", "password", "secret", "token"];
    PARTS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use countersign_gate::{Destination, Origin, Scheme};
    use http::{HeaderMap, Method};

    use super::*;

    fn shown(headers: &[(&'static str, &[u8])], body: &[u8]) -> Shown {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let origin = Origin { cluster: "c".into(), org: "o".into(), agent: "a".into() };
        let destination = Destination::parse(Scheme::Https, "api.example:443", None).unwrap();
        let payload = Payload::Whole(Bytes::copy_from_slice(body));
        let request = Request::new(
            origin,
            destination,
            Method::POST,
            "/v1".into(),
            None,
            map,
            payload,
            Vec::new(),
        )
        .unwrap();
        of(&request, [1; 32], [2; 32], false)
    }

    fn value(shown: &Shown, name: &str) -> String {
        shown.headers.iter().find(|(n, _)| n == name).unwrap().1.clone()
    }

    #[test]
    fn values_that_could_be_secret_are_shown_by_size_alone() {
        let names = [
            "authorization",
            "cookie",
            "x-api-key",
            "x-csrf-token",
            "client-secret",
            "idempotency-key",
        ];
        for name in names {
            let shown = shown(&[(name, b"hunter2")], b"");
            assert_eq!(value(&shown, name), "(7 bytes)", "{name}");
        }
        assert_eq!(value(&shown(&[("accept", b"text/plain")], b""), "accept"), "text/plain");
    }

    #[test]
    fn values_that_are_not_text_are_escaped() {
        let shown = shown(&[("x-name", b"caf\xe9")], b"");
        assert_eq!(value(&shown, "x-name"), "caf\\xe9 (4 bytes, not text)");
    }

    #[test]
    fn a_body_that_is_not_shown_whole_says_so() {
        let json: &[(&'static str, &[u8])] = &[("content-type", b"application/json")];
        let small = shown(json, b"{\"amount\":5}");
        assert_eq!(small.body_preview, b"{\"amount\":5}");
        assert!(!small.uninspectable);

        let large = format!("{{\"a\":\"{}\"}}", "é".repeat(PREVIEW_BYTES));
        let cut = shown(json, large.as_bytes());
        assert!(cut.uninspectable);
        assert!(
            cut.body_preview.len() <= PREVIEW_BYTES
                && std::str::from_utf8(&cut.body_preview).is_ok()
        );
        assert_eq!(cut.body_bytes, large.len() as u64);

        assert!(shown(&[("content-type", b"image/png")], b"\x89PNG\xff").uninspectable);
    }

    #[test]
    fn what_it_would_do_is_said_of_all_of_the_bytes_and_not_of_the_kept_ones_alone() {
        let request = |host: &str, body: &str| {
            let origin = Origin { cluster: "c".into(), org: "o".into(), agent: "a".into() };
            let destination = Destination::parse(Scheme::Https, host, None).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static("application/json"));
            let payload = Payload::Whole(Bytes::copy_from_slice(body.as_bytes()));
            let request = Request::new(
                origin,
                destination,
                Method::PATCH,
                "/repos/acme/prod".into(),
                None,
                headers,
                payload,
                Vec::new(),
            );
            of(&request.unwrap(), [1; 32], [2; 32], false).effect
        };
        let padding = " ".repeat(2 * PREVIEW_BYTES);
        let body = format!("{{\"description\":\"\",{padding}\"private\":false}}");
        let Effect::Described(described) = request("api.github.com:443", &body) else {
            panic!("it is not described");
        };
        assert_eq!(described.sentence, "Make repository acme/prod public");
        assert_eq!(request("api.example:443", &body), Effect::Unknown);
        let twice = "{\"private\":true,\"private\":false}";
        let Effect::Undecidable(why) = request("api.github.com:443", twice) else {
            panic!("it is decided");
        };
        assert!(why.contains("twice"), "{why}");
    }
}
