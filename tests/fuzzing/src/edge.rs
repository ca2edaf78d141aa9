//! The edge, the gate and the policy.

use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_edge_gateway::fuzz;
use countersign_edge_gateway::redact::Redactor;
use countersign_edge_gateway::upstream::{BodyError, BoxBody, ConnectTo};
use countersign_gate::{
    Circumstances, Class, DECISION_TYPE, Decision, Destination, KeyState, NodeKey, Now, Origin,
    Outcome, Payload, Request as Frozen, Scheme, Signed, TRUST_TYPE, Trust, Verdict, classify,
    sign, verify,
};
use countersign_policy::body::{Kind, view};
use countersign_policy::{Body, Head, Policy, Subject, Then, target};
use ed25519_dalek::SigningKey;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

/// A name, and what is done with the bytes.
type Target = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: &[Target] = &[
    ("authority", authority),
    ("bodies", bodies),
    ("decision", decision),
    ("frames", frames),
    ("h1_round_trip", h1_round_trip),
    ("hello", hello),
    ("policy", policy),
    ("postgres", postgres),
    ("problem", problem),
    ("redactor", redactor),
    ("request_head", request_head),
    ("request_target", request_target),
    ("sql", sql),
    ("sockets", sockets),
    ("tripwire", tripwire),
];

/// The first line, and what follows it.
fn line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// The data in pieces whose sizes are in its first bytes.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let Some((count, rest)) = data.split_first() else { return Vec::new() };
    let count = usize::from(count % 8).min(rest.len());
    let (sizes, mut rest) = rest.split_at(count);
    let mut pieces = Vec::new();
    for size in sizes {
        let (piece, after) = rest.split_at(usize::from(*size).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// An authority that is read is written as it is read again, in ASCII and in lower case.
fn authority(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = text.parse::<ConnectTo>();
    for (scheme, port) in
        [(Scheme::Https, None), (Scheme::Https, Some(443)), (Scheme::Http, Some(80))]
    {
        let Ok(read) = Destination::parse(scheme, text, port) else { continue };
        let host = read.host();
        assert!(!host.is_empty() && host.is_ascii() && host == host.to_ascii_lowercase(), "{host}");
        assert!(!host.contains(['/', '\\', '@', '?', '#', '%', ' ', '[', ']']), "{host}");
        assert!(host.contains(':') == host.parse::<std::net::Ipv6Addr>().is_ok(), "{host}");
        let own = if scheme == Scheme::Https { 443 } else { 80 };
        let again = Destination::parse(scheme, &read.authority(), Some(own));
        assert_eq!(again.as_ref(), Ok(&read), "{text}");
        let _ = fuzz::is_plain(&read);
    }
}

/// Path and query as a reader takes them who resolves dot segments and empty ones (RFC 3986 §5.2.4, WHATWG URL).
fn normal(path: &[u8]) -> Vec<Vec<u8>> {
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')).skip(1) {
        match segment {
            b"." | b"" => {}
            b".." => drop(segments.pop()),
            other => segments.push(other.to_vec()),
        }
    }
    segments
}

/// A target that is clear is the same to whoever decodes first, and to whoever resolves dots first.
fn request_target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (path, query) =
        text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    if target::check(path, query).is_err() {
        return;
    }
    let decode = |text: &[u8]| percent_encoding::percent_decode(text).collect::<Vec<u8>>();
    let raw: Vec<Vec<u8>> = normal(path.as_bytes()).iter().map(|segment| decode(segment)).collect();
    assert_eq!(raw, normal(&decode(path.as_bytes())), "decoded first: {path}");
    let twice = decode(&decode(path.as_bytes()));
    assert_eq!(twice, decode(path.as_bytes()), "decoded twice: {path}");
    // What our HTTP library takes for none is refused before anybody asks.
    let Ok(uri) = text.parse::<http::Uri>() else { return };
    assert_eq!((uri.path(), uri.query()), (path, query), "as it is written");
}

/// A request whose first line is the request line and whose others are headers.
fn parsed(data: &[u8]) -> Option<Request<()>> {
    let (first, mut rest) = line(data);
    let mut words = first.split(|byte| *byte == b' ');
    let (method, uri, version) = (words.next()?, words.next()?, words.next());
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = uri.to_vec().try_into().ok()?;
    if version == Some(b"2") {
        *request.version_mut() = http::Version::HTTP_2;
    }
    while !rest.is_empty() {
        let (header, after) = line(rest);
        rest = after;
        let at = header.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&header[..at]).ok()?;
        request
            .headers_mut()
            .append(name, HeaderValue::from_bytes(header[at + 1..].trim_ascii()).ok()?);
    }
    Some(request)
}

