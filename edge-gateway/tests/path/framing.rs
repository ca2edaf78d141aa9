//! What our HTTP libraries do with what two readers could read in two ways (threats §2.0), line by line: a newer version
//! of them that is looser than this one fails here.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::agent::{Answer, read, request, send};
use crate::control::secret;
use crate::wire::{DATA, END_HEADERS, END_STREAM, HEADERS, Heard, Wire, block, frame, get};
use crate::world::{World, bearer};

/// Says these bytes through a tunnel to `host` and gives the first answer; none when the connection is closed instead.
async fn say(world: &World, host: &str, bytes: &[u8]) -> Option<Answer> {
    let mut tunnel = world.agent.tunnel(host).await;
    tunnel.write_all(bytes).await.expect("written");
    read(&mut tunnel).await.ok()
}

fn head(rest: &[u8]) -> Vec<u8> {
    [b"POST /x HTTP/1.1\r\nHost: open.test\r\n", rest].concat()
}

#[tokio::test]
async fn h1_what_cannot_be_framed_in_one_way_is_refused() {
    let world = World::start().await;
    let chunked = "3\r\nabc\r\n0\r\n\r\n";
    let many: String = (0..101).map(|n| format!("X-{n}: 1\r\n")).collect();
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("a length with a sign", head(b"Content-Length: +3\r\n\r\nabc")),
        ("a list of lengths", head(b"Content-Length: 3, 3\r\n\r\nabc")),
        ("a length in hexadecimal", head(b"Content-Length: 0x3\r\n\r\nabc")),
        ("no length", head(b"Content-Length: \r\n\r\nabc")),
        ("two lengths", head(b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")),
        ("a length of 2^64", head(b"Content-Length: 18446744073709551616\r\n\r\nabc")),
        ("xchunked", head(format!("Transfer-Encoding: xchunked\r\n\r\n{chunked}").as_bytes())),
        (
            "chunked first",
            head(format!("Transfer-Encoding: chunked, identity\r\n\r\n{chunked}").as_bytes()),
        ),
        (
            "gzip, chunked",
            head(format!("Transfer-Encoding: gzip, chunked\r\n\r\n{chunked}").as_bytes()),
        ),
        (
            "chunked twice",
            head(format!("Transfer-Encoding: chunked, chunked\r\n\r\n{chunked}").as_bytes()),
        ),
        (
            "two codings",
            head(
                format!(
                    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"
                )
                .as_bytes(),
            ),
        ),
        (
            "a coding with a tab in front of the colon",
            head(format!("Transfer-Encoding\t: chunked\r\n\r\n{chunked}").as_bytes()),
        ),
        (
            "a coding in HTTP/1.0",
            format!(
                "POST /x HTTP/1.0\r\nHost: open.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"
            )
            .into_bytes(),
        ),
        ("a folded line", head(b"X: a\r\n b\r\n\r\n")),
        ("a space in front of the colon", head(b"X : a\r\n\r\n")),
        ("a NUL in a value", head(b"X: a\0b\r\n\r\n")),
        ("a CR in a value", head(b"X: a\rb\r\n\r\n")),
        ("a CR alone at the end of a line", head(b"X: a\rY: b\r\n\r\n")),
        ("a name that is no token", head(b"X(Y): a\r\n\r\n")),
        ("an empty name", head(b": a\r\n\r\n")),
        ("a tab in the request line", b"GET\t/x HTTP/1.1\r\nHost: open.test\r\n\r\n".to_vec()),
        ("a space in the path", b"GET /x y HTTP/1.1\r\nHost: open.test\r\n\r\n".to_vec()),
        ("two spaces", b"GET  /x HTTP/1.1\r\nHost: open.test\r\n\r\n".to_vec()),
        ("a version that is none", b"GET /x HTTP/1.2\r\nHost: open.test\r\n\r\n".to_vec()),
        ("no version", b"GET /x\r\n\r\n".to_vec()),
        ("101 headers", head(format!("{many}\r\n").as_bytes())),
        ("two hosts", head(b"Host: open.test\r\n\r\n")),
        ("no host", b"GET /x HTTP/1.1\r\n\r\n".to_vec()),
    ];
    for (name, bytes) in table {
        if let Some(answer) = say(&world, "open.test", &bytes).await {
            let refused = if name == "101 headers" { 431 } else { 400 };
            assert_eq!(answer.status, refused, "{name}: {answer:?}");
        }
    }
    assert!(world.origin.got().is_empty(), "{:?}", world.origin.got());
}

#[tokio::test]
async fn h1_what_is_read_in_one_way_leaves_in_one_way() {
    let world = World::start().await;
    let chunked = "3\r\nabc\r\n0\r\n\r\n";
    for (name, bytes) in [
        ("twice the same length", head(b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc")),
        (
            "a length and a coding",
            head(
                format!("Content-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}")
                    .as_bytes(),
            ),
        ),
        (
            "a coding and a length",
            head(
                format!("Transfer-Encoding: CHUNKED\r\nContent-Length: 1\r\n\r\n{chunked}")
                    .as_bytes(),
            ),
        ),
        (
            "bare line feeds",
            b"POST /x HTTP/1.1\nHost: open.test\nContent-Length: 3\n\nabc".to_vec(),
        ),
    ] {
        let before = world.origin.got().len();
        // A reader may as well refuse these: what counts is that the upstream reads them as we did.
        match say(&world, "open.test", &bytes).await {
            Some(answer) if answer.status == 200 => {
                let got = world.origin.got();
                assert_eq!(got.len(), before + 1, "{name}: one request");
                let got = &got[before];
                assert_eq!(got.body, "abc", "{name}");
                let framings = got.headers.get_all("content-length").iter().count()
                    + got.headers.get_all("transfer-encoding").iter().count();
                assert_eq!(framings, 1, "{name}: {:?}", got.headers);
            }
            Some(answer) => assert_eq!(answer.status, 400, "{name}: {answer:?}"),
            None => {}
        }
    }
    let cut = say(&world, "open.test", b"GET /x#y HTTP/1.1\r\nHost: open.test\r\n\r\n").await;
    let cut = cut.expect("an answer");
    let last = world.origin.got().last().expect("something arrived").target.clone();
    assert!(cut.status == 400 || last == "/x", "what is judged is what leaves: {last}");
}

#[tokio::test]
async fn h1_targets_that_are_no_paths_are_refused() {
    let world = World::start().await;
    for target in [
        "*",
        "/a\\b",
        "/%00",
        "//evil.test/x",
        "/caf\u{e9}",
        "x",
        "http:x",
        "/%",
        "/a%2fb",
        "open.test:443",
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: open.test\r\n\r\n");
        if let Some(answer) = say(&world, "open.test", bytes.as_bytes()).await {
            assert_eq!(answer.status, 400, "{target}: {answer:?}");
        }
    }
    for method in ["post", "TRACE", "CONNECT", "PRI"] {
        let target = if method == "CONNECT" { "open.test:443" } else { "/x" };
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: open.test\r\n\r\n");
        if let Some(answer) = say(&world, "open.test", bytes.as_bytes()).await {
            assert!(matches!(answer.status, 400 | 405), "{method}: {answer:?}");
        }
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn b_6_chunks_that_are_none_end_the_request() {
    let world = World::start().await;
    for (name, chunks) in [
        ("a size of more than 2^64", "fffffffffffffffff\r\nabc\r\n0\r\n\r\n".to_owned()),
        ("a negative size", "-3\r\nabc\r\n0\r\n\r\n".into()),
        ("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n".into()),
        ("no size", "\r\nabc\r\n0\r\n\r\n".into()),
        ("more than was announced", "3\r\nabcdef\r\n0\r\n\r\n".into()),
        ("extensions without end", format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(100_000))),
        ("trailers without end", format!("0\r\n{}\r\n", "X: y\r\n".repeat(20_000))),
    ] {
        let bearer = bearer("single");
        let rest = format!("{bearer}Transfer-Encoding: chunked\r\n");
        let bytes = request("single.test", "POST /x", &rest, &chunks);
        let mut tunnel = world.agent.tunnel("single.test").await;
        // It may be cut off before all of it was written.
        let _ = tunnel.write_all(bytes.as_bytes()).await;
        if let Ok(answer) = read(&mut tunnel).await {
            assert_eq!(answer.status, 400, "{name}: {answer:?}");
        }
    }
    assert!(world.control.opened().await.is_none(), "nothing of it was opened");
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn b_7_a_body_that_nobody_waited_for_is_never_a_request() {
    let world = World::start().await;
    let smuggled = request("api.test", "GET /things/smuggled", &bearer("api"), "");
    for (expect, coding) in [
        ("Expect: 100-continue\r\n", false),
        ("", false),
        ("Expect: 100-continue\r\n", true),
        ("", true),
    ] {
        let framing = if coding {
            format!(
                "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n",
                smuggled.len()
            )
        } else {
            format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len())
        };
        // Refused from its head alone: nothing has read the body when the answer leaves.
        let bytes = format!("POST /never/1 HTTP/1.1\r\nHost: api.test\r\n{expect}{framing}");
        let mut tunnel = world.agent.tunnel("api.test").await;
        tunnel.write_all(bytes.as_bytes()).await.expect("written");
        let first = read(&mut tunnel).await.expect("an answer");
        assert!(matches!(first.status, 100 | 403), "{first:?}");
        // Whatever else is said is about no request that was in the body.
        let mut rest = Vec::new();
        let reading = tunnel.read_to_end(&mut rest);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), reading).await;
        assert!(!String::from_utf8_lossy(&rest).contains("smuggled"));
    }
    assert!(world.origin.got().is_empty(), "{:?}", world.origin.got());
}

#[tokio::test]
async fn u_7_a_request_behind_an_empty_body_is_judged_for_itself() {
    let world = World::start().await;
    let first = format!(
        "POST /things/1 HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n{}\r\n",
        bearer("api")
    );
    let second = request("api.test", "GET /never/1", &bearer("api"), "");
    let mut tunnel = world.agent.tunnel("api.test").await;
    tunnel.write_all(format!("{first}{second}").as_bytes()).await.expect("written");
    assert_eq!(read(&mut tunnel).await.expect("an answer").status, 200);
    assert_eq!(read(&mut tunnel).await.expect("an answer").code(), "policy_denied");
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn u_2_a_body_that_begins_as_http_2_does_is_a_body() {
    let world = World::start().await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let rest =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let answer = world.agent.send("open.test", "POST /x", rest, preface).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let got = &world.origin.got()[0];
    assert_eq!(got.body, preface);
    assert!(!got.headers.contains_key("upgrade") && !got.headers.contains_key("http2-settings"));
    // As the first thing after a request, it is the beginning of no other protocol.
    let mut tunnel = world.agent.tunnel("open.test").await;
    assert_eq!(send(&mut tunnel, "open.test", "GET /", "", "").await.status, 200);
    tunnel.write_all(preface.as_bytes()).await.expect("written");
    if let Ok(answer) = read(&mut tunnel).await {
        assert!(answer.status >= 400, "{answer:?}");
    }
    assert_eq!(world.origin.got().len(), 2);
}

/// One HTTP/2 request on a connection of its own.
async fn h2(world: &World, fields: &[(&str, &str)], body: Option<&[u8]>) -> Heard {
    let mut wire = Wire::open(&world.agent, "open.test").await;
    let flags = if body.is_some() { END_HEADERS } else { END_HEADERS | END_STREAM };
    let mut bytes = frame(HEADERS, flags, 1, &block(fields));
    if let Some(body) = body {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    wire.send(&bytes).await;
    wire.hear(1).await
}

/// The pseudo-headers of a POST to this path, and these fields.
fn post<'a>(path: &'a str, rest: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = get("open.test", path);
    fields[0].1 = "POST";
    fields.extend(rest);
    fields
}

#[tokio::test]
async fn h2_requests_come_frame_by_frame() {
    let world = World::start().await;
    assert!(h2(&world, &get("open.test", "/x?y"), None).await.is_ok());
    assert!(h2(&world, &post("/x", &[("content-length", "3")]), Some(b"abc")).await.is_ok());
    let got = world.origin.got();
    assert_eq!((got[0].target.as_str(), &got[1].body[..]), ("/x?y", &b"abc"[..]));
    assert_eq!(got[0].headers["host"], "open.test");
}

#[tokio::test]
async fn h2_what_is_no_request_is_reset() {
    let world = World::start().await;
    let with = |name: &'static str, value: &'static str| {
        let mut fields = get("open.test", "/x");
        fields.push((name, value));
        fields
    };
    let instead = |name: &str, value: &'static str| {
        let mut fields = get("open.test", "/x");
        fields.iter_mut().filter(|(n, _)| *n == name).for_each(|field| field.1 = value);
        fields
    };
    let table: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("a path without a slash", instead(":path", "x")),
        ("no path", instead(":path", "")),
        ("a URL for a path", instead(":path", "https://open.test/x")),
        ("two authorities", with(":authority", "open.test")),
        ("two paths", with(":path", "/y")),
        (
            "a pseudo-header after the others",
            [get("open.test", "/x"), vec![("a", "b"), (":path", "/y")]].concat(),
        ),
        ("an unknown pseudo-header", with(":other", "x")),
        ("connection", with("connection", "close")),
        ("keep-alive", with("keep-alive", "5")),
        ("upgrade", with("upgrade", "h2c")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("te other than trailers", with("te", "gzip")),
        ("a name in upper case", with("X-Y", "z")),
        ("a name with a space", with("x y", "z")),
        ("a name with a line break", with("x\r\ny", "z")),
        ("an empty name", with("", "z")),
        ("an extended CONNECT", {
            let mut fields = instead(":method", "CONNECT");
            fields.push((":protocol", "websocket"));
            fields
        }),
        ("a status", with(":status", "200")),
    ];
    for (name, fields) in table {
        let heard = h2(&world, &fields, None).await;
        assert!(heard.is_refused(), "{name}: {heard:?}");
    }
    for (name, length, body) in [
        ("a body longer than it says", "2", &b"abc"[..]),
        ("a body shorter than it says", "4", b"abc"),
        ("a length that is none", "three", b"abc"),
    ] {
        let heard = h2(&world, &post("/x", &[("content-length", length)]), Some(body)).await;
        assert!(!heard.is_ok(), "{name}: {heard:?}");
    }
    let complete = |got: &crate::origin::Got| got.body == "abc";
    assert!(!world.origin.got().iter().any(complete), "{:?}", world.origin.got());
}

#[tokio::test]
async fn u_6_nothing_of_http_2_becomes_a_line_of_http_1() {
    let world = World::start().await;
    let instead = |name: &str, value: &'static str| {
        let mut fields = get("open.test", "/x");
        fields.iter_mut().filter(|(n, _)| *n == name).for_each(|field| field.1 = value);
        fields
    };
    let smuggled = "/x HTTP/1.1\r\nHost: open.test\r\n\r\nGET /smuggled";
    for fields in [
        instead(":path", smuggled),
        instead(":path", "/x y"),
        instead(":path", "/x\ty"),
        instead(":path", "/x\0"),
        instead(":method", "GET /smuggled HTTP/1.1\r\nX:"),
        instead(":method", "GET /smuggled"),
        instead(":authority", "open.test\r\nX: y"),
        instead(":authority", "open.test x"),
        [get("open.test", "/x"), vec![("x-y", "a\r\nX-Smuggled: 1")]].concat(),
        [get("open.test", "/x"), vec![("x-y", "a\0b")]].concat(),
        [get("open.test", "/x"), vec![("x-y", "a\nb")]].concat(),
    ] {
        let heard = h2(&world, &fields, None).await;
        assert!(!heard.is_ok(), "{fields:?}: {heard:?}");
    }
    assert!(world.origin.got().is_empty(), "{:?}", world.origin.got());
}

#[tokio::test]
async fn h2_what_names_another_host_is_refused_by_us() {
    let world = World::start().await;
    let status = async |fields: &[(&str, &str)]| h2(&world, fields, None).await;
    let other = status(&get("api.test", "/x")).await;
    assert_eq!(other.code(), "destination_mismatch", "{other:?}");
    let mut host = get("open.test", "/x");
    host.push(("host", "api.test"));
    assert_eq!(status(&host).await.code(), "destination_mismatch");
    let mut two = get("open.test", "/x");
    two.extend([("host", "open.test"), ("host", "open.test")]);
    assert_eq!(status(&two).await.code(), "bad_request");
    let no_authority =
        [(":method", "GET"), (":scheme", "https"), (":path", "/x"), ("host", "open.test")];
    let heard = status(&no_authority).await;
    assert!(heard.is_refused() || heard.code() == "bad_request", "{heard:?}");
    let mut plain = get("open.test", "/x");
    plain[1].1 = "http";
    assert_eq!(status(&plain).await.code(), "bad_request");
    for authority in ["user@open.test", "open.test@evil.test", "open.test:0443", "open.test:444"] {
        let heard = status(&get(authority, "/x")).await;
        assert!(!heard.is_ok(), "{authority}: {heard:?}");
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn h2_trailers_are_not_headers() {
    let world = World::start().await;
    for trailers in [
        &[("authorization", "Bearer smuggled"), ("x-late", "1")][..],
        &[(":path", "/never/1"), ("x-late", "1")],
    ] {
        let mut wire = Wire::open(&world.agent, "open.test").await;
        wire.send(&frame(HEADERS, END_HEADERS, 1, &block(&post("/x", &[])))).await;
        wire.send(&frame(DATA, 0, 1, b"abc")).await;
        wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers))).await;
        let heard = wire.hear(1).await;
        assert!(heard.is_ok() || heard.is_refused(), "{heard:?}");
    }
    for got in world.origin.got() {
        assert_eq!(got.target, "/x");
        assert!(!got.headers.contains_key("authorization") && !got.headers.contains_key("x-late"));
    }
}

