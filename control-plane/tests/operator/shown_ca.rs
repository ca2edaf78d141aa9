//! The CAs of what nodes show change while they go on: to each other, also for one that was away meanwhile, and to
//! operators and edges, also for those who pin the one before.

use std::fs;
use std::path::Path;
use std::time::Duration;

use countersign_control_plane::node::ControlPlane;
use countersign_proto::v1;
use countersign_proto::v1::attach_response::Message as Out;
use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use prost::Message as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use x509_parser::pem::Pem;

use crate::edge::{Edge, Enrolled};
use crate::start::get_from;
use crate::town::{Town, agent, name};

/// What a node has on its disk for others.
#[derive(Clone)]
struct Papers {
    chain_pem: String,
    key_pem: String,
    trusted_pem: String,
}

impl Papers {
    fn of(town: &Town, place: usize) -> Self {
        Self::in_dir(&town.data_dir(place))
    }

    fn in_dir(dir: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(dir.join("tls").join(name)).unwrap();
        Self {
            chain_pem: read("node.pem"),
            key_pem: read("node.key"),
            trusted_pem: read("node-ca.pem"),
        }
    }

    /// Who signed what is shown first.
    fn issuer(&self) -> String {
        named(&self.chain_pem).swap_remove(0).1
    }

    /// Subjects of the CAs that are trusted.
    fn trusts(&self) -> Vec<String> {
        named(&self.trusted_pem).into_iter().map(|(subject, _)| subject).collect()
    }
}

/// Subject and issuer of each.
fn named(pem: &str) -> Vec<(String, String)> {
    let each = Pem::iter_from_buffer(pem.as_bytes());
    each.map(|pem| {
        let pem = pem.unwrap();
        let certificate = pem.parse_x509().unwrap();
        (certificate.subject().to_string(), certificate.issuer().to_string())
    })
    .collect()
}

const NODES: v1::ShownCaKind = v1::ShownCaKind::Nodes;

fn of_nodes() -> v1::RotateCaRequest {
    v1::RotateCaRequest { ca: NODES.into(), ..Default::default() }
}

fn ca(number: u64) -> String {
    format!("CN=Countersign node CA {number}")
}

fn api_ca(number: u64) -> String {
    format!("CN=Countersign API CA {number}")
}

/// A way to the node in a place for whoever has these papers.
struct Line {
    peer: ClusterServiceClient<Channel>,
    cluster_id: String,
}

impl Line {
    async fn of(town: &Town, papers: &Papers, place: usize) -> Self {
        let status = town.admin(place).await.get_status(v1::GetStatusRequest {}).await;
        let status = status.unwrap().into_inner();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&papers.trusted_pem))
            .identity(Identity::from_pem(&papers.chain_pem, &papers.key_pem))
            .domain_name(format!("{}.node.countersign", status.node_id));
        let address = town.node(place).cluster_addr().unwrap();
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
        let endpoint = endpoint.tls_config(tls).unwrap().timeout(Duration::from_secs(5));
        let peer = ClusterServiceClient::new(endpoint.connect_lazy());
        Self { peer, cluster_id: status.cluster_id }
    }

    /// Over the connection that is there, if it is there still.
    async fn is_answered(&self) -> bool {
        let cluster_id = self.cluster_id.clone();
        let asking = v1::SnapshotOffsetRequest { cluster_id, ..Default::default() };
        self.peer.clone().snapshot_offset(asking).await.is_ok()
    }
}

/// Whether the node in a place takes whoever shows these papers for a node, and is taken for one by them.
async fn meet(town: &Town, papers: &Papers, place: usize) -> bool {
    Line::of(town, papers, place).await.is_answered().await
}

async fn rotate(town: &Town, place: usize) -> v1::ShownCa {
    let rotated = town.admin(place).await.rotate_ca(of_nodes()).await;
    rotated.unwrap().into_inner().ca.unwrap()
}

async fn standing(town: &Town, place: usize) -> v1::ShownCa {
    let cluster = town.until_some("it answers", async |town| town.cluster(place).await.ok()).await;
    cluster.node_ca.unwrap()
}

/// Those that are there, as the node in a place says.
async fn until_all_but(town: &Town, away: usize, place: usize) {
    town.until("those that are there have gone over", async |town| {
        standing(town, place).await.nodes_to_renew == [name(away)]
    })
    .await;
}

