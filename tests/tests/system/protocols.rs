//! Protocols that others wrote, whole: gRPC's own client and server, and a WebSocket from Node.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use countersign_tests::origin::certificate;
use countersign_tests::peers::{clients, tools};
use countersign_tests::world::Setup;
use countersign_tests::{Agent, World, eventually};
use futures::{SinkExt as _, StreamExt as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

const ECHO_KEY: &str = "echo_0peratorsRealKey0123456789abcd";
const DANGER_KEY: &str = "danger_0peratorsRealKey0123456789ab";

const POLICY: &str = r#"
version = 1

[[rule]]
name = "call"
host = "grpc.example.test"
methods = ["POST"]
path = "/test.Echo/{method}"
then = "allow"
credential = "echo"

[[rule]]
name = "call what is dangerous"
host = "grpc.example.test"
methods = ["POST"]
path = "/test.Danger/{method}"
then = "approve"
credential = "danger"

[[rule]]
name = "listen"
host = "socket.example.test"
methods = ["GET"]
then = "allow"
credential = "listen"
upgrade = "websocket"

[[rule]]
name = "ask before listening"
host = "asked.example.test"
then = "approve"
credential = "asked"
"#;

/// A client with the environment that `countersign env` prints.
fn client(world: &World, agent: &Agent, program: &str, arguments: &[&str]) -> Command {
    let printed = world
        .cli(&["env", "--agent", &agent.name, "--format", "json"])
        .env("COUNTERSIGN_AGENT_TOKEN", &agent.token)
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let variables: serde_json::Map<String, Value> =
        serde_json::from_slice(&printed.stdout).unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(clients())
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value.as_str().unwrap())))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn said(child: Child) -> Value {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

fn python() -> String {
    tools().join("python/bin/python").to_str().unwrap().to_owned()
}

/// grpcio's server, and every call that reached it.
struct Server {
    child: Child,
    port: u16,
    ca_pem: String,
    seen: Arc<Mutex<Vec<Value>>>,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ca_pem, leaf, key) = certificate(&["grpc.example.test"]);
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut child = Command::new(python())
            .current_dir(clients())
            .arg("grpc_server.py")
            .args([file("leaf.pem", &leaf), file("key.pem", &key)])
            .args([ECHO_KEY, DANGER_KEY])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().expect("its port").unwrap().parse().unwrap();
        let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
        let calls = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                calls.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, port, ca_pem, seen, _dir: dir }
    }

    fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap().clone()
    }

    fn world(&self) -> (World, Agent, String, String) {
        let world = World::with(Setup {
            policy: POLICY.into(),
            connect_to: vec![format!("grpc.example.test:443:127.0.0.1:{}", self.port)],
            upstream_ca: vec![self.ca_pem.clone()],
            ..Setup::default()
        });
        let slot = ["--host", "grpc.example.test", "--slot", "header"];
        let echo = world.credential("echo", ECHO_KEY, &slot);
        let danger = world.credential("danger", DANGER_KEY, &slot);
        let agent = world.agent("robot");
        let bearer = |key: &str| format!("Bearer {key}");
        (world, agent, bearer(&echo.fake_key), bearer(&danger.fake_key))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn grpcio_makes_all_four_kinds_of_calls() {
    let server = Server::start();
    let (world, agent, echo, _) = server.world();
    let arguments = ["grpc_client.py", "grpc.example.test", &echo, "all"];
    let said = said(client(&world, &agent, &python(), &arguments).spawn().unwrap());
    assert_eq!(said["hello"]["reply"], "echo hello", "{said}");
    assert_eq!(said["hello"]["initial"]["x-initial"], "yes");
    assert_eq!(said["hello"]["trailing"]["x-final"], "yes");
    assert_eq!(said["hello"]["trailing"]["x-final-bin"], "0001");
    assert_eq!(
        (&said["fail"]["code"], &said["fail"]["details"]),
        (&json!("NOT_FOUND"), &json!("nothing is here: \u{e9}"))
    );
    assert_eq!(said["leak"]["reply"], format!("the key is {}", "*".repeat(ECHO_KEY.len())));
    assert_eq!(said["client_stream"], "one,two,three");
    assert_eq!(said["server_stream"], json!(["turn 0", "turn 1", "turn 2"]));
    assert_eq!(
        said["bidi"],
        json!([1, 2, 3].map(|turns| format!("{}echo_0per", "reply to ".repeat(turns)))),
        "each was said after the one before had come, though it ends as the key begins"
    );
    assert_eq!(
        (&said["bidi_code"], &said["bidi_trailing"]["x-final"]),
        (&json!("OK"), &json!("yes"))
    );
    let seen = server.seen();
    assert_eq!(seen.len(), 6, "{seen:?}");
    for call in seen {
        assert_eq!(call["authorization"], format!("Bearer {ECHO_KEY}"));
        let left = call["deadline"].as_f64().expect("the client's deadline is the server's");
        assert!((30.0..=61.0).contains(&left), "{left}");
    }
    assert!(world.approvals().is_empty(), "nobody was asked");
}

#[test]
fn a_dangerous_call_of_grpcio_is_held_and_completes_after_approval() {
    let server = Server::start();
    let (world, agent, _, danger) = server.world();
    let arguments =
        ["grpc_client.py", "grpc.example.test", &danger, "/test.Danger/Delete", "everything"];
    let child = client(&world, &agent, &python(), &arguments).spawn().unwrap();
    let approval = world.approval("pending");
    assert_eq!(
        (&approval["method"], &approval["path"]),
        (&json!("POST"), &json!("/test.Danger/Delete"))
    );
    assert!(server.seen().is_empty(), "nothing has left");
    world.ok(&["approval", "approve", approval["id"].as_str().unwrap()]);
    let done = said(child);
    assert_eq!(done["reply"], "deleted everything", "{done}");
    assert_eq!(done["initial"]["countersign-approval-id"], approval["id"]);
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (&seen[0]["request"], &seen[0]["authorization"]),
        (&json!("everything"), &json!(format!("Bearer {DANGER_KEY}")))
    );

    let child = client(&world, &agent, &python(), &arguments).spawn().unwrap();
    let approval = world.approval("pending");
    world.ok(&["approval", "deny", approval["id"].as_str().unwrap()]);
    let denied = said(child);
    assert_eq!(denied["code"], "PERMISSION_DENIED", "{denied}");
    assert!(
        denied["details"].as_str().unwrap().contains("a person was asked and said no"),
        "{denied}"
    );
    let told = [&denied["trailing"], &denied["initial"]];
    assert!(
        told.iter().any(|metadata| metadata["countersign-code"] == "approval_denied"),
        "{denied}"
    );
    assert_eq!(server.seen().len(), 1, "once");
}

