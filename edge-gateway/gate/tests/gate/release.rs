//! The key goes in: the right one, where it was said, for the right host, and nothing else changes.

use bytes::Bytes;
use countersign_gate::{
    Class, Decision, Destination, Injection, Key, Now, Outbound, Outcome, Payload, Released, Slot,
    SwapError, Verdict, classify, verify,
};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use proptest::prelude::*;
use zeroize::Zeroizing;

use crate::support::{Parts, WALL, decision, held, http, https, signed, trust};

const SECRET: &str = "sk_live_1/2+3";

struct Given<'a> {
    credential: &'a str,
    version: u64,
    destination: Destination,
    sealed: [u8; 32],
    secret: &'a [u8],
}

impl Given<'_> {
    /// What `decision` and `keyed` ask for.
    fn right() -> Self {
        Self {
            credential: "stripe",
            version: 3,
            destination: https("api.example.com"),
            sealed: [7; 32],
            secret: SECRET.as_bytes(),
        }
    }

    fn key(self) -> Key {
        let secret = Zeroizing::new(self.secret.to_vec());
        Key::new(self.credential.into(), self.version, self.destination, self.sealed, secret)
    }
}

fn by_decision(change: impl FnOnce(&mut Decision)) -> Released {
    let held = held(9, b"{}", 0, 50_000);
    let mut decision = decision(held.ticket());
    change(&mut decision);
    match verify(held, &signed(&decision, &[1, 2]), &trust(), Now { boottime_ms: 1, wall_ms: WALL })
    {
        Outcome::Release(released) => released,
        other => panic!("{other:?}"),
    }
}

fn by_policy(parts: Parts) -> Released {
    let verdict = Verdict::Allow { rule: "rule".into(), per_request: false };
    match classify(parts.request().unwrap(), verdict) {
        Class::Pass(released) => released,
        other => panic!("{other:?}"),
    }
}

fn keyed(slot: Slot) -> Parts {
    let injections = vec![Injection { credential: "stripe".into(), version: 3, slot }];
    Parts { injections, ..Parts::default() }
}

fn bearer() -> Slot {
    Slot::Header { name: AUTHORIZATION, before: "Bearer ".into(), after: String::new() }
}

fn why_not(outbound: Result<Outbound, SwapError>) -> SwapError {
    outbound.err().expect("the key does not belong there")
}

#[test]
fn the_right_key_goes_into_its_header_and_nothing_else_changes() {
    let outbound = by_decision(|_| {}).with_keys(vec![Given::right().key()]).unwrap();
    assert!(outbound.keyed());
    assert_eq!(outbound.destination(), &https("api.example.com"));
    assert_eq!((outbound.request_id(), outbound.approval_id()), (Some(&[9; 16]), Some(&[2; 16])));
    let sent = outbound.into_parts();
    assert_eq!(sent.headers[AUTHORIZATION], format!("Bearer {SECRET}"));
    assert!(
        sent.headers[AUTHORIZATION].is_sensitive()
            && !format!("{:?}", sent.headers).contains("sk_live")
    );
    assert_eq!(
        (sent.headers.len(), &sent.headers["content-type"]),
        (3, &HeaderValue::from_static("application/json"))
    );
    assert_eq!(
        (sent.method.as_str(), sent.uri.to_string().as_str()),
        ("POST", "/v1/charges?expand=customer")
    );
    assert!(matches!(sent.payload, Payload::Whole(body) if body == "{}"));
}

#[test]
fn g_3_a_key_of_another_destination_is_not_put_in() {
    for other in [
        https("api.example.org"),
        https("example.com"),
        https("api.example.com:8443"),
        http("api.example.com:443"),
    ] {
        let key = || Given { destination: other.clone(), ..Given::right() }.key();
        assert_eq!(why_not(by_decision(|_| {}).with_keys(vec![key()])), SwapError::Destination);
        assert_eq!(
            why_not(by_policy(keyed(bearer())).with_keys(vec![key()])),
            SwapError::Destination
        );
    }
}

