//! A frozen request: exactly what will leave, save for the key.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::fmt;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, COOKIE, HeaderMap, HeaderName};
use http::{Method, Uri};
use sha2::{Digest as _, Sha256};

use crate::encoding::{Digest, Writer, list};

/// What stands in a path, a query, a cookie or a body where the real key goes.
pub const HOLE: &str = "{key}";

/// Headers that a client changes from one try to the next and that carry no meaning for the upstream. Every
/// other header is part of the intent: what is not known to be harmless is approved with the rest.
pub const VOLATILE_HEADERS: [&str; 18] = [
    "accept-encoding",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "baggage",
    "connection",
    "content-length",
    "date",
    "grpc-timeout",
    "postgres-estimated-rows",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-request-id",
    "x-stainless-read-timeout",
    "x-stainless-retry-count",
    "x-stainless-timeout",
    "x-stripe-client-telemetry",
    "x-stripe-client-user-agent",
];

/// Why a value cannot be part of a request; the text says which and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected(pub &'static str);

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Rejected {}

/// `Https` and `Postgres` may carry a key: both are spoken over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    Http,
    Https,
    Postgres,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Postgres => "postgres",
        }
    }
}

/// Where a request goes: the one value that CONNECT, SNI, Host and the upstream's certificate must agree with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Destination {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; without a port, `default_port` (none: it is required).
    /// Lower-cases, and takes one trailing dot off.
    ///
    /// # Errors
    /// Anything that two readers could take for two hosts: non-ASCII, user info, empty labels, ports that are not
    /// plain decimal 1–65535, numbers that some resolvers take for an address, non-canonical IP literals.
    pub fn parse(
        scheme: Scheme,
        authority: &str,
        default_port: Option<u16>,
    ) -> Result<Self, Rejected> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, after) =
                    rest.split_once(']').ok_or(Rejected("an IPv6 literal without its ]"))?;
                let port = match after {
                    "" => None,
                    after => Some(
                        after
                            .strip_prefix(':')
                            .ok_or(Rejected("something other than :port after ]"))?,
                    ),
                };
                (canonical_v6(host)?, port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (canonical_name(host)?, Some(port)),
                None => (canonical_name(authority)?, None),
            },
        };
        let port = match (port, default_port) {
            (Some(text), _) => parse_port(text)?,
            (None, Some(port)) => port,
            (None, None) => return Err(Rejected("no port: write host:port")),
        };
        Ok(Self { scheme, host, port })
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A lower-case DNS name, or an IP literal (IPv6 without brackets).
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What goes into Host or :authority: without the port where it is the scheme's own.
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme, self.port) {
            (Scheme::Https, 443) | (Scheme::Http, 80) | (Scheme::Postgres, 5432) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, Rejected> {
    let plain =
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    plain
        .then(|| text.parse().ok())
        .flatten()
        .ok_or(Rejected("a port that is not plain decimal from 1 to 65535"))
}

fn canonical_v6(text: &str) -> Result<String, Rejected> {
    let address: Ipv6Addr =
        text.parse().map_err(|_| Rejected("not an IPv6 address between [ and ]"))?;
    Ok(address.to_string())
}

fn canonical_name(text: &str) -> Result<String, Rejected> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(Rejected(
            "a host that is not a DNS name in ASCII (write an international name as its xn-- form)",
        ));
    }
    // WHATWG's rule: when the last label looks like a number, the whole is an address or nothing. Resolvers take
    // 2130706433, 0x7f.1 and 127.1 for loopback, so only the one canonical spelling of an address is a host.
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
    match name.parse::<Ipv4Addr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) if numeric => {
            Err(Rejected("a number that some resolvers take for an address: write it as a.b.c.d"))
        }
        Err(_) => Ok(name),
    }
}

/// Who asks: the trust domain, the organisation in it, and the agent (its stable id, not its token).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub cluster: String,
    pub org: String,
    pub agent: String,
}

