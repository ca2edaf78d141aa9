//! Where a key goes. The fake key is looked for in its credential's own slot, for its credential's own destination;
//! anywhere else it is a sign that something is wrong, and refused.

mod aws;
mod family;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_gate::{HOLE, Injection, Slot};
use countersign_policy::body;
use http::HeaderMap;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, COOKIE, HeaderName, HeaderValue, SEC_WEBSOCKET_EXTENSIONS,
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use crate::bundle::{Around, Bundle, Credential, InForce, Pair, Place};
use crate::freeze::Draft;
use crate::pace::Pace;
use crate::tripwire::{Tripwire, Watch};
use crate::upstream::BodyError;

/// How the messages of a gRPC answer may be compressed.
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// A fake key that was found where it belongs, and was taken out.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) credential: &'a Arc<Credential>,
    slot: Slot,
    /// Headers with other keys, which were taken off beside it.
    pub(crate) dropped: Vec<HeaderName>,
}

/// A fake key that was found where it does not belong.
#[derive(Debug)]
pub(crate) struct Misplaced {
    pub(crate) credential_id: String,
    pub(crate) why: String,
}

/// Why no key can be put into a request.
#[derive(Debug)]
pub(crate) enum Unfound {
    Misplaced(Misplaced),
    /// It is where it belongs, and the same parameter is there once more.
    Twice(String),
    /// It is where it belongs, and yet the control plane could not sign the request: what there is, and what to do.
    Unsignable(String),
}

impl From<Misplaced> for Unfound {
    fn from(misplaced: Misplaced) -> Self {
        Self::Misplaced(misplaced)
    }
}

/// Looks for a fake key in its slot of the head; if it is there, takes it out and leaves a hole (path, query, cookie)
/// or nothing at all (other headers, every duplicate of that header, and whatever else in the head is a key).
///
/// # Errors
/// [`Unfound::Misplaced`] if a fake key is anywhere else in the head, or a second one is; [`Unfound::Twice`];
/// [`Unfound::Unsignable`].
pub(crate) fn find<'a>(
    draft: &mut Draft,
    bundle: &'a Bundle,
) -> Result<Option<Found<'a>>, Unfound> {
    let mut found = None;
    for credential in bundle.serving(&draft.destination) {
        found = match credential.place {
            Place::AwsSigv4 => aws::take_out(draft, &credential.fake_keys)
                .map_err(Unfound::Unsignable)?
                .map(|slot| Found { credential, slot, dropped: Vec::new() }),
            _ => take_out(draft, credential),
        };
        if found.is_some() {
            answered_in_the_open(draft);
            break;
        }
    }
    if let Some(at) = elsewhere(draft, &bundle.tripwire) {
        let Some(credential) = bundle.credentials.get(at.owner) else {
            return Err(Unfound::Misplaced(Misplaced {
                credential_id: String::new(),
                why: "there is a key in it".into(),
            }));
        };
        return Err(Misplaced::new(credential, at.place).into());
    }
    if let Some(found) = &found {
        once(draft, &found.credential.place)?;
    }
    Ok(found.map(|found| alone(found, draft, bundle)))
}

/// Looks for a fake key in its slot of the body, unless the head had one; if it is there, leaves a hole in its place.
///
/// # Errors
/// [`Unfound::Misplaced`] if a fake key is anywhere else in the body, or a second one is; [`Unfound::Unsignable`].
pub(crate) fn find_in_body<'a>(
    draft: &mut Draft,
    bundle: &'a Bundle,
    body: &mut Bytes,
    in_head: Option<Found<'a>>,
) -> Result<Option<Found<'a>>, Unfound> {
    let mut found = in_head;
    if found.as_ref().is_some_and(|found| matches!(found.credential.place, Place::AwsSigv4)) {
        aws::check_body(&draft.headers, body).map_err(Unfound::Unsignable)?;
    }
    let mut unread = None;
    if found.is_none() {
        for credential in bundle.serving(&draft.destination) {
            match take_out_of_body(&draft.headers, body, credential) {
                Ok(None) => {}
                Ok(there) => {
                    found = there;
                    answered_in_the_open(draft);
                    break;
                }
                Err(why) => unread = Some((credential, why)),
            }
        }
    }
    let Some(owner) = bundle.tripwire.find(body).and_then(|index| bundle.credentials.get(index))
    else {
        return Ok(found.map(|found| alone(found, draft, bundle)));
    };
    Err(Unfound::Misplaced(match unread {
        Some((credential, why)) if credential.id == owner.id => Misplaced {
            credential_id: owner.id.clone(),
            why: format!(
                "the key for \"{}\" is in the body, where it was not replaced: there is {why}",
                owner.name
            ),
        },
        _ => Misplaced::new(owner, "in the body"),
    }))
}

/// The same, without whatever else in the head could say who is asking.
fn alone<'a>(mut found: Found<'a>, draft: &mut Draft, bundle: &'a Bundle) -> Found<'a> {
    let destination = draft.destination.clone();
    found.dropped.extend(family::strip(draft, found.credential, bundle.serving(&destination)));
    found
}

