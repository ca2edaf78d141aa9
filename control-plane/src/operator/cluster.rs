//! The nodes of the cluster: begun, listed, invited, let in, removed.

use std::sync::Arc;

use countersign_gate::KeyState;
use countersign_proto::v1;
use rcgen::{CertificateSigningRequestParams, PublicKeyData as _};
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::edges;
use super::once::{Once, reused};
use super::page::timestamp;
use super::refuse;
use super::seal::{new_seal, not_unsealed, shares_to_proto};
use crate::access::Admitted;
use crate::cluster::Member;
use crate::node::{InitError, Node};
use crate::sign::{self, SignError};
use crate::state::node::node_name;
use crate::state::{
    self, Actor, Addresses, Audience, Command, CommandId, EdgeCa, Event, ShownCa, State,
};

/// Begins a cluster on a node that has no vault. Nobody can be known yet: whoever reaches the listener first begins it.
pub(super) async fn init(
    node: &Arc<Node>,
    request: v1::InitClusterRequest,
) -> Result<v1::InitClusterResponse, Status> {
    node.unsealing.take().map_err(|wait| {
        node.attempts.count("cluster.init_throttled");
        refuse::too_many("no cluster began", wait)
    })?;
    let begun = begin(node, request).await;
    begun.inspect_err(|status| node.attempts.note("cluster.init_refused", status.message()))
}

async fn begin(
    node: &Arc<Node>,
    request: v1::InitClusterRequest,
) -> Result<v1::InitClusterResponse, Status> {
    let seal = new_seal(node, request.seal)?;
    // A task of its own: a caller that goes away leaves nothing half begun.
    let beginning = node.clone();
    let begun = tokio::spawn(async move { beginning.init(seal).await });
    let begun = begun.await.map_err(|e| refuse::internal(&e))?.map_err(|e| match e {
        InitError::Already => refuse::precondition("BEGUN", "cluster", e.to_string()),
        InitError::NotOpened(e) => not_unsealed(e),
    })?;
    Ok(v1::InitClusterResponse {
        cluster_id: begun.cluster_id,
        node_id: node_name(begun.node_id),
        admin_token: begun.secrets.admin_token.to_string(),
        root_private_key: begun.secrets.root.to_hex().to_string(),
        root_public_key: begun.secrets.root.public().to_vec().into(),
        shares: shares_to_proto(&begun.shares),
    })
}

/// Answered by a node that has lost its leader too, from what it has: that is when it is asked.
pub(super) async fn get(
    asked: &Admitted,
    _: v1::GetClusterRequest,
) -> Result<v1::GetClusterResponse, Status> {
    let cluster = &asked.house.cluster;
    // A leader that nobody follows any more does not know it.
    let leader = cluster.leader().filter(|_| !asked.stale);
    let members = cluster.members();
    let describe = |state: &State| {
        let trust = state.trust();
        v1::GetClusterResponse {
            cluster_id: state.genesis().map(|it| it.cluster_id.clone()).unwrap_or_default(),
            node_id: node_name(cluster.node_id()),
            nodes: state.nodes().map(|node| to_proto(state, node, &members, leader)).collect(),
            trust_epoch: trust.as_ref().map_or(0, |trust| trust.epoch),
            trust_threshold: trust.as_ref().map_or(0, |trust| trust.threshold),
            invited: state.invitations().map(|invitation| invitation.name.clone()).collect(),
            edge_ca: edges::ca_to_proto(state),
            api_ca: ca_to_proto(state, Audience::Clients),
            node_ca: ca_to_proto(state, Audience::Nodes),
            ..Default::default()
        }
    };
    let read = match asked.stale {
        false => cluster.read(describe).await.map_err(|e| refuse::unavailable(&e))?,
        true => cluster.peek(describe),
    };
    Ok(v1::GetClusterResponse {
        term: cluster.term(),
        commit_index: cluster.commit_index(),
        rolled_back: cluster.rolled_back().unwrap_or_default(),
        ..read
    })
}

