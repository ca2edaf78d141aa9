//! An agent: sends requests through an edge, one connection each, and remembers every byte that it was answered with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::origin::OPERATION;

/// What an agent has: its name and token, and two fake keys.
#[derive(Clone)]
pub struct Robot {
    pub name: String,
    pub token: String,
    /// What it reads with, and what it changes with.
    pub fake_keys: (String, String),
    /// All that it was ever answered, over all its requests.
    pub heard: Arc<Mutex<Vec<u8>>>,
    /// When it first asked for what: method and target.
    pub asked: Arc<Mutex<Asked>>,
}

pub type Asked = BTreeMap<(String, String), Instant>;

/// Through which edge.
#[derive(Clone)]
pub struct Way {
    pub proxy: SocketAddr,
    pub ca_pem: String,
}

/// An answer from start to end.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    pub asked: Instant,
    pub answered: Instant,
}

impl Reply {
    /// `code` of the problem that the edge answered with; empty for another answer.
    pub fn code(&self) -> String {
        let problem: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        problem.and_then(|p| Some(p["code"].as_str()?.to_owned())).unwrap_or_default()
    }

    pub fn approval(&self) -> Option<&str> {
        self.headers.get("countersign-approval-id")?.to_str().ok()
    }
}

/// A request as the agent means it.
#[derive(Clone, Debug)]
pub struct Errand {
    pub method: http::Method,
    pub host: String,
    pub target: String,
    pub body: Bytes,
    /// Its name in [`OPERATION`].
    pub operation: String,
    /// How long the edge may hold it.
    pub wait: Option<Duration>,
}

impl Errand {
    pub fn new(method: http::Method, host: &str, target: &str) -> Self {
        Self {
            method,
            host: host.to_owned(),
            target: target.to_owned(),
            body: Bytes::new(),
            operation: target.to_owned(),
            wait: None,
        }
    }

    /// With a body, as JSON.
    pub fn with(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    pub fn waiting(self, wait: Duration) -> Self {
        Self { wait: Some(wait), ..self }
    }
}

impl Robot {
    pub fn new(name: &str, token: String, fake_keys: (String, String)) -> Self {
        let name = name.to_owned();
        Self { name, token, fake_keys, heard: Arc::default(), asked: Arc::default() }
    }

    /// Sends it once, and waits for the answer as long as it takes.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&self, way: &Way, errand: &Errand) -> Result<Reply, std::io::Error> {
        let asked = Instant::now();
        let what = (errand.method.to_string(), errand.target.clone());
        self.asked.lock().unwrap().entry(what).or_insert(asked);
        let stream = self.tunnel(way, &errand.host).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        let connection = tokio::spawn(connection);
        let fake_key = match errand.method.is_safe() {
            true => &self.fake_keys.0,
            false => &self.fake_keys.1,
        };
        let mut request = Request::builder()
            .method(errand.method.clone())
            .uri(&errand.target)
            .header("host", &errand.host)
            .header("authorization", format!("Bearer {fake_key}"))
            .header(OPERATION, &errand.operation);
        if let Some(wait) = errand.wait {
            request = request.header("countersign-approval-wait", wait.as_secs());
        }
        if !errand.body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(errand.body.clone())).unwrap();
        let answered = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
        };
        let answered = answered.await.map_err(std::io::Error::other);
        connection.abort();
        let (head, body) = answered?;
        let mut heard = self.heard.lock().unwrap();
        heard.extend(format!("{:?}\n", head.headers).into_bytes());
        heard.extend(&body);
        drop(heard);
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            asked,
            answered: Instant::now(),
        })
    }

    /// Whether an edge lets it in.
    pub async fn is_known(&self, way: &Way) -> bool {
        self.tunnel(way, super::HOST).await.is_ok()
    }

    async fn tunnel(
        &self,
        way: &Way,
        host: &str,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, std::io::Error> {
        let mut stream = TcpStream::connect(way.proxy).await?;
        stream.set_nodelay(true)?;
        let login =
            base64::prelude::BASE64_STANDARD.encode(format!("{}:{}", self.name, self.token));
        let head = format!(
            "CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\nproxy-authorization: Basic {login}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await?);
        }
        self.heard.lock().unwrap().extend(&answer);
        if !answer.starts_with(b"HTTP/1.1 200") {
            let said = String::from_utf8_lossy(&answer).into_owned();
            return Err(std::io::Error::other(format!("no tunnel: {said}")));
        }
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(way.ca_pem.as_bytes()) {
            roots
                .add(certificate.map_err(std::io::Error::other)?)
                .map_err(std::io::Error::other)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}
