//! The way out: what is dialled, what is written, and what is said when there is no answer.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use countersign_edge_gateway::upstream::{
    BoxBody, ConnectTo, Failure, Resolve, Settings, Upstream,
};
use countersign_gate::{Destination, Payload};
use futures::future::BoxFuture;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::support::{Ask, Leaf, TestAuthority, TestOrigin, full, http, https, ok, text};

fn settings() -> Settings {
    Settings {
        extra_roots: Vec::new(),
        connect_to: Vec::new(),
        allow_private: Vec::new(),
        forbidden: Vec::new(),
        response_header_timeout: Duration::from_secs(20),
    }
}

/// An upstream for which every name leads to `address`.
fn to(address: SocketAddr, root: Option<&CertificateDer<'static>>) -> Upstream {
    Upstream::new(Settings {
        extra_roots: root.into_iter().cloned().collect(),
        connect_to: vec![format!("::{}:{}", address.ip(), address.port()).parse().unwrap()],
        ..settings()
    })
    .unwrap()
}

fn api() -> Destination {
    https("api.example.com")
}

/// An origin of its own authority for `api.example.com`, and an upstream that reaches it.
async fn origin(
    alpn: &[&str],
    answer: impl Fn(&crate::support::Seen) -> Response<BoxBody> + Send + Sync + 'static,
) -> (TestOrigin, Upstream) {
    let authority = TestAuthority::new();
    let origin = TestOrigin::tls(authority.leaf("api.example.com"), alpn, answer).await;
    let upstream = to(origin.address, Some(&authority.root));
    (origin, upstream)
}

#[tokio::test]
async fn http_1_gets_origin_form_host_and_an_exact_length() {
    let (origin, upstream) = origin(&["http/1.1"], ok).await;
    let payload = Payload::Whole(Bytes::from_static(b"{\"a\":1}"));
    let ask = Ask { method: Method::POST, payload, ..Ask::to(&api()) };
    let answer = upstream.send(ask.approved(), None, "agent-1").await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(text(answer).await.unwrap(), "fine");
    let [seen] = &origin.seen()[..] else { panic!("not once") };
    assert_eq!(
        (seen.version, seen.uri.to_string().as_str()),
        (Version::HTTP_11, "/v1/things?page=2")
    );
    assert_eq!(seen.headers[header::HOST], "api.example.com");
    assert_eq!(seen.headers[header::CONTENT_LENGTH], "7");
    assert_eq!(seen.body, "{\"a\":1}");
    for absent in ["expect", "te", "transfer-encoding", "connection", "user-agent", "accept"] {
        assert!(!seen.headers.contains_key(absent), "{absent} was added");
    }
}

#[tokio::test]
async fn http_2_gets_authority_and_scheme_and_no_host() {
    let (origin, upstream) = origin(&["h2", "http/1.1"], ok).await;
    let destination = https("api.example.com:8443");
    let payload = Payload::Whole(Bytes::from_static(b"body"));
    let ask = Ask { method: Method::PUT, payload, ..Ask::to(&destination) };
    upstream.send(ask.approved(), None, "agent-1").await.unwrap();
    let [seen] = &origin.seen()[..] else { panic!("not once") };
    assert_eq!((seen.version, seen.method.as_str()), (Version::HTTP_2, "PUT"));
    assert_eq!(seen.uri, "https://api.example.com:8443/v1/things?page=2");
    assert!(!seen.headers.contains_key(header::HOST) && !seen.headers.contains_key(header::TE));
    assert_eq!(seen.headers[header::CONTENT_LENGTH], "4");
    assert_eq!(seen.body, "body");
}

#[tokio::test]
async fn an_empty_post_has_a_length_and_an_empty_get_has_none() {
    for alpn in ["h2", "http/1.1"] {
        let (origin, upstream) = origin(&[alpn], ok).await;
        for (method, length) in
            [(Method::POST, Some("0")), (Method::GET, None), (Method::DELETE, None)]
        {
            upstream
                .send(Ask { method, ..Ask::to(&api()) }.allowed(), None, "agent-1")
                .await
                .unwrap();
            let seen = origin.seen().pop().unwrap();
            assert_eq!(
                seen.headers.get(header::CONTENT_LENGTH).map(|v| v.to_str().unwrap()),
                length
            );
            assert!(!seen.headers.contains_key(header::TRANSFER_ENCODING));
        }
    }
}

