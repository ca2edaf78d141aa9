//! Clocks that are set while nodes run.

use std::path::Path;
use std::time::{Duration, Instant};

use countersign_tests::cluster_world::{
    ClusterWorld, Errand, Faults, HOST, Load, Mix, Plan, conclude, is_long,
};
use http::Method;

use super::{SEED, my_turn};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Right again, at the rate of time: a rate that was set stays until it is set anew.
const RIGHT: &str = "+0 x1";

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
    for offset in ["-60m", "-10m", "-61m", "+20s", "+0"] {
        let before = load.count(true, 200) + load.count(true, 403);
        set(&file, offset);
        faults.injected();
        // For so long that people answer with time between them: that is what log time is held against.
        let began = Instant::now();
        world.eventually("things are done by that clock", || {
            let done = load.count(true, 200) + load.count(true, 403) >= before + 2;
            (done && began.elapsed() > Duration::from_millis(1_500)).then_some(())
        });
    }
    let unfinished = load.finish(&world, Duration::from_secs(30));
    assert!(unfinished.is_empty(), "{unfinished:#?}");
    let gathered = world.gather(&[&load], Vec::new(), Instant::now());
    conclude("R-15", SEED, faults, &gathered);
}

#[test]
fn long_r_15_clocks_that_differ_and_run_too_fast_or_too_slowly_release_nothing_late() {
    let _turn = my_turn();
    let dir = tempfile::tempdir().unwrap();
    let file = |party: &str| dir.path().join(party);
    let all = clock(&file("all"));
    let mut world = ClusterWorld::with(Plan { edges: 1, node_environment: all, ..Plan::default() });
    // From here on each has a clock of its own.
    for place in 0..world.nodes.len() {
        let name = world.nodes[place].name().to_owned();
        for (variable, value) in clock(&file(&name)) {
            world.nodes[place].process.variable(&variable, &value);
        }
        world.nodes[place].process.kill();
        world.start_node(place);
        world.serving(place);
    }
    for (variable, value) in clock(&file("e1")) {
        world.edges[0].process.variable(&variable, &value);
    }
    world.edges[0].process.kill();
    world.start_edge(0);

    let robot = world.robot("robot");
    let mut load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    let done = || load.count(true, 200) + load.count(true, 403);
    let goes_on = |what: &str| {
        let before = done();
        // What was held when a clock changed is held to its end.
        let bound = Duration::from_secs(90);
        world.within(bound, what, || (done() >= before + 4).then_some(()));
    };
    let is_off = |what: &str| {
        let errand = Errand::new(Method::DELETE, HOST, "/off").waiting(Duration::from_secs(1));
        world.eventually(what, || {
            let way = world.edges[0].way()?;
            let reply = world.block_on(robot.send(&way, &errand)).ok()?;
            (reply.code() == "clock_off").then_some(())
        });
    };
    // A node that is behind, or slow, is only one that others know better than.
    for reads in ["-60m", "-10m", "+0 x0.5"] {
        let leader = world.leader();
        for node in [leader, world.others(leader)[0]] {
            let name = world.nodes[node].name();
            set(&file(name), reads);
            faults.injected();
            goes_on(&format!("things are done while {name} reads {reads}"));
            set(&file(name), RIGHT);
        }
    }
    // An edge that is off holds nothing until it is set right.
    for reads in ["-60m", "+10m", "+59m", "+0 x2"] {
        set(&file("e1"), reads);
        faults.injected();
        is_off(&format!("an edge that reads {reads} says so"));
        set(&file("e1"), RIGHT);
        goes_on(&format!("things are done after the edge read {reads}"));
    }
    // The cluster's time goes with whoever leads and is ahead, by less than an hour, and never back: edges that have
    // another time hold nothing.
    let leader = world.leader();
    set(&file(world.nodes[leader].name()), "+59m");
    faults.injected();
    is_off("an edge does not agree with a leader that is ahead");
    set(&file("e1"), "+59m");
    goes_on("things are done when it does");
    set(&file(world.nodes[leader].name()), RIGHT);
    goes_on("things are done still");

    let unfinished = load.finish(&world, Duration::from_secs(30));
    assert!(unfinished.is_empty(), "{unfinished:#?}");
    let gathered = world.gather(&[&load], Vec::new(), Instant::now());
    conclude("R-15, each its own", SEED, faults, &gathered);
}
