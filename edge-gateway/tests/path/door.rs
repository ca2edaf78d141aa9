//! Who gets in, and through to what: the proxy's credential, the authority, the framing.

use countersign_edge_gateway::config::Limits;
use countersign_edge_gateway::upstream::Resolve;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::agent::{read, request, send};
use crate::control::secret;
use crate::world::{Setup, World};

fn key(name: &str) -> String {
    format!("Authorization: Bearer {}\r\n", secret(name).fake)
}

#[tokio::test]
async fn a_missing_or_wrong_proxy_credential_is_407() {
    let world = World::start().await;
    let robot = &world.agent;
    let bare = robot.to_proxy("CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n").await;
    assert_eq!(
        (bare.status, bare.header("proxy-authenticate")),
        (407, Some("Basic realm=\"countersign\""))
    );
    for stranger in
        [robot.pretending("robot", "wrong"), robot.pretending("other", crate::control::TOKEN)]
    {
        let (answer, _) = stranger.ask_for("api.test:443").await;
        assert_eq!(answer.status, 407);
    }
    let twice = format!(
        "GET http://open.test/ HTTP/1.1\r\nHost: open.test\r\n{0}{0}\r\n",
        robot.authorization()
    );
    assert_eq!(robot.to_proxy(&twice).await.status, 407);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn an_agent_that_was_revoked_is_out_of_its_open_tunnel() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("open.test").await;
    assert_eq!(send(&mut tunnel, "open.test", "GET /", "", "").await.status, 200);
    world.control.change(|state| state.agents.clear()).await;
    let mut status = 200;
    while status == 200 {
        status = send(&mut tunnel, "open.test", "GET /", "", "").await.status;
    }
    assert_eq!(status, 407);
}

#[tokio::test]
async fn without_a_bundle_nothing_is_served_and_nobody_is_blamed() {
    let world = World::unattached(Limits::default()).await;
    world.control.hang_up(Some(tonic::Status::unavailable("sealed: unseal it")));
    let world_answer = || async { world.agent.ask_for("open.test:443").await.0 };
    let mut answer = world_answer().await;
    // The first session may have begun before it was refused.
    while answer.status == 200 {
        answer = world_answer().await;
    }
    assert_eq!(answer.status, 503);
}