#[tokio::test]
async fn a_streamed_body_arrives_whole_and_its_trailers_do_not() {
    for alpn in ["h2", "http/1.1"] {
        let (origin, upstream) = origin(&[alpn], ok).await;
        let mut trailers = HeaderMap::new();
        trailers.insert(header::AUTHORIZATION, HeaderValue::from_static("smuggled"));
        let frames = [
            Frame::data(Bytes::from_static(b"one ")),
            Frame::data(Bytes::from_static(b"two")),
            Frame::trailers(trailers),
        ];
        let body = StreamBody::new(futures::stream::iter(frames.map(Ok))).boxed();
        let ask = Ask { method: Method::POST, payload: Payload::Streamed, ..Ask::to(&api()) };
        let answer = upstream.send(ask.allowed(), Some(body), "agent-1").await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let [seen] = &origin.seen()[..] else { panic!("not once") };
        assert_eq!(seen.body, "one two");
        assert!(!seen.headers.contains_key(header::AUTHORIZATION));
    }
}

#[tokio::test]
async fn a_request_without_its_streamed_body_is_not_sent() {
    let (origin, upstream) = origin(&["h2"], ok).await;
    let ask = Ask { method: Method::POST, payload: Payload::Streamed, ..Ask::to(&api()) };
    assert!(matches!(upstream.send(ask.allowed(), None, "").await, Err(Failure::NotSent { .. })));
    assert!(matches!(
        upstream.send(Ask::to(&api()).allowed(), Some(full("x")), "").await,
        Err(Failure::NotSent { .. })
    ));
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn grpc_gets_te_and_its_trailers_come_back() {
    let (origin, upstream) = origin(&["h2"], |_| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frames =
            [Ok(Frame::data(Bytes::from_static(b"message"))), Ok(Frame::trailers(trailers))];
        Response::new(StreamBody::new(futures::stream::iter(frames)).boxed())
    })
    .await;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
    let ask = Ask { method: Method::POST, headers, ..Ask::to(&api()) };
    let answer = upstream.send(ask.allowed(), None, "agent-1").await.unwrap();
    let collected = answer.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(origin.seen()[0].headers[header::TE], "trailers");
}

#[tokio::test]
async fn plain_http_goes_to_its_port() {
    let origin = TestOrigin::plain(ok).await;
    let upstream = to(origin.address, None);
    let answer =
        upstream.send(Ask::to(&http("plain.example")).allowed(), None, "agent-1").await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "fine");
    assert_eq!(origin.seen()[0].headers[header::HOST], "plain.example");
}

#[tokio::test]
async fn what_belongs_to_the_upstreams_connection_stays_there() {
    let (_origin, upstream) = origin(&["http/1.1"], |_| {
        Response::builder()
            .header("connection", "x-hop, close")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5")
            .header("proxy-authenticate", "Basic")
            .header("alt-svc", "h3=\":443\"")
            .header("x-end-to-end", "1")
            .body(full("fine"))
            .unwrap()
    })
    .await;
    let answer = upstream.send(Ask::to(&api()).allowed(), None, "agent-1").await.unwrap();
    for gone in
        ["connection", "x-hop", "keep-alive", "proxy-authenticate", "alt-svc", "transfer-encoding"]
    {
        assert!(!answer.headers().contains_key(gone), "{gone}");
    }
    assert_eq!(answer.headers()["x-end-to-end"], "1");
    assert_eq!(answer.headers()[header::CONTENT_LENGTH], "4");
}

