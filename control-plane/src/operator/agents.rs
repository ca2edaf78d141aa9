//! Agents: made, listed, given another token, revoked.

use countersign_proto::v1;
use tonic::Status;

use super::once::{Once, reused};
use super::page::{Page, timestamp};
use super::refuse;
use crate::access::Admitted;
use crate::state::{Agent, Command, Event};

pub(super) async fn create(
    asked: &Admitted,
    request: v1::CreateAgentRequest,
) -> Result<v1::CreateAgentResponse, Status> {
    let once = Once::of(asked, "CreateAgent", &request.request_id)?;
    let (token, token_sha256) = once.token(&asked.house.vault, "agt");
    let owner = Some(request.owner).filter(|owner| !owner.is_empty());
    let command = Command::CreateAgent {
        id: once.id("agt_"),
        name: request.name.clone(),
        owner,
        token_sha256,
    };
    let agent = changed(asked, &once, command, &request.name).await?;
    Ok(v1::CreateAgentResponse { agent: Some(agent), token: token.to_string() })
}

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListAgentsRequest,
) -> Result<v1::ListAgentsResponse, Status> {
    let page = Page::of("agents", request.page_size, &request.page_token)?;
    let read = asked.house.cluster.read(|state| {
        let keyed = state.agents().map(|agent| (format!("{} {}", agent.name, agent.id), agent));
        page.cut(keyed.collect(), to_proto)
    });
    let (agents, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListAgentsResponse { agents, next_page_token })
}

pub(super) async fn rotate(
    asked: &Admitted,
    request: v1::RotateAgentRequest,
) -> Result<v1::RotateAgentResponse, Status> {
    let once = Once::of(asked, "RotateAgent", &request.request_id)?;
    let (token, token_sha256) = once.token(&asked.house.vault, "agt");
    let command = Command::RotateAgent { name: request.name.clone(), token_sha256 };
    let agent = changed(asked, &once, command, &request.name).await?;
    Ok(v1::RotateAgentResponse { agent: Some(agent), token: token.to_string() })
}

pub(super) async fn revoke(
    asked: &Admitted,
    request: v1::RevokeAgentRequest,
) -> Result<v1::RevokeAgentResponse, Status> {
    let once = Once::of(asked, "RevokeAgent", &request.request_id)?;
    let command = Command::RevokeAgent { name: request.name.clone() };
    let agent = changed(asked, &once, command, &request.name).await?;
    Ok(v1::RevokeAgentResponse { agent: Some(agent) })
}

pub(super) async fn set_owner(
    asked: &Admitted,
    request: v1::SetAgentOwnerRequest,
) -> Result<v1::SetAgentOwnerResponse, Status> {
    let once = Once::of(asked, "SetAgentOwner", &request.request_id)?;
    let name = request.name;
    let owner = Some(request.owner).filter(|owner| !owner.is_empty());
    let event = once.propose(asked, Command::SetOwner { agent: name.clone(), owner }).await?;
    let change_id = match &*event {
        Event::AgentChanged { .. } => 0,
        Event::ChangeProposed { id } => *id,
        _ => return Err(reused(&name)),
    };
    let agent = asked.house.cluster.peek(|state| state.agent_named(&name).map(to_proto));
    Ok(v1::SetAgentOwnerResponse { agent, change_id })
}

async fn changed(
    asked: &Admitted,
    once: &Once,
    command: Command,
    name: &str,
) -> Result<v1::Agent, Status> {
    let event = once.propose(asked, command).await?;
    let Event::AgentChanged { id, .. } = &*event else { return Err(reused(name)) };
    let agent = asked.house.cluster.peek(|state| state.agent(id).map(to_proto));
    agent.filter(|agent| agent.name == name).ok_or_else(|| reused(name))
}

fn to_proto(agent: &Agent) -> v1::Agent {
    v1::Agent {
        agent_id: agent.id.clone(),
        name: agent.name.clone(),
        owner: agent.owner.clone().unwrap_or_default(),
        revoked: !agent.active,
        created_at: timestamp(agent.created_at),
    }
}