/// A body that is all there, or one that streams past and therefore can never be held.
#[derive(Clone, Debug)]
pub enum Payload {
    Streamed,
    Whole(Bytes),
}

/// Where one key goes. Offsets are those of [`HOLE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// `Authorization: Basic base64(before ‖ key ‖ after)`
    Basic {
        before: String,
        after: String,
    },
    /// In the Cookie header.
    Cookie {
        at: u32,
    },
    /// In a body that is `application/x-www-form-urlencoded`.
    Form {
        at: u32,
    },
    /// `name: before ‖ key ‖ after`
    Header {
        name: HeaderName,
        before: String,
        after: String,
    },
    /// In a string of a body that is JSON.
    Json {
        at: u32,
    },
    Path {
        at: u32,
    },
    Query {
        at: u32,
    },
    /// The control plane signs the request with a key that it keeps, and gives the headers `names` (or some of them)
    /// in the key's place. `manner` says how and over what.
    Signed {
        names: Vec<HeaderName>,
        manner: String,
    },
}

/// What will be added to the request: it is approved along with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    pub credential: String,
    pub version: u64,
    pub slot: Slot,
}

/// A request as it will leave. Private and without setters: frozen means frozen (G2).
#[derive(Debug)]
pub struct Request {
    pub(crate) origin: Origin,
    pub(crate) destination: Destination,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    pub(crate) injections: Vec<Injection>,
}

