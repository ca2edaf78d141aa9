//! Shamir's sharing of a key over GF(256), by itself: numbers in, numbers out.
//!
//! The coefficients are uniform over the whole field, zero included: a sharing that leaves one value out tells a
//! little of the key with each share.

use vsss_rs::Gf256;
use zeroize::Zeroizing;

/// Shares that can exist.
pub const MOST: u8 = 16;

/// Shares of `key`, of which any `threshold` give it back and fewer tell nothing; the first has number 1. None
/// unless `2 ≤ threshold ≤ shares ≤ 16`.
pub fn split(key: &[u8; 32], threshold: u8, shares: u8) -> Option<Vec<Zeroizing<[u8; 32]>>> {
    if !(2 <= threshold && threshold <= shares && shares <= MOST) {
        return None;
    }
    let points = Gf256::split_bytes(threshold.into(), shares.into(), key, rand::rng()).ok()?;
    let points = Zeroizing::new(points);
    let numbered = points.iter().zip(1..=shares).map(|(point, number)| {
        let (id, value) = point.split_first()?;
        (*id == number).then_some(())?;
        Some(Zeroizing::new(value.try_into().ok()?))
    });
    numbered.collect()
}

/// The key, from as many numbered shares as its threshold was, or something else from others. None when two have
/// one number, or one has number 0.
pub fn combine(shares: &[(u8, &[u8; 32])]) -> Option<Zeroizing<[u8; 32]>> {
    let points: Vec<Vec<u8>> = shares
        .iter()
        .map(|(id, value)| {
            let mut point = Vec::with_capacity(33);
            point.push(*id);
            point.extend(value.as_slice());
            point
        })
        .collect();
    let points = Zeroizing::new(points);
    let key = Zeroizing::new(Gf256::combine_bytes(&*points).ok()?);
    Some(Zeroizing::new(key.as_slice().try_into().ok()?))
}
