//! From what a client sent to what will leave, save for the key: the request's head is read strictly, what belongs
//! to the connection is taken off, and what may be held is taken in whole.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use countersign_gate::{Destination, Scheme};
use countersign_policy::{Head, Policy};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use crate::agent::{Seats, Spooled};
use crate::names;
use crate::pace::Pace;
use crate::refuse::Refusal;
use crate::upstream::strip_hop_by_hop;

/// A request's head on its way to being frozen.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) destination: Destination,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    /// `h1` or `h2`.
    pub(crate) protocol: &'static str,
    /// How long the agent asks to be held.
    pub(crate) wait: Option<Duration>,
    /// What its connection is asked to become.
    pub(crate) upgrade: Upgrade,
}

/// What a request asks its connection to become (RFC 9110 §7.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// Nothing, or another HTTP or TLS: whoever asks for these goes on without them.
    Nothing,
    /// Something of this name that nobody here can look into. Whoever asks for it has no use for a plain answer.
    Other(String),
    WebSocket,
}

const APPROVAL_WAIT: &str = "countersign-approval-wait";
/// The whole body must be here by then.
const BODY_TIME: Duration = Duration::from_secs(30);
const SMALL: usize = 16 * 1024;
/// The largest target and the largest header, and how many of these.
const LONGEST_LINE: usize = 8 * 1024;
const MOST_HEADERS: usize = 100;
/// All headers together.
const LARGEST_HEAD: usize = 64 * 1024;

impl Draft {
    /// Reads a head that came through the tunnel to `tunnel`.
    ///
    /// # Errors
    /// Anything that two readers could take for two requests.
    pub(crate) fn tunnelled(
        parts: request::Parts,
        tunnel: &Destination,
        policy: &Policy,
    ) -> Result<Self, Refusal> {
        let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned());
        if parts.uri.scheme().is_some_and(|scheme| scheme.as_str() != "https") {
            return Err(bad("a scheme other than https inside a TLS tunnel"));
        }
        match (parts.version, &authority) {
            (Version::HTTP_2, None) => return Err(bad("an HTTP/2 request without :authority")),
            (Version::HTTP_2, Some(authority)) => same(authority, tunnel, ":authority")?,
            (_, Some(authority)) if !names(authority, tunnel) => {
                return Err(bad("a request line that names another host than the tunnel"));
            }
            _ => {}
        }
        hosts(&parts, tunnel, parts.version == Version::HTTP_11)?;
        let upgrade =
            if is_handshake(&parts) { Upgrade::WebSocket } else { upgrade(&parts.headers) };
        let draft = Self::read(parts, tunnel.clone(), policy)?;
        Ok(Self { upgrade, ..draft })
    }

    /// Reads a head in absolute form that came to the proxy itself: plain http, which never carries a key.
    ///
    /// # Errors
    /// As [`Draft::tunnelled`].
    pub(crate) fn proxied(parts: request::Parts, policy: &Policy) -> Result<Self, Refusal> {
        if parts.uri.scheme() != Some(&http::uri::Scheme::HTTP) {
            return Err(bad(
                "an absolute URL that is not http (for https, open a tunnel with CONNECT)",
            ));
        }
        let authority =
            parts.uri.authority().ok_or_else(|| bad("an absolute URL without a host"))?;
        let destination = Destination::parse(Scheme::Http, authority.as_str(), Some(80))
            .map_err(|why| Refusal::BadRequest { why: format!("the URL's host is {why}") })?;
        if !names::is_plain(&destination) {
            return Err(bad("a URL with an xn-- host that is not written as its letters are"));
        }
        hosts(&parts, &destination, false)?;
        Self::read(parts, destination, policy)
    }

    fn read(
        parts: request::Parts,
        destination: Destination,
        policy: &Policy,
    ) -> Result<Self, Refusal> {
        const METHODS: [Method; 7] = [
            Method::DELETE,
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::PATCH,
            Method::POST,
            Method::PUT,
        ];
        let request::Parts { method, uri, version, mut headers, .. } = parts;
        if !METHODS.contains(&method) {
            return Err(Refusal::MethodNotAllowed);
        }
        small_enough(&uri, &headers)?;
        framing(&headers)?;
        if headers.values().any(is_padded) {
            return Err(bad("a header with white space around its value, which readers take away"));
        }
        if matches!(method, Method::GET | Method::HEAD) && announces_body(&headers) {
            return Err(bad("a GET or HEAD with a body, which servers read in different ways"));
        }
        for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
            if headers.contains_key(name) {
                return Err(Refusal::AmbiguousTarget {
                    why: format!("{name} names a second method"),
                });
            }
        }
        let named = |pair: &str| {
            percent_decode_str(pair.split('=').next().unwrap_or(pair)).eq("_method".bytes())
        };
        if uri.query().is_some_and(|query| query.split('&').any(named)) {
            return Err(Refusal::AmbiguousTarget {
                why: "_method in the query names a second method".into(),
            });
        }
        let path = uri.path().to_owned();
        let query = uri.query().map(str::to_owned);
        policy
            .check_target(&destination, &path, query.as_deref())
            .map_err(|why| Refusal::AmbiguousTarget { why: format!("there is {why}") })?;
        let upgrade = upgrade(&headers);
        let wait = approval_wait(&headers)?.or_else(|| grpc_patience(&headers));
        strip(&mut headers);
        join_cookies(&mut headers);
        let protocol = if version == Version::HTTP_2 { "h2" } else { "h1" };
        Ok(Self { destination, method, path, query, headers, protocol, wait, upgrade })
    }

    /// Lets go of the connection's read buffer, which header values are slices of: it is many times their size, and
    /// a request that is held would keep it.
    pub(crate) fn detach(&mut self) {
        for value in self.headers.values_mut() {
            let sensitive = value.is_sensitive();
            if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
                copy.set_sensitive(sensitive);
                *value = copy;
            }
        }
    }

    /// What the policy looks at before the body.
    pub(crate) fn head<'a>(&'a self, agent: &'a str) -> Head<'a> {
        Head {
            agent,
            destination: &self.destination,
            method: &self.method,
            path: crate::planted::path(&self.path),
            query: self.query.as_deref(),
            headers: &self.headers,
        }
    }
}

