//! Who has sent these bytes: a MAC, a signature, a signed token. Over the raw body, before anything of it is parsed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::de::DeserializeOwned;
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::http::Inbound;
use crate::platform::{Forged, Keys};
use crate::secret::Secret;

/// How far a platform's clock and ours may be apart, where it says when it sent something.
pub const FRESH: Duration = Duration::from_secs(300);

/// HMAC-SHA256 (RFC 2104, FIPS 180-4) of the parts one after another, against `mac` in hexadecimal digits.
pub fn hmac_sha256_hex(key: &[u8], parts: &[&[u8]], mac: &str) -> Result<(), Forged> {
    let mac = hex::decode(mac).map_err(|_| Forged::Signature)?;
    demand_mac::<Hmac<Sha256>>(key, parts, &mac)
}

/// What [`hmac_sha256_hex`] takes: for what we send out and want to know again.
pub fn made_hmac_sha256_hex(key: &[u8], parts: &[&[u8]]) -> String {
    // Any length of key will do for HMAC.
    let mut made = Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!());
    parts.iter().for_each(|part| made.update(part));
    hex::encode(made.finalize().into_bytes())
}

/// The same, against base64.
pub fn hmac_sha256_base64(key: &[u8], parts: &[&[u8]], mac: &str) -> Result<(), Forged> {
    let mac = STANDARD.decode(mac).map_err(|_| Forged::Signature)?;
    demand_mac::<Hmac<Sha256>>(key, parts, &mac)
}

/// HMAC-SHA1, for the platforms that have nothing better, against hexadecimal digits.
pub fn hmac_sha1_hex(key: &[u8], parts: &[&[u8]], mac: &str) -> Result<(), Forged> {
    let mac = hex::decode(mac).map_err(|_| Forged::Signature)?;
    demand_mac::<Hmac<Sha1>>(key, parts, &mac)
}

/// HMAC-SHA1, against base64.
pub fn hmac_sha1_base64(key: &[u8], parts: &[&[u8]], mac: &str) -> Result<(), Forged> {
    let mac = STANDARD.decode(mac).map_err(|_| Forged::Signature)?;
    demand_mac::<Hmac<Sha1>>(key, parts, &mac)
}

/// Ed25519 (RFC 8032), strictly: `key` and `signature` in hexadecimal digits.
pub fn ed25519_hex(key: &str, parts: &[&[u8]], signature: &str) -> Result<(), Forged> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(key, &mut bytes).map_err(|_| Forged::Signature)?;
    let key = VerifyingKey::from_bytes(&bytes).map_err(|_| Forged::Signature)?;
    let mut bytes = [0; 64];
    hex::decode_to_slice(signature, &mut bytes).map_err(|_| Forged::Signature)?;
    key.verify_strict(&parts.concat(), &Signature::from_bytes(&bytes))
        .map_err(|_| Forged::Signature)
}

/// Standard Webhooks: one of the signatures is HMAC-SHA256 over id, time and body, and the time is now. The id is the event's.
pub fn standard_webhook<'a>(
    secret: &Secret,
    inbound: &Inbound<'a>,
    now: SystemTime,
) -> Result<&'a str, Forged> {
    let id = inbound.header("webhook-id").ok_or(Forged::Signature)?;
    let at = inbound.header("webhook-timestamp").ok_or(Forged::Stale)?;
    let signatures = inbound.header("webhook-signature").ok_or(Forged::Signature)?;
    let key = secret.key().ok_or(Forged::Signature)?;
    let parts = [id.as_bytes(), b".", at.as_bytes(), b".", inbound.body];
    let genuine = |signature: &str| {
        signature
            .strip_prefix("v1,")
            .is_some_and(|mac| hmac_sha256_base64(&key, &parts, mac).is_ok())
    };
    // A full stop in an id could be the one after it.
    if id.is_empty() || id.contains('.') || !signatures.split(' ').any(genuine) {
        return Err(Forged::Signature);
    }
    fresh(at, now)?;
    Ok(id)
}

/// A secret that the platform repeats with each webhook, in constant time.
pub fn static_secret(secret: &Secret, said: &str) -> Result<(), Forged> {
    let same = secret.expose().as_bytes().ct_eq(said.as_bytes());
    if bool::from(same) { Ok(()) } else { Err(Forged::Signature) }
}

/// What the platform says of when it sent this, in seconds since 1970; neither older nor newer than [`FRESH`].
pub fn fresh(seconds: &str, now: SystemTime) -> Result<SystemTime, Forged> {
    let digits = !seconds.is_empty() && seconds.bytes().all(|b| b.is_ascii_digit());
    let seconds = if digits { seconds.parse().ok() } else { None };
    fresh_at(seconds.ok_or(Forged::Stale)?, now)
}

