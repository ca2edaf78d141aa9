//! The binary itself: one trace goes through it, its log is JSON, and it stops when it is told to.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use countersign_proto::v1;
use countersign_proto::v1::admin_service_client::AdminServiceClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Takes in whatever is exported, as bytes.
async fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::new(Mutex::new(Vec::new()));
    let take = |State(taken): State<Arc<Mutex<Vec<u8>>>>, body: Bytes| async move {
        taken.lock().unwrap().extend(body);
        ([("content-type", "application/grpc"), ("grpc-status", "0")], "")
    };
    let router = Router::new().fallback(take).with_state(taken.clone());
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = http.serve_connection(TokioIo::new(tcp), service).await;
            });
        }
    });
    (endpoint, taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_part_of_its_callers_trace_and_the_log_is_json() {
    let (endpoint, taken) = collector().await;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut child = Command::new(env!("CARGO_BIN_EXE_countersign-control-plane"))
        .env("COUNTERSIGN_DATA_DIR", &data_dir)
        .env("COUNTERSIGN_API_LISTEN", "127.0.0.1:0")
        .env("COUNTERSIGN_GATEWAY_LISTEN", "127.0.0.1:0")
        .env("COUNTERSIGN_SEAL_PROVIDER", "key-file")
        .env("COUNTERSIGN_SEAL_KEY_FILE", folder.path().join("key"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env_remove("RUST_LOG")
        .env_remove("COUNTERSIGN_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (address, (mut log, rest)) = tokio::task::spawn_blocking(move || {
        let mut log = Vec::new();
        for line in lines.by_ref() {
            log.push(line.unwrap());
            let said: serde_json::Value = serde_json::from_str(log.last().unwrap()).unwrap();
            if let Some(address) = said["api_address"].as_str() {
                return (address.to_owned(), (log, lines));
            }
        }
        panic!("it ended: {log:?}");
    })
    .await
    .map(|(address, (log, lines))| {
        let rest =
            tokio::task::spawn_blocking(move || lines.map(Result::unwrap).collect::<Vec<_>>());
        (address, (log, rest))
    })
    .unwrap();

    let token = std::fs::read_to_string(data_dir.join("admin-token")).unwrap().trim().to_owned();
    let ca = std::fs::read_to_string(data_dir.join("api-ca.pem")).unwrap();
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost");
    let endpoint =
        Channel::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
    let mut admin = AdminServiceClient::new(endpoint.connect().await.unwrap());
    let mut request = tonic::Request::new(v1::WhoAmIRequest {});
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
        .metadata_mut()
        .insert("traceparent", format!("00-{TRACE}-{PARENT}-01").parse().unwrap());
    assert_eq!(admin.who_am_i(request).await.unwrap().into_inner().principal, "admin");

    let process = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(ended.success());
    log.extend(rest.await.unwrap());
    log.iter().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).unwrap()));
    assert!(log.iter().all(|line| !line.contains(&token)), "the token is on the log");

    let taken = taken.lock().unwrap();
    let has = |bytes: &[u8]| taken.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(&hex::decode(TRACE).unwrap()) && has(&hex::decode(PARENT).unwrap()));
    assert!(has(b"countersign.v1.AdminService/WhoAmI") && has(b"countersign-control-plane"));
    assert!(!has(token.as_bytes()), "the token is in a trace");
}
