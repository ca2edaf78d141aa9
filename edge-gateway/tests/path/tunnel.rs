//! Tunnels that a rule says are not looked into, and all that is checked of them even so.

use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::agent::{Agent, read};
use crate::control::OTHER_TOKEN;
use crate::stage::{Line, in_time, say};
use crate::world::{World, no};

/// TLS through a tunnel with the upstream itself.
async fn shake(
    world: &World,
    stream: TcpStream,
    name: Option<&str>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let pem = world.authority.pem();
    let authority = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes());
    roots.add(authority.expect("a certificate")).expect("a root");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.enable_sni = name.is_some();
    let name = ServerName::try_from(name.unwrap_or("through.test").to_owned()).expect("a name");
    in_time("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// An open tunnel, both ends.
async fn open(world: &World) -> (TlsStream<TcpStream>, Line) {
    let (answer, stream) = world.agent.ask_for("through.test:443").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let (agent, line) =
        tokio::join!(shake(world, stream, Some("through.test")), world.stage.line());
    (agent.expect("the upstream's own certificate"), line)
}

async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = in_time("the end", stream.read_to_end(&mut rest)).await;
    rest
}

fn ended(how: &str) -> String {
    format!("countersign_edge_channels_ended_total{{outcome=\"tunnel_{how}\"}}")
}

#[tokio::test]
async fn tls_passes_end_to_end_and_is_counted() {
    let world = World::start().await;
    let (mut agent, mut line) = open(&world).await;
    world.until("countersign_edge_tunnels", 1.0).await;
    say(&mut agent, "any protocol at all\n").await;
    let mut read = vec![0; 20];
    line.read_exact(&mut read).await.expect("what was said");
    assert_eq!(read, b"any protocol at all\n");
    say(&mut line, "and back\n").await;
    line.shutdown().await.expect("closed");
    assert_eq!(closed(&mut agent).await, b"and back\n");
    drop((agent, line));
    world.until(&ended("closed"), 1.0).await;
    assert_eq!(world.metric("countersign_edge_tunnels").await, Some(0.0));
    let asked = world.metric("countersign_edge_requests_total{outcome=\"tunnelled\"}").await;
    assert_eq!(asked, Some(1.0));
    let bytes = world.metric("countersign_edge_channel_bytes_total{kind=\"tunnel\"}").await;
    assert!(bytes.is_some_and(|bytes| bytes > 500.0), "handshake and all: {bytes:?}");
}

#[tokio::test]
async fn n_16_tls_for_another_name_or_for_none_is_closed_and_nothing_is_dialled() {
    let world = World::start().await;
    for name in [Some("stage.test"), None] {
        let (answer, stream) = world.agent.ask_for("through.test:443").await;
        assert_eq!(answer.status, 200);
        assert!(shake(&world, stream, name).await.is_err(), "{name:?}");
    }
    world.until(&ended("malformed"), 2.0).await;
    assert!(world.stage.is_empty());
}

#[tokio::test]
async fn what_is_not_tls_is_closed_and_nothing_is_dialled() {
    let world = World::start().await;
    for bytes in [&b"SSH-2.0-OpenSSH_9.9\r\n"[..], b"GET / HTTP/1.1\r\nHost: through.test\r\n\r\n"]
    {
        let (answer, mut stream) = world.agent.ask_for("through.test:443").await;
        assert_eq!(answer.status, 200);
        stream.write_all(bytes).await.expect("written");
        assert!(closed(&mut stream).await.is_empty());
    }
    assert!(world.stage.is_empty());
}

#[tokio::test]
async fn a_host_that_has_a_key_is_not_tunnelled_to() {
    let world = World::start().await;
    let mut stream = world.agent.connect().await;
    let asked = format!(
        "CONNECT sealed.test:443 HTTP/1.1\r\nHost: sealed.test:443\r\n{}\r\n",
        world.agent.authorization()
    );
    stream.write_all(asked.as_bytes()).await.expect("written");
    let answer = read(&mut stream).await.expect("an answer");
    assert_eq!(no(&answer), (403, "policy_denied".to_owned()), "{answer:?}");
    assert!(
        answer.body.contains("through to a key") && answer.body.contains("a key for this host")
    );
    assert!(world.stage.is_empty());
}

#[tokio::test]
async fn n_10_a_rule_opens_no_address_that_is_closed() {
    let world = World::start().await;
    let mut stream = world.agent.connect().await;
    let asked = format!(
        "CONNECT 192.168.7.7:443 HTTP/1.1\r\nHost: 192.168.7.7:443\r\n{}\r\n",
        world.agent.authorization()
    );
    stream.write_all(asked.as_bytes()).await.expect("written");
    let answer = read(&mut stream).await.expect("an answer");
    assert_eq!(no(&answer), (403, "address_denied".to_owned()), "{answer:?}");
}

#[tokio::test]
async fn an_agent_that_the_rule_is_not_about_is_looked_into_and_refused() {
    let world = World::start().await;
    let other = Agent::new(world.edge.proxy_addr(), world.edge.ca_pem(), "other", OTHER_TOKEN);
    let answer = other.send("through.test", "GET /", "", "").await;
    assert_eq!(no(&answer), (403, "policy_denied".to_owned()), "{answer:?}");
    assert!(world.stage.is_empty());
}

#[tokio::test]
async fn more_than_the_rule_lets_through_ends_it() {
    let world = World::start().await;
    let (mut agent, mut line) = open(&world).await;
    let sending = tokio::spawn(async move {
        let chunk = [b'x'; 16_384];
        while line.write_all(&chunk).await.is_ok() {}
    });
    let came = closed(&mut agent).await.len();
    assert!((250_000..=307_200).contains(&came), "{came}");
    sending.await.expect("its end is seen on the other side too");
    world.until(&ended("too_much"), 1.0).await;
}

#[tokio::test]
async fn its_time_a_newer_bundle_and_a_shutdown_end_it() {
    let world = World::start().await;
    let (mut agent, mut line) = open(&world).await;
    world.hands.advance(Duration::from_secs(20 * 60 + 1));
    assert!(closed(&mut agent).await.is_empty() && closed(&mut line).await.is_empty());
    world.until(&ended("too_long"), 1.0).await;

    let (mut agent, mut line) = open(&world).await;
    let before = world.control.state().policy;
    world
        .control
        .change(|state| {
            state.policy = state.policy.replace(
                "agents = [\"robot\"]\nhost = \"through.test\"",
                "host = \"elsewhere.test\"",
            )
        })
        .await;
    assert!(closed(&mut agent).await.is_empty() && closed(&mut line).await.is_empty());
    world.until(&ended("forbidden"), 1.0).await;
    world.control.change(|state| state.policy = before).await;
    let revision = world.control.state().revision as f64;
    world.until("countersign_edge_bundle_revision", revision).await;

    let (mut agent, mut line) = open(&world).await;
    let World { edge, .. } = world;
    let down = tokio::spawn(edge.shutdown());
    assert!(closed(&mut agent).await.is_empty() && closed(&mut line).await.is_empty());
    down.await.expect("it waits for nothing else");
}
