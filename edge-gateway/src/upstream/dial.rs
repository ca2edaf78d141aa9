//! From a destination to a connection: where it is, whether it may be dialled, and whether it is who it should be.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use countersign_gate::{Destination, Scheme};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connection::Connection;
use super::{Failure, postgres};
use crate::addresses::Guard;
use crate::ahead::{Ahead, Together};
use crate::tls;

/// From the name to the end of the TLS handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long an address has before the next one is tried as well (RFC 8305 §5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Finds the addresses of a name.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `host`, with `port`; asked once per connection.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The machine's own resolver.
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// `HOST:PORT:ADDR:PORT`, as curl's `--connect-to`: requests to the first pair go to the second. An empty host or
/// port on the left stands for any, on the right for the one asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTo {
    from: (Option<String>, Option<u16>),
    to: (Option<String>, Option<u16>),
}

impl ConnectTo {
    /// Whether it is about that destination.
    fn is_about(&self, destination: &Destination) -> bool {
        let (host, port) = &self.from;
        host.as_deref().is_none_or(|host| host == destination.host())
            && port.is_none_or(|port| port == destination.port())
    }

    /// Host (or address literal) and port to dial instead, if this is about that destination.
    fn applied(&self, destination: &Destination) -> Option<(String, u16)> {
        let (host, port) = &self.to;
        self.is_about(destination).then(|| {
            (
                host.clone().unwrap_or_else(|| destination.host().into()),
                port.unwrap_or_else(|| destination.port()),
            )
        })
    }
}

impl FromStr for ConnectTo {
    type Err = NotConnectTo;

    fn from_str(text: &str) -> Result<Self, NotConnectTo> {
        let (from_host, rest) = host(text)?;
        let (from_port, rest) = rest.split_once(':').ok_or(NotConnectTo)?;
        let (to_host, to_port) = host(rest)?;
        let port = |text: &str| match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| NotConnectTo),
        };
        Ok(Self { from: (from_host, port(from_port)?), to: (to_host, port(to_port)?) })
    }
}

impl fmt::Display for ConnectTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = |(host, port): &(Option<String>, Option<u16>)| {
            let host = host.as_deref().unwrap_or_default();
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            format!("{host}:{}", port.map(|port| port.to_string()).unwrap_or_default())
        };
        write!(f, "{}:{}", pair(&self.from), pair(&self.to))
    }
}

/// The host before the next colon, brackets taken off, and what follows it.
fn host(text: &str) -> Result<(Option<String>, &str), NotConnectTo> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => inner.split_once("]:").ok_or(NotConnectTo)?,
        None => text.split_once(':').ok_or(NotConnectTo)?,
    };
    Ok(((!host.is_empty()).then(|| host.to_ascii_lowercase()), rest))
}

/// Text that is not in curl's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotConnectTo;

impl fmt::Display for NotConnectTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not HOST:PORT:ADDR:PORT (an IPv6 address goes in brackets)")
    }
}

impl std::error::Error for NotConnectTo {}

pub(super) struct Dialler {
    guard: Guard,
    connect_to: Vec<ConnectTo>,
    resolver: Arc<dyn Resolve>,
    tls: TlsConnector,
    /// Offers HTTP/1.1 alone.
    tls_one: TlsConnector,
    /// Offers Postgres alone.
    tls_postgres: TlsConnector,
}

