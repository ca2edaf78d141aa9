//! Clients that dawdle, and clients that flood: each is cut off or refused, and another agent is served meanwhile. How much
//! slower it is served is what `./tests/bench floods` measures.

use std::time::{Duration, Instant};

use countersign_edge_gateway::config::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::agent::{Tunnel, read, request, send};
use crate::process::Process;
use crate::raw::script;
use crate::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Heard, PING, PRIORITY, RST_STREAM,
    SETTINGS, Wire, block, frame, get,
};
use crate::world::{Setup, World, bearer, no};

/// Of RFC 9113 §7.
const REFUSED_STREAM: u32 = 0x7;
const ENHANCE_YOUR_CALM: u32 = 0xb;
/// By then whoever dawdles has been sent away: ten seconds are allowed.
const SENT_AWAY: Duration = Duration::from_secs(20);

/// Writes a byte every 200 ms until the other side closes; how long that took.
async fn drip(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
) -> Duration {
    let began = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    let mut heard = [0; 4096];
    let dripping = async {
        loop {
            tokio::select! {
                _ = pace.tick() => {
                    if stream.write_all(b"x").await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
                got = stream.read(&mut heard) => {
                    if !got.is_ok_and(|count| count > 0) {
                        return;
                    }
                }
            }
        }
    };
    tokio::time::timeout(SENT_AWAY, dripping).await.expect("it is sent away");
    began.elapsed()
}

#[tokio::test]
async fn d_slowloris_at_the_door_is_sent_away_and_keeps_nobody_out() {
    let world = World::with(Limits { max_connections: 40, ..Limits::default() }).await;
    let mut silent: Vec<TcpStream> = Vec::new();
    let authorization = world.agent.authorization();
    for number in 0..120 {
        let mut stream = world.agent.connect().await;
        let half = format!("CONNECT open.test:443 HTTP/1.1\r\n{}", authorization.trim_end());
        if number % 2 == 0 {
            let _ = stream.write_all(half.as_bytes()).await;
        }
        silent.push(stream);
        if number % 30 == 0 {
            world.another_is_served().await;
        }
    }
    world.another_is_served().await;
    // A quarter of the places is theirs; the first that came were the first that went.
    let mut nothing = Vec::new();
    let gone = silent[0].read_to_end(&mut nothing);
    let _ =
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("it is sent away at once");
    let last = silent.last_mut().expect("the last");
    let took = drip(last).await;
    assert!(took >= Duration::from_secs(5), "it had its ten seconds: {took:?}");
    world.another_is_served().await;
    assert!(world.origin.got().iter().all(|got| got.target == "/of-another"));
}

#[tokio::test]
async fn d_slowloris_inside_a_tunnel_is_sent_away_and_silence_between_requests_is_not() {
    let world = World::start().await;
    let mut idle = world.agent.tunnel("open.test").await;
    assert_eq!(send(&mut idle, "open.test", "GET /1", "", "").await.status, 200);
    let mut slow = world.agent.tunnel("open.test").await;
    assert_eq!(send(&mut slow, "open.test", "GET /2", "", "").await.status, 200);
    slow.write_all(b"GET /never HTTP/1.1\r\nHost: open.test\r\nX: ").await.expect("written");
    world.another_is_served().await;
    drip(&mut slow).await;
    assert_eq!(send(&mut idle, "open.test", "GET /3", "", "").await.status, 200);
    assert!(world.origin.got().iter().all(|got| got.target != "/never"));
}

#[tokio::test]
async fn d_slowloris_over_http_2_is_sent_away() {
    let world = World::start().await;
    let silent = Wire::silent(&world.agent, "open.test").await;
    let mut half_a_preface = Wire::silent(&world.agent, "open.test").await;
    half_a_preface.write_all(b"PRI * HTTP/2.0\r\n").await.expect("written");
    let mut half_a_block = Wire::open(&world.agent, "open.test").await;
    half_a_block.send(&frame(HEADERS, END_STREAM, 1, &block(&get("open.test", "/never")))).await;
    let mut half_a_frame = Wire::open(&world.agent, "open.test").await;
    let whole = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&get("open.test", "/never")));
    half_a_frame.send(&whole[..whole.len() / 2]).await;
    let mut idle = Wire::open(&world.agent, "open.test").await;
    assert!(idle.ask(1, &get("open.test", "/1")).await.is_ok());
    world.another_is_served().await;
    let ended = async |mut tunnel: Tunnel| {
        let mut heard = Vec::new();
        let ended = tunnel.read_to_end(&mut heard);
        let _ = tokio::time::timeout(SENT_AWAY, ended).await.expect("it is sent away");
    };
    tokio::join!(ended(silent), ended(half_a_preface), half_a_block.end(), half_a_frame.end(),);
    assert!(
        idle.ask(3, &get("open.test", "/3")).await.is_ok(),
        "who says nothing between requests stays"
    );
    assert!(world.origin.got().iter().all(|got| got.target != "/never"));
}

