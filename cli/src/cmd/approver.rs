//! `countersign approver`.

use std::time::SystemTime;

use countersign_proto::v1;
use prost_types::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use super::change::waits;
use super::{every_page, part, yes_no};
use crate::args::{Approver, Groups, Link, Output, Role, Show, Unlink};
use crate::client;
use crate::context::Context;
use crate::failure::{Done, Failure};
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
            once(made.approver, Zeroizing::new(made.token), made.change_id, &show)
        }
        Approver::Away(away) => {
            let until = SystemTime::now().checked_add(away.lasts).map(Timestamp::from);
            let request = v1::SetApproverAwayRequest {
                request_id,
                name: away.name.unwrap_or_default(),
                until,
                stand_in: away.stand_in.unwrap_or_default(),
                reason: away.reason,
            };
            let answer = admin.set_approver_away(request).await?.into_inner();
            changed(answer.approver, answer.change_id, &away.show, |approver| {
                let until = approver.away.as_ref().and_then(|away| away.until);
                format!("{} is away until {}.", approver.name, print::time_or_dash(until.as_ref()))
            })
        }
        Approver::Back { name, show } => {
            let name = name.unwrap_or_default();
            let request = v1::SetApproverAwayRequest { request_id, name, ..Default::default() };
            let answer = admin.set_approver_away(request).await?.into_inner();
            changed(answer.approver, answer.change_id, &show, |approver| {
                format!("{} is back.", approver.name)
            })
        }
        Approver::Groups(Groups { name, groups, show }) => {
            let request = v1::SetApproverGroupsRequest { request_id, name, groups };
            let answer = admin.set_approver_groups(request).await?.into_inner();
            changed(answer.approver, answer.change_id, &show, |approver| {
                format!("{} belongs to: {}.", approver.name, print::words(&approver.groups))
            })
        }
        Approver::Link(Link { platform, show }) => {
            let request = v1::StartAccountLinkRequest { request_id, platform };
            let offer = admin.start_account_link(request).await?.into_inner();
            let expires_at = print::time(offer.expires_at.as_ref());
            match show.output {
                Output::Json => print::json(&Offer { code: &offer.code, expires_at }),
                Output::Table => print::line(&format!(
                    "Say `link {}` to Countersign from the account that is yours, before {}.",
                    offer.code,
                    expires_at.unwrap_or_default()
                )),
            }
        }
        Approver::Unlink(Unlink { account, of, show }) => {
            let account = parse_account(&account)?;
            let name = of.unwrap_or_default();
            let request = v1::UnlinkAccountRequest { request_id, name, account: Some(account) };
            let answer = admin.unlink_account(request).await?.into_inner();
            changed(answer.approver, 0, &show, |approver| {
                format!("It speaks for {} no more.", approver.name)
            })
        }
        Approver::List(show) => {
            list(every_page!(admin, list_approvers, ListApproversRequest {}, approvers), &show)
        }
        Approver::Remove(named) => {
            let request = v1::RemoveApproverRequest { request_id, name: named.name };
            let answer = admin.remove_approver(request).await?.into_inner();
            changed(answer.approver, answer.change_id, &named.show, |approver| {
                format!("{} is removed: its token opens nothing any more.", approver.name)
            })
        }
        Approver::Rotate(named) => {
            let request = v1::RotateApproverTokenRequest { request_id, name: named.name };
            let made = admin.rotate_approver_token(request).await?.into_inner();
            once(made.approver, Zeroizing::new(made.token), made.change_id, &named.show)
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
    /// What waits for a second administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<u64>,
}

#[derive(Serialize)]
struct Offer<'a> {
    code: &'a str,
    expires_at: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    approver: String,
    roles: Vec<&'static str>,
    groups: Vec<String>,
    removed: bool,
    created_at: Option<String>,
    away_until: Option<String>,
    stand_in: Option<String>,
    accounts: Vec<String>,
}

#[derive(Serialize)]
struct Changed {
    #[serde(flatten)]
    approver: Option<Listed>,
    /// What waits for a second administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<u64>,
}

impl From<v1::Approver> for Listed {
    fn from(approver: v1::Approver) -> Self {
        Self {
            roles: approver.roles().map(role_name).collect(),
            created_at: print::time(approver.created_at.as_ref()),
            away_until: approver.away.as_ref().and_then(|away| print::time(away.until.as_ref())),
            stand_in: approver.away.map(|away| away.stand_in).filter(|name| !name.is_empty()),
            accounts: approver.accounts.iter().map(account_name).collect(),
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

fn account_name(account: &v1::Account) -> String {
    format!("{}/{}/{}", account.platform, account.tenant, account.user)
}

pub(crate) fn parse_account(text: &str) -> Result<v1::Account, Failure> {
    let parts: Vec<_> = text.splitn(3, '/').map(str::to_owned).collect();
    match <[String; 3]>::try_from(parts) {
        Ok([platform, tenant, user]) => Ok(v1::Account { platform, tenant, user }),
        Err(_) => Err(Failure::Refused(format!(
            "{text} is no account: write PLATFORM/TENANT/USER, as the list shows it"
        ))),
    }
}

/// What became of it, or that it waits.
fn changed(
    approver: Option<v1::Approver>,
    change_id: u64,
    show: &Show,
    done: impl Fn(&v1::Approver) -> String,
) -> Done {
    if show.output == Output::Json {
        let change = Some(change_id).filter(|id| *id != 0);
        return print::json(&Changed { approver: approver.map(Listed::from), change });
    }
    match waits(change_id) {
        Some(waits) => print::line(&waits),
        None => print::line(&done(&part(approver)?)),
    }
}

/// The one time that a token is shown.
fn once(
    approver: Option<v1::Approver>,
    token: Zeroizing<String>,
    change_id: u64,
    show: &Show,
) -> Done {
    let approver = match approver {
        Some(approver) => approver,
        // It will come about when the change is confirmed.
        None if change_id != 0 => v1::Approver::default(),
        None => part(None)?,
    };
    let roles: Vec<_> = approver.roles().map(role_name).collect();
    if show.output == Output::Json {
        return print::json(&Once {
            approver: &approver.name,
            token: &token,
            roles,
            groups: &approver.groups,
            change: Some(change_id).filter(|id| *id != 0),
        });
    }
    print::facts(&[
        ("approver", approver.name.clone()),
        ("token", token.to_string()),
        ("roles", roles.join(", ")),
        ("groups", print::words(&approver.groups)),
    ])?;
    print::line("The token is shown this once.")?;
    waits(change_id).map_or(Ok(()), |waits| print::line(&waits))
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
            match (a.away_until, a.stand_in) {
                (Some(until), Some(other)) => format!("until {until}, {other} decides"),
                (Some(until), None) => format!("until {until}"),
                (None, _) => "no".into(),
            },
            yes_no(a.removed),
            a.created_at.unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = listed.into_iter().map(row).collect();
    print::table(
        &["APPROVER", "ROLES", "GROUPS", "AWAY", "REMOVED", "CREATED"],
        &rows,
        "There are no approvers.",
    )
}
