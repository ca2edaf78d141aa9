//! Against the examples that AWS publishes, and against botocore (`tests/digests/make_sigv4.py`).

use bytes::Bytes;
use countersign_gate::{Destination, Origin, Scheme};
use http::{HeaderValue, Method};
use serde_json::Value;

use super::super::Manner;
use super::*;

/// 2015-08-30T12:36:00Z
const SUITE: Millis = 1_440_938_160_000;
/// 2013-05-24T00:00:00Z
const S3: Millis = 1_369_353_600_000;
const SUITE_KEY: &str = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const S3_KEY: &str = "AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn headers(list: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// A request to be signed: method, host, target, headers and body.
fn unsigned(
    method: &str,
    host: &str,
    target: &str,
    list: &[(&str, &str)],
    body: &[u8],
    scope: Scope,
) -> Unsigned {
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    Unsigned {
        request_digest: [0; 32],
        manner: Manner::Aws(scope),
        method: method.into(),
        authority: host.into(),
        path: path.into(),
        query: query.map(str::to_owned),
        headers: headers(list),
        body_sha256: Sha256::digest(body).into(),
        body: Bytes::new(),
    }
}

fn scope(region: &str, service: &str, signed: &str) -> Scope {
    let signed = signed.split(';').map(str::to_owned).collect();
    Scope { region: region.into(), service: service.into(), signed }
}

/// The lines, by name.
fn signed(request: &Unsigned, key: &str, now: Millis) -> Vec<(String, String)> {
    let lines = request.sign(key.as_bytes(), now).expect("a key");
    let lines = String::from_utf8(lines.to_vec()).unwrap();
    let line = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_owned(), value.to_owned())
    };
    lines.lines().map(line).collect()
}

fn signature(lines: &[(String, String)]) -> &str {
    lines[0].1.rsplit_once("Signature=").unwrap().1
}

#[test]
fn the_examples_of_awss_test_suite_have_the_signatures_that_it_says() {
    for (method, target, expected) in [
        ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "GET",
            "/?%E1%88%B4=bar",
            "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
        ),
        (
            "GET",
            "/?-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz=-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
        ),
    ] {
        let scope = scope("us-east-1", "service", "host;x-amz-date");
        let request = unsigned(method, "example.amazonaws.com", target, &[], b"", scope);
        let lines = signed(&request, SUITE_KEY, SUITE);
        assert_eq!(
            lines[0],
            (
                "authorization".to_owned(),
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature={expected}"
                )
            ),
            "{method} {target}"
        );
        assert_eq!(lines[1..], [("x-amz-date".to_owned(), "20150830T123600Z".to_owned())]);
    }
}

