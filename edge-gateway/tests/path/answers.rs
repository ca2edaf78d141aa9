//! What a hostile upstream answers, at the agent's end of the edge: no key, no cookie, no wedge, and no memory without end.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::agent::{Tunnel, read, read_head, request, send};
use crate::control::secret;
use crate::process::Process;
use crate::raw::{always, script};
use crate::world::{Setup, World, bearer, no};

const MIB: u64 = 1024 * 1024;

/// Everything that comes back until the connection ends or is silent for a while.
async fn everything(tunnel: &mut Tunnel) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while let Ok(Ok(count)) =
        tokio::time::timeout(Duration::from_millis(500), tunnel.read(&mut buffer)).await
    {
        if count == 0 {
            break;
        }
        all.extend_from_slice(&buffer[..count]);
    }
    all
}

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn n_redir_no_redirect_is_followed_and_none_carries_the_key() {
    let real = secret("api").real;
    for (head, status) in [
        (format!("301 Moved Permanently\r\nLocation: https://evil.test/?k={real}"), 301),
        (format!("302 Found\r\nLocation: //evil.test/{real}"), 302),
        (format!("303 See Other\r\nLocation: https://{real}@evil.test/"), 303),
        (format!("307 Temporary Redirect\r\nLocation: https://evil.test/#{real}"), 307),
        (
            format!(
                "308 Permanent Redirect\r\nLocation: https://evil.test/{}",
                STANDARD.encode(real)
            ),
            308,
        ),
        (format!("200 OK\r\nRefresh: 0; url=https://evil.test/?k={real}"), 200),
        (format!("200 OK\r\nLink: <https://evil.test/{real}>; rel=preload"), 200),
        (format!("200 OK\r\nContent-Location: https://evil.test/{real}"), 200),
    ] {
        let world = World::against(always(answer(&head, "go there"))).await;
        for (line, body) in [("GET /things/1", ""), ("POST /things/1", "a body to be sent again")] {
            let got = world.agent.send("api.test", line, &bearer("api"), body).await;
            assert_eq!(got.status, status, "it is the client's to follow");
            assert!(got.head.contains("evil.test"), "as it came, save for the key: {}", got.head);
            for spelling in [real.to_owned(), STANDARD.encode(real), hex::encode(real)] {
                assert!(!got.head.contains(&spelling), "{}", got.head);
            }
        }
        assert!(
            world.raw.as_ref().expect("an upstream").connections() <= 2,
            "nothing else was dialled"
        );
    }
    // A client that follows, as clients do, has its fake key alone, and with that it is refused there.
    let world = World::start().await;
    let followed = world.agent.send("open.test", "GET /?k=1", &bearer("api"), "").await;
    assert_eq!(no(&followed), (403, "fake_key_misplaced".into()));
    assert_eq!(world.control.alarm().await.kind, "fake_key_misplaced");
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn n_cookie_no_session_of_the_upstreams_becomes_the_agents() {
    let cookies =
        "Set-Cookie: session=as-good-as-the-key; Path=/\r\nset-cookie: b=2\r\nSet-Cookie2: c=3\r\n";
    let said = format!("HTTP/1.1 200 OK\r\n{cookies}X-Other: 1\r\nContent-Length: 2\r\n\r\nok");
    let world = World::against(always(said)).await;
    let keyed = world.agent.send("api.test", "GET /things/1", &bearer("api"), "").await;
    assert_eq!((keyed.status, keyed.header("x-other")), (200, Some("1")));
    assert!(!keyed.head.to_ascii_lowercase().contains("cookie"), "{}", keyed.head);
    // With a key that a person released, too.
    let waiting = world.ask(30);
    let open = world.control.open().await;
    world.control.release(&open).await;
    let approved = waiting.await.expect("no panic");
    assert!(!approved.head.to_ascii_lowercase().contains("cookie"), "{}", approved.head);
    // Without a key, cookies are the agent's own business.
    let keyless = world.keyless().await;
    assert_eq!(keyless.header("set-cookie"), Some("session=as-good-as-the-key; Path=/"));
}

#[tokio::test]
async fn n_echo_1_to_12_no_byte_of_the_key_comes_through() {
    let real = secret("api").real;
    let percent: String = real.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let json: String = real.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    let html: String = real.bytes().map(|byte| format!("&#{byte};")).collect();
    let spellings = [
        real.to_owned(),
        STANDARD.encode(real),
        STANDARD.encode(format!("a{real}")),
        STANDARD.encode(format!("ab{real}")),
        hex::encode(real),
        hex::encode_upper(real),
        percent,
        json,
        html,
    ];
    let all = spellings.join("\n");
    let headers: String =
        spellings.iter().enumerate().map(|(n, text)| format!("X-{n}: {text}\r\n")).collect();
    let whole = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{all}", all.len());
    // A byte at a time, each a chunk of its own, and the key in a trailer.
    let bytes: String = all.chars().map(|letter| format!("1\r\n{letter}\r\n")).collect();
    let chunked = format!(
        "HTTP/1.1 200 OK\r\n{headers}Trailer: X-Last\r\nTransfer-Encoding: chunked\r\n\r\n{bytes}0\r\nX-Last: {real}\r\n\r\n"
    );
    for said in [whole, chunked] {
        let world = World::against(always(said)).await;
        let got = world.agent.send("api.test", "GET /things/1", &bearer("api"), "").await;
        assert_eq!(got.status, 200);
        // What is left of base64 at the seams is shorter than any part that says something.
        let middle = STANDARD.encode(real)[4..24].to_owned();
        for spelling in spellings.iter().chain([&middle]) {
            assert!(!got.head.contains(spelling), "{spelling}: {}", got.head);
            assert!(!got.body.contains(spelling), "{spelling}: {}", got.body);
        }
        // Nor in what comes after the body.
        let mut tunnel = world.agent.tunnel("api.test").await;
        let asked = request("api.test", "GET /things/1", &bearer("api"), "");
        tunnel.write_all(asked.as_bytes()).await.expect("written");
        let raw = everything(&mut tunnel).await;
        assert!(!String::from_utf8_lossy(&raw).contains(real));
    }
    // In a coding that cannot be looked into, nothing comes at all.
    for coding in ["br", "zstd", "gzip, gzip"] {
        let said = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n{all}",
            all.len()
        );
        let world = World::against(always(said)).await;
        let mut tunnel = world.agent.tunnel("api.test").await;
        let asked = request("api.test", "GET /things/1", &bearer("api"), "");
        tunnel.write_all(asked.as_bytes()).await.expect("written");
        let raw = everything(&mut tunnel).await;
        assert!(!String::from_utf8_lossy(&raw).contains(&real[3..]), "{coding}");
    }
}

