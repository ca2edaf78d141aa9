//! Content codings, taken off whole: gzip, deflate, Brotli and Zstandard, within a size that the caller sets.
//!
//! Each stream is one stream: some readers stop at its end and others go on with what follows, so nothing may follow it.
//! Brotli's large windows and Zstandard's above 8 MiB (RFC 9659) are not opened: they make a reader take memory that the body
//! itself does not have.

use std::io::Read;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::{GzDecoder, ZlibDecoder};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

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
            Self::Brotli => brotli(bytes, most),
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
            Self::Zstandard => zstandard(bytes, most),
        }
    }
}

const BROKEN: Undecodable = Undecodable("a body that is not as Content-Encoding says");
const LARGE: Undecodable =
    Undecodable("a body that decoding makes more than 100 times larger, or more than 8 MiB");
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
    if rest.is_empty() {
        Ok(out)
    } else {
        Err(Undecodable("bytes after the end of a compressed body"))
    }
}

/// RFC 7932. Its window is 16 MiB at most, and what is taken for it grows with what comes out.
fn brotli(bytes: &[u8], most: usize) -> Result<Vec<u8>, Undecodable> {
    let alloc = StandardAlloc::default;
    let mut state = BrotliState::new_strict(alloc(), alloc(), alloc());
    let (mut left, mut read, mut total) = (bytes.len(), 0, 0);
    let mut out = Vec::new();
    let mut step = vec![0; STEP];
    loop {
        let (mut room, mut made) = (step.len(), 0);
        let result = BrotliDecompressStream(
            &mut left, &mut read, bytes, &mut room, &mut made, &mut step, &mut total, &mut state,
        );
        out.extend_from_slice(step.get(..made).ok_or(BROKEN)?);
        if out.len() > most {
            return Err(LARGE);
        }
        match result {
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::ResultSuccess => {
                return whole(out, bytes.get(read..).unwrap_or_default());
            }
            // All of the input was there from the start.
            BrotliResult::NeedsMoreInput | BrotliResult::ResultFailure => return Err(BROKEN),
        }
    }
}

/// RFC 8878: one frame, without a dictionary.
fn zstandard(bytes: &[u8], most: usize) -> Result<Vec<u8>, Undecodable> {
    let header = Frame::read(bytes).ok_or(BROKEN)?;
    if header.window > WIDEST {
        return Err(Undecodable("a body whose compression asks for a window above 8 MiB"));
    }
    if header.content.is_some_and(|size| size > most as u64) {
        return Err(LARGE);
    }
    let mut rest = bytes;
    let mut decoder = FrameDecoder::new();
    decoder.reset(&mut rest).map_err(|_| BROKEN)?;
    let mut out = Vec::new();
    loop {
        let ended = decoder.decode_blocks(&mut rest, BlockDecodingStrategy::UptoBytes(STEP));
        let ended = ended.map_err(|_| BROKEN)?;
        out.extend(decoder.collect().unwrap_or_default());
        if out.len() > most {
            return Err(LARGE);
        }
        if ended {
            break;
        }
    }
    if header.content.is_some_and(|size| size != out.len() as u64) {
        return Err(BROKEN);
    }
    let said = decoder.get_checksum_from_data();
    if said.is_some() && said != decoder.get_calculated_checksum() {
        return Err(BROKEN);
    }
    whole(out, rest)
}

/// The widest window of Zstandard in HTTP (RFC 9659), bytes.
const WIDEST: u64 = 8 * 1024 * 1024;

/// What a Zstandard frame says of itself (RFC 8878 §3.1.1.1).
struct Frame {
    window: u64,
    /// Of what is inside, bytes; None if it does not say.
    content: Option<u64>,
}

impl Frame {
    /// None: another kind of frame, or one that needs a dictionary.
    fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
        let (descriptor, rest) = rest.split_first()?;
        let single = descriptor & 0x20 != 0;
        if descriptor & 0x08 != 0 || descriptor & 0x03 != 0 {
            return None;
        }
        let (window, rest) = match single {
            true => (None, rest),
            false => {
                let (byte, rest) = rest.split_first()?;
                let base = 1_u64 << (10 + (byte >> 3));
                (Some(base + base / 8 * u64::from(byte & 7)), rest)
            }
        };
        let length = match descriptor >> 6 {
            0 if single => 1,
            0 => 0,
            power => 1_usize << power,
        };
        let field = rest.get(..length)?;
        let size = field
            .iter()
            .rev()
            .try_fold(0_u64, |sum, byte| Some(sum.checked_mul(256)? + u64::from(*byte)))?;
        let content = match length {
            0 => None,
            2 => Some(size + 256),
            _ => Some(size),
        };
        Some(Self { window: window.or(content)?, content })
    }
}