#[tokio::test]
async fn u_8_connections_are_shared_within_one_agent_and_credential_only() {
    for alpn in ["h2", "http/1.1"] {
        let (origin, upstream) = origin(&[alpn], ok).await;
        let mut used = Vec::new();
        for key in ["agent-1 a", "agent-1 a", "agent-2 a", "agent-1 b", "agent-1 a"] {
            let answer = upstream.send(Ask::to(&api()).allowed(), None, key).await.unwrap();
            text(answer).await.unwrap();
            settle().await;
            used.push(origin.seen().pop().unwrap().connection);
        }
        assert_eq!(used, [0, 0, 1, 2, 0], "{alpn}");
        // Another port of the same host is another destination.
        let answer = upstream
            .send(Ask::to(&https("api.example.com:8443")).allowed(), None, "agent-1 a")
            .await
            .unwrap();
        text(answer).await.unwrap();
        assert_eq!(origin.connections(), 4);
    }
}

/// An HTTP/1.1 connection goes back to its pool in a task of its own.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn u_8_an_approved_request_has_a_connection_of_its_own() {
    for alpn in ["h2", "http/1.1"] {
        let (origin, upstream) = origin(&[alpn], ok).await;
        for approved in [false, true, true, false] {
            let ask = Ask::to(&api());
            let outbound = if approved { ask.approved() } else { ask.allowed() };
            text(upstream.send(outbound, None, "agent-1").await.unwrap()).await.unwrap();
            settle().await;
        }
        let used: Vec<usize> = origin.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(used, [0, 1, 2, 0], "{alpn}");
    }
}

/// What an approved request holds on to its connection by is the answer's body alone.
#[tokio::test]
async fn a_long_answer_to_an_approved_request_arrives_whole() {
    for alpn in ["h2", "http/1.1"] {
        let (_origin, upstream) = origin(&[alpn], |_| {
            let chunks = futures::stream::unfold(0u8, |n| async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                (n < 64).then(|| (Ok(Frame::data(Bytes::from(vec![n; 64 * 1024]))), n + 1))
            });
            Response::new(StreamBody::new(SyncStream(Mutex::new(Box::pin(chunks)))).boxed())
        })
        .await;
        let answer = upstream.send(Ask::to(&api()).approved(), None, "").await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 64 * 64 * 1024);
        assert!(
            body.chunks(64 * 1024)
                .enumerate()
                .all(|(n, chunk)| chunk.iter().all(|byte| usize::from(*byte) == n))
        );
    }
}

/// Makes a stream `Sync`, which it need not be to be used by one task.
struct SyncStream<T>(Mutex<std::pin::Pin<Box<dyn futures::Stream<Item = T> + Send>>>);

impl<T> futures::Stream for SyncStream<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.get_mut().unwrap().as_mut().poll_next(cx)
    }
}

#[tokio::test]
async fn answers_never_reach_another_request() {
    for alpn in ["h2", "http/1.1"] {
        let (origin, upstream) =
            origin(&[alpn], |seen| Response::new(full(seen.body.clone()))).await;
        let upstream = Arc::new(upstream);
        let agents: Vec<_> = (0..200)
            .map(|n| {
                let upstream = upstream.clone();
                tokio::spawn(async move {
                    let payload = Payload::Whole(Bytes::from(format!("request {n}")));
                    let ask = Ask { method: Method::POST, payload, ..Ask::to(&api()) };
                    let answer = upstream
                        .send(ask.allowed(), None, &format!("agent-{}", n % 3))
                        .await
                        .unwrap();
                    if n % 10 == 0 {
                        return; // goes away without reading
                    }
                    assert_eq!(text(answer).await.unwrap(), format!("request {n}"));
                })
            })
            .collect();
        for agent in agents {
            agent.await.unwrap();
        }
        assert_eq!(origin.seen().len(), 200);
        let mut owners = std::collections::BTreeMap::new();
        for seen in origin.seen() {
            let body = String::from_utf8(seen.body.to_vec()).unwrap();
            let agent = body.rsplit(' ').next().unwrap().parse::<usize>().unwrap() % 3;
            assert_eq!(
                *owners.entry(seen.connection).or_insert(agent),
                agent,
                "two agents on one connection"
            );
        }
    }
}

#[tokio::test]
async fn a_transfer_coding_nobody_asked_for_is_an_error() {
    for coding in ["gzip, chunked", "gzip", "identity, chunked"] {
        let answer: &'static str =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\nok\r\n0\r\n\r\n")
                .leak();
        let (address, ..) = raw(answer).await;
        let failure = to(address, None)
            .send(Ask::to(&http("a.example")).allowed(), None, "")
            .await
            .unwrap_err();
        assert!(matches!(failure, Failure::Unknown { .. }), "{coding}: {failure}");
    }
}