async fn until_over(town: &Town, number: u64, places: &[usize]) {
    for place in places {
        town.until("the former CA has ended", async |town| {
            let ca = standing(town, *place).await;
            (ca.number, ca.former_counts, ca.nodes_to_renew.len()) == (number, false, 0)
        })
        .await;
        town.until("the node has followed", async |town| {
            let papers = Papers::of(town, *place);
            papers.issuer() == ca(number) && papers.trusts() == [ca(number)]
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_go_over_to_another_ca_by_themselves_and_then_the_former_lets_nobody_in() {
    let town = Town::of(2).await;
    let former = [Papers::of(&town, 0), Papers::of(&town, 1)];
    assert_eq!((former[0].issuer(), former[1].trusts()), (ca(1), vec![ca(1)]));
    assert!(meet(&town, &former[0], 1).await && meet(&town, &former[1], 0).await);
    let first = standing(&town, 1).await;
    assert_eq!((first.number, first.former_counts, first.nodes_to_renew.len()), (1, false, 0));

    let follower = town.follower().await;
    assert_eq!(rotate(&town, follower).await.number, 2);
    until_over(&town, 2, &[0, 1]).await;
    let new = [Papers::of(&town, 0), Papers::of(&town, 1)];
    for (place, other) in [(0, 1), (1, 0)] {
        // With the new CA on the list: that the node cannot be trusted must not be what stops them.
        let stolen =
            Papers { trusted_pem: new[place].trusted_pem.clone(), ..former[place].clone() };
        town.until("the former lets nobody in", async |town| !meet(town, &stolen, other).await)
            .await;
        assert!(meet(&town, &new[place], other).await);
        assert_eq!(new[place].key_pem, former[place].key_pem, "a node keeps its key");
    }
    for place in [0, 1] {
        let mut admin = town.admin(place).await;
        admin.create_agent(agent(&format!("bot-{place}"))).await.unwrap();
    }
    let records = town.records(0).await;
    let said: Vec<_> = records
        .iter()
        .filter(|record| record.action.starts_with("node_ca.") || record.action == "node.renew")
        .map(|record| record.action.as_str())
        .collect();
    assert_eq!(said, ["node_ca.rotate", "node.renew", "node.renew"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_was_away_knows_the_former_alone_and_goes_over_when_it_is_back() {
    let mut town = Town::of(3).await;
    let away = town.follower().await;
    let config = town.stop(away).await;
    let others: Vec<usize> = (0..3).filter(|place| *place != away).collect();
    rotate(&town, others[0]).await;
    for place in &others {
        until_all_but(&town, away, *place).await;
        let papers = Papers::of(&town, *place);
        assert_eq!((papers.issuer(), papers.trusts()), (ca(2), vec![ca(2), ca(1)]));
        assert_eq!(named(&papers.chain_pem)[1], (ca(2), ca(1)), "the former vouches for the new");
    }
    let again = town.admin(others[1]).await.rotate_ca(of_nodes()).await;
    let again = again.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(again.message().contains(&name(away)), "{again:?}");
    // Who is let in meanwhile has the new one, and finds everybody.
    town.nodes.push(None);
    let newcomer = town.nodes.len() - 1;
    let mut admin = town.admin(others[0]).await;
    let invited = admin.add_node(crate::town::invitation(&name(newcomer))).await.unwrap();
    let joining = town.joining_through(newcomer, others[0], &invited.into_inner());
    town.start(newcomer, joining).await;
    town.until("the newcomer votes", async |town| {
        town.state_of(newcomer).await == v1::NodeState::Voter
    })
    .await;
    assert_eq!(Papers::of(&town, newcomer).issuer(), ca(2));
    assert_eq!(standing(&town, newcomer).await.nodes_to_renew, [name(away)]);

    let papers = Papers::of(&town, away);
    assert_eq!((papers.issuer(), papers.trusts()), (ca(1), vec![ca(1)]), "it was not told");
    for place in &others {
        assert!(meet(&town, &papers, *place).await, "by the certificate between the two");
    }
    town.start(away, config).await;
    until_over(&town, 2, &[0, 1, 2, newcomer]).await;
    town.admin(away).await.create_agent(agent("bot")).await.unwrap();

    // Nodes that start anew have it from their disks.
    let config = town.stop(away).await;
    town.start(away, config).await;
    town.until("it is back", async |town| town.cluster(away).await.is_ok()).await;
    until_over(&town, 2, &[away]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_ends_the_former_leaves_out_a_node_that_has_not_gone_over() {
    let mut town = Town::of(3).await;
    let away = town.follower().await;
    town.stop(away).await;
    let others: Vec<usize> = (0..3).filter(|place| *place != away).collect();
    rotate(&town, others[0]).await;
    for place in &others {
        until_all_but(&town, away, *place).await;
        assert!(meet(&town, &Papers::of(&town, away), *place).await);
    }
    let open = Line::of(&town, &Papers::of(&town, away), others[0]).await;
    assert!(open.is_answered().await);
    let request = v1::FinishCaRotationRequest { ca: NODES.into(), ..Default::default() };
    let finished = town.admin(others[1]).await.finish_ca_rotation(request).await.unwrap();
    let finished = finished.into_inner().ca.unwrap();
    assert!(!finished.former_counts);
    assert_eq!(finished.nodes_to_renew, [name(away)]);
    let left_out = Papers::of(&town, away);
    for place in &others {
        town.until("it is left out", async |town| !meet(town, &left_out, *place).await).await;
        assert_eq!(Papers::of(&town, *place).trusts(), [ca(2)]);
    }
    assert!(!open.is_answered().await, "nor do connections stay that are there");
    town.admin(others[0]).await.create_agent(agent("bot")).await.unwrap();

    let request = v1::RemoveNodeRequest { node: name(away), ..Default::default() };
    town.admin(others[0]).await.remove_node(request).await.unwrap();
    assert!(standing(&town, others[1]).await.nodes_to_renew.is_empty());
    assert_eq!(rotate(&town, others[1]).await.number, 3, "and the next change is not held up");
    until_over(&town, 3, &others).await;
}

/// Whether the node that answers is known by these CAs.
async fn is_known(node: &ControlPlane, pinned: &str) -> bool {
    let ca = Certificate::from_pem(pinned);
    let tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", node.api_addr())).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.is_ok()
}

async fn rotate_api(town: &Town, place: usize) -> Result<v1::ShownCa, Status> {
    let request = v1::RotateCaRequest { ca: v1::ShownCaKind::Api.into(), ..Default::default() };
    let rotated = town.admin(place).await.rotate_ca(request).await?;
    Ok(rotated.into_inner().ca.unwrap())
}

async fn api_of(town: &Town, place: usize) -> v1::ShownCa {
    let cluster = town.until_some("it answers", async |town| town.cluster(place).await.ok()).await;
    cluster.api_ca.unwrap()
}

fn pinned(town: &Town, place: usize) -> String {
    fs::read_to_string(town.data_dir(place).join("api-ca.pem")).unwrap()
}

/// Returns once the node that it was enrolled through talks to edges: one that has just been unsealed says so.
async fn serves_edges(town: &Town, enrolled: &Enrolled) {
    town.until("it serves edges", async |_| {
        let Ok(channel) = enrolled.channel(true).await else { return false };
        enrolled.hello(channel).await.is_ok()
    })
    .await;
}

/// What the next bundle says that edges are to know the nodes by.
async fn named_to(edge: &mut Edge) -> String {
    loop {
        let Some(Out::Bundle(bundle)) = edge.hear().await else { continue };
        let state = v1::EdgeState::decode(bundle.envelope.unwrap().payload).unwrap();
        return state.gateway_ca_pem;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn operators_and_edges_know_nodes_by_another_ca_and_those_who_pin_the_former_one_do_still() {
    let mut town = Town::of(2).await;
    let first = pinned(&town, 0);
    let stranger = Town::of_one().await;
    let enrolled = Enrolled::at(&mut town.admin(1).await, "edge").await;
    serves_edges(&town, &enrolled).await;
    let mut edge = enrolled.attach("nobody").await;
    assert_eq!(named_to(&mut edge).await, "", "those that it was enrolled with");

    let config = town.stop(0).await;
    let started =
        town.until_some("one of two leads nothing", async |town| rotate_api(town, 1).await.err());
    assert_eq!(started.await.code(), Code::Unavailable);
    town.start(0, config).await;
    town.until("it is changed", async |town| rotate_api(town, 1).await.is_ok()).await;
    for place in [0, 1] {
        town.until("the former CA has ended", async |town| {
            let ca = api_of(town, place).await;
            (ca.number, ca.former_counts, ca.nodes_to_renew.len()) == (2, false, 0)
        })
        .await;
        let new = api_of(&town, place).await.trusted_pem;
        town.until("it is to be pinned", async |town| pinned(town, place) == new).await;
        assert_eq!(named(&new), [(api_ca(2), api_ca(2))]);
        for pem in [&first, &new] {
            assert!(is_known(town.node(place), pem).await);
        }
        assert!(!is_known(town.node(place), &pinned(&stranger, 0)).await);
        assert_eq!(Papers::of(&town, place).issuer(), ca(1), "to each other they show the same");
    }
    let new = pinned(&town, 0);
    let renewed = Enrolled::at(&mut town.admin(0).await, "edge-2").await;
    serves_edges(&town, &renewed).await;
    let mut edge = renewed.attach("nobody").await;
    assert_eq!(named_to(&mut edge).await, new);
    serves_edges(&town, &enrolled).await;
    let mut edge = enrolled.attach("nobody").await;
    assert_eq!(named_to(&mut edge).await, new, "by the certificate between the two");

    // Whoever joins has it, and a node shows it while it is sealed too.
    town.add().await;
    assert_eq!(pinned(&town, 2), new);
    assert!(is_known(town.node(2), &new).await && is_known(town.node(2), &first).await);
    town.admin(2).await.seal(v1::SealRequest {}).await.unwrap();
    let config = town.stop(2).await;
    town.start(2, config).await;
    assert!(is_known(town.node(2), &new).await);

    // The one before the last is none any more.
    rotate_api(&town, 0).await.unwrap();
    town.until("it has ended", async |town| {
        let ca = api_of(town, 1).await;
        (ca.number, ca.former_counts) == (3, false)
    })
    .await;
    for place in 0..3 {
        town.until("two changes later it is not known", async |town| {
            !is_known(town.node(place), &first).await && is_known(town.node(place), &new).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_file_of_what_is_to_be_pinned_is_there_again_as_the_cluster_has_it() {
    let mut town = Town::of(2).await;
    let (follower, first) = (town.follower().await, pinned(&town, 0));
    let config = town.stop(follower).await;
    fs::remove_file(town.data_dir(follower).join("api-ca.pem")).unwrap();
    town.start(follower, config).await;
    town.until("it is there again", async |town| {
        pinned(town, follower) == first && is_known(town.node(follower), &first).await
    })
    .await;
    town.until("it serves", async |town| town.cluster(follower).await.is_ok()).await;
    assert!(!town.data_dir(follower).join("tls/api-ca.key").exists(), "nor is there a key of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_cannot_keep_its_new_certificate_does_not_say_that_it_shows_it() {
    let town = Town::of(2).await;
    town.until("it serves", async |town| {
        get_from(town.node(1), "/readyz").await.starts_with("HTTP/1.1 200")
    })
    .await;
    // Where it is written beside the present one, something is in the way.
    let in_the_way = town.data_dir(1).join("tls/server.pem.new");
    fs::create_dir(&in_the_way).unwrap();
    let shown = fs::read_to_string(town.data_dir(1).join("tls/server.pem")).unwrap();
    rotate_api(&town, 0).await.unwrap();
    // It goes over with what it can: so it has come to the other, and could not.
    rotate(&town, 0).await;
    until_over(&town, 2, &[0, 1]).await;
    let first = api_of(&town, 0).await;
    assert_eq!((first.number, first.former_counts), (2, true));
    town.until("the other has gone over", async |town| {
        api_of(town, 0).await.nodes_to_renew == [name(1)]
    })
    .await;
    assert_eq!(fs::read_to_string(town.data_dir(1).join("tls/server.pem")).unwrap(), shown);
    assert!(is_known(town.node(1), &pinned(&town, 0)).await, "edges know it still");

    fs::remove_dir(&in_the_way).unwrap();
    rotate(&town, 0).await;
    until_over(&town, 3, &[0, 1]).await;
    town.until("it has gone over too", async |town| {
        let ca = api_of(town, 1).await;
        (ca.number, ca.former_counts, ca.nodes_to_renew.len()) == (2, false, 0)
    })
    .await;
}
