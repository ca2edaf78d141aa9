//! What comes over an HTTP/2 connection, frame by frame (RFC 9113 §4): which of it costs work and brings no request, and
//! whether a head is half there. It looks at the nine bytes in front of each frame and at nothing else.
//!
//! Requests have their seats, bodies their windows, and header blocks their limits in the HTTP library. Resets, pings,
//! settings, priorities and empty data have none: a client that sends nothing but these keeps a core busy for free
//! (CVE-2023-44487, CVE-2019-9512, -9513, -9515, -9518).

use std::fmt;
use std::time::{Duration, Instant};

/// As many streams as may be open can be given up at once, and no more than these each second.
pub(crate) const MOST_RESETS: u32 = 256;
/// Pings, settings, priorities, empty data and frames of no known type, each second.
pub(crate) const MOST_IDLE: u32 = 1_000;
/// An honest client sends one for each frame of data that it gets.
const MOST_WINDOWS: u32 = 65_536;
const SECOND: Duration = Duration::from_secs(1);
/// What a client says before its first frame.
const PREFACE: usize = 24;
const HEADER: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// What there was too much of within a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    Idle,
    Resets,
    Windows,
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => write!(f, "more than {MOST_IDLE} frames a second that ask for nothing"),
            Self::Resets => write!(f, "more than {MOST_RESETS} streams a second that are given up"),
            Self::Windows => write!(f, "more than {MOST_WINDOWS} window updates a second"),
        }
    }
}

/// One connection's frames so far.
pub(crate) struct Frames {
    /// How much of the preface is still to come.
    preface: usize,
    header: [u8; HEADER],
    /// How much of the header is here.
    have: usize,
    /// How much of the frame's payload is still to come.
    payload: usize,
    /// A header block has begun and not ended.
    block: bool,
    /// How many frames have begun that are not part of a header block that had begun before.
    number: u64,
    idle: Rate,
    resets: Rate,
    windows: Rate,
}

impl Frames {
    pub(crate) fn new(now: Instant) -> Self {
        let rate = |most| Rate { most, count: 0, since: now };
        Self {
            preface: PREFACE,
            header: [0; HEADER],
            have: 0,
            payload: 0,
            block: false,
            number: 0,
            idle: rate(MOST_IDLE),
            resets: rate(MOST_RESETS),
            windows: rate(MOST_WINDOWS),
        }
    }

    /// The number of what has begun, is no body and has not ended: the preface, a header block, any frame but data.
    pub(crate) fn head(&self) -> Option<u64> {
        let amid = self.preface > 0
            || self.block
            || (1..HEADER).contains(&self.have)
            || (self.payload > 0 && self.header[3] != DATA);
        amid.then_some(self.number)
    }

    /// Takes in what came, in pieces of any size. The clock is read once in many frames.
    ///
    /// # Errors
    /// A flood, as soon as it is one.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        now: impl Fn() -> Instant + Copy,
    ) -> Result<(), Flood> {
        let preface = self.preface.min(bytes.len());
        self.preface -= preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            if self.have == 0 && self.payload == 0 && !self.block {
                self.number += 1;
            }
            if self.payload > 0 {
                let passed = self.payload.min(bytes.len());
                self.payload -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                self.have = 0;
                self.began(now)?;
            }
        }
        Ok(())
    }

    fn began(&mut self, now: impl Fn() -> Instant) -> Result<(), Flood> {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.payload = u32::from_be_bytes([0, high, middle, low]) as usize;
        let (rate, flood) = match kind {
            DATA if self.payload > 0 || flags & END_STREAM != 0 => return Ok(()),
            HEADERS | CONTINUATION => {
                self.block = flags & END_HEADERS == 0;
                return Ok(());
            }
            RST_STREAM => (&mut self.resets, Flood::Resets),
            WINDOW_UPDATE => (&mut self.windows, Flood::Windows),
            _ => (&mut self.idle, Flood::Idle),
        };
        if rate.one_more(now) { Ok(()) } else { Err(flood) }
    }
}

/// So many of something since a moment. The clock is read when there are as many as a second may have.
struct Rate {
    most: u32,
    count: u32,
    since: Instant,
}

impl Rate {
    fn one_more(&mut self, now: impl Fn() -> Instant) -> bool {
        self.count += 1;
        if self.count <= self.most {
            return true;
        }
        let now = now();
        let slow = now.duration_since(self.since) >= SECOND;
        if slow {
            (self.count, self.since) = (1, now);
        }
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 0x6;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.resize(HEADER + payload, 0xff);
        bytes
    }

    fn begun() -> (Frames, Instant) {
        let start = Instant::now();
        let mut frames = Frames::new(start);
        assert!(frames.head().is_some(), "the preface is to come");
        frames.feed(&[b'P'; PREFACE], || start).unwrap();
        assert!(frames.head().is_none());
        (frames, start)
    }

    #[test]
    fn d_rapid_reset_is_noticed_in_pieces_of_any_size() {
        for size in [1, 3, 8, 9, 10, 13, 4_096] {
            let (mut frames, start) = begun();
            let resets = frame(RST_STREAM, 0, 4).repeat(MOST_RESETS as usize);
            for piece in resets.chunks(size) {
                assert_eq!(frames.feed(piece, || start), Ok(()), "as many as may be open");
            }
            let one_more = frame(RST_STREAM, 0, 4);
            let flooded =
                one_more.chunks(size).find_map(|piece| frames.feed(piece, || start).err());
            assert_eq!(flooded, Some(Flood::Resets), "in pieces of {size}");
        }
    }

    #[test]
    fn d_frames_that_ask_for_nothing_are_counted_together() {
        let (mut frames, start) = begun();
        let kinds = [frame(PING, 0, 8), frame(0x4, 0, 0), frame(0x2, 0, 5), frame(DATA, 0, 0)];
        let flood = kinds.concat().repeat(MOST_IDLE as usize / 4);
        assert_eq!(frames.feed(&flood, || start), Ok(()));
        assert_eq!(frames.feed(&frame(0xbe, 0, 0), || start), Err(Flood::Idle));
    }

    #[test]
    fn what_comes_over_a_longer_time_is_none() {
        let (mut frames, start) = begun();
        for second in 0..10 {
            let now = start + SECOND * second;
            let some = frame(RST_STREAM, 0, 4).repeat(MOST_RESETS as usize / 2);
            assert_eq!(frames.feed(&some, || now), Ok(()), "in second {second}");
        }
    }

    #[test]
    fn requests_and_bodies_are_no_flood() {
        let (mut frames, start) = begun();
        let request = [frame(HEADERS, END_HEADERS, 30), frame(DATA, 0, 16_384), frame(DATA, 1, 0)];
        assert_eq!(frames.feed(&request.concat().repeat(5_000), || start), Ok(()));
        assert!(frames.head().is_none());
    }

    #[test]
    fn d_a_head_that_is_half_there_is_known_as_such() {
        for (half, amid) in [
            (frame(HEADERS, 0, 10), true),
            (frame(HEADERS, END_HEADERS, 10)[..15].to_vec(), true),
            (frame(PING, 0, 8)[..5].to_vec(), true),
            (frame(DATA, 0, 100)[..50].to_vec(), false),
            ([frame(HEADERS, 0, 3), frame(CONTINUATION, END_HEADERS, 3)].concat(), false),
            ([frame(HEADERS, 0, 3), frame(CONTINUATION, 0, 3)].concat(), true),
        ] {
            let (mut frames, start) = begun();
            assert_eq!(frames.feed(&half, || start), Ok(()));
            assert_eq!(frames.head().is_some(), amid, "{half:?}");
        }
    }
}