/// Takes the whole body in, without its trailers, and what it takes of the agent's room for bodies.
///
/// # Errors
/// When it is larger than `limit` or than what is left of that room, does not arrive in time, or breaks off.
pub(crate) async fn spool(
    body: Incoming,
    limit: usize,
    seats: &Seats,
) -> Result<(Bytes, Option<Spooled>), Refusal> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Refusal::BodyTooLarge { limit });
    }
    let mut spooled = None;
    let taking = tokio::time::timeout(BODY_TIME, take_in(body, limit, seats, &mut spooled));
    let whole = taking.await.unwrap_or(Err(Refusal::BodyTooSlow))?;
    Ok((whole, spooled))
}

async fn take_in(
    mut body: Incoming,
    limit: usize,
    seats: &Seats,
    spooled: &mut Option<Spooled>,
) -> Result<Bytes, Refusal> {
    let mut whole = BytesMut::new();
    let mut pace = Pace::default();
    loop {
        let next = poll_fn(|context| match Pin::new(&mut body).poll_frame(context) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => pace.waits(context).map(|()| Err(Refusal::BodyTooSlow)),
        });
        let Some(frame) = next.await? else { break };
        let frame = frame.map_err(|_| bad("the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        pace.came(data.len());
        if whole.len() + data.len() > limit {
            return Err(Refusal::BodyTooLarge { limit });
        }
        seats.spool(data.len(), spooled)?;
        if whole.is_empty() && body.is_end_stream() {
            // A small one is a slice of a read buffer that is larger than it.
            return Ok(if data.len() < SMALL { Bytes::copy_from_slice(&data) } else { data });
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Host headers must name the destination; `required`: and there must be one.
fn hosts(parts: &request::Parts, destination: &Destination, required: bool) -> Result<(), Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if required => Err(bad("no Host header")),
        (None, _) => Ok(()),
        (Some(_), Some(_)) => Err(bad("more than one Host header")),
        (Some(host), None) => {
            let host = host.to_str().map_err(|_| bad("a Host header that is not ASCII"))?;
            same(host, destination, "Host")
        }
    }
}

fn same(authority: &str, destination: &Destination, what: &str) -> Result<(), Refusal> {
    if authority.contains('@') {
        return Err(bad("user information in front of the host"));
    }
    if names(authority, destination) {
        return Ok(());
    }
    Err(Refusal::DestinationMismatch { why: format!("{what} is not {}", destination.authority()) })
}

fn names(authority: &str, destination: &Destination) -> bool {
    let default_port = match destination.scheme() {
        Scheme::Http => 80,
        Scheme::Https => 443,
        Scheme::Postgres => 5432,
    };
    // Nearly always it is written just so.
    let plainly = authority == destination.host() && !authority.contains(':');
    (plainly && destination.port() == default_port)
        || Destination::parse(destination.scheme(), authority, Some(default_port))
            .is_ok_and(|named| named == *destination)
}

/// Nothing in a head is larger than servers take. What is far larger was refused by our HTTP library.
fn small_enough(uri: &http::Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let too_large = |what| Err(Refusal::HeadTooLarge { what });
    if uri.path_and_query().is_some_and(|target| target.as_str().len() > LONGEST_LINE) {
        return too_large("a path and query of more than 8 KiB");
    }
    if headers.len() > MOST_HEADERS {
        return too_large("more than 100 headers");
    }
    let mut all = 0;
    for (name, value) in headers {
        let line = name.as_str().len() + value.len();
        if line > LONGEST_LINE {
            return too_large("a header of more than 8 KiB");
        }
        all += line;
    }
    if all > LARGEST_HEAD {
        return too_large("more than 64 KiB of headers");
    }
    Ok(())
}

/// The only transfer coding is `chunked`, once. Anything else was read in one way by our HTTP library and could be
/// read in another by the upstream.
fn framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), None) => Err(bad("a transfer coding other than chunked")),
        (Some(_), Some(_)) => Err(bad("more than one Transfer-Encoding header")),
    }
}