#[test]
fn grpcio_reads_why_it_is_refused() {
    let server = Server::start();
    let (world, agent, echo, _) = server.world();
    let arguments = ["grpc_client.py", "grpc.example.test", &echo, "/test.Other/Get", "x"];
    let said = said(client(&world, &agent, &python(), &arguments).spawn().unwrap());
    assert_eq!(said["code"], "PERMISSION_DENIED", "{said}");
    assert!(
        said["details"]
            .as_str()
            .unwrap()
            .starts_with("Not sent: no rule of the policy names this request")
    );
    assert!(server.seen().is_empty());
}

/// A WebSocket server that says back what it hears, and the key where it is asked to.
struct Sockets {
    port: u16,
    ca_pem: String,
    authorizations: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

const LISTEN_KEY: &str = "listen_0peratorsRealKey0123456789ab";

impl Sockets {
    fn start() -> Self {
        let (ca_pem, leaf, key) = certificate(&["socket.example.test", "asked.example.test"]);
        let chain = vec![CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let authorizations: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = Arc::clone(&authorizations);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(echo(stream, tls.clone(), Arc::clone(&shared)));
            }
        });
        Self { port, ca_pem, authorizations, _runtime: runtime }
    }
}

async fn echo(stream: TcpStream, tls: TlsAcceptor, authorizations: Arc<Mutex<Vec<String>>>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    #[allow(clippy::result_large_err)] // as the library has it
    let seen = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let authorization = request.headers()["authorization"].to_str().unwrap().to_owned();
        authorizations.lock().unwrap().push(authorization);
        response.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, seen).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        let reply = match message {
            Message::Text(text) if text.as_str() == "leak" => {
                Message::text(format!("it is {LISTEN_KEY}"))
            }
            Message::Text(_) | Message::Binary(_) => message,
            _ => continue,
        };
        if socket.send(reply).await.is_err() {
            return;
        }
    }
}

#[test]
fn a_websocket_of_node_is_opened_and_closed_as_its_ends_say() {
    let sockets = Sockets::start();
    let to = |host: &str| format!("{host}:443:127.0.0.1:{}", sockets.port);
    let world = World::with(Setup {
        policy: POLICY.into(),
        connect_to: vec![to("socket.example.test"), to("asked.example.test")],
        upstream_ca: vec![sockets.ca_pem.clone()],
        ..Setup::default()
    });
    let listen = world.credential(
        "listen",
        LISTEN_KEY,
        &["--host", "socket.example.test", "--slot", "header"],
    );
    let asked = world.credential(
        "asked",
        DANGER_KEY,
        &["--host", "asked.example.test", "--slot", "header"],
    );
    let agent = world.agent("robot");
    let connect = |host: &str, key: &str| {
        let (url, authorization) = (format!("wss://{host}/"), format!("Bearer {key}"));
        said(
            client(&world, &agent, "node", &["websocket.mjs", &url, &authorization])
                .spawn()
                .unwrap(),
        )
    };
    let said = connect("socket.example.test", &listen.fake_key);
    assert_eq!((&said["opened"], &said["protocol"]), (&json!(true), &json!("chat")), "{said}");
    let stars = "*".repeat(LISTEN_KEY.len());
    assert_eq!(
        said["heard"],
        json!(["hello", { "bytes": 100_000, "last": 7 }, format!("it is {stars}")])
    );
    assert_eq!((&said["code"], &said["reason"]), (&json!(4321), &json!("enough")), "{said}");
    let authorizations = sockets.authorizations.lock().unwrap().clone();
    assert_eq!(authorizations, [format!("Bearer {LISTEN_KEY}")]);

    // U-1: one answer does not open a connection without end.
    let refused = connect("asked.example.test", &asked.fake_key);
    assert_eq!((&refused["opened"], &refused["heard"]), (&json!(false), &json!([])), "{refused}");
    assert!(world.approvals().is_empty(), "nobody was asked");
    assert_eq!(sockets.authorizations.lock().unwrap().len(), 1);
    eventually("the WebSocket's end is on the log", || {
        world
            .log()
            .lines()
            .any(|line| line.contains("a channel ended") && line.contains("websocket"))
            .then_some(())
    });
    assert!(!world.log().contains(LISTEN_KEY) && !world.log().contains(&listen.fake_key));
}
