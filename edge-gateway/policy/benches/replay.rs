//! What it takes to decide a hundred thousand recorded requests under five hundred rules: POLICY.md says, seconds at
//! most.

use std::fmt::Write as _;
use std::hint::black_box;

use countersign_policy::Policy;
use countersign_policy::replay::{Recorded, replay};
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};

const RULES: usize = 500;
const REQUESTS: usize = 100_000;

/// A hundred rules on each of five hosts, one in five with a condition on the body.
fn policy() -> Policy {
    let mut text = String::from("version = 1\n");
    for number in 0..RULES {
        let (host, resource) = (number % 5, number / 5);
        let (when, then) = match number % 5 {
            0 => ("when = \"body.json.amount >= 100 && body.json.currency == 'usd'\"\n", "approve"),
            1 => ("", "deny"),
            _ => ("", "allow"),
        };
        let host = (host + resource) % 5;
        writeln!(
            text,
            "[[rule]]\nname = \"{number}\"\nhost = \"h{host}.example.com\"\nmethods = [\"POST\"]\npath = \"/v1/r{resource}/{{id}}\"\n{when}then = \"{then}\""
        )
        .expect("a String takes everything");
    }
    Policy::compile(&text, "bench.toml").expect("the policy is well-formed")
}

fn requests() -> Vec<Recorded> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let request = |number: usize| {
        let url =
            format!("https://h{}.example.com/v1/r{}/id{number}", number / 100 % 5, number % 100);
        let body = format!(
            "{{\"amount\":{},\"currency\":\"usd\",\"note\":\"of the bench\"}}",
            number % 200
        );
        Recorded::new("bot", "POST", &url, headers.clone(), Some(body.into_bytes()))
            .expect("a request")
    };
    (0..REQUESTS).map(request).collect()
}

fn replayed(criterion: &mut Criterion) {
    let (policy, requests) = (policy(), requests());
    let decided = replay(&policy, &requests);
    assert!(
        decided.iter().any(|one| one.then.passes()) && !decided.iter().all(|one| one.then.passes())
    );
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    group.bench_function("100000 requests, 500 rules", |b| {
        b.iter(|| replay(black_box(&policy), black_box(&requests)))
    });
    group.finish();
}

criterion_group!(benches, replayed);
criterion_main!(benches);
