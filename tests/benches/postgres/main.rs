//! What the gate for Postgres adds to a select, beside pgbouncer: `./tests/bench postgres`, or
//! `cargo bench -p countersign-tests --bench postgres`.
//!
//! The edge and pgbouncer run on one core; the client, PostgreSQL and the control plane on the other. Each route has one
//! connection that is kept open, they take turns, in another order each round, and what is printed is the median of the
//! rounds. What is added is that over the direct connection of the same kind in the same round. The edge reads and judges
//! every statement by the policy that is shipped (`deploy/policies/services/postgres.toml`); pgbouncer passes bytes on.
//! Session pooling is what is like the edge: both have a connection to the server for each client. Then pgbench, with one
//! client and with eight. Nothing is asserted but that every select gave its row.

#![allow(clippy::unwrap_used)] // a bench that cannot measure stops

mod bouncer;
mod client;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use countersign_tests::database::{DATABASE, EdgeBefore, HOST, PASSWORD, Postgres, ROLE};
use countersign_tests::{cost, release};
use percent_encoding::percent_decode_str;

use bouncer::{Bouncer, PROGRAM, Pooling, Tls};
use client::{Client, Protocol, Route};

const ROUNDS: usize = 9;
/// In a round, on one connection.
const STATEMENTS: u32 = 2_000;
const PGBENCH_ROUNDS: usize = 3;
const PGBENCH_SECONDS: &str = "3";
const ROWS: u32 = 100_000;
/// What the edge may add to the median, with TLS on both sides.
const GOAL_MS: f64 = 0.2;
/// Where what is measured runs, and where the rest does.
const MEASURED: usize = 0;
const OTHERS: usize = 1;

/// A way to the database, and the process on it.
struct Side {
    name: &'static str,
    route: Route,
    /// None when it is direct.
    pid: Option<u32>,
    /// Of the direct way of the same kind, among all.
    direct: usize,
    /// Whether what one client prepares is still there for its next statement. pgbouncer has that with transaction
    /// pooling from 1.21 on; Debian's is older.
    prepares: bool,
}

const DIRECT: usize = 0;
const DIRECT_PLAIN: usize = 1;
const EDGE: usize = 2;
const SESSION: usize = 3;

