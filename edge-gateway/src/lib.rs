//! The intercepting side: freezes what is risky, forwards what was released.

pub mod addresses;
pub mod mitm;
pub mod redact;
pub mod upstream;
