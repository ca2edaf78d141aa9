//! Sets of small numbers.

/// Some of the numbers from 0 to one that was fixed when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set(Vec<u64>);

const BITS: usize = 64;

impl Set {
    pub(crate) fn none(of: usize) -> Self {
        Self(vec![0; of.div_ceil(BITS)])
    }

    pub(crate) fn all(of: usize) -> Self {
        Self::those(of, |_| true)
    }

    pub(crate) fn those(of: usize, which: impl Fn(usize) -> bool) -> Self {
        let mut set = Self::none(of);
        (0..of).filter(|number| which(*number)).for_each(|number| set.insert(number));
        set
    }

    pub(crate) fn insert(&mut self, number: usize) {
        self.0[number / BITS] |= 1 << (number % BITS);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(crate) fn contains(&self, number: usize) -> bool {
        self.0.get(number / BITS).is_some_and(|word| word >> (number % BITS) & 1 == 1)
    }

    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| one & !other == 0)
    }

    pub(crate) fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(one, other)| one & other != 0)
    }

    pub(crate) fn keep(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(one, other)| *one &= other);
    }

    pub(crate) fn drop(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(one, other)| *one &= !other);
    }

    /// The smallest one in it.
    pub(crate) fn first(&self) -> Option<usize> {
        let word = self.0.iter().position(|word| *word != 0)?;
        Some(word * BITS + self.0[word].trailing_zeros() as usize)
    }

    /// What it costs to look at it, in words.
    pub(crate) fn cost(&self) -> u64 {
        self.0.len() as u64
    }
}
