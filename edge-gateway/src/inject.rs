//! Where a key goes. The fake key is looked for in its credential's own slot, for its credential's own destination;
//! anywhere else it is a sign that something is wrong, and refused.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_gate::{HOLE, Injection, Slot};
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use crate::bundle::{Around, Bundle, Credential, InForce, Pair, Place};
use crate::freeze::Draft;
use crate::pace::Pace;
use crate::tripwire::{Tripwire, Watch};
use crate::upstream::BodyError;

/// A fake key that was found where it belongs, and was taken out.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) credential: &'a Credential,
    slot: Slot,
}

/// A fake key that was found where it does not belong.
#[derive(Debug)]
pub(crate) struct Misplaced {
    pub(crate) credential_id: String,
    pub(crate) why: String,
}

/// Looks for a fake key in its slot; if it is there, takes it out and leaves a hole (path, query) or nothing at all
/// (headers, and every duplicate of that header).
///
/// # Errors
/// [`Misplaced`] if a fake key is anywhere else in the head, or a second one is.
pub(crate) fn find<'a>(
    draft: &mut Draft,
    bundle: &'a Bundle,
) -> Result<Option<Found<'a>>, Misplaced> {
    let mut found = None;
    for credential in bundle.serving(&draft.destination.clone()) {
        found = take_out(draft, credential);
        if found.is_some() {
            // The answer is searched for the real key, so it must come in the open.
            draft.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            break;
        }
    }
    if let Some(at) = elsewhere(draft, &bundle.tripwire) {
        let Some(credential) = bundle.credentials.get(at.owner) else {
            return Err(Misplaced {
                credential_id: String::new(),
                why: "there is a key in it".into(),
            });
        };
        return Err(Misplaced::new(credential, at.place));
    }
    Ok(found)
}

impl Misplaced {
    pub(crate) fn new(credential: &Credential, place: &str) -> Self {
        let Credential { name, destination, .. } = credential;
        let why = format!(
            "the key for \"{name}\" (of {}) is {place}, where it is not replaced",
            destination.authority()
        );
        Self { credential_id: credential.id.clone(), why }
    }
}

impl Found<'_> {
    /// What will be added in its place.
    pub(crate) fn into_injection(self) -> Injection {
        let Credential { id, version, .. } = self.credential;
        Injection { credential: id.clone(), version: *version, slot: self.slot }
    }
}

fn take_out<'a>(draft: &mut Draft, credential: &'a Credential) -> Option<Found<'a>> {
    let fakes = &credential.fake_keys;
    let slot = match &credential.place {
        Place::Basic(pair) => {
            let slot = draft
                .headers
                .get_all(AUTHORIZATION)
                .iter()
                .find_map(|value| basic(value, pair, fakes))?;
            draft.headers.remove(AUTHORIZATION);
            slot
        }
        Place::Header { name, around } => {
            let mut values = draft.headers.get_all(name).iter();
            let (before, after) = values.find_map(|value| match around {
                Around::Exact { before, after } => {
                    let fills = fills(value.as_bytes(), before, after, fakes);
                    fills.then(|| (before.clone(), after.clone()))
                }
                Around::Scheme => Some((scheme(value, fakes)?, String::new())),
            })?;
            draft.headers.remove(name);
            Slot::Header { name: name.clone(), before, after }
        }
        Place::Path { before, after } => {
            let filled = |segment: &str| {
                let decoded: Vec<u8> = percent_decode_str(segment).collect();
                fakes.iter().any(|fake| decoded == format!("{before}{fake}{after}").as_bytes())
            };
            let at = replace(&mut draft.path, '/', |segment| {
                filled(segment).then(|| format!("{before}{HOLE}{after}"))
            })?;
            Slot::Path { at: at + before.len() as u32 }
        }
        Place::Query { name } => {
            let query = draft.query.as_mut()?;
            let at = replace(query, '&', |pair| {
                let (key, value) = pair.split_once('=')?;
                let named = percent_decode_str(key).eq(name.bytes());
                let fake = fills(&percent_decode_str(value).collect::<Vec<u8>>(), "", "", fakes);
                (named && fake).then(|| format!("{key}={HOLE}"))
            })?;
            // The hole follows the name as it was written.
            let hole = query.get(at as usize..)?.find('=')? as u32 + 1;
            Slot::Query { at: at + hole }
        }
    };
    Some(Found { credential, slot })
}

