//! The mathematics of sharing, by numbers: what gives the key back, and what tells nothing.

use countersign_control_plane::vault::sharing::{combine, split};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

#[test]
fn nothing_is_split_outside_of_two_to_sixteen() {
    for (threshold, shares) in [(0, 0), (0, 3), (1, 1), (1, 3), (3, 2), (2, 17), (17, 17)] {
        assert!(split(&[7; 32], threshold, shares).is_none(), "{threshold} of {shares}");
    }
    for (threshold, shares) in [(2, 2), (2, 16), (16, 16)] {
        let split = split(&[7; 32], threshold, shares).unwrap();
        assert_eq!(split.len(), usize::from(shares), "{threshold} of {shares}");
    }
}

/// A threshold, the number of shares, and as many of their numbers as the threshold says.
fn some_of() -> impl Strategy<Value = (u8, u8, Vec<u8>)> {
    (2..=16_u8).prop_flat_map(|shares| (2..=shares, Just(shares))).prop_flat_map(
        |(threshold, shares)| {
            let ids: Vec<_> = (1..=shares).collect();
            (Just(threshold), Just(shares), subsequence(ids, usize::from(threshold)).prop_shuffle())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_threshold_of_shares_gives_the_key(key: [u8; 32], (threshold, shares, ids) in some_of()) {
        let split = split(&key, threshold, shares).unwrap();
        let chosen: Vec<_> = ids.iter().map(|id| (*id, &*split[usize::from(*id) - 1])).collect();
        prop_assert_eq!(*combine(&chosen).unwrap(), key);
        let all: Vec<_> = (1..).zip(split.iter().map(|value| &**value)).collect();
        prop_assert_eq!(*combine(&all).unwrap(), key);
    }

    /// Whatever the shares in hand, each key is what some last share would give: every one of 256 values of its byte
    /// gives another byte of the key, at every position.
    #[test]
    fn one_share_fewer_leaves_every_key_possible(
        key: [u8; 32],
        (threshold, shares, ids) in some_of(),
        position in 0..32_usize,
        missing: Index,
    ) {
        let split = split(&key, threshold, shares).unwrap();
        let missing = missing.index(ids.len());
        let mut values: Vec<_> = ids.iter().map(|id| *split[usize::from(*id) - 1]).collect();
        let mut possible = [false; 256];
        for byte in 0..=255 {
            values[missing][position] = byte;
            let chosen: Vec<_> = ids.iter().copied().zip(&values).collect();
            possible[usize::from(combine(&chosen).unwrap()[position])] = true;
        }
        prop_assert!(possible.iter().all(|possible| *possible));
    }

    #[test]
    fn a_share_that_is_changed_gives_another_key(
        key: [u8; 32],
        (threshold, shares, ids) in some_of(),
        at in 0..32_usize,
        change in 1..=255_u8,
        of: Index,
    ) {
        let split = split(&key, threshold, shares).unwrap();
        let mut values: Vec<_> = ids.iter().map(|id| *split[usize::from(*id) - 1]).collect();
        values[of.index(ids.len())][at] ^= change;
        let chosen: Vec<_> = ids.iter().copied().zip(&values).collect();
        prop_assert_ne!(*combine(&chosen).unwrap(), key);
    }

    #[test]
    fn two_shares_of_one_number_or_a_share_of_none_give_nothing(values in vec(any::<[u8; 32]>(), 3)) {
        prop_assert!(combine(&[(1, &values[0]), (1, &values[1]), (2, &values[2])]).is_none());
        prop_assert!(combine(&[(0, &values[0]), (1, &values[1])]).is_none());
    }
}

/// Twice `value` in GF(256), modulo x^8 + x^4 + x^3 + x + 1.
fn twice(value: u8) -> u8 {
    value << 1 ^ (0x1b & 0_u8.wrapping_sub(value >> 7))
}

/// How far counts are from uniform: 255 on average, with a standard deviation of 22.6, if they are.
fn chi_square(counts: &[u64; 256]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / 256.0;
    counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
}

/// Less than once in 10^10 runs is a uniform sample above this.
const UNLIKELY: f64 = 420.0;
/// Thirty-two coefficients of each degree in each.
const SPLITS: usize = 31_250;

#[test]
fn coefficients_are_uniform_over_a_million_polynomials() {
    // y(1) = s + a + b and y(2) = s + 2a + 4b: this much is a and b times 6, which is as uniform as they are.
    let (mut first, mut second) = ([0; 256], [0; 256]);
    let key = [0x5a; 32];
    for _ in 0..SPLITS {
        let split = split(&key, 3, 3).unwrap();
        for (at, secret) in key.iter().enumerate() {
            let (one, two) = (split[0][at] ^ secret, split[1][at] ^ secret);
            first[usize::from(twice(twice(one)) ^ two)] += 1;
            second[usize::from(twice(one) ^ two)] += 1;
        }
    }
    assert!(chi_square(&first) < UNLIKELY, "degree 1: {}", chi_square(&first));
    assert!(chi_square(&second) < UNLIKELY, "degree 2: {}", chi_square(&second));

    // The test would see what it is there for: a sampler that never gives zero.
    let total: u64 = first.iter().sum();
    let mut biased = [total / 255; 256];
    biased[0] = 0;
    assert!(chi_square(&biased) > UNLIKELY);
}

#[test]
fn a_single_share_looks_the_same_whatever_the_key() {
    for key in [[0; 32], [0xff; 32]] {
        for number in 0..2 {
            let mut counts = [0; 256];
            for _ in 0..SPLITS / 8 {
                let split = split(&key, 2, 2).unwrap();
                split[number].iter().for_each(|byte| counts[usize::from(*byte)] += 1);
            }
            assert!(chi_square(&counts) < UNLIKELY, "{}", chi_square(&counts));
        }
    }
}