#[tokio::test]
async fn d_a_body_that_comes_too_slowly_is_408_and_opens_nothing() {
    let world = World::start().await;
    let slow = async |host: &'static str, line: &str, key: &str| {
        let mut tunnel = world.agent.tunnel(host).await;
        let head =
            format!("{line} HTTP/1.1\r\nHost: {host}\r\n{key}Content-Length: 100000\r\n\r\n");
        tunnel.write_all(head.as_bytes()).await.expect("written");
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        let answer = async {
            let (mut reading, mut writing) = tokio::io::split(&mut tunnel);
            let dripping = async {
                loop {
                    pace.tick().await;
                    if writing.write_all(b"x").await.is_err() || writing.flush().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let mut head = Vec::new();
            let answered = async {
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(reading.read_u8().await.expect("an answer"));
                }
            };
            tokio::select! {
                _ = dripping => {}
                () = answered => {}
            }
            String::from_utf8_lossy(&head).into_owned()
        };
        tokio::time::timeout(SENT_AWAY, answer).await.expect("it is answered")
    };
    let admin = bearer("api-admin");
    let (held, passing, _) = tokio::join!(
        slow("api.test", "POST /refunds", &admin),
        slow("open.test", "POST /x", ""),
        world.another_is_served(),
    );
    assert!(held.starts_with("HTTP/1.1 408 "), "{held}");
    assert!(passing.starts_with("HTTP/1.1 408 "), "{passing}");
    assert!(world.control.opened().await.is_none(), "nobody is asked about half a body");
    assert!(
        world.origin.got().iter().all(|got| got.target == "/of-another"),
        "no half of a body is a request"
    );
}

#[tokio::test]
async fn d_heads_have_their_limits() {
    let world = World::start().await;
    let long = "a".repeat(8 * 1024);
    let many: String = (0..99).map(|n| format!("X-{n}: 1\r\n")).collect();
    for (name, line, rest, status) in [
        ("a hundred headers", "GET /1", many.clone(), 200),
        ("101 headers", "GET /", format!("{many}X-99: 1\r\n"), 431),
        ("a header of more than 8 KiB", "GET /", format!("X: {long}\r\n"), 431),
        ("a header of almost 8 KiB", "GET /2", format!("X: {}\r\n", &long[..8_000]), 200),
        ("a path of more than 8 KiB", &format!("GET /{long}"), String::new(), 431),
        ("a query of more than 8 KiB", &format!("GET /?{long}"), String::new(), 431),
        ("64 KiB of headers", "GET /", format!("X: {}\r\n", &long[..7_000]).repeat(10), 431),
    ] {
        let mut tunnel = world.agent.tunnel("open.test").await;
        let _ = tunnel.write_all(request("open.test", line, &rest, "").as_bytes()).await;
        let answer = read(&mut tunnel).await.unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(answer.status, status, "{name}: {answer:?}");
    }
    world.another_is_served().await;
    let targets: Vec<String> = world.origin.got().into_iter().map(|got| got.target).collect();
    assert_eq!(targets, ["/1", "/2", "/of-another"]);
}

