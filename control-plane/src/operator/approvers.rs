//! Principals: who operates, approves and audits.

use std::collections::BTreeSet;

use countersign_proto::v1;
use tonic::Status;

use super::accounts::account_to_proto;
use super::once::{Once, reused};
use super::page::{Page, millis, timestamp};
use super::refuse;
use crate::access::Admitted;
use crate::state::{Command, Event, Principal, Role};

pub(super) async fn add(
    asked: &Admitted,
    request: v1::AddApproverRequest,
) -> Result<v1::AddApproverResponse, Status> {
    let once = Once::of(asked, "AddApprover", &request.request_id)?;
    let mut roles: BTreeSet<Role> =
        request.roles.iter().map(|role| role_from_proto(*role)).collect::<Result<_, _>>()?;
    if roles.is_empty() {
        roles.insert(Role::Approver);
    }
    let (token, token_sha256) = once.token(&asked.house.vault, "apr");
    let name = request.name;
    let command = Command::AddPrincipal {
        name: name.clone(),
        roles,
        groups: request.groups.into_iter().collect(),
        token_sha256,
    };
    let (approver, change_id) = changed(asked, &once, command, &name).await?;
    Ok(v1::AddApproverResponse { approver, token: token.to_string(), change_id })
}

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListApproversRequest,
) -> Result<v1::ListApproversResponse, Status> {
    let page = Page::of("approvers", request.page_size, &request.page_token)?;
    let read = asked.house.cluster.read(|state| {
        let keyed = state.principals().map(|principal| (principal.name.clone(), principal));
        page.cut(keyed.collect(), to_proto)
    });
    let (approvers, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListApproversResponse { approvers, next_page_token })
}

pub(super) async fn rotate(
    asked: &Admitted,
    request: v1::RotateApproverTokenRequest,
) -> Result<v1::RotateApproverTokenResponse, Status> {
    let once = Once::of(asked, "RotateApproverToken", &request.request_id)?;
    let (token, token_sha256) = once.token(&asked.house.vault, "apr");
    let command = Command::RotatePrincipal { name: request.name.clone(), token_sha256 };
    let (approver, change_id) = changed(asked, &once, command, &request.name).await?;
    Ok(v1::RotateApproverTokenResponse { approver, token: token.to_string(), change_id })
}

pub(super) async fn remove(
    asked: &Admitted,
    request: v1::RemoveApproverRequest,
) -> Result<v1::RemoveApproverResponse, Status> {
    let once = Once::of(asked, "RemoveApprover", &request.request_id)?;
    let command = Command::RemovePrincipal { name: request.name.clone() };
    let (approver, change_id) = changed(asked, &once, command, &request.name).await?;
    Ok(v1::RemoveApproverResponse { approver, change_id })
}

pub(super) async fn set_groups(
    asked: &Admitted,
    request: v1::SetApproverGroupsRequest,
) -> Result<v1::SetApproverGroupsResponse, Status> {
    let once = Once::of(asked, "SetApproverGroups", &request.request_id)?;
    let name = request.name;
    let command =
        Command::SetGroups { name: name.clone(), groups: request.groups.into_iter().collect() };
    let (approver, change_id) = changed(asked, &once, command, &name).await?;
    Ok(v1::SetApproverGroupsResponse { approver, change_id })
}

pub(super) async fn set_away(
    asked: &Admitted,
    request: v1::SetApproverAwayRequest,
) -> Result<v1::SetApproverAwayResponse, Status> {
    let once = Once::of(asked, "SetApproverAway", &request.request_id)?;
    let name = or_caller(asked, request.name);
    let until = request.until.map(|until| {
        millis(&until).ok_or_else(|| refuse::field("until", "is not a time after 1970"))
    });
    let command = Command::SetAway {
        name: name.clone(),
        until: until.transpose()?,
        stand_in: Some(request.stand_in).filter(|name| !name.is_empty()),
        reason: request.reason,
    };
    let (approver, change_id) = changed(asked, &once, command, &name).await?;
    Ok(v1::SetApproverAwayResponse { approver, change_id })
}

/// The principal that a request is about: the caller, when it names none.
pub(super) fn or_caller(asked: &Admitted, name: String) -> String {
    if name.is_empty() { asked.caller.name.clone() } else { name }
}

/// The principal as it is now, if there is one, and the change that waits for a second administrator, or 0.
pub(super) async fn changed(
    asked: &Admitted,
    once: &Once,
    command: Command,
    name: &str,
) -> Result<(Option<v1::Approver>, u64), Status> {
    let event = once.propose(asked, command).await?;
    let now = || asked.house.cluster.peek(|state| state.principal(name).map(to_proto));
    match &*event {
        Event::PrincipalChanged { name: about, .. } if about == name => Ok((now(), 0)),
        Event::ChangeProposed { id } => Ok((now(), *id)),
        _ => Err(reused(name)),
    }
}

pub(super) fn role_to_proto(role: Role) -> v1::Role {
    match role {
        Role::Admin => v1::Role::Admin,
        Role::Approver => v1::Role::Approver,
        Role::Auditor => v1::Role::Auditor,
    }
}

fn role_from_proto(role: i32) -> Result<Role, Status> {
    match v1::Role::try_from(role) {
        Ok(v1::Role::Admin) => Ok(Role::Admin),
        Ok(v1::Role::Approver) => Ok(Role::Approver),
        Ok(v1::Role::Auditor) => Ok(Role::Auditor),
        Ok(v1::Role::Unspecified) | Err(_) => {
            Err(refuse::field("roles", "must be ROLE_ADMIN, ROLE_APPROVER or ROLE_AUDITOR"))
        }
    }
}

fn to_proto(principal: &Principal) -> v1::Approver {
    v1::Approver {
        name: principal.name.clone(),
        roles: principal.roles.iter().map(|role| role_to_proto(*role).into()).collect(),
        groups: principal.groups.iter().cloned().collect(),
        removed: !principal.active,
        created_at: timestamp(principal.created_at),
        away: principal.away.as_ref().map(|away| v1::Away {
            since: timestamp(away.since),
            until: timestamp(away.until),
            stand_in: away.stand_in.clone().unwrap_or_default(),
            reason: away.reason.clone(),
        }),
        accounts: principal.accounts.iter().map(account_to_proto).collect(),
    }
}