#[tokio::test]
async fn a_streamed_upload_takes_as_long_as_it_moves() {
    let authority = TestAuthority::new();
    let origin = TestOrigin::tls(authority.leaf("api.example.com"), &["h2"], ok).await;
    let upstream = Upstream::new(Settings {
        extra_roots: vec![authority.root.clone()],
        connect_to: vec![format!("::127.0.0.1:{}", origin.address.port()).parse().unwrap()],
        response_header_timeout: Duration::from_millis(400),
        ..settings()
    })
    .unwrap();
    let slow = futures::stream::unfold(0u8, |n| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (n < 10).then(|| (Ok(Frame::data(Bytes::from_static(b"part "))), n + 1))
    });
    let body = StreamBody::new(SyncStream(Mutex::new(Box::pin(slow)))).boxed();
    let ask = Ask { method: Method::POST, payload: Payload::Streamed, ..Ask::to(&api()) };
    let answer = upstream.send(ask.allowed(), Some(body), "agent-1").await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(origin.seen()[0].body.len(), 50);
}

/// Answers the first request of each connection with `answer` and closes. A permit for each that the client has
/// closed too.
async fn raw(answer: &'static str) -> (SocketAddr, Arc<Mutex<Vec<String>>>, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let closed = Arc::new(Semaphore::new(0));
    let (all, over) = (heard.clone(), closed.clone());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(byte) = tcp.read_u8().await else { break };
                request.push(byte);
            }
            all.lock().unwrap().push(String::from_utf8(request).unwrap());
            // A client that has had enough may close at any time.
            let _ = tcp.write_all(answer.as_bytes()).await;
            let _ = tcp.shutdown().await;
            let _ = tcp.read_to_end(&mut Vec::new()).await;
            over.add_permits(1);
        }
    });
    (address, heard, closed)
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_meanwhile_is_replaced() {
    let (address, heard, closed) = raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let upstream = to(address, None);
    for _ in 0..3 {
        let answer =
            upstream.send(Ask::to(&http("a.example")).allowed(), None, "agent-1").await.unwrap();
        assert_eq!(text(answer).await.unwrap(), "ok");
        closed.acquire().await.unwrap().forget();
    }
    assert_eq!(heard.lock().unwrap().len(), 3);
}

/// GOAWAY is over once the client has answered the ping that goes with it, so the client knows.
#[tokio::test]
async fn an_upstream_that_says_goodbye_gets_the_next_request_on_a_new_connection() {
    let (origin, upstream) = origin(&["h2"], ok).await;
    for turn in 1..=5 {
        let answer = upstream.send(Ask::to(&api()).allowed(), None, "agent-1").await.unwrap();
        assert_eq!(text(answer).await.unwrap(), "fine");
        assert_eq!((origin.seen().len(), origin.connections()), (turn, turn));
        origin.leave().await;
    }
}