#[tokio::test]
async fn n_echo_13_what_an_upstream_transforms_comes_through() {
    let reversed: String = secret("api").real.chars().rev().collect();
    let world = World::against(always(answer("200 OK", &reversed))).await;
    let got = world.agent.send("api.test", "GET /things/1", &bearer("api"), "").await;
    assert_eq!(got.body, reversed, "the documented limit: a key is bound to its host for this");
}

#[tokio::test]
async fn n_errleak_our_own_answers_name_no_key() {
    let hangs_up = script(|mut line| async move {
        line.head().await;
    });
    let garbles = always("no HTTP at all\r\n\r\n");
    for acts in [hangs_up, garbles] {
        let world = World::against(acts).await;
        let (query, bot) = (secret("query"), secret("bot"));
        for (host, line, rest, real) in [
            ("query.test", format!("GET /search?key={}", query.fake), String::new(), query.real),
            ("bot.test", format!("GET /bot{}/getMe", bot.fake), String::new(), bot.real),
            ("api.test", "GET /things/1".into(), bearer("api"), secret("api").real),
        ] {
            let got = world.agent.send(host, &line, &rest, "").await;
            assert_eq!(no(&got), (502, "upstream_failed".into()));
            let escaped: String =
                percent_encoding::utf8_percent_encode(real, percent_encoding::NON_ALPHANUMERIC)
                    .to_string();
            for spelling in [real, &escaped] {
                assert!(!got.head.contains(spelling) && !got.body.contains(spelling), "{got:?}");
            }
        }
    }
}

#[tokio::test]
async fn u_4_an_upstream_that_switches_protocols_unasked_is_an_error() {
    let said = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nanything";
    let world = World::against(always(said)).await;
    let got = world.keyless().await;
    assert_eq!(no(&got), (502, "upstream_failed".into()));
    assert!(!got.body.contains("anything"));
}