/// What is frozen has nothing of the connection, no second host, no fake key, and a path that is clear.
fn request_head(data: &[u8]) {
    let (head, body) = match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[][..]),
    };
    for tunnelled in [true, false] {
        let Some(request) = parsed(head) else { return };
        let (parts, ()) = request.into_parts();
        let method = parts.method.clone();
        let Some(frozen) = fuzz::freeze(parts, tunnelled, Bytes::copy_from_slice(body)) else {
            continue;
        };
        assert_eq!(*frozen.method(), method);
        if tunnelled {
            assert_eq!(frozen.destination().host(), fuzz::HOST);
        } else {
            assert!(frozen.injections().is_empty(), "no key goes over plain http");
        }
        for name in [
            "connection",
            "transfer-encoding",
            "content-length",
            "te",
            "upgrade",
            "host",
            "proxy-authorization",
        ] {
            assert!(!frozen.headers().contains_key(name), "{name}");
        }
        let hole = frozen.path().replace(countersign_gate::HOLE, "key");
        assert_eq!(
            target::check(
                &hole,
                frozen.query().map(|q| q.replace(countersign_gate::HOLE, "key")).as_deref()
            ),
            Ok(())
        );
        let mut all =
            format!("{}?{}", frozen.path(), frozen.query().unwrap_or_default()).into_bytes();
        frozen.headers().iter().for_each(|(name, value)| {
            all.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
        });
        if let Payload::Whole(body) = frozen.payload() {
            all.extend_from_slice(body);
        }
        for fake in fuzz::FAKE_KEYS {
            assert!(!contains(&all, fake.as_bytes()), "{fake}");
        }
    }
}

fn contains(text: &[u8], pattern: &[u8]) -> bool {
    text.windows(pattern.len()).any(|window| window == pattern)
}

const RULES: &str = r#"
[[rule]]
name = "read"
host = "api.test"
methods = ["GET"]
path = "/v1/{rest...}"
then = "allow"
[[rule]]
name = "refund"
host = "api.test"
methods = ["POST"]
path = "/v1/refunds"
when = "body.form.amount >= 10000 || body.json.amount > 5.5"
then = "approve"
[[rule]]
name = "ask"
host = "api.test"
path = "/graphql"
when = "body.graphql.operation == 'query' && !('password' in body.graphql.fields)"
then = "allow"
[[rule]]
name = "text"
host = "api.test"
path = "/text/{a}/b"
query = { k = "v" }
when = "body.text.contains('x') && request.headers['x-a'].lowerAscii() == 'b' && body.size < 100"
then = "observe"
"#;

static POLICIES: LazyLock<[Policy; 2]> = LazyLock::new(|| {
    let denies = "[[rule]]\nname = \"never\"\nhost = \"api.test\"\npath = \"/v1/never/{rest...}\"\nthen = \"deny\"\n";
    [RULES.to_owned(), format!("{RULES}{denies}")].map(|rules| {
        Policy::compile(&format!("version = 1\n{rules}"), "fuzz").expect("it compiles")
    })
});

/// A policy compiles or says why not; what is decided is the same each time, and a rule that denies opens nothing.
fn policy(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let (Some(rules), head, body) = (parts.next(), parts.next(), parts.next()) else { return };
    let written = std::str::from_utf8(rules).ok().map(|rules| Policy::compile(rules, "fuzz"));
    if let Some(Err(mistakes)) = &written {
        assert!(
            !mistakes.is_empty() && mistakes.iter().all(|mistake| !mistake.to_string().is_empty())
        );
    }
    let Some(request) = head.and_then(parsed) else { return };
    let destination = Destination::parse(Scheme::Https, "api.test", Some(443)).expect("a host");
    let head = Head {
        agent: "robot",
        destination: &destination,
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
    };
    let body = body.map_or(Body::Streamed, Body::Whole);
    let subject = Subject { head, body };
    let strictness = |then: Then| match then {
        Then::Allow | Then::Tunnel => 0,
        Then::Observe => 1,
        Then::Approve => 2,
        Then::Unnamed | Then::Deny => 3,
    };
    let [without, with] = &*POLICIES;
    let (one, other) = (without.decide(&subject), with.decide(&subject));
    assert!(strictness(other.then) >= strictness(one.then), "{one:?} {other:?}");
    if let Some(Ok(policy)) = written {
        assert_eq!(policy.decide(&subject), policy.decide(&subject));
        let _ = policy.needs(&head);
        assert_eq!(policy.explain(&subject).decision, policy.decide(&subject));
    }
}

