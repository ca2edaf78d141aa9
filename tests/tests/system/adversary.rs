//! What a hostile agent tries.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use countersign_tests::{Agent, World, eventually};
use http::Method;
use sha2::{Digest as _, Sha256};

use super::request_path::{bearer, world};

/// Says `bytes` to the proxy port and gives what comes back within two seconds of silence.
fn raw(world: &World, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.edge_address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..count]);
        if answer.windows(4).any(|w| w == b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn proxy_authorization(agent: &Agent) -> String {
    let pair = base64::prelude::BASE64_STANDARD.encode(format!("{}:{}", agent.name, agent.token));
    format!("Proxy-Authorization: Basic {pair}\r\n")
}

#[test]
fn no_or_a_wrong_proxy_credential_is_407() {
    let (origin, world, agent, _credential) = world();
    let answer =
        raw(&world, b"CONNECT api.example.test:443 HTTP/1.1\r\nHost: api.example.test:443\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 407"), "{answer}");
    assert!(
        answer.to_lowercase().contains("proxy-authenticate: basic realm=\"countersign\""),
        "{answer}"
    );
    let stranger = Agent { token: "cs_agt_wrong".into(), ..agent };
    let answer = raw(
        &world,
        format!(
            "CONNECT api.example.test:443 HTTP/1.1\r\nHost: api.example.test:443\r\n{}\r\n",
            proxy_authorization(&stranger)
        )
        .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 407"), "{answer}");
    assert!(origin.seen().is_empty());
}

#[test]
fn n_6_n_8_n_9_n_14_authorities_that_two_readers_read_differently_are_400() {
    let (origin, world, agent, _credential) = world();
    let auth = proxy_authorization(&agent);
    for authority in [
        "api.example.test",
        "api.example.test:0443",
        "api.example.test:+443",
        "api.example.test:65579",
        "api.example.test:",
        "2130706433:443",
        "0x7f.1:443",
        "127.1:443",
        "0:443",
        "api..example.test:443",
        "[::1:443",
        "user@api.example.test:443",
        "api%2eexample.test:443",
        "-api.example.test:443",
    ] {
        let answer = raw(
            &world,
            format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{auth}\r\n").as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{authority}: {answer}");
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn n_2_a_host_that_differs_from_connect_is_421() {
    let (origin, world, agent, credential) = world();
    for protocol in ["--http1.1", "--http2"] {
        let answer = world.fetch(
            &agent,
            &[
                protocol,
                "-H",
                &bearer(&credential),
                "-H",
                "Host: other.example.test",
                "https://api.example.test/v1/a",
            ],
        );
        assert_eq!(answer.status, 421, "{protocol}: {answer:?}");
        assert_eq!(answer.code(), "destination_mismatch");
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn n_10_private_and_metadata_addresses_are_not_dialled_whatever_the_policy_says() {
    let (origin, world, agent, _credential) = world();
    let policy = "version = 1\n".to_owned()
        + &["127.0.0.1", "169.254.169.254", "10.0.0.1", "localhost"]
            .map(|h| format!("[[rule]]\nname = \"{h}\"\nhost = \"{h}\"\nthen = \"allow\"\n"))
            .join("");
    let file = world.dir().join("open.toml");
    std::fs::write(&file, policy).unwrap();
    world.ok(&["policy", "set", file.to_str().unwrap()]);
    for url in [
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "https://localhost/",
    ] {
        let answer = eventually("the new policy at the edge", || {
            let answer = world.fetch(&agent, &["-k", url]);
            (answer.status == 0 || answer.code() != "policy_denied").then_some(answer)
        });
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "address_denied"),
            "{url}: {answer:?}"
        );
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn p_1_to_p_5_ambiguous_targets_are_400() {
    let (origin, world, agent, credential) = world();
    for path in [
        "/v1/x/%2e%2e/y",
        "/v1/%2fetc",
        "//v1/a",
        "/v1/a%00",
        "/v1/%252e%252e/a",
        "/v1/%zz",
        "/v1/%5ca",
        "/v1/..;x/a",
    ] {
        let url = format!("https://api.example.test{path}");
        let answer = world.fetch(&agent, &["--path-as-is", "-H", &bearer(&credential), &url]);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "ambiguous_target"),
            "{path}: {answer:?}"
        );
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn n_5_a_key_never_travels_over_plain_http() {
    let (origin, world, agent, credential) = world();
    let answer = world.fetch(&agent, &["-H", &bearer(&credential), "http://api.example.test/v1/a"]);
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(origin.seen().is_empty());
}

#[test]
fn b_1_a_body_whose_tail_comes_late_is_not_shown_before_it_is_whole() {
    let (origin, world, agent, credential) = world();
    let mut curl = world
        .curl(
            &agent,
            &[
                "-X",
                "POST",
                "-H",
                &bearer(&credential),
                "-H",
                "Expect:",
                "-T",
                "-",
                "https://api.example.test/v1/transfers",
            ],
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut body = curl.stdin.take().unwrap();
    let head = vec![b'a'; 20_000];
    body.write_all(&head).unwrap();
    body.flush().unwrap();
    // Another request of the same agent goes all the way meanwhile: the first one had its chance to be shown.
    assert_eq!(
        world.fetch(&agent, &["-H", &bearer(&credential), "https://api.example.test/v1/a"]).status,
        200
    );
    assert!(world.approvals().is_empty(), "no card before the body is whole");
    body.write_all(b" and the malicious tail").unwrap();
    drop(body);
    let whole = [head.as_slice(), b" and the malicious tail"].concat();
    let approval = world.approval("pending");
    assert_eq!(approval["body_bytes"], whole.len());
    assert_eq!(approval["body_sha256"], hex::encode(Sha256::digest(&whole)));
    world.ok(&["approval", "approve", approval["id"].as_str().unwrap()]);
    let output = curl.wait_with_output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("200"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let post = origin.seen().into_iter().find(|seen| seen.method == Method::POST).unwrap();
    assert_eq!(post.body, whole, "exactly what was hashed");
}

#[test]
fn a_15_an_approval_of_one_agent_is_no_use_to_another() {
    let (origin, world, agent, credential) = world();
    let other = world.agent("other");
    let arguments = [
        "-X",
        "DELETE",
        "-H",
        &bearer(&credential),
        "-H",
        "countersign-approval-wait: 1",
        "https://api.example.test/v1/projects/1",
    ];
    let first = world.fetch(&agent, &arguments);
    let second = world.fetch(&other, &arguments);
    let id = |answer: &countersign_tests::Answer| {
        answer.header("countersign-approval-id").unwrap().to_owned()
    };
    assert_ne!(id(&first), id(&second), "each agent has its own");
    world.ok(&["approval", "approve", &id(&first)]);
    assert_eq!(world.fetch(&other, &arguments).code(), "approval_pending");
    assert_eq!(origin.count(&Method::DELETE), 0);
}

#[test]
fn a_revoked_agent_and_a_revoked_credential_get_nothing() {
    let (origin, world, agent, credential) = world();
    let url = "https://api.example.test/v1/a";
    assert_eq!(world.fetch(&agent, &["-H", &bearer(&credential), url]).status, 200);
    world.ok(&["credential", "revoke", "example"]);
    let refused = eventually("the revocation at the edge", || {
        let answer = world.fetch(&agent, &["-H", &bearer(&credential), url]);
        (answer.status != 200).then_some(answer)
    });
    assert!((400..600).contains(&refused.status), "{refused:?}");
    let before = origin.seen().len();
    world.ok(&["agent", "revoke", "robot"]);
    eventually("407", || {
        let answer = world.fetch(&agent, &["-H", &bearer(&credential), url]);
        (answer.exit != 0 || answer.status == 407).then_some(())
    });
    assert_eq!(origin.seen().len(), before);
}

#[test]
fn n_13_the_edge_ignores_proxy_variables_of_its_own_environment() {
    let sink = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", sink.local_addr().unwrap());
    let origin = countersign_tests::Origin::start(&[super::HOST], countersign_tests::REAL_KEY);
    let world = World::with(countersign_tests::world::Setup {
        policy: super::POLICY.into(),
        connect_to: vec![format!("{}:443:127.0.0.1:{}", super::HOST, origin.address().port())],
        upstream_ca: vec![origin.ca_pem().into()],
        environment: ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"]
            .map(|n| (n.to_owned(), address.clone()))
            .to_vec(),
        ..Default::default()
    });
    let agent = world.agent("robot");
    let credential = world.credential(
        "example",
        countersign_tests::REAL_KEY,
        &["--host", super::HOST, "--slot", "header"],
    );
    assert_eq!(
        world.fetch(&agent, &["-H", &bearer(&credential), "https://api.example.test/v1/a"]).status,
        200
    );
    sink.set_nonblocking(true).unwrap();
    assert!(sink.accept().is_err(), "nothing came to the other proxy");
}

#[test]
fn n_1_a_server_name_other_than_the_tunnels_is_closed() {
    let (origin, world, agent, _credential) = world();
    let output = Command::new("openssl")
        .args([
            "s_client",
            "-proxy",
            &world.edge_address(),
            "-proxy_user",
            &agent.name,
            "-proxy_pass",
        ])
        .arg(format!("pass:{}", agent.token))
        .args([
            "-connect",
            "api.example.test:443",
            "-servername",
            "evil.example.test",
            "-CAfile",
            &world.edge_ca(),
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("BEGIN CERTIFICATE"), "no certificate was minted: {said}");
    assert!(origin.seen().is_empty());
}
