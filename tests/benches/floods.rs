//! What a flood costs others: `./tests/bench floods`. One agent attacks an edge, in a process of its own; another agent goes
//! on with its work. Printed for each attack: the other agent's p99 when it is quiet and while it goes on, their ratio (goal:
//! under 2), and the edge's memory before and after. It asserts only that the other agent was served.
//!
//! The attacker's process is niced: its own share of this machine is none that it would take from another one.
//! The command line may name some of them (`-- "new hosts" pings`). `COUNTERSIGN_FLOOD_SECONDS` is how long each attack goes on, 60 unless it says otherwise.

#![allow(clippy::unwrap_used)] // a bench that cannot measure stops

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use countersign_tests::cluster_world::{ClusterWorld, Errand, HOST, Plan, Robot, Way};
use http::Method;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const ATTACKS: [&str; 15] = [
    "silent connections",
    "slow heads",
    "slow heads in tunnels",
    "slow bodies",
    "large heads",
    "new hosts",
    "requests, a tunnel each",
    "requests, 256 streams each",
    "rapid reset",
    "pings",
    "settings",
    "continuations",
    "hpack bombs",
    "requests to be held",
    "large bodies to be held",
];

fn main() {
    if let Ok(attack) = std::env::var("COUNTERSIGN_FLOOD") {
        return Attacker::of_environment().go_on(&attack);
    }
    let seconds =
        std::env::var("COUNTERSIGN_FLOOD_SECONDS").ok().map_or(60, |text| text.parse().unwrap());
    let time = Duration::from_secs(seconds);
    let mut world = ClusterWorld::with(Plan { nodes: 1, edges: 1, ..Plan::default() });
    // As it is shipped.
    for (variable, value) in
        [("LIMITS_MAX_IN_FLIGHT_PER_AGENT", "32"), ("LIMITS_MAX_HELD_PER_AGENT", "16")]
    {
        world.edges[0].process.variable(&format!("COUNTERSIGN_EDGE_{variable}"), value);
    }
    world.edges[0].process.variable("TOKIO_WORKER_THREADS", "2");
    world.edges[0].process.terminate();
    world.start_edge(0);
    let way = world.eventually("the edge's authority", || world.edges[0].way());
    let (good, bad) = (world.robot("good"), world.robot("bad"));
    world.eventually("the agents are known", || {
        let known = |robot: &Robot| world.block_on(robot.is_known(&way));
        (known(&good) && known(&bad)).then_some(())
    });
    println!("load average: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    println!(
        "{:28} {:>9} {:>9} {:>6} {:>9} {:>9} {:>6} {:>11}",
        "attack", "quiet", "under it", "ratio", "new conn", "under it", "ratio", "RSS MiB"
    );
    let pid = world.edges[0].process.id().unwrap();
    measure(&world, &good, &way, Duration::from_secs(3));
    let named: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    let wanted = |attack: &str| named.is_empty() || named.iter().any(|name| name == attack);
    for attack in ATTACKS.into_iter().filter(|attack| wanted(attack)) {
        // Anew for each, so that what else the machine does hits both.
        let quiet = measure(&world, &good, &way, time.min(Duration::from_secs(10)));
        let before = rss_kib(pid) / 1024;
        let running = attack_by(attack, &bad, &way, &world);
        let under = measure(&world, &good, &way, time);
        drop(running);
        let after = rss_kib(pid) / 1024;
        let row = |quiet: f64, under: f64| format!("{quiet:9.2} {under:9.2} {:6.2}", under / quiet);
        println!(
            "{attack:28} {} {} {before:4} -> {after:4}",
            row(quiet.kept, under.kept),
            row(quiet.new, under.new)
        );
    }
}

/// p99 in milliseconds: of requests on a connection that is kept, and of such with one of their own.
struct Measured {
    kept: f64,
    new: f64,
}

fn measure(world: &ClusterWorld, robot: &Robot, way: &Way, time: Duration) -> Measured {
    world.block_on(async {
        let (mut kept, mut new) = (Vec::new(), Vec::new());
        let start = Instant::now();
        let mut client = None;
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for number in 0u64.. {
            if start.elapsed() > time {
                break;
            }
            pace.tick().await;
            let began = Instant::now();
            if number % 10 == 9 {
                let errand = Errand::new(Method::GET, HOST, "/v1/of-another");
                let reply = robot.send(way, &errand).await.unwrap();
                assert_eq!(reply.status, 200, "the other agent is served: {}", reply.code());
                new.push(began.elapsed());
                continue;
            }
            if client.is_none() {
                client = Some(Kept::open(robot, way).await);
            }
            let began = Instant::now();
            let status = client.as_mut().unwrap().get().await;
            assert_eq!(status, 200, "the other agent is served");
            kept.push(began.elapsed());
        }
        Measured { kept: p99(&mut kept), new: p99(&mut new) }
    })
}

fn p99(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * 99 / 100].as_secs_f64() * 1000.0
}

