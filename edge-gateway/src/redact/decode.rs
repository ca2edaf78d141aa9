//! Content codings, taken off in order to see what is inside.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use countersign_policy::decode::coding::{Step, Stream};
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::header::{self, HeaderMap};
use http_body::{Body, Frame, SizeHint};

use crate::upstream::{BodyError, BoxBody};

/// How much is given to a decoder at once: deflate makes at most 1,032 times as much of it. The others make 128 KiB at a time.
const SIP: usize = 512;
/// A body that comes out larger than this, and so many times larger than it came, is made to exhaust whoever opens it.
const LARGE: u64 = 8 * 1024 * 1024;
const BOMB: u64 = 100;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Brotli,
    Deflate,
    Gzip,
    Identity,
    Zstandard,
}

impl Coding {
    /// # Errors
    /// For what cannot be looked into.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Unreadable> {
        let mut found = Self::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            for token in value.to_str().map_err(|_| Unreadable)?.split(',') {
                let coding = match token.trim().to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "br" => Self::Brotli,
                    "deflate" => Self::Deflate,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "zstd" => Self::Zstandard,
                    _ => return Err(Unreadable),
                };
                if found != Self::Identity {
                    return Err(Unreadable);
                }
                found = coding;
            }
        }
        Ok(found)
    }
}

/// An answer that may hide a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreadable;

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "the answer was not passed on: a key went with the request, and the answer is in a content coding \
             that cannot be looked into",
        )
    }
}

impl std::error::Error for Unreadable {}

/// The body of such an answer: an error and nothing else.
pub(super) struct Undecodable(pub(super) Option<Unreadable>);

impl Body for Undecodable {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.0.take().map(|error| Err(error.into())))
    }
}

enum Decoder {
    Deflate(DeflateDecoder<Vec<u8>>),
    Gzip(MultiGzDecoder<Vec<u8>>),
    Stream(Stream, Step),
    Zlib(ZlibDecoder<Vec<u8>>),
}

impl Decoder {
    fn new(coding: Coding, first: u8) -> Self {
        match coding {
            Coding::Brotli => Self::Stream(Stream::brotli(), Step::Hungry),
            Coding::Zstandard => Self::Stream(Stream::zstandard(), Step::Hungry),
            Coding::Gzip => Self::Gzip(MultiGzDecoder::new(Vec::new())),
            // "deflate" is zlib's format by the book (RFC 9110 §8.4.1.2), and bare deflate in the wild.
            _ if first & 0x0f == 8 => Self::Zlib(ZlibDecoder::new(Vec::new())),
            _ => Self::Deflate(DeflateDecoder::new(Vec::new())),
        }
    }

    /// What comes out for what goes in, which is taken from the front: an event is not to wait for the next one.
    fn decode(&mut self, encoded: &mut Bytes) -> io::Result<Bytes> {
        let out = match self {
            Self::Deflate(decoder) => write_through(decoder, encoded).map(|()| decoder.get_mut()),
            Self::Gzip(decoder) => write_through(decoder, encoded).map(|()| decoder.get_mut()),
            Self::Stream(stream, last) => return take_step(stream, last, encoded),
            Self::Zlib(decoder) => write_through(decoder, encoded).map(|()| decoder.get_mut()),
        };
        out.map(|out| Bytes::from(std::mem::take(out)))
    }

    /// Whether something may come out without anything more going in.
    fn has_more(&self) -> bool {
        matches!(self, Self::Stream(_, Step::More))
    }

    fn finish(&mut self) -> io::Result<Bytes> {
        let out = match self {
            Self::Deflate(decoder) => decoder.try_finish().map(|()| decoder.get_mut()),
            Self::Gzip(decoder) => decoder.try_finish().map(|()| decoder.get_mut()),
            Self::Zlib(decoder) => decoder.try_finish().map(|()| decoder.get_mut()),
            Self::Stream(_, Step::Ended) => return Ok(Bytes::new()),
            Self::Stream(..) => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        out.map(|out| Bytes::from(std::mem::take(out)))
    }
}

fn write_through(decoder: &mut impl Write, encoded: &mut Bytes) -> io::Result<()> {
    decoder.write_all(&encoded.split_to(encoded.len().min(SIP)))?;
    decoder.flush()
}

fn take_step(stream: &mut Stream, last: &mut Step, encoded: &mut Bytes) -> io::Result<Bytes> {
    if *last == Step::Ended {
        return Err(io::Error::other("there are bytes after the end of a compressed answer"));
    }
    let (mut rest, mut out) = (encoded.as_ref(), Vec::new());
    *last = stream.step(&mut rest, &mut out).map_err(|why| io::Error::other(why.0))?;
    encoded.advance(encoded.len() - rest.len());
    Ok(out.into())
}

/// A body with its content coding taken off, as it streams past.
pub(super) struct Decoded {
    inner: BoxBody,
    coding: Coding,
    decoder: Option<Decoder>,
    /// What has come and is still encoded.
    encoded: Bytes,
    /// Bytes that went into the decoder, and that came out of it.
    went_in: u64,
    came_out: u64,
    after: VecDeque<Frame<Bytes>>,
    ended: bool,
}

impl Decoded {
    pub(super) fn new(inner: BoxBody, coding: Coding) -> Self {
        Self {
            inner,
            coding,
            decoder: None,
            encoded: Bytes::new(),
            went_in: 0,
            came_out: 0,
            after: VecDeque::new(),
            ended: false,
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.ended = true;
        // No decoder: the body was empty, as the answer to HEAD is.
        if let Some(mut decoder) = self.decoder.take() {
            let rest = decoder.finish()?;
            if !rest.is_empty() {
                self.after.push_front(Frame::data(rest));
            }
        }
        Ok(())
    }
}

impl Body for Decoded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let coding = this.coding;
            if let Some(first) = this.encoded.first() {
                this.decoder.get_or_insert_with(|| Decoder::new(coding, *first));
            }
            let has_more =
                !this.encoded.is_empty() || this.decoder.as_ref().is_some_and(Decoder::has_more);
            if let (true, Some(decoder)) = (has_more, &mut this.decoder) {
                let before = this.encoded.len();
                let decoded = match decoder.decode(&mut this.encoded) {
                    Ok(decoded) => decoded,
                    Err(error) => {
                        this.ended = true;
                        this.encoded.clear();
                        this.decoder = None;
                        return Poll::Ready(Some(Err(error.into())));
                    }
                };
                this.went_in += (before - this.encoded.len()) as u64;
                this.came_out += decoded.len() as u64;
                if this.came_out > LARGE && this.came_out > BOMB * this.went_in {
                    this.ended = true;
                    this.encoded.clear();
                    this.decoder = None;
                    let why = "the answer was broken off: it is many times larger than it came";
                    return Poll::Ready(Some(Err(why.into())));
                }
                if !decoded.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(decoded))));
                }
                continue;
            }
            if this.ended {
                return Poll::Ready(this.after.pop_front().map(Ok));
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => this.encoded = chunk,
                    Err(trailers) => {
                        this.after.push_back(trailers);
                        this.finish()?;
                    }
                },
                None => this.finish()?,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.encoded.is_empty() && self.after.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
