//! Deterministic simulation: nodes, edges and people on one thread, on simulated time, under trouble that a seed chooses.
//!
//! ```text
//! seed ─ town ─┬─ node: Cluster (openraft), Signer, Intake, over simulated TCP, on a disk that forgets
//!              ├─ gateway: the gate's own types, gateway.proto under mutual TLS, an upstream that writes down
//!              ├─ people: votes and reads at any node
//!              └─ chaos ─ heal ─ serve ─ oracle: I1 to I6, I10, I11, I14
//! ```
//!
//! What is real: consensus, forwarding, meetings, the steward, snapshots, the state machine, signing, intake and the gate.
//! What is not: the network and its faults (turmoil), clocks, the log's disk (the engine in memory), the edge gateway
//! around the gate, the door for people. Snapshots, marks and keys are files that a crash leaves alone.
//!
//! How repeatable a seed is: the trouble, its times, the load and the network's latencies come from the seed. openraft's
//! election timeouts, `tokio::select!` and the ids that the product draws do not: they would take a build of everything
//! with `--cfg tokio_unstable`, and a runtime of our own for openraft. The same seed is the same trouble, and meets a
//! violation again more often than not.
//!
//! `COUNTERSIGN_SIM_SEEDS=17..18` runs seed 17; with `RUST_LOG=countersign_control_plane=info,simulation=debug` it says
//! what happens.

#![allow(clippy::unwrap_used)] // what is not a test here is a part of one

mod chaos;
mod disk;
mod gateway;
mod ledger;
mod mayor;
mod network;
mod node;
mod oracle;
mod people;
mod restarts;
mod time;
mod town;

#[allow(dead_code)] // more words than are needed here
#[path = "../intake/edge.rs"]
mod edge;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../tests/src/history.rs"]
mod history;
#[allow(dead_code)]
#[path = "../intake/world.rs"]
mod world;

use std::ops::Range;
use std::sync::{Mutex, Once};

use disk::Word;
use town::Outcome;

/// Without a word of the caller's.
const FEW: Range<u64> = 1..21;

#[test]
fn every_seed_keeps_every_promise() {
    let seeds = std::env::var("COUNTERSIGN_SIM_SEEDS").map_or(FEW, |range| parse(&range));
    let count = seeds.end.saturating_sub(seeds.start);
    let mut all = Outcome::default();
    for seed in seeds {
        let outcome = run(seed, Word::Honest);
        all.faults += outcome.faults;
        all.histories += outcome.histories;
        all.executions += outcome.executions;
        all.compared += outcome.compared;
        all.seconds += outcome.seconds;
        if !outcome.violations.is_empty() {
            println!("seed {seed} (again: COUNTERSIGN_SIM_SEEDS={seed}..{}):", seed + 1);
            outcome.violations.iter().for_each(|violation| println!("{violation}"));
        }
        all.violations.extend(outcome.violations);
    }
    println!(
        "simulation: {count} seeds, {} faults injected, {} histories checked, {} requests carried out, \
         {} log positions compared, {} simulated seconds, {} violations",
        all.faults,
        all.histories,
        all.executions,
        all.compared,
        all.seconds,
        all.violations.len()
    );
    assert!(all.violations.is_empty(), "this must not be: {}", all.violations.join("\n"));
}

/// A check that has never failed proves nothing.
#[test]
fn disks_that_acknowledge_what_they_have_not_synced_are_found_out() {
    let noticed = (1_000_000..1_000_010).find(|seed| {
        let violations = run(*seed, Word::Lying).violations;
        violations.iter().any(|violation| violation.starts_with("I3"))
    });
    assert!(noticed.is_some(), "acknowledged votes were lost and nobody noticed");
}

/// On a thread of its own, so that whatever panics there is a violation and nothing is left behind.
fn run(seed: u64, word: Word) -> Outcome {
    let name = format!("seed {seed}");
    listen();
    let thread = std::thread::Builder::new().name(name.clone());
    let lived = thread.spawn(move || town::live(seed, word)).unwrap().join();
    let mut outcome = lived.unwrap_or_default();
    let panics = std::mem::take(&mut *PANICS.lock().unwrap());
    let (own, others): (Vec<_>, Vec<_>) = panics.into_iter().partition(|(by, _)| *by == name);
    PANICS.lock().unwrap().extend(others);
    outcome.violations.extend(own.into_iter().map(|(_, what)| what));
    outcome
}

/// By the name of their thread.
static PANICS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// Takes note of panics, also of those in tasks, which end nothing but the task.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
        }
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default().to_owned();
            PANICS.lock().unwrap().push((name, panic.to_string()));
            former(panic);
        }));
    });
}

/// `17..18`, half open.
fn parse(range: &str) -> Range<u64> {
    let ends = range
        .split_once("..")
        .and_then(|(start, end)| Some(start.trim().parse().ok()?..end.trim().parse().ok()?));
    ends.unwrap_or_else(|| panic!("COUNTERSIGN_SIM_SEEDS must be like 1..401, not {range}"))
}