/// What is said to be all there is of a body is that to other readers too.
fn bodies(data: &[u8]) {
    let (kind, rest) = line(data);
    let (coding, body) = line(rest);
    let mut headers = HeaderMap::new();
    for (name, value) in [("content-type", kind), ("content-encoding", coding)] {
        if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_bytes(value)) {
            headers.insert(name, value);
        }
    }
    let seen = view(&headers, body);
    if let (true, Kind::Json, Some(text)) = (seen.complete, seen.kind, &seen.text) {
        let read: Result<serde_json::Value, _> = serde_json::from_str(text);
        let again = read.expect("strict JSON is JSON").to_string();
        let _: serde_json::Value = serde_json::from_str(&again).expect("and stays it");
    }
    if let (true, Kind::Form, Some(text)) = (seen.complete, seen.kind, &seen.text) {
        assert!(!text.contains(';'), "two readers split it in two ways: {text}");
    }
    let destination = Destination::parse(Scheme::Https, "api.test", Some(443)).expect("a host");
    for path in ["/v1/refunds", "/graphql", "/text/a/b"] {
        let head = Head {
            agent: "robot",
            destination: &destination,
            method: &Method::POST,
            path,
            query: Some("k=v"),
            headers: &headers,
        };
        let subject = Subject { head, body: Body::Whole(body) };
        let decision = POLICIES[0].decide(&subject);
        if path == "/graphql" && !seen.complete {
            assert_ne!(decision.then, Then::Allow, "what is not certain opens nothing");
        }
    }
}

static NODE: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[7; 32]));

/// A decision has one encoding, and whatever it says releases nothing that it does not name.
fn decision(data: &[u8]) {
    if let Ok(read) = Decision::decode(data) {
        assert_eq!(read.encode(), data, "one value, one encoding");
    }
    let root = NODE.verifying_key().to_bytes();
    let signed = |kind: &str| Signed {
        payload_type: kind.into(),
        signatures: vec![sign(&NODE, kind, data)],
        payload: data.to_vec(),
    };
    if let Ok(trust) = Trust::accept(&signed(TRUST_TYPE), &root, None) {
        assert_eq!(trust.encode(), data);
    }
    let origin = Origin { cluster: "c".into(), org: "o".into(), agent: "a".into() };
    let destination = Destination::parse(Scheme::Https, "api.test", Some(443)).expect("a host");
    let frozen = Frozen::new(
        origin,
        destination,
        Method::POST,
        "/x".into(),
        None,
        HeaderMap::new(),
        Payload::Whole(Bytes::from_static(b"{}")),
        Vec::new(),
    );
    let verdict = Verdict::Approve { rule: "rule".into() };
    let Class::Hold(judged) = classify(frozen.expect("a request"), verdict) else {
        panic!("not held")
    };
    let circumstances = Circumstances {
        request_id: [1; 16],
        edge: "edge".into(),
        edge_key: [2; 32],
        incarnation: [3; 16],
        protocol: "h1".into(),
        policy_version: 1,
        started_ms: 1_000,
        hold_ms: 60_000,
        nonce: [4; 32],
    };
    let held = judged.hold(circumstances, 0);
    let digest = held.ticket().request_digest;
    let keys = vec![NodeKey { node: 1, public: root, state: KeyState::Active }];
    let trust = Trust { cluster: "c".into(), epoch: 1, threshold: 1, keys };
    let now = Now { boottime_ms: 10, wall_ms: 1_010 };
    if let Outcome::Release(_) = verify(held, &signed(DECISION_TYPE), &trust, now) {
        let named = Decision::decode(data).expect("what released it can be read");
        assert_eq!(
            (named.request_id, named.request_digest, named.incarnation),
            ([1; 16], digest, [3; 16])
        );
    }
}

