//! What a scenario came to: said to whoever runs the tests, and written down for the report of the long tier.

use std::io::Write as _;

use super::Gathered;
use crate::invariants::check;

/// Whether scenarios run at their full length.
pub fn is_long() -> bool {
    std::env::var_os("COUNTERSIGN_TEST_LONG").is_some()
}

/// What a scenario did to the cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults(pub usize);

impl Faults {
    pub fn injected(&mut self) {
        self.0 += 1;
    }
}

/// Checks all invariants over a scenario's evidence, writes its line of the report (into the file that
/// `COUNTERSIGN_TEST_REPORT` names), and fails with every violation.
pub fn conclude(scenario: &str, seed: u64, faults: Faults, gathered: &Gathered) {
    let found = check(&gathered.evidence);
    let line = serde_json::json!({
        "scenario": scenario,
        "seed": seed,
        "faults": faults.0,
        "histories": gathered.histories,
        "arrivals": gathered.evidence.arrivals.len(),
        "violations": found.len(),
    });
    if let Some(path) = std::env::var_os("COUNTERSIGN_TEST_REPORT") {
        let mut file =
            std::fs::File::options().create(true).append(true).open(path).expect("the report");
        writeln!(file, "{line}").expect("the report");
    }
    println!("{line}");
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{scenario}: {} violations:\n{}", found.len(), found.join("\n"));
}
