//! An edge: enrolled once, started as often as a test likes.

use std::net::SocketAddr;

use super::ClusterWorld;
use super::process::{Process, free_address_of};
use super::robot::Way;

pub struct Edge {
    pub process: Process,
    pub listen: SocketAddr,
    pub metrics: SocketAddr,
}

impl Edge {
    /// Enrolls it by the CLI and says where the nodes are: behind doors that are this edge's own, save on a host of its
    /// own.
    pub fn enroll(world: &ClusterWorld, name: &str) -> Self {
        let dir = world.root().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        world.cli_ok(&["edge", "enroll", name, "--out", dir.to_str().unwrap()]);
        std::fs::write(dir.join("upstream.pem"), world.origin.ca_pem()).unwrap();
        let mut process = Process::new(name, "countersign-edge-gateway", &dir);
        process.argument("edge.toml");
        let host = world.hosts.as_ref().map(|hosts| hosts.add(name));
        if let Some(host) = &host {
            process.place(host);
        }
        let (listen, metrics) = (free_address_of(host.as_ref()), free_address_of(host.as_ref()));
        let doors: Vec<String> = world
            .nodes
            .iter()
            .map(|node| match host {
                Some(_) => node.gateway_itself(),
                None => world.network.door_of(name, node.name(), node.gateway_itself()),
            })
            .map(|address| address.to_string())
            .collect();
        let upstream = format!("{}:443:{}", super::HOST, world.origin.address());
        for (variable, value) in [
            ("LISTEN", listen.to_string()),
            ("METRICS_LISTEN", metrics.to_string()),
            ("CA_FILE", "edge-ca.pem".into()),
            ("CONTROL_PLANE_ADDRESSES", doors.join(",")),
            ("UPSTREAM_CA_FILES", "upstream.pem".into()),
            ("UPSTREAM_CONNECT_TO", upstream),
            // One robot stands for many agents here.
            ("LIMITS_MAX_IN_FLIGHT_PER_AGENT", "256".into()),
            ("LIMITS_MAX_HELD_PER_AGENT", "256".into()),
        ] {
            process.variable(&format!("COUNTERSIGN_EDGE_{variable}"), &value);
        }
        Self { process, listen, metrics }
    }

    pub fn name(&self) -> &str {
        self.process.name()
    }

    /// How agents go through it. Its authority is new at each start.
    pub fn way(&self) -> Option<Way> {
        let ca_pem = std::fs::read_to_string(self.process.dir().join("edge-ca.pem")).ok()?;
        Some(Way { proxy: self.listen, ca_pem })
    }
}