/// A tunnel that one agent keeps.
struct Kept {
    sender: hyper::client::conn::http1::SendRequest<Empty<bytes::Bytes>>,
    fake_key: String,
}

impl Kept {
    async fn open(robot: &Robot, way: &Way) -> Self {
        let attacker = Attacker::of(robot, way);
        let stream = attacker.tunnel(&[]).await.expect("the other agent's tunnel");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, fake_key: robot.fake_keys.0.clone() }
    }

    async fn get(&mut self) -> u16 {
        let request = http::Request::get("/v1/of-another")
            .header("host", HOST)
            .header("authorization", format!("Bearer {}", self.fake_key))
            .body(Empty::new())
            .unwrap();
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        answer.into_body().collect().await.unwrap();
        status
    }
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn attack_by(attack: &str, bad: &Robot, way: &Way, world: &ClusterWorld) -> Running {
    let ca = world.root().join("attacked-ca.pem");
    std::fs::write(&ca, &way.ca_pem).unwrap();
    let child = Command::new("nice")
        .args(["-n", "19"])
        .arg(std::env::current_exe().unwrap())
        .env("COUNTERSIGN_FLOOD", attack)
        .env("FLOOD_PROXY", way.proxy.to_string())
        .env("FLOOD_CA", ca)
        .env("FLOOD_AGENT", format!("{}:{}", bad.name, bad.token))
        .env("FLOOD_KEYS", format!("{} {}", bad.fake_keys.0, bad.fake_keys.1))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    Running(child)
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[derive(Clone)]
struct Attacker {
    proxy: SocketAddr,
    login: String,
    keys: (String, String),
    tls: TlsConnector,
}

type Tunnel = TlsStream<TcpStream>;
/// Makes one piece after the other; the stream that comes next is counted on.
type Flood = Box<dyn Fn(&mut u32) -> Vec<u8> + Send>;

impl Attacker {
    fn of(robot: &Robot, way: &Way) -> Self {
        let agent = format!("{}:{}", robot.name, robot.token);
        Self::new(way.proxy, &way.ca_pem, &agent, robot.fake_keys.clone())
    }

    fn of_environment() -> Self {
        let read = |name: &str| std::env::var(name).unwrap();
        let ca = std::fs::read_to_string(read("FLOOD_CA")).unwrap();
        let keys = read("FLOOD_KEYS");
        let (one, other) = keys.split_once(' ').unwrap();
        let keys = (one.to_owned(), other.to_owned());
        Self::new(read("FLOOD_PROXY").parse().unwrap(), &ca, &read("FLOOD_AGENT"), keys)
    }

    fn new(proxy: SocketAddr, ca: &str, agent: &str, keys: (String, String)) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let login = base64::prelude::BASE64_STANDARD.encode(agent);
        Self { proxy, login, keys, tls: TlsConnector::from(Arc::new(config)) }
    }

    /// Until it is killed, on so many connections at once.
    fn go_on(self, attack: &str) {
        let connections =
            if attack == "silent connections" || attack == "slow heads" { 1_000 } else { 16 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut all = tokio::task::JoinSet::new();
            for number in 0..connections {
                let (attacker, attack) = (self.clone(), attack.to_owned());
                all.spawn(async move {
                    for round in 0u64.. {
                        // Cut off: it comes back.
                        let _ = attacker.once(&attack, number * 1_000_000 + round).await;
                        tokio::task::yield_now().await;
                    }
                });
            }
            while all.join_next().await.is_some() {}
        });
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(self.proxy).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn tunnel(&self, alpn: &[&[u8]]) -> std::io::Result<Tunnel> {
        let mut stream = self.connect().await?;
        stream.write_all(self.asks_for(HOST).as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await?);
        }
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(std::io::Error::other("no tunnel"));
        }
        let mut config = (**self.tls.config()).clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let tls = TlsConnector::from(Arc::new(config));
        tls.connect(ServerName::try_from(HOST).unwrap(), stream).await
    }

    fn asks_for(&self, host: &str) -> String {
        let login = &self.login;
        format!(
            "CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\nProxy-Authorization: Basic {login}\r\n\r\n"
        )
    }

    async fn once(&self, attack: &str, number: u64) -> std::io::Result<()> {
        let mut sink = tokio::io::sink();
        match attack {
            "silent connections" => {
                let mut stream = self.connect().await?;
                tokio::io::copy(&mut stream, &mut sink).await?;
            }
            "slow heads" => {
                let mut stream = self.connect().await?;
                stream.write_all(b"CONNECT ").await?;
                drip(&mut stream, Duration::from_secs(1)).await?;
            }
            "slow heads in tunnels" => {
                let mut tunnel = self.tunnel(&[]).await?;
                tunnel.write_all(b"GET / HTTP/1.1\r\nX: ").await?;
                drip(&mut tunnel, Duration::from_secs(1)).await?;
            }
            "slow bodies" => {
                let mut tunnel = self.tunnel(&[]).await?;
                let head = self.post("/v1/slow", 1_000_000);
                tunnel.write_all(head.as_bytes()).await?;
                drip(&mut tunnel, Duration::from_millis(100)).await?;
            }
            "large heads" => {
                let mut tunnel = self.tunnel(&[]).await?;
                let lines = format!("X: {}\r\n", "y".repeat(7_000)).repeat(8);
                tunnel
                    .write_all(
                        format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n").as_bytes(),
                    )
                    .await?;
                tokio::io::copy(&mut tunnel, &mut sink).await?;
            }
            "new hosts" => {
                let mut stream = self.connect().await?;
                for more in 0..1_000u64 {
                    let host = format!("h{}.stray.test", number * 1_000 + more);
                    stream.write_all(self.asks_for(&host).as_bytes()).await?;
                    read_one(&mut stream).await?;
                }
            }
            "requests, a tunnel each" => {
                let mut tunnel = self.tunnel(&[]).await?;
                let get = format!(
                    "GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\n\r\n",
                    self.keys.0
                );
                loop {
                    tunnel.write_all(get.as_bytes()).await?;
                    read_one(&mut tunnel).await?;
                }
            }
            "requests to be held" => {
                let mut tunnel = self.tunnel(&[]).await?;
                tunnel
                    .write_all(
                        format!("{}a=1", self.post(&format!("/v1/held/{number}"), 3)).as_bytes(),
                    )
                    .await?;
                read_one(&mut tunnel).await?;
            }
            "large bodies to be held" => {
                let mut tunnel = self.tunnel(&[]).await?;
                let size = 8 * 1024 * 1024;
                tunnel
                    .write_all(self.post(&format!("/v1/large/{number}"), size).as_bytes())
                    .await?;
                tunnel.write_all(&vec![b'x'; size]).await?;
                read_one(&mut tunnel).await?;
            }
            over_http_2 => {
                let mut tunnel = self.tunnel(&[b"h2"]).await?;
                tunnel.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
                tunnel.write_all(&frame(4, 0, 0, &[])).await?;
                let flood = self.flood(over_http_2);
                let (mut reading, mut writing) = tokio::io::split(tunnel);
                let heard = tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut reading, &mut tokio::io::sink()).await;
                });
                let mut stream = 1;
                while !heard.is_finished() {
                    writing.write_all(&flood(&mut stream)).await?;
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(())
    }

    fn post(&self, path: &str, length: usize) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nCountersign-Approval-Wait: 1\r\n\
             Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n",
            self.keys.1
        )
    }

    fn flood(&self, attack: &str) -> Flood {
        let mut head = Vec::new();
        let bearer = format!("Bearer {}", self.keys.0);
        let pairs = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", HOST),
            (":path", "/v1/x"),
            ("authorization", &bearer),
        ];
        for (name, value) in pairs {
            head.extend([0, name.len() as u8]);
            head.extend(name.bytes());
            head.push(value.len() as u8); // all of them are shorter than 127
            head.extend(value.bytes());
        }
        let attack = attack.to_owned();
        Box::new(move |stream| {
            let mut next = || {
                *stream += 2;
                *stream
            };
            match attack.as_str() {
                "requests, 256 streams each" => {
                    (0..64).flat_map(|_| frame(1, 5, next(), &head)).collect()
                }
                "rapid reset" => (0..64)
                    .flat_map(|_| {
                        let stream = next();
                        [frame(1, 5, stream, &head), frame(3, 0, stream, &8u32.to_be_bytes())]
                            .concat()
                    })
                    .collect(),
                "pings" => frame(6, 0, 0, &[0; 8]).repeat(256),
                "settings" => frame(4, 0, 0, &[]).repeat(256),
                "continuations" => {
                    [frame(1, 1, next(), &head), frame(9, 0, *stream, &[]).repeat(256)].concat()
                }
                "hpack bombs" => {
                    let mut bomb = head.clone();
                    bomb.extend([0x40, 1, b'x', 127, 0xb9, 0x16]); // 127 + 57 + 22 * 128 = 3,000
                    bomb.extend([b'y'; 3_000]);
                    bomb.extend([0xbe; 12_000]);
                    frame(1, 5, next(), &bomb)
                }
                other => panic!("{other} is no attack"),
            }
        })
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A byte at a time until it is cut off.
async fn drip<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    stream: &mut S,
    every: Duration,
) -> std::io::Result<()> {
    let mut pace = tokio::time::interval(every);
    let mut heard = [0; 1024];
    loop {
        tokio::select! {
            _ = pace.tick() => {
                stream.write_all(b"x").await?;
                stream.flush().await?;
            }
            count = stream.read(&mut heard) => if count? == 0 { return Ok(()) },
        }
    }
}

/// One answer with a length.
async fn read_one<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<()> {
    let mut reader = tokio::io::BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        use tokio::io::AsyncBufReadExt as _;
        if reader.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    Ok(())
}
