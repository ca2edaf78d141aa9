//! The edge's share of the faults that are planted for tests; the control plane's `planted` has the list.

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
