//! The only dialler. A request that was released is written here, once, to the address that was checked; what comes
//! back is an answer or a [`Failure`] that says whether the request may have arrived.
//!
//! It resolves a name once, checks every address of it, and dials one of those it checked. It knows no proxies: the
//! environment's are ignored, since behind one the guard would check the wrong address.

mod connection;
mod dial;
mod pool;
mod postgres;
mod silence;
mod switch;
#[cfg(feature = "planted-bugs")]
mod twice;

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_gate::{Destination, Outbound, Payload, Scheme, Sent};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tracing::Instrument as _;

pub use dial::{ConnectTo, NotConnectTo, Resolve, SystemResolver};
pub(crate) use postgres::{ALPN, CancelKey, Opened};
pub use switch::Switched;

use crate::addresses::{Guard, Network};
use connection::{Manner, NotAnswered};
use dial::Dialler;
use pool::Pool;
use silence::{Over, Silence};

/// A body on its way in either direction.
pub type BoxBody = http_body_util::combinators::BoxBody<Bytes, BodyError>;
pub type BodyError = Box<dyn Error + Send + Sync>;

/// After as many pooled connections that turned out to be closed, a new one is made.
const POOLED_TRIES: usize = 2;

/// What the operator says about the way out.
pub struct Settings {
    /// Authorities that are trusted besides the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Where to dial instead; the certificate must still be that of the name asked for.
    pub connect_to: Vec<ConnectTo>,
    /// Ranges that are dialled although they are private.
    pub allow_private: Vec<Network>,
    /// Our own listeners: never dialled.
    pub forbidden: Vec<SocketAddr>,
    /// How long an upstream may be silent between the last of the request and the head of its answer, and within the
    /// body of its answer.
    pub response_header_timeout: Duration,
}

/// Writes requests upstream.
pub struct Upstream {
    dialler: Dialler,
    pool: Pool,
    response_header_timeout: Duration,
}

impl Upstream {
    /// # Errors
    /// When one of the extra roots is not a certificate that can be trusted as one.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        Self::with_resolver(settings, Arc::new(SystemResolver))
    }

    /// With another way to find the addresses of a name.
    ///
    /// # Errors
    /// As [`Upstream::new`].
    pub fn with_resolver(settings: Settings, resolver: Arc<dyn Resolve>) -> anyhow::Result<Self> {
        let Settings { extra_roots, connect_to, allow_private, forbidden, response_header_timeout } =
            settings;
        let guard = Guard::new(allow_private, forbidden);
        Ok(Self {
            dialler: Dialler::new(extra_roots, connect_to, guard, resolver)?,
            pool: Pool::default(),
            response_header_timeout,
        })
    }

    /// Checks what can be checked of a destination before anything of it is looked up: an address literal, and the
    /// names that stand for this machine. [`Upstream::send`] checks again, what it is about to dial.
    ///
    /// # Errors
    /// [`Failure::AddressDenied`].
    pub async fn check(&self, destination: &Destination) -> Result<(), Failure> {
        self.dialler.check(destination)
    }

    /// A bare connection to a destination, of whose bytes nothing is known; for what a rule says is tunnelled.
    ///
    /// # Errors
    /// [`Failure::AddressDenied`], and [`Failure::NotSent`].
    pub async fn connect(&self, destination: &Destination) -> Result<TcpStream, Failure> {
        self.dialler.tcp(destination).await
    }

    /// Writes the request once. `streamed` is the body of a request whose payload streams past. A request that a
    /// decision released gets a connection of its own; others share those of the same destination and `pool_key`,
    /// which names whose they are: the agent and the credential.
    ///
    /// The answer's head has no hop-by-hop headers; its body is as it came.
    ///
    /// # Errors
    /// [`Failure::Unknown`] once a byte of the request may have left; everything else says it did not.
    pub async fn send(
        &self,
        outbound: Outbound,
        streamed: Option<BoxBody>,
        pool_key: &str,
    ) -> Result<Response<BoxBody>, Failure> {
        let destination = outbound.destination().clone();
        let span =
            tracing::debug_span!("upstream", host = destination.host(), port = destination.port());
        self.write(outbound, streamed, destination, pool_key).instrument(span).await
    }

    async fn write(
        &self,
        outbound: Outbound,
        streamed: Option<BoxBody>,
        destination: Destination,
        pool_key: &str,
    ) -> Result<Response<BoxBody>, Failure> {
        if destination.scheme() == Scheme::Postgres || !may_carry(&outbound) {
            return Err(Failure::NotSent { why: "a key leaves over https only".into() });
        }
        let alone = outbound.request_id().is_some();
        #[cfg(feature = "planted-bugs")]
        if alone && crate::planted::planted(6) {
            return self.write_twice(outbound, destination).await;
        }
        let manner = self.manner(alone || streamed.is_some());
        let (head, body) = prepare(outbound.into_parts(), streamed)?;
        let (body, progress) = connection::watched(body);
        let mut request = head.map(|()| body);

        let shelf = (!alone).then(|| self.pool.shelf(&destination, pool_key));
        // A pooled connection may turn out to have been closed meanwhile. As long as it gives the request
        // back, nothing of it was written, and another connection may have it.
        for _ in 0..POOLED_TRIES {
            let Some(pooled) = shelf.as_ref().and_then(|shelf| shelf.take()) else { break };
            match pooled.exchange(request, &destination, &progress, manner).await {
                Ok((answer, connection)) => {
                    return receive(answer, Over { connection, shelf }, manner.patience);
                }
                Err(NotAnswered::Unwritten(returned, _)) => request = *returned,
                Err(NotAnswered::Written(why)) => return Err(Failure::Unknown { why }),
            }
        }
        let connection = self.dialler.dial(&destination).await?;
        if let Some(shelf) = &shelf {
            shelf.share(&connection);
        }
        match connection.exchange(request, &destination, &progress, manner).await {
            Ok((answer, connection)) => {
                receive(answer, Over { connection, shelf }, manner.patience)
            }
            Err(NotAnswered::Unwritten(_, why)) => Err(Failure::NotSent { why }),
            Err(NotAnswered::Written(why)) => Err(Failure::Unknown { why }),
        }
    }

    fn manner(&self, apart: bool) -> Manner {
        Manner { patience: self.response_header_timeout, apart }
    }
}