#[tokio::test]
async fn n_2_host_differs_from_connect() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("open.test").await;
    assert_eq!(send(&mut tunnel, "open.test", "GET /", "", "").await.status, 200);
    let answer = send(&mut tunnel, "open.test", "GET /", "Host: api.test\r\n", "").await;
    assert_eq!((answer.status, answer.code().as_str()), (421, "destination_mismatch"));
    let answer = send(&mut tunnel, "open.test", "GET /", "Host: open.test:8443\r\n", "").await;
    assert_eq!(answer.status, 421);
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn n_2_authority_differs_from_connect_over_h2() {
    let world = World::start().await;
    let tunnel =
        world.agent.tunnel_with("open.test", "open.test", &[b"h2"]).await.expect("a tunnel");
    assert_eq!(tunnel.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = hyper_util::rt::TokioIo::new(tunnel);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.expect("h2");
    tokio::spawn(connection);
    let mut status = async |url: &str, host: Option<&str>| {
        let mut request = http::Request::builder().uri(url);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let request =
            request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
        client.send_request(request).await.expect("an answer").status().as_u16()
    };
    assert_eq!(status("https://open.test/one", None).await, 200);
    assert_eq!(status("https://api.test/two", None).await, 421);
    assert_eq!(status("https://open.test/three", Some("api.test")).await, 421);
    assert_eq!(status("http://open.test/four", None).await, 400);
    assert_eq!(status("https://open.test/five", Some("open.test")).await, 200);
    let targets: Vec<String> = world.origin.got().into_iter().map(|got| got.target).collect();
    assert_eq!(targets, ["/one", "/five"]);
}

#[tokio::test]
async fn n_1_another_server_name_than_the_tunnel_gets_no_certificate() {
    let world = World::start().await;
    assert!(world.agent.tunnel_with("api.test", "evil.test", &[]).await.is_err());
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn n_4_absolute_form_inside_a_tunnel_names_the_tunnel() {
    let world = World::start().await;
    let same = world.agent.send("open.test", "GET https://open.test/x", "", "").await;
    assert_eq!(same.status, 200, "{same:?}");
    let other = world.agent.send("open.test", "GET https://api.test/x", "", "").await;
    assert_eq!(other.status, 400);
    let plain = world.agent.send("open.test", "GET http://open.test/x", "", "").await;
    assert_eq!(plain.status, 400);
    let user = world.agent.send("open.test", "GET https://open.test@api.test/x", "", "").await;
    assert_eq!(user.status, 400);
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn n_4_absolute_form_at_the_proxy_is_judged_by_its_url() {
    let rules = "[[rule]]\nname = \"plain\"\nhost = \"plain.test:80\"\nmethods = [\"GET\"]\npath = \"/allowed\"\nthen = \"allow\"\n";
    let (plain, heard) = plain_origin().await;
    let resolver = Some(std::sync::Arc::new(Found(plain)) as std::sync::Arc<dyn Resolve>);
    let allow_private = vec!["127.0.0.0/8".parse().expect("a range")];
    let setup = Setup { rules: rules.into(), resolver, allow_private, ..Setup::default() };
    let world = setup.start().await;
    let ask = async |line: &str, host: &str| {
        let head = format!("{line} HTTP/1.1\r\n{host}{}\r\n", world.agent.authorization());
        world.agent.to_proxy(&head).await
    };
    for (host, status) in [
        ("Host: plain.test\r\n", 200),
        ("", 200),
        ("Host: PLAIN.test.:80\r\n", 200),
        ("Host: open.test\r\n", 421),
        ("Host: plain.test:8080\r\n", 421),
        ("Host: plain.test\r\nHost: plain.test\r\n", 400),
        ("Host: user@plain.test\r\n", 400),
    ] {
        assert_eq!(ask("GET http://plain.test/allowed", host).await.status, status, "{host:?}");
    }
    for (line, status) in [
        ("GET http://plain.test/other", 403),
        ("DELETE http://plain.test/allowed", 403),
        ("GET http://other.test/allowed", 403),
        ("GET http://plain.test:8080/allowed", 403),
        ("GET http://user@plain.test/allowed", 400),
        ("GET http://plain.test@evil.test/allowed", 400),
        ("GET https://plain.test/allowed", 400),
        ("GET ftp://plain.test/allowed", 400),
        ("GET http://plain.test/../allowed", 400),
    ] {
        assert_eq!(ask(line, "").await.status, status, "{line}");
    }
    let heard = heard.lock().expect("no panic").clone();
    assert_eq!(heard.len(), 3, "{heard:?}");
    for head in heard {
        assert!(
            head.starts_with("GET /allowed HTTP/1.1\r\n")
                && head.contains("\r\nhost: plain.test\r\n"),
            "{head}"
        );
        assert!(!head.to_ascii_lowercase().contains("proxy-"), "{head}");
    }
}

/// An upstream without TLS, and the heads that it got.
async fn plain_origin() -> (std::net::SocketAddr, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let heard: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
    let all = std::sync::Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            all.lock().expect("no panic").push(String::from_utf8_lossy(&head).into_owned());
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            let _ = stream.write_all(answer).await;
        }
    });
    (addr, heard)
}

/// Every name is at this address.
struct Found(std::net::SocketAddr);

impl Resolve for Found {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        _: u16,
    ) -> futures::future::BoxFuture<'a, std::io::Result<Vec<std::net::SocketAddr>>> {
        Box::pin(async { Ok(vec![self.0]) })
    }
}

#[tokio::test]
async fn n_10_n_11_n_12_a_name_leads_to_no_address_that_is_closed() {
    let rules = "[[rule]]\nname = \"named\"\nhost = \"*.named.test\"\nthen = \"allow\"\n";
    for address in [
        "169.254.169.254:443",
        "127.0.0.1:443",
        "[::1]:443",
        "[::ffff:10.0.0.1]:443",
        "[64:ff9b::a00:1]:443",
    ] {
        let resolver = std::sync::Arc::new(Found(address.parse().expect("an address")));
        let setup = Setup { rules: rules.into(), resolver: Some(resolver), ..Setup::default() };
        let world = setup.start().await;
        let answer = world.agent.send("a.named.test", "GET /", "", "").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "address_denied"),
            "{address}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn n_6_a_key_is_for_its_port_and_a_rule_too() {
    let rules = "[[rule]]\nname = \"another port\"\nhost = \"api.test:8443\"\nthen = \"allow\"\n";
    let world = Setup { rules: rules.into(), ..Setup::default() }.start().await;
    let at = async |port: &str, key: &str| {
        let (answer, stream) = world.agent.ask_for(&format!("api.test:{port}")).await;
        assert_eq!(answer.status, 200);
        let mut tunnel = world.agent.over(stream, "api.test").await.expect("TLS");
        send(&mut tunnel, &format!("api.test:{port}"), "GET /things/1", key, "").await
    };
    assert_eq!(at("8443", "").await.status, 200, "it is there");
    let keyed = at("8443", &key("api")).await;
    assert_eq!((keyed.status, keyed.code().as_str()), (403, "fake_key_misplaced"));
    let other = at("22", "").await;
    assert_eq!((other.status, other.code().as_str()), (403, "policy_denied"));
    assert_eq!(world.origin.got().len(), 1);
    assert!(!format!("{:?}", world.origin.got()).contains(secret("api").real));
}

