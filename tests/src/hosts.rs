//! Hosts of their own on one machine: network namespaces that a switch joins, and whose kernel drops packets as a test
//! likes.
//!
//! A [`Network`](crate::toxic::Network) keeps TCP's promise and spoils streams; here packets are lost, and nobody is
//! told: no reset, no end of a stream, only silence. A host may be deaf to another that hears it, and there is no way
//! around a cut, because a namespace has no link but the one to the switch. What the kernel of these machines cannot do
//! (latency: it has no `netem`) stays with the proxy.
//!
//! This needs root (the capabilities to make namespaces and to administer networks), `ip` of iproute2 and `nft` of
//! nftables. Nothing of it leaves the machine. Outside of the namespaces there is one end of a cable, `countersignN`,
//! with an address in 198.18.0.0/15, which RFC 2544 sets aside for tests: by it the test reaches the hosts and they it.
//! No fault is ever put there.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};

#[cfg(test)]
mod tests;

const SKIP: &str = "COUNTERSIGN_SKIP_HOSTS";
const NEEDED: &str = "this test makes network namespaces: it needs root with CAP_SYS_ADMIN and CAP_NET_ADMIN, ip \
     (iproute2) and nft (nftables). Set COUNTERSIGN_SKIP_HOSTS=1 to go without it";

/// What every name that is made here begins with.
const OURS: &str = "countersign";
/// Where the system keeps the names of namespaces.
const NAMES: &str = "/run/netns";
const SWITCH: &str = "switch";
/// So many networks of 254 hosts are there to choose from.
const NETS: u16 = 512;
/// What a host's kernel asks about each packet that arrives.
const TABLE: &str =
    "table inet faults {\n chain hears {\n  type filter hook input priority 0;\n }\n}\n";

/// True, loudly, when somebody said explicitly to go without.
pub fn left_out() -> bool {
    let left_out = std::env::var(SKIP).is_ok_and(|set| set == "1");
    if left_out {
        eprintln!("skipped: {SKIP}=1. Nothing was shown about networks that lose packets.");
    }
    left_out
}

/// All hosts of a test and the switch between them; gone with everything in them when this is dropped.
pub struct Hosts {
    /// Which of the networks is this test's own.
    net: u16,
    hosts: Mutex<BTreeMap<String, Host>>,
    /// Packets, up to when the last fault was healed.
    dropped: AtomicU64,
}

#[derive(Clone)]
pub struct Host {
    /// As `ip netns` knows it.
    pub namespace: String,
    pub address: Ipv4Addr,
}

impl Default for Hosts {
    fn default() -> Self {
        Self::new()
    }
}

impl Hosts {
    /// A switch, and the test's own cable into it. What tests that died have left is removed first.
    pub fn new() -> Self {
        remove_leftovers();
        // Never the same twice in a process, for names are made of both.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() % u32::from(NETS)) as u16;
        let hosts = (0..NETS).find_map(|_| {
            Self::claim((start + NEXT.fetch_add(1, Ordering::Relaxed) % NETS) % NETS)
        });
        let hosts = hosts.expect("a network that no other test uses");
        let (switch, outside) = (hosts.namespace(SWITCH), cable(hosts.net));
        ip(&["-n", &switch, "link", "add", "bridge", "up", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "outside", "master", "bridge", "up"]);
        ip(&["address", "add", &format!("{}/24", hosts.outside()), "dev", &outside]);
        ip(&["link", "set", &outside, "up"]);
        hosts
    }

    /// None when another test has this network. The kernel gives each cable's name once, so no two tests share one.
    fn claim(net: u16) -> Option<Self> {
        let hosts = Self { net, hosts: Mutex::default(), dropped: AtomicU64::default() };
        let (switch, outside) = (hosts.namespace(SWITCH), cable(net));
        ip(&["netns", "add", &switch]);
        let plugged = ["type", "veth", "peer", "name", "outside", "netns", &switch];
        let claimed = run(Command::new("ip").args(["link", "add", &outside]).args(plugged), "");
        if let Err(why) = &claimed {
            assert!(why.contains("File exists"), "{why}\n{NEEDED}");
        }
        claimed.ok().map(|_| hosts)
    }

    /// Plugs in another host.
    pub fn add(&self, name: &str) -> Host {
        let mut hosts = self.hosts.lock().unwrap();
        let number = u8::try_from(hosts.len() + 2).unwrap();
        let host = Host { namespace: self.namespace(name), address: self.address(number) };
        let (inside, switch) = (&*host.namespace, &*self.namespace(SWITCH));
        ip(&["netns", "add", inside]);
        let cable = ["type", "veth", "peer", "name", name, "netns", switch];
        ip(&[&["-n", inside, "link", "add", "eth0"][..], &cable].concat());
        ip(&["-n", inside, "address", "add", &format!("{}/24", host.address), "dev", "eth0"]);
        ip(&["-n", inside, "link", "set", "lo", "up"]);
        ip(&["-n", inside, "link", "set", "eth0", "up"]);
        ip(&["-n", switch, "link", "set", name, "master", "bridge", "up"]);
        host.nft(&["-f", "-"], TABLE);
        hosts.insert(name.to_owned(), host.clone());
        host
    }

