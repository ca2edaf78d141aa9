//! HTTP/2 on the agent's side and HTTP/1.1 on the upstream's: what the one can say and the other would take for more.

use tokio::io::AsyncWriteExt as _;

use crate::agent::Tunnel;
use crate::wire::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, SETTINGS, block, frame,
    preface,
};
use crate::world::World;

/// A connection of bare frames, and the settings that the edge sent.
async fn connected(world: &World) -> (Tunnel, Vec<u8>) {
    let mut tunnel =
        world.agent.tunnel_with("open.test", "open.test", &[b"h2"]).await.expect("a tunnel");
    tunnel.write_all(&preface()).await.expect("written");
    let settings = Frame::next(&mut tunnel).await.expect("settings");
    assert_eq!((settings.kind, settings.flags & ACK), (SETTINGS, 0));
    tunnel.write_all(&frame(SETTINGS, ACK, 0, &[])).await.expect("written");
    (tunnel, settings.payload)
}

/// What becomes of stream 1.
#[derive(Debug, PartialEq, Eq)]
enum Became {
    Answered,
    Refused,
}

async fn became(tunnel: &mut Tunnel) -> Became {
    loop {
        match Frame::next(tunnel).await {
            None => return Became::Refused,
            Some(frame) => match frame.kind {
                GOAWAY => return Became::Refused,
                RST_STREAM if frame.stream == 1 => return Became::Refused,
                // RFC 7541 appendix A: 0x88 is `:status: 200`.
                HEADERS if frame.stream == 1 && frame.payload.first() == Some(&0x88) => {
                    return Became::Answered;
                }
                HEADERS if frame.stream == 1 => return Became::Refused,
                _ => {}
            },
        }
    }
}

/// Sends one request as it is, and says what became of it.
async fn ask(world: &World, fields: &[(&str, &str)], body: Option<&[u8]>) -> Became {
    let (mut tunnel, _) = connected(world).await;
    let end = if body.is_none() { END_STREAM } else { 0 };
    let mut bytes = frame(HEADERS, END_HEADERS | end, 1, &block(fields));
    if let Some(body) = body {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    tunnel.write_all(&bytes).await.expect("written");
    became(&mut tunnel).await
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "open.test"), (":path", "/x")];

/// GET with these fields instead or besides.
fn with<'a>(changed: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = GET.to_vec();
    for (name, value) in changed {
        match fields.iter_mut().find(|(known, _)| known == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    fields
}

#[tokio::test]
async fn u_3_extended_connect_is_neither_offered_nor_taken() {
    let world = World::start().await;
    let (mut tunnel, settings) = connected(&world).await;
    // RFC 8441 §3: SETTINGS_ENABLE_CONNECT_PROTOCOL is 8.
    assert!(settings.chunks(6).all(|setting| setting[..2] != [0, 8]), "{settings:02x?}");
    for protocol in ["websocket", "webtransport", "connect-udp"] {
        let fields = [
            (":method", "CONNECT"),
            (":protocol", protocol),
            (":scheme", "https"),
            (":authority", "open.test"),
            (":path", "/socket"),
            ("sec-websocket-version", "13"),
        ];
        let bytes = frame(HEADERS, END_HEADERS, 1, &block(&fields));
        tunnel.write_all(&bytes).await.expect("written");
        assert_eq!(became(&mut tunnel).await, Became::Refused, "{protocol}");
        (tunnel, _) = connected(&world).await;
    }
    // A plain CONNECT within the tunnel is no request that can be forwarded either.
    let plain = [(":method", "CONNECT"), (":authority", "open.test:443")];
    let bytes = frame(HEADERS, END_HEADERS, 1, &block(&plain));
    tunnel.write_all(&bytes).await.expect("written");
    let _ = became(&mut tunnel).await;
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn u_6_what_http_2_can_say_is_never_more_than_one_request_in_http_1() {
    let world = World::start().await;
    assert_eq!(ask(&world, &GET, None).await, Became::Answered, "the frames are good ones");
    assert_eq!(world.origin.got().len(), 1);
    let smuggled = "/x HTTP/1.1\r\nHost: evil.test\r\n\r\nGET /smuggled";
    for changed in [
        &[(":path", smuggled)][..],
        &[(":path", "/x\r\nx-evil: 1")],
        &[(":path", "/x y")],
        &[(":path", "x")],
        &[(":path", "")],
        &[(":method", "GET /smuggled HTTP/1.1\r\n\r\nGET")],
        &[(":method", "GET /")],
        &[(":authority", "open.test\r\nx-evil: 1")],
        &[(":scheme", "https\r\n")],
        &[("x-one", "a\r\nx-evil: 1")],
        &[("x-one", "a\nb")],
        &[("x-one", "a\0b")],
        &[("x-one", " a")],
        &[("x-one", "a ")],
        &[("x-one", "\ta")],
        &[("x-one", " ")],
        &[("x-one\r\nx-evil", "1")],
        &[("x one", "1")],
        &[("x-one:", "1")],
        &[("X-One", "1")],
        &[("connection", "keep-alive")],
        &[("transfer-encoding", "chunked")],
        &[("upgrade", "websocket")],
        &[("te", "chunked")],
        &[("", "1")],
    ] {
        assert_eq!(ask(&world, &with(changed), None).await, Became::Refused, "{changed:?}");
    }
    assert_eq!(world.origin.got().len(), 1, "none of it arrived");
}

#[tokio::test]
async fn u_6_a_length_that_lies_is_refused() {
    let world = World::start().await;
    let post = |length: &'static str| with(&[(":method", "POST"), ("content-length", length)]);
    assert_eq!(ask(&world, &post("4"), Some(b"body")).await, Became::Answered);
    for length in ["3", "5", "0"] {
        // The edge may have begun to answer that it was refused.
        let _ = ask(&world, &post(length), Some(b"body")).await;
    }
    let got = world.origin.got();
    let whole: Vec<_> = got.iter().filter(|got| got.method == "POST").collect();
    assert_eq!(whole.len(), 1, "{whole:?}");
    assert_eq!(
        (&whole[0].headers["content-length"], &whole[0].body[..]),
        (&"4".parse().expect("a value"), &b"body"[..])
    );
}

#[tokio::test]
async fn u_6_pseudo_fields_in_the_wrong_place_and_twice_are_refused() {
    let world = World::start().await;
    let twice = [GET.as_slice(), &[(":path", "/smuggled")]].concat();
    let late = [&GET[..3], &[("x-one", "1"), (":path", "/smuggled")]].concat();
    let strange = [GET.as_slice(), &[(":strange", "1")]].concat();
    for fields in [twice, late, strange] {
        assert_eq!(ask(&world, &fields, None).await, Became::Refused, "{fields:?}");
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn b_6_trailers_of_a_request_over_http_2_stay_here() {
    let world = World::start().await;
    let (mut tunnel, _) = connected(&world).await;
    let post = with(&[(":method", "POST"), ("trailer", "authorization")]);
    let trailers = [("authorization", "Bearer smuggled"), ("x-late", "1")];
    let bytes = [
        frame(HEADERS, END_HEADERS, 1, &block(&post)),
        frame(DATA, 0, 1, b"body"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&trailers)),
    ];
    tunnel.write_all(&bytes.concat()).await.expect("written");
    assert_eq!(became(&mut tunnel).await, Became::Answered);
    let got = &world.origin.got()[0];
    assert_eq!(&got.body[..], b"body");
    for name in ["authorization", "x-late", "trailer"] {
        assert!(!got.headers.contains_key(name), "{name}: {got:?}");
    }
}