#[tokio::test]
async fn p_10_what_fills_the_slot_is_the_key_alone() {
    let world = World::start().await;
    let fake = secret("api").fake;
    for rest in [
        format!("Authorization: Bearer {fake}, Bearer own\r\n"),
        format!("Authorization: Bearer own, Bearer {fake}\r\n"),
        format!("Authorization: Bearer {fake} {fake}\r\n"),
        format!("Authorization: Bearer {fake};x=y\r\n"),
        format!("Proxy-Authorization: Bearer {fake}\r\nX-Api-Key: {fake}\r\n"),
    ] {
        let answer = world.agent.send("api.test", "GET /things/1", &rest, "").await;
        assert!(matches!(answer.status, 401 | 403), "{rest}: {answer:?}");
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn p_12_what_stands_around_a_key_ends_no_line() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let world = World::start().await;
    let git = secret("git");
    // The user name is the agent's; it stays inside the base64 that it came in.
    for user in ["me\r\nX-Smuggled", "me\n", "me\0", "{key}", "me\u{e9}"] {
        let pair = STANDARD.encode(format!("{user}:{}", git.fake));
        let rest = format!("Authorization: Basic {pair}\r\n");
        let answer = world.agent.send("git.test", "GET /repo", &rest, "").await;
        assert_eq!(answer.status, 200, "{user:?}: {answer:?}");
        let got = world.origin.got().pop().expect("it arrived");
        let real = STANDARD.encode(format!("{user}:{}", git.real));
        assert_eq!(got.headers["authorization"], format!("Basic {real}"), "{user:?}");
        assert!(!got.headers.contains_key("x-smuggled"));
    }
    // A scheme is a word.
    for scheme in ["Bearer\t", "Bear er ", "Bearer: ", "{key} ", "%0d%0aX: "] {
        let rest = format!("Authorization: {scheme}{}\r\n", secret("api").fake);
        let answer = world.agent.send("api.test", "GET /things/1", &rest, "").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "fake_key_misplaced"),
            "{scheme:?}"
        );
    }
    // In a path and a query there is one hole, and what stands beside it is a path and a query.
    let bot = secret("bot");
    let beside = format!("GET /bot{}/{{key}}", bot.fake);
    let answer = world.agent.send("bot.test", &beside, "", "").await;
    if answer.status == 200 {
        assert_eq!(world.origin.got().last().unwrap().target, format!("/bot{}/{{key}}", bot.real));
    }
    let inside = format!("GET /x{}/getMe", bot.fake);
    assert_eq!(world.agent.send("bot.test", &inside, "", "").await.status, 403);
}
