//! Content codings, taken off whole: gzip, deflate, Brotli and Zstandard, within a size that the caller sets. Brotli and
//! Zstandard are taken off as they come, too ([`Stream`]), for what passes by.
//!
//! Each stream is one stream: some readers stop at its end and others go on with what follows, so nothing may follow it.
//! Brotli's large windows and Zstandard's above 8 MiB (RFC 9659) are not opened: they make a reader take memory that the body
//! itself does not have.

mod brotli;
mod zstandard;

use std::io::Read;

use flate2::bufread::{GzDecoder, ZlibDecoder};

use self::brotli::Brotli;
use self::zstandard::Zstandard;
use crate::body::Undecodable;

/// A coding that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Brotli,
    /// As RFC 9110 §8.4.1.2 has it, with zlib's frame.
    Deflate,
    Gzip,
    Zstandard,
}

impl Coding {
    /// By its name in Content-Encoding or grpc-encoding, in lower case. None for one that is not known.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "br" => Some(Self::Brotli),
            "deflate" => Some(Self::Deflate),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstandard),
            _ => None,
        }
    }

    /// What is inside, if that is `most` bytes or fewer.
    ///
    /// # Errors
    /// What is not as the coding has it, what is larger, and bytes after its end.
    pub fn take_off(self, bytes: &[u8], most: usize) -> Result<Vec<u8>, Undecodable> {
        match self {
            Self::Brotli => streamed(Stream::brotli(), bytes, most),
            Self::Deflate => {
                let mut reader = ZlibDecoder::new(bytes);
                let out = inflate(&mut reader, most)?;
                whole(out, reader.into_inner())
            }
            Self::Gzip => {
                let mut reader = GzDecoder::new(bytes);
                let out = inflate(&mut reader, most)?;
                whole(out, reader.into_inner())
            }
            Self::Zstandard => streamed(Stream::zstandard(), bytes, most),
        }
    }
}

const BROKEN: Undecodable = Undecodable("a body that is not as Content-Encoding says");
const LARGE: Undecodable =
    Undecodable("a body that decoding makes more than 100 times larger, or more than 8 MiB");
const TRAILING: Undecodable = Undecodable("bytes after the end of a compressed body");
/// What is made at a time, bytes.
const STEP: usize = 64 * 1024;

fn inflate(reader: &mut impl Read, most: usize) -> Result<Vec<u8>, Undecodable> {
    let mut out = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(limit).read_to_end(&mut out).map_err(|_| BROKEN)?;
    if out.len() > most { Err(LARGE) } else { Ok(out) }
}

/// Some readers stop after the first member, others go on: nothing may follow it.
fn whole(out: Vec<u8>, rest: &[u8]) -> Result<Vec<u8>, Undecodable> {
    if rest.is_empty() { Ok(out) } else { Err(TRAILING) }
}

fn streamed(mut stream: Stream, mut bytes: &[u8], most: usize) -> Result<Vec<u8>, Undecodable> {
    let mut out = Vec::new();
    loop {
        let step = stream.step(&mut bytes, &mut out)?;
        if out.len() > most {
            return Err(LARGE);
        }
        match step {
            Step::More => {}
            // All of the input was there from the start.
            Step::Hungry => return Err(BROKEN),
            Step::Ended => return whole(out, bytes),
        }
    }
}

/// One Brotli stream (RFC 7932) or Zstandard frame (RFC 8878), taken off as its bytes come.
pub struct Stream(Of);

enum Of {
    Brotli(Box<Brotli>),
    Zstandard(Box<Zstandard>),
}

/// What a step of a [`Stream`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More may come out without more going in.
    More,
    /// All that came was taken, and more is needed.
    Hungry,
    /// It is over. What is left of the input was not touched.
    Ended,
}

impl Stream {
    /// Its window is 16 MiB at most, and what is taken for it grows with what comes out. All that can come out does.
    pub fn brotli() -> Self {
        Self(Of::Brotli(Box::default()))
    }

    /// Its window is 8 MiB at most (RFC 9659). As much as the window holds comes out only when more has come, or the end.
    pub fn zstandard() -> Self {
        Self(Of::Zstandard(Box::default()))
    }

    /// Takes bytes from the front of `input`, and puts after `out` what comes of them: 128 KiB at most, so that whoever counts
    /// can stop in time.
    ///
    /// # Errors
    /// What is not as the coding has it. Nothing more is to be asked of it then.
    pub fn step(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Step, Undecodable> {
        match &mut self.0 {
            Of::Brotli(stream) => stream.step(input, out),
            Of::Zstandard(stream) => stream.step(input, out),
        }
    }
}
