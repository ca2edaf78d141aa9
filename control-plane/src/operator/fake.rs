//! A fake key in the shape of the real one: its prefix, its alphabet, its length, and nothing else of it.

use zeroize::Zeroizing;

/// Fewer letters and digits than this cannot be told from ordinary text.
const FEWEST: usize = 8;
/// A prefix is kept only when so many characters after it are made up.
const MADE_UP: usize = 16;

/// Prefixes that clients look at. The longest that fits counts. Nothing else of a key is ever kept: what looks like
/// a prefix and is not one would be a piece of the secret.
const PREFIXES: [&str; 48] = [
    "AC",
    "AIza",
    "AKIA",
    "ASIA",
    "Bearer ",
    "EAAC",
    "SG.",
    "SK",
    "atlassian_",
    "dckr_pat_",
    "dop_v1_",
    "figd_",
    "gho_",
    "ghp_",
    "ghr_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "gsk_",
    "hf_",
    "hvs.",
    "key-",
    "lin_api_",
    "npm_",
    "ntn_",
    "patp_",
    "pk_live_",
    "pk_test_",
    "pypi-",
    "r8_",
    "re_",
    "rk_live_",
    "rk_test_",
    "sbp_",
    "secret_",
    "shpat_",
    "sk-",
    "sk-ant-api03-",
    "sk-or-v1-",
    "sk-proj-",
    "sk_live_",
    "sk_test_",
    "whsec_",
    "xapp-",
    "xoxb-",
    "xoxp-",
    "ya29.",
];

/// Draws a fake for `real` from `random`. Letters and digits become others of the alphabet that the key uses
/// (hexadecimal stays hexadecimal); other ASCII characters stay where they are.
///
/// # Errors
/// A key that is too short to have one, as a sentence without the key.
pub(super) fn shaped_like(
    real: &[u8],
    mut random: impl FnMut() -> u8,
) -> Result<String, &'static str> {
    let made_up = |bytes: &[u8]| bytes.iter().filter(|b| replaced(**b)).count();
    if made_up(real) < FEWEST {
        return Err(
            "has fewer than 8 letters and digits: a fake key for it could not be told from ordinary text",
        );
    }
    let kept = PREFIXES
        .iter()
        .filter(|prefix| {
            real.starts_with(prefix.as_bytes()) && made_up(&real[prefix.len()..]) >= MADE_UP
        })
        .map(|prefix| prefix.len())
        .max()
        .unwrap_or(0);
    let (prefix, tail) = real.split_at(kept);
    let alphabet = alphabet_of(tail);
    loop {
        let mut fake = Zeroizing::new(prefix.to_vec());
        fake.extend(
            tail.iter().map(|b| if replaced(*b) { one_of(&alphabet, &mut random) } else { *b }),
        );
        // With eight letters and digits it happens once in a hundred million times that they come out the same.
        if fake.as_slice() != real {
            return String::from_utf8(fake.to_vec()).map_err(|_| "cannot be given a fake key");
        }
    }
}

/// An access key id of AWS that nobody has: `AKIA` and sixteen characters of base32.
pub(super) fn access_key_id(mut random: impl FnMut() -> u8) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let drawn = (0..16).map(|_| char::from(ALPHABET[usize::from(random()) % 32]));
    "AKIA".chars().chain(drawn).collect()
}

fn replaced(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || !byte.is_ascii()
}

fn alphabet_of(tail: &[u8]) -> Vec<u8> {
    let any = |class: fn(&u8) -> bool| tail.iter().any(class);
    let only =
        |class: fn(&u8) -> bool| tail.iter().filter(|b| b.is_ascii_alphanumeric()).all(class);
    let lower_hex = only(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let upper_hex = only(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(b));
    let mut alphabet = Vec::new();
    if any(u8::is_ascii_digit) {
        alphabet.extend(b'0'..=b'9');
    }
    if any(u8::is_ascii_lowercase) {
        alphabet.extend(b'a'..=if lower_hex { b'f' } else { b'z' });
    }
    if any(u8::is_ascii_uppercase) {
        alphabet.extend(b'A'..=if upper_hex { b'F' } else { b'Z' });
    }
    if alphabet.is_empty() {
        alphabet.extend(b'a'..=b'z');
    }
    alphabet
}

/// Without a bias: what would favour the first letters is thrown away.
fn one_of(alphabet: &[u8], random: &mut impl FnMut() -> u8) -> u8 {
    let whole = 256 - 256 % alphabet.len();
    loop {
        let byte = usize::from(random());
        if byte < whole {
            return alphabet[byte % alphabet.len()];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake_of(real: &str) -> String {
        shaped_like(real.as_bytes(), rand::random).unwrap()
    }

    #[test]
    fn a_fake_keeps_prefix_alphabet_and_length_and_nothing_else() {
        for (real, prefix) in [
            ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "ghp_"),
            ("github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz", "github_pat_"),
            ("sk_live_51HabcdefghijklmnopqrstuvwxyzABCDEFG", "sk_live_"),
            ("sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123", "sk-ant-api03-"),
            ("AKIAIOSFODNN7EXAMPLE", "AKIA"),
            ("550e8400-e29b-41d4-a716-446655440000", ""),
        ] {
            let fake = fake_of(real);
            assert_eq!(fake.len(), real.len());
            assert!(fake.starts_with(prefix), "{fake}");
            assert_ne!(fake, real);
            let (fake, real) = (&fake[prefix.len()..], &real[prefix.len()..]);
            for (f, r) in fake.bytes().zip(real.bytes()) {
                assert_eq!(f.is_ascii_alphanumeric(), r.is_ascii_alphanumeric());
            }
            let same = fake
                .bytes()
                .zip(real.bytes())
                .filter(|(f, r)| f == r && r.is_ascii_alphanumeric())
                .count();
            assert!(same < real.len() / 2, "{same} of {} characters are the real ones", real.len());
        }
    }

    #[test]
    fn hexadecimal_stays_hexadecimal() {
        let fake = fake_of("0123456789abcdef0123456789abcdef");
        assert!(fake.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{fake}");
    }

    #[test]
    fn a_prefix_is_dropped_rather_than_made_the_better_half() {
        assert!(!(0..64).all(|_| fake_of("AKIA12345678").starts_with("AKIA")));
    }

    #[test]
    fn a_short_key_is_refused() {
        for short in ["", "abc", "1234567", "--------", "a-b-c-d-e-f-g"] {
            assert!(shaped_like(short.as_bytes(), rand::random).is_err(), "{short}");
        }
    }
}
