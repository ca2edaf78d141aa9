//! Faults planted on purpose, which the tests must catch: a check that has never failed proves nothing.
//!
//! They exist only with the feature `planted-bugs`, which no release has; without it, [`planted`] is `false` before
//! the compiler looks. With it, `COUNTERSIGN_PLANTED_BUG` says which one is awake, and 0 is none.
//!
//! | | fault |
//! |---|---|
//! | 1 | an entry is acknowledged before it is flushed |
//! | 2 | an approval can be claimed twice |
//! | 3 | any digest is taken for that of a request |
//! | 4 | log time is the local wall clock |
//! | 5 | a vote is acknowledged before it is committed |
//! | 7 | any incarnation of an edge may act |
//! | 8 | a denial after an approval is passed over |
//! | 9 | a person has a vote for each channel |
//! | 10 | paths are compared as they are written |
//! | 11 | of a body, the first 16 KiB are hashed for people |
//! | 12 | a claim is not held against the policy in force |
//! | 13 | a node releases what nobody has approved: not to be caught, but to come to nothing among honest nodes |
//!
//! The edge has the sixth (a request whose answer did not come is sent again), and its half of the tenth.

/// Whether this fault is awake.
#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(fault: u8) -> bool {
    static AWAKE: std::sync::OnceLock<u8> = std::sync::OnceLock::new();
    let awake = AWAKE.get_or_init(|| {
        let said = std::env::var("COUNTERSIGN_PLANTED_BUG").ok();
        said.and_then(|number| number.parse().ok()).unwrap_or(0)
    });
    *awake == fault
}

/// There are none.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_fault: u8) -> bool {
    false
}

/// A path as policy sees it.
pub(crate) fn path(path: &str) -> &str {
    if planted(10) { path.replace('%', "~").leak() } else { path }
}
