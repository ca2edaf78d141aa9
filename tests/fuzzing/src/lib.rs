//! What is fuzzed. Each target is a function of bytes that panics when something is not as it must be; an ordinary test of
//! the package that it is about runs the whole corpus through it.

pub mod chat;
pub mod decoders;
pub mod describe;
pub mod edge;

/// Every target, by name.
pub fn targets() -> impl Iterator<Item = (&'static str, fn(&[u8]))> {
    let edge = edge::TARGETS.iter().chain(decoders::TARGETS);
    edge.chain(chat::TARGETS).chain(describe::TARGETS).copied()
}
