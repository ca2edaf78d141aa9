//! CE1: the one encoding of whatever two parties compute a digest of, or sign.
//!
//! `"CSCE1\0" ‖ u16 struct ‖ u16 version ‖ (u16 tag ‖ u32 length ‖ value)*`, big-endian, tags strictly
//! increasing, absent ≠ empty. Injective: a value has one encoding and an encoding one value.

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// `SHA-256("countersign/v1/<name>\0" ‖ bytes)`: a digest of one kind is never one of another.
pub fn digest(name: &str, bytes: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(b"countersign/v1/");
    hash.update(name.as_bytes());
    hash.update([0]);
    hash.update(bytes);
    hash.finalize().into()
}

/// Lower-case hexadecimal, as digests and ids are shown.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

const MAGIC: &[u8; 6] = b"CSCE1\0";

/// Writes fields in the order of their tags.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(structure: u16) -> Self {
        let mut out = MAGIC.to_vec();
        out.extend(structure.to_be_bytes());
        out.extend(1u16.to_be_bytes());
        Self(out)
    }

    pub(crate) fn field(mut self, tag: u16, value: impl AsRef<[u8]>) -> Self {
        self.0.extend(tag.to_be_bytes());
        item(&mut self.0, value.as_ref());
        self
    }

    pub(crate) fn option(self, tag: u16, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.field(tag, value),
            None => self,
        }
    }

    pub(crate) fn number(self, tag: u16, value: u64) -> Self {
        self.field(tag, value.to_be_bytes())
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// `u32 count ‖ (u32 length ‖ item)*`; order is significant.
pub(crate) fn list<T: AsRef<[u8]>>(items: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out = vec![0; 4];
    let mut count = 0u32;
    for value in items {
        item(&mut out, value.as_ref());
        count += 1;
    }
    out[..4].copy_from_slice(&count.to_be_bytes());
    out
}

fn item(out: &mut Vec<u8>, value: &[u8]) {
    // A field of 4 GiB cannot come about: bodies enter as digests, and everything else is bounded at the door.
    out.extend((value.len() as u32).to_be_bytes());
    out.extend(value);
}

/// Reads what `Writer` writes and nothing else. `None` is the only error: there is one right encoding.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    last: u16,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], structure: u16) -> Option<Self> {
        let mut reader = Self { rest: bytes.strip_prefix(MAGIC)?, last: 0 };
        let head = reader.take(4)?;
        (head[..2] == structure.to_be_bytes() && head[2..] == 1u16.to_be_bytes()).then_some(reader)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// The field of this tag, which must come next.
    pub(crate) fn field(&mut self, tag: u16) -> Option<&'a [u8]> {
        self.option(tag)?
    }

    /// `Some(None)` when the next field has a higher tag, or there is none.
    pub(crate) fn option(&mut self, tag: u16) -> Option<Option<&'a [u8]>> {
        let Some((next, _)) = self.rest.split_first_chunk::<2>() else { return Some(None) };
        let next = u16::from_be_bytes(*next);
        if next <= self.last || next < tag {
            return None;
        }
        if next > tag {
            return Some(None);
        }
        self.last = tag;
        self.take(2)?;
        self.item().map(Some)
    }

    fn item(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        self.take(length as usize)
    }

    pub(crate) fn number(&mut self, tag: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.array(tag)?))
    }

    pub(crate) fn array<const N: usize>(&mut self, tag: u16) -> Option<[u8; N]> {
        self.field(tag)?.try_into().ok()
    }

    pub(crate) fn text(&mut self, tag: u16) -> Option<String> {
        String::from_utf8(self.field(tag)?.to_vec()).ok()
    }

    /// A list whose every item `read` understands.
    pub(crate) fn list<T>(
        &mut self,
        tag: u16,
        read: impl Fn(&'a [u8]) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut inner = Reader { rest: self.field(tag)?, last: 0 };
        let count = u32::from_be_bytes(inner.take(4)?.try_into().ok()?);
        let items: Option<Vec<T>> = (0..count).map(|_| read(inner.item()?)).collect();
        inner.end(items?)
    }

    /// The value, if nothing is left over.
    pub(crate) fn end<T>(self, value: T) -> Option<T> {
        self.rest.is_empty().then_some(value)
    }
}