#[tokio::test]
async fn u_8_what_an_upstream_says_too_much_is_nobodys_answer() {
    let twice = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for said in [
        twice,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokpoison",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 8\r\n\r\nokpoison",
        "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    ] {
        let world = World::against(always(said)).await;
        let mut tunnel = world.agent.tunnel("open.test").await;
        for _ in 0..3 {
            let asking = async {
                tunnel.write_all(request("open.test", "GET /", "", "").as_bytes()).await?;
                read(&mut tunnel).await
            };
            let Ok(Ok(got)) = tokio::time::timeout(Duration::from_secs(2), asking).await else {
                // A broken answer ends the connection that it came on.
                tunnel = world.agent.tunnel("open.test").await;
                continue;
            };
            assert!(!got.body.contains("poison") || got.status == 502, "{said:?}: {got:?}");
            assert!(matches!(got.status, 200 | 204 | 304 | 502), "{said:?}: {got:?}");
        }
        // Nor is it another agent's, nor that of another key.
        for agent in [&world.agent, &world.agent.pretending("other", crate::control::OTHER_TOKEN)] {
            let mut tunnel = agent.tunnel("open.test").await;
            tunnel
                .write_all(request("open.test", "GET /", "", "").as_bytes())
                .await
                .expect("written");
            let all = everything(&mut tunnel).await;
            assert!(!String::from_utf8_lossy(&all).contains("poison"), "{said:?}");
        }
    }
}

#[tokio::test]
async fn b_7_an_upstream_that_answers_before_the_body_or_refuses_to_wait_is_heard() {
    // The edge asks for the body by itself, and sends no Expect: whatever the upstream says first is the answer.
    for (said, status) in [
        ("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 417),
        ("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 413),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            200,
        ),
    ] {
        let (heard, mut heads) = tokio::sync::mpsc::channel::<String>(8);
        let acts = script(move |mut line| {
            let heard = heard.clone();
            async move {
                while let Some(head) = line.head().await {
                    let _ = heard.send(head).await;
                    line.say(said).await;
                }
            }
        });
        let world = World::against(acts).await;
        let mut tunnel = world.agent.tunnel("single.test").await;
        let head = format!(
            "POST /x HTTP/1.1\r\nHost: single.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n{}\r\n",
            bearer("single")
        );
        tunnel.write_all(head.as_bytes()).await.expect("written");
        assert_eq!(read(&mut tunnel).await.expect("an answer").status, 100, "the edge's own");
        tunnel.write_all(b"hello").await.expect("written");
        assert_eq!(read(&mut tunnel).await.expect("an answer").status, status);
        let head = heads.recv().await.expect("a request").to_ascii_lowercase();
        assert!(!head.contains("expect"), "{head}");
        let next = send(&mut tunnel, "single.test", "GET /y", &bearer("single"), "").await;
        assert_eq!(next.status, status, "what follows is a request of its own");
    }
}

#[tokio::test]
async fn d_resp_1_heads_that_never_end_are_502() {
    let drips = script(|mut line| async move {
        line.head().await;
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        line.say("HTTP/1.1 200 OK\r\nX: ").await;
        while line.say("x").await {
            pace.tick().await;
        }
    });
    let informs = script(|mut line| async move {
        line.head().await;
        while line.say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(100)).await {
            tokio::task::yield_now().await;
        }
    });
    let silent = script(|mut line| async move {
        line.head().await;
        line.closed().await;
    });
    for (name, acts) in [("drips", drips), ("informs", informs), ("silent", silent)] {
        let patience = Duration::from_secs(2);
        let world = Setup { raw: Some(acts), patience, ..Setup::default() }.start().await;
        let got = tokio::time::timeout(Duration::from_secs(20), world.keyless());
        let got = got.await.unwrap_or_else(|_| panic!("{name}: given up in time"));
        assert_eq!(no(&got), (502, "upstream_failed".into()), "{name}");
    }
    let long =
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(1 << 20));
    let many =
        format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X-Y: z\r\n".repeat(10_000));
    for said in [long, many] {
        let world = World::against(always(said)).await;
        assert_eq!(no(&world.keyless().await), (502, "upstream_failed".into()));
        assert_eq!(no(&world.lent().await), (502, "upstream_failed".into()));
    }
}

