//! ROT-LIVE: every key that can be replaced changes while agents and people go on.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use countersign_proto::v1;
use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use countersign_proto::v1::gateway_service_client::GatewayServiceClient;
use countersign_tests::cluster_world::{
    ClusterWorld, Faults, Load, Mix, READ_KEY, WRITE_KEY, conclude, http_get, is_long,
};
use countersign_tests::origin::Seen;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::{SEED, my_turn};

/// From when on a former value of a credential must not leave any more: an edge is waited for for two seconds, and what
/// was released by then is on its way.
const WINDOW: Duration = Duration::from_secs(3);

#[test]
fn rot_live_every_key_changes_under_load() {
    let _turn = my_turn();
    let world = ClusterWorld::start();
    let mut load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    approval_completes(&world, &load);
    for round in 0..if is_long() { 4 } else { 1 } {
        for node in 0..world.nodes.len() {
            rotate_signing_key(&world, &load, node);
            faults.injected();
        }
        rotate_keyring(&world, &load);
        rotate_edge_ca(&world, &load);
        rotate_node_ca(&world, &load);
        // Who pins the first one, as people do here, knows the second one too, and not a third.
        if round == 0 {
            rotate_api_ca(&world, &load);
            faults.injected();
        }
        for (name, first, reads) in [("reader", READ_KEY, true), ("writer", WRITE_KEY, false)] {
            // The former one is a part of it: whatever looks for that finds this too.
            let value = format!("{first}-{}", round + 2);
            rotate_credential(&world, &load, name, &value, reads);
            faults.injected();
        }
        faults.injected();
        faults.injected();
        faults.injected();
    }
    let healed = Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    let unfinished = load.finish(&world, Duration::from_secs(40));
    assert!(unfinished.is_empty(), "{unfinished:#?}");
    for (name, went) in load.went() {
        assert_eq!(went.breaks, 0, "{name} lost its connection: {went:?}");
    }
    for edge in &world.edges {
        let (_, metrics) = http_get(edge.metrics, "/metrics").expect("its metrics");
        let ignored = metrics.lines().find(|line| {
            line.starts_with("countersign_edge_decisions_ignored_total")
                && line.contains("\"signatures\"")
        });
        assert!(ignored.is_none_or(|line| line.ends_with(" 0")), "{}: {ignored:?}", edge.name());
    }
    let gathered = world.gather(&[&load], services, healed);
    conclude("ROT-LIVE", SEED, faults, &gathered);
}

/// The new key counts, then the former one is left out: that it counts no more then,
/// `edge-gateway/tests/path/trust.rs` shows.
fn rotate_signing_key(world: &ClusterWorld, load: &Load, node: usize) {
    let name = world.nodes[node].name();
    let root_key = world.root_key();
    let root_key = root_key.to_str().unwrap();
    let before = standing(world);
    world.cli_ok(&["cluster", "rotate-key", name, "--root-key", root_key, "--yes"]);
    approval_completes(world, load);
    world.cli_ok(&["cluster", "trust", "--root-key", root_key, "--yes"]);
    let after = standing(world);
    assert_eq!(after.trust_epoch, before.trust_epoch + 2);
    let newest = |cluster: &v1::GetClusterResponse| {
        let node = cluster.nodes.iter().find(|it| it.name == name).unwrap();
        node.public_keys.last().unwrap().clone()
    };
    assert_ne!(newest(&after), newest(&before), "{name} has a new key");
    for edge in &world.edges {
        let epoch = format!("countersign_edge_trust_epoch {}", after.trust_epoch);
        world.eventually(&format!("{} trusts the new key alone", edge.name()), || {
            let (_, metrics) = http_get(edge.metrics, "/metrics")?;
            metrics.lines().any(|line| line == epoch).then_some(())
        });
    }
    approval_completes(world, load);
}

fn rotate_keyring(world: &ClusterWorld, load: &Load) {
    let term = |node: usize| {
        let desk = world.desk(node);
        let status = world.block_on(async {
            desk.client().get_seal_status(desk.ask(v1::GetSealStatusRequest {})).await
        });
        status.unwrap().into_inner().keyring_term
    };
    let before = term(0);
    world.cli_ok(&["seal", "rotate"]);
    for node in 0..world.nodes.len() {
        world.eventually("every node has the new term", || (term(node) > before).then_some(()));
    }
    approval_completes(world, load);
}

