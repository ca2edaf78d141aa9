//! What a comparison of two policies costs: five hundred rules, on a host each and all on one.

use std::fmt::Write as _;
use std::hint::black_box;

use countersign_policy::Policy;
use countersign_policy::analysis::{compare, warnings};
use criterion::{Criterion, criterion_group, criterion_main};

const RULES: usize = 500;

/// Reads are allowed, writes asked about, some of them only if a condition holds, and deletions denied.
fn policy(host: impl Fn(usize) -> String, quorum: usize) -> Policy {
    let mut text = String::from("version = 1\n");
    for number in 0..RULES {
        let host = host(number);
        let path = format!("/v1/r{}/{{id}}/{{rest...}}", number / 4);
        let rest = match number % 4 {
            0 => "methods = [\"GET\"]\nthen = \"allow\"\ncredential = \"k\"".to_owned(),
            1 => format!(
                "methods = [\"POST\"]\nthen = \"approve\"\nquorum = {quorum}\ncredential = \"k\""
            ),
            2 => format!(
                "methods = [\"PUT\"]\nwhen = \"body.json.n > {number}\"\nthen = \"approve\"\nquorum = {quorum}"
            ),
            _ => "methods = [\"DELETE\"]\nthen = \"deny\"".to_owned(),
        };
        writeln!(
            text,
            "[[rule]]\nname = \"{number}\"\nhost = \"{host}\"\npath = \"{path}\"\n{rest}"
        )
        .expect("a String takes everything");
    }
    Policy::compile(&text, "bench.toml").expect("the policy is well-formed")
}

fn comparison(criterion: &mut Criterion) {
    let together = |_: usize| "api.example.com".to_owned();
    let apart = |number: usize| format!("h{}.example.com", number / 4);
    let mut group = criterion.benchmark_group("compare");
    group.sample_size(10);
    let (one, other) = (policy(together, 2), policy(together, 1));
    assert!(compare(&one, &other).widens() && !compare(&other, &one).widens());
    assert!(compare(&one, &other).gave_up.is_empty());
    group.bench_function("500 rules, one host, half of them changed", |b| {
        b.iter(|| compare(black_box(&one), black_box(&other)))
    });
    let (one, other) = (policy(apart, 2), policy(apart, 1));
    group.bench_function("500 rules, 125 hosts, half of them changed", |b| {
        b.iter(|| compare(black_box(&one), black_box(&other)))
    });
    let nothing = Policy::empty();
    let (one, other) = (policy(together, 2), nothing);
    group.bench_function("500 rules, all of them new", |b| {
        b.iter(|| compare(black_box(&other), black_box(&one)))
    });
    group.bench_function("warnings of 500 rules, one host", |b| {
        b.iter(|| warnings(black_box(&one)))
    });
    group.finish();
}

criterion_group!(benches, comparison);
criterion_main!(benches);