impl Request {
    /// Freezes a request. `headers` are the end-to-end ones: hop-by-hop headers, Host and Content-Length are
    /// written anew by the sender, and headers that a key will fill must not be there.
    ///
    /// # Errors
    /// A path or query that would not be written as given, a method outside the known ones, a header that has
    /// no business here, a key for a destination that is not https or postgres, a hole that is not where it is said to be.
    #[allow(clippy::too_many_arguments)] // the fields of the digest, in its order
    pub fn new(
        origin: Origin,
        destination: Destination,
        method: Method,
        path: String,
        query: Option<String>,
        headers: HeaderMap,
        payload: Payload,
        injections: Vec<Injection>,
    ) -> Result<Self, Rejected> {
        const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
        const HOP_BY_HOP: [&str; 11] = [
            "connection",
            "content-length",
            "expect",
            "host",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        if !METHODS.contains(&method.as_str()) {
            return Err(Rejected(
                "a method other than DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
            ));
        }
        let visible = |text: &str, extra: &str| {
            text.bytes().all(|b| b.is_ascii_graphic() && !extra.as_bytes().contains(&b))
        };
        if !path.starts_with('/')
            || !visible(&path, "?#\\")
            || !query.iter().all(|q| visible(q, "#"))
        {
            return Err(Rejected(
                "a path that does not start with /, or a path or query with bytes to be escaped",
            ));
        }
        if headers.keys().any(|name| HOP_BY_HOP.contains(&name.as_str())) {
            return Err(Rejected("a header that belongs to one connection, not to the request"));
        }
        let hole = |text: &[u8], at: u32| {
            text.get(at as usize..).is_some_and(|rest| rest.starts_with(HOLE.as_bytes()))
        };
        for injection in &injections {
            let fits = match &injection.slot {
                Slot::Basic { .. } => !headers.contains_key("authorization"),
                Slot::Cookie { at } => {
                    let mut cookies = headers.get_all(COOKIE).iter();
                    let one = cookies.next().filter(|_| cookies.next().is_none());
                    one.is_some_and(|cookie| hole(cookie.as_bytes(), *at))
                }
                Slot::Form { at } | Slot::Json { at } => match &payload {
                    Payload::Whole(body) => {
                        hole(body, *at) && !headers.contains_key(CONTENT_ENCODING)
                    }
                    Payload::Streamed => false,
                },
                Slot::Header { name, .. } => {
                    !headers.contains_key(name) && !HOP_BY_HOP.contains(&name.as_str())
                }
                Slot::Signed { names, .. } => !names
                    .iter()
                    .any(|name| headers.contains_key(name) || HOP_BY_HOP.contains(&name.as_str())),
                Slot::Path { at } => hole(path.as_bytes(), *at),
                Slot::Query { at } => {
                    query.as_ref().is_some_and(|query| hole(query.as_bytes(), *at))
                }
            };
            if !fits {
                return Err(Rejected(
                    "a key whose slot is taken, not allowed, or not where it is said to be",
                ));
            }
        }
        // One key is what policies name; a second in the same path would move the first one's hole.
        if injections.len() > 1 || (!injections.is_empty() && destination.scheme == Scheme::Http) {
            return Err(Rejected(
                "a key for a destination that is not https or postgres, or more than one key",
            ));
        }
        let request =
            Self { origin, destination, method, path, query, headers, payload, injections };
        let target = request.target();
        let uri: Uri = target.parse().map_err(|_| Rejected("a path or query that is not one"))?;
        let written = uri.path_and_query().map(|target| target.as_str());
        (written == Some(&target))
            .then_some(request)
            .ok_or(Rejected("a path or query that would be rewritten"))
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    pub fn injections(&self) -> &[Injection] {
        &self.injections
    }

    /// Path and query as written.
    pub(crate) fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// What a person approves: the same for an identical retry. `None` for a streamed body, which has no digest.
    pub(crate) fn intent_digest(&self, rule: &str) -> Option<Digest> {
        let Payload::Whole(body) = &self.payload else { return None };
        let intent = Writer::new(1)
            .field(1, &self.origin.cluster)
            .field(2, &self.origin.org)
            .field(3, &self.origin.agent)
            .field(4, self.destination.scheme.as_str())
            .field(5, &self.destination.host)
            .field(6, self.destination.port.to_be_bytes())
            .field(7, self.method.as_str())
            .field(8, &self.path)
            .option(9, self.query.as_ref())
            .field(10, header_list(&self.headers, |name| !VOLATILE_HEADERS.contains(&name)))
            .number(11, body.len() as u64)
            .field(12, Sha256::digest(body))
            .field(13, list(self.injections.iter().map(encode_injection)))
            .field(14, rule);
        Some(crate::digest("intent", &intent.finish()))
    }

    /// SHA-256 over every header that will be forwarded, volatile ones included.
    pub(crate) fn headers_digest(&self) -> Digest {
        Sha256::digest(header_list(&self.headers, |_| true)).into()
    }
}

/// `name ‖ 0 ‖ u16 ordinal ‖ value`, sorted: headers of different names have no order, those of one name do.
fn header_list(headers: &HeaderMap, keep: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = Vec::with_capacity(headers.len());
    for name in headers.keys().filter(|name| keep(name.as_str())) {
        for (ordinal, value) in headers.get_all(name).iter().enumerate() {
            let mut line = name.as_str().as_bytes().to_vec();
            line.push(0);
            line.extend((ordinal as u16).to_be_bytes());
            line.extend(value.as_bytes());
            lines.push(line);
        }
    }
    lines.sort_unstable();
    list(lines)
}

fn encode_injection(injection: &Injection) -> Vec<u8> {
    let writer = Writer::new(2).field(1, &injection.credential).number(2, injection.version);
    match &injection.slot {
        Slot::Basic { before, after } => writer.field(3, "basic").field(5, before).field(6, after),
        Slot::Cookie { at } => writer.field(3, "cookie").field(7, at.to_be_bytes()),
        Slot::Form { at } => writer.field(3, "form").field(7, at.to_be_bytes()),
        Slot::Header { name, before, after } => {
            writer.field(3, "header").field(4, name.as_str()).field(5, before).field(6, after)
        }
        Slot::Json { at } => writer.field(3, "json").field(7, at.to_be_bytes()),
        Slot::Path { at } => writer.field(3, "path").field(7, at.to_be_bytes()),
        Slot::Query { at } => writer.field(3, "query").field(7, at.to_be_bytes()),
        Slot::Signed { names, manner } => {
            writer.field(3, "signed").field(8, list(names)).field(9, manner)
        }
    }
    .finish()
}