#[tokio::test]
async fn a_request_that_was_written_is_never_written_again() {
    let (address, heard, _) = raw("").await;
    let upstream = to(address, None);
    for outbound in [Ask::to(&http("a.example")).allowed(), Ask::to(&http("a.example")).approved()]
    {
        let failure = upstream.send(outbound, None, "agent-1").await.unwrap_err();
        assert!(matches!(failure, Failure::Unknown { .. }), "{failure}");
    }
    assert_eq!(heard.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn u_4_an_upstream_that_switches_protocols_unasked_is_an_error() {
    let (address, ..) =
        raw("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
    let failure =
        to(address, None).send(Ask::to(&http("a.example")).allowed(), None, "").await.unwrap_err();
    assert!(matches!(failure, Failure::Unknown { .. }), "{failure}");
}

#[tokio::test]
async fn d_resp_1_a_head_without_end_is_an_error() {
    let long: &'static str =
        format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "a".repeat(1 << 20)).leak();
    let many: &'static str =
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-y: z\r\n".repeat(10_000)).leak();
    let bad_chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n";
    for answer in [long, many] {
        let (address, ..) = raw(answer).await;
        let failure = to(address, None)
            .send(Ask::to(&http("a.example")).allowed(), None, "")
            .await
            .unwrap_err();
        assert!(matches!(failure, Failure::Unknown { .. }), "{failure}");
    }
    let (address, ..) = raw(bad_chunk).await;
    let answer =
        to(address, None).send(Ask::to(&http("a.example")).allowed(), None, "").await.unwrap();
    assert!(text(answer).await.is_err());
}

#[tokio::test]
async fn the_reason_phrase_does_not_travel() {
    let (address, ..) = raw("HTTP/1.1 200 sk_live_secret\r\nContent-Length: 0\r\n\r\n").await;
    let answer =
        to(address, None).send(Ask::to(&http("a.example")).allowed(), None, "").await.unwrap();
    assert!(answer.extensions().is_empty());
}

#[tokio::test]
async fn an_upstream_that_does_not_begin_to_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connect_to = vec![format!("::127.0.0.1:{}", address.port()).parse().unwrap()];
    let upstream = Upstream::new(Settings {
        connect_to,
        response_header_timeout: Duration::from_millis(50),
        ..settings()
    })
    .unwrap();
    let failure =
        upstream.send(Ask::to(&http("a.example")).approved(), None, "").await.unwrap_err();
    assert!(matches!(failure, Failure::Unknown { .. }), "{failure}");
}

#[tokio::test]
async fn nobody_there_means_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let failure = to(address, None).send(Ask::to(&api()).approved(), None, "").await.unwrap_err();
    assert!(matches!(failure, Failure::NotSent { .. }), "{failure}");
}

#[tokio::test]
async fn n_17_a_certificate_that_is_not_right_gets_no_request() {
    let trusted = TestAuthority::new();
    let cases: Vec<(&str, Leaf)> = vec![
        (
            "expired",
            trusted.leaf_with("api.example.com", |p| {
                p.not_after = (SystemTime::now() - Duration::from_secs(60)).into()
            }),
        ),
        (
            "not yet valid",
            trusted.leaf_with("api.example.com", |p| {
                p.not_before = date_time_ymd(2090, 1, 1);
                p.not_after = date_time_ymd(2091, 1, 1);
            }),
        ),
        ("wrong name", trusted.leaf("api.example.org")),
        ("parent's name", trusted.leaf("example.com")),
        ("self-signed", Leaf::self_signed("api.example.com")),
        ("unknown authority", TestAuthority::new().leaf("api.example.com")),
        (
            "for clients",
            trusted.leaf_with("api.example.com", |p| {
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ),
    ];
    for (name, leaf) in cases {
        let origin = TestOrigin::tls(leaf, &["h2", "http/1.1"], ok).await;
        let upstream = to(origin.address, Some(&trusted.root));
        let failure = upstream.send(Ask::to(&api()).approved(), None, "").await.unwrap_err();
        assert!(matches!(failure, Failure::NotSent { .. }), "{name}: {failure}");
        assert!(origin.seen().is_empty(), "{name}");
    }
    let origin = TestOrigin::tls(trusted.leaf("api.example.com"), &["h2"], ok).await;
    to(origin.address, Some(&trusted.root))
        .send(Ask::to(&api()).approved(), None, "")
        .await
        .unwrap();
}

/// Says that it speaks an old TLS, whatever is asked (RFC 5246 §7.4.1.3).
#[tokio::test]
async fn n_17_an_old_tls_gets_no_request() {
    for minor in [0, 1, 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut hello = vec![2, 0, 0, 38, 3, minor];
            hello.extend([7; 32]);
            hello.extend([0, 0xc0, 0x2f, 0]);
            let mut record = vec![22, 3, minor, 0, hello.len() as u8];
            record.extend(hello);
            let mut first = [0; 5];
            tcp.read_exact(&mut first).await.unwrap();
            tcp.write_all(&record).await.unwrap();
            let mut rest = Vec::new();
            let _ = tcp.read_to_end(&mut rest).await;
            rest
        });
        let failure =
            to(address, None).send(Ask::to(&api()).allowed(), None, "").await.unwrap_err();
        assert!(matches!(failure, Failure::NotSent { .. }), "3.{minor}: {failure}");
        let rest = heard.await.unwrap();
        assert!(!String::from_utf8_lossy(&rest).contains("GET "), "3.{minor}");
    }
}

