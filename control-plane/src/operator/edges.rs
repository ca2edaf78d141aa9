//! Edges: enrolled by a certificate request, listed, evicted; and the CA that signs their certificates.

use countersign_proto::v1;
use tonic::Status;

use super::cluster;
use super::once::{Once, reused};
use super::page::{Page, timestamp};
use super::refuse;
use crate::access::Admitted;
use crate::node::Node;
use crate::sign;
use crate::state::{Command, Edge, Event, Given, State};

pub(super) async fn enroll(
    node: &Node,
    asked: &Admitted,
    request: v1::EnrollEdgeRequest,
) -> Result<v1::EnrollEdgeResponse, Status> {
    let house = &asked.house;
    let once = Once::of(asked, "EnrollEdge", &request.request_id)?;
    let key_sha256 = sign::requested_key_sha256(&request.csr_pem);
    let key_sha256 = key_sha256.map_err(|e| refuse::field("csr_pem", e.to_string()))?;
    let id = once.id("edg_");
    let command = Command::EnrollEdge { id, name: request.name.clone(), key_sha256 };
    // A name that was enrolled before keeps its id under the new key.
    let edge = changed(asked, &once, command, &request.name).await?;
    if edge.key_sha256 != key_sha256 {
        return Err(reused(&request.name));
    }
    let begun = |state: &State| state.genesis().cloned().zip(state.edge_ca().cloned());
    let begun = house.cluster.peek(begun);
    let (genesis, ca) =
        begun.ok_or_else(|| refuse::internal(&"an unsealed node without a genesis"))?;
    let (cluster_id, csr) = (&genesis.cluster_id, &request.csr_pem);
    let certificate = sign::issue_edge_certificate(cluster_id, &ca, &house.vault, csr, &edge.id);
    let certificate = certificate.map_err(|e| refuse::internal(&e))?;
    Ok(v1::EnrollEdgeResponse {
        edge: Some(to_proto(&edge, house.connected_edges().contains(&edge.id))),
        certificate_pem: certificate.pem,
        gateway_ca_pem: house.cluster.peek(cluster::api_ca_pem),
        gateway_address: node.addresses().gateway.clone(),
        gateway_addresses: gateways(node, asked),
        root_public_key: genesis.root_public_key.to_vec().into(),
    })
}

/// Of every node, this one first.
fn gateways(node: &Node, asked: &Admitted) -> Vec<String> {
    let own = node.addresses().gateway.clone();
    let others = asked.house.cluster.peek(|state| {
        let others = state.nodes().filter(|it| !it.removed && it.addresses.gateway != own);
        others.map(|other| other.addresses.gateway.clone()).collect::<Vec<_>>()
    });
    [own].into_iter().chain(others.into_iter().filter(|it| !it.is_empty())).collect()
}

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListEdgesRequest,
) -> Result<v1::ListEdgesResponse, Status> {
    let page = Page::of("edges", request.page_size, &request.page_token)?;
    let connected = asked.house.connected_edges();
    let read = asked.house.cluster.read(|state| {
        let keyed = state.edges().map(|edge| (format!("{} {}", edge.name, edge.id), edge));
        page.cut(keyed.collect(), |edge| to_proto(edge, connected.contains(&edge.id)))
    });
    let (edges, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListEdgesResponse { edges, next_page_token })
}

pub(super) async fn evict(
    asked: &Admitted,
    request: v1::EvictEdgeRequest,
) -> Result<v1::EvictEdgeResponse, Status> {
    let once = Once::of(asked, "EvictEdge", &request.request_id)?;
    let command = Command::EvictEdge { name: request.name.clone(), reason: request.reason };
    let edge = changed(asked, &once, command, &request.name).await?;
    let connected = asked.house.connected_edges().contains(&edge.id);
    let given = asked.house.cluster.peek(|state| {
        let given = state.given_to(&edge.id).into_iter();
        given.map(|given| given_to_proto(state, given)).collect()
    });
    Ok(v1::EvictEdgeResponse { edge: Some(to_proto(&edge, connected)), given })
}

/// From now on another CA signs edges' certificates, and those of the one before count until that is finished.
pub(super) async fn rotate_ca(
    asked: &Admitted,
    request: v1::RotateEdgeCaRequest,
) -> Result<v1::RotateEdgeCaResponse, Status> {
    let (house, once) = (&asked.house, Once::of(asked, "RotateEdgeCa", &request.request_id)?);
    let read = house.cluster.read(|state| {
        let cluster_id = state.genesis().map(|genesis| genesis.cluster_id.clone());
        cluster_id.zip(state.edge_ca().map(|ca| ca.number))
    });
    let read = read.await.map_err(|e| refuse::unavailable(&e))?;
    let (cluster_id, number) =
        read.ok_or_else(|| refuse::internal(&"an unsealed node without a genesis"))?;
    let command = sign::edge_ca_rotation(&cluster_id, number.saturating_add(1), &house.vault);
    once.propose(asked, command.map_err(|e| refuse::internal(&e))?).await?;
    Ok(v1::RotateEdgeCaResponse { edge_ca: house.cluster.peek(ca_to_proto) })
}

/// Certificates of the CA before count no more: edges that have no other are shut out until they are enrolled again.
pub(super) async fn finish_ca(
    asked: &Admitted,
    request: v1::FinishEdgeCaRotationRequest,
) -> Result<v1::FinishEdgeCaRotationResponse, Status> {
    let once = Once::of(asked, "FinishEdgeCaRotation", &request.request_id)?;
    once.propose(asked, Command::FinishEdgeCa).await?;
    let edge_ca = asked.house.cluster.peek(ca_to_proto);
    Ok(v1::FinishEdgeCaRotationResponse { edge_ca })
}

pub(super) fn ca_to_proto(state: &State) -> Option<v1::EdgeCa> {
    let ca = state.edge_ca()?;
    Some(v1::EdgeCa {
        number: ca.number,
        former_until: ca.former.as_ref().and_then(|former| timestamp(former.until)),
        edges_to_renew: state.edges_to_renew().map(|edge| edge.name.clone()).collect(),
    })
}

async fn changed(
    asked: &Admitted,
    once: &Once,
    command: Command,
    name: &str,
) -> Result<Edge, Status> {
    let event = once.propose(asked, command).await?;
    let Event::EdgeChanged { id } = &*event else { return Err(reused(name)) };
    let edge = asked.house.cluster.peek(|state| state.edge(id).cloned());
    edge.filter(|edge| edge.name == name).ok_or_else(|| reused(name))
}

fn given_to_proto(state: &State, given: Given) -> v1::GivenCredential {
    let Given { credential, version, at, in_force } = given;
    v1::GivenCredential {
        name: state.credential(&credential).map(|it| it.name.clone()).unwrap_or_default(),
        credential_id: credential,
        version,
        last_given_at: timestamp(at),
        must_rotate: in_force,
    }
}

fn to_proto(edge: &Edge, connected: bool) -> v1::Edge {
    v1::Edge {
        edge_id: edge.id.clone(),
        name: edge.name.clone(),
        connected,
        evicted: edge.evicted,
        enrolled_at: timestamp(edge.enrolled_at),
        ca: edge.ca,
    }
}
