//! What a button carries back, and what is typed where there are no buttons.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::platform::Words;

/// 128 random bits that stand for one attempt to deliver one card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub [u8; 16]);

/// Each channel has its own, sealed beside its other secrets. Only nodes of the cluster have it.
pub struct TapKey(Zeroizing<[u8; 32]>);

/// What a button carries: 38 characters, which fit every platform's limit (64 bytes at Telegram).
///
/// `1`, the handle (22, base64url), `a` or `d`, and the first 80 bits of HMAC-SHA256 over channel, place, handle and word
/// (14, base64url). Whoever has none of the nodes' keys cannot make one; one that is copied to another channel or place is
/// worth nothing there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(String);

/// Eight characters of Crockford's base 32 that a person types: 40 bits, for one delivery, and few tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code(String);

const VERSION: &str = "1";
const MAC_BYTES: usize = 10;
const CODE_ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl TapKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    pub fn token(&self, channel: &str, place: &str, handle: Handle, word: Words) -> Token {
        let mac = self.mac(&[
            b"countersign tap v1",
            channel.as_bytes(),
            place.as_bytes(),
            &handle.0,
            word.letter().as_bytes(),
        ]);
        let (handle, mac) =
            (URL_SAFE_NO_PAD.encode(handle.0), URL_SAFE_NO_PAD.encode(&mac[..MAC_BYTES]));
        Token(format!("{VERSION}{handle}{}{mac}", word.letter()))
    }

    /// What a token says, if it was made here for this channel and place.
    pub fn open(&self, channel: &str, place: &str, token: &Token) -> Option<(Handle, Words)> {
        let (handle, word) = token.read()?;
        let genuine = self.token(channel, place, handle, word);
        bool::from(genuine.0.as_bytes().ct_eq(token.0.as_bytes())).then_some((handle, word))
    }

    /// What is typed about a delivery; the same on every node.
    pub fn code(&self, channel: &str, place: &str, handle: Handle) -> Code {
        let mac =
            self.mac(&[b"countersign code v1", channel.as_bytes(), place.as_bytes(), &handle.0]);
        let digit = |at: usize| {
            let bits = (0..5).fold(0, |bits, n| {
                let bit = at * 5 + n;
                bits << 1 | usize::from(mac[bit / 8] >> (7 - bit % 8) & 1)
            });
            char::from(CODE_ALPHABET[bits])
        };
        Code((0..8).map(digit).collect())
    }

    /// Every part with its length, so that no two lists of parts are the same bytes.
    fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        // Any length of key will do for HMAC.
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.0).unwrap_or_else(|_| unreachable!());
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl Token {
    /// As it came back; whether it is genuine is for [`TapKey::open`] to say.
    pub fn parse(text: &str) -> Option<Self> {
        let token = Self(text.to_owned());
        token.read().map(|_| token)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it claims to say.
    pub fn read(&self) -> Option<(Handle, Words)> {
        let text = self.0.strip_prefix(VERSION)?;
        if text.len() != 37 || !text.is_ascii() {
            return None;
        }
        let (handle, rest) = text.split_at(22);
        let (letter, mac) = rest.split_at(1);
        let handle = URL_SAFE_NO_PAD.decode(handle).ok()?.try_into().ok()?;
        (URL_SAFE_NO_PAD.decode(mac).ok()?.len() == MAC_BYTES).then_some(())?;
        Some((Handle(handle), Words::of_letter(letter)?))
    }
}

impl Code {
    /// As people type it: in any case, with I and L for 1 and O for 0, with a hyphen in the middle or none.
    pub fn parse(text: &str) -> Option<Self> {
        let bare: String = text.chars().filter(|c| *c != '-').collect();
        let canonical = bare.to_ascii_uppercase().replace(['I', 'L'], "1").replace('O', "0");
        let fits = canonical.len() == 8 && canonical.bytes().all(|b| CODE_ALPHABET.contains(&b));
        fits.then_some(Self(canonical))
    }

    /// As it is shown: `ABCD-EFGH`.
    pub fn shown(&self) -> String {
        format!("{}-{}", &self.0[..4], &self.0[4..])
    }

    /// In constant time.
    pub fn is(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> TapKey {
        TapKey::new([7; 32])
    }

    proptest! {
        #[test]
        fn a_token_fits_64_bytes_and_opens_only_where_and_for_what_it_was_made(
            handle: [u8; 16], channel in ".{0,40}", place in ".{0,80}", other in ".{0,80}", approve: bool
        ) {
            let word = if approve { Words::Approve } else { Words::Deny };
            let token = key().token(&channel, &place, Handle(handle), word);
            prop_assert_eq!(token.as_str().len(), 38);
            prop_assert!(token.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            let read = Token::parse(token.as_str()).unwrap();
            prop_assert_eq!(key().open(&channel, &place, &read), Some((Handle(handle), word)));
            prop_assert_eq!(TapKey::new([8; 32]).open(&channel, &place, &read), None);
            if other != place {
                prop_assert_eq!(key().open(&channel, &other, &read), None);
            }
            let swapped: String = token.as_str().char_indices().map(|(at, c)| match (at, c) {
                (23, 'a') => 'd',
                (23, 'd') => 'a',
                (_, c) => c,
            }).collect();
            prop_assert_eq!(key().open(&channel, &place, &Token::parse(&swapped).unwrap()), None);
        }

        #[test]
        fn what_is_no_token_is_not_read(text in ".{0,80}") {
            if let Some(token) = Token::parse(&text) {
                prop_assert_eq!(key().open("c", "p", &token), None);
            }
        }

        #[test]
        fn a_code_is_read_as_people_write_it(handle: [u8; 16]) {
            let code = key().code("c", "p", Handle(handle));
            prop_assert!(Code::parse(&code.shown().to_lowercase()).unwrap().is(&code));
            prop_assert!(Code::parse(&code.shown().replace('0', "o").replace('1', "l")).unwrap().is(&code));
            prop_assert!(!key().code("c", "q", Handle(handle)).is(&code));
        }
    }
}
