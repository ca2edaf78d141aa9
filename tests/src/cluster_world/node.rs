//! A node: its directory, its addresses, its process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::process::{Process, free_address_of};
use crate::hosts::Host;
use crate::toxic::Network;

/// How soon nodes of these worlds notice that one is gone: later than by default, because many processes share few
/// cores, and starving must not look like a partition.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub heartbeat_ms: u32,
    pub election_ms: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat_ms: 200, election_ms: 1200 }
    }
}

pub struct Node {
    pub process: Process,
    pub api: SocketAddr,
    pub web: SocketAddr,
    /// Where others find it: a door of the network, or itself where it has a host of its own.
    pub gateway: SocketAddr,
    cluster: SocketAddr,
    listens: Listens,
}

#[derive(Clone, Copy)]
struct Listens {
    gateway: SocketAddr,
    cluster: SocketAddr,
}

impl Node {
    /// A directory of its own below `root`, and doors in front of its listeners for nodes and for edges. On a host of
    /// its own it has no doors.
    pub fn new(name: &str, root: &Path, network: &Network, host: Option<&Host>) -> Self {
        let dir = root.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let listens = Listens { gateway: free_address_of(host), cluster: free_address_of(host) };
        let found = |listens| host.map_or_else(|| network.door(name, listens), |_| listens);
        let mut process = Process::new(name, "countersign-control-plane", &dir);
        process.argument("--config");
        process.argument("node.toml");
        if let Some(host) = host {
            process.place(host);
        }
        Self {
            process,
            api: free_address_of(host),
            web: free_address_of(host),
            gateway: found(listens.gateway),
            cluster: found(listens.cluster),
            listens,
        }
    }

    pub fn name(&self) -> &str {
        self.process.name()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.process.dir().join("data")
    }

    pub fn seal_key(&self) -> PathBuf {
        self.process.dir().join("seal.key")
    }

    /// Where edges reach it without the network in between.
    pub fn gateway_itself(&self) -> SocketAddr {
        self.listens.gateway
    }

    /// Where nodes reach it without the network in between.
    pub fn cluster_itself(&self) -> SocketAddr {
        self.listens.cluster
    }

    /// Writes its configuration. `join` is the API of a node of the cluster; the token and the authority lie beside.
    pub fn configure(&self, timing: Timing, seal: &str, join: Option<SocketAddr>) {
        let name = self.name();
        let join = join.map_or_else(String::new, |api| {
            format!(
                "join = \"https://{api}\"\njoin_token_file = \"join-token\"\njoin_ca_file = \"join-ca.pem\"\n"
            )
        });
        let text = format!(
            "data_dir = \"data\"\n\
             [api]\nlisten = \"{api}\"\n\
             [gateway]\nlisten = \"{gateway}\"\nadvertise = \"{gateway_door}\"\n\
             [web]\nlisten = \"{web}\"\n\
             [approvals]\nmax_pending_per_agent = 100000\n\
             [seal]\n{seal}\n\
             [cluster]\nname = \"{name}\"\nlisten = \"{cluster}\"\nadvertise = \"{cluster_door}\"\n\
             heartbeat_ms = {heartbeat}\nelection_ms = {election}\n{join}",
            api = self.api,
            gateway = self.listens.gateway,
            gateway_door = self.gateway,
            web = self.web,
            cluster = self.listens.cluster,
            cluster_door = self.cluster,
            heartbeat = timing.heartbeat_ms,
            election = timing.election_ms,
        );
        std::fs::write(self.process.dir().join("node.toml"), text).unwrap();
    }

    /// Starts it; its connections are known by its name from then on.
    pub fn start(&mut self, network: &Network) {
        self.start_with(network, &[]);
    }

    pub fn start_with(&mut self, network: &Network, arguments: &[&str]) {
        let process = self.process.start_with(arguments);
        network.name(process, self.process.name());
    }

    /// Copies its whole data directory, as a backup of the disk would.
    pub fn copy_data(&self, to: &Path) {
        copy(&self.data_dir(), to);
    }

    /// Puts such a copy in the place of its data directory.
    pub fn restore_data(&self, from: &Path) {
        assert!(!self.process.is_running(), "{} runs", self.name());
        std::fs::remove_dir_all(self.data_dir()).unwrap();
        copy(from, &self.data_dir());
    }

    /// Takes its disk away.
    pub fn wipe(&self) {
        assert!(!self.process.is_running(), "{} runs", self.name());
        std::fs::remove_dir_all(self.data_dir()).unwrap();
    }

    /// Every file below its data directory.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.data_dir()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(bytes) = std::fs::read(&path) {
                    found.push((path, bytes));
                }
            }
        }
        found
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
