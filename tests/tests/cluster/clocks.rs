//! Clocks that are set while nodes run.

use std::path::Path;
use std::time::{Duration, Instant};

use countersign_tests::cluster_world::{ClusterWorld, Faults, Load, Mix, Plan, conclude, is_long};

use super::{SEED, my_turn};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Wall clocks read what stands in this file; clocks that are never set are left alone.
fn clock(file: &Path) -> Vec<(String, String)> {
    assert!(Path::new(LIBRARY).exists(), "libfaketime is missing: ./tests/run installs it");
    set(file, "+0");
    let variables = [
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn set(file: &Path, offset: &str) {
    std::fs::write(file, format!("{offset}\n")).unwrap();
}

#[test]
fn r_15_clocks_that_jump_back_and_forth_release_nothing_late_and_turn_no_time_back() {
    let _turn = my_turn();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("clock");
    // One clock for all nodes: whoever leads stamps by it. Edges have the right one.
    let world = ClusterWorld::with(Plan {
        nodes: if is_long() { 3 } else { 1 },
        edges: 1,
        node_environment: clock(&file),
        ..Plan::default()
    });
    let mut load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    for offset in ["-60m", "-10m", "-61m", "+0"] {
        let before = load.count(true, 200) + load.count(true, 403);
        set(&file, offset);
        faults.injected();
        world.eventually("things are done by that clock", || {
            (load.count(true, 200) + load.count(true, 403) >= before + 2).then_some(())
        });
    }
    let unfinished = load.finish(&world, Duration::from_secs(30));
    assert!(unfinished.is_empty(), "{unfinished:#?}");
    let gathered = world.gather(&[&load], Vec::new(), Instant::now());
    conclude("R-15", SEED, faults, &gathered);
}