/// A one-time token, of which the cluster keeps the hash.
pub(super) async fn add(
    node: &Node,
    asked: &Admitted,
    request: v1::AddNodeRequest,
) -> Result<v1::AddNodeResponse, Status> {
    if node.addresses().cluster.is_empty() {
        return Err(refuse::precondition(
            "NO_CLUSTER_LISTENER",
            "cluster.listen",
            "nobody was invited: this node has no listener for other nodes; set cluster.listen in its configuration and start it again",
        ));
    }
    let once = Once::of(asked, "AddNode", &request.request_id)?;
    let (token, token_sha256) = once.token(&asked.house.vault, "join");
    let command = Command::InviteNode { name: request.name.clone(), token_sha256 };
    let event = once.propose(asked, command).await?;
    match &*event {
        Event::NodeInvited { name, expires_at } if *name == request.name => {
            Ok(v1::AddNodeResponse {
                token: token.to_string(),
                expires_at: timestamp(*expires_at),
                api_ca_pem: asked.house.cluster.peek(api_ca_pem),
            })
        }
        _ => Err(reused(&request.name)),
    }
}

/// Lets a node in that shows its token. The same request again is answered the same.
pub(super) async fn join(
    node: &Node,
    request: v1::JoinClusterRequest,
) -> Result<v1::JoinClusterResponse, Status> {
    let house = node.unsealed().ok_or_else(refuse::sealed)?;
    let token = Zeroizing::new(request.token.clone());
    if token.is_empty() {
        return Err(refuse::field("token", "give the one that `countersign cluster add` printed"));
    }
    let public_key = <[u8; 32]>::try_from(request.public_key.as_ref());
    let public_key = public_key.map_err(|_| refuse::field("public_key", "must be 32 bytes"))?;
    node.joining.take().map_err(|wait| refuse::too_many("nobody was let in", wait))?;
    let read = house.cluster.read(begun).await.map_err(|e| refuse::unavailable(&e))?;
    let now = read.ok_or_else(not_begun)?;
    let (cluster_id, vault) = (&now.cluster_id, &house.vault);
    let node_certificate = |ca, id| {
        let issued = sign::issue_node_certificate(cluster_id, ca, vault, &request.node_csr_pem, id);
        issued.map_err(|e| not_issued("node_csr_pem", &e))
    };
    let server_certificate = |ca| {
        let (csr, names) = (&request.server_csr_pem, &request.server_names);
        let issued = sign::issue_server_certificate(cluster_id, ca, vault, csr, names);
        issued.map_err(|e| not_issued("server_csr_pem", &e))
    };
    // A request that cannot be read must not use up the token.
    server_certificate(&now.api_ca)?;
    node_certificate(&now.node_ca, 0)?;

    let id = identity_of(&request)?;
    let joining = state::Node {
        id: rand::random(),
        name: request.name.clone(),
        addresses: Addresses {
            cluster: request.cluster_address.clone(),
            api: request.api_address.clone(),
            gateway: request.gateway_address.clone(),
            own: request.own_destinations.clone(),
        },
        public_keys: vec![public_key],
        removed: false,
        joined_at: 0,
    };
    let token_sha256 = Sha256::digest(token.as_bytes()).into();
    let addresses = joining.addresses.clone();
    let command = Command::JoinNode { token_sha256, node: joining };
    let joined = house.cluster.propose_as(id, Actor::System, command).await;
    let joined = joined.map_err(refuse::not_proposed)?;
    let joined = match &*joined {
        Event::NodeChanged { id } => house.cluster.peek(|state| state.node(*id).cloned()),
        _ => None,
    };
    let joined = joined.filter(|joined| !joined.removed).ok_or_else(|| {
        refuse::because(
            Code::PermissionDenied,
            "JOIN_REFUSED",
            "the node was not let in: its token is wrong, used, expired or of another name, or there were too many tries; `countersign cluster add` gives a new one",
        )
    })?;
    if joined.addresses != addresses {
        // It was answered before, and is found elsewhere since.
        let command = Command::DescribeNode { id: joined.id, addresses };
        let described = house.cluster.propose(Actor::System, command).await;
        described.map_err(refuse::not_proposed)?;
    }
    tracing::info!(node = node_name(joined.id), name = joined.name, "a node was let in");
    let edge_ca_pem =
        house.cluster.peek(|state| state.edge_ca().map(EdgeCa::trusted_pem).unwrap_or_default());
    // The state takes it that this node has certificates of the newest CAs that there were when it was let in.
    let newest = house.cluster.peek(begun).ok_or_else(not_begun)?;
    Ok(v1::JoinClusterResponse {
        node_id: node_name(joined.id),
        cluster_id: cluster_id.clone(),
        org_id: newest.org_id,
        node_certificate_pem: node_certificate(&newest.node_ca, joined.id)?,
        node_ca_pem: newest.node_ca.trusted_pem(),
        server_certificate_pem: server_certificate(&newest.api_ca)?,
        api_ca_pem: newest.api_ca.trusted_pem(),
        edge_ca_pem,
        seal_file: house.cluster.peek(|state| state.seal_file().to_vec()).into(),
    })
}

