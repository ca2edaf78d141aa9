//! A share in writing: `cs-share-3-7k2m9-…`, its number and then all of it in Crockford's base 32, in groups of five.
//!
//! Capitals do not matter, nor what mail and terminals do to long lines; `i` and `l` are read as 1, `o` as 0.

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Share;
use crate::vault::ShareError;
use crate::vault::cipher::{self, Key};

const PREFIX: &str = "cs-share-";
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const GROUP: usize = 5;

/// `threshold u8 ‖ number u8 ‖ set 8 ‖ value 32 ‖ checksum 4`.
const BODY: usize = 42;
const SUM: usize = 4;
const BYTES: usize = BODY + SUM;
const DIGITS: usize = (BYTES * 8).div_ceil(5);

pub(super) fn write(share: &Share) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES));
    bytes.extend([share.threshold, share.id]);
    bytes.extend(share.set);
    bytes.extend(share.value.as_slice());
    let sum = checksum(&bytes);
    bytes.extend(sum);

    let mut text = Zeroizing::new(String::with_capacity(128));
    text.push_str(PREFIX);
    text.push_str(&share.id.to_string());
    for digit in 0..DIGITS {
        if digit % GROUP == 0 {
            text.push('-');
        }
        let value = (0..5).fold(0, |value, bit| value << 1 | bit_at(&bytes, digit * 5 + bit));
        text.push(char::from(ALPHABET[usize::from(value)]));
    }
    text.push('\n');
    text
}

pub(super) fn parse(text: &str) -> Result<Share, ShareError> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    plain.extend(text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()));
    let malformed = |share: &str, what| ShareError::Malformed { share: share.to_owned(), what };
    let unnamed = |what| malformed("what was given is not a share: it", what);
    let rest =
        plain.strip_prefix(PREFIX).ok_or_else(|| unnamed("does not begin with `cs-share-`"))?;
    let number = rest.split_once('-').and_then(|(id, digits)| Some((id.parse().ok()?, digits)));
    let (id, digits): (u8, _) =
        number.ok_or_else(|| unnamed("has no number behind `cs-share-`"))?;
    let name = format!("share {id}");
    let malformed = |what| malformed(&name, what);

    let mut bytes = Zeroizing::new([0; BYTES]);
    let mut count = 0;
    for digit in digits.bytes().filter(|digit| *digit != b'-') {
        let value =
            value_of(digit).ok_or_else(|| malformed("has a character that no share has"))?;
        for bit in 0..5 {
            put_bit(bytes.as_mut_slice(), count * 5 + bit, value >> (4 - bit) & 1)
                .ok_or_else(|| malformed("is longer than a share is"))?;
        }
        count += 1;
    }
    if count < DIGITS {
        return Err(malformed("is shorter than a share is"));
    }
    let (body, sum) = bytes.split_at(BODY);
    if checksum(body) != sum {
        return Err(malformed("was mistyped: its checksum does not match"));
    }
    if body[1] != id {
        return Err(malformed("has the number of one share and the contents of another"));
    }
    let mut set = [0; 8];
    set.copy_from_slice(&body[2..10]);
    let mut value = Key::default();
    value.copy_from_slice(&body[10..]);
    Ok(Share { id, threshold: body[0], set, value })
}

fn checksum(body: &[u8]) -> [u8; SUM] {
    let bytes = Zeroizing::new(cipher::parts("countersign/v1/share", [body]));
    let digest = Sha256::digest(&*bytes);
    [digest[0], digest[1], digest[2], digest[3]]
}

fn value_of(digit: u8) -> Option<u8> {
    let digit = match digit {
        b'i' | b'l' => b'1',
        b'o' => b'0',
        other => other,
    };
    ALPHABET.iter().position(|other| *other == digit).map(|value| value as u8)
}

/// Bits past the end are 0.
fn bit_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1)
}

/// None when a bit past the end is not 0.
fn put_bit(bytes: &mut [u8], at: usize, bit: u8) -> Option<()> {
    match bytes.get_mut(at / 8) {
        Some(byte) => *byte |= bit << (7 - at % 8),
        None if bit == 0 && at < DIGITS * 5 => {}
        None => return None,
    }
    Some(())
}
