//! ROT-LIVE: every key that can be replaced changes while agents and people go on.

use std::path::Path;
use std::time::{Duration, Instant};

use countersign_proto::v1;
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
        for (name, first, reads) in [("reader", READ_KEY, true), ("writer", WRITE_KEY, false)] {
            // The former one is a part of it: whatever looks for that finds this too.
            let value = format!("{first}-{}", round + 2);
            rotate_credential(&world, &load, name, &value, reads);
            faults.injected();
        }
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
