//! What can be frozen at all, and where it can go.

use countersign_gate::{Destination, HOLE, Injection, Payload, Scheme, Slot};
use http::Method;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::support::{Parts, http, https, postgres};

fn key(slot: Slot) -> Vec<Injection> {
    vec![Injection { credential: "stripe".into(), version: 3, slot }]
}

fn header(name: &str) -> Slot {
    Slot::Header { name: name.parse().unwrap(), before: String::new(), after: String::new() }
}

fn basic() -> Slot {
    Slot::Basic { before: "user:".into(), after: String::new() }
}

fn parses(authority: &str) -> Option<String> {
    Destination::parse(Scheme::Https, authority, None)
        .ok()
        .map(|d| format!("{}|{}", d.host(), d.port()))
}

#[test]
fn n_6_a_port_is_plain_decimal_or_nothing() {
    assert_eq!(parses("api.github.com:443").unwrap(), "api.github.com|443");
    assert_eq!(parses("api.github.com:65535").unwrap(), "api.github.com|65535");
    for port in [
        "",
        "0",
        "0443",
        "+443",
        "-1",
        "65536",
        "65579",
        "4294967739",
        " 443",
        "443 ",
        "4_43",
        "0x1bb",
        "443:443",
        "４４３",
        "http",
    ] {
        assert_eq!(parses(&format!("api.github.com:{port}")), None, "{port:?}");
    }
    assert_eq!(parses("api.github.com"), None, "a tunnel names its port");
    assert_eq!(https("api.github.com").port(), 443);
    assert_ne!(https("api.github.com"), https("api.github.com:8443"));
}

#[test]
fn n_7_case_and_one_trailing_dot_do_not_make_another_host() {
    for same in ["API.GitHub.COM:443", "api.github.com.:443", "Api.GitHub.com.:443"] {
        assert_eq!(parses(same).unwrap(), "api.github.com|443");
    }
    for not in
        ["api.github.com..:443", "api..github.com:443", ".api.github.com:443", ".:443", ":443"]
    {
        assert_eq!(parses(not), None, "{not}");
    }
}

#[test]
fn n_8_names_are_ascii_and_what_they_say() {
    assert!(parses("xn--pi-8kc.github.com:443").is_some());
    for not in [
        "\u{430}pi.github.com",
        "\u{ff41}pi.github.com",
        "\u{24d4}xample.com",
        "api%2egithub.com",
        "api\u{ad}.github.com",
        "api\u{200d}.github.com",
        "api\u{3002}github.com",
        "api github.com",
        "api/github.com",
        "api\\github.com",
        "api?github.com",
        "api#github.com",
        "api@github.com",
        "user:pw@github.com",
        "*.github.com",
        "-api.github.com",
        "api-.github.com",
    ] {
        assert_eq!(parses(&format!("{not}:443")), None, "{not}");
    }
    assert_eq!(parses(&format!("{}.com:443", "a".repeat(64))), None);
    assert_eq!(parses(&format!("{}:443", ["a".repeat(63).as_str(); 4].join("."))), None);
}