/// Whether what it has may leave over HTTP: a key does so over https alone.
fn may_carry(outbound: &Outbound) -> bool {
    !outbound.keyed() || outbound.destination().scheme() == Scheme::Https
}

/// Why there is no answer, and whether the request may have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The destination is, or resolves to, an address that agents may not reach. Nothing was dialled.
    AddressDenied { host: String, address: Option<IpAddr>, why: String },
    /// No byte of the request left.
    NotSent { why: String },
    /// It may have arrived, and may have been carried out.
    Unknown { why: String },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressDenied { host, address: Some(address), why }
                if address.to_string() != *host =>
            {
                write!(f, "not sent: {host} is at {address}, which agents may not reach: {why}")
            }
            Self::AddressDenied { host, why, .. } => {
                write!(f, "not sent: agents may not reach {host}: {why}")
            }
            Self::NotSent { why } => write!(f, "not sent: {why}"),
            Self::Unknown { why } => write!(f, "sent, but the outcome is unknown: {why}"),
        }
    }
}

impl Error for Failure {}

/// Head and body as they will be written, still in origin form.
fn prepare(sent: Sent, streamed: Option<BoxBody>) -> Result<(Request<()>, BoxBody), Failure> {
    let Sent { method, uri, mut headers, payload } = sent;
    let body = match (payload, streamed) {
        (Payload::Whole(bytes), None) => Full::new(bytes).map_err(|never| match never {}).boxed(),
        (Payload::Streamed, Some(body)) => body,
        (Payload::Streamed, None) | (Payload::Whole(_), Some(_)) => {
            return Err(Failure::NotSent {
                why: "the request and its body do not belong together".into(),
            });
        }
    };
    // Written out even where it is zero: servers wait for, or refuse, a POST of which they don't know the length.
    let announced =
        |length: u64| length > 0 || matches!(method, Method::PATCH | Method::POST | Method::PUT);
    if let Some(length) = body.size_hint().exact().filter(|length| announced(*length)) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok((request, body))
}

/// The answer as it may go on: without what belonged to the one connection, and without what would lead the
/// agent's client around us.
fn receive(
    answer: Response<Incoming>,
    over: Over,
    patience: Duration,
) -> Result<Response<BoxBody>, Failure> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::Unknown {
            why: "the upstream switched to another protocol unasked".into(),
        });
    }
    // Nothing was asked for by TE: a coding of the transfer would be one that the agent gets undecoded, and that
    // nobody looked into.
    let mut codings = answer.headers().get_all(header::TRANSFER_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Failure::Unknown {
            why: "the answer came in a transfer coding that nobody asked for".into(),
        });
    }
    Ok(without_hops(answer).map(|body| Silence::new(body, over, patience).boxed()))
}

fn without_hops(mut answer: Response<Incoming>) -> Response<Incoming> {
    strip_hop_by_hop(answer.headers_mut());
    answer.headers_mut().remove(header::ALT_SVC);
    // The reason phrase travels in here, and so would an upgrade: neither is the agent's.
    answer.extensions_mut().clear();
    answer
}

/// RFC 9110 §7.6.1: what Connection names, and what is hop-by-hop without being named.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    static HOP_BY_HOP: [HeaderName; 8] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        header::PROXY_AUTHENTICATE,
        HeaderName::from_static("proxy-connection"),
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .collect();
    let hop = |name: &&HeaderName| HOP_BY_HOP.contains(name) || named.contains(name);
    let hops: Vec<HeaderName> = headers.keys().filter(hop).cloned().collect();
    for name in &hops {
        headers.remove(name);
    }
}

/// What goes over HTTP/2 instead of the Host header.
fn absolute(destination: &Destination, uri: &Uri) -> Result<Uri, http::Error> {
    let mut builder =
        Uri::builder().scheme(destination.scheme().as_str()).authority(destination.authority());
    if let Some(target) = uri.path_and_query() {
        builder = builder.path_and_query(target.clone());
    }
    builder.build()
}
