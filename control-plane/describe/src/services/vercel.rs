//! Vercel. The first segment is the call's version, and every version of a call does the same.

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::{Risk, Said};
use Risk::{Code, Destructive, Money, People, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let version = ask.segments.first().map_or("", String::as_str);
    let number = version.strip_prefix('v').unwrap_or_default();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let said = look_up(ask, ROWS)?;
    if said.is_some() {
        ask.fact("Team", "?teamId");
        ask.fact("Team", "?slug");
    }
    Ok(said)
}

const ROWS: &[Row] = &[
    Row(
        "DELETE",
        "/{v}/projects/{project}",
        Destructive,
        "Delete project {project} and all of its deployments",
        &[],
    ),
    Row("DELETE", "/{v}/deployments/{id}", Destructive, "Delete deployment {id}", &[]),
    Row("DELETE", "/{v}/domains/{domain}", Destructive, "Remove domain {domain}", &[]),
    Row("DELETE", "/{v}/teams/{team}", Destructive, "Delete team {team}", &[]),
    Row(
        "DELETE",
        "/{v}/domains/{domain}/records/{record}",
        Destructive,
        "Delete DNS record {record} of {domain}",
        &[],
    ),
    Row(
        "DELETE",
        "/{v}/projects/{project}/domains/{domain}",
        Destructive,
        "Take domain {domain} from project {project}",
        &[],
    ),
    Row(
        "DELETE",
        "/{v}/projects/{project}/env/{id}",
        Destructive,
        "Delete environment variable {id} of {project}",
        &[],
    ),
    Row("DELETE", "/{v}/aliases/{alias}", Destructive, "Delete alias {alias}", &[]),
    Row(
        "POST",
        "/{v}/domains/buy",
        Money,
        "Buy domain {.name}",
        &[("Domain", ".name"), ("Expected price", ".expectedPrice"), ("Renew", ".renew")],
    ),
    Row(
        "POST",
        "/{v}/teams/{team}/members",
        People,
        "Invite [{.email}][user {.uid}] into team {team}[ as {.role}]",
        &[("Address", ".email"), ("User", ".uid"), ("Role", ".role")],
    ),
    Row(
        "DELETE",
        "/{v}/teams/{team}/members/{user}",
        People,
        "Remove user {user} from team {team}",
        &[],
    ),
    Row(
        "POST",
        "/{v}/projects/{project}/env",
        People,
        "Set environment variables of project {project}[: {.key}]",
        &[("Name", ".key"), ("For", ".target"), ("Kind", ".type"), ("Overwrites", "?upsert")],
    ),
    Row(
        "PATCH",
        "/{v}/projects/{project}/env/{id}",
        People,
        "Change environment variable {id} of project {project}",
        &[("Name", ".key"), ("For", ".target"), ("Kind", ".type")],
    ),
    Row(
        "POST",
        "/{v}/deployments",
        Code,
        "Deploy {.name}[ to {.target}]",
        &[
            ("Project", ".project"),
            ("Name", ".name"),
            ("To", ".target"),
            ("From", ".gitSource"),
            ("Files", ".files"),
        ],
    ),
    Row(
        "POST",
        "/{v}/projects/{project}/promote/{id}",
        Code,
        "Make deployment {id} the production of {project}",
        &[],
    ),
    Row(
        "POST",
        "/{v}/projects/{project}/rollback/{id}",
        Code,
        "Roll the production of {project} back to deployment {id}",
        &[],
    ),
    Row(
        "POST",
        "/{v}/deployments/{id}/aliases",
        Write,
        "Point {.alias} to deployment {id}",
        &[("Alias", ".alias")],
    ),
    Row(
        "POST",
        "/{v}/domains/{domain}/records",
        Write,
        "Add a {.type} record to {domain}[: {.name}][ is {.value}]",
        &[("Kind", ".type"), ("Name", ".name"), ("Value", ".value"), ("TTL, s", ".ttl")],
    ),
    Row(
        "POST",
        "/{v}/projects/{project}/domains",
        Write,
        "Give project {project} the domain {.name}",
        &[("Domain", ".name"), ("Redirects to", ".redirect"), ("Branch", ".gitBranch")],
    ),
    Row(
        "PATCH",
        "/{v}/projects/{project}",
        Write,
        "Change settings of project {project}",
        &[
            ("Build command", ".buildCommand"),
            ("Install command", ".installCommand"),
            ("Public source", ".publicSource"),
            ("Protection", ".ssoProtection"),
            ("Password", ".passwordProtection"),
        ],
    ),
    Row(
        "POST",
        "/{v}/projects",
        Write,
        "Create project {.name}",
        &[
            ("Name", ".name"),
            ("Repository", ".gitRepository"),
            ("Variables", ".environmentVariables"),
        ],
    ),
    Row("GET", "/{v}/projects/{project}", Read, "Read project {project}", &[]),
    Row(
        "GET",
        "/{v}/projects/{project}/env",
        Read,
        "Read environment variables of project {project}",
        &[("Decrypted", "?decrypt")],
    ),
];
