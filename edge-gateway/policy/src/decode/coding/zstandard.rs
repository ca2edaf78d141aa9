//! Zstandard (RFC 8878): one frame, without a dictionary.

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{BROKEN, Step, TRAILING};
use crate::body::Undecodable;

/// The widest window of Zstandard in HTTP (RFC 9659), bytes.
const WIDEST: u64 = 8 * 1024 * 1024;
/// A frame's header has no more bytes, without a dictionary.
const HEADER: usize = 14;
const BLOCK_HEADER: usize = 3;
/// Block_Maximum_Size, before and after.
const BLOCK: usize = 128 * 1024;
const CHECKSUM: usize = 4;

#[derive(Default)]
pub(super) struct Zstandard {
    decoder: FrameDecoder,
    frame: Option<Frame>,
    /// What has come of a header or a block that is not whole.
    pending: Vec<u8>,
    /// Bytes that came out.
    made: u64,
}

impl Zstandard {
    /// A block at a time.
    pub(super) fn step(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, Undecodable> {
        let frame = match self.frame {
            Some(frame) => frame,
            None => {
                take(&mut self.pending, HEADER, input);
                let Some((frame, length)) = Frame::read(&self.pending)? else {
                    return Ok(Step::Hungry);
                };
                if frame.window > WIDEST {
                    return Err(Undecodable(
                        "a body whose compression asks for a window above 8 MiB",
                    ));
                }
                let mut header = self.pending.get(..length).ok_or(BROKEN)?;
                self.decoder.reset(&mut header).map_err(|_| BROKEN)?;
                self.pending.drain(..length);
                *self.frame.insert(frame)
            }
        };
        take(&mut self.pending, BLOCK_HEADER, input);
        let Some([a, b, c]) = self.pending.first_chunk() else { return Ok(Step::Hungry) };
        let header = u32::from_le_bytes([*a, *b, *c, 0]);
        let (last, kind, size) = (header & 1 == 1, header >> 1 & 3, (header >> 3) as usize);
        if size > BLOCK {
            return Err(BROKEN);
        }
        // A byte that is repeated is written once.
        let length = if kind == 1 { 1 } else { size };
        let checksum = if last && frame.checksum { CHECKSUM } else { 0 };
        let whole = BLOCK_HEADER + length + checksum;
        take(&mut self.pending, whole, input);
        let Some(mut block) = self.pending.get(..whole) else { return Ok(Step::Hungry) };
        let strategy = BlockDecodingStrategy::UptoBlocks(1);
        let ended = self.decoder.decode_blocks(&mut block, strategy).map_err(|_| BROKEN)?;
        if ended != last || !block.is_empty() {
            return Err(BROKEN);
        }
        self.pending.drain(..whole);
        let made = self.decoder.collect().unwrap_or_default();
        self.made += made.len() as u64;
        out.extend(made);
        if frame.content.is_some_and(|size| if last { size != self.made } else { size < self.made })
        {
            return Err(BROKEN);
        }
        if !last {
            return Ok(Step::More);
        }
        let said = self.decoder.get_checksum_from_data();
        if said.is_some() && said != self.decoder.get_calculated_checksum() {
            return Err(BROKEN);
        }
        // The shortest of frames is shorter than a header can be.
        if self.pending.is_empty() { Ok(Step::Ended) } else { Err(TRAILING) }
    }
}

/// Fills `pending` up to `size` bytes.
fn take(pending: &mut Vec<u8>, size: usize, input: &mut &[u8]) {
    let (taken, rest) = input.split_at(size.saturating_sub(pending.len()).min(input.len()));
    pending.extend_from_slice(taken);
    *input = rest;
}

/// What a frame says of itself (RFC 8878 §3.1.1.1).
#[derive(Clone, Copy)]
struct Frame {
    window: u64,
    /// Of what is inside, bytes; None if it does not say.
    content: Option<u64>,
    checksum: bool,
}

impl Frame {
    /// With the length of its header; None as long as more of that has to come.
    ///
    /// # Errors
    /// Another kind of frame, or one that needs a dictionary.
    fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Undecodable> {
        const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
        let common = bytes.len().min(MAGIC.len());
        if bytes.get(..common) != MAGIC.get(..common) {
            return Err(BROKEN);
        }
        let Some((&descriptor, rest)) = bytes.get(MAGIC.len()..).and_then(<[u8]>::split_first)
        else {
            return Ok(None);
        };
        let single = descriptor & 0x20 != 0;
        if descriptor & 0x08 != 0 || descriptor & 0x03 != 0 {
            return Err(BROKEN);
        }
        let (window, rest) = match (single, rest.split_first()) {
            (true, _) => (None, rest),
            (false, None) => return Ok(None),
            (false, Some((byte, rest))) => {
                let base = 1_u64 << (10 + (byte >> 3));
                (Some(base + base / 8 * u64::from(byte & 7)), rest)
            }
        };
        let length = match descriptor >> 6 {
            0 if single => 1,
            0 => 0,
            power => 1_usize << power,
        };
        let Some(field) = rest.get(..length) else { return Ok(None) };
        let size = field.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let content = match length {
            0 => None,
            2 => Some(size + 256),
            _ => Some(size),
        };
        let window = window.or(content).ok_or(BROKEN)?;
        let frame = Self { window, content, checksum: descriptor & 0x04 != 0 };
        Ok(Some((frame, bytes.len() - rest.len() + length)))
    }
}