#[tokio::test]
async fn n_8_n_14_no_byte_that_is_no_name_gets_through_connect() {
    let world = World::start().await;
    for byte in (0u8..=255).filter(|byte| !byte.is_ascii_alphanumeric() && !b"-._:".contains(byte))
    {
        let mut stream = world.agent.connect().await;
        let host = [b"evil.tld".as_slice(), &[byte], b".google.com:443"].concat();
        let rest = format!(" HTTP/1.1\r\n{}\r\n", world.agent.authorization());
        stream
            .write_all(&[b"CONNECT ", host.as_slice(), rest.as_bytes()].concat())
            .await
            .expect("written");
        if let Ok(answer) = read(&mut stream).await {
            assert_eq!(answer.status, 400, "{byte:#x}: {answer:?}");
        }
    }
    for host in ["xn--a.test", "xn--dca.test"] {
        let (answer, _) = world.agent.ask_for(&format!("{host}:443")).await;
        assert_eq!(answer.status, 400, "{host}: it does not say what it means");
    }
}

#[tokio::test]
async fn n_5_plain_http_never_reaches_a_host_that_has_a_key() {
    let world = World::start().await;
    let robot = &world.agent;
    let ask = |host: &str, rest: &str| {
        format!(
            "GET http://{host}/things/1 HTTP/1.1\r\nHost: {host}\r\n{}{rest}\r\n",
            robot.authorization()
        )
    };
    let answer = robot.to_proxy(&ask("api.test", "")).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "policy_denied"));
    let answer = robot.to_proxy(&ask("open.test", &key("api"))).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "fake_key_misplaced"));
    let https = format!(
        "GET https://open.test/ HTTP/1.1\r\nHost: open.test\r\n{}\r\n",
        robot.authorization()
    );
    assert_eq!(robot.to_proxy(&https).await.status, 400);
    let mismatch = format!(
        "GET http://open.test/ HTTP/1.1\r\nHost: api.test\r\n{}\r\n",
        robot.authorization()
    );
    assert_eq!(robot.to_proxy(&mismatch).await.status, 421);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn n_6_n_8_n_9_n_14_strange_authorities_are_400() {
    let world = World::start().await;
    for authority in [
        "api.test",
        "api.test:",
        "api.test:0443",
        "api.test:+443",
        "api.test:65579",
        "api.test:0",
        "api.test:44a",
        "user@api.test:443",
        "api.test:443@evil.test:443",
        "a..b.test:443",
        "-api.test:443",
        "api%2etest:443",
        "2130706433:443",
        "0x7f.1:443",
        "127.1:443",
        "0:443",
        "[fe80::1%25eth0]:443",
        "[::1:443",
        "api.test:443/x",
        "\u{430}pi.test:443",
        "api\u{ad}.test:443",
        "\u{ff11}27.0.0.1:443",
    ] {
        let mut stream = world.agent.connect().await;
        let head = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: api.test:443\r\n{}\r\n",
            world.agent.authorization()
        );
        stream.write_all(head.as_bytes()).await.expect("written");
        let answer = read(&mut stream).await.expect("an answer");
        assert_eq!(answer.status, 400, "{authority}: {answer:?}");
    }
    let spaced = format!("CONNECT api.test: 443 HTTP/1.1\r\n{}\r\n", world.agent.authorization());
    assert_eq!(world.agent.to_proxy(&spaced).await.status, 400);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn n_7_case_and_a_trailing_dot_are_the_same_host() {
    let world = World::start().await;
    for authority in ["OPEN.test:443", "open.test.:443"] {
        let (answer, _) = world.agent.ask_for(authority).await;
        assert_eq!(answer.status, 200, "{authority}");
    }
    let answer = world.agent.send("open.test", "GET /x", "Host: OPEN.TEST.\r\n", "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.origin.got()[0].headers["host"], "open.test");
}

#[tokio::test]
async fn n_10_n_12_addresses_that_agents_may_not_reach_are_403() {
    let world = World::start().await;
    for host in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "10.0.0.1", "control.test", "localhost"]
    {
        let answer = world.agent.send(host, "GET /", "", "").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "address_denied"),
            "{host}: {answer:?}"
        );
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn what_is_not_tls_after_connect_is_closed() {
    let world = World::start().await;
    let (answer, mut stream) = world.agent.ask_for("open.test:443").await;
    assert_eq!(answer.status, 200);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: open.test\r\n\r\n").await.expect("written");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{rest:?}");
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn origin_form_at_the_proxy_is_400_save_for_its_health() {
    let world = World::start().await;
    assert_eq!(
        world.agent.to_proxy("GET /healthz HTTP/1.1\r\nHost: proxy\r\n\r\n").await.status,
        200
    );
    let other =
        format!("GET /other HTTP/1.1\r\nHost: proxy\r\n{}\r\n", world.agent.authorization());
    assert_eq!(world.agent.to_proxy(&other).await.status, 400);
}

