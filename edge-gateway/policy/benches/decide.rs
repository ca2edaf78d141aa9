//! What a decision costs: one rule and a thousand, on hosts of their own and all on one.

use std::fmt::Write as _;
use std::hint::black_box;

use countersign_gate::{Destination, Scheme};
use countersign_policy::{Body, Head, Policy, Subject};
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method};

fn policy(count: usize, host: impl Fn(usize) -> String, more: &str) -> Policy {
    let mut text = String::from("version = 1\n");
    for number in 0..count {
        let host = host(number);
        write!(
            text,
            "[[rule]]\nname = \"{number}\"\nhost = \"{host}\"\nmethods = [\"GET\"]\npath = \"/r{number}/{{a}}/{{b...}}\"\nthen = \"allow\"\n"
        )
        .expect("a String takes everything");
    }
    text.push_str(more);
    Policy::compile(&text, "bench.toml").expect("the policy is well-formed")
}

fn decide(criterion: &mut Criterion) {
    let destination =
        Destination::parse(Scheme::Https, "api.example.com", Some(443)).expect("a host");
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"));
    let subject = |method: &'static Method, path: &'static str, body: &'static [u8]| Subject {
        head: Head {
            agent: "bot",
            destination: &destination,
            method,
            path,
            query: Some("a=1"),
            headers: &headers,
        },
        body: Body::Whole(body),
    };
    let read = subject(&Method::GET, "/r0/x/y/z", b"");
    let one_host = |_| "api.example.com".to_owned();
    let refund = "[[rule]]\nname = \"when\"\nhost = \"api.example.com\"\nmethods = [\"POST\"]\npath = \"/v1/refunds\"\nwhen = \"body.form.amount >= 10000\"\nthen = \"approve\"\n";

    let one = policy(1, one_host, "");
    criterion.bench_function("1 rule", |b| b.iter(|| black_box(&one).decide(black_box(&read))));
    let apart = policy(
        1000,
        |number| if number == 0 { one_host(0) } else { format!("h{number}.example.com") },
        "",
    );
    criterion.bench_function("1000 rules, a host each", |b| {
        b.iter(|| black_box(&apart).decide(black_box(&read)))
    });
    let together = policy(1000, one_host, refund);
    criterion.bench_function("1000 rules, one host", |b| {
        b.iter(|| black_box(&together).decide(black_box(&read)))
    });
    let alike = (0..1000).fold(String::new(), |text, number| {
        text + &format!("[[rule]]\nname = \"{number}\"\nhost = \"api.example.com\"\npath = \"/{{a}}/r{number}/{{b...}}\"\nthen = \"allow\"\n")
    });
    let alike = policy(0, one_host, &alike);
    criterion.bench_function("1000 rules, none told apart at once", |b| {
        b.iter(|| black_box(&alike).decide(black_box(&read)))
    });
    let escaped = subject(&Method::GET, "/%720/x/y/z", b"");
    criterion.bench_function("1000 rules, an escaped path", |b| {
        b.iter(|| black_box(&together).decide(black_box(&escaped)))
    });
    let large = subject(&Method::POST, "/v1/refunds", b"amount=10000&currency=usd&charge=ch_123");
    criterion.bench_function("1000 rules and one condition", |b| {
        b.iter(|| black_box(&together).decide(black_box(&large)))
    });
    let alone = policy(0, one_host, refund);
    criterion
        .bench_function("1 condition", |b| b.iter(|| black_box(&alone).decide(black_box(&large))));
}

criterion_group!(benches, decide);
criterion_main!(benches);
