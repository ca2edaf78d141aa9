//! The answer's way back: no real key reaches the agent, however the upstream writes it.
//!
//! Every spelling of every key (as it is, in base64, hexadecimal, percent-encoding, JSON and HTML escapes) is looked
//! for in headers, body and trailers, and overwritten with as many `*`, so that lengths and syntax stay as they
//! were. A body is passed on as it comes: what is held back is only an end that may be the beginning of a spelling.
//!
//! What an upstream encrypts, reverses or cuts in pieces is not recognised. Against that stands that a key goes to
//! the one host it is for.

mod decode;
mod messages;
mod search;
mod spell;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aho_corasick::automaton::StateID;
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderMap as Trailers, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::upstream::{BodyError, BoxBody};
use decode::{Coding, Decoded, Undecodable, Unreadable};
use messages::Messages;
use search::Spellings;

/// Takes keys out of answers. Cheap to clone; making one is not, so make it where the key is opened and keep it as
/// long as the key. It holds the keys' spellings: it has no `Debug`.
#[derive(Clone)]
pub struct Redactor(Option<Arc<Spellings>>);

impl Redactor {
    /// Looks for these keys.
    pub fn new(secrets: &[&[u8]]) -> Self {
        Self(Spellings::of(secrets).map(Arc::new))
    }

    /// Looks for nothing and changes nothing: for requests without a key.
    pub fn none() -> Self {
        Self(None)
    }

    /// The whole answer: its content coding taken off, then head, body and trailers without the keys. This is the
    /// way to use it; `headers` and `body` are its halves.
    pub fn response(&self, answer: Response<BoxBody>) -> Response<BoxBody> {
        if self.0.is_none() {
            return answer;
        }
        let (mut head, body) = answer.into_parts();
        // An answer to HEAD has a coding, a length, and nothing to look into.
        let coding =
            if body.is_end_stream() { Ok(Coding::Identity) } else { Coding::of(&head.headers) };
        let body = match coding {
            Ok(Coding::Identity) => body,
            Ok(coding) => {
                head.headers.remove(header::CONTENT_ENCODING);
                head.headers.remove(header::CONTENT_LENGTH);
                Decoded::new(body, coding).boxed()
            }
            Err(unreadable) => {
                head.headers.remove(header::CONTENT_LENGTH);
                Undecodable(Some(unreadable)).boxed()
            }
        };
        self.headers(&mut head.headers);
        let messages = Messages::of(&head.headers);
        let body = match self.masker() {
            Some(masker) if !body.is_end_stream() => Redacted::new(body, masker, messages).boxed(),
            Some(_) | None => body,
        };
        Response::from_parts(head, body)
    }

    /// Masks keys in values, drops headers with a key in their name, and all cookies: a cookie may be a session
    /// that stands for the key.
    pub fn headers(&self, headers: &mut HeaderMap) {
        let Some(spellings) = &self.0 else { return };
        headers.remove(header::SET_COOKIE);
        headers.remove(HeaderName::from_static("set-cookie2"));
        spellings.clean(headers);
    }

    /// Masks keys in a body without a content coding, as it streams past, and in its trailers.
    pub fn body(&self, body: BoxBody) -> BoxBody {
        match self.masker() {
            Some(masker) => Redacted::new(body, masker, None).boxed(),
            None => body,
        }
    }

    /// Masks keys in whatever is passed through it; none where nothing is looked for.
    pub(crate) fn masker(&self) -> Option<Masker> {
        self.0.as_ref().map(|spellings| Masker::new(Arc::clone(spellings)))
    }
}

/// Overwrites keys in a sequence of bytes, in pieces as they come.
pub(crate) struct Masker {
    spellings: Arc<Spellings>,
    state: StateID,
    /// The end that may be the beginning of a spelling, already masked where it was the end of one.
    held: BytesMut,
}

impl Masker {
    fn new(spellings: Arc<Spellings>) -> Self {
        Self { state: spellings.start, spellings, held: BytesMut::new() }
    }

    /// One for the same keys, and for other bytes.
    pub(crate) fn another(&self) -> Self {
        Self::new(Arc::clone(&self.spellings))
    }

    /// What may go on of what was held and the chunk.
    pub(crate) fn pass(&mut self, chunk: Bytes) -> Bytes {
        let before = self.held.len();
        let mut masks: Vec<(usize, usize)> = Vec::new();
        self.state = self.spellings.go_on(self.state, &chunk, |end, length| {
            // What of it was flushed is gone.
            masks.push(((before + end).saturating_sub(length), before + end));
        });
        let hold = self.spellings.depth(self.state);
        if before == 0 && masks.is_empty() {
            let split = chunk.len().saturating_sub(hold);
            self.held.extend_from_slice(&chunk[split..]);
            return chunk.slice(..split);
        }
        let mut whole = std::mem::take(&mut self.held);
        whole.extend_from_slice(&chunk);
        for (from, to) in masks {
            whole[from..to].fill(b'*');
        }
        self.held = whole.split_off(whole.len().saturating_sub(hold));
        whole.freeze()
    }

    /// All that is held: it cannot wait for what follows. Should that be the rest of a key, it is masked all the same.
    pub(crate) fn flush(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}

/// A body that is masked as it streams past.
struct Redacted {
    inner: BoxBody,
    masker: Masker,
    /// Of gRPC: where its messages end. None of one may wait for the next, since a client may do so itself.
    messages: Option<Messages>,
    trailers: Option<Trailers>,
    ended: bool,
}

impl Redacted {
    fn new(inner: BoxBody, masker: Masker, messages: Option<Messages>) -> Self {
        Self { inner, masker, messages, trailers: None, ended: false }
    }

    /// What may go on of what was held and the chunk.
    ///
    /// # Errors
    /// For a message that cannot be looked into.
    fn pass(&mut self, mut chunk: Bytes) -> Result<Bytes, Unreadable> {
        let Some(messages) = &mut self.messages else { return Ok(self.masker.pass(chunk)) };
        let mut passed = BytesMut::new();
        while !chunk.is_empty() {
            let (length, ends) = messages.next(&chunk)?;
            passed.extend_from_slice(&self.masker.pass(chunk.split_to(length)));
            if ends {
                passed.extend_from_slice(&self.masker.flush());
            }
        }
        Ok(passed.freeze())
    }
}

impl Body for Redacted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        while !this.ended {
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => {
                        let passed = match this.pass(chunk) {
                            Ok(passed) => passed,
                            Err(unreadable) => {
                                this.ended = true;
                                return Poll::Ready(Some(Err(unreadable.into())));
                            }
                        };
                        if !passed.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(passed))));
                        }
                    }
                    Err(frame) => {
                        this.ended = true;
                        this.trailers = frame.into_trailers().ok().map(|mut trailers| {
                            this.masker.spellings.clean(&mut trailers);
                            trailers
                        });
                    }
                },
                None => this.ended = true,
            }
        }
        let rest = this.masker.flush();
        if !rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.masker.held.is_empty()
            && self.trailers.is_none()
            && (self.ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.masker.held.len() as u64;
        if self.ended {
            return SizeHint::with_exact(held);
        }
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
    }
}