/// However it is cut, the same is there.
fn frames(data: &[u8]) {
    let cut = pieces(data);
    assert_eq!(fuzz::frames(&cut), fuzz::frames(&[&cut.concat()]));
}

/// However it is cut, a tunnel begins with TLS for the same name, or with something else.
fn hello(data: &[u8]) {
    let cut = pieces(data);
    let whole = cut.concat();
    let name = |pieces: &[&[u8]]| {
        let read = fuzz::hello(pieces);
        if let Ok((_, size)) = &read {
            assert!(*size <= whole.len(), "more was read than there is");
        }
        read.map(|(name, _)| name).ok()
    };
    assert_eq!(name(&cut), name(&[&whole]));
}

/// However it is cut, the same frames go on as they came; and none of an upstream's messages shows a key to the agent, nor is
/// any of them longer or shorter for it.
fn sockets(data: &[u8]) {
    const KEY: &[u8] = b"tk_REAL_0123456789";
    let Some((how, rest)) = data.split_first() else { return };
    let (masked, extended) = (how & 1 == 1, how & 2 == 2);
    let cut = pieces(rest);
    let whole = cut.concat();
    let came = fuzz::websocket(&cut, masked, extended);
    assert_eq!(came, fuzz::websocket(&[&whole], masked, extended));
    assert!(whole.starts_with(&came.passed), "it goes on as it came");
    if masked || extended {
        return;
    }
    let seen = messages(fuzz::cleaned(KEY, &cut).expect("a key to look for"));
    assert!(seen.iter().all(|message| !contains(message, KEY)), "{seen:?}");
    let sizes = |messages: &[Vec<u8>]| messages.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(&seen), sizes(&messages(came)));
}

/// The messages that are all there, in the order in which they end.
fn messages(frames: fuzz::Frames) -> Vec<Vec<u8>> {
    let (mut done, mut begun) = (Vec::new(), Vec::new());
    for frame in frames.messages {
        if frame.control {
            done.extend(frame.last.then_some(frame.payload));
            continue;
        }
        if !frame.continues {
            begun.clear();
        }
        begun.extend(frame.payload);
        if frame.last {
            done.push(std::mem::take(&mut begun));
        }
    }
    done
}

/// Messages to a Postgres server are the same ones however they are cut, and none of them is read in two ways.
fn postgres(data: &[u8]) {
    let cut = pieces(data);
    let whole = cut.concat();
    assert_eq!(fuzz::postgres(&cut), fuzz::postgres(&[&whole]));
    fuzz::postgres_beginnings(&whole);
}

/// What is found in the whole is found in the stream, wherever it is cut.
fn tripwire(data: &[u8]) {
    const KEYS: [&str; 2] = ["sk_live_fake_0123456789abcdef", "tk_fake"];
    let Some((how, rest)) = data.split_first() else { return };
    let key = match how % 5 {
        0 => KEYS[0].to_owned(),
        1 => STANDARD.encode(format!("a{}b", KEYS[0])),
        2 => STANDARD.encode(format!("ab{}", KEYS[0])),
        3 => KEYS[0].bytes().map(|byte| format!("%{byte:02x}")).collect(),
        _ => String::new(),
    };
    let mut cut: Vec<Vec<u8>> = pieces(rest).into_iter().map(<[u8]>::to_vec).collect();
    // The key lies across two pieces.
    if let [first, second, ..] = &mut cut[..] {
        let at = usize::from(how / 5).min(key.len());
        first.extend(&key.as_bytes()[..at]);
        second.splice(0..0, key.as_bytes()[at..].iter().copied());
    }
    let cut: Vec<&[u8]> = cut.iter().map(Vec::as_slice).collect();
    let (streamed, whole) = fuzz::tripwire(&KEYS, &cut);
    assert!(streamed || !whole, "in the whole alone: {cut:?}");
    if cut.len() > 1 && !key.is_empty() {
        assert!(streamed, "{cut:?}");
    }
}

const SECRET: &str = "sk_live_51H8x/aB+c=d\"Q&z'~%9";

static SPELLINGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let each = |form: fn(u8) -> String| SECRET.bytes().map(form).collect::<String>();
    vec![
        SECRET.to_owned(),
        hex::encode(SECRET),
        hex::encode_upper(SECRET),
        each(|byte| format!("%{byte:02X}")),
        each(|byte| format!("\\u{byte:04x}")),
        each(|byte| format!("&#{byte};")),
        serde_json::to_string(SECRET).expect("text").trim_matches('"').to_owned(),
        // The letters that are its own, whatever follows.
        STANDARD.encode(SECRET)[..SECRET.len() * 8 / 6].to_owned(),
    ]
});

