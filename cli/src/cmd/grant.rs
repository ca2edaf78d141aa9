//! `countersign grant`: votes ahead of the requests.

use countersign_proto::v1;
use serde::Serialize;

use super::{every_page, part};
use crate::args::{Grant, Output, Show};
use crate::client;
use crate::context::Context;
use crate::failure::Done;
use crate::print;

pub(crate) async fn run(context: &Context, command: Grant) -> Done {
    let mut admin = client::connect(context).await?;
    let request_id = client::request_id();
    match command {
        Grant::Create { approval, path, uses, lasts, reason, show } => {
            let request = v1::CreateGrantRequest {
                request_id,
                approval_id: approval,
                path: path.unwrap_or_default(),
                most_uses: uses,
                ttl_seconds: lasts.as_secs(),
                reason,
            };
            put(part(admin.create_grant(request).await?.into_inner().grant)?, &show)
        }
        Grant::List(show) => {
            list(every_page!(admin, list_grants, ListGrantsRequest {}, grants), &show)
        }
        Grant::Support(told) => {
            let request =
                v1::SupportGrantRequest { request_id, grant_id: told.id, reason: told.reason };
            put(part(admin.support_grant(request).await?.into_inner().grant)?, &told.show)
        }
        Grant::Revoke(told) => {
            let request =
                v1::RevokeGrantRequest { request_id, grant_id: told.id, reason: told.reason };
            put(part(admin.revoke_grant(request).await?.into_inner().grant)?, &told.show)
        }
    }
}

#[derive(Serialize)]
struct Listed {
    grant: String,
    agent: String,
    host: String,
    port: u32,
    method: String,
    path: String,
    given_by: Vec<String>,
    uses: usize,
    most_uses: u32,
    usable: bool,
    revoked_by: Option<String>,
    created_at: Option<String>,
    expires_at: Option<String>,
}

impl From<v1::Grant> for Listed {
    fn from(grant: v1::Grant) -> Self {
        Self {
            grant: grant.grant_id,
            agent: grant.agent,
            host: grant.host,
            port: grant.port,
            method: grant.method,
            path: grant.path,
            given_by: grant.votes.into_iter().map(|vote| vote.approver).collect(),
            uses: grant.uses.len(),
            most_uses: grant.most_uses,
            usable: grant.usable,
            revoked_by: Some(grant.revoked_by).filter(|by| !by.is_empty()),
            created_at: print::time(grant.created_at.as_ref()),
            expires_at: print::time(grant.expires_at.as_ref()),
        }
    }
}

fn put(grant: v1::Grant, show: &Show) -> Done {
    let grant = Listed::from(grant);
    if show.output == Output::Json {
        return print::json(&grant);
    }
    let standing = if grant.usable { "can be used" } else { "is at its end" };
    print::line(&format!(
        "Grant {} {standing}: {} may {} https://{}:{}{}, {} of {} uses, until {}.",
        grant.grant,
        grant.agent,
        grant.method,
        grant.host,
        grant.port,
        grant.path,
        grant.uses,
        grant.most_uses,
        grant.expires_at.unwrap_or_default(),
    ))
}

fn list(grants: Vec<v1::Grant>, show: &Show) -> Done {
    let listed: Vec<Listed> = grants.into_iter().map(Listed::from).collect();
    if show.output == Output::Json {
        return print::json(&listed);
    }
    let row = |grant: Listed| {
        let state = match (&grant.revoked_by, grant.usable) {
            (Some(by), _) => format!("revoked by {by}"),
            (None, true) => "usable".into(),
            (None, false) => "ended".into(),
        };
        vec![
            grant.grant,
            state,
            grant.agent,
            format!("{} {}:{}{}", grant.method, grant.host, grant.port, grant.path),
            format!("{} of {}", grant.uses, grant.most_uses),
            grant.given_by.join(", "),
            grant.expires_at.unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = listed.into_iter().map(row).collect();
    print::table(
        &["GRANT", "STATE", "AGENT", "REQUESTS", "USES", "GIVEN BY", "UNTIL"],
        &rows,
        "There are no grants.",
    )
}