impl Dialler {
    pub(super) fn new(
        extra_roots: Vec<CertificateDer<'static>>,
        connect_to: Vec<ConnectTo>,
        guard: Guard,
        resolver: Arc<dyn Resolve>,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        // Single certificates of the system's store that don't parse are the system's business.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for root in extra_roots {
            roots.add(root).context(
                "an additional upstream CA is not a certificate that can be trusted as one",
            )?;
        }
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .context("setting up TLS for upstreams")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls_one = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols = vec![postgres::ALPN.to_vec()];
        let tls_postgres = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { guard, connect_to, resolver, tls, tls_one, tls_postgres })
    }

    pub(super) fn check(&self, destination: &Destination) -> Result<(), Failure> {
        if named_by_the_operator(destination)
            || self.connect_to.iter().any(|rule| rule.is_about(destination))
        {
            return Ok(());
        }
        let host = destination.host();
        let local = host == "localhost" || host.ends_with(".localhost");
        match host.parse::<IpAddr>() {
            Ok(ip) => self.checked(host, SocketAddr::new(ip, destination.port())),
            // RFC 6761 §6.3: whatever a resolver makes of it, this machine is meant.
            Err(_) if local => {
                self.checked(host, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), destination.port()))
            }
            Err(_) => Ok(()),
        }
    }

    fn checked(&self, host: &str, address: SocketAddr) -> Result<(), Failure> {
        self.guard.check(address).map_err(|closed| Failure::AddressDenied {
            host: host.into(),
            address: Some(address.ip()),
            why: closed.to_string(),
        })
    }

    pub(super) async fn dial(&self, destination: &Destination) -> Result<Connection, Failure> {
        in_time(destination, self.connect(destination)).await
    }

    /// A connection of HTTP/1.1 that an answer may take out of HTTP.
    pub(super) async fn dial_to_switch(
        &self,
        destination: &Destination,
    ) -> Result<Connection, Failure> {
        let connected = async {
            let tcp = self.connect_tcp(destination).await?;
            let connection = match destination.scheme() {
                Scheme::Http => Connection::to_switch(tcp).await,
                Scheme::Https => {
                    let tls = shake(&self.tls_one, destination, tcp).await?;
                    Connection::to_switch(Together::new(tls)).await
                }
                Scheme::Postgres => return Err(no_http(destination)),
            };
            connection.map_err(|e| not_sent(destination, e))
        };
        in_time(destination, connected).await
    }

    /// A connection to a Postgres server, encrypted, and with nothing else on it.
    pub(super) async fn postgres(
        &self,
        destination: &Destination,
    ) -> Result<TlsStream<Ahead<TcpStream>>, Failure> {
        let connected = async {
            let mut tcp = self.connect_tcp(destination).await?;
            postgres::ask_for_tls(&mut tcp).await.map_err(|why| not_sent(destination, why))?;
            shake(&self.tls_postgres, destination, tcp).await
        };
        in_time(destination, connected).await
    }

    /// A connection without anything on it.
    pub(super) async fn tcp(&self, destination: &Destination) -> Result<TcpStream, Failure> {
        in_time(destination, self.connect_tcp(destination)).await
    }

    async fn connect(&self, destination: &Destination) -> Result<Connection, Failure> {
        let tcp = self.connect_tcp(destination).await?;
        let connection = match destination.scheme() {
            Scheme::Http => Connection::one(tcp).await,
            Scheme::Https => {
                let tls = shake(&self.tls, destination, tcp).await?;
                match tls.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Connection::two(Together::new(tls)).await,
                    _ => Connection::one(Together::new(tls)).await,
                }
            }
            Scheme::Postgres => return Err(no_http(destination)),
        };
        connection.map_err(|e| not_sent(destination, e))
    }

    async fn connect_tcp(&self, destination: &Destination) -> Result<TcpStream, Failure> {
        let addresses = self.addresses(destination).await?;
        let tcp = race(&addresses).await.map_err(|e| not_sent(destination, e))?;
        tcp.set_nodelay(true).map_err(|e| not_sent(destination, e))?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive).map_err(|e| not_sent(destination, e))?;
        Ok(tcp)
    }

    /// Where to dial: looked up once, and each of them allowed. A name of which one address is closed is closed
    /// altogether, since nobody has honest business with such a name.
    async fn addresses(&self, destination: &Destination) -> Result<Vec<SocketAddr>, Failure> {
        let redirected = self.connect_to.iter().find_map(|rule| rule.applied(destination));
        let (host, port) = match &redirected {
            Some((host, port)) => (host.as_str(), *port),
            None => (destination.host(), destination.port()),
        };
        let addresses =
            match host.parse::<IpAddr>() {
                Ok(ip) => vec![SocketAddr::new(ip, port)],
                Err(_) => self.resolver.resolve(host, port).await.map_err(|e| {
                    not_sent(destination, format!("its address was not found: {e}"))
                })?,
            };
        if addresses.is_empty() {
            return Err(not_sent(destination, "it has no address"));
        }
        for address in &addresses {
            match redirected {
                None if !named_by_the_operator(destination) => {
                    self.checked(destination.host(), *address)?;
                }
                _ => self.guard.check_own(*address).map_err(|closed| Failure::AddressDenied {
                    host: destination.host().into(),
                    address: Some(address.ip()),
                    why: closed.to_string(),
                })?,
            }
        }
        Ok(addresses)
    }
}

/// Where a Postgres server is says the edge's configuration, and never an agent.
fn named_by_the_operator(destination: &Destination) -> bool {
    destination.scheme() == Scheme::Postgres
}

fn no_http(destination: &Destination) -> Failure {
    not_sent(destination, "a Postgres server speaks no HTTP")
}

async fn in_time<T>(
    destination: &Destination,
    connecting: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(CONNECT_LIMIT, connecting).await.unwrap_or_else(|_| {
        let why = format!("no connection within {} s", CONNECT_LIMIT.as_secs());
        Err(not_sent(destination, why))
    })
}

/// TLS, with a certificate of the name that was asked for.
async fn shake(
    tls: &TlsConnector,
    destination: &Destination,
    tcp: TcpStream,
) -> Result<TlsStream<Ahead<TcpStream>>, Failure> {
    let name = ServerName::try_from(destination.host().to_owned())
        .map_err(|_| not_sent(destination, "no certificate can be made out to that name"))?;
    tls.connect(name, Ahead::new(tcp)).await.map_err(|e| not_sent(destination, e))
}

/// The first address that answers, each given a head start over the next.
async fn race(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut attempts = FuturesUnordered::new();
    let mut waiting = addresses.iter();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    if let Some(address) = waiting.next() {
        attempts.push(TcpStream::connect(*address));
    }
    while !attempts.is_empty() {
        match tokio::time::timeout(NEXT_ADDRESS_AFTER, attempts.next()).await {
            Ok(Some(Ok(stream))) => return Ok(stream),
            Ok(Some(Err(error))) => last = error,
            Ok(None) | Err(_) => {}
        }
        if let Some(address) = waiting.next() {
            attempts.push(TcpStream::connect(*address));
        }
    }
    Err(last)
}

fn not_sent(destination: &Destination, why: impl fmt::Display) -> Failure {
    Failure::NotSent { why: format!("no connection to {}: {why}", destination.authority()) }
}