#[tokio::test]
async fn d_heads_have_their_limits_over_http_2_too() {
    let world = World::start().await;
    let long = "a".repeat(8 * 1024);
    let names: Vec<String> = (0..1_500).map(|n| format!("x-{n}")).collect();
    let with = |count: usize| -> Vec<(&str, &str)> {
        get("open.test", "/x")
            .into_iter()
            .chain(names[..count].iter().map(|n| (n.as_str(), "1")))
            .collect()
    };
    let mut wire = Wire::open(&world.agent, "open.test").await;
    assert!(wire.ask(1, &with(99)).await.is_ok());
    assert_eq!(wire.ask(3, &with(101)).await.code(), "head_too_large");
    let mut one = get("open.test", "/x");
    one.push(("x", &long));
    assert_eq!(wire.ask(5, &one).await.code(), "head_too_large");
    assert!(wire.ask(7, &with(1)).await.is_ok(), "the connection goes on");
    // 64 KiB and more: HTTP/2's own limit, told to the client in its settings.
    let mut wire = Wire::open(&world.agent, "open.test").await;
    let values: Vec<String> = (0..12).map(|_| "a".repeat(7_000)).collect();
    let mut large = get("open.test", "/x");
    large.extend(values.iter().map(|value| ("x", value.as_str())));
    let block = block(&large);
    let (first, rest) = block.split_at(16_000);
    wire.send(&frame(HEADERS, END_STREAM, 1, first)).await;
    let count = rest.chunks(16_000).count();
    for (number, piece) in rest.chunks(16_000).enumerate() {
        let flags = if number + 1 == count { END_HEADERS } else { 0 };
        wire.send(&frame(CONTINUATION, flags, 1, piece)).await;
    }
    let heard = wire.hear(1).await;
    assert!(!heard.is_ok(), "{heard:?}");
    world.another_is_served().await;
    assert_eq!(world.origin.got().len(), 3);
}

#[tokio::test]
async fn d_256_streams_are_open_at_a_time() {
    let world = World::start().await;
    let mut wire = Wire::open(&world.agent, "open.test").await;
    let mut heads = Vec::new();
    for number in 0..257u32 {
        heads.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1 + 2 * number,
            &block(&get("open.test", "/slow")),
        ));
    }
    wire.send(&heads).await;
    assert_eq!(wire.hear(1 + 2 * 256).await, Heard::Reset(REFUSED_STREAM));
    world.another_is_served().await;
    assert!(world.origin.got().len() <= 33, "one agent has 32 requests in flight");
}

/// What the edge does to a connection that it is sick of: GOAWAY, and the end, without another word.
async fn is_ended(world: &World, mut wire: Wire, flood: Vec<u8>, codes: &[u32]) {
    let began = Instant::now();
    wire.send(&flood).await;
    let goodbye = wire.end().await;
    assert!(goodbye.is_none_or(|code| codes.contains(&code)), "{goodbye:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    world.another_is_served().await;
}

#[tokio::test]
async fn d_rapid_reset_ends_the_connection() {
    let world = World::start().await;
    let mut flood = Vec::new();
    for number in 0..5_000u32 {
        let stream = 1 + 2 * number;
        flood.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &block(&get("open.test", "/slow")),
        ));
        flood.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    let wire = Wire::open(&world.agent, "open.test").await;
    is_ended(&world, wire, flood, &[0, ENHANCE_YOUR_CALM]).await;
    assert!(
        world.origin.got().len() < 300,
        "{} of them reached the upstream",
        world.origin.got().len()
    );
}

