//! Edges: enrolled by a certificate request, listed, evicted.

use countersign_proto::v1;
use tonic::Status;

use super::once::{Once, reused};
use super::page::{Page, timestamp};
use super::refuse;
use crate::access::Admitted;
use crate::node::Node;
use crate::sign::{self, SignError};
use crate::state::{Command, Edge, Event};

pub(super) async fn enroll(
    node: &Node,
    asked: &Admitted,
    request: v1::EnrollEdgeRequest,
) -> Result<v1::EnrollEdgeResponse, Status> {
    let house = &asked.house;
    let once = Once::of(asked, "EnrollEdge", &request.request_id)?;
    let genesis = house
        .cluster
        .read(|state| state.genesis().cloned())
        .await
        .map_err(|e| refuse::unavailable(&e))?;
    let genesis = genesis.ok_or_else(|| refuse::internal(&"an unsealed node without a genesis"))?;
    let issue = |id: &str| {
        sign::issue_edge_certificate(&genesis, &house.vault, &request.csr_pem, id).map_err(|e| {
            match e {
                SignError::Request => refuse::field("csr_pem", e.to_string()),
                e => refuse::internal(&e),
            }
        })
    };
    let id = once.id("edg_");
    let mut certificate = issue(&id)?;
    // It is of no use before this is committed: intake looks the edge up.
    let command = Command::EnrollEdge {
        id: id.clone(),
        name: request.name.clone(),
        key_sha256: certificate.key_sha256,
    };
    let edge = changed(asked, &once, command, &request.name).await?;
    if edge.key_sha256 != certificate.key_sha256 {
        return Err(reused(&request.name));
    }
    if edge.id != id {
        // The name was enrolled before, and keeps its id under the new key.
        certificate = issue(&edge.id)?;
    }
    Ok(v1::EnrollEdgeResponse {
        edge: Some(to_proto(&edge, house.connected_edges().contains(&edge.id))),
        certificate_pem: certificate.pem,
        gateway_ca_pem: node.api_ca_pem().to_owned(),
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
    Ok(v1::EvictEdgeResponse { edge: Some(to_proto(&edge, connected)) })
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

fn to_proto(edge: &Edge, connected: bool) -> v1::Edge {
    v1::Edge {
        edge_id: edge.id.clone(),
        name: edge.name.clone(),
        connected,
        evicted: edge.evicted,
        enrolled_at: timestamp(edge.enrolled_at),
    }
}
