//! A whole cluster of real processes: nodes, edges, an upstream, people and agents, with a network between them that a
//! test can spoil.
//!
//! Nodes find each other, and edges find nodes, through doors of a [`Network`], or directly where a test asks for
//! [`Hosts`]. People call the nodes' APIs directly: what a person can reach is not what these tests are about.

mod edge;
mod evidence;
mod load;
mod node;
mod people;
mod process;
mod report;
mod restore;
mod robot;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use countersign_proto::v1;
use tempfile::TempDir;

pub use edge::Edge;
pub use evidence::Gathered;
pub use load::{Load, Mix};
pub use node::{Node, Timing};
pub use people::{Desk, Person, card, seen, tap};
pub use process::{Process, free_address, program_path};
pub use report::{Faults, conclude, is_long};
pub use robot::{Asked, Errand, Reply, Robot, Way};

use crate::history::Journal;
use crate::hosts::Hosts;
use crate::origin::Origin;
use crate::toxic::Network;

/// The upstream that every agent of these worlds talks to.
pub const HOST: &str = "api.example.test";
/// What it is read and changed with.
pub const READ_KEY: &str = "rk_live_R3adKeyOfTheClusterTests0000000001";
pub const WRITE_KEY: &str = "wk_live_Wr1teKeyOfTheClusterTests000000002";
/// What a path may hold that must not be readable anywhere.
pub const CANARY: &str = "canary-7Qx0c1usterPath";
/// The people who may approve.
pub const APPROVERS: [&str; 2] = ["ana", "bo"];

/// Reads pass on a leased key; what changes something is asked for; what is in the vault is nobody's.
pub const POLICY: &str = r#"
version = 1

[[rule]]
name = "read"
host = "api.example.test"
methods = ["GET", "HEAD"]
then = "allow"
credential = "reader"

[[rule]]
name = "change"
host = "api.example.test"
methods = ["DELETE", "PATCH", "POST", "PUT"]
then = "approve"
credential = "writer"
approvers = ["ana", "bo"]

[[rule]]
name = "never the vault"
host = "api.example.test"
path = "/vault/{rest...}"
then = "deny"
"#;

/// For anything that must come about by itself.
pub const SOON: Duration = Duration::from_secs(30);

/// What opens the nodes' vaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// A file on each node: each opens itself.
    KeyFile,
    /// A person who knows [`PASSPHRASE`].
    Passphrase,
}

/// Of the worlds that are sealed with one.
pub const PASSPHRASE: &str = "seven sealed words for the cluster tests";

/// What a world is begun with.
pub struct Plan {
    pub nodes: usize,
    pub edges: usize,
    pub policy: String,
    pub timing: Timing,
    /// Remember every byte between the parties.
    pub tapped: bool,
    pub seal: Seal,
    /// Nodes and edges on hosts of their own, between which the kernel drops packets; the network has no part in it.
    pub hosts: bool,
    /// For every node.
    pub node_environment: Vec<(String, String)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: 3,
            edges: 2,
            policy: POLICY.into(),
            timing: Timing::default(),
            tapped: false,
            seal: Seal::KeyFile,
            hosts: false,
            node_environment: Vec::new(),
        }
    }
}

/// Names of nodes and the addresses of their APIs.
type Directory = Arc<Mutex<Vec<(String, SocketAddr)>>>;

pub struct ClusterWorld {
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
    /// Dropped after the processes that run there.
    hosts: Option<Hosts>,
    pub network: Arc<Network>,
    pub origin: Origin,
    pub journal: Journal,
    pub admin: Person,
    pub people: Vec<Person>,
    /// Every agent that there ever was.
    robots: Mutex<Vec<Robot>>,
    began: Instant,
    api_ca: String,
    /// Nodes that there ever were.
    named: AtomicUsize,
    /// Name and API of each of them, for whoever calls while nodes come and go.
    directory: Directory,
    plan: Plan,
    dir: TempDir,
    pub runtime: tokio::runtime::Runtime,
}

impl ClusterWorld {
    /// Three nodes, two edges.
    pub fn start() -> Self {
        Self::with(Plan::default())
    }