fn rotate_edge_ca(world: &ClusterWorld, load: &Load) {
    let dirs: Vec<_> = world.edges.iter().map(|edge| edge.process.dir().to_owned()).collect();
    let certificate = |dir: &Path| std::fs::read_to_string(dir.join("edge-cert.pem")).unwrap();
    let former: Vec<String> = dirs.iter().map(|dir| certificate(dir)).collect();
    world.cli_ok(&["edge", "rotate-ca"]);
    approval_completes(world, load);
    world.eventually("every edge has renewed", || {
        let renewed = dirs.iter().zip(&former).all(|(dir, former)| certificate(dir) != *former);
        (renewed && standing(world).edge_ca?.edges_to_renew.is_empty()).then_some(())
    });
    for node in 0..world.nodes.len() {
        assert!(is_let_in(world, node, &dirs[0], &former[0]), "the former counts until the end");
    }

    world.cli_ok(&["edge", "rotate-ca", "--finish"]);
    for node in 0..world.nodes.len() {
        world.eventually("the former CA lets nobody in", || {
            (!is_let_in(world, node, &dirs[0], &former[0])).then_some(())
        });
        world.eventually("the new one does", || {
            is_let_in(world, node, &dirs[0], &certificate(&dirs[0])).then_some(())
        });
    }
    for edge in 0..world.edges.len() {
        world.eventually("the edge is back", || world.attached(edge).then_some(()));
    }
    approval_completes(world, load);
}

fn rotate_node_ca(world: &ClusterWorld, load: &Load) {
    let papers = |node: usize| Papers::of(&world.nodes[node].data_dir().join("tls"));
    let former = papers(0);
    assert!(former.are_a_nodes(world, 1));
    world.cli_ok(&["cluster", "rotate-ca", "nodes"]);
    approval_completes(world, load);
    until_gone_over(world, |cluster| cluster.node_ca.as_ref());
    for node in 1..world.nodes.len() {
        // Whom it trusts itself must not be what stops it.
        let stolen = Papers { trusted: papers(0).trusted, ..former.clone() };
        world.eventually("the former CA lets no node in", || {
            (!stolen.are_a_nodes(world, node)).then_some(())
        });
        assert!(papers(0).are_a_nodes(world, node), "the new one does");
    }
    approval_completes(world, load);
}

fn rotate_api_ca(world: &ClusterWorld, load: &Load) {
    world.cli_ok(&["cluster", "rotate-ca", "api"]);
    approval_completes(world, load);
    until_gone_over(world, |cluster| cluster.api_ca.as_ref());
    let pinned = standing(world).api_ca.unwrap().trusted_pem;
    assert!(!pinned.contains(world.api_ca().trim()), "the former one is not to be pinned");
    let new = world.root().join("api-ca-2.pem");
    std::fs::write(&new, &pinned).unwrap();
    for edge in &world.edges {
        let file = edge.process.dir().join("gateway-ca.pem");
        world.eventually("every edge knows the nodes by the new one alone", || {
            (std::fs::read_to_string(&file).unwrap() == pinned).then_some(())
        });
    }
    for (number, node) in world.nodes.iter().enumerate() {
        let dir = node.data_dir();
        world.eventually("what is to be pinned is where it was", || {
            (std::fs::read_to_string(dir.join("api-ca.pem")).unwrap() == pinned).then_some(())
        });
        for ca in [world.root().join("api-ca.pem"), new.clone()] {
            assert!(openssl_knows(node.api, &ca), "{} by {}", node.name(), ca.display());
        }
        assert!(!openssl_knows(node.api, &dir.join("tls/node-ca.pem")));
        let edge = world.edges[0].process.dir();
        let certificate = std::fs::read_to_string(edge.join("edge-cert.pem")).unwrap();
        assert!(is_let_in(world, number, edge, &certificate));
    }
    approval_completes(world, load);
}