#[tokio::test]
async fn u_8_what_an_upstream_says_too_much_is_nobodys_answer() {
    let said = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let (address, heard, _) = raw(said).await;
    let upstream = to(address, None);
    for _ in 0..3 {
        match upstream.send(Ask::to(&http("a.example")).allowed(), None, "agent-1").await {
            Ok(answer) => assert_eq!(text(answer).await.unwrap(), "ok"),
            Err(failure) => assert!(!failure.to_string().contains("poison")),
        }
        settle().await;
    }
    assert_eq!(heard.lock().unwrap().len(), 3, "each on a connection of its own");
}

#[tokio::test]
async fn n_10_a_closed_address_is_refused_before_anything_is_looked_up() {
    let resolver = Arc::new(Script::new(&[]));
    let upstream = Upstream::with_resolver(settings(), resolver.clone()).unwrap();
    for host in [
        "127.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:8.8.8.8]",
        "localhost",
        "x.localhost",
        "localhost.",
    ] {
        let failure = upstream.check(&https(host)).await.unwrap_err();
        assert!(matches!(failure, Failure::AddressDenied { .. }), "{host}: {failure}");
    }
    for host in ["8.8.8.8", "[2606:4700::1111]", "api.example.com", "localhost.example"] {
        upstream.check(&https(host)).await.unwrap();
    }
    assert_eq!(resolver.asked(), 0);
}

#[tokio::test]
async fn an_opened_range_and_an_explicit_target_are_the_operators_word() {
    let allow_private = vec!["127.0.0.0/8".parse().unwrap()];
    let upstream = Upstream::new(Settings { allow_private, ..settings() }).unwrap();
    upstream.check(&https("127.0.0.1")).await.unwrap();
    let connect_to = vec!["10.0.0.1:443:127.0.0.1:1".parse().unwrap()];
    let upstream = Upstream::new(Settings { connect_to, ..settings() }).unwrap();
    upstream.check(&https("10.0.0.1")).await.unwrap();
    assert!(upstream.check(&https("10.0.0.1:444")).await.is_err());
}

#[tokio::test]
async fn n_12_our_own_listener_is_not_dialled_even_where_the_operator_points_there() {
    let origin = TestOrigin::plain(ok).await;
    let forbidden = vec![origin.address];
    let allow_private = vec!["127.0.0.0/8".parse().unwrap()];
    let connect_to =
        vec![format!("a.example:80:127.0.0.1:{}", origin.address.port()).parse().unwrap()];
    let upstream =
        Upstream::new(Settings { forbidden, allow_private, connect_to, ..settings() }).unwrap();
    for destination in [http("a.example"), http(&origin.address.to_string())] {
        let failure = upstream.send(Ask::to(&destination).allowed(), None, "").await.unwrap_err();
        assert!(matches!(failure, Failure::AddressDenied { .. }), "{failure}");
    }
    assert_eq!(origin.connections(), 0);
}

/// A resolver that gives each answer once, the last one for ever.
struct Script {
    answers: Vec<Vec<&'static str>>,
    asked: AtomicUsize,
}