pub(super) async fn remove(
    asked: &Admitted,
    request: v1::RemoveNodeRequest,
) -> Result<v1::RemoveNodeResponse, Status> {
    let once = Once::of(asked, "RemoveNode", &request.request_id)?;
    let found = asked.house.cluster.read(|state| find(state, &request.node).map(|node| node.id));
    let id = found.await.map_err(|e| refuse::unavailable(&e))?;
    let id = id.ok_or_else(|| no_node(&request.node))?;
    let command = Command::RemoveNode { id, reason: request.reason };
    changed(asked, &once, command, id).await.map(|node| v1::RemoveNodeResponse { node: Some(node) })
}

pub(super) async fn transfer(
    asked: &Admitted,
    request: v1::TransferLeadershipRequest,
) -> Result<v1::TransferLeadershipResponse, Status> {
    let cluster = &asked.house.cluster;
    let read = cluster.read(|state| {
        let to = find(state, &request.node).map(|node| node.id);
        let leader = cluster.leader().filter(|leader| *leader != cluster.node_id());
        (to, leader.and_then(|leader| state.node(leader).cloned()))
    });
    let (to, leader) = read.await.map_err(|e| refuse::unavailable(&e))?;
    if to.is_none() && !request.node.is_empty() {
        return Err(no_node(&request.node));
    }
    if let Some(leader) = leader {
        return Err(refuse::precondition(
            "NOT_LEADER",
            "node",
            format!(
                "leadership was not handed over: {} leads, so ask it, at https://{}",
                leader.name, leader.addresses.api
            ),
        ));
    }
    let actor = Actor::Principal(asked.caller.name.clone());
    let details = vec![("to".to_owned(), to.map(node_name).unwrap_or_default())];
    let note =
        Command::Note { action: "cluster.transfer".into(), subject: "leader".into(), details };
    cluster.propose(actor, note).await.map_err(refuse::not_proposed)?;
    let leader = cluster.transfer(to).await;
    let leader =
        leader.map_err(|e| refuse::precondition("NOT_HANDED_OVER", "leader", e.to_string()))?;
    Ok(v1::TransferLeadershipResponse { leader_node_id: node_name(leader) })
}

/// Lets releases go on after a jump of the clock.
pub(super) async fn confirm_clock(
    asked: &Admitted,
    request: v1::ConfirmClockRequest,
) -> Result<v1::ConfirmClockResponse, Status> {
    let once = Once::of(asked, "ConfirmClock", &request.request_id)?;
    match &*once.propose(asked, Command::ConfirmClock).await? {
        Event::ClockConfirmed => Ok(v1::ConfirmClockResponse {}),
        _ => Err(reused("clock")),
    }
}

