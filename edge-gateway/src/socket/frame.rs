//! The frames of RFC 6455 §5, taken apart and neither unmasked nor put together, so that each can go on as it came.

use bytes::{Bytes, BytesMut};

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Whether the message ends with it.
    pub(crate) last: bool,
    /// What extensions use, in the places that the first byte has for it.
    reserved: u8,
    pub(crate) opcode: Opcode,
    mask: Option<[u8; 4]>,
    length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Binary,
    Close,
    Continuation,
    Ping,
    Pong,
    Text,
}

/// A frame, or some of one that is large.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) head: Head,
    /// The frame's head as it came; empty save in a frame's first piece.
    pub(crate) written: Bytes,
    /// As it came.
    pub(crate) payload: BytesMut,
    /// Where in the frame's payload it begins.
    at: u64,
    /// Whether the frame ends with it.
    pub(crate) ends: bool,
}

/// Why what came is not a sequence of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads the frames of one direction.
pub(crate) struct Frames {
    /// Whether they are masked: those of clients are (§5.1).
    masked: bool,
    /// Whether an extension was agreed on, which may use the reserved bits.
    extended: bool,
    /// Whether a message has begun and not ended.
    within: bool,
    /// A large frame that has begun, and how much of its payload went by.
    large: Option<(Head, u64)>,
}

/// Frames up to this are passed on whole, and larger ones in pieces of this at most. Bytes.
const WHOLE: usize = 64 * 1024;
/// §5.5.
const MOST_OF_CONTROL: u64 = 125;

impl Opcode {
    fn of(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

impl Piece {
    /// The payload without its mask.
    pub(crate) fn unmasked(&self) -> Vec<u8> {
        let mut bytes = self.payload.to_vec();
        if let Some(mask) = self.head.mask {
            apply(mask, self.at, &mut bytes);
        }
        bytes
    }

    /// Its bytes on the wire.
    pub(crate) fn size(&self) -> usize {
        self.written.len() + self.payload.len()
    }
}

impl Frames {
    pub(crate) fn new(masked: bool, extended: bool) -> Self {
        Self { masked, extended, within: false, large: None }
    }

    /// Takes the next frame, or the next piece of a large one, off what was read; None when more has to be read first.
    ///
    /// # Errors
    /// [`Malformed`], after which nothing of it can be read any more.
    pub(crate) fn next(&mut self, read: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        if let Some((head, at)) = self.large {
            if read.is_empty() {
                return Ok(None);
            }
            return Ok(Some(self.piece(head, Bytes::new(), at, read)));
        }
        let Some((head, size)) = parse(read)? else { return Ok(None) };
        self.check(&head)?;
        if head.length <= WHOLE as u64 && ((read.len() - size) as u64) < head.length {
            return Ok(None);
        }
        if !head.opcode.is_control() {
            self.within = !head.last;
        }
        let written = read.split_to(size).freeze();
        Ok(Some(self.piece(head, written, 0, read)))
    }

    fn piece(&mut self, head: Head, written: Bytes, at: u64, read: &mut BytesMut) -> Piece {
        let left = usize::try_from(head.length - at).unwrap_or(usize::MAX);
        let payload = read.split_to(left.min(read.len()).min(WHOLE));
        let next = at + payload.len() as u64;
        let ends = next == head.length;
        self.large = (!ends).then_some((head, next));
        Piece { head, written, payload, at, ends }
    }

    fn check(&self, head: &Head) -> Result<(), Malformed> {
        if head.mask.is_some() != self.masked {
            return Err(Malformed(
                "a frame that is masked and should not be, or the other way round",
            ));
        }
        if head.reserved != 0 && !self.extended {
            return Err(Malformed("a frame that uses an extension nobody agreed on"));
        }
        let control = head.opcode.is_control();
        if control && (!head.last || head.length > MOST_OF_CONTROL) {
            return Err(Malformed("a control frame in pieces, or a large one"));
        }
        if head.opcode == Opcode::Close && head.length == 1 {
            return Err(Malformed("a close frame with half a code"));
        }
        if !control && (head.opcode == Opcode::Continuation) != self.within {
            return Err(Malformed("a message that begins within another, or goes on without one"));
        }
        Ok(())
    }
}

/// The head at the beginning of what was read, and its size; None when it is not all there.
fn parse(read: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
    let (Some(first), Some(second)) = (read.first(), read.get(1)) else { return Ok(None) };
    let opcode =
        Opcode::of(first & 0x0f).ok_or(Malformed("a frame of a kind that is not known"))?;
    let (length, mut size) = match second & 0x7f {
        126 => {
            let Some(bytes) = read.get(2..4) else { return Ok(None) };
            (bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)), 4)
        }
        127 => {
            let Some(bytes) = read.get(2..10) else { return Ok(None) };
            (bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)), 10)
        }
        short => (u64::from(short), 2),
    };
    let shortest = match length {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    if size != shortest || length > i64::MAX as u64 {
        return Err(Malformed("a frame whose length is not written as it must be"));
    }
    let mut mask = None;
    if second & 0x80 != 0 {
        let Some(bytes) = read.get(size..size + 4) else { return Ok(None) };
        mask = bytes.try_into().ok();
        size += 4;
    }
    let head = Head { last: first & 0x80 != 0, reserved: first & 0x70, opcode, mask, length };
    Ok(Some((head, size)))
}