impl Script {
    fn new(answers: &[&[&'static str]]) -> Self {
        Self { answers: answers.iter().map(|a| a.to_vec()).collect(), asked: AtomicUsize::new(0) }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolve for Script {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst).min(self.answers.len() - 1);
        let answer = self.answers[turn]
            .iter()
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
            .collect();
        Box::pin(async move { Ok(answer) })
    }
}

#[tokio::test]
async fn n_11_a_name_that_is_bound_anew_is_checked_anew() {
    let origin = TestOrigin::plain(ok).await;
    let resolver = Arc::new(Script::new(&[&["127.0.0.1"], &["127.0.0.2"]]));
    let allow_private = vec!["127.0.0.1/32".parse().unwrap()];
    let upstream =
        Upstream::with_resolver(Settings { allow_private, ..settings() }, resolver.clone())
            .unwrap();
    let destination = http(&format!("rebound.example:{}", origin.address.port()));

    text(upstream.send(Ask::to(&destination).allowed(), None, "a").await.unwrap()).await.unwrap();
    assert_eq!(resolver.asked(), 1, "looked up once: what was checked is what is dialled");
    settle().await;
    // The pooled connection is to the address that was checked, whatever the name means now.
    text(upstream.send(Ask::to(&destination).allowed(), None, "a").await.unwrap()).await.unwrap();
    assert_eq!((resolver.asked(), origin.connections()), (1, 1));

    let failure = upstream.send(Ask::to(&destination).approved(), None, "a").await.unwrap_err();
    assert!(
        matches!(&failure, Failure::AddressDenied { host, .. } if host == "rebound.example"),
        "{failure}"
    );
    assert_eq!((resolver.asked(), origin.connections()), (2, 1));
}

#[tokio::test]
async fn n_11_one_closed_address_among_many_closes_the_name() {
    let origin = TestOrigin::plain(ok).await;
    let resolver = Arc::new(Script::new(&[&["127.0.0.1", "10.0.0.1"]]));
    let allow_private = vec!["127.0.0.1/32".parse().unwrap()];
    let upstream =
        Upstream::with_resolver(Settings { allow_private, ..settings() }, resolver).unwrap();
    let destination = http(&format!("mixed.example:{}", origin.address.port()));
    let failure = upstream.send(Ask::to(&destination).allowed(), None, "a").await.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "not sent: mixed.example is at 10.0.0.1, which agents may not reach: private (10.0.0.0/8)"
    );
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn the_next_address_is_tried_when_the_first_does_not_answer() {
    let origin = TestOrigin::plain(ok).await;
    let resolver = Arc::new(Script::new(&[&["127.0.0.77", "127.0.0.1"]]));
    let allow_private = vec!["127.0.0.0/8".parse().unwrap()];
    let upstream =
        Upstream::with_resolver(Settings { allow_private, ..settings() }, resolver).unwrap();
    let destination = http(&format!("two.example:{}", origin.address.port()));
    text(upstream.send(Ask::to(&destination).allowed(), None, "a").await.unwrap()).await.unwrap();
}

/// The test starts itself once more with a proxy in its environment: it cannot be set in a running process safely.
#[tokio::test]
async fn n_13_the_environments_proxy_is_ignored() {
    let names =
        ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    if std::env::var_os("COUNTERSIGN_TEST_INNER").is_some() {
        assert!(names.iter().all(|name| std::env::var_os(name).is_some()));
        let (origin, upstream) = origin(&["h2"], ok).await;
        upstream.send(Ask::to(&api()).allowed(), None, "a").await.unwrap();
        assert_eq!(origin.seen().len(), 1);
        return;
    }
    let sink = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", sink.local_addr().unwrap());
    let inner = tokio::task::spawn_blocking(move || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "upstream::n_13_the_environments_proxy_is_ignored"])
            .envs(names.map(|name| (name, proxy.as_str())))
            .env("COUNTERSIGN_TEST_INNER", "1")
            .output()
            .unwrap()
    });
    tokio::select! {
        _ = sink.accept() => panic!("the proxy of the environment was used"),
        output = inner => {
            let output = output.unwrap();
            assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        }
    }
}

#[test]
fn connect_to_is_read_as_curl_does() {
    for text in [
        "a.example:443:127.0.0.1:8443",
        "::127.0.0.1:8443",
        "a.example:443::",
        "[2001:db8::1]:443:[::1]:8443",
        "A.example::b.example:",
    ] {
        assert!(text.parse::<ConnectTo>().is_ok(), "{text}");
    }
    for text in [
        "",
        "a.example",
        "a.example:443",
        "a.example:443:127.0.0.1",
        "a:x:b:1",
        "a:1:b:70000",
        "a:1:b:1:2",
        "[::1:1:b:1",
    ] {
        assert!(text.parse::<ConnectTo>().is_err(), "{text}");
    }
}