/// Whether `value` is `before ‖ one of the fakes ‖ after`. The scheme in front of a token has no case (RFC 9110 §11.1).
fn fills(value: &[u8], before: &str, after: &str, fakes: &[String]) -> bool {
    let fills = |fake: &String| {
        value.len() == before.len() + fake.len() + after.len()
            && value[..before.len()].eq_ignore_ascii_case(before.as_bytes())
            && value[before.len()..].starts_with(fake.as_bytes())
            && value.ends_with(after.as_bytes())
    };
    fakes.iter().any(fills)
}

/// The scheme in front of a fake key, its space included (RFC 9110 §11.4); empty when the key stands alone.
fn scheme(value: &HeaderValue, fakes: &[String]) -> Option<String> {
    let text = value.to_str().ok()?;
    let (scheme, key) = text.rsplit_once(' ').map_or(("", text), |(scheme, key)| (scheme, key));
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if scheme.len() > 32 || !scheme.bytes().all(word) || !fakes.iter().any(|fake| fake == key) {
        return None;
    }
    Some(text[..text.len() - key.len()].to_owned())
}

fn basic(value: &HeaderValue, pair: &Pair, fakes: &[String]) -> Option<Slot> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    match pair {
        Pair::Exact { before, after } => {
            let exact = |fake: &&String| decoded == format!("{before}{fake}{after}");
            fakes.iter().find(exact)?;
            Some(Slot::Basic { before: before.clone(), after: after.clone() })
        }
        Pair::Either => {
            let (user, password) = decoded.split_once(':')?;
            if fakes.iter().any(|fake| fake == password) {
                return Some(Slot::Basic { before: format!("{user}:"), after: String::new() });
            }
            fakes.iter().find(|fake| *fake == user)?;
            Some(Slot::Basic { before: String::new(), after: format!(":{password}") })
        }
    }
}

/// Replaces the first piece for which `with` has something; answers where that piece begins.
fn replace(
    text: &mut String,
    separator: char,
    with: impl Fn(&str) -> Option<String>,
) -> Option<u32> {
    let mut begin = 0;
    let (range, replacement) = text.split(separator).find_map(|piece| {
        let range = begin..begin + piece.len();
        begin = range.end + separator.len_utf8();
        with(piece).map(|replacement| (range, replacement))
    })?;
    let at = range.start as u32;
    text.replace_range(range, &replacement);
    Some(at)
}

struct Elsewhere {
    owner: usize,
    place: &'static str,
}

fn elsewhere(draft: &Draft, wire: &Tripwire) -> Option<Elsewhere> {
    let at = |place: &'static str| move |owner: usize| Elsewhere { owner, place };
    wire.find(draft.path.as_bytes())
        .map(at("in the path"))
        .or_else(|| {
            draft
                .query
                .as_ref()
                .and_then(|query| wire.find(query.as_bytes()))
                .map(at("in the query"))
        })
        .or_else(|| {
            let mut values = draft.headers.iter();
            values.find_map(|(name, value)| {
                let place = if name == AUTHORIZATION {
                    "in the Authorization header"
                } else {
                    "in a header"
                };
                let named = || wire.find(name.as_str().as_bytes()).map(at("in a header's name"));
                wire.find(value.as_bytes()).map(at(place)).or_else(named)
            })
        })
}

/// A body that streams past, without its trailers. It breaks off when a fake key is in it, and when it comes too slowly.
pub(crate) struct Watched {
    body: Incoming,
    force: Arc<InForce>,
    watch: Watch,
    pace: Option<Pace>,
    stopped: Arc<OnceLock<Stopped>>,
}

/// Why a body that streamed past was broken off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stopped {
    /// The index of the credential whose fake key was in it.
    FakeKey(usize),
    Slow,
}

impl Watched {
    pub(crate) fn new(body: Incoming, force: Arc<InForce>, pace: Option<Pace>) -> Self {
        Self { body, force, watch: Watch::default(), pace, stopped: Arc::default() }
    }

    /// Where it is found why it was broken off.
    pub(crate) fn stopped(&self) -> Arc<OnceLock<Stopped>> {
        Arc::clone(&self.stopped)
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let frame = match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Pending => {
                    let slow = this.pace.as_mut().map_or(Poll::Pending, |pace| pace.waits(context));
                    return slow.map(|()| {
                        let _ = this.stopped.set(Stopped::Slow);
                        Some(Err("it came too slowly".into()))
                    });
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(why))) => return Poll::Ready(Some(Err(why.into()))),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            if let Some(pace) = &mut this.pace {
                pace.came(data.len());
            }
            return Poll::Ready(Some(match this.watch.feed(&this.force.bundle.tripwire, &data) {
                None => Ok(Frame::data(data)),
                Some(owner) => {
                    let _ = this.stopped.set(Stopped::FakeKey(owner));
                    Err("a key where none is replaced".into())
                }
            }));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
