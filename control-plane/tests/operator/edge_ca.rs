//! The CA of edges' certificates changes while edges are attached, on every node, and over restarts.

use countersign_control_plane::node::ControlPlane;
use countersign_proto::v1;
use countersign_proto::v1::attach_response::Message as Out;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::edge::{Edge, Enrolled};
use crate::town::Town;
use crate::world::Admin;

async fn rotate(admin: &mut Admin) -> v1::EdgeCa {
    let rotated = admin.rotate_edge_ca(v1::RotateEdgeCaRequest::default()).await.unwrap();
    rotated.into_inner().edge_ca.unwrap()
}

async fn finish(admin: &mut Admin) -> v1::EdgeCa {
    let request = v1::FinishEdgeCaRotationRequest::default();
    admin.finish_edge_ca_rotation(request).await.unwrap().into_inner().edge_ca.unwrap()
}

/// Whether a node lets this edge in, and not only to the end of the handshake.
async fn is_let_in(enrolled: &Enrolled, node: &ControlPlane) -> bool {
    let at = enrolled.through(node);
    let Ok(channel) = at.channel(true).await else { return false };
    let Ok((_, mut incoming, _)) = at.hello(channel).await else { return false };
    matches!(incoming.next().await, Some(Ok(first)) if matches!(first.message, Some(Out::HelloAck(_))))
}

async fn both_let_in(town: &Town, enrolled: &Enrolled) -> bool {
    is_let_in(enrolled, town.node(0)).await && is_let_in(enrolled, town.node(1)).await
}

async fn neither_lets_in(town: &Town, enrolled: &Enrolled) -> bool {
    !is_let_in(enrolled, town.node(0)).await && !is_let_in(enrolled, town.node(1)).await
}

/// The edge is told to renew, over the session that it has.
async fn is_told(edge: &mut Edge) {
    loop {
        match edge.hear().await.unwrap() {
            Out::RenewNow(_) => return,
            Out::Bundle(_) | Out::Ping(_) | Out::TrustBundle(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn issuer(pem: &str) -> String {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    pem.parse_x509().unwrap().issuer().to_string()
}

fn kept(town: &Town, place: usize) -> usize {
    let pem = std::fs::read_to_string(town.data_dir(place).join("edge-ca.pem")).unwrap();
    pem.matches("BEGIN CERTIFICATE").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn edges_go_over_to_another_ca_while_they_are_served_and_then_the_former_is_finished() {
    let mut town = Town::of(2).await;
    let prompt = Enrolled::at(&mut town.admin(1).await, "prompt").await;
    let idle = Enrolled::at(&mut town.admin(0).await, "idle").await;
    assert_eq!(issuer(&prompt.certificate_pem), "CN=Countersign edge CA 1");
    town.until("every node serves edges", async |town| both_let_in(town, &prompt).await).await;
    let mut session = prompt.attach("nobody").await;

    let ca = rotate(&mut town.admin(0).await).await;
    assert_eq!((ca.number, ca.edges_to_renew.len()), (2, 2));
    assert!(ca.former_until.is_some());
    is_told(&mut session).await;
    let again = town.admin(0).await.rotate_edge_ca(v1::RotateEdgeCaRequest::default()).await;
    assert_eq!(again.unwrap_err().code(), Code::FailedPrecondition, "one change at a time");

    let renewed = prompt.renewed().await.unwrap();
    assert_eq!(issuer(&renewed.certificate_pem), "CN=Countersign edge CA 2");
    let new = Enrolled::at(&mut town.admin(1).await, "new").await;
    assert_eq!(issuer(&new.certificate_pem), "CN=Countersign edge CA 2");
    for enrolled in [&renewed, &new, &idle, &prompt] {
        town.until("all are let in", async |town| both_let_in(town, enrolled).await).await;
    }
    let cluster = town.cluster(1).await.unwrap();
    assert_eq!(cluster.edge_ca.unwrap().edges_to_renew, ["idle"]);
    let listed = town.admin(1).await.list_edges(v1::ListEdgesRequest::default()).await.unwrap();
    let listed = listed.into_inner().edges;
    let cas: Vec<_> = listed.iter().map(|edge| (edge.name.as_str(), edge.ca)).collect();
    assert_eq!(cas, [("idle", 1), ("new", 2), ("prompt", 2)]);

    // A node that was away knows both too.
    let config = town.stop(1).await;
    town.start(1, config).await;
    town.until("both are let in", async |town| both_let_in(town, &idle).await).await;
    assert_eq!(kept(&town, 1), 2);

    let mut session = renewed.attach("nobody").await;
    assert_eq!(finish(&mut town.admin(0).await).await.edges_to_renew, ["idle"]);
    while session.hear().await.is_some() {}
    for enrolled in [&idle, &prompt] {
        town.until("shut out", async |town| neither_lets_in(town, enrolled).await).await;
    }
    town.until("the renewed is let in", async |town| both_let_in(town, &renewed).await).await;
    town.until("what a sealed node needs", async |town| kept(town, 0) == 1 && kept(town, 1) == 1)
        .await;
    assert_eq!(finish(&mut town.admin(1).await).await.former_until, None, "once more does nothing");

    let config = town.stop(1).await;
    town.start(1, config).await;
    town.until("the renewed is let in", async |town| both_let_in(town, &renewed).await).await;
    assert!(neither_lets_in(&town, &idle).await);
}
