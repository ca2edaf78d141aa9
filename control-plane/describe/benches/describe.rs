//! What it takes to read a JSON body, to decide by it and to say what it would do: 10 KiB and 1 MiB, a fact whole and a long
//! rest.

use std::fmt::Write as _;
use std::hint::black_box;

use countersign_describe::describe;
use countersign_gate::{Destination, Scheme};
use countersign_policy::{Body, Head, Policy, Subject, json};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method};

/// A page as agents write them: paragraphs of some words, in objects four deep.
fn page(bytes: usize) -> String {
    let mut text =
        String::from("{\"parent\":{\"page_id\":\"p1\"},\"properties\":{},\"children\":[");
    let mut number = 0;
    while text.len() < bytes - 200 {
        let comma = if number > 0 { "," } else { "" };
        write!(
            text,
            "{comma}{{\"object\":\"block\",\"type\":\"paragraph\",\"paragraph\":{{\"rich_text\":[{{\"type\":\"text\",\
             \"text\":{{\"content\":\"Paragraph {number}, which says something at some length, as they do.\"}}}}]}}}}"
        )
        .expect("a String takes everything");
        number += 1;
    }
    text.push_str("],\"archived\":false}");
    text
}

const RULES: &str = r#"
version = 1
[[rule]]
name = "pages of a project"
host = "api.notion.com"
methods = ["POST"]
path = "/v1/pages"
when = "body.json.parent.page_id == 'p1' && !body.json.archived"
then = "approve"
"#;

fn bodies(criterion: &mut Criterion) {
    let destination =
        Destination::parse(Scheme::Https, "api.notion.com", Some(443)).expect("a host");
    let policy = Policy::compile(RULES, "policy.toml").expect("it compiles");
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    for (name, size) in [("10 KiB", 10 * 1024), ("1 MiB", 1024 * 1024)] {
        let body = page(size);
        let head = Head {
            agent: "bot",
            destination: &destination,
            method: &Method::POST,
            path: "/v1/pages",
            query: None,
            headers: &headers,
        };
        let subject = Subject { head, body: Body::Whole(body.as_bytes()) };
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function("decode", |b| b.iter(|| json::parse(black_box(body.as_bytes()))));
        group.bench_function("decode and describe", |b| b.iter(|| describe(black_box(&subject))));
        // Each reads the body itself: the edge decides, and the control plane describes.
        group.bench_function("decide and describe", |b| {
            b.iter(|| (policy.decide(black_box(&subject)), describe(black_box(&subject))));
        });
        group.finish();
    }
}

criterion_group!(benches, bodies);
criterion_main!(benches);