static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| Redactor::new(&[SECRET.as_bytes()]));

/// No spelling of the key comes out, wherever the answer is cut, and nothing else is changed.
fn redactor(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else { return };
    let spelling = &SPELLINGS[usize::from(*how) % SPELLINGS.len()];
    let mut cut: Vec<Vec<u8>> = pieces(rest).into_iter().map(<[u8]>::to_vec).collect();
    if let [first, second, ..] = &mut cut[..] {
        let at = (usize::from(*how) / 4).min(spelling.len());
        first.extend(&spelling.as_bytes()[..at]);
        second.splice(0..0, spelling.as_bytes()[at..].iter().copied());
    }
    let whole = cut.concat();
    let out = through(REDACTOR.body(streamed(&cut))).expect("what is not encoded does not fail");
    assert_eq!(out.len(), whole.len());
    for spelling in &*SPELLINGS {
        assert!(!contains(&out, spelling.as_bytes()), "{spelling}");
    }
    let starred = out.iter().zip(&whole).all(|(out, was)| out == was || *out == b'*');
    assert!(starred, "nothing is changed but into stars");
    if !SPELLINGS.iter().any(|spelling| contains(&whole, spelling.as_bytes()))
        && !whole.contains(&b'*')
    {
        // Other spellings are looked for as well; what is masked then is long.
        let masked = out.iter().filter(|byte| **byte == b'*').count();
        assert!(masked == 0 || masked >= 4, "{masked}");
    }
    // The same bytes, said to be encoded: an error or what was inside, without a key.
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        let answer = Response::builder().header("content-encoding", coding);
        let answer = REDACTOR.response(answer.body(streamed(&cut)).expect("an answer"));
        if let Ok(out) = through(answer.into_body()) {
            SPELLINGS
                .iter()
                .for_each(|spelling| assert!(!contains(&out, spelling.as_bytes()), "{spelling}"));
        }
    }
}

fn streamed(pieces: &[Vec<u8>]) -> BoxBody {
    let frames: Vec<Result<_, BodyError>> =
        pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    StreamBody::new(futures::stream::iter(frames)).boxed()
}

fn through(body: BoxBody) -> Result<Vec<u8>, BodyError> {
    Ok(futures::executor::block_on(body.collect())?.to_bytes().to_vec())
}

/// Whatever a refusal is about, it is JSON, and its headers are headers.
fn problem(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for answer in fuzz::refusals(&text) {
        let status = answer.status();
        assert!(status.is_client_error() || status.is_server_error());
        for (name, value) in answer.headers() {
            assert!(value.as_bytes().iter().all(|byte| *byte >= b' ' || *byte == b'\t'), "{name}");
        }
        let body = through(answer.into_body()).expect("it is all there");
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(problem["status"], status.as_u16());
        assert!(
            problem["code"].is_string()
                && problem["detail"].is_string()
                && problem["title"].is_string()
        );
    }
    for answer in fuzz::statuses(&text) {
        let status = answer.status();
        let body = through(answer.into_body()).expect("it is all there");
        let said: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&said["kind"], &said["status"]), (&"Status".into(), &"Failure".into()));
        assert!(said["code"] == status.as_u16() && said["message"].is_string());
    }
}

/// One request as an upstream reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    method: Method,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Bytes,
}

