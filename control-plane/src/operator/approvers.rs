//! Principals: who operates, approves and audits.

use std::collections::BTreeSet;

use countersign_proto::v1;
use tonic::Status;

use super::once::{Once, reused};
use super::page::{Page, timestamp};
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
    let approver = changed(asked, &once, command, &name).await?;
    Ok(v1::AddApproverResponse { approver: Some(approver), token: token.to_string() })
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
    let approver = changed(asked, &once, command, &request.name).await?;
    Ok(v1::RotateApproverTokenResponse { approver: Some(approver), token: token.to_string() })
}

pub(super) async fn remove(
    asked: &Admitted,
    request: v1::RemoveApproverRequest,
) -> Result<v1::RemoveApproverResponse, Status> {
    let once = Once::of(asked, "RemoveApprover", &request.request_id)?;
    let command = Command::RemovePrincipal { name: request.name.clone() };
    let approver = changed(asked, &once, command, &request.name).await?;
    Ok(v1::RemoveApproverResponse { approver: Some(approver) })
}

async fn changed(
    asked: &Admitted,
    once: &Once,
    command: Command,
    name: &str,
) -> Result<v1::Approver, Status> {
    let event = once.propose(asked, command).await?;
    match &*event {
        Event::PrincipalChanged { name: about, .. } if about == name => {
            let principal = asked.house.cluster.peek(|state| state.principal(name).map(to_proto));
            principal
                .ok_or_else(|| refuse::internal(&"a principal that was just changed is not there"))
        }
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
    }
}
