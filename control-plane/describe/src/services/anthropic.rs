//! Anthropic: files, batches and administration. Calls of models are no concern here.

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::{Risk, Said};
use Risk::{Code, Destructive, People, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    // So the SDK marks calls in beta.
    if ask.is("?beta", "true") {
        ask.cover("?beta");
    }
    look_up(ask, ROWS)
}

const ROWS: &[Row] = &[
    Row("DELETE", "/v1/files/{file}", Destructive, "Delete file {file}", &[]),
    Row("DELETE", "/v1/messages/batches/{batch}", Destructive, "Delete batch {batch}", &[]),
    Row("POST", "/v1/messages/batches/{batch}/cancel", Destructive, "Cancel batch {batch}", &[]),
    Row("DELETE", "/v1/skills/{skill}", Destructive, "Delete skill {skill}", &[]),
    Row(
        "DELETE",
        "/v1/organizations/users/{user}",
        People,
        "Remove user {user} from the organisation",
        &[],
    ),
    Row(
        "POST",
        "/v1/organizations/users/{user}",
        People,
        "Make user {user} {.role} of the organisation",
        &[("Role", ".role")],
    ),
    Row(
        "POST",
        "/v1/organizations/invites",
        People,
        "Invite {.email} into the organisation as {.role}",
        &[("Address", ".email"), ("Role", ".role")],
    ),
    Row(
        "DELETE",
        "/v1/organizations/invites/{invite}",
        People,
        "Take back invitation {invite}",
        &[],
    ),
    Row(
        "POST",
        "/v1/organizations/workspaces/{workspace}/archive",
        Destructive,
        "Archive workspace {workspace}, which cannot be undone",
        &[],
    ),
    Row(
        "POST",
        "/v1/organizations/workspaces/{workspace}/members",
        People,
        "Put user {.user_id} into workspace {workspace} as {.workspace_role}",
        &[("User", ".user_id"), ("Role", ".workspace_role")],
    ),
    Row(
        "POST",
        "/v1/organizations/workspaces/{workspace}/members/{user}",
        People,
        "Make user {user} {.workspace_role} of workspace {workspace}",
        &[("Role", ".workspace_role")],
    ),
    Row(
        "DELETE",
        "/v1/organizations/workspaces/{workspace}/members/{user}",
        People,
        "Remove user {user} from workspace {workspace}",
        &[],
    ),
    Row(
        "POST",
        "/v1/organizations/workspaces",
        Write,
        "Create workspace {'.name}",
        &[("Name", ".name")],
    ),
    Row(
        "POST",
        "/v1/organizations/api_keys/{key}",
        People,
        "Change API key {key}[: {.status}]",
        &[("Status", ".status"), ("Name", ".name")],
    ),
    Row(
        "POST",
        "/v1/messages/batches",
        Code,
        "Run a batch of requests",
        &[("Requests", ".requests")],
    ),
    Row("POST", "/v1/files", Write, "Upload a file", &[]),
    Row("GET", "/v1/files/{file}/content", Read, "Read file {file}", &[]),
    Row("GET", "/v1/files", Read, "List files", &[]),
];