#[test]
fn the_examples_of_s3s_reference_have_the_signatures_that_it_says() {
    let welcome = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    let range = [("range", "bytes=0-9"), ("x-amz-content-sha256", EMPTY)];
    let put = [
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        ("x-amz-content-sha256", welcome),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
    ];
    let bare = [("x-amz-content-sha256", EMPTY)];
    let usual = "host;x-amz-content-sha256;x-amz-date";
    for (method, target, list, body, names, expected) in [
        (
            "GET",
            "/test.txt",
            &range[..],
            &b""[..],
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            &put,
            b"Welcome to Amazon S3.",
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/?lifecycle",
            &bare,
            b"",
            usual,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/?prefix=J&max-keys=2",
            &bare,
            b"",
            usual,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ] {
        let scope = scope("us-east-1", "s3", names);
        let request = unsigned(method, "examplebucket.s3.amazonaws.com", target, list, body, scope);
        assert_eq!(signature(&signed(&request, S3_KEY, S3)), expected, "{method} {target}");
    }
}

#[test]
fn botocore_signs_alike() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/digests/sigv4.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let vectors = vectors.as_array().unwrap();
    assert!(vectors.len() >= 40);
    for vector in vectors {
        let text = |name: &str| vector[name].as_str().unwrap();
        let list: Vec<(&str, &str)> = vector["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
            .collect();
        // Signing adds the token's header by itself.
        let names = text("signed").replace(";x-amz-security-token", "");
        let scope = scope(text("region"), text("service"), &names);
        let body = hex::decode(text("body")).unwrap();
        let request = unsigned(text("method"), text("host"), text("target"), &list, &body, scope);
        let now = vector["now_ms"].as_u64().unwrap();
        let lines = signed(&request, text("key"), now);
        assert_eq!(lines[0].1, text("authorization"), "{vector}");
        let token = text("key").splitn(3, ':').nth(2);
        let sent = lines.iter().find(|(name, _)| name == TOKEN).map(|(_, value)| value.as_str());
        assert_eq!(sent, token);
    }
}

#[test]
fn a_plan_is_read_only_in_the_one_way_in_which_edges_write_it() {
    let names = [AUTHORIZATION.as_str(), DATE, TOKEN].map(|name| name.parse().unwrap());
    let body = Bytes::from_static(b"{}");
    let digest = hex::encode(Sha256::digest(&body));
    let request = |list: &[(&str, &str)]| {
        Request::new(
            Origin { cluster: "c".into(), org: "o".into(), agent: "a".into() },
            Destination::parse(Scheme::Https, "s3.example:443", None).unwrap(),
            Method::PUT,
            "/b/k".into(),
            None,
            headers(list),
            Payload::Whole(body.clone()),
            Vec::new(),
        )
        .unwrap()
    };
    let usual = request(&[("x-amz-content-sha256", &digest), ("content-type", "a/b")]);
    let read = |manner: &str| Scope::read(&names, manner, &usual).is_some();
    assert!(read("aws-sigv4 eu-central-1/s3 content-type;host;x-amz-content-sha256;x-amz-date"));
    assert!(read("aws-sigv4 auto/s3 host;x-amz-content-sha256;x-amz-date"));
    for wrong in [
        "",
        "aws-sigv4",
        "aws-sigv4 /s3 host;x-amz-content-sha256;x-amz-date",
        "aws-sigv4 eu/ host;x-amz-content-sha256;x-amz-date",
        "aws-sigv4 eu/S3 host;x-amz-content-sha256;x-amz-date",
        "aws-sigv4 eu/s3/x host;x-amz-content-sha256;x-amz-date",
        "aws-sigv4 eu\n/s3 host;x-amz-content-sha256;x-amz-date",
        "aws-sigv4 eu/s3  host;x-amz-content-sha256;x-amz-date",
        "aws-sigv4 eu/s3 x-amz-content-sha256;x-amz-date",
        "aws-sigv4 eu/s3 host;x-amz-content-sha256",
        "aws-sigv4 eu/s3 host;x-amz-date",
        "aws-sigv4 eu/s3 host;x-amz-date;x-amz-content-sha256",
        "aws-sigv4 eu/s3 host;host;x-amz-content-sha256;x-amz-date",
        "aws-sigv4 eu/s3 accept;host;x-amz-content-sha256;x-amz-date",
        "aws-sigv4 eu/s3 host;x-amz-content-sha256;x-amz-date;x-amz-security-token",
        "aws-sigv4 eu/s3 Content-Type;host;x-amz-content-sha256;x-amz-date",
    ] {
        assert!(!read(wrong), "{wrong}");
    }
    let manner = "aws-sigv4 eu/s3 host;x-amz-content-sha256;x-amz-date";
    assert!(Scope::read(&names[..2], manner, &usual).is_none(), "other headers");
    for (said, right) in [
        ("UNSIGNED-PAYLOAD", true),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", true),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", false),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", false),
        (EMPTY, false),
        ("", false),
    ] {
        let request = request(&[("x-amz-content-sha256", said)]);
        assert_eq!(Scope::read(&names, manner, &request).is_some(), right, "{said}");
    }
    let twice = request(&[("x-amz-content-sha256", &digest), ("x-amz-content-sha256", &digest)]);
    assert!(Scope::read(&names, manner, &twice).is_none());
}

#[test]
fn an_access_key_is_two_or_three_parts_however_they_are_given() {
    let whole = |given: &str| {
        check_key(given.as_bytes()).map(|kept| String::from_utf8(kept.to_vec()).unwrap())
    };
    let (id, secret) = S3_KEY.split_once(':').unwrap();
    assert_eq!(whole(S3_KEY).unwrap(), S3_KEY);
    assert_eq!(whole(&format!("{id}\n{secret}\n")).unwrap(), S3_KEY);
    assert_eq!(whole(&format!("{id}\r\n{secret}\r\n")).unwrap(), S3_KEY);
    assert_eq!(whole(&format!("{id}\n{secret}\ntoken+/=")).unwrap(), format!("{S3_KEY}:token+/="));
    for wrong in [
        "",
        id,
        "short:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AKIAIOSFODNN7EXAMPLE:",
        "AKIAIOSFODNN7EXAMPLE:short",
        "AKIAIOSFODNN7EXAMPLE:with a space in the middle",
        "AKIA-OSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY:",
    ] {
        let refused = whole(wrong).expect_err(wrong);
        assert!(!refused.contains("wJalr"), "{refused}");
    }
}