#[tokio::test]
async fn d_whoever_gives_up_what_is_open_goes_on() {
    let world = World::start().await;
    let mut wire = Wire::open(&world.agent, "open.test").await;
    for number in 0..10u32 {
        wire.send(&frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1 + 2 * number,
            &block(&get("open.test", "/slow")),
        ))
        .await;
    }
    world.origin.reached().await;
    for number in 0..10u32 {
        wire.send(&frame(RST_STREAM, 0, 1 + 2 * number, &8u32.to_be_bytes())).await;
    }
    assert!(wire.ask(101, &get("open.test", "/after")).await.is_ok());
}

#[tokio::test]
async fn d_frames_that_ask_for_nothing_end_the_connection() {
    let world = World::start().await;
    let empty_data = [
        frame(
            HEADERS,
            END_HEADERS,
            1,
            &block(&{
                let mut fields = get("open.test", "/x");
                fields[0].1 = "POST";
                fields
            }),
        ),
        frame(DATA, 0, 1, &[]).repeat(20_000),
    ]
    .concat();
    for (name, flood) in [
        ("pings", frame(PING, 0, 0, &[0; 8]).repeat(20_000)),
        ("answers to pings that nobody sent", frame(PING, 1, 0, &[0; 8]).repeat(20_000)),
        ("settings", frame(SETTINGS, 0, 0, &[]).repeat(20_000)),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16]).repeat(20_000)),
        ("frames of no known type", frame(0xbe, 0, 0, &[]).repeat(20_000)),
        ("empty data", empty_data),
    ] {
        println!("{name}");
        let wire = Wire::open(&world.agent, "open.test").await;
        is_ended(&world, wire, flood, &[0, 1, ENHANCE_YOUR_CALM]).await;
    }
}

#[tokio::test]
async fn d_whoever_is_cut_off_again_and_again_opens_tunnels_one_by_one() {
    let world = World::start().await;
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(5_000);
    let begun = Instant::now();
    let cut_off = (0..17).map(async |_| {
        let mut wire = Wire::open(&world.agent, "open.test").await;
        wire.send(&pings).await;
        assert!(wire.hear(1).await.is_refused());
    });
    futures::future::join_all(cut_off).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "until then it opens them as it likes");
    let begun = Instant::now();
    for _ in 0..3 {
        let mut wire = Wire::open(&world.agent, "open.test").await;
        assert!(wire.ask(1, &get("open.test", "/x")).await.is_ok(), "it is served all the same");
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    let begun = Instant::now();
    world.another_is_served().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "another agent waits for nothing of it");
}

#[tokio::test]
async fn d_a_flood_of_continuations_ends_the_connection() {
    let world = World::start().await;
    let begun = frame(HEADERS, END_STREAM, 1, &block(&get("open.test", "/x")));
    let flood = [begun.clone(), frame(CONTINUATION, 0, 1, &[]).repeat(10_000)].concat();
    let wire = Wire::open(&world.agent, "open.test").await;
    is_ended(&world, wire, flood, &[1, ENHANCE_YOUR_CALM]).await;
    let fields = block(&[("x-y", &"z".repeat(1_000))]);
    let flood = [begun, frame(CONTINUATION, 0, 1, &fields).repeat(10_000)].concat();
    let wire = Wire::open(&world.agent, "open.test").await;
    is_ended(&world, wire, flood, &[1, ENHANCE_YOUR_CALM]).await;
    assert!(world.origin.got().iter().all(|got| got.target == "/of-another"));
}

#[tokio::test]
async fn d_an_hpack_bomb_is_not_opened() {
    let world = World::start().await;
    let mut wire = Wire::open(&world.agent, "open.test").await;
    // One field of 3 KiB goes into the table, and then a byte stands for it, 15,000 times: 45 MiB.
    let mut bomb = block(&get("open.test", "/bomb"));
    bomb.push(0x40);
    bomb.extend([1, b'x', 127]);
    let rest: u32 = 3_000 - 127;
    bomb.extend([(rest % 128) as u8 | 128, (rest / 128) as u8]);
    bomb.extend([b'y'; 3_000]);
    bomb.extend([0xbe; 12_000]);
    wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await;
    let heard = wire.hear(1).await;
    assert!(!heard.is_ok(), "{heard:?}");
    world.another_is_served().await;
    assert!(world.origin.got().iter().all(|got| got.target == "/of-another"));
}