/// Until every node says that it shows a certificate of the newest CA, and that the one before has ended.
fn until_gone_over(
    world: &ClusterWorld,
    of: impl Fn(&v1::GetClusterResponse) -> Option<&v1::ShownCa>,
) {
    for node in 0..world.nodes.len() {
        world.eventually("every node has gone over", || {
            let cluster = world.block_on(world.desk(node).cluster()).ok()?;
            let ca = of(&cluster)?;
            (ca.number > 1 && !ca.former_counts && ca.nodes_to_renew.is_empty()).then_some(())
        });
    }
}

/// What a node has on its disk for others.
#[derive(Clone)]
struct Papers {
    chain: String,
    key: String,
    trusted: String,
}

impl Papers {
    fn of(dir: &Path) -> Self {
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        Self { chain: read("node.pem"), key: read("node.key"), trusted: read("node-ca.pem") }
    }

    /// Whether this node takes whoever shows them for another one.
    fn are_a_nodes(&self, world: &ClusterWorld, node: usize) -> bool {
        let status = world.block_on(world.desk(node).status()).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.trusted))
            .identity(Identity::from_pem(&self.chain, &self.key))
            .domain_name(format!("{}.node.countersign", status.node_id));
        let address = format!("https://{}", world.nodes[node].cluster_itself());
        let endpoint = Endpoint::from_shared(address).unwrap().tls_config(tls).unwrap();
        let asking =
            v1::SnapshotOffsetRequest { cluster_id: status.cluster_id, ..Default::default() };
        let asked = world.block_on(async {
            ClusterServiceClient::new(endpoint.connect_lazy()).snapshot_offset(asking).await
        });
        asked.is_ok()
    }
}

/// Whether a client that others wrote takes whoever answers there for one that this CA vouches for.
fn openssl_knows(address: SocketAddr, ca: &Path) -> bool {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-verify_return_error", "-CAfile"]);
    let output = command.arg(ca).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("Verify return code: 0 (ok)")
}

fn rotate_credential(world: &ClusterWorld, load: &Load, name: &str, value: &str, reads: bool) {
    let desk = world.desk(0);
    let request = v1::RotateCredentialRequest {
        name: name.into(),
        value: value.as_bytes().to_vec().into(),
        ..Default::default()
    };
    world.block_on(desk.client().rotate_credential(desk.ask(request))).unwrap();
    let none_from = Instant::now() + WINDOW;
    let late = || {
        let ours = |seen: &Seen| seen.method.is_safe() == reads && seen.arrived >= none_from;
        world.origin.seen().into_iter().filter(ours).collect::<Vec<Seen>>()
    };
    world.eventually("several requests carry the new value", || {
        (late().iter().filter(|seen| seen.carries(value)).count() >= 3).then_some(())
    });
    let former = late().into_iter().find(|seen| !seen.carries(value));
    assert!(former.is_none(), "{name} was rotated {WINDOW:?} before: {former:?}");
    approval_completes(world, load);
}

/// Something that is asked for from now on is approved, released and answered.
fn approval_completes(world: &ClusterWorld, load: &Load) {
    let now = Instant::now();
    world.eventually("an approval completes", || {
        let done = load.went().into_values().any(|went| {
            went.risky && went.first_asked >= now && went.last.is_some_and(|last| last.0 == 200)
        });
        done.then_some(())
    });
}

fn standing(world: &ClusterWorld) -> v1::GetClusterResponse {
    world.eventually("somebody says how the cluster stands", || {
        world.block_on(world.desk(0).cluster()).ok()
    })
}

/// Whether this node talks to an edge with this certificate. What it is asked is nothing that it could do.
fn is_let_in(world: &ClusterWorld, node: usize, dir: &Path, certificate_pem: &str) -> bool {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("gateway-ca.pem")))
        .identity(Identity::from_pem(certificate_pem, read("edge-key.pem")))
        .domain_name("127.0.0.1");
    let address = format!("https://{}", world.nodes[node].gateway_itself());
    let endpoint = Endpoint::from_shared(address).unwrap().tls_config(tls).unwrap();
    let asked = world.block_on(async {
        let mut client = GatewayServiceClient::new(endpoint.connect_lazy());
        client.renew_certificate(v1::RenewCertificateRequest { csr_pem: "none".into() }).await
    });
    asked.is_err_and(|status| status.code() == Code::InvalidArgument)
}