#[test]
fn a_key_of_another_credential_or_version_is_not_put_in() {
    let wrong = [
        Given { credential: "stripe2", ..Given::right() },
        Given { version: 4, ..Given::right() },
        Given { secret: b"", ..Given::right() },
        Given { secret: b"new\nline", ..Given::right() },
        Given { secret: b"carriage\rreturn", ..Given::right() },
        Given { secret: b"nul\0", ..Given::right() },
    ];
    for given in wrong {
        let again = Given { destination: given.destination.clone(), ..given };
        assert_eq!(why_not(by_decision(|_| {}).with_keys(vec![again.key()])), SwapError::Unfit);
        assert_eq!(
            why_not(by_policy(keyed(bearer())).with_keys(vec![given.key()])),
            SwapError::Unfit
        );
    }
}

#[test]
fn a_key_that_the_decision_does_not_name_is_not_put_in() {
    let other = Given { sealed: [8; 32], ..Given::right() };
    assert_eq!(why_not(by_decision(|_| {}).with_keys(vec![other.key()])), SwapError::Unfit);
    let renamed = by_decision(|d| d.sealed[0].sha256 = [8; 32]);
    assert_eq!(why_not(renamed.with_keys(vec![Given::right().key()])), SwapError::Unfit);
    // What the policy alone released names no sealed key.
    let leased = Given { sealed: [8; 32], ..Given::right() };
    assert!(by_policy(keyed(bearer())).with_keys(vec![leased.key()]).is_ok());
}

#[test]
fn there_are_as_many_keys_as_places() {
    let key = || Given::right().key();
    assert_eq!(why_not(by_decision(|_| {}).with_keys(Vec::new())), SwapError::Missing);
    assert_eq!(why_not(by_decision(|_| {}).with_keys(vec![key(), key()])), SwapError::Missing);
    assert_eq!(why_not(by_policy(Parts::default()).with_keys(vec![key()])), SwapError::Missing);
    let bare = by_policy(Parts::default()).with_keys(Vec::new()).unwrap();
    assert!(!bare.keyed() && bare.request_id().is_none() && bare.approval_id().is_none());
}

#[test]
fn a_decision_that_names_other_keys_than_the_plan_releases_nothing() {
    for change in [
        (|d: &mut Decision| d.sealed.clear()) as fn(&mut Decision),
        |d| d.sealed[0].version = 4,
        |d| d.sealed[0].credential = "other".into(),
        |d| d.sealed.push(d.sealed[0].clone()),
    ] {
        let held = held(9, b"{}", 0, 50_000);
        let mut decision = decision(held.ticket());
        change(&mut decision);
        let outcome = verify(
            held,
            &signed(&decision, &[1, 2]),
            &trust(),
            Now { boottime_ms: 1, wall_ms: WALL },
        );
        assert!(matches!(outcome, Outcome::Ignore(..)));
    }
}

#[test]
fn every_slot_is_filled_as_its_syntax_wants() {
    let filled = |slot: Slot, path: &str, query: Option<&str>| {
        let parts = Parts { path: path.into(), query: query.map(str::to_owned), ..keyed(slot) };
        by_policy(parts)
            .with_keys(vec![Given { secret: b"a/b+c d?e#\xff~", ..Given::right() }.key()])
            .map(Outbound::into_parts)
    };
    let sent = filled(Slot::Path { at: 4 }, "/bot{key}/send{key}", Some("q={key}")).unwrap();
    assert_eq!(sent.uri, "/bota%2Fb+c%20d%3Fe%23%FF~/send{key}?q={key}");
    let sent = filled(Slot::Query { at: 2 }, "/{key}", Some("k={key}&z=1")).unwrap();
    assert_eq!(sent.uri, "/{key}?k=a%2Fb%2Bc%20d%3Fe%23%FF~&z=1");
    assert!(sent.headers.is_empty());
    let sent =
        filled(Slot::Basic { before: "user:".into(), after: String::new() }, "/", None).unwrap();
    // base64("user:a/b+c d?e#\xff~"), by another implementation
    assert_eq!(sent.headers[AUTHORIZATION], "Basic dXNlcjphL2IrYyBkP2Uj/34=");
    let name = "x-api-key".parse().unwrap();
    let slot = Slot::Header { name, before: "<".into(), after: ">".into() };
    assert_eq!(
        filled(slot, "/", None).unwrap().headers["x-api-key"].as_bytes(),
        b"<a/b+c d?e#\xff~>"
    );
}