    pub fn with(plan: Plan) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let network = Arc::new(if plan.tapped { Network::tapped() } else { Network::new() });
        let dir = tempfile::tempdir().unwrap();
        let hosts = plan.hosts.then(Hosts::new);
        let outside = hosts.as_ref().map_or(Ipv4Addr::LOCALHOST, Hosts::outside);
        let mut world = Self {
            nodes: Vec::new(),
            edges: Vec::new(),
            hosts,
            network,
            origin: load::upstream(outside),
            journal: Journal::default(),
            admin: Person { name: "admin".into(), token: String::new() },
            people: Vec::new(),
            robots: Mutex::default(),
            began: Instant::now(),
            api_ca: String::new(),
            named: AtomicUsize::new(0),
            directory: Directory::default(),
            plan,
            dir,
            runtime,
        };
        world.begin();
        for _ in 1..world.plan.nodes {
            world.add_node();
        }
        world.furnish();
        for _ in 0..world.plan.edges {
            world.add_edge();
        }
        world
    }

    /// The first node makes the cluster.
    fn begin(&mut self) {
        let mut first = self.new_node();
        let made_with = "provider = \"passphrase\"\npassphrase_file = \"passphrase\"";
        let seal = match self.plan.seal {
            Seal::KeyFile => self.seal(),
            Seal::Passphrase => {
                std::fs::write(first.process.dir().join("passphrase"), PASSPHRASE).unwrap();
                made_with
            }
        };
        first.configure(self.plan.timing, seal, None);
        first.start(&self.network);
        let data = first.data_dir();
        self.list(&first);
        self.nodes.push(first);
        let read = |name: &str| {
            self.eventually(name, || {
                let text = std::fs::read_to_string(data.join(name)).ok()?;
                (!text.trim().is_empty()).then_some(text)
            })
        };
        let (ca, token) = (read("api-ca.pem"), read("admin-token"));
        self.api_ca = ca;
        self.admin.token = token.trim().to_owned();
        self.serving(0);
        self.nodes[0].configure(self.plan.timing, self.seal(), None);
    }

    /// What nodes are told of the seal of a cluster that there is.
    fn seal(&self) -> &'static str {
        match self.plan.seal {
            Seal::KeyFile => "provider = \"key-file\"\nkey_file = \"seal.key\"",
            Seal::Passphrase => "provider = \"passphrase\"",
        }
    }

    /// Opens this node's vault with the passphrase, once the node listens.
    pub fn unseal(&self, node: usize) {
        self.eventually(&format!("{} is unsealed", self.nodes[node].name()), || {
            let desk = self.desk(node);
            let passphrase = PASSPHRASE.as_bytes().to_vec().into();
            let request = v1::UnsealRequest { passphrase, ..Default::default() };
            let opened = self.block_on(desk.client().unseal(desk.ask(request))).ok()?;
            (!opened.into_inner().sealed).then_some(())
        });
    }

    fn list(&self, node: &Node) {
        self.directory.lock().unwrap().push((node.name().to_owned(), node.api));
    }

    fn new_node(&self) -> Node {
        let number = self.named.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("n{number}");
        let host = self.hosts.as_ref().map(|hosts| hosts.add(&name));
        let mut node = Node::new(&name, self.root(), &self.network, host.as_ref());
        for (variable, value) in &self.plan.node_environment {
            node.process.variable(variable, value);
        }
        node
    }

    /// Invites a node, starts it, waits until it votes, and signs the trust bundle that counts it.
    pub fn add_node(&mut self) -> usize {
        let node = self.new_node();
        let helper = self.nodes.iter().position(|node| node.process.is_running()).unwrap();
        node.configure(self.plan.timing, self.seal(), Some(self.nodes[helper].api));
        if self.plan.seal == Seal::KeyFile {
            std::fs::copy(self.nodes[helper].seal_key(), node.seal_key()).unwrap();
        }
        let at = |name: &str| node.process.dir().join(name).to_str().unwrap().to_owned();
        let (token, ca) = (at("join-token"), at("join-ca.pem"));
        let root_key = self.root_key();
        let name = node.name().to_owned();
        let adding = self
            .cli(&[
                "cluster",
                "add",
                &name,
                "--root-key",
                root_key.to_str().unwrap(),
                "--yes",
                "--token-file",
                &token,
                "--ca-file",
                &ca,
                "--timeout",
                "60s",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.eventually("the invitation", || {
            let token = std::fs::read_to_string(&token).ok()?;
            (token.ends_with('\n') && Path::new(&ca).exists()).then_some(())
        });
        self.list(&node);
        self.nodes.push(node);
        let place = self.nodes.len() - 1;
        self.nodes[place].start(&self.network);
        if self.plan.seal == Seal::Passphrase {
            self.unseal(place);
        }
        let added = adding.wait_with_output().unwrap();
        assert!(
            added.status.success(),
            "{name} was not added: {}{}\n{}",
            String::from_utf8_lossy(&added.stdout),
            String::from_utf8_lossy(&added.stderr),
            self.nodes[place].process.last_words()
        );
        self.serving(place);
        place
    }

    /// Policy, keys, people.
    fn furnish(&mut self) {
        let desk = self.desk(0);
        self.people = self.runtime.block_on(async {
            let mut people = Vec::new();
            for name in APPROVERS {
                let request = v1::AddApproverRequest { name: name.into(), ..Default::default() };
                let made = desk.client().add_approver(desk.ask(request)).await.unwrap();
                people.push(Person { name: name.into(), token: made.into_inner().token });
            }
            people
        });
        self.set_policy(&self.plan.policy);
        for (name, value) in [("reader", READ_KEY), ("writer", WRITE_KEY)] {
            self.credential(name, value);
        }
    }

    /// Stores a key for [`HOST`], and gives the fake one.
    pub fn credential(&self, name: &str, value: &str) -> String {
        let desk = self.desk(0);
        let request = v1::CreateCredentialRequest {
            name: name.into(),
            host: HOST.into(),
            slot: "header".into(),
            value: value.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let made = self.runtime.block_on(desk.client().create_credential(desk.ask(request)));
        let made = made.unwrap().into_inner();
        std::fs::write(self.root().join(format!("{name}.fake")), &made.fake_key).unwrap();
        made.fake_key
    }

    /// Puts a policy in force, and gives its version.
    pub fn set_policy(&self, text: &str) -> u64 {
        let desk = self.desk(self.any_serving());
        let request = v1::SetPolicyRequest { text: text.into(), ..Default::default() };
        let set = self.runtime.block_on(desk.client().set_policy(desk.ask(request)));
        set.unwrap().into_inner().version
    }

    /// Enrolls an edge, starts it, and waits until it is attached.
    pub fn add_edge(&mut self) -> usize {
        let name = format!("e{}", self.edges.len() + 1);
        let edge = Edge::enroll(self, &name);
        self.edges.push(edge);
        let place = self.edges.len() - 1;
        self.start_edge(place);
        place
    }

    pub fn start_edge(&mut self, place: usize) {
        let ca = self.edges[place].process.dir().join("edge-ca.pem");
        let _ = std::fs::remove_file(&ca);
        let process = self.edges[place].process.start();
        // It is told of other doors than its own, too.
        self.network.name(process, self.edges[place].name());
        let metrics = self.edges[place].metrics;
        self.eventually("an attached edge", || {
            let ready = http_get(metrics, "/healthz").is_some_and(|(status, _)| status == 200);
            (ready && ca.exists() && self.attached(place)).then_some(())
        });
    }

    /// Whether the edge has a session with a node, by what it says of itself.
    pub fn attached(&self, place: usize) -> bool {
        http_get(self.edges[place].metrics, "/metrics").is_some_and(|(_, text)| {
            text.lines().any(|line| line.contains("attached") && line.ends_with(" 1"))
        })
    }

    /// An agent with both fake keys.
    pub fn robot(&self, name: &str) -> Robot {
        let desk = self.desk(self.any_serving());
        let request = v1::CreateAgentRequest { name: name.into(), ..Default::default() };
        let made = self.runtime.block_on(desk.client().create_agent(desk.ask(request)));
        let token = made.unwrap().into_inner().token;
        let fake =
            |name: &str| std::fs::read_to_string(self.root().join(format!("{name}.fake"))).unwrap();
        let robot = Robot::new(name, token, (fake("reader"), fake("writer")));
        self.robots.lock().unwrap().push(robot.clone());
        // An edge at another node hears of it a moment later.
        for edge in self.edges.iter().filter(|edge| edge.process.is_running()) {
            self.eventually(&format!("{} knows {name}", edge.name()), || {
                let known = async { robot.is_known(&edge.way()?).await.then_some(()) };
                self.block_on(known)
            });
        }
        robot
    }

    /// Of a world that was planned with them.
    pub fn hosts(&self) -> &Hosts {
        self.hosts.as_ref().expect("a world with hosts")
    }

    /// Whatever lies between the parties is whole again.
    pub fn heal(&self) {
        self.network.heal();
        if let Some(hosts) = &self.hosts {
            hosts.heal();
        }
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn timing(&self) -> Timing {
        self.plan.timing
    }

    /// The private half of the trust root, as the first node left it.
    pub fn root_key(&self) -> std::path::PathBuf {
        let kept = self.root().join("trust-root.key");
        let made = self.nodes[0].data_dir().join("trust-root.key");
        if !kept.exists() {
            std::fs::copy(made, &kept).unwrap();
        }
        kept
    }

    pub fn api_ca(&self) -> &str {
        &self.api_ca
    }

    /// The administrator at this node.
    pub fn desk(&self, node: usize) -> Desk {
        let node = &self.nodes[node];
        // Channels are bound to the runtime that they are used on.
        let _in = self.runtime.enter();
        Desk::new(node.name(), node.api, &self.api_ca, &self.admin)
    }

    /// Somebody at every node, the first of them first.
    pub fn desks(&self, person: &Person) -> Vec<Desk> {
        (0..self.nodes.len()).map(|node| self.desk(node).as_person(person)).collect()
    }

    /// The CLI as the administrator, with every node's address.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let ca = self.root().join("api-ca.pem");
        if !ca.exists() {
            std::fs::write(&ca, &self.api_ca).unwrap();
        }
        let addresses: Vec<String> =
            self.nodes.iter().map(|node| format!("https://{}", node.api)).collect();
        let mut command = Command::new(program_path("countersign"));
        command
            .current_dir(self.root())
            .args(arguments)
            .env("COUNTERSIGN_ADDR", addresses.join(","))
            .env("COUNTERSIGN_TOKEN", &self.admin.token)
            .env("COUNTERSIGN_CA", &ca)
            .env("TOKIO_WORKER_THREADS", "1")
            .stdin(Stdio::null());
        command
    }

    pub fn cli_output(&self, arguments: &[&str]) -> Output {
        self.cli(arguments).output().unwrap()
    }

    pub fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli_output(arguments);
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        out.into_owned()
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Waits until this node answers, is unsealed, and knows a leader.
    pub fn serving(&self, node: usize) {
        self.eventually(&format!("{} serves", self.nodes[node].name()), || {
            let status = self.block_on(self.desk(node).status()).ok()?;
            (!status.sealed && (status.leader || !status.leader_node_id.is_empty())).then_some(())
        });
    }

    /// The node that the most nodes take for the leader, and that takes itself for it.
    pub fn leader(&self) -> usize {
        self.eventually("a leader", || self.leader_now())
    }

    /// As far as a node says so of itself at this moment, and none of a newer term does.
    pub fn leader_now(&self) -> Option<usize> {
        let mut leaders: Vec<(u64, usize)> = Vec::new();
        for node in (0..self.nodes.len()).filter(|n| self.nodes[*n].process.is_running()) {
            let asked = async {
                tokio::time::timeout(Duration::from_millis(800), self.desk(node).cluster()).await
            };
            let Ok(Ok(cluster)) = self.block_on(asked) else { continue };
            if cluster.nodes.iter().any(|n| n.leader && n.node_id == cluster.node_id) {
                leaders.push((cluster.term, node));
            }
        }
        leaders.into_iter().max().map(|(_, node)| node)
    }

    /// Terms grow with elections: how many there were so far, as the newest node knows.
    pub fn term(&self) -> u64 {
        let terms = (0..self.nodes.len())
            .filter_map(|node| Some(self.block_on(self.desk(node).cluster()).ok()?.term));
        terms.max().unwrap_or_default()
    }

    fn any_serving(&self) -> usize {
        self.nodes.iter().position(|node| node.process.is_running()).expect("a node runs")
    }

    /// Starts a node that was killed.
    pub fn start_node(&mut self, node: usize) {
        let network = Arc::clone(&self.network);
        self.nodes[node].start(&network);
        if self.plan.seal == Seal::Passphrase {
            self.unseal(node);
        }
    }

    /// Starts every node that is not running, and waits until all of them serve.
    pub fn start_all(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.nodes[node].process.is_running() {
                self.start_node(node);
            }
        }
        for node in 0..self.nodes.len() {
            self.serving(node);
        }
    }

    /// The places of all nodes but this one.
    pub fn others(&self, node: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|other| *other != node).collect()
    }

    /// Polls until `fact` gives something; fails after [`SOON`], with everybody's last words.
    pub fn eventually<T>(&self, what: &str, fact: impl FnMut() -> Option<T>) -> T {
        self.within(SOON, what, fact)
    }

    pub fn within<T>(&self, bound: Duration, what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(value) = fact() {
                return value;
            }
            assert!(start.elapsed() < bound, "within {bound:?} never came about: {what}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Watches for `time` that something does not come about.
    pub fn never<T: std::fmt::Debug>(
        &self,
        time: Duration,
        what: &str,
        mut fact: impl FnMut() -> Option<T>,
    ) {
        let start = Instant::now();
        while start.elapsed() < time {
            if let Some(value) = fact() {
                panic!("this must not be: {what}: {value:?}");
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for ClusterWorld {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in
                self.nodes.iter().map(|n| &n.process).chain(self.edges.iter().map(|e| &e.process))
            {
                eprintln!("{}", process.last_words());
            }
            // For whoever looks into it afterwards.
            if std::env::var_os("COUNTERSIGN_TEST_KEEP").is_some() {
                let empty = tempfile::tempdir().unwrap();
                let kept = std::mem::replace(&mut self.dir, empty).keep();
                eprintln!("--- kept in {}", kept.display());
            }
        }
    }
}

/// Status and body of a plain GET, or None when nobody answers.
pub fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
}