/// The same, of a number.
pub fn fresh_at(seconds: u64, now: SystemTime) -> Result<SystemTime, Forged> {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(Forged::Stale)?;
    let apart = now.duration_since(at).unwrap_or_else(|ahead| ahead.duration());
    if apart <= FRESH { Ok(at) } else { Err(Forged::Stale) }
}

/// The same, as RFC 3339 writes it in universal time: `2027-01-15T08:00:00.000Z`.
pub fn fresh_rfc3339(text: &str, now: SystemTime) -> Result<SystemTime, Forged> {
    fresh_at(rfc3339(text).ok_or(Forged::Stale)?, now)
}

/// A JSON Web Token (RFC 7519), signed with RS256 by one of `keys`, from `issuer`, for `audience`, in its time. No other
/// algorithm is looked at, and a key is only ever found by its id in the set that was fetched beforehand.
pub fn jwt<Claims: DeserializeOwned + Clone>(
    token: &str,
    keys: &Keys,
    issuers: &[&str],
    audience: &str,
    now: SystemTime,
) -> Result<Claims, Forged> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| Forged::Signature)?;
    if header.alg != Algorithm::RS256 {
        return Err(Forged::Signature);
    }
    let key = keys.rsa(header.kid.as_deref().ok_or(Forged::Signature)?).ok_or(Forged::Key)?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(issuers);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    // Time is ours to say, below: the library would ask the clock.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    let decoding = DecodingKey::from_rsa_raw_components(&key.n, &key.e);
    let times = jsonwebtoken::decode::<Times>(token, &decoding, &validation)
        .map_err(|_| Forged::Signature)?;
    let now = now.duration_since(UNIX_EPOCH).map_err(|_| Forged::Stale)?.as_secs();
    let skew = FRESH.as_secs();
    let begun = times.claims.nbf.or(times.claims.iat).is_none_or(|from| from <= now + skew);
    if !begun || times.claims.exp.saturating_add(skew) < now {
        return Err(Forged::Stale);
    }
    let token = jsonwebtoken::decode::<Claims>(token, &decoding, &validation);
    token.map(|token| token.claims).map_err(|_| Forged::Signature)
}

/// Whether the key that a verified token names vouches for a channel, as far as it says for which it does.
pub fn endorsed(token: &str, keys: &Keys, channel: &str) -> bool {
    let key = jsonwebtoken::decode_header(token).ok().and_then(|it| keys.rsa(&it.kid?).cloned());
    let endorsed = |key: crate::platform::Rsa| {
        key.endorsements.is_none_or(|channels| channels.iter().any(|it| it == channel))
    };
    key.is_some_and(endorsed)
}

#[derive(Clone, serde::Deserialize)]
struct Times {
    exp: u64,
    nbf: Option<u64>,
    iat: Option<u64>,
}

/// Seconds since 1970; what is less than one is dropped.
fn rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let number = |text: &str, digits: usize| {
        let only_digits = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        if only_digits { text.parse::<u64>().ok() } else { None }
    };
    number(fraction, fraction.len())?;
    let [year, month, day] = *date.split('-').collect::<Vec<_>>() else { return None };
    let [hour, minute, second] = *time.split(':').collect::<Vec<_>>() else { return None };
    let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
    let (hour, minute, second) = (number(hour, 2)?, number(minute, 2)?, number(second, 2)?);
    let sensible = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (hour < 24 && minute < 60 && second <= 60);
    if !sensible {
        return None;
    }
    // Years that begin in March end with the leap day; 719,468 days are before 1970 in that calendar.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        years * 365 + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn demand_mac<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]], mac: &[u8]) -> Result<(), Forged> {
    let mut made = <M as KeyInit>::new_from_slice(key).map_err(|_| Forged::Signature)?;
    parts.iter().for_each(|part| made.update(part));
    made.verify_slice(mac).map_err(|_| Forged::Signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written_and_nothing_else_is() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1999-12-31T23:59:59.999Z", 946_684_799),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2027-01-15T08:00:00.123Z", 1_800_000_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(rfc3339(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "2027-01-15T08:00:00",
            "2027-01-15T08:00:00+00:00",
            "2027-01-15 08:00:00Z",
            "2027-13-15T08:00:00Z",
            "2027-00-15T08:00:00Z",
            "2027-01-15T24:00:00Z",
            "2027-1-15T08:00:00Z",
            "+027-01-15T08:00:00Z",
            "1969-12-31T23:59:59Z",
            "2027-01-15T08:00:00.Z!",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }
}