/// Has this node make another signing key.
pub(super) async fn rotate_signing_key(
    asked: &Admitted,
    _: v1::RotateSigningKeyRequest,
) -> Result<v1::RotateSigningKeyResponse, Status> {
    let signer = asked.house.signer().ok_or_else(refuse::not_settled)?;
    let actor = Actor::Principal(asked.caller.name.clone());
    signer.rotate(actor).await.map_err(|e| match e {
        SignError::Proposal(e) => refuse::not_proposed(e),
        e => refuse::precondition("NOT_ROTATED", "signing key", e.to_string()),
    })?;
    let node = shown(asked, asked.house.cluster.node_id());
    Ok(v1::RotateSigningKeyResponse { node })
}

/// From now on another CA signs what nodes show; certificates of the one before count until the last node has gone over,
/// which each does by itself.
pub(super) async fn rotate_ca(
    asked: &Admitted,
    request: v1::RotateCaRequest,
) -> Result<v1::RotateCaResponse, Status> {
    let to = audience(request.ca)?;
    let (house, once) = (&asked.house, Once::of(asked, "RotateCa", &request.request_id)?);
    let read = house.cluster.read(begun).await.map_err(|e| refuse::unavailable(&e))?;
    let Begun { cluster_id, api_ca, node_ca, .. } = read.ok_or_else(not_begun)?;
    let present = match to {
        Audience::Clients => api_ca,
        Audience::Nodes => node_ca,
    };
    let command = sign::shown_ca_rotation(&cluster_id, to, &present, &house.vault);
    once.propose(asked, command.map_err(|e| refuse::internal(&e))?).await?;
    Ok(v1::RotateCaResponse { ca: house.cluster.peek(|state| ca_to_proto(state, to)) })
}

/// Certificates of the CA before count no more: nodes that show no other are not known any more.
pub(super) async fn finish_ca(
    asked: &Admitted,
    request: v1::FinishCaRotationRequest,
) -> Result<v1::FinishCaRotationResponse, Status> {
    let to = audience(request.ca)?;
    let once = Once::of(asked, "FinishCaRotation", &request.request_id)?;
    once.propose(asked, Command::FinishCa { to }).await?;
    let ca = asked.house.cluster.peek(|state| ca_to_proto(state, to));
    Ok(v1::FinishCaRotationResponse { ca })
}

fn audience(ca: i32) -> Result<Audience, Status> {
    match v1::ShownCaKind::try_from(ca) {
        Ok(v1::ShownCaKind::Api) => Ok(Audience::Clients),
        Ok(v1::ShownCaKind::Nodes) => Ok(Audience::Nodes),
        Ok(v1::ShownCaKind::Unspecified) | Err(_) => {
            Err(refuse::field("ca", "say which one: API or NODES"))
        }
    }
}

fn ca_to_proto(state: &State, to: Audience) -> Option<v1::ShownCa> {
    let ca = state.shown_ca(to)?;
    Some(v1::ShownCa {
        number: ca.number,
        former_counts: ca.former_pem.is_some(),
        nodes_to_renew: state.nodes_to_renew(to).map(|node| node.name.clone()).collect(),
        trusted_pem: ca.trusted_pem(),
    })
}

/// What it takes to issue something.
struct Begun {
    cluster_id: String,
    org_id: String,
    api_ca: ShownCa,
    node_ca: ShownCa,
}

fn begun(state: &State) -> Option<Begun> {
    let genesis = state.genesis()?;
    Some(Begun {
        cluster_id: genesis.cluster_id.clone(),
        org_id: genesis.org_id.clone(),
        api_ca: state.shown_ca(Audience::Clients)?.into_owned(),
        node_ca: state.shown_ca(Audience::Nodes)?.into_owned(),
    })
}

fn not_begun() -> Status {
    refuse::internal(&"an unsealed node without a genesis")
}

