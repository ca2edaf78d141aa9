//! What people are shown before they answer.

mod lookalike;
pub(crate) mod visible;

pub(crate) use lookalike::warnings;
