//! A released request to what is written upstream: the key goes in, for its own destination only.

use std::fmt;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use zeroize::{Zeroize, Zeroizing};

use crate::decision::SealedRef;
use crate::encoding::Digest;
use crate::hold::Ticket;
use crate::request::{Destination, HOLE, Injection, Payload, Request, Slot};

/// A request that may leave. Made by `classify` (policy allows it) and by `verify` (a signed release), nowhere
/// else, and used once.
///
/// It cannot be made:
/// ```compile_fail,E0451
/// fn forge(request: countersign_gate::Request) -> countersign_gate::Released {
///     countersign_gate::Released { request, decision: None }
/// }
/// ```
/// It cannot be used twice:
/// ```compile_fail,E0382
/// fn twice(released: countersign_gate::Released) {
///     let _ = released.with_keys(Vec::new());
///     let _ = released.with_keys(Vec::new());
/// }
/// ```
/// It cannot be copied:
/// ```compile_fail,E0599
/// fn copy(released: &countersign_gate::Released) -> countersign_gate::Released {
///     Clone::clone(released).clone()
/// }
/// ```
#[derive(Debug)]
pub struct Released {
    request: Request,
    decision: Option<ByDecision>,
}

#[derive(Debug)]
struct ByDecision {
    ticket: Ticket,
    approval_id: Option<[u8; 16]>,
    decision_id: [u8; 16],
    sealed: Vec<SealedRef>,
}

impl Released {
    pub(crate) fn by_policy(request: Request) -> Self {
        Self { request, decision: None }
    }

    pub(crate) fn by_decision(
        request: Request,
        ticket: Ticket,
        approval_id: Option<[u8; 16]>,
        decision_id: [u8; 16],
        sealed: Vec<SealedRef>,
    ) -> Self {
        Self { request, decision: Some(ByDecision { ticket, approval_id, decision_id, sealed }) }
    }

    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Digest and decision that sealed keys are opened with; none when the policy alone released it.
    pub fn sealing(&self) -> Option<(&Digest, &[u8; 16])> {
        self.decision.as_ref().map(|by| (&by.ticket.request_digest, &by.decision_id))
    }

    /// Puts the keys in their slots. They must be exactly those of the plan, in its order, each for this
    /// request's destination and, where a decision released it, opened from what that decision names.
    ///
    /// # Errors
    /// [`SwapError`]; the request is then gone, and nothing of it was sent.
    pub fn with_keys(self, keys: Vec<Key>) -> Result<Outbound, SwapError> {
        let Request {
            origin: _,
            destination,
            method,
            mut path,
            mut query,
            mut headers,
            mut payload,
            injections,
        } = self.request;
        if keys.len() != injections.len() {
            return Err(SwapError::Missing);
        }
        let sealed = self.decision.as_ref().map(|by| by.sealed.as_slice());
        for (position, (injection, key)) in injections.iter().zip(&keys).enumerate() {
            key.fits(injection, &destination, sealed.map(|sealed| sealed.get(position)))?;
            match &injection.slot {
                Slot::Basic { before, after } => {
                    let pair = key.between(before, after);
                    let mut value = Zeroizing::new(b"Basic ".to_vec());
                    base64(&mut value, &pair);
                    headers.insert(AUTHORIZATION, sensitive(value)?);
                }
                Slot::Cookie { at } => {
                    let Some(cookies) = headers.get(COOKIE) else { return Err(SwapError::Unfit) };
                    let cookies = fill(cookies.as_bytes(), *at, key, cookie_octet)?;
                    headers.insert(COOKIE, sensitive(cookies)?);
                }
                Slot::Form { at } => {
                    fill_body(&mut payload, *at, key, |out, b| percent(out, b, b"-._~"))?;
                }
                Slot::Header { name, before, after } => {
                    headers.insert(name, sensitive(key.between(before, after))?);
                }
                Slot::Json { at } => {
                    std::str::from_utf8(&key.secret).map_err(|_| SwapError::Unfit)?;
                    fill_body(&mut payload, *at, key, in_json_string)?;
                }
                Slot::Path { at } => {
                    let plain = b"-._~!$&'()*+,;=:@";
                    let filled = fill(path.as_bytes(), *at, key, |out, b| percent(out, b, plain));
                    path = text(filled?)?;
                }
                Slot::Query { at } => {
                    let holed = query.as_ref().ok_or(SwapError::Unfit)?.as_bytes();
                    let filled = fill(holed, *at, key, |out, b| percent(out, b, b"-._~"));
                    query = Some(text(filled?)?);
                }
                Slot::Signed { names, .. } => set_signed(&mut headers, names, &key.secret)?,
            }
        }
        let mut target = match &query {
            Some(query) => format!("{path}?{query}"),
            None => path.clone(),
        };
        let uri = Uri::try_from(target.as_str()).map_err(|_| SwapError::Unfit);
        if !injections.is_empty() {
            [Some(&mut target), Some(&mut path), query.as_mut()]
                .into_iter()
                .flatten()
                .for_each(Zeroize::zeroize);
        }
        let approval_id = self.decision.as_ref().and_then(|by| by.approval_id);
        let request_id = self.decision.as_ref().map(|by| by.ticket.circumstances.request_id);
        Ok(Outbound {
            destination,
            method,
            uri: uri?,
            headers,
            payload,
            approval_id,
            request_id,
            keyed: !keys.is_empty(),
        })
    }
}