fn announces_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
}

fn approval_wait(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get(APPROVAL_WAIT) else { return Ok(None) };
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    let seconds =
        seconds.ok_or_else(|| bad("Countersign-Approval-Wait is not a number of seconds"))?;
    Ok(Some(Duration::from_secs(seconds)))
}

/// What the deadline of a gRPC call leaves for a hold: after it nobody would hear an answer.
fn grpc_patience(headers: &HeaderMap) -> Option<Duration> {
    /// For the call itself.
    const MARGIN: Duration = Duration::from_secs(1);
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
    let deadline = match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(deadline.saturating_sub(MARGIN))
}

/// What Upgrade names, where that is no handshake of a WebSocket.
fn upgrade(headers: &HeaderMap) -> Upgrade {
    /// What only looks like a handshake is none, and its Upgrade stays here.
    const DONE_WITHOUT: [&str; 5] = ["h2", "h2c", "http", "tls", "websocket"];
    const LONGEST: usize = 40;
    let named = headers.get_all(header::UPGRADE).iter();
    let named: Vec<_> = named.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let mut protocols = named.iter().flat_map(|value| value.split(',')).map(str::trim);
    let known = |protocol: &&str| {
        let name = protocol.split('/').next().unwrap_or_default();
        protocol.is_empty() || DONE_WITHOUT.iter().any(|it| name.eq_ignore_ascii_case(it))
    };
    let Some(other) = protocols.find(|protocol| !known(protocol)) else { return Upgrade::Nothing };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._+/".contains(&b);
    if other.len() <= LONGEST && other.bytes().all(plain) {
        Upgrade::Other(other.to_owned())
    } else {
        Upgrade::Other("another protocol".to_owned())
    }
}

/// Whether a head is the handshake of a WebSocket (RFC 6455 §4.2.1).
fn is_handshake(parts: &request::Parts) -> bool {
    let one = |name: HeaderName| {
        let mut values = parts.headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
    };
    let connection = parts.headers.get_all(header::CONNECTION).iter();
    let mut tokens = connection.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    let nonce = |key: &[u8]| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
    parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && one(header::UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case(b"websocket"))
        && tokens.any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
        && one(header::SEC_WEBSOCKET_VERSION) == Some(&b"13"[..])
        && one(header::SEC_WEBSOCKET_KEY).is_some_and(nonce)
}

/// Takes off what belongs to this connection (what Connection names first, so that nothing that is put in later can
/// be named away), to the proxy, to us, and what pretends to come from another proxy.
fn strip(headers: &mut HeaderMap) {
    static OURS: [HeaderName; 8] = [
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::FORWARDED,
        header::HOST,
        header::PROXY_AUTHORIZATION,
        header::VIA,
        HeaderName::from_static("http2-settings"),
        HeaderName::from_static(crate::postgres::ROWS),
    ];
    strip_hop_by_hop(headers);
    let pretended = |name: &str| {
        name.starts_with("x-forwarded-") || name.starts_with("countersign-") || name == "x-real-ip"
    };
    let stays_here = |name: &&HeaderName| OURS.contains(name) || pretended(name.as_str());
    let staying: Vec<HeaderName> = headers.keys().filter(stays_here).cloned().collect();
    for name in &staying {
        headers.remove(name);
    }
}

/// Over HTTP/2 no value may be (RFC 9113 §8.2.1); over HTTP/1.1 it is read without that.
fn is_padded(value: &HeaderValue) -> bool {
    let ends = [value.as_bytes().first(), value.as_bytes().last()];
    ends.into_iter().flatten().any(|byte| [b' ', b'\t'].contains(byte))
}

/// HTTP/2 may split Cookie; over HTTP/1.1 it is one line (RFC 9113 §8.2.3), in which an empty piece would be white space
/// at an end.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let crumbs: Vec<&[u8]> = crumbs.filter(|crumb| !crumb.is_empty()).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
    if let Ok(joined) = joined {
        headers.insert(header::COOKIE, joined);
    }
}

fn bad(why: &'static str) -> Refusal {
    Refusal::BadRequest { why: format!("there is {why}") }
}