#[tokio::test]
async fn n_18_ten_thousand_names_cost_sixty_certificates() {
    let world = World::start().await;
    let ask = |number: usize| {
        let authorization = world.agent.authorization();
        format!(
            "CONNECT h{number}.stray.test:443 HTTP/1.1\r\nHost: h{number}.stray.test:443\r\n{authorization}\r\n"
        )
    };
    for number in 0..60 {
        let mut stream = world.agent.connect().await;
        stream.write_all(ask(number).as_bytes()).await.expect("written");
        assert_eq!(
            crate::agent::read_head(&mut stream).await.expect("an answer").status,
            200,
            "{number}"
        );
    }
    // What is refused leaves the connection as it is. However many ask at once, the agent hears a thousand a second.
    let begun = Instant::now();
    let refused = (0..100).map(async |connection| {
        let mut stream = world.agent.connect().await;
        for number in (60..10_000).skip(connection).step_by(100) {
            stream.write_all(ask(number).as_bytes()).await.expect("written");
            let answer = read(&mut stream).await.expect("an answer");
            assert_eq!(no(&answer), (403, "policy_denied".into()), "{number}");
        }
    });
    futures::future::join_all(refused).await;
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
    world.another_is_served().await;
    assert_eq!(
        world.agent.send("open.test", "GET /", "", "").await.status,
        200,
        "hosts that rules name are served"
    );
}

#[tokio::test]
async fn n_18_names_under_a_wildcard_have_their_limit_too() {
    let rules = "[[rule]]\nname = \"wild\"\nhost = \"*.wild.test\"\nthen = \"allow\"\n".to_owned();
    let limits = Limits { max_connections_per_agent: 10_000, ..Limits::default() };
    let world = Setup { rules, limits, ..Setup::default() }.start().await;
    let mut refused = None;
    for number in 0..700 {
        let (answer, _) = world.agent.ask_for(&format!("h{number}.wild.test:443")).await;
        if answer.status != 200 {
            refused = Some((number, answer.status));
            break;
        }
    }
    assert_eq!(refused, Some((600, 503)));
    world.another_is_served().await;
}

#[tokio::test]
async fn d_requests_beyond_those_in_flight_wait_for_their_turn_and_not_without_end() {
    let limits = Limits { max_in_flight_per_agent: 2, ..Limits::default() };
    let world = World::with(limits).await;
    let mut wires = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::open(&world.agent, "open.test").await;
        for number in 0..129u32 {
            let head = block(&get("open.test", "/slow"));
            wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * number, &head)).await;
        }
        wires.push(wire);
    }
    // Two are in flight and 256 wait: one more is refused, once all of these have come.
    let mut third = Wire::open(&world.agent, "open.test").await;
    let heard = third.ask(1, &get("open.test", "/one-more")).await;
    assert_eq!(heard.code(), "overloaded");
    world.another_is_served().await;
    assert_eq!(world.origin.got().iter().filter(|got| got.target == "/slow").count(), 2);
    // Those that go make room for those that wait.
    drop(wires);
    let served = third.ask(3, &get("open.test", "/later")).await;
    assert!(served.is_ok(), "{served:?}");
}