/// A real key, or headers that were signed with one, for one credential and one destination. It cannot be printed, compared or copied, and is
/// overwritten when dropped.
///
/// ```compile_fail,E0277
/// fn print(key: countersign_gate::Key) {
///     println!("{key:?}");
/// }
/// ```
/// ```compile_fail,E0599
/// fn copy(key: countersign_gate::Key) -> countersign_gate::Key {
///     key.clone()
/// }
/// ```
pub struct Key {
    credential: String,
    version: u64,
    destination: Destination,
    sealed: Digest,
    secret: Zeroizing<Vec<u8>>,
}

impl Key {
    /// `sealed` is SHA-256 of the sealed bytes that the secret was opened from.
    pub fn new(
        credential: String,
        version: u64,
        destination: Destination,
        sealed: Digest,
        secret: Zeroizing<Vec<u8>>,
    ) -> Self {
        Self { credential, version, destination, sealed, secret }
    }

    /// `named`: for a decision's release, what the decision names in this key's place.
    fn fits(
        &self,
        injection: &Injection,
        destination: &Destination,
        named: Option<Option<&SealedRef>>,
    ) -> Result<(), SwapError> {
        if self.destination != *destination {
            return Err(SwapError::Destination);
        }
        let named_so = |s: &SealedRef| {
            s.sha256 == self.sealed && s.credential == self.credential && s.version == self.version
        };
        let planned = self.credential == injection.credential && self.version == injection.version;
        let fits = planned
            && named.is_none_or(|named| named.is_some_and(named_so))
            && !self.secret.is_empty();
        fits.then_some(()).ok_or(SwapError::Unfit)
    }

    fn between(&self, before: &str, after: &str) -> Zeroizing<Vec<u8>> {
        // Sized once: growing would leave a copy behind.
        let mut out =
            Zeroizing::new(Vec::with_capacity(before.len() + self.secret.len() + after.len()));
        out.extend(before.as_bytes());
        out.extend(self.secret.as_slice());
        out.extend(after.as_bytes());
        out
    }
}

/// Why keys and a released request do not go together. It names no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapError {
    /// The key is for another host, port or scheme.
    Destination,
    /// Not as many keys as the plan has places.
    Missing,
    /// Another credential or version, not what the decision names, or bytes that the slot cannot hold.
    Unfit,
}

impl fmt::Display for SwapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Destination => "the key belongs to another destination",
            Self::Missing => "not every place has its key",
            Self::Unfit => "the key is not the one that was released, or does not fit its slot",
        })
    }
}

impl std::error::Error for SwapError {}

/// What is written upstream, key and all: the one thing that `upstream` takes. It has no `Debug`.
pub struct Outbound {
    destination: Destination,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    payload: Payload,
    approval_id: Option<[u8; 16]>,
    request_id: Option<[u8; 16]>,
    keyed: bool,
}

/// An [`Outbound`] taken apart, by whoever writes it.
pub struct Sent {
    pub method: Method,
    /// Origin form: path and query.
    pub uri: Uri,
    pub headers: HeaderMap,
    pub payload: Payload,
}