    /// The test itself, as hosts find it.
    pub fn outside(&self) -> Ipv4Addr {
        self.address(1)
    }

    fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(
            Ipv4Addr::new(198, 18, 0, number).to_bits() + (u32::from(self.net) << 8),
        )
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix())
    }

    fn prefix(&self) -> String {
        format!("{OURS}-{}-{}-", std::process::id(), self.net)
    }

    pub fn host(&self, name: &str) -> Host {
        let hosts = self.hosts.lock().unwrap();
        hosts.get(name).unwrap_or_else(|| panic!("there is no host {name}")).clone()
    }

    /// What `from` sends does not arrive at `to` any more, and neither is told.
    pub fn cut(&self, from: &str, to: &str) {
        self.drop_at(to, from, &[]);
    }

    /// Neither hears the other.
    pub fn part(&self, one: &str, other: &str) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Of 100 packets from `from` to `to` so many are lost, by the kernel's dice.
    pub fn lose(&self, percent: u8, from: &str, to: &str) {
        let percent = percent.to_string();
        self.drop_at(to, from, &["numgen", "random", "mod", "100", "<", &percent]);
    }

    fn drop_at(&self, to: &str, from: &str, when: &[&str]) {
        let from = self.host(from).address.to_string();
        let rule = ["add", "rule", "inet", "faults", "hears", "ip", "saddr", &from];
        self.host(to).nft(&[&rule[..], when, &["counter", "drop"]].concat(), "");
    }

    /// Everything arrives again. Streams go on when TCP next tries, unless whoever has them gave up before.
    pub fn heal(&self) {
        self.dropped.fetch_add(self.dropped_since(), Ordering::Relaxed);
        for host in self.hosts.lock().unwrap().values() {
            host.nft(&["flush", "chain", "inet", "faults", "hears"], "");
        }
    }

    /// Packets that were lost since there are hosts.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed) + self.dropped_since()
    }

    fn dropped_since(&self) -> u64 {
        let count = |rules: String| -> u64 {
            let counters = rules.split("counter packets ").skip(1);
            counters.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
        };
        let hosts = self.hosts.lock().unwrap();
        hosts
            .values()
            .map(|h| count(h.nft(&["list", "chain", "inet", "faults", "hears"], "")))
            .sum()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let prefix = self.prefix();
        for namespace in namespaces().filter(|name| name.starts_with(&prefix)) {
            remove(&namespace);
        }
    }
}

impl Host {
    /// A program as it runs on this host. It is started in place: the process is the program's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    fn nft(&self, arguments: &[&str], input: &str) -> String {
        let said = run(self.command("nft").args(arguments), input);
        said.unwrap_or_else(|why| panic!("{why}\n{NEEDED}"))
    }
}

/// The test's end of its cable; a name of an interface has 15 characters at most.
fn cable(net: u16) -> String {
    format!("{OURS}{net}")
}

fn namespaces() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Namespaces whose test is no more, with what still runs in them. Cables go with their ends.
fn remove_leftovers() {
    let dead = |name: &String| {
        let test = name.strip_prefix(OURS).and_then(|rest| rest.strip_prefix('-'));
        let process = test.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists())
    };
    for namespace in namespaces().filter(dead) {
        remove(&namespace);
    }
}

/// As far as that can be done: another test may be removing the same leftover.
fn remove(namespace: &str) {
    let inside = run(Command::new("ip").args(["netns", "pids", namespace]), "");
    for process in inside.unwrap_or_default().lines() {
        if let Some(process) = process.parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(process, Signal::KILL);
        }
    }
    let _ = run(Command::new("ip").args(["netns", "delete", namespace]), "");
}

fn ip(arguments: &[&str]) {
    let done = run(Command::new("ip").args(arguments), "");
    done.unwrap_or_else(|why| panic!("{why}\n{NEEDED}"));
}

/// What it says when it succeeds, or why it did not.
fn run(command: &mut Command, input: &str) -> Result<String, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = command.spawn().and_then(|mut child| {
        // One that ends without reading says why itself.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    });
    let output = ended.map_err(|e| format!("{command:?}: {e}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(said(&output.stdout)),
        false => Err(format!("{command:?}: {}", said(&output.stderr))),
    }
}