/// By which operators and edges know every node.
pub(super) fn api_ca_pem(state: &State) -> String {
    state.shown_ca(Audience::Clients).map(|ca| ca.trusted_pem()).unwrap_or_default()
}

async fn changed(
    asked: &Admitted,
    once: &Once,
    command: Command,
    id: u64,
) -> Result<v1::ClusterNode, Status> {
    let event = once.propose(asked, command).await?;
    match &*event {
        Event::NodeChanged { id: changed } if *changed == id => {}
        _ => return Err(reused(&node_name(id))),
    }
    shown(asked, id).ok_or_else(|| reused(&node_name(id)))
}

fn shown(asked: &Admitted, id: u64) -> Option<v1::ClusterNode> {
    let cluster = &asked.house.cluster;
    let (members, leader) = (cluster.members(), cluster.leader());
    cluster.peek(|state| state.node(id).map(|node| to_proto(state, node, &members, leader)))
}

/// By name, else by id. A removed one has its name no more.
fn find<'a>(state: &'a State, node: &str) -> Option<&'a state::Node> {
    let by_id = || state.node(u64::from_str_radix(node, 16).ok().filter(|_| node.len() == 16)?);
    state.node_named(node).or_else(by_id)
}

fn no_node(node: &str) -> Status {
    refuse::not_found(format!(
        "there is no node {node:?} in this cluster: `countersign cluster status` lists them"
    ))
}

/// Made of the token and of all keys that it is to be for: a token that somebody saw is worth nothing with others, and
/// a node that missed the answer asks again with its own.
fn identity_of(request: &v1::JoinClusterRequest) -> Result<CommandId, Status> {
    let key_of = |field, pem: &str| match CertificateSigningRequestParams::from_pem(pem) {
        Ok(read) => Ok(read.public_key.subject_public_key_info()),
        Err(e) => Err(refuse::field(field, e.to_string())),
    };
    let node_key = key_of("node_csr_pem", &request.node_csr_pem)?;
    let server_key = key_of("server_csr_pem", &request.server_csr_pem)?;
    let said = [
        request.token.as_bytes(),
        request.name.as_bytes(),
        &node_key,
        &server_key,
        &request.public_key,
    ];
    let hash = said.into_iter().fold(Sha256::new(), |hash, part| {
        hash.chain_update((part.len() as u64).to_be_bytes()).chain_update(part)
    });
    let mut client = [0; 16];
    client.copy_from_slice(&hash.finalize()[..16]);
    Ok(CommandId { client, serial: 1 })
}

fn not_issued(field: &str, error: &SignError) -> Status {
    match error {
        SignError::Request | SignError::Certificate(_) => refuse::field(field, error.to_string()),
        error => refuse::internal(error),
    }
}

fn to_proto(
    state: &State,
    node: &state::Node,
    members: &[Member],
    leader: Option<u64>,
) -> v1::ClusterNode {
    let member = members.iter().find(|member| member.id == node.id);
    let standing = match (node.removed, member) {
        (true, _) => v1::NodeState::Removed,
        (false, None) => v1::NodeState::Pending,
        (false, Some(member)) if member.voter => v1::NodeState::Voter,
        (false, Some(_)) => v1::NodeState::Learner,
    };
    let counted = |public: &[u8; 32]| {
        state.trust().is_some_and(|trust| {
            trust.keys.iter().any(|key| key.public == *public && key.state == KeyState::Active)
        })
    };
    v1::ClusterNode {
        node_id: node_name(node.id),
        name: node.name.clone(),
        cluster_address: node.addresses.cluster.clone(),
        api_address: node.addresses.api.clone(),
        gateway_address: node.addresses.gateway.clone(),
        state: standing.into(),
        leader: leader == Some(node.id),
        matched_index: member.and_then(|member| member.matched),
        public_keys: node.public_keys.iter().map(|key| key.to_vec().into()).collect(),
        trusted: !node.removed && node.public_keys.iter().any(counted),
    }
}