#[test]
fn n_9_an_address_has_one_spelling() {
    for (written, read) in [
        ("127.0.0.1:1", "127.0.0.1|1"),
        ("[::1]:1", "::1|1"),
        ("[0:0:0:0:0:0:0:1]:1", "::1|1"),
        ("[2001:DB8::A]:443", "2001:db8::a|443"),
        ("[::ffff:a9fe:a9fe]:80", "::ffff:169.254.169.254|80"),
    ] {
        assert_eq!(parses(written).unwrap(), read);
    }
    for not in [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "127.0.1",
        "0",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.01",
        "256.0.0.1",
        "1.2.3.4.5",
        "a.1",
        "a.0x1",
        "a.0x",
        "0\u{ff11}27.0.0.1",
        "::1",
        "fe80::1",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[::1",
        "::1]",
        "[127.0.0.1]",
        "[]",
        "[::1]x",
        "[v1.x]",
    ] {
        assert_eq!(parses(&format!("{not}:443")), None, "{not}");
    }
    assert_eq!(parses("127.0.0.1.:443").as_deref(), Some("127.0.0.1|443"));
}

#[test]
fn n_14_no_byte_outside_names_gets_into_a_host() {
    for byte in 0u8..=255 {
        let host = format!("a{}b", char::from(byte));
        let name = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        assert_eq!(Destination::parse(Scheme::Https, &host, Some(443)).is_ok(), name, "{byte:#x}");
    }
    assert_eq!(parses("evil.tld\0.google.com:443"), None);
}

#[test]
fn an_authority_is_written_without_the_schemes_own_port() {
    for (destination, written) in [
        (https("a.example"), "a.example"),
        (https("a.example:80"), "a.example:80"),
        (http("a.example"), "a.example"),
        (http("a.example:443"), "a.example:443"),
        (https("[::1]"), "[::1]"),
        (https("[::1]:8443"), "[::1]:8443"),
        (postgres("db.example"), "db.example"),
        (postgres("db.example:443"), "db.example:443"),
        (https("db.example:5432"), "db.example:5432"),
    ] {
        assert_eq!(destination.authority(), written);
    }
}

#[test]
fn p_9_only_known_methods_are_frozen() {
    for method in ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert!(Parts { method, ..Parts::default() }.request().is_ok());
    }
    for method in ["post", "TRACE", "CONNECT", "PROPFIND", "GETX", "get"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert!(
            Parts { method: method.clone(), ..Parts::default() }.request().is_err(),
            "{method}"
        );
    }
}

#[test]
fn a_path_or_query_that_would_be_written_otherwise_is_not_frozen() {
    for path in ["/", "/a/b;c=d/e,f", "/%2e%2e", "/a//b", "/~u/!$&'()*+,;=:@"] {
        assert!(Parts { path: path.into(), ..Parts::default() }.request().is_ok(), "{path}");
    }
    for path in [
        "",
        "a",
        "*",
        "http://b/",
        "/a b",
        "/a\tb",
        "/a\r\nb",
        "/a?b",
        "/a#b",
        "/a\\b",
        "/\u{e9}",
        "/\0",
        "/\u{7f}",
    ] {
        assert!(Parts { path: path.into(), ..Parts::default() }.request().is_err(), "{path:?}");
    }
    for query in ["", "a=b&c", "a?b", "a/b", "a%00"] {
        assert!(
            Parts { query: Some(query.into()), ..Parts::default() }.request().is_ok(),
            "{query}"
        );
    }
    for query in ["a b", "a#b", "\u{e9}", "a\r\nb", "\0"] {
        assert!(
            Parts { query: Some(query.into()), ..Parts::default() }.request().is_err(),
            "{query:?}"
        );
    }
}

#[test]
fn p_11_headers_of_one_connection_are_not_frozen() {
    for name in [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        assert!(Parts { headers, ..Parts::default() }.request().is_err(), "{name}");
        assert!(
            Parts { injections: key(header(name)), ..Parts::default() }.request().is_err(),
            "a key in {name}"
        );
    }
}

#[test]
fn p_10_a_slot_that_is_taken_gets_no_key() {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer real-looking"));
    for slot in [header("authorization"), basic()] {
        let taken =
            Parts { headers: headers.clone(), injections: key(slot.clone()), ..Parts::default() };
        assert!(taken.request().is_err(), "{slot:?}");
        assert!(Parts { injections: key(slot), ..Parts::default() }.request().is_ok());
    }
}

#[test]
fn n_5_a_key_goes_over_https_and_to_databases_only() {
    for slot in [header("authorization"), basic()] {
        let plain = Parts {
            destination: http("api.example.com:443"),
            injections: key(slot),
            ..Parts::default()
        };
        assert!(plain.request().is_err());
    }
    let database = |injections| Parts {
        destination: postgres("db.example"),
        method: Method::GET,
        path: "/app".into(),
        injections,
        ..Parts::default()
    };
    assert!(database(key(header("password"))).request().is_ok());
    assert!(database(Vec::new()).request().is_ok());
    let two = [key(header("password")), key(header("password-2"))].concat();
    assert!(database(two).request().is_err());
    assert!(Parts { destination: http("api.example.com"), ..Parts::default() }.request().is_ok());
}

#[test]
fn there_is_one_key_at_most() {
    let two = [key(header("authorization")), key(header("x-api-key"))].concat();
    assert!(Parts { injections: two, ..Parts::default() }.request().is_err());
}