#[tokio::test]
async fn d_a_request_keeps_its_seat_until_its_answer_is_over() {
    let (say_more, more) = tokio::sync::watch::channel(false);
    let acts = script(move |mut line| {
        let mut more = more.clone();
        async move {
            while let Some(head) = line.head().await {
                line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
                if head.contains("/long") {
                    let _ = more.wait_for(|more| *more).await;
                }
                line.say("world").await;
            }
        }
    });
    let limits = Limits { max_in_flight_per_agent: 1, ..Limits::default() };
    let world = Setup { raw: Some(acts), limits, ..Setup::default() }.start().await;
    let mut long = world.agent.tunnel("open.test").await;
    long.write_all(request("open.test", "GET /long", "", "").as_bytes()).await.expect("written");
    assert_eq!(crate::agent::read_head(&mut long).await.expect("a head").status, 200);
    let agent = world.agent.clone();
    let waiting = tokio::spawn(async move { agent.send("open.test", "GET /", "", "").await });
    world.another_is_served().await;
    assert!(!waiting.is_finished(), "it waits for the seat");
    say_more.send_replace(true);
    let mut body = [0; 10];
    long.read_exact(&mut body).await.expect("the whole answer");
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn d_sixteen_requests_of_one_agent_wait_for_people() {
    let world = World::start().await;
    let held: Vec<_> = (0..16).map(|_| world.ask(30)).collect();
    let mut opens = Vec::new();
    for _ in 0..16 {
        opens.push(world.control.open().await);
    }
    let answer = world.ask(30).await.expect("no panic");
    assert_eq!(no(&answer), (503, "overloaded".into()));
    assert!(world.control.opened().await.is_none(), "nobody was asked about one more");
    // What the policy allows, with a key that comes with a decision, waits for no people.
    assert_eq!(world.agent.send("single.test", "GET /", &bearer("single"), "").await.status, 200);
    assert!(world.control.open().await.head.allowed);
    world.another_is_served().await;
    world.control.release(&opens[0]).await;
    let (answer, _, _rest) = futures::future::select_all(held).await;
    assert_eq!(answer.expect("no panic").status, 200);
    let _again = world.ask(30);
    world.control.open().await;
}

#[tokio::test]
async fn d_an_agents_bodies_take_so_many_bytes() {
    let limits = Limits { max_spooled_bytes_per_agent: 10_000, ..Limits::default() };
    let world = World::with(limits).await;
    let refund = |bytes: usize| {
        let (agent, body) = (world.agent.clone(), "x".repeat(bytes));
        let key = bearer("api-admin");
        tokio::spawn(async move { agent.send("api.test", "POST /refunds", &key, &body).await })
    };
    let first = refund(9_000);
    let open = world.control.open().await;
    let answer = refund(1_001).await.expect("no panic");
    assert_eq!(no(&answer), (503, "overloaded".into()));
    let second = refund(1_000);
    let small = world.control.open().await;
    world.another_is_served().await;
    world.control.release(&open).await;
    world.control.release(&small).await;
    assert_eq!(first.await.expect("no panic").status, 200);
    assert_eq!(second.await.expect("no panic").status, 200);
    let third = refund(9_000);
    let open = world.control.open().await;
    world.control.release(&open).await;
    assert_eq!(third.await.expect("no panic").status, 200, "what was sent takes none any more");
}

#[tokio::test]
async fn d_an_agent_has_so_many_connections() {
    let limits = Limits { max_connections_per_agent: 2, ..Limits::default() };
    let world = World::with(limits).await;
    let first = world.agent.tunnel("open.test").await;
    let _second = world.agent.tunnel("open.test").await;
    let (third, _) = world.agent.ask_for("open.test:443").await;
    assert_eq!(third.status, 503);
    world.another_is_served().await;
    drop(first);
    let began = Instant::now();
    while world.agent.ask_for("open.test:443").await.0.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(10), "its place is free again");
    }
}

