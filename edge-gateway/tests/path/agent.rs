//! An agent that writes bytes: what goes over the socket is what the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[derive(Clone)]
pub(crate) struct Agent {
    proxy: SocketAddr,
    roots: Arc<RootCertStore>,
    credential: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The problem's code; empty for anything else.
    pub(crate) fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) type Tunnel = TlsStream<TcpStream>;

impl Agent {
    pub(crate) fn new(proxy: SocketAddr, ca_pem: &str, name: &str, token: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("a certificate"))
            .expect("a root");
        Self {
            proxy,
            roots: Arc::new(roots),
            credential: STANDARD.encode(format!("{name}:{token}")),
        }
    }

    /// The same agent with another token.
    pub(crate) fn pretending(&self, name: &str, token: &str) -> Self {
        Self { credential: STANDARD.encode(format!("{name}:{token}")), ..self.clone() }
    }

    pub(crate) fn authorization(&self) -> String {
        format!("Proxy-Authorization: Basic {}\r\n", self.credential)
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.expect("the proxy listens")
    }

    /// Sends these bytes to the proxy itself.
    pub(crate) async fn to_proxy(&self, bytes: &str) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.expect("written");
        read(&mut stream).await.expect("an answer")
    }

    /// CONNECT to `authority`, whatever that is.
    pub(crate) async fn ask_for(&self, authority: &str) -> (Answer, TcpStream) {
        let mut stream = self.connect().await;
        let head = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{}\r\n",
            self.authorization()
        );
        stream.write_all(head.as_bytes()).await.expect("written");
        let answer = read_head(&mut stream).await.expect("an answer");
        (answer, stream)
    }

    /// A tunnel to port 443, HTTP/1.1 inside.
    pub(crate) async fn tunnel(&self, host: &str) -> Tunnel {
        self.tunnel_with(host, host, &[]).await.expect("a tunnel")
    }

    pub(crate) async fn tunnel_with(
        &self,
        host: &str,
        sni: &str,
        alpn: &[&[u8]],
    ) -> std::io::Result<Tunnel> {
        let (answer, stream) = self.ask_for(&format!("{host}:443")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.shake(stream, sni, alpn).await
    }

    /// TLS through a tunnel that is there, HTTP/1.1 inside.
    pub(crate) async fn over(&self, stream: TcpStream, sni: &str) -> std::io::Result<Tunnel> {
        self.shake(stream, sni, &[]).await
    }

    async fn shake(&self, stream: TcpStream, sni: &str, alpn: &[&[u8]]) -> std::io::Result<Tunnel> {
        let mut config = ClientConfig::builder()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(sni.to_owned()).expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// One request through a tunnel of its own. `Host` is written for you unless it is in `rest`.
    pub(crate) async fn send(&self, host: &str, line: &str, rest: &str, body: &str) -> Answer {
        let mut tunnel = self.tunnel(host).await;
        send(&mut tunnel, host, line, rest, body).await
    }
}

/// One request through a tunnel that stays open.
pub(crate) async fn send(
    tunnel: &mut Tunnel,
    host: &str,
    line: &str,
    rest: &str,
    body: &str,
) -> Answer {
    tunnel.write_all(request(host, line, rest, body).as_bytes()).await.expect("written");
    read(tunnel).await.expect("an answer")
}

pub(crate) fn request(host: &str, line: &str, rest: &str, body: &str) -> String {
    let host = if rest.to_ascii_lowercase().contains("host:") {
        String::new()
    } else {
        format!("Host: {host}\r\n")
    };
    let length = match (body, rest.to_ascii_lowercase().contains("transfer-encoding")) {
        ("", _) | (_, true) => String::new(),
        (body, false) => format!("Content-Length: {}\r\n", body.len()),
    };
    format!("{line} HTTP/1.1\r\n{host}{length}{rest}\r\n{body}")
}

/// Reads one answer.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<Answer> {
    let mut answer = read_head(stream).await?;
    let mut body = Vec::new();
    if let Some(length) =
        answer.header("content-length").and_then(|length| length.parse::<usize>().ok())
    {
        body.resize(length, 0);
        stream.read_exact(&mut body).await?;
    } else if answer.header("transfer-encoding").is_some() {
        loop {
            let line = read_line(stream).await?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
    Ok(answer)
}

pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Answer> {
    let reading = async {
        let mut head = String::new();
        loop {
            let line = read_line(stream).await?;
            if line.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if line.trim().is_empty() {
                break;
            }
            head.push_str(&line);
        }
        let status =
            head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Ok(Answer { status, head, body: String::new() })
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.map_err(std::io::Error::other)?
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0; 1];
    while stream.read(&mut byte).await? == 1 {
        line.push(byte[0]);
        if byte[0] == b'\n' {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
