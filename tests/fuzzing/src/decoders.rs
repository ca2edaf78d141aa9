//! What the policy and the cards read of requests: each decoder, and what has to hold of whatever it reads.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gate::{Destination, Scheme};
use countersign_policy::body::Declared;
use countersign_policy::decode::coding::Coding;
use countersign_policy::decode::git::Push;
use countersign_policy::decode::mcp::Message;
use countersign_policy::decode::{mail, mcp, multipart};
use countersign_policy::{Body, Head, Policy, Subject, Then, body, graphql, json};
use http::{HeaderMap, HeaderValue, Method};

/// A name, and what is done with the bytes.
type Target = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: &[Target] = &[
    ("decode_codings", codings),
    ("decode_git", git),
    ("decode_graphql", graphql),
    ("decode_grpc", grpc),
    ("decode_mail", mails),
    ("decode_mcp", calls),
    ("decode_multipart", parts),
];

/// The first line, and what follows it.
fn line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// Nothing becomes larger than it may, whatever is in it.
fn codings(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    let codings = [Coding::Brotli, Coding::Deflate, Coding::Gzip, Coding::Zstandard];
    let coding = codings[usize::from(which % 4)];
    for most in [0, 100, 256 * 1024] {
        if let Ok(out) = coding.take_off(rest, most) {
            assert!(out.len() <= most, "{coding:?}");
        }
    }
}

/// A push that is read is written again as the same bytes, its capabilities and its pack aside.
fn git(data: &[u8]) {
    let Ok(push) = Push::read(data) else { return };
    let mut rest = data;
    for update in &push.updates {
        assert!(update.reference.starts_with("refs/"), "{update:?}");
        assert!(matches!(update.old.len(), 40 | 64) && update.old.len() == update.new.len());
        let command = format!("{} {} {}", update.old, update.new, update.reference);
        while rest[4..].starts_with(b"shallow ") {
            rest = &rest[length(rest)..];
        }
        assert!(rest[4..].starts_with(command.as_bytes()), "{command}");
        rest = &rest[length(rest)..];
    }
    assert!(rest.len() >= push.pack + 4 || push.updates.is_empty());
}

/// Of a pkt-line.
fn length(line: &[u8]) -> usize {
    let digits = std::str::from_utf8(&line[..4]).expect("it was read");
    usize::from_str_radix(digits, 16).expect("it was read")
}

/// Each operation has a field, and none is there without its document.
fn graphql(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let written = serde_json::json!({ "query": text }).to_string();
    for document in [data, written.as_bytes()] {
        let Ok(json) = json::parse(document) else { continue };
        let one = graphql::operation(&json);
        let Ok(all) = graphql::operations(&json) else { continue };
        for operation in &all {
            assert!(!operation.calls.is_empty());
            assert!(operation.calls.iter().all(|call| operation.fields.contains(&call.field)));
        }
        if let Ok(one) = one {
            assert_eq!(all, [one], "what is one operation is the only one");
        }
    }
}

/// Every message that another reader sees, with the method that it sees.
fn calls(data: &[u8]) {
    let Ok(json) = json::parse(data) else { return };
    let Ok(messages) = mcp::read(&json) else { return };
    let seen: serde_json::Value = serde_json::from_slice(data).expect("strict JSON is JSON");
    let seen = seen.as_array().cloned().unwrap_or_else(|| vec![seen]);
    assert_eq!(messages.list.len(), seen.len());
    for (message, seen) in messages.list.iter().zip(&seen) {
        let Message::Call(call) = message else {
            assert!(seen.get("method").is_none());
            continue;
        };
        assert_eq!(seen["method"], call.method);
        if let Some((tool, _)) = call.tool {
            assert_eq!(seen["params"]["name"], tool);
        }
    }
}

/// Each part is between two boundaries, and no two parts have one name.
fn parts(data: &[u8]) {
    let (kind, rest) = line(data);
    let Ok(kind) = HeaderValue::from_bytes(kind) else { return };
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, kind)]);
    let Ok(form) = multipart::read(&headers, rest) else { return };
    assert_eq!(body::declared(&headers), Declared::Multipart);
    let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("it was read");
    let boundary = &rest[..end];
    let count = rest.windows(boundary.len()).filter(|window| *window == boundary).count();
    assert_eq!(count, form.parts.len() + 1, "one before each and one at the end");
    for (at, part) in form.parts.iter().enumerate() {
        assert!(form.parts[..at].iter().all(|other| other.name != part.name), "{part:?}");
    }
}

/// Each address is one, whoever reads it.
fn mails(data: &[u8]) {
    let Ok(mail) = mail::read(data) else { return };
    for to in mail.recipients() {
        let (local, domain) = to.address.split_once('@').expect("an address");
        assert!(!local.is_empty() && !domain.is_empty() && !domain.contains('@'), "{to:?}");
        assert!(!to.address.contains([' ', ',', '<', '>', '\r', '\n']), "{to:?}");
    }
}

static BILLING: LazyLock<Policy> = LazyLock::new(|| {
    let set = STANDARD.encode(include_bytes!("billing.binpb"));
    let rules = format!(
        r#"
version = 1
[[descriptor]]
name = "billing"
set = "{set}"
[[rule]]
name = "read"
host = "api.test"
path = "/acme.billing.v1.Refunds/Create"
when = "grpc.message == grpc.message && grpc.message.amount < 100"
then = "allow"
"#
    );
    Policy::compile(&rules, "fuzz").expect("it compiles")
});

/// What passes has an amount below the bound to a reader who takes the last of several.
fn grpc(data: &[u8]) {
    let destination = Destination::parse(Scheme::Https, "api.test", Some(443)).expect("a host");
    let headers = [(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))];
    let headers = HeaderMap::from_iter(headers);
    let head = Head {
        agent: "robot",
        destination: &destination,
        method: &Method::POST,
        path: "/acme.billing.v1.Refunds/Create",
        query: None,
        headers: &headers,
    };
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes();
    let framed = [&[0][..], &length, data].concat();
    for body in [data, &framed] {
        let decision = BILLING.decide(&Subject { head, body: Body::Whole(body) });
        if decision.then == Then::Allow {
            assert!(last_amount(&body[5..]).is_none_or(|amount| amount < 100), "{body:?}");
        }
    }
}

/// The last field 2 of a message, by a reader who asks no questions.
fn last_amount(mut rest: &[u8]) -> Option<i64> {
    let mut found = None;
    let varint = |rest: &mut &[u8]| {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, after) = rest.split_first()?;
            *rest = after;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Some(number)
    };
    while let Some(tag) = varint(&mut rest) {
        let skip = match tag & 7 {
            0 => {
                let number = varint(&mut rest)?;
                if tag >> 3 == 2 {
                    found = Some(number.cast_signed());
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return found,
        };
        rest = rest.get(skip..)?;
    }
    found
}
