//! The agent of the story: an ordinary HTTP client with a proxy, a CA file and a key that is worth nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

/// How long the robot waits when it is told to come back and not when.
const USUAL_WAIT: Duration = Duration::from_secs(2);

pub(super) struct Robot {
    host: &'static str,
    proxy: SocketAddr,
    proxy_authorization: Zeroizing<String>,
    fake_key: Zeroizing<String>,
    tls: TlsConnector,
    heard: Vec<u8>,
    sent: Vec<u8>,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Robot {
    pub(super) fn new(
        host: &'static str,
        proxy: SocketAddr,
        name: &str,
        token: Zeroizing<String>,
        fake_key: Zeroizing<String>,
        ca_pem: &str,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).context("the edge's CA")?)?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let basic =
            base64::engine::general_purpose::STANDARD.encode(format!("{name}:{}", token.as_str()));
        let proxy_authorization = Zeroizing::new(format!("Basic {basic}"));
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self {
            host,
            proxy,
            proxy_authorization,
            fake_key,
            tls,
            heard: Vec::new(),
            sent: Vec::new(),
        })
    }

    /// The only key that it has.
    pub(super) fn fake_key(&self) -> &str {
        &self.fake_key
    }

    /// Every header and body that came to it.
    pub(super) fn heard(&self) -> &[u8] {
        &self.heard
    }

    /// Every header and body that it sent.
    pub(super) fn sent(&self) -> &[u8] {
        &self.sent
    }

    /// Tries the door until the edge has heard of this agent: it learns so a moment after the control plane.
    pub(super) async fn introduced(&mut self) -> anyhow::Result<()> {
        loop {
            let (_, status) = self.connect().await?;
            if status != 407 {
                ensure!(status == 200, "the edge answered CONNECT with {status}");
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks, and as long as the answer is "waiting for approval", asks the identical thing again when told to.
    pub(super) async fn insist(
        &mut self,
        method: &str,
        path: &str,
        body: &'static str,
    ) -> anyhow::Result<Answer> {
        loop {
            let answer = self.ask(method, path, body, None).await?;
            if answer.status != 503 || answer.code() != "approval_pending" {
                return Ok(answer);
            }
            let after = answer.header("retry-after").and_then(|seconds| seconds.parse().ok());
            tokio::time::sleep(after.map_or(USUAL_WAIT, Duration::from_secs)).await;
        }
    }

    /// One request over one connection of its own. `wait` is how many seconds it lets the edge hold it.
    pub(super) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &'static str,
        wait: Option<u32>,
    ) -> anyhow::Result<Answer> {
        let stream = self.tunnel().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.host)
            .header(header::USER_AGENT, "robot/1")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.fake_key.as_str()));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(seconds) = wait {
            request = request.header("countersign-approval-wait", seconds);
        }
        let request = request.body(Full::new(Bytes::from_static(body.as_bytes())))?;
        self.sent.extend_from_slice(path.as_bytes());
        record(&mut self.sent, request.headers());
        self.sent.extend_from_slice(body.as_bytes());

        let (head, body) =
            sender.send_request(request).await.context("the edge did not answer")?.into_parts();
        let body = body.collect().await.context("the answer broke off")?.to_bytes();
        driving.abort();
        record(&mut self.heard, &head.headers);
        self.heard.extend_from_slice(&body);
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// CONNECT to the host through the proxy, then TLS with whatever the proxy's authority vouches for.
    async fn tunnel(&mut self) -> anyhow::Result<TlsStream<TcpStream>> {
        let (stream, status) = self.connect().await?;
        ensure!(status == 200, "the edge answered CONNECT with {status}");
        let name = ServerName::try_from(self.host)?;
        self.tls.connect(name, stream).await.context("TLS with the edge")
    }

    /// CONNECT, and the status that it was answered with.
    async fn connect(&mut self) -> anyhow::Result<(TcpStream, u16)> {
        let mut stream =
            TcpStream::connect(self.proxy).await.context("the edge cannot be reached")?;
        let connect = Zeroizing::new(format!(
            "CONNECT {0}:443 HTTP/1.1\r\nHost: {0}:443\r\nProxy-Authorization: {1}\r\n\r\n",
            self.host,
            self.proxy_authorization.as_str()
        ));
        stream.write_all(connect.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < 16 * 1024, "the edge's answer to CONNECT does not end");
            head.push(stream.read_u8().await.context("the edge hung up on CONNECT")?);
        }
        let status =
            std::str::from_utf8(&head).ok().and_then(|head| head.split(' ').nth(1)?.parse().ok());
        self.heard.append(&mut head);
        Ok((stream, status.context("the edge's answer to CONNECT is not HTTP")?))
    }
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }

    /// Of a problem document; empty when it is none.
    pub(super) fn code(&self) -> String {
        self.field("code")
    }

    /// What a problem document says to a language model.
    pub(super) fn detail(&self) -> String {
        self.field("detail")
    }

    /// For a failure.
    pub(super) fn said(&self) -> String {
        format!("{}: {}", self.status, self.text())
    }

    fn field(&self, name: &str) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        problem[name].as_str().unwrap_or_default().to_owned()
    }
}

fn record(into: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        into.extend_from_slice(name.as_str().as_bytes());
        into.extend_from_slice(b": ");
        into.extend_from_slice(value.as_bytes());
        into.push(b'\n');
    }
}