#[test]
fn p_14_a_key_goes_where_the_hole_is_said_to_be() {
    let path = format!("/bot{HOLE}/send");
    let query = format!("a=1&key={HOLE}");
    let parts = |slot| Parts {
        path: path.clone(),
        query: Some(query.clone()),
        injections: key(slot),
        ..Parts::default()
    };
    assert!(parts(Slot::Path { at: 4 }).request().is_ok());
    assert!(parts(Slot::Query { at: 8 }).request().is_ok());
    for at in [0, 3, 5, 9, 10, 15, 1_000, u32::MAX] {
        assert!(parts(Slot::Path { at }).request().is_err(), "{at}");
        assert!(parts(Slot::Query { at }).request().is_err(), "{at}");
    }
    assert!(
        Parts { injections: key(Slot::Query { at: 0 }), query: None, ..Parts::default() }
            .request()
            .is_err()
    );
}

#[test]
fn p_14_a_key_goes_into_a_body_or_a_cookie_where_the_hole_is_said_to_be() {
    let body = || Payload::Whole(format!("a=1&key={HOLE}").into());
    let in_body = |slot| Parts { payload: body(), injections: key(slot), ..Parts::default() };
    let with = |name: &'static str, values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    };
    let cookies = |values: &[&'static str], at| Parts {
        headers: with("cookie", values),
        injections: key(Slot::Cookie { at }),
        ..Parts::default()
    };
    assert!(in_body(Slot::Form { at: 8 }).request().is_ok());
    assert!(in_body(Slot::Json { at: 8 }).request().is_ok());
    assert!(cookies(&["a=1; sid={key}"], 9).request().is_ok());
    for at in [0, 7, 9, 12, 13, 14, 1_000, u32::MAX] {
        assert!(in_body(Slot::Form { at }).request().is_err(), "{at}");
        assert!(in_body(Slot::Json { at }).request().is_err(), "{at}");
    }
    for at in [0, 8, 10, 14, u32::MAX] {
        assert!(cookies(&["a=1; sid={key}"], at).request().is_err(), "{at}");
    }
    assert!(cookies(&["sid={key}", "sid={key}"], 4).request().is_err(), "which of them?");
    assert!(cookies(&[], 0).request().is_err());
    for slot in [Slot::Form { at: 8 }, Slot::Json { at: 8 }] {
        let streamed = Parts { payload: Payload::Streamed, ..in_body(slot.clone()) };
        assert!(streamed.request().is_err(), "a body that is not here");
        let encoded =
            Parts { headers: with("content-encoding", &["identity"]), ..in_body(slot.clone()) };
        assert!(encoded.request().is_err(), "a body that says something else");
        let plain = Parts { destination: http("api.example.com"), ..in_body(slot) };
        assert!(plain.request().is_err(), "n_5");
    }
}

#[test]
fn p_10_headers_that_a_signature_sets_are_not_there_before() {
    let signed = |names: &[&str]| {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        key(Slot::Signed { names, manner: "aws-sigv4 eu/s3 host;x-amz-date".into() })
    };
    let with = |name: &'static str, injections| {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static("x"));
        Parts { headers, injections, ..Parts::default() }
    };
    assert!(with("x-amz-target", signed(&["authorization", "x-amz-date"])).request().is_ok());
    for name in ["authorization", "x-amz-date"] {
        assert!(with(name, signed(&["authorization", "x-amz-date"])).request().is_err(), "{name}");
    }
    for name in ["host", "content-length", "transfer-encoding", "connection"] {
        assert!(
            with("x-amz-target", signed(&["authorization", name])).request().is_err(),
            "{name}"
        );
    }
    let plain = Parts {
        destination: http("api.example.com"),
        injections: signed(&["authorization"]),
        ..Parts::default()
    };
    assert!(plain.request().is_err(), "n_5");
}

#[test]
fn what_was_frozen_reads_as_it_was() {
    let request =
        Parts { query: Some(String::new()), payload: Payload::Streamed, ..Parts::default() }
            .request()
            .unwrap();
    assert_eq!((request.path(), request.query()), ("/v1/charges", Some("")));
    assert_eq!(
        (request.method(), request.destination()),
        (&Method::POST, &https("api.example.com"))
    );
    assert!(request.headers().is_empty() && request.injections().is_empty());
}