#[tokio::test]
async fn b_5_a_body_that_is_a_bomb_is_not_opened() {
    use std::io::Write as _;
    let rules = "[[rule]]\nname = \"small\"\nhost = \"open.test\"\npath = \"/judged\"\nwhen = \"body.json.a == 1\"\nthen = \"deny\"\n";
    let world = Setup { rules: rules.into(), ..Setup::default() }.start().await;
    let bomb = |layers: usize| {
        let mut bytes = vec![b' '; 32 * 1024 * 1024];
        for _ in 0..layers {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(&bytes).expect("memory takes everything");
            bytes = encoder.finish().expect("memory takes everything");
        }
        bytes
    };
    for (coding, layers) in [("gzip", 1), ("gzip, gzip", 2), ("gzip, gzip, gzip", 3)] {
        let bytes = bomb(layers);
        let mut tunnel = world.agent.tunnel("open.test").await;
        let head = format!(
            "POST /judged HTTP/1.1\r\nHost: open.test\r\nContent-Type: application/json\r\nContent-Encoding: {coding}\r\n\
             Content-Length: {}\r\n\r\n",
            bytes.len()
        );
        tunnel.write_all(&[head.as_bytes(), &bytes].concat()).await.expect("written");
        let answer = read(&mut tunnel).await.expect("an answer");
        assert_eq!(
            no(&answer),
            (403, "policy_denied".into()),
            "what is not opened meets the rule that denies"
        );
    }
    world.another_is_served().await;
    assert!(!format!("{:?}", world.origin.got()).contains("/judged"));
}

/// All of them against an edge that is a process of its own, so that its memory can be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_no_flood_takes_memory_without_end() {
    const MIB: u64 = 1024 * 1024;
    let process = Process::start().await;
    let asks = |stream: u32| {
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get("open.test", "/x")))
    };
    let resets: Vec<u8> = (0..2_000u32)
        .flat_map(|n| {
            [asks(1 + 2 * n), frame(RST_STREAM, 0, 1 + 2 * n, &8u32.to_be_bytes())].concat()
        })
        .collect();
    let begun = frame(HEADERS, END_STREAM, 1, &block(&get("open.test", "/x")));
    let mut bomb = block(&get("open.test", "/x"));
    bomb.extend([0x40, 1, b'x', 127, 0xb9, 0x16]);
    bomb.extend([b'y'; 3_000]);
    bomb.extend([0xbe; 12_000]);
    let floods = [
        resets,
        frame(PING, 0, 0, &[0; 8]).repeat(20_000),
        frame(SETTINGS, 0, 0, &[]).repeat(20_000),
        [begun, frame(CONTINUATION, 0, 1, &block(&[("x-y", &"z".repeat(1_000))])).repeat(2_000)]
            .concat(),
        (0..50u32)
            .flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * n, &bomb))
            .collect(),
    ];
    let round = async || {
        for flood in &floods {
            let mut wire = Wire::open(&process.agent, "open.test").await;
            let _ = tokio::time::timeout(Duration::from_secs(5), wire.send(flood)).await;
        }
        for number in 0..20 {
            let (answer, _) = process.agent.ask_for(&format!("h{number}.stray.test:443")).await;
            assert!(matches!(answer.status, 200 | 403), "{answer:?}");
        }
    };
    round().await;
    let before = process.resident();
    for _ in 0..10 {
        round().await;
    }
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 32 * MIB, "{} MiB more after ten rounds", grown / MIB);
    // Sixty-four mebibytes of one agent's bodies, whatever it sends.
    let body = "x".repeat(8 * 1024 * 1024 - 1);
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (agent, body) = (process.agent.clone(), body.clone());
        held.spawn(async move {
            // What is refused may be cut off before all of it was written.
            let mut tunnel = agent.tunnel("api.test").await;
            let text = request("api.test", "POST /refunds", &bearer("api-admin"), &body);
            tunnel.write_all(text.as_bytes()).await?;
            read(&mut tunnel).await
        });
    }
    let mut opened = 0;
    let mut refused = 0;
    while opened + refused < 12 {
        tokio::select! {
            _ = process.control.open() => opened += 1,
            Some(answer) = held.join_next() => {
                if let Ok(answer) = answer.expect("no panic") {
                    assert_eq!(no(&answer), (503, "overloaded".into()));
                }
                refused += 1;
            }
        }
    }
    assert!(opened <= 8 && refused >= 4, "{opened} are held, {refused} refused");
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 256 * MIB, "{} MiB more with {opened} bodies of 8 MiB", grown / MIB);
}