/// A whole body or a Cookie header with a key in it, as it leaves.
fn filled_body(slot: Slot, body: &str, secret: &[u8]) -> Result<Vec<u8>, SwapError> {
    let payload = Payload::Whole(Bytes::copy_from_slice(body.as_bytes()));
    let released = by_policy(Parts { payload, ..keyed(slot) });
    let sent = released.with_keys(vec![Given { secret, ..Given::right() }.key()])?.into_parts();
    assert!(sent.headers.is_empty(), "the sender writes the length");
    match sent.payload {
        Payload::Whole(body) => Ok(body.to_vec()),
        Payload::Streamed => panic!("it was whole"),
    }
}

#[test]
fn a_key_in_a_body_is_written_as_the_body_is() {
    let form = filled_body(Slot::Form { at: 4 }, "key={key}&b={key}", b"a b&c=d+e%\"\xc3\xa9");
    assert_eq!(form.unwrap(), b"key=a%20b%26c%3Dd%2Be%25%22%C3%A9&b={key}");
    let json = filled_body(
        Slot::Json { at: 8 },
        r#"{"key":"{key}","b":"{key}"}"#,
        b"a\"b\\c\n\x01/\xc3\xa9",
    );
    assert_eq!(
        String::from_utf8(json.unwrap()).unwrap(),
        r#"{"key":"a\"b\\c\u000a\u0001/é","b":"{key}"}"#
    );
    let not_text = filled_body(Slot::Json { at: 8 }, r#"{"key":"{key}"}"#, b"a\xff");
    assert_eq!(not_text.err(), Some(SwapError::Unfit));
}

#[test]
fn a_key_in_a_cookie_leaves_the_others_and_never_makes_another() {
    let sent = |secret: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::from_static("a=1; sid={key}; b={key}"));
        let released = by_policy(Parts { headers, ..keyed(Slot::Cookie { at: 9 }) });
        let sent = released.with_keys(vec![Given { secret, ..Given::right() }.key()]);
        sent.map(|sent| sent.into_parts().headers["cookie"].clone())
    };
    let cookie = sent(b"s3cret=/+").unwrap();
    assert_eq!(cookie, "a=1; sid=s3cret=/+; b={key}");
    assert!(cookie.is_sensitive());
    for bad in [&b"a;b=c"[..], b"a,b", b"a b", b"a\"b", b"a\\b", b"a\r\nb", b"a\xffb", b"a\0b"] {
        assert_eq!(sent(bad).err(), Some(SwapError::Unfit), "{bad:?}");
    }
}

fn signed_by_others(lines: &[u8]) -> Result<HeaderMap, SwapError> {
    let names = ["authorization", "x-amz-date", "x-amz-security-token"];
    let names = names.map(|name| name.parse().unwrap()).to_vec();
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-target", HeaderValue::from_static("mine"));
    let slot = Slot::Signed { names, manner: "aws-sigv4 eu/s3 host;x-amz-date".into() };
    let released = by_policy(Parts { headers, ..keyed(slot) });
    let sent = released.with_keys(vec![Given { secret: lines, ..Given::right() }.key()])?;
    Ok(sent.into_parts().headers)
}

#[test]
fn what_was_signed_sets_the_headers_of_the_plan_and_nothing_else() {
    let headers =
        signed_by_others(b"authorization: AWS4 a=b, c: d\nx-amz-date: 20150830T123600Z").unwrap();
    assert_eq!(headers.len(), 3);
    assert_eq!(headers["authorization"], "AWS4 a=b, c: d");
    assert_eq!(headers["x-amz-date"], "20150830T123600Z");
    assert_eq!(headers["x-amz-target"], "mine");
    assert!(headers["authorization"].is_sensitive() && headers["x-amz-date"].is_sensitive());
    for bad in [
        &b"authorization"[..],
        b"authorization: a\n",
        b"\nauthorization: a",
        b"authorization: a\nauthorization: b",
        b"authorization: a\nx-amz-target: theirs",
        b"authorization: a\nhost: elsewhere",
        b"authorization: a\ncontent-length: 0",
        b"Authorization: a",
        b"authorization:a",
        b"authorization: a\rb",
        b"authorization: a\0b",
        b"authorization: a\xff",
    ] {
        assert_eq!(signed_by_others(bad).err(), Some(SwapError::Unfit), "{}", bad.escape_ascii());
    }
}

