//! Grants: asked for, supported, revoked, listed.

use countersign_proto::v1;
use tonic::Status;

use super::approvals::{id_of, vote_to_proto};
use super::once::{Once, reused};
use super::page::{Page, timestamp};
use super::refuse;
use crate::access::Admitted;
use crate::state::{Command, Event, Grant, GrantId, GrantWish, Proof, State, Strength};

pub(super) async fn create(
    asked: &Admitted,
    channel: &str,
    request: v1::CreateGrantRequest,
) -> Result<v1::CreateGrantResponse, Status> {
    let once = Once::of(asked, "CreateGrant", &request.request_id)?;
    let beside = id_of(&request.approval_id)?;
    let path = if request.path.is_empty() {
        let own = |state: &State| state.approval(beside).map(|a| a.shown.path.clone());
        let read = asked.house.cluster.read(own).await.map_err(|e| refuse::unavailable(&e))?;
        read.unwrap_or_default()
    } else {
        request.path
    };
    let mut byte = once.bytes(&asked.house.vault, "grant-id");
    let wish = GrantWish {
        id: GrantId(std::array::from_fn(|_| byte())),
        beside,
        path,
        most_uses: request.most_uses,
        ttl_ms: request.ttl_seconds.saturating_mul(1_000),
        reason: request.reason,
        channel: channel.to_owned(),
        // The caller has shown a token of their own.
        strength: Strength::L2,
        proof: Proof::None,
    };
    let grant = changed(asked, &once, Command::AskGrant(Box::new(wish))).await?;
    Ok(v1::CreateGrantResponse { grant })
}

pub(super) async fn support(
    asked: &Admitted,
    channel: &str,
    request: v1::SupportGrantRequest,
) -> Result<v1::SupportGrantResponse, Status> {
    let once = Once::of(asked, "SupportGrant", &request.request_id)?;
    let command = Command::SupportGrant {
        id: grant_id(&request.grant_id)?,
        principal: asked.caller.name.clone(),
        channel: channel.to_owned(),
        reason: request.reason,
        strength: Strength::L2,
        proof: Proof::None,
    };
    let grant = changed(asked, &once, command).await?;
    Ok(v1::SupportGrantResponse { grant })
}

pub(super) async fn revoke(
    asked: &Admitted,
    request: v1::RevokeGrantRequest,
) -> Result<v1::RevokeGrantResponse, Status> {
    let once = Once::of(asked, "RevokeGrant", &request.request_id)?;
    let id = grant_id(&request.grant_id)?;
    let grant = changed(asked, &once, Command::RevokeGrant { id, reason: request.reason }).await?;
    Ok(v1::RevokeGrantResponse { grant })
}

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListGrantsRequest,
) -> Result<v1::ListGrantsResponse, Status> {
    let page = Page::of("grants", request.page_size, &request.page_token)?;
    let read = asked.house.cluster.read(|state| {
        let newest_first = state
            .grants()
            .map(|grant| (format!("{:020} {}", u64::MAX - grant.created_at, grant.id), grant));
        page.cut(newest_first.collect(), |grant| to_proto(state, grant))
    });
    let (grants, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListGrantsResponse { grants, next_page_token })
}

async fn changed(
    asked: &Admitted,
    once: &Once,
    command: Command,
) -> Result<Option<v1::Grant>, Status> {
    let event = once.propose(asked, command).await?;
    let Event::GrantChanged { id, .. } = &*event else { return Err(reused("a grant")) };
    let now = |state: &State| state.grant(*id).map(|grant| to_proto(state, grant));
    Ok(asked.house.cluster.peek(now))
}

fn grant_id(text: &str) -> Result<GrantId, Status> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id).map_err(|_| {
        refuse::field("grant_id", "must be 32 hexadecimal digits, as the list shows them")
    })?;
    Ok(GrantId(id))
}

fn to_proto(state: &State, grant: &Grant) -> v1::Grant {
    let scope = &grant.scope;
    let agent = state.agent(&scope.agent).map_or_else(|| scope.agent.clone(), |a| a.name.clone());
    let (revoked_by, revoked_reason) =
        grant.revoked.as_ref().map(|(_, by, why)| (by.clone(), why.clone())).unwrap_or_default();
    v1::Grant {
        grant_id: grant.id.to_string(),
        agent,
        host: scope.host.clone(),
        port: scope.port.into(),
        method: scope.method.clone(),
        path: scope.path.clone(),
        votes: grant.votes.iter().filter(|vote| !vote.withdrawn).map(vote_to_proto).collect(),
        created_at: timestamp(grant.created_at),
        expires_at: timestamp(grant.expires_at),
        most_uses: grant.most_uses,
        uses: grant
            .uses
            .iter()
            .map(|used| v1::GrantUse {
                approval_id: used.approval.to_string(),
                at: timestamp(used.at),
            })
            .collect(),
        revoked_by,
        revoked_reason,
        usable: grant.is_usable(state.log_time()),
        approval_id: grant.beside.to_string(),
    }
}
