//! The only door to issuers of tokens: the address that a credential names, checked and dialled as it was checked. No
//! redirects, no proxies of the environment, bounded time and size (C-15).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use countersign_gate::{Destination, Scheme};
use countersign_policy::addresses::{Network, closed_to};
use http::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use super::call::{Answer, Call, NoToken};
use super::target::Target;

/// From the name to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
const ANSWER_BYTES: usize = 64 * 1024;

/// What an operator says about the way to issuers.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Authorities that are trusted besides the system's.
    pub roots: Vec<CertificateDer<'static>>,
    /// Ranges that are dialled although they are not public; only there is http spoken.
    pub allow_private: Vec<Network>,
    pub connect_to: Vec<ConnectTo>,
}

/// `HOST:PORT:ADDRESS:PORT`, as curl writes it: what is for the first pair is dialled at the second. The certificate
/// must still be that of the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTo {
    host: String,
    port: u16,
    to: SocketAddr,
}

impl FromStr for ConnectTo {
    type Err = NotConnectTo;

    fn from_str(text: &str) -> Result<Self, NotConnectTo> {
        let (host, rest) = text.split_once(':').ok_or(NotConnectTo)?;
        let (port, to) = rest.split_once(':').ok_or(NotConnectTo)?;
        let named = format!("{host}:{port}");
        let named = Destination::parse(Scheme::Https, &named, None).map_err(|_| NotConnectTo)?;
        let to = to.parse().map_err(|_| NotConnectTo)?;
        Ok(Self { host: named.host().to_owned(), port: named.port(), to })
    }
}

/// Text that is not in that form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotConnectTo;

impl fmt::Display for NotConnectTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not HOST:PORT:ADDRESS:PORT (an IPv6 address goes in brackets)")
    }
}

impl std::error::Error for NotConnectTo {}

pub(super) struct Client {
    settings: Settings,
    /// Made when it is needed first: to read the system's authorities takes a while.
    tls: OnceLock<TlsConnector>,
}