/// A frame of our own.
pub(crate) fn frame(last: bool, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(14 + payload.len());
    bytes.push(u8::from(last) << 7 | opcode.bits());
    let masked = u8::from(mask.is_some()) << 7;
    match payload.len() {
        length @ 0..=125 => bytes.push(masked | length as u8),
        length @ 126..=0xffff => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(masked | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    let begin = bytes.len() + if mask.is_some() { 4 } else { 0 };
    bytes.extend(mask.iter().flatten());
    bytes.extend(payload);
    if let Some(mask) = mask {
        apply(mask, 0, &mut bytes[begin..]);
    }
    bytes
}

/// §5.3; `at` is where in the frame's payload the bytes begin.
fn apply(mask: [u8; 4], at: u64, bytes: &mut [u8]) {
    let turn = (at % 4) as usize;
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[(turn + index) % 4];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// Everything in these bytes, read in pieces of `size`.
    fn all(frames: &mut Frames, bytes: &[u8], size: usize) -> Result<Vec<Piece>, Malformed> {
        let mut read = BytesMut::new();
        let mut pieces = Vec::new();
        for chunk in bytes.chunks(size) {
            read.extend_from_slice(chunk);
            while let Some(piece) = frames.next(&mut read)? {
                pieces.push(piece);
            }
        }
        assert!(read.is_empty() || frames.large.is_none(), "nothing of a large frame waits");
        Ok(pieces)
    }

    fn refused(bytes: &[u8], masked: bool) -> &'static str {
        all(&mut Frames::new(masked, false), bytes, bytes.len()).expect_err("it is refused").0
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // §5.7
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let pieces = all(&mut Frames::new(true, false), &hello, 1).expect("frames");
        assert_eq!((pieces.len(), pieces[0].unmasked().as_slice()), (1, &b"Hello"[..]));
        assert!(pieces[0].ends && pieces[0].head.last && pieces[0].head.opcode == Opcode::Text);
        assert_eq!(frame(true, Opcode::Text, Some(MASK), b"Hello"), hello);

        let fragments = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
        let pieces = all(&mut Frames::new(false, false), &fragments, 2).expect("frames");
        let read: Vec<_> = pieces.iter().map(|p| (p.head.opcode, p.head.last)).collect();
        assert_eq!(read, [(Opcode::Text, false), (Opcode::Continuation, true)]);
    }

    #[test]
    fn what_is_not_a_frame_is_refused() {
        for (bytes, masked, why) in [
            (&[0x83, 0x00][..], false, "not known"),
            (&[0x81, 0x00], true, "masked"),
            (&[0x81, 0x80, 0, 0, 0, 0], false, "masked"),
            (&[0xc1, 0x00], false, "extension"),
            (&[0x09, 0x00], false, "control frame"),
            (&[0x89, 126, 0, 126], false, "control frame"),
            (&[0x88, 0x01, 0x03], false, "half a code"),
            (&[0x80, 0x00], false, "within another"),
            (&[0x01, 0x00, 0x01, 0x00], false, "within another"),
            (&[0x81, 126, 0, 125], false, "length"),
            (&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], false, "length"),
            (&[0x81, 127, 0x80, 0, 0, 0, 0, 1, 0, 0], false, "length"),
        ] {
            let said = refused(bytes, masked);
            assert!(said.contains(why), "{bytes:02x?}: {said}");
        }
    }

    #[test]
    fn reserved_bits_are_read_where_an_extension_uses_them() {
        let pieces = all(&mut Frames::new(false, true), &[0xc1, 0x01, 0x00], 3).expect("frames");
        assert_eq!(pieces[0].written.as_ref(), [0xc1, 0x01]);
    }

    #[test]
    fn a_control_frame_may_stand_within_a_message() {
        let mut bytes = frame(false, Opcode::Binary, None, b"one ");
        bytes.extend(frame(true, Opcode::Ping, None, b"?"));
        bytes.extend(frame(true, Opcode::Continuation, None, b"two"));
        let pieces = all(&mut Frames::new(false, false), &bytes, 4).expect("frames");
        let read: Vec<_> = pieces.iter().map(|p| p.head.opcode).collect();
        assert_eq!(read, [Opcode::Binary, Opcode::Ping, Opcode::Continuation]);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_whatever_the_pieces_it_comes_in(
            length in prop_oneof![0usize..300, 65_000usize..140_000], size in 1usize..70_000,
            masked in any::<bool>(), seed in any::<u8>(),
        ) {
            let payload: Vec<u8> = (0..length).map(|at| (at as u8).wrapping_mul(31) ^ seed).collect();
            let mask = masked.then_some(MASK);
            let bytes = frame(true, Opcode::Binary, mask, &payload);
            let pieces = all(&mut Frames::new(masked, false), &bytes, size.max(length / 50 + 1)).expect("frames");
            let read: Vec<u8> = pieces.iter().flat_map(Piece::unmasked).collect();
            prop_assert!(read == payload);
            let wire: Vec<u8> = pieces.iter().flat_map(|p| [&p.written[..], &p.payload[..]].concat()).collect();
            prop_assert!(wire == bytes, "it can go on as it came");
            prop_assert!(length > WHOLE || pieces.len() == 1);
            prop_assert!(pieces.iter().all(|piece| piece.payload.len() <= WHOLE));
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 1usize..50, masked in any::<bool>()) {
            let _ = all(&mut Frames::new(masked, true), &bytes, size);
        }
    }
}
