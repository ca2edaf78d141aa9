//! What the edge costs beside others that do its work or a part of it: `./tests/bench`, or
//! `cargo bench -p countersign-tests --bench edge`.
//!
//! Everything under measure runs on one core, client and upstream on the other. The upstream answers 401 unless the real
//! key arrives, so every counted answer had its key swapped. Peers take turns, in another order each round; what is
//! printed is the median of the rounds, with the least and the most of the edge's own. CPU is that of a process and its
//! children, per request. Nothing is asserted but that the work was done.

#![allow(clippy::unwrap_used)] // a bench that cannot measure stops

mod held;
mod load;
mod rivals;
mod upstream;
mod votes;

use std::time::Duration;

use base64::Engine as _;
use countersign_tests::cluster_world::{
    ClusterWorld, Edge, HOST, POLICY, Plan, READ_KEY, Robot, http_get,
};
use countersign_tests::{cost, release};

use load::{Each, Protocol, Route, Served, Work};
use rivals::Rival;
use upstream::Upstream;

const ROUNDS: usize = 3;
/// Where what is measured runs, and where the rest does.
const MEASURED: usize = 0;
const OTHERS: usize = 1;

const WORKS: [Work; 10] = [
    kept("keep-alive, 1 connection", 1, 4_000),
    kept("keep-alive, 16 connections", 16, 12_000),
    kept("keep-alive, 64 connections", 64, 12_000),
    Work { protocol: Protocol::Http2(1), ..kept("HTTP/2, 1 stream", 1, 4_000) },
    Work { protocol: Protocol::Http2(16), ..kept("HTTP/2, 16 streams", 1, 12_000) },
    Work { each: Each::New, ..kept("a new connection each, 16", 16, 1_600) },
    Work { each: Each::Resumed, ..kept("a new connection each, resumed, 16", 16, 1_600) },
    Work { size: 64 << 10, ..kept("64 KiB answers, 16", 16, 3_000) },
    Work { size: 10 << 20, ..kept("10 MiB answers, 2", 2, 24) },
    kept("keep-alive, 16 connections, again", 16, 12_000),
];

const fn kept(name: &'static str, connections: usize, requests: usize) -> Work {
    Work { name, protocol: Protocol::Http1, connections, requests, size: 1024, each: Each::Kept }
}