#[tokio::test]
async fn framing_that_two_readers_could_read_in_two_ways_is_400() {
    let world = World::start().await;
    let chunked = "3\r\nabc\r\n0\r\n\r\n";
    for (rest, body) in [
        ("Transfer-Encoding: gzip, chunked\r\n", chunked),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunked),
        ("Transfer-Encoding: xchunked\r\n", chunked),
        ("Content-Length: 3\r\nContent-Length: 4\r\n", "abc"),
        ("Content-Length: +3\r\n", "abc"),
        ("Host: open.test\r\nHost: open.test\r\n", ""),
        ("X: a\r\n b\r\n", ""),
        ("X : a\r\n", ""),
    ] {
        let mut tunnel = world.agent.tunnel("open.test").await;
        let text = if rest.contains("Content-Length") {
            format!("POST /x HTTP/1.1\r\nHost: open.test\r\n{rest}\r\n{body}")
        } else {
            request("open.test", "POST /x", rest, body)
        };
        tunnel.write_all(text.as_bytes()).await.expect("written");
        let answer = read(&mut tunnel).await.expect("an answer");
        assert_eq!(answer.status, 400, "{rest:?}: {answer:?}");
    }
    let mut tunnel = world.agent.tunnel("open.test").await;
    tunnel.write_all(b"GET /x HTTP/1.1\r\n\r\n").await.expect("written");
    assert_eq!(read(&mut tunnel).await.expect("an answer").status, 400, "no Host");
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn u_7_a_second_request_behind_the_first_is_judged_for_itself() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("api.test").await;
    let first = request("api.test", "GET /things/1", &key("api"), "");
    let second = request("api.test", "GET /never/1", &key("api"), "");
    tunnel.write_all(format!("{first}{second}").as_bytes()).await.expect("written");
    assert_eq!(read(&mut tunnel).await.expect("an answer").status, 200);
    let answer = read(&mut tunnel).await.expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (403, "policy_denied"));
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn p_16_three_requests_on_one_tunnel_have_three_outcomes() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("api.test").await;
    assert_eq!(send(&mut tunnel, "api.test", "GET /things/1", &key("api"), "").await.status, 200);
    let denied = send(&mut tunnel, "api.test", "GET /never/1", &key("api"), "").await;
    assert_eq!((denied.status, denied.code().as_str()), (403, "policy_denied"));
    assert!(denied.body.contains("never"), "it names the rule: {}", denied.body);
    assert_eq!(denied.header("x-should-retry"), Some("false"));
    let unnamed = send(&mut tunnel, "api.test", "GET /elsewhere", "", "").await;
    assert_eq!((unnamed.status, unnamed.code().as_str()), (403, "policy_denied"));
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn a_tunnel_keeps_its_place_among_the_connections() {
    let world = World::with(Limits { max_connections: 1, ..Limits::default() }).await;
    let mut tunnel = world.agent.tunnel("open.test").await;
    let mut second = world.agent.connect().await;
    let mut nothing = Vec::new();
    let _ = second.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty(), "the second connection is closed at once");
    assert_eq!(send(&mut tunnel, "open.test", "GET /", "", "").await.status, 200);
    drop(tunnel);
    // The place is free again as soon as the edge has seen it go.
    let began = std::time::Instant::now();
    loop {
        let mut stream = world.agent.connect().await;
        let asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        if stream.write_all(asked).await.is_ok()
            && read(&mut stream).await.is_ok_and(|a| a.status == 200)
        {
            break;
        }
        assert!(began.elapsed().as_secs() < 10, "the place is free again");
    }
}