#[tokio::test]
async fn d_resp_1_bodies_that_break_end_the_answer() {
    for (name, said) in [
        (
            "a size that is none",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nok\r\n0\r\n\r\n"
                .to_owned(),
        ),
        (
            "a size without end",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", "f".repeat(100_000)),
        ),
        (
            "a chunk longer than it says",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokpoison\r\n0\r\n\r\n"
                .into(),
        ),
        (
            "trailers without end",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{}\r\n",
                "X: y\r\n".repeat(50_000)
            ),
        ),
    ] {
        let world = World::against(always(said)).await;
        let mut tunnel = world.agent.tunnel("open.test").await;
        tunnel.write_all(request("open.test", "GET /", "", "").as_bytes()).await.expect("written");
        let raw = everything(&mut tunnel).await;
        let text = String::from_utf8_lossy(&raw);
        assert!(
            !text.ends_with("0\r\n\r\n") || text.contains("502"),
            "{name}: a broken answer is not a whole one: {text}"
        );
        assert!(!text.contains("poison"), "{name}");
    }
}

#[tokio::test]
async fn d_resp_1_a_body_that_falls_silent_is_broken_off() {
    let acts = script(|mut line| async move {
        while let Some(head) = line.head().await {
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst ").await;
            if head.contains("/moves") {
                let mut pace = tokio::time::interval(Duration::from_millis(300));
                for _ in 0..94 / 6 + 1 {
                    pace.tick().await;
                    line.say("again ").await;
                }
            } else {
                line.closed().await;
            }
        }
    });
    let patience = Duration::from_secs(2);
    let world = Setup { raw: Some(acts), patience, ..Setup::default() }.start().await;
    let mut tunnel = world.agent.tunnel("open.test").await;
    tunnel
        .write_all(request("open.test", "GET /silent", "", "").as_bytes())
        .await
        .expect("written");
    assert_eq!(read_head(&mut tunnel).await.expect("a head").status, 200);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), tunnel.read_to_end(&mut rest)).await;
    let _ = ended.expect("it is broken off");
    assert_eq!(rest, b"first ", "what had come");
    // One that moves takes as long as it takes.
    let moves = world.agent.send("open.test", "GET /moves", "", "").await;
    assert_eq!((moves.status, moves.body.len()), (200, 100));
}

/// A body without end, read by an agent that does not take it, and then by one that does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_resp_1_the_edges_memory_stays_flat() {
    use std::io::Write as _;
    let chunk: &'static [u8] = vec![b'z'; 64 * 1024].leak();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..4_096 {
        gzip.write_all(chunk).expect("memory takes everything");
    }
    let bomb: &'static [u8] = gzip.finish().expect("memory takes everything").leak();
    let acts = script(move |mut line| async move {
        while let Some(head) = line.head().await {
            if head.contains("/bomb") {
                line.say(format!(
                    "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
                    bomb.len()
                ))
                .await;
                line.say(bomb).await;
                continue;
            }
            line.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let framed = [b"10000\r\n", chunk, b"\r\n"].concat();
            while line.say(&framed).await {}
        }
    });
    let process = Process::against(acts).await;
    let ask = async |path: &str| {
        let mut tunnel = process.agent.tunnel("api.test").await;
        let asked = request("api.test", &format!("GET /things/{path}"), &bearer("api"), "");
        tunnel.write_all(asked.as_bytes()).await.expect("written");
        assert_eq!(read_head(&mut tunnel).await.expect("a head").status, 200);
        tunnel
    };
    let read_some = async |tunnel: &mut Tunnel, most: u64| {
        let mut buffer = vec![0; 256 * 1024];
        let mut total = 0u64;
        while total < most {
            match tunnel.read(&mut buffer).await {
                Ok(count) if count > 0 => total += count as u64,
                _ => break,
            }
        }
        total
    };
    // Everything that is made once has been made when the first answer has come.
    read_some(&mut ask("warm").await, 4 * MIB).await;
    let before = process.resident();
    let mut stuck = Vec::new();
    for _ in 0..8 {
        stuck.push(ask("stuck").await);
    }
    let mut endless = ask("endless").await;
    assert!(read_some(&mut endless, 64 * MIB).await >= 64 * MIB);
    let grown = process.resident().saturating_sub(before);
    assert!(
        grown < 48 * MIB,
        "{} MiB more for eight that are stuck and one that goes on",
        grown / MIB
    );
    drop((stuck, endless));
    // 256 MiB in 256 KiB: it is broken off before it is out.
    let out = read_some(&mut ask("bomb").await, 256 * MIB).await;
    assert!(out < 32 * MIB, "{} MiB of it came out", out / MIB);
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 48 * MIB, "{} MiB more after a bomb", grown / MIB);
    assert_eq!(process.agent.ask_for("open.test:443").await.0.status, 200, "others are served");
}