fn main() {
    release::build();
    cost::pin(std::process::id(), OTHERS);
    println!("load average: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    if wanted("votes") {
        votes::measure();
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let upstream = runtime.block_on(Upstream::start());
    let mut world =
        ClusterWorld::with(Plan { nodes: 1, edges: 0, policy: policy(), ..Plan::default() });
    let edge = edge_before(&mut world, &upstream);
    let robot = world.robot("load");
    let route = through(&world, edge, &robot);
    let pid = world.edges[edge].process.id().unwrap();
    cost::pin(pid, MEASURED);
    let rivals = rivals::start(&upstream);
    for rival in &rivals {
        cost::pin(rival.pid(), MEASURED);
        println!("{} at {}", rival.name, rival.route.address);
    }
    let direct = Route {
        address: upstream.address,
        connect: None,
        ca_pem: upstream.ca_pem.clone(),
        key: format!("Bearer {READ_KEY}"),
    };
    for work in WORKS.into_iter().filter(|work| wanted("table") || wanted(work.name)) {
        table(&runtime, work, (pid, &route), &rivals, &direct);
    }
    if wanted("rules") {
        thousand_rules(&runtime, &world, (pid, &route));
    }
    if wanted("held") {
        held::measure(&runtime, &world, pid, &route, &robot.fake_keys.1);
    }
}

/// Whether this part was asked for: all are, unless the command line names some (`-- held rules`). A part of the table is
/// asked for by its name.
fn wanted(part: &str) -> bool {
    let mut named = std::env::args().skip(1).filter(|it| !it.starts_with('-')).peekable();
    named.peek().is_none() || named.any(|it| it == part)
}

/// What is held stays held until everything was measured.
fn policy() -> String {
    POLICY
        .replace("approvers = [\"ana\", \"bo\"]", "approvers = [\"ana\", \"bo\"]\nhold = \"280s\"")
}

/// An edge that is sent to the bench's own upstream.
fn edge_before(world: &mut ClusterWorld, upstream: &Upstream) -> usize {
    let mut edge = Edge::enroll(world, "e1");
    std::fs::write(edge.process.dir().join("upstream.pem"), &upstream.ca_pem).unwrap();
    for (variable, value) in [
        ("UPSTREAM_CONNECT_TO", format!("{HOST}:443:{}", upstream.address)),
        ("LIMITS_MAX_HELD_PER_AGENT", "50000".into()),
        ("LIMITS_MAX_IN_FLIGHT_PER_AGENT", "50000".into()),
        ("LIMITS_MAX_CONNECTIONS", "50000".into()),
        ("LIMITS_MAX_CONNECTIONS_PER_AGENT", "50000".into()),
    ] {
        edge.process.variable(&format!("COUNTERSIGN_EDGE_{variable}"), &value);
    }
    // One core, one worker: as nginx and squid have here.
    edge.process.variable("TOKIO_WORKER_THREADS", "1");
    world.edges.push(edge);
    let place = world.edges.len() - 1;
    world.start_edge(place);
    place
}

fn through(world: &ClusterWorld, edge: usize, robot: &Robot) -> Route {
    let way = world.edges[edge].way().unwrap();
    let login = base64::prelude::BASE64_STANDARD.encode(format!("{}:{}", robot.name, robot.token));
    let authority = format!("{}:443", HOST);
    Route {
        address: way.proxy,
        connect: Some((authority, format!("Proxy-Authorization: Basic {login}\r\n"))),
        ca_pem: way.ca_pem,
        key: format!("Bearer {}", robot.fake_keys.0),
    }
}

/// What one round gave for one peer.
#[derive(Clone, Copy)]
struct Cost {
    /// CPU seconds per 10,000 requests, times 1,000.
    cpu_ms: f64,
    rate: f64,
    median: Duration,
    rss_mib: f64,
}

fn once(runtime: &tokio::runtime::Runtime, pid: u32, route: &Route, work: Work) -> Cost {
    let before = cost::cpu(pid);
    let mut served: Served = runtime.block_on(load::run(route, work));
    let cpu = cost::cpu(pid) - before;
    Cost {
        cpu_ms: cpu * 1e3 * 1e4 / work.requests as f64,
        rate: work.requests as f64 / served.took.as_secs_f64(),
        median: served.median(),
        rss_mib: cost::rss_mib(pid),
    }
}

/// Everybody does the same work, in turns.
fn table(
    runtime: &tokio::runtime::Runtime,
    work: Work,
    edge: (u32, &Route),
    rivals: &[Rival],
    direct: &Route,
) {
    let http2 = work.protocol != Protocol::Http1;
    let mut all: Vec<(&str, u32, &Route, Work)> = vec![("edge", edge.0, edge.1, work)];
    for rival in rivals.iter().filter(|rival| rival.http2 || !http2) {
        let requests = (work.requests / rival.slower).max(work.connections);
        all.push((rival.name, rival.pid(), &rival.route, Work { requests, ..work }));
    }
    // A tunnel's HTTP/2 is the upstream's, which has none.
    all.retain(|(name, ..)| !(http2 && (name.contains("tunnel") || *name == "tinyproxy")));
    for (_, pid, route, work) in &all {
        let few = (work.requests / 20).max(work.connections);
        once(runtime, *pid, route, Work { requests: few, ..*work });
    }
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); all.len()];
    let mut straight = Vec::new();
    for round in 0..ROUNDS {
        for turn in 0..all.len() {
            let (_, pid, route, work) = &all[(turn + round) % all.len()];
            costs[(turn + round) % all.len()].push(once(runtime, *pid, route, *work));
        }
        if !http2 {
            straight.push(once(runtime, std::process::id(), direct, work).median);
        }
    }
    straight.sort_unstable();
    let straight = straight.get(ROUNDS / 2).copied();
    println!("\n{}, {} requests for {}", work.name, work.requests, size(work.size));
    println!(
        "  {:<16}{:>14}{:>9}{:>12}{:>9}{:>14}{:>9}",
        "", "CPU ms/10,000", "edge ÷", "requests/s", "p50 ms", "over direct", "RSS MiB"
    );
    let edge_cpu = middle(&costs[0], |cost| cost.cpu_ms);
    for ((name, ..), costs) in all.iter().zip(&costs) {
        let cpu = middle(costs, |cost| cost.cpu_ms);
        let median = middle(costs, |cost| cost.median.as_secs_f64() * 1e3);
        let added = straight
            .map_or_else(String::new, |s| format!("{:+.3}", median - s.as_secs_f64() * 1e3));
        println!(
            "  {name:<16}{cpu:>14.0}{:>9.2}{:>12.0}{median:>9.3}{added:>14}{:>9.1}",
            edge_cpu / cpu,
            middle(costs, |cost| cost.rate),
            middle(costs, |cost| cost.rss_mib),
        );
    }
    let own = |pick: fn(f64, f64) -> f64, from: f64| {
        costs[0].iter().map(|cost| cost.cpu_ms).fold(from, pick)
    };
    println!("  the edge's rounds: {:.0} to {:.0}", own(f64::min, f64::MAX), own(f64::max, 0.0));
}

/// A policy of a thousand rules beside one of a few.
fn thousand_rules(runtime: &tokio::runtime::Runtime, world: &ClusterWorld, edge: (u32, &Route)) {
    let work = kept("", 16, 8_000);
    let few = policy();
    let mut many = few.clone();
    for n in 0..1_000 {
        many += &format!(
            "\n[[rule]]\nname = \"rule {n}\"\nhost = \"api.example.test\"\nmethods = [\"DELETE\"]\npath = \"/v1/things/{n}/{{part}}\"\nthen = \"deny\"\n"
        );
    }
    let (mut with_few, mut with_many) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (policy, costs) in [(many.as_str(), &mut with_many), (few.as_str(), &mut with_few)] {
            let before = metric(world, "bundle_revision");
            world.set_policy(policy);
            world.eventually("the policy at the edge", || {
                (metric(world, "bundle_revision") > before).then_some(())
            });
            once(runtime, edge.0, edge.1, Work { requests: 400, ..work });
            costs.push(once(runtime, edge.0, edge.1, work));
        }
    }
    let (few, many) = (middle(&with_few, |c| c.cpu_ms), middle(&with_many, |c| c.cpu_ms));
    println!(
        "\n1,000 more rules: {many:.0} CPU ms per 10,000 requests, {few:.0} without; the one ÷ the other {:.2}",
        many / few
    );
}

/// What the edge says of itself.
fn metric(world: &ClusterWorld, name: &str) -> f64 {
    let text =
        http_get(world.edges[0].metrics, "/metrics").map(|(_, text)| text).unwrap_or_default();
    let line = format!("countersign_edge_{name} ");
    text.lines().find_map(|l| l.strip_prefix(&line)?.parse().ok()).unwrap_or(-1.0)
}

fn middle(costs: &[Cost], figure: impl Fn(&Cost) -> f64) -> f64 {
    let mut all: Vec<f64> = costs.iter().map(figure).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b => format!("{} KiB", b >> 10),
    }
}