/// A parameter in which a key goes is there once: of several, each server takes the one that it likes.
fn once(draft: &Draft, place: &Place) -> Result<(), Unfound> {
    let (Place::Query { name }, Some(query)) = (place, &draft.query) else { return Ok(()) };
    let named = query.split('&').filter(|pair| {
        let there: Vec<u8> = percent_decode_str(pair.split('=').next().unwrap_or(pair)).collect();
        there.eq_ignore_ascii_case(name.as_bytes())
    });
    if named.count() == 1 {
        return Ok(());
    }
    Err(Unfound::Twice(format!(
        "the parameter {name:?}, into which the key goes, is in the query more than once, and any of them could count: send it \
         once"
    )))
}

/// The answer is searched for the real key, so it must not come in another coding.
fn answered_in_the_open(draft: &mut Draft) {
    draft.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    draft.headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    if draft.headers.contains_key(GRPC_ACCEPT_ENCODING) {
        draft.headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
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
        let Credential { id, version, .. } = &**self.credential;
        Injection { credential: id.clone(), version: *version, slot: self.slot }
    }
}

fn take_out<'a>(draft: &mut Draft, credential: &'a Arc<Credential>) -> Option<Found<'a>> {
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
        Place::Cookie { name } => {
            let (cookies, at) = cookie(&draft.headers, name, fakes)?;
            draft.headers.insert(COOKIE, cookies);
            Slot::Cookie { at }
        }
        // Signed requests are another thing, the body is not here yet, and Postgres is no HTTP.
        Place::AwsSigv4 | Place::Form { .. } | Place::Json { .. } | Place::Postgres { .. } => {
            return None;
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
        Place::Hmac { names, template } => {
            let signature = names.first()?;
            // Whatever stands around the fake key is written anew, and a signature made with it is of no use.
            let has_fake = |value: &HeaderValue| {
                let text = value.to_str().unwrap_or_default();
                fakes.iter().any(|fake| text.contains(fake.as_str()))
            };
            draft.headers.get_all(signature).iter().find(|value| has_fake(value))?;
            for name in names {
                draft.headers.remove(name);
            }
            Slot::Signed { names: names.clone(), manner: format!("hmac {template}") }
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
    Some(Found { credential, slot, dropped: Vec::new() })
}

fn take_out_of_body<'a>(
    headers: &HeaderMap,
    body: &mut Bytes,
    credential: &'a Arc<Credential>,
) -> Result<Option<Found<'a>>, &'static str> {
    let (located, slot): (_, fn(u32) -> Slot) = match &credential.place {
        Place::Form { name } => (body::form_field(headers, body, name)?, |at| Slot::Form { at }),
        Place::Json { pointer } => {
            (body::json_text(headers, body, pointer)?, |at| Slot::Json { at })
        }
        Place::AwsSigv4
        | Place::Basic(_)
        | Place::Cookie { .. }
        | Place::Header { .. }
        | Place::Hmac { .. }
        | Place::Path { .. }
        | Place::Postgres { .. }
        | Place::Query { .. } => return Ok(None),
    };
    let Some(located) = located.filter(|located| credential.fake_keys.contains(&located.text))
    else {
        return Ok(None);
    };
    *body = [&body[..located.at.start], HOLE.as_bytes(), &body[located.at.end..]].concat().into();
    let slot = slot(located.at.start as u32);
    Ok(Some(Found { credential, slot, dropped: Vec::new() }))
}

/// The Cookie header with a hole in the place of this cookie's value, if that is a fake key and the cookie is there
/// once; and where the hole is.
fn cookie(headers: &HeaderMap, name: &str, fakes: &[String]) -> Option<(HeaderValue, u32)> {
    let mut lines = headers.get_all(COOKIE).iter();
    let (text, None) = (lines.next()?.to_str().ok()?, lines.next()) else { return None };
    let mut begin = 0;
    let mut values = text.split(';').filter_map(|cookie| {
        let end = begin + cookie.len();
        begin = end + 1;
        let (named, value) = cookie.split_once('=')?;
        (named.trim() == name).then_some(end - value.len()..end)
    });
    let (value, None) = (values.next()?, values.next()) else { return None };
    if !fakes.iter().any(|fake| *fake == text[value.clone()]) {
        return None;
    }
    let mut holed = text.to_owned();
    holed.replace_range(value.clone(), HOLE);
    Some((HeaderValue::try_from(holed).ok()?, value.start as u32))
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
    /// Told the index of the credential, when a fake key goes by.
    alarm: Box<dyn Fn(usize) + Send + Sync>,
}

/// Why a body that streamed past was broken off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stopped {
    /// The index of the credential whose fake key was in it.
    FakeKey(usize),
    Slow,
}

impl Watched {
    pub(crate) fn new(
        body: Incoming,
        force: Arc<InForce>,
        pace: Option<Pace>,
        alarm: impl Fn(usize) + Send + Sync + 'static,
    ) -> Self {
        let (watch, stopped) = (Watch::default(), Arc::default());
        Self { body, force, watch, pace, stopped, alarm: Box::new(alarm) }
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
                    // An answer may be on its way already: the alarm does not wait for it.
                    (this.alarm)(owner);
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