impl Outbound {
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    pub fn approval_id(&self) -> Option<&[u8; 16]> {
        self.approval_id.as_ref()
    }

    /// The held request that this was; none for what passed by policy alone.
    pub fn request_id(&self) -> Option<&[u8; 16]> {
        self.request_id.as_ref()
    }

    /// Whether a real key is in it.
    pub fn keyed(&self) -> bool {
        self.keyed
    }

    /// Takes it apart in order to write it. Whoever calls this must write exactly this, once, to `destination`.
    pub fn into_parts(self) -> Sent {
        Sent { method: self.method, uri: self.uri, headers: self.headers, payload: self.payload }
    }
}

/// Bytes that are overwritten when the last of who shares them drops them.
struct Owned(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A header value that HPACK never indexes and Debug never shows; its bytes are overwritten when dropped.
fn sensitive(bytes: Zeroizing<Vec<u8>>) -> Result<HeaderValue, SwapError> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Owned(bytes)))
        .map_err(|_| SwapError::Unfit)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Sets what the control plane signed: lines `name: value`, each of a header of the plan, and each once.
fn set_signed(
    headers: &mut HeaderMap,
    names: &[HeaderName],
    lines: &[u8],
) -> Result<(), SwapError> {
    for line in lines.split(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(line).map_err(|_| SwapError::Unfit)?;
        let (name, value) = line.split_once(": ").ok_or(SwapError::Unfit)?;
        let planned =
            names.iter().find(|planned| planned.as_str() == name).ok_or(SwapError::Unfit)?;
        let value = sensitive(Zeroizing::new(value.as_bytes().to_vec()))?;
        if headers.insert(planned, value).is_some() {
            return Err(SwapError::Unfit);
        }
    }
    Ok(())
}

/// `text` with the key in the place of its hole. `write` writes one byte of it as the slot wants it, in six bytes at
/// most; false for a byte that the slot cannot hold.
fn fill(
    text: &[u8],
    at: u32,
    key: &Key,
    write: impl Fn(&mut Vec<u8>, u8) -> bool,
) -> Result<Zeroizing<Vec<u8>>, SwapError> {
    let (before, rest) = text.split_at_checked(at as usize).ok_or(SwapError::Unfit)?;
    let after = rest.strip_prefix(HOLE.as_bytes()).ok_or(SwapError::Unfit)?;
    // Sized once: growing would leave a copy behind.
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() + 6 * key.secret.len()));
    out.extend(before);
    if !key.secret.iter().all(|byte| write(&mut out, *byte)) {
        return Err(SwapError::Unfit);
    }
    out.extend(after);
    Ok(out)
}

fn fill_body(
    payload: &mut Payload,
    at: u32,
    key: &Key,
    write: impl Fn(&mut Vec<u8>, u8) -> bool,
) -> Result<(), SwapError> {
    let Payload::Whole(body) = &*payload else { return Err(SwapError::Unfit) };
    *payload = Payload::Whole(Bytes::from_owner(Owned(fill(body, at, key, write)?)));
    Ok(())
}

fn text(bytes: Zeroizing<Vec<u8>>) -> Result<String, SwapError> {
    std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| SwapError::Unfit)
}

/// Percent-encoded (RFC 3986 §2.1), but for letters, digits and `plain`.
fn percent(out: &mut Vec<u8>, byte: u8, plain: &[u8]) -> bool {
    if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
        out.push(byte);
    } else {
        out.extend(format!("%{byte:02X}").bytes());
    }
    true
}

/// Escaped only where it must be (RFC 8259 §7).
fn in_json_string(out: &mut Vec<u8>, byte: u8) -> bool {
    match byte {
        b'"' | b'\\' => out.extend([b'\\', byte]),
        b if b < 0x20 => out.extend(format!("\\u{b:04x}").bytes()),
        b => out.push(b),
    }
    true
}

/// As it is, or not at all (RFC 6265 §4.1.1).
fn cookie_octet(out: &mut Vec<u8>, byte: u8) -> bool {
    out.push(byte);
    byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)
}

/// RFC 4648 §4, with padding.
fn base64(out: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.reserve_exact(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, b| group << 8 | u32::from(*b))
            << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * position)) as usize & 63];
            out.push(if position <= chunk.len() { letter } else { b'=' });
        }
    }
}
