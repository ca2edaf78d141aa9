//! One binary for all targets, so that there is one build: `COUNTERSIGN_FUZZ_TARGET` says which.

#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("COUNTERSIGN_FUZZ_TARGET").unwrap_or_default();
    let found = countersign_fuzzing::targets().find(|(there, _)| *there == name);
    let names: Vec<_> = countersign_fuzzing::targets().map(|(name, _)| name).collect();
    found.unwrap_or_else(|| panic!("{name:?} is no target: {names:?}")).1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (*TARGET)(data));