/// Bytes as an agent sends them, through our HTTP library, our own reading, and our HTTP library again: an upstream reads
/// the same requests that were judged, and no others.
fn h1_round_trip(data: &[u8]) {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
    });
    RUNTIME.block_on(async {
        let judged: Arc<Mutex<Vec<Read>>> = Arc::default();
        let arrived: Arc<Mutex<Vec<Read>>> = Arc::default();
        let (near, far) = tokio::io::duplex(data.len() + 64 * 1024);
        let (mut reading, mut writing) = tokio::io::split(near);
        writing.write_all(data).await.expect("there is room");
        drop(writing.shutdown().await);
        let (all, there) = (Arc::clone(&judged), Arc::clone(&arrived));
        let service = service_fn(move |request: Request<Incoming>| {
            let (all, there) = (Arc::clone(&all), Arc::clone(&there));
            async move {
                let (parts, body) = request.into_parts();
                let Ok(body) = body.collect().await else { return Err("it broke off") };
                if let Some(frozen) = fuzz::freeze(parts, true, body.to_bytes()) {
                    forward(frozen, &all, there).await;
                }
                Ok(Response::new(Full::new(Bytes::new())))
            }
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .max_headers(100)
            .max_buf_size(64 * 1024)
            .header_read_timeout(None)
            .half_close(true)
            .serve_connection(TokioIo::new(far), service);
        let mut sink = tokio::io::sink();
        let _ = tokio::join!(serving, tokio::io::copy(&mut reading, &mut sink));
        assert_eq!(*judged.lock().expect("no panic"), *arrived.lock().expect("no panic"));
    });
}

/// Writes a request as the edge does, and lets another reader read it.
async fn forward(frozen: Frozen, judged: &Mutex<Vec<Read>>, arrived: Arc<Mutex<Vec<Read>>>) {
    let Class::Pass(released) =
        classify(frozen, Verdict::Allow { rule: "all".into(), per_request: false })
    else {
        return;
    };
    // Without a key there is nothing to put in, and a request with a hole is not written.
    let Ok(outbound) = released.with_keys(Vec::new()) else { return };
    let sent = outbound.into_parts();
    let Payload::Whole(body) = sent.payload else { return };
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = sent.method.clone();
    *request.uri_mut() = sent.uri.clone();
    *request.headers_mut() = sent.headers.clone();
    request.headers_mut().insert("host", HeaderValue::from_static(fuzz::HOST));
    judged.lock().expect("no panic").push(read(&sent.method, &sent.uri, &sent.headers, body));
    let (near, far) = tokio::io::duplex(256 * 1024);
    let service = service_fn(move |request: Request<Incoming>| {
        let arrived = Arc::clone(&arrived);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            arrived.lock().expect("no panic").push(read(
                &parts.method,
                &parts.uri,
                &parts.headers,
                body,
            ));
            Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::new())))
        }
    });
    let upstream = hyper::server::conn::http1::Builder::new()
        .max_headers(200)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(far), service);
    let client = async {
        let Ok((mut sender, connection)) =
            hyper::client::conn::http1::handshake(TokioIo::new(near)).await
        else {
            return;
        };
        let exchange = async move {
            let _ = sender.send_request(request).await;
        };
        let _ = tokio::join!(connection, exchange);
    };
    let _ = tokio::join!(upstream, client);
}

/// What counts of a request: not how it is framed, nor which connection it is on.
fn read(method: &Method, uri: &http::Uri, headers: &HeaderMap, body: Bytes) -> Read {
    let framing = |name: &HeaderName| {
        ["host", "content-length", "transfer-encoding", "connection"].contains(&name.as_str())
    };
    let mut headers: Vec<(String, Vec<u8>)> = headers
        .iter()
        .filter(|(name, _)| !framing(name))
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    headers.sort();
    Read { method: method.clone(), target: uri.to_string(), headers, body }
}

/// Statements: what is read is read again in parts, and nothing that follows is lost.
fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(all) = countersign_sql::read(text) else { return };
    let mut end = 0;
    for statement in all.iter() {
        assert!(end <= statement.text.start && statement.text.start < statement.text.end);
        end = statement.text.end;
        assert!(statement.effect <= countersign_sql::Effect::Danger);
        if statement.kind == "execute" || statement.inner == Some("execute") {
            continue;
        }
        let alone = countersign_sql::read(&text[statement.text.clone()]).expect("it was read");
        let one = alone.iter().next().expect("it is one");
        assert_eq!(alone.iter().len(), 1);
        assert_eq!(
            (one.kind, one.effect, one.tables(), &one.functions, one.has_where),
            (
                statement.kind,
                statement.effect,
                statement.tables(),
                &statement.functions,
                statement.has_where
            )
        );
    }
    assert!(end <= text.len());
    let after = format!("{text}\n;drop table z");
    if let Ok(more) = countersign_sql::read(&after) {
        assert_eq!(more.iter().len(), all.iter().len() + 1);
        assert!(more.effect() >= countersign_sql::Effect::Schema);
    } else {
        assert!(all.iter().len() == 256 || after.len() > countersign_sql::MOST_TEXT, "{text:?}");
    }
}
