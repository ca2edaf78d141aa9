//! U-6: whatever a request may hold, it is one request on the wire of HTTP/1.1, and the one that it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_edge_gateway::upstream::{Settings, Upstream};
use countersign_gate::Payload;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::{Ask, http};

/// What a server of HTTP/1.1 reads: everything up to the end of the one body.
async fn read(listener: &TcpListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    let mut wanted = usize::MAX;
    while bytes.len() < wanted {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "{bytes:?}");
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            wanted = end + 4 + length.map_or(0, |length| length.parse().unwrap());
        }
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    // Nothing comes after it.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let name = "[a-z][a-z0-9!#$%&'*+.^_`|~-]{0,12}".prop_map(|name| format!("x-{name}"));
    let value = vec(any::<u8>(), 0..40).prop_filter_map("a value", |bytes| {
        HeaderValue::from_bytes(&bytes)
            .ok()
            .filter(|value| value.as_bytes().trim_ascii() == value.as_bytes())
    });
    vec((name, value), 0..6).prop_map(|pairs| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value);
        }
        headers
    })
}

fn target() -> impl Strategy<Value = &'static str> {
    select(vec![
        "/",
        "/v1/things?page=2",
        "/%0d%0aX-Evil:%201",
        "/a;b=c/d?x=%0D%0A%0D%0AGET%20/smuggled",
        "/http://evil.test/?a=b&c",
        "/..;/x?",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn u_6_h2_to_h1_roundtrip(
        headers in headers(), target in target(), method in select(vec!["GET", "POST", "DELETE", "PUT"]),
        body in vec(any::<u8>(), 0..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let body = if method == "GET" { Vec::new() } else { body };
        let (wire, sent) = runtime.block_on(async {
            let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
            let port = listener.local_addr().unwrap().port();
            let upstream = Upstream::new(Settings {
                extra_roots: Vec::new(),
                connect_to: vec![format!("::127.0.0.1:{port}").parse().unwrap()],
                allow_private: Vec::new(),
                forbidden: Vec::new(),
                response_header_timeout: Duration::from_secs(20),
            })
            .unwrap();
            let reading = tokio::spawn(async move { read(&listener).await });
            let ask = Ask {
                method: method.parse::<Method>().unwrap(),
                target,
                headers: headers.clone(),
                payload: Payload::Whole(Bytes::from(body.clone())),
                ..Ask::to(&http("api.example.com"))
            };
            let sent = upstream.send(ask.approved(), None, "agent-1").await.map(|answer| answer.status().as_u16());
            (reading.await.unwrap(), sent)
        });
        prop_assert_eq!(sent, Ok(200));
        let end = wire.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        prop_assert!(wire[end + 4..] == body, "one body, and nothing after it");
        let mut lines = wire[..end].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let line = format!("{method} {target} HTTP/1.1");
        prop_assert_eq!(lines.next().unwrap(), line.as_bytes());
        let mut written: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for line in lines {
            let colon = line.iter().position(|byte| *byte == b':').unwrap();
            let name = String::from_utf8(line[..colon].to_vec()).unwrap();
            written.entry(name).or_default().push(line[colon + 1..].trim_ascii().to_vec());
        }
        let mut expected: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for (name, value) in &headers {
            expected.entry(name.to_string()).or_default().push(value.as_bytes().to_vec());
        }
        expected.insert("host".into(), vec![b"api.example.com".to_vec()]);
        if !body.is_empty() || matches!(method, "POST" | "PUT") {
            expected.insert("content-length".into(), vec![body.len().to_string().into_bytes()]);
        }
        prop_assert_eq!(written, expected);
    }
}
