//! Finds fake keys where they have no business: in the open, in base64 at any alignment, percent-encoded, and
//! across the seams of a stream.

use std::borrow::Cow;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Shorter than this, a pattern would be found in innocent bytes.
const SHORTEST: usize = 8;

/// Every fake key that counts, in every spelling, in one automaton.
#[derive(Default)]
pub(crate) struct Tripwire {
    automaton: Option<AhoCorasick>,
    /// Pattern to the number that its fake key was given with.
    owners: Vec<usize>,
    shortest: usize,
    longest: usize,
}

impl Tripwire {
    /// `keys` are fake keys, each with the number that [`Tripwire::find`] answers.
    ///
    /// # Errors
    /// When they are too many for one automaton.
    pub(crate) fn new<'a>(keys: impl Iterator<Item = (usize, &'a str)>) -> anyhow::Result<Self> {
        let mut patterns: Vec<Vec<u8>> = Vec::new();
        let mut owners = Vec::new();
        for (owner, key) in keys {
            for pattern in spellings(key).into_iter().filter(|pattern| pattern.len() >= SHORTEST) {
                patterns.push(pattern);
                owners.push(owner);
            }
        }
        if patterns.is_empty() {
            return Ok(Self::default());
        }
        let shortest = patterns.iter().map(Vec::len).min().unwrap_or_default();
        let longest = patterns.iter().map(Vec::len).max().unwrap_or_default();
        Ok(Self { automaton: Some(AhoCorasick::new(&patterns)?), owners, shortest, longest })
    }

    /// Whose fake key is in these bytes, as they are or percent-decoded.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<usize> {
        if bytes.len() < self.shortest {
            return None;
        }
        self.raw(bytes).or_else(|| match decoded(bytes) {
            Cow::Borrowed(_) => None,
            Cow::Owned(bytes) => self.raw(&bytes),
        })
    }

    fn raw(&self, bytes: &[u8]) -> Option<usize> {
        let found = self.automaton.as_ref()?.find(bytes)?;
        self.owners.get(found.pattern().as_usize()).copied()
    }
}

/// What of a stream has gone by, as far as it matters for what comes next.
#[derive(Default)]
pub(crate) struct Watch {
    tail: Vec<u8>,
}

impl Watch {
    /// Whose fake key ends in `chunk`, or began before it.
    pub(crate) fn feed(&mut self, wire: &Tripwire, chunk: &[u8]) -> Option<usize> {
        wire.automaton.as_ref()?;
        // Percent-encoding makes three bytes of one, so that much of what went by is looked at again.
        let keep = 3 * wire.longest;
        let seam = chunk.len().min(keep);
        self.tail.extend_from_slice(&chunk[..seam]);
        let found = wire
            .find(&self.tail)
            .or_else(|| (seam < chunk.len()).then(|| wire.find(chunk)).flatten());
        if seam < chunk.len() {
            self.tail.clear();
            self.tail.extend_from_slice(&chunk[chunk.len() - keep..]);
        } else if self.tail.len() > keep {
            self.tail.drain(..self.tail.len() - keep);
        }
        found
    }
}

fn decoded(bytes: &[u8]) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode(bytes).into()
}

/// The key, as it is in a header's name, and what of it is certain to be seen when it is inside something that is base64-encoded.
fn spellings(key: &str) -> Vec<Vec<u8>> {
    // A header's name arrives in lower case.
    let mut all = vec![key.as_bytes().to_vec(), key.to_ascii_lowercase().into_bytes()];
    all.dedup();
    for lead in 0..3 {
        let mut text = vec![0; lead];
        text.extend(key.as_bytes());
        // Letters that also hold bits of a neighbour are left off at both ends.
        let from = [0, 2, 3][lead];
        let to = text.len() * 8 / 6;
        for alphabet in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let spelled = alphabet.encode(&text).into_bytes();
            let certain = spelled.get(from..to).unwrap_or_default().to_vec();
            if !all.contains(&certain) {
                all.push(certain);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk_live_fake_0123456789abcdef";

    fn wire() -> Tripwire {
        Tripwire::new([(7, KEY)].into_iter()).unwrap()
    }

    #[test]
    fn finds_a_key_in_the_open_and_percent_encoded() {
        assert_eq!(wire().find(format!("token={KEY}").as_bytes()), Some(7));
        let escaped: String = KEY.bytes().map(|b| format!("%{b:02x}")).collect();
        assert_eq!(wire().find(escaped.as_bytes()), Some(7));
        assert_eq!(wire().find(KEY.replace('_', "%5F").as_bytes()), Some(7));
        assert_eq!(wire().find(b"sk_live_fake_0123456789abcdeX"), None);
        let mixed = Tripwire::new([(3, "ghp_FAKE0123456789aBcD")].into_iter()).unwrap();
        assert_eq!(mixed.find(b"x-ghp_fake0123456789abcd"), Some(3), "as a header's name has it");
    }

    #[test]
    fn finds_a_key_inside_base64_at_every_alignment() {
        for lead in ["", "a", "ab", "abc", "user:"] {
            for alphabet in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let text = alphabet.encode(format!("{lead}{KEY}tail"));
                assert_eq!(wire().find(text.as_bytes()), Some(7), "after {lead:?}");
            }
        }
    }

    #[test]
    fn finds_a_key_across_every_seam_of_a_stream() {
        let wire = wire();
        let escaped: String = KEY.bytes().map(|b| format!("%{b:02X}")).collect();
        for key in [KEY.to_owned(), escaped] {
            let stream = format!("{}{key}{}", "x".repeat(300), "y".repeat(300));
            for size in [1, 2, 3, 7, 64, 301, 500] {
                let mut watch = Watch::default();
                let found =
                    stream.as_bytes().chunks(size).find_map(|chunk| watch.feed(&wire, chunk));
                assert_eq!(found, Some(7), "in pieces of {size}");
            }
        }
    }
}
