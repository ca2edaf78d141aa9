//! `countersign approver`.

use countersign_proto::v1;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{every_page, part, yes_no};
use crate::args::{Approver, Output, Role, Show};
use crate::client;
use crate::context::Context;
use crate::failure::Done;
use crate::print;

pub(crate) async fn run(context: &Context, command: Approver) -> Done {
    let mut admin = client::connect(context).await?;
    let request_id = client::request_id();
    match command {
        Approver::Add { name, roles, groups, show } => {
            let roles = roles.into_iter().map(|role| v1::Role::from(role).into()).collect();
            let made = admin
                .add_approver(v1::AddApproverRequest { request_id, name, roles, groups })
                .await?
                .into_inner();
            once(part(made.approver)?, Zeroizing::new(made.token), &show)
        }
        Approver::List(show) => {
            list(every_page!(admin, list_approvers, ListApproversRequest {}, approvers), &show)
        }
        Approver::Remove(named) => {
            let request = v1::RemoveApproverRequest { request_id, name: named.name };
            let approver = part(admin.remove_approver(request).await?.into_inner().approver)?;
            match named.show.output {
                Output::Json => print::json(&Listed::from(approver)),
                Output::Table => print::line(&format!(
                    "{} is removed: its token opens nothing any more.",
                    approver.name
                )),
            }
        }
        Approver::Rotate(named) => {
            let request = v1::RotateApproverTokenRequest { request_id, name: named.name };
            let made = admin.rotate_approver_token(request).await?.into_inner();
            once(part(made.approver)?, Zeroizing::new(made.token), &named.show)
        }
    }
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Approver => Self::Approver,
            Role::Auditor => Self::Auditor,
        }
    }
}

#[derive(Serialize)]
struct Once<'a> {
    approver: &'a str,
    token: &'a str,
    roles: Vec<&'static str>,
    groups: &'a [String],
}

#[derive(Serialize)]
struct Listed {
    approver: String,
    roles: Vec<&'static str>,
    groups: Vec<String>,
    removed: bool,
    created_at: Option<String>,
}

impl From<v1::Approver> for Listed {
    fn from(approver: v1::Approver) -> Self {
        Self {
            roles: approver.roles().map(role_name).collect(),
            created_at: print::time(approver.created_at.as_ref()),
            approver: approver.name,
            groups: approver.groups,
            removed: approver.removed,
        }
    }
}

pub(crate) fn role_name(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Admin => "admin",
        v1::Role::Approver => "approver",
        v1::Role::Auditor => "auditor",
        v1::Role::Unspecified => "unknown",
    }
}

/// The one time that a token is shown.
fn once(approver: v1::Approver, token: Zeroizing<String>, show: &Show) -> Done {
    let roles: Vec<_> = approver.roles().map(role_name).collect();
    if show.output == Output::Json {
        return print::json(&Once {
            approver: &approver.name,
            token: &token,
            roles,
            groups: &approver.groups,
        });
    }
    print::facts(&[
        ("approver", approver.name.clone()),
        ("token", token.to_string()),
        ("roles", roles.join(", ")),
        ("groups", print::words(&approver.groups)),
    ])?;
    print::line("The token is shown this once.")
}

fn list(approvers: Vec<v1::Approver>, show: &Show) -> Done {
    let listed: Vec<Listed> = approvers.into_iter().map(Listed::from).collect();
    if show.output == Output::Json {
        return print::json(&listed);
    }
    let row = |a: Listed| {
        vec![
            a.approver,
            a.roles.join(", "),
            print::words(&a.groups),
            yes_no(a.removed),
            a.created_at.unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = listed.into_iter().map(row).collect();
    print::table(
        &["APPROVER", "ROLES", "GROUPS", "REMOVED", "CREATED"],
        &rows,
        "There are no approvers.",
    )
}