proptest! {
    /// The model of a body with a key: the text around it as it was, and the key as a reader of that format finds it.
    #[test]
    fn whatever_the_key_a_body_reads_as_its_text_and_the_key(
        secret in "[ -~\u{0}-\u{1f}é€]{1,40}",
        before in "[ -~]{0,20}",
        after in "[ -~]{0,20}",
    ) {
        let [before, after] = [&before, &after].map(|text| serde_json::to_string(text).unwrap());
        let head = format!("{{\"before\":{before},\"key\":\"");
        let body = format!("{head}{{key}}\",\"after\":{after}}}");
        let at = head.len() as u32;
        let filled = filled_body(Slot::Json { at }, &body, secret.as_bytes()).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&filled).unwrap();
        let mut expected: serde_json::Value = serde_json::from_str(&body).unwrap();
        expected["key"] = secret.as_str().into();
        prop_assert_eq!(read, expected);

        let filled = filled_body(Slot::Form { at: 10 }, "a=%26&key={key}&b=2", secret.as_bytes());
        let filled = String::from_utf8(filled.unwrap()).unwrap();
        let value = filled.strip_prefix("a=%26&key=").unwrap().strip_suffix("&b=2").unwrap();
        prop_assert!(!value.contains(['&', '=', '+', ' ']));
        let mut bytes = value.bytes();
        let mut decoded = Vec::new();
        while let Some(byte) = bytes.next() {
            let mut digit = || char::from(bytes.next().unwrap()).to_digit(16).unwrap() as u8;
            decoded.push(if byte == b'%' { digit() << 4 | digit() } else { byte });
        }
        prop_assert_eq!(decoded, secret.as_bytes());
    }
}

#[test]
fn base64_is_padded_as_it_should_be() {
    for (secret, written) in [
        ("a", "Basic YQ=="),
        ("ab", "Basic YWI="),
        ("abc", "Basic YWJj"),
        ("abcd", "Basic YWJjZA=="),
    ] {
        let slot = Slot::Basic { before: String::new(), after: String::new() };
        let key = Given { secret: secret.as_bytes(), ..Given::right() }.key();
        assert_eq!(
            by_policy(keyed(slot)).with_keys(vec![key]).unwrap().into_parts().headers
                [AUTHORIZATION],
            written
        );
    }
}

#[test]
fn a_streamed_body_stays_streamed_and_headers_stay_in_order() {
    let mut headers = HeaderMap::new();
    for value in ["one", "two", "three"] {
        headers.append("x-tag", HeaderValue::from_static(value));
    }
    let parts = Parts { headers, payload: Payload::Streamed, ..Parts::default() };
    let sent = by_policy(parts).with_keys(Vec::new()).unwrap().into_parts();
    assert!(matches!(sent.payload, Payload::Streamed));
    assert_eq!(sent.headers.get_all("x-tag").iter().collect::<Vec<_>>(), ["one", "two", "three"]);
    let whole = Parts { payload: Payload::Whole(Bytes::from_static(b"x")), ..Parts::default() };
    assert!(
        matches!(by_policy(whole).with_keys(Vec::new()).unwrap().into_parts().payload, Payload::Whole(body) if body == "x")
    );
}

/// Nothing is hashed anew before it is sent, since nothing could have changed: it is the very memory that was hashed, and
/// nobody else can write to it.
#[test]
fn b_2_the_bytes_that_leave_are_those_that_were_hashed() {
    let body = Bytes::from(vec![b'x'; 100_000]);
    let at = body.as_ptr();
    let parts = Parts { payload: Payload::Whole(body), ..Parts::default() };
    let Class::Hold(judged) =
        classify(parts.request().unwrap(), Verdict::Approve { rule: "rule".into() })
    else {
        panic!("not held")
    };
    assert_eq!(judged.body().as_ptr(), at);
    let held = judged.hold(crate::support::circumstances(9, 50_000), 0);
    let mut decision = decision(held.ticket());
    decision.sealed.clear();
    let now = Now { boottime_ms: 1, wall_ms: WALL };
    let Outcome::Release(released) = verify(held, &signed(&decision, &[1, 2]), &trust(), now)
    else {
        panic!("not released")
    };
    let sent = released.with_keys(Vec::new()).unwrap().into_parts();
    let Payload::Whole(sent) = sent.payload else { panic!("not whole") };
    assert_eq!((sent.as_ptr(), sent.len()), (at, 100_000));
}

#[test]
fn errors_name_no_value() {
    for error in [SwapError::Destination, SwapError::Missing, SwapError::Unfit] {
        assert!(!error.to_string().is_empty() && !error.to_string().contains("sk_live"));
    }
}