impl Client {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, tls: OnceLock::new() }
    }

    /// Whether an address over plain http could ever be called.
    pub(super) fn speaks_http(&self) -> bool {
        !self.settings.allow_private.is_empty()
    }

    /// Sends it once.
    pub(super) async fn send(&self, call: Call) -> Result<Answer, NoToken> {
        let sent = timeout(PATIENCE, self.exchange(call)).await;
        sent.unwrap_or_else(|_| Err(NoToken::for_now("its issuer did not answer in time")))
    }

    async fn exchange(&self, call: Call) -> Result<Answer, NoToken> {
        let target = Target::parse(&call.url)
            .map_err(|why| NoToken::for_good(format!("it names an address {why}")))?;
        let stream = self.dial(&target.destination).await?;
        let broke = || NoToken::for_now("the connection to its issuer broke");
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|_| broke())?;
        let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = request(call, &target)?;
        let answer = sender.send_request(request).await.map_err(|_| broke())?;
        let status = answer.status().as_u16();
        let mut incoming = answer.into_body();
        // As large as it may get: a buffer that moves leaves a copy behind.
        let mut body = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES));
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(|_| broke())?.into_data() else { continue };
            if body.len() + data.len() > ANSWER_BYTES {
                return Err(NoToken::for_good("its issuer's answer is larger than 64 KiB"));
            }
            body.extend_from_slice(&data);
        }
        Ok(Answer { status, body })
    }

    async fn dial(
        &self,
        destination: &Destination,
    ) -> Result<Either<tokio_rustls::client::TlsStream<TcpStream>, TcpStream>, NoToken> {
        let unreached = || NoToken::for_now("its issuer cannot be reached");
        let addresses = self.addresses(destination).await?;
        let tcp = timeout(CONNECT_PATIENCE, TcpStream::connect(addresses.as_slice())).await;
        let tcp = tcp.map_err(|_| unreached())?.map_err(|_| unreached())?;
        if destination.scheme() == Scheme::Http {
            return Ok(Either::Right(tcp));
        }
        let untrusted = || {
            NoToken::for_now("its issuer shows no certificate of that name that is trusted here")
        };
        let name = ServerName::try_from(destination.host().to_owned()).map_err(|_| untrusted())?;
        let tls = self.tls().ok_or_else(untrusted)?;
        tls.connect(name, tcp).await.map(Either::Left).map_err(|_| untrusted())
    }

    /// Looked up once, each of them checked, and dialled as it was checked.
    async fn addresses(&self, destination: &Destination) -> Result<Vec<SocketAddr>, NoToken> {
        let (host, port) = (destination.host(), destination.port());
        let told = self.settings.connect_to.iter().find(|it| it.host == host && it.port == port);
        if let Some(told) = told.filter(|_| destination.scheme() == Scheme::Https) {
            return Ok(vec![told.to]);
        }
        let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(literal) => vec![SocketAddr::new(literal, port)],
            Err(_) => {
                let found = tokio::net::lookup_host((host, port)).await;
                found
                    .map_err(|_| NoToken::for_now("the name of its issuer has no address"))?
                    .collect()
            }
        };
        let allowed = &self.settings.allow_private;
        for ip in found.iter().map(SocketAddr::ip) {
            if let Some(range) = closed_to(ip, allowed) {
                return Err(NoToken::for_good(format!(
                    "its issuer is at {ip}, which is not called ({range}): an operator can allow that range in `mint.allow_private`"
                )));
            }
            // In the clear it would be anybody's on the way.
            if destination.scheme() == Scheme::Http
                && !allowed.iter().any(|network| network.contains(ip))
            {
                return Err(NoToken::for_good(format!(
                    "its issuer is at {ip}, which is not called without TLS"
                )));
            }
        }
        Ok(found)
    }

    fn tls(&self) -> Option<TlsConnector> {
        if let Some(made) = self.tls.get() {
            return Some(made.clone());
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(self.settings.roots.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Some(self.tls.get_or_init(|| TlsConnector::from(Arc::new(config))).clone())
    }
}

fn request(call: Call, target: &Target) -> Result<Request<Full<Bytes>>, NoToken> {
    let unsendable = || NoToken::for_good("what is stored cannot be sent in a header: rotate it");
    // Overwritten when the last of them is dropped.
    let body = Bytes::from_owner(call.body);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.path.parse().map_err(|_| unsendable())?;
    let headers = request.headers_mut();
    let host = HeaderValue::try_from(target.destination.authority()).map_err(|_| unsendable())?;
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, HeaderValue::from_static("countersign"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(call.content_type));
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("application/json"));
    for (name, value) in call.headers {
        let bytes = Bytes::from_owner(Zeroizing::new(value.as_bytes().to_vec()));
        let mut value = HeaderValue::from_maybe_shared(bytes).map_err(|_| unsendable())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(url: &str, settings: Settings) -> String {
        let call = Call {
            url: url.into(),
            headers: Vec::new(),
            content_type: "application/json",
            body: Zeroizing::new(Vec::new()),
        };
        Client::new(settings).send(call).await.err().expect("is not sent").why
    }

    #[tokio::test]
    async fn c_15_what_is_not_public_is_called_only_where_an_operator_allowed_the_range() {
        for url in [
            "https://127.0.0.1:9/",
            "https://169.254.169.254/latest",
            "https://10.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:169.254.169.254]/",
            "https://localhost:9/",
            "https://0.0.0.0/",
        ] {
            let why = refused(url, Settings::default()).await;
            assert!(why.contains("mint.allow_private"), "{url}: {why}");
        }
        let allow_private = vec!["10.0.0.0/8".parse().expect("a range")];
        let why =
            refused("https://127.0.0.1:9/", Settings { allow_private, ..Settings::default() });
        assert!(why.await.contains("mint.allow_private"), "another range opens nothing");
    }

    #[tokio::test]
    async fn c_15_plain_http_is_spoken_only_in_a_range_that_an_operator_allowed() {
        let why = refused("http://8.8.8.8:9/", Settings::default()).await;
        assert!(why.contains("without TLS"), "{why}");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("listens");
        let allow_private = vec!["127.0.0.0/8".parse().expect("a range")];
        let settings = Settings { allow_private, ..Settings::default() };
        let url = format!("http://{address}/");
        let (why, accepted) =
            tokio::join!(refused(&url, settings), async { listener.accept().await.map(drop) });
        assert!(accepted.is_ok() && why.contains("broke"), "it was dialled: {why}");
    }

    #[test]
    fn a_way_around_is_written_as_curl_writes_it() {
        let read: ConnectTo = "Auth.Example.com:443:127.0.0.1:8443".parse().expect("is read");
        assert_eq!((read.host.as_str(), read.port), ("auth.example.com", 443));
        assert_eq!(read.to, "127.0.0.1:8443".parse().expect("an address"));
        assert!("a.example:443:[::1]:8443".parse::<ConnectTo>().is_ok());
        for other in [
            "",
            "a.example",
            "a.example:443",
            "a.example::127.0.0.1:1",
            "a.example:443:b.example:1",
        ] {
            assert!(other.parse::<ConnectTo>().is_err(), "{other}");
        }
    }
}
