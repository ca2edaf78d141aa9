//! WebSockets through the edge: the handshake is a request, and what follows is looked into.

use std::time::Duration;

use countersign_edge_gateway::config::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::agent::{Answer, Tunnel, read, read_head, request};
use crate::control::secret;
use crate::messages::{BINARY, CLOSE, PING, PONG, TEXT, code, masked, message, next, plain};
use crate::stage::{Line, head, say};
use crate::world::{World, bearer, no};

const ASKS: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A handshake, after which the caller plays the upstream.
async fn ask(world: &World, host: &str, path: &str, rest: &str) -> Tunnel {
    let mut tunnel = world.agent.tunnel(host).await;
    let handshake = request(host, &format!("GET {path}"), &format!("{ASKS}{rest}"), "");
    say(&mut tunnel, handshake).await;
    tunnel
}

fn switching(more: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n{more}\r\n"
    )
}

/// An open WebSocket: the agent's end, the upstream's end, and what the upstream and the agent were sent first.
struct Open {
    agent: Tunnel,
    line: Line,
    asked: Answer,
    answer: Answer,
}

async fn open_on(world: &World, host: &str, path: &str, rest: &str, more: &str) -> Open {
    let mut agent = ask(world, host, path, rest).await;
    let mut line = world.stage.line().await;
    let asked = head(&mut line).await;
    say(&mut line, switching(more)).await;
    let answer = read_head(&mut agent).await.expect("an answer");
    assert_eq!(answer.status, 101, "{answer:?}");
    Open { agent, line, asked, answer }
}

async fn open(world: &World) -> Open {
    open_on(world, "stage.test", "/socket", &bearer("stage"), "").await
}