fn main() {
    release::build();
    cost::pin(std::process::id(), OTHERS);
    println!("load average: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    let server = Postgres::start();
    server.says(&format!(
        "create table orders (id int primary key, name text not null);
         insert into orders select n, 'order ' || n from generate_series(1, {ROWS}) n"
    ));
    server.says("vacuum analyze orders");
    // One core, one worker: as pgbouncer has.
    let before = EdgeBefore::start(server, &policy(), "analyst", &[("TOKIO_WORKER_THREADS", "1")]);
    let ca = before.world.dir().join("server-ca.pem");
    std::fs::write(&ca, before.server.ca_pem()).unwrap();
    let ca = ca.to_str().unwrap();
    let bouncers = bouncers(&before.server);
    let sides = sides(&before, ca, &bouncers);
    for pid in sides.iter().filter_map(|side| side.pid) {
        cost::pin(pid, MEASURED);
    }
    for (name, protocol) in [("prepared", Protocol::Prepared), ("simple", Protocol::Simple)] {
        latency(&sides, name, protocol);
    }
    let script = before.world.dir().join("select.sql");
    let text = format!("\\set id random(1, {ROWS})\nselect name from orders where id = :id;\n");
    std::fs::write(&script, text).unwrap();
    for mode in ["prepared", "simple"] {
        for clients in ["1", "8"] {
            throughput(&sides, &script, mode, clients);
        }
    }
    let asked = before.world.approvals().len();
    println!("\n{asked} of these statements were asked about; the policy lets all of them pass");
}

/// As it is shipped, for this host.
fn policy() -> String {
    include_str!("../../../deploy/policies/services/postgres.toml").replace("db.example.com", HOST)
}

/// None where it is not installed, which is said.
fn bouncers(server: &Postgres) -> Vec<(&'static str, Tls, Pooling, Bouncer)> {
    if !Path::new(PROGRAM).exists() {
        println!("pgbouncer: not measured, it is not installed (./tests/bench setup)");
        return Vec::new();
    }
    let version = Command::new(PROGRAM).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    println!("{}", version.lines().next().unwrap_or_default());
    let all = [
        ("pgbouncer, session", Tls::BothSides, Pooling::Session),
        ("pgbouncer, transaction", Tls::BothSides, Pooling::Transaction),
        ("pgbouncer, session, no TLS", Tls::None, Pooling::Session),
    ];
    all.map(|(name, tls, pooling)| (name, tls, pooling, Bouncer::start(server, pooling, tls)))
        .into()
}

fn sides(
    before: &EdgeBefore,
    ca: &str,
    bouncers: &[(&'static str, Tls, Pooling, Bouncer)],
) -> Vec<Side> {
    let server = ([127, 0, 0, 1], before.server.port()).into();
    let role = |address, tls| Route {
        address,
        host: HOST.into(),
        ca: (tls == Tls::BothSides).then(|| ca.to_owned()),
        user: ROLE.into(),
        password: PASSWORD.into(),
        database: DATABASE.into(),
    };
    let straight = |name, tls, direct| Side {
        name,
        route: role(server, tls),
        pid: None,
        direct,
        prepares: true,
    };
    let mut sides = vec![
        straight("direct", Tls::BothSides, DIRECT),
        straight("direct, no TLS", Tls::None, DIRECT_PLAIN),
        Side {
            name: "edge",
            route: agents(before),
            pid: Some(before.pid()),
            direct: DIRECT,
            prepares: true,
        },
    ];
    sides.extend(bouncers.iter().map(|(name, tls, pooling, bouncer)| Side {
        name,
        route: role(bouncer.address, *tls),
        pid: Some(bouncer.pid()),
        direct: if *tls == Tls::None { DIRECT_PLAIN } else { DIRECT },
        prepares: *pooling == Pooling::Session,
    }));
    sides
}

/// What the agent's URL says.
fn agents(before: &EdgeBefore) -> Route {
    let decoded = |text| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let (login, place) = before.url.strip_prefix("postgres://").unwrap().rsplit_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let (host, port) = place.split_once('/').unwrap().0.split_once(':').unwrap();
    let ca = before.world.dir().join("edge/edge-ca.pem");
    Route {
        address: ([127, 0, 0, 1], port.parse().unwrap()).into(),
        host: host.into(),
        ca: Some(ca.to_str().unwrap().into()),
        user: decoded(user),
        password: decoded(password),
        database: DATABASE.into(),
    }
}

/// What one round gave on one connection: milliseconds, and CPU microseconds of the process between for each statement.
#[derive(Clone, Copy)]
struct Served {
    p50: f64,
    p99: f64,
    cpu_us: f64,
}

fn latency(sides: &[Side], name: &str, protocol: Protocol) {
    let among = |side: &Side| protocol == Protocol::Simple || side.prepares;
    let sides: Vec<&Side> = sides.iter().filter(|side| among(side)).collect();
    let mut clients: Vec<Client> = sides.iter().map(|side| Client::connect(&side.route)).collect();
    for (side, client) in sides.iter().zip(&mut clients) {
        once(side, client, protocol, STATEMENTS / 4);
    }
    let mut rounds: Vec<Vec<Served>> = vec![Vec::new(); sides.len()];
    for round in 0..ROUNDS {
        for turn in 0..sides.len() {
            let place = (turn + round) % sides.len();
            rounds[place].push(once(sides[place], &mut clients[place], protocol, STATEMENTS));
        }
    }
    println!("\none row by its key, {name}, one connection, {ROUNDS} rounds of {STATEMENTS}");
    println!(
        "  {:<28}{:>8}{:>9}{:>11}{:>18}{:>11}{:>9}{:>9}",
        "", "p50 ms", "p99 ms", "p50 added", "least to most", "p99 added", "CPU µs", "RSS MiB"
    );
    let added = |place: usize, figure: fn(&Served) -> f64| -> Vec<f64> {
        let direct = &rounds[sides[place].direct];
        rounds[place].iter().zip(direct).map(|(own, direct)| figure(own) - figure(direct)).collect()
    };
    for (place, side) in sides.iter().enumerate() {
        let of = |figure: fn(&Served) -> f64| median(rounds[place].iter().map(figure).collect());
        let (p50, p99) = (of(|it| it.p50), of(|it| it.p99));
        print!("  {:<28}{p50:>8.3}{p99:>9.3}", side.name);
        let Some(pid) = side.pid else {
            println!();
            continue;
        };
        let all = added(place, |it| it.p50);
        let least = all.iter().copied().fold(f64::MAX, f64::min);
        let most = all.iter().copied().fold(f64::MIN, f64::max);
        println!(
            "{:>+11.3}{:>18}{:>+11.3}{:>9.1}{:>9.1}",
            median(all),
            format!("{least:+.3} to {most:+.3}"),
            median(added(place, |it| it.p99)),
            of(|it| it.cpu_us),
            cost::rss_mib(pid),
        );
    }
    let edge = median(added(EDGE, |it| it.p50));
    let held = if edge <= GOAL_MS { "held" } else { "missed" };
    println!("  the edge adds {edge:.3} ms to the median; goal: at most {GOAL_MS} ms, {held}");
    if sides.len() > SESSION {
        let session = median(added(SESSION, |it| it.p50));
        println!(
            "  {} adds {session:.3} ms: the edge {:+.3} ms beside it, {:.2} times as much",
            sides[SESSION].name,
            edge - session,
            edge / session
        );
    }
}

fn once(side: &Side, client: &mut Client, protocol: Protocol, statements: u32) -> Served {
    let cpu = || side.pid.map_or(0.0, cost::cpu);
    let before = cpu();
    let mut took: Vec<Duration> = (0..statements)
        // All over the table, and the same keys for everybody.
        .map(|number| client.select(protocol, number.wrapping_mul(2_654_435_761) % ROWS + 1))
        .collect();
    let cpu_us = (cpu() - before) * 1e6 / f64::from(statements);
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 100].as_secs_f64() * 1e3;
    Served { p50: at(50), p99: at(99), cpu_us }
}

/// Transactions per second of pgbench, and CPU microseconds of each, the clients' connections included.
#[derive(Clone, Copy)]
struct Ran {
    rate: f64,
    cpu_us: f64,
}

fn throughput(sides: &[Side], script: &Path, mode: &str, clients: &str) {
    let among = |side: &Side| mode == "simple" || side.prepares;
    let sides: Vec<&Side> = sides.iter().filter(|side| among(side)).collect();
    let mut rounds: Vec<Vec<Ran>> = vec![Vec::new(); sides.len()];
    for round in 0..PGBENCH_ROUNDS {
        for turn in 0..sides.len() {
            let place = (turn + round) % sides.len();
            rounds[place].push(pgbench(sides[place], script, mode, clients));
        }
    }
    println!("\npgbench, the same select, {mode}, clients: {clients}, {PGBENCH_SECONDS} s a round");
    println!(
        "  {:<28}{:>10}{:>10}{:>9}{:>9}{:>9}",
        "", "select/s", "÷ direct", "edge ÷", "CPU µs", "RSS MiB"
    );
    let rate = |place: usize| median(rounds[place].iter().map(|ran| ran.rate).collect());
    for (place, side) in sides.iter().enumerate() {
        let own = rate(place);
        print!("  {:<28}{own:>10.0}{:>10.2}", side.name, own / rate(side.direct));
        let Some(pid) = side.pid else {
            println!();
            continue;
        };
        println!(
            "{:>9.2}{:>9.1}{:>9.1}",
            rate(EDGE) / own,
            median(rounds[place].iter().map(|ran| ran.cpu_us).collect()),
            cost::rss_mib(pid)
        );
    }
}

fn pgbench(side: &Side, script: &Path, mode: &str, clients: &str) -> Ran {
    let cpu = || side.pid.map_or(0.0, cost::cpu);
    let before = cpu();
    let output = Command::new("pgbench")
        .args(["-n", "-M", mode, "-c", clients, "-T", PGBENCH_SECONDS, "-f"])
        .arg(script)
        .arg(side.route.conninfo())
        .env("PGPASSWORD", &side.route.password)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let cpu = cpu() - before;
    let (said, wrong) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {said}{wrong}", side.name);
    let word = |before: &str| -> f64 {
        let line = said.lines().find_map(|line| line.strip_prefix(before));
        let word = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        word.unwrap_or_else(|| panic!("pgbench does not say {before:?}: {said}"))
    };
    let done = word("number of transactions actually processed: ");
    assert_eq!(word("number of failed transactions: "), 0.0, "{}: {said}", side.name);
    Ran { rate: word("tps = "), cpu_us: cpu * 1e6 / done }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