#[tokio::test]
async fn the_handshake_leaves_with_the_real_key_and_frames_pass_both_ways() {
    let world = World::start().await;
    let rest = format!(
        "{}Sec-WebSocket-Protocol: chess, chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
        bearer("stage")
    );
    let more = format!(
        "Sec-WebSocket-Protocol: chat\r\nX-You-Sent: {}\r\nAlt-Svc: h3\r\n",
        secret("stage").real
    );
    let Open { mut agent, mut line, asked, answer } =
        open_on(&world, "stage.test", "/socket", &rest, &more).await;
    assert_eq!(line.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(asked.head.starts_with("GET /socket HTTP/1.1\r\n"), "{}", asked.head);
    let real = format!("Bearer {}", secret("stage").real);
    for (name, value) in [
        ("authorization", real.as_str()),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("host", "stage.test"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chess, chat"),
    ] {
        assert_eq!(asked.header(name), Some(value), "{}", asked.head);
    }
    assert_eq!(asked.header("sec-websocket-extensions"), None, "frames are to be looked into");
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(answer.header("sec-websocket-protocol"), Some("chat"));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("x-you-sent"), Some("*".repeat(24).as_str()));
    assert_eq!(answer.header("alt-svc"), None);
    world.until("countersign_edge_websockets", 1.0).await;

    let sent = [masked(TEXT, "from the agent"), masked(PING, "?"), masked(BINARY, [0; 200])];
    say(&mut agent, sent.concat()).await;
    let mut arrived = vec![0; sent.concat().len()];
    line.read_exact(&mut arrived).await.expect("frames");
    assert!(arrived == sent.concat(), "as they were, mask and all");
    say(&mut line, [plain(TEXT, "from the upstream"), plain(PONG, "?")].concat()).await;
    assert_eq!(next(&mut agent).await, Some((TEXT, b"from the upstream".to_vec())));
    assert_eq!(next(&mut agent).await, Some((PONG, b"?".to_vec())));

    let goodbye = [&4321u16.to_be_bytes()[..], b"enough"].concat();
    say(&mut agent, masked(CLOSE, &goodbye)).await;
    assert_eq!(next(&mut line).await, Some((CLOSE, goodbye.clone())));
    say(&mut line, plain(CLOSE, &goodbye)).await;
    line.shutdown().await.expect("closed");
    assert_eq!(next(&mut agent).await, Some((CLOSE, goodbye)), "its own words, and no others");
    assert_eq!(next(&mut agent).await, None);
    world.until("countersign_edge_websockets", 0.0).await;
    let ended = "countersign_edge_channels_ended_total{outcome=\"websocket_closed\"}";
    assert_eq!(world.metric(ended).await, Some(1.0));
    assert!(world.control.opened().await.is_none(), "nobody was asked");
}

#[tokio::test]
async fn n_echo_the_real_key_is_masked_in_frames_of_every_kind() {
    let world = World::start().await;
    let Open { mut agent, mut line, .. } = open(&world).await;
    let real = secret("stage").real;
    let (one, two) = real.split_at(9);
    say(&mut line, plain(TEXT, format!("you sent {real}."))).await;
    let stars = "*".repeat(real.len());
    assert_eq!(next(&mut agent).await, Some((TEXT, format!("you sent {stars}.").into_bytes())));
    say(&mut line, plain(BINARY, hex::encode(real))).await;
    let stars_in_hex = "*".repeat(2 * real.len()).into_bytes();
    assert_eq!(next(&mut agent).await, Some((BINARY, stars_in_hex)));

    // In fragments, with a control frame between them.
    let fragments = [
        plain(0x01, format!("in pieces {one}")),
        plain(PING, real),
        plain(0x80, format!("{two} done")),
    ];
    say(&mut line, fragments.concat()).await;
    let mut text = Vec::new();
    loop {
        let (first, payload) = next(&mut agent).await.expect("a frame");
        if first == PING {
            assert_eq!(payload, stars.as_bytes());
            continue;
        }
        text.extend(payload);
        if first & 0x80 != 0 {
            break;
        }
    }
    assert_eq!(text, format!("in pieces {stars} done").into_bytes());

    // What only looks like the beginning of one does not wait for the next message.
    say(&mut line, plain(TEXT, format!("ends with {one}"))).await;
    assert_eq!(next(&mut agent).await, Some((TEXT, format!("ends with {one}").into_bytes())));

    let mut last = 1000u16.to_be_bytes().to_vec();
    last.extend(real.as_bytes());
    say(&mut line, plain(CLOSE, last)).await;
    let (_, payload) = next(&mut agent).await.expect("a close frame");
    assert_eq!(&payload[2..], stars.as_bytes());
}

#[tokio::test]
async fn a_large_message_streams_through_with_its_key_masked() {
    let world = World::start().await;
    let Open { mut agent, mut line, .. } = open(&world).await;
    let real = secret("stage").real.as_bytes();
    let mut payload = vec![b'x'; 200_000];
    payload[100_000..100_000 + real.len()].copy_from_slice(real);
    let sending = tokio::spawn(async move {
        say(&mut line, plain(BINARY, &payload)).await;
        (line, payload)
    });
    let (kind, read) = message(&mut agent).await.expect("a message");
    let (_line, mut payload) = sending.await.expect("no panic");
    payload[100_000..100_000 + real.len()].fill(b'*');
    assert_eq!(kind, BINARY & 0x0f);
    assert!(read == payload);
}

#[tokio::test]
async fn p_14_a_fake_key_in_a_frame_goes_no_further_and_ends_it_with_1008() {
    let world = World::start().await;
    let Open { mut agent, mut line, .. } = open(&world).await;
    let (one, two) = secret("api").fake.split_at(10);
    let frames =
        [masked(TEXT, "first"), masked(0x01, one), masked(0x80, two), masked(TEXT, "last")];
    say(&mut agent, frames.concat()).await;
    assert_eq!(code(next(&mut agent).await), Some(1008));
    assert_eq!(next(&mut agent).await, None);
    assert_eq!(next(&mut line).await, Some((TEXT, b"first".to_vec())));
    assert_eq!(next(&mut line).await, Some((0x01, one.as_bytes().to_vec())));
    assert_eq!(code(next(&mut line).await), Some(1008), "nothing that ends the key, and no more");
    assert_eq!(next(&mut line).await, None);
    let alarm = world.control.alarm().await;
    assert_eq!(
        (alarm.kind.as_str(), alarm.credential_id.as_str()),
        ("fake_key_misplaced", "id-api")
    );
    assert!(alarm.detail.contains("in a WebSocket"), "{alarm:?}");
}

#[tokio::test]
async fn u_1_more_than_the_rule_lets_through_ends_it_with_1009() {
    let world = World::start().await;
    let Open { mut agent, mut line, .. } = open(&world).await;
    let chunk = vec![b'x'; 60_000];
    for _ in 0..5 {
        say(&mut line, plain(BINARY, &chunk)).await;
        assert_eq!(next(&mut agent).await, Some((BINARY, chunk.clone())));
    }
    // Both ways count: 300,000 bytes have come, and 307,200 may.
    say(&mut agent, masked(BINARY, &chunk[..8_000])).await;
    assert_eq!(code(next(&mut agent).await), Some(1009));
    assert_eq!(code(next(&mut line).await), Some(1009), "none of it was passed on");
    world.until("countersign_edge_websockets", 0.0).await;
    let ended = "countersign_edge_channels_ended_total{outcome=\"websocket_too_much\"}";
    assert_eq!(world.metric(ended).await, Some(1.0));
    let bytes = world.metric("countersign_edge_channel_bytes_total{kind=\"websocket\"}").await;
    assert!(bytes.is_some_and(|bytes| (300_000.0..307_200.0).contains(&bytes)), "{bytes:?}");
}

#[tokio::test]
async fn u_1_longer_than_the_rule_lets_it_be_open_ends_it_with_1001() {
    let world = World::start().await;
    let Open { mut agent, mut line, .. } = open(&world).await;
    world.hands.advance(Duration::from_secs(19 * 60));
    say(&mut line, plain(TEXT, "still there")).await;
    assert_eq!(next(&mut agent).await, Some((TEXT, b"still there".to_vec())));
    world.hands.advance(Duration::from_secs(61));
    assert_eq!(code(next(&mut agent).await), Some(1001));
    assert_eq!(code(next(&mut line).await), Some(1001));
}

#[tokio::test]
async fn u_1_what_is_held_never_becomes_a_websocket() {
    let world = World::start().await;
    for (host, path, key, rule) in [
        ("stage.test", "/asked/socket", "stage-admin", "ask first"),
        ("stage.test", "/watched", "stage", "watch who listens"),
        ("turns.test", "/socket", "one-by-one", "listen in turns"),
    ] {
        let mut agent = ask(&world, host, path, &bearer(key)).await;
        let answer = read(&mut agent).await.expect("an answer");
        assert_eq!(no(&answer), (403, "upgrade_refused".to_owned()), "{path}: {answer:?}");
        assert!(answer.body.contains(&format!("\"rule\":\"{rule}\"")), "{}", answer.body);
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
    assert!(world.stage.is_empty(), "nothing was sent");
    assert!(world.control.opened().await.is_none(), "nobody was asked");
}

#[tokio::test]
async fn u_2_without_a_rule_that_says_so_the_upgrade_stays_here() {
    let world = World::start().await;
    let mut agent = ask(&world, "open.test", "/plain", "").await;
    assert_eq!(read(&mut agent).await.expect("an answer").status, 200);
    let got = &world.origin.got()[0];
    for stripped in ["upgrade", "connection"] {
        assert!(!got.headers.contains_key(stripped), "{stripped}: {got:?}");
    }
    assert_eq!(got.headers["sec-websocket-version"], "13", "it is a request like any other");
}

#[tokio::test]
async fn u_2_what_only_looks_like_a_handshake_is_none() {
    let world = World::start().await;
    let good = ASKS.to_owned();
    let mut session = None;
    for (line, rest) in [
        ("GET /", good.replace("WebSocket\r\n", "h2c\r\n")),
        ("GET /", good.replace("Version: 13", "Version: 8")),
        ("GET /", good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short")),
        ("GET /", good.replace("keep-alive, Upgrade", "keep-alive")),
        ("POST /", good.clone()),
    ] {
        let mut agent = world.agent.tunnel("free.test").await;
        say(&mut agent, request("free.test", line, &rest, "")).await;
        let call = match session.take() {
            None => world.stage.call().await,
            Some(session) => crate::stage::Session::call(session).await,
        };
        assert!(!call.request.headers().contains_key("upgrade"), "{rest}");
        session = Some(call.session);
    }
}

#[tokio::test]
async fn u_4_a_101_that_is_not_the_answer_to_the_handshake_is_an_error() {
    let world = World::start().await;
    for (more, instead) in [
        ("", switching("").replace(ACCEPT, "AAAALMBiTxaQ9kYGzzhZRbK+xOo=")),
        ("", switching("").replace("Upgrade: websocket", "Upgrade: h2c")),
        ("", switching("Sec-WebSocket-Protocol: chat\r\n")),
        ("Sec-WebSocket-Protocol: chat\r\n", switching("Sec-WebSocket-Protocol: chess\r\n")),
        // It was taken off, so nobody asked for it.
        (
            "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            switching("Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        ),
    ] {
        let rest = format!("{}{more}", bearer("stage"));
        let mut agent = ask(&world, "stage.test", "/socket", &rest).await;
        let mut line = world.stage.line().await;
        head(&mut line).await;
        say(&mut line, &instead).await;
        let answer = read(&mut agent).await.expect("an answer");
        assert_eq!(no(&answer), (502, "upstream_failed".to_owned()), "{instead}");
        assert_eq!(next(&mut line).await, None, "and its connection is closed");
    }
    assert_eq!(world.metric("countersign_edge_websockets").await, Some(0.0));
}

#[tokio::test]
async fn an_answer_other_than_101_goes_back_as_any_other() {
    let world = World::start().await;
    let mut agent = ask(&world, "stage.test", "/socket", &bearer("stage")).await;
    let mut line = world.stage.line().await;
    head(&mut line).await;
    let real = secret("stage").real;
    let body = format!("not with {real}");
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: {length}\r\nSet-Cookie: a=b\r\n\r\n{body}"
    );
    say(&mut line, answer).await;
    let answer = read(&mut agent).await.expect("an answer");
    assert_eq!((answer.status, answer.header("set-cookie")), (401, None));
    assert_eq!(answer.body, format!("not with {}", "*".repeat(real.len())));
    assert_eq!(answer.header("upgrade"), None);
}

#[tokio::test]
async fn a_shutdown_closes_it_with_1001() {
    let world = World::start().await;
    let Open { mut agent, mut line, .. } = open(&world).await;
    let World { edge, .. } = world;
    let down = tokio::spawn(edge.shutdown());
    assert_eq!(code(next(&mut agent).await), Some(1001));
    assert_eq!(code(next(&mut line).await), Some(1001));
    assert_eq!((next(&mut agent).await, next(&mut line).await), (None, None));
    down.await.expect("it does not wait for anything else");
}

#[tokio::test]
async fn it_ends_with_1008_when_the_bundle_does_not_allow_it_any_more() {
    let world = World::start().await;
    let ended = async |change: fn(&mut countersign_proto::v1::EdgeState)| {
        let Open { mut agent, mut line, .. } = open(&world).await;
        let before = world.control.state();
        // A change that has nothing to do with it.
        world.control.change(|state| state.forbidden_destinations.push("other.test".into())).await;
        world.until("countersign_edge_bundle_revision", before.revision as f64 + 1.0).await;
        say(&mut line, plain(TEXT, "still there")).await;
        assert_eq!(next(&mut agent).await, Some((TEXT, b"still there".to_vec())));
        world.control.change(change).await;
        assert_eq!(code(next(&mut agent).await), Some(1008));
        assert_eq!(code(next(&mut line).await), Some(1008));
        world
            .control
            .change(|state| {
                let revision = state.revision;
                *state = countersign_proto::v1::EdgeState { revision, ..before.clone() };
            })
            .await;
        world.until("countersign_edge_bundle_revision", before.revision as f64 + 3.0).await;
    };
    ended(|state| {
        state.policy = state.policy.replace("max_bytes = \"300KiB\"\n", "").replacen(
            "upgrade = \"websocket\"\nmax_time = \"20m\"\n",
            "",
            1,
        )
    })
    .await;
    ended(|state| state.credentials.iter_mut().for_each(|credential| credential.version += 1))
        .await;
    ended(|state| state.agents.retain(|agent| agent.name != "robot")).await;
}

#[tokio::test]
async fn what_are_no_frames_ends_it_with_1002() {
    let world = World::start().await;
    for bytes in [
        plain(TEXT, "not masked"),
        masked(0xc1, "an extension"),
        masked(0x80, "goes on without a beginning"),
        masked(0x83, "of no kind"),
    ] {
        let Open { mut agent, mut line, .. } = open(&world).await;
        say(&mut agent, &bytes).await;
        assert_eq!(code(next(&mut agent).await), Some(1002), "{bytes:02x?}");
        assert_eq!(code(next(&mut line).await), Some(1002));
    }
    let Open { mut agent, mut line, .. } = open(&world).await;
    say(&mut line, masked(TEXT, "servers do not mask")).await;
    assert_eq!(code(next(&mut agent).await), Some(1002));
}

#[tokio::test]
async fn without_a_key_an_extension_may_be_agreed_on_and_its_frames_pass_as_they_are() {
    let world = World::start().await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let Open { mut agent, mut line, asked, .. } = open_on(
        &world,
        "free.test",
        "/",
        offer,
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    )
    .await;
    assert!(asked.header("sec-websocket-extensions").is_some());
    say(&mut line, plain(0xc1, [0xf2, 0x48, 0xcd])).await;
    assert_eq!(next(&mut agent).await, Some((0xc1, vec![0xf2, 0x48, 0xcd])));
    let sent = masked(0xc2, [1, 2, 3]);
    say(&mut agent, &sent).await;
    let mut arrived = vec![0; sent.len()];
    line.read_exact(&mut arrived).await.expect("a frame");
    assert_eq!(arrived, sent);
}

#[tokio::test]
async fn it_keeps_its_agents_seat_and_its_connections_place() {
    let limits = Limits { max_in_flight_per_agent: 1, max_connections: 2, ..Limits::default() };
    let world = World::with(limits).await;
    let Open { agent, line, .. } = open(&world).await;
    let answer = world.agent.send("open.test", "GET /", "", "").await;
    assert_eq!(no(&answer), (503, "overloaded".to_owned()));
    assert!(world.metric("countersign_edge_connections").await.is_some_and(|open| open >= 1.0));
    drop(agent);
    drop(line);
    world.until("countersign_edge_websockets", 0.0).await;
    world.until("countersign_edge_connections", 0.0).await;
    assert_eq!(world.agent.send("open.test", "GET /", "", "").await.status, 200);
}

/// Ten seconds are what a request's head may take once it has begun.
#[tokio::test]
async fn d_neither_silence_nor_half_a_frame_is_taken_for_a_head_that_dawdles() {
    let world = World::start().await;
    let Open { mut agent, mut line, .. } = open(&world).await;
    let (whole, later) = (masked(TEXT, "whole"), masked(TEXT, "the rest of it comes later"));
    let (begun, rest) = later.split_at(9);
    say(&mut agent, [&whole, begun].concat()).await;
    assert_eq!(next(&mut line).await, Some((TEXT, b"whole".to_vec())));
    let heard = tokio::time::timeout(Duration::from_secs(12), next(&mut agent)).await;
    assert!(heard.is_err(), "it is still open: {heard:?}");
    say(&mut agent, rest).await;
    assert_eq!(next(&mut line).await, Some((TEXT, b"the rest of it comes later".to_vec())));
}

#[tokio::test]
async fn d_it_stays_one_of_its_agents_connections() {
    let limits = Limits { max_connections_per_agent: 1, ..Limits::default() };
    let world = World::with(limits).await;
    let Open { agent, line, .. } = open(&world).await;
    let (refused, _) = world.agent.ask_for("open.test:443").await;
    assert_eq!(refused.status, 503);
    world.another_is_served().await;
    drop((agent, line));
    world.until("countersign_edge_connections", 0.0).await;
    assert_eq!(world.agent.ask_for("open.test:443").await.0.status, 200);
}
