//! GitLab's REST API. Projects and files are named by encoded paths: `acme%2Fprod`.

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::{Risk, Said};
use Risk::{Code, Destructive, Messages, People, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let public = ask.is(".visibility", "public");
    if ask.method == "PUT" && public {
        return look_up(ask, PUBLIC);
    }
    look_up(ask, ROWS)
}

const PUBLIC: &[Row] = &[
    Row(
        "PUT",
        "/api/v4/projects/{project}",
        People,
        "Make project {project} public",
        &[("Visibility", ".visibility")],
    ),
    Row(
        "PUT",
        "/api/v4/groups/{group}",
        People,
        "Make group {group} public",
        &[("Visibility", ".visibility")],
    ),
];

const ROWS: &[Row] = &[
    Row("DELETE", "/api/v4/projects/{project}", Destructive, "Delete project {project}", &[]),
    Row(
        "DELETE",
        "/api/v4/groups/{group}",
        Destructive,
        "Delete group {group} and all of its projects",
        &[],
    ),
    Row(
        "DELETE",
        "/api/v4/projects/{project}/repository/branches/{branch}",
        Destructive,
        "Delete branch {branch} of {project}",
        &[],
    ),
    Row(
        "DELETE",
        "/api/v4/projects/{project}/repository/merged_branches",
        Destructive,
        "Delete all merged branches of {project}",
        &[],
    ),
    Row(
        "DELETE",
        "/api/v4/projects/{project}/repository/tags/{tag}",
        Destructive,
        "Delete tag {tag} of {project}",
        &[],
    ),
    Row(
        "DELETE",
        "/api/v4/projects/{project}/repository/files/{file}",
        Destructive,
        "Delete file {file} in {project} on branch {.branch}",
        &[("Branch", ".branch"), ("Commit message", ".commit_message")],
    ),
    Row(
        "DELETE",
        "/api/v4/projects/{project}/registry/repositories/{id}",
        Destructive,
        "Delete container repository {id} of {project}",
        &[],
    ),
    Row(
        "DELETE",
        "/api/v4/projects/{project}/packages/{id}",
        Destructive,
        "Delete package {id} of {project}",
        &[],
    ),
    Row(
        "PUT",
        "/api/v4/projects/{project}/transfer",
        Destructive,
        "Give project {project} away to {.namespace}",
        &[("To", ".namespace")],
    ),
    Row(
        "DELETE",
        "/api/v4/projects/{project}/protected_branches/{branch}",
        People,
        "Remove the protection of branch {branch} in {project}",
        &[],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/protected_branches",
        People,
        "Protect branch {.name} of {project}",
        &[
            ("Branch", ".name"),
            ("Push", ".push_access_level"),
            ("Merge", ".merge_access_level"),
            ("Force pushes", ".allow_force_push"),
        ],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/members",
        People,
        "Give user {.user_id} access to project {project}, level {.access_level}",
        &[("User", ".user_id"), ("Level", ".access_level"), ("Until", ".expires_at")],
    ),
    Row(
        "PUT",
        "/api/v4/projects/{project}/members/{user}",
        People,
        "Change the access of user {user} to project {project} to level {.access_level}",
        &[("Level", ".access_level"), ("Until", ".expires_at")],
    ),
    Row(
        "DELETE",
        "/api/v4/projects/{project}/members/{user}",
        People,
        "Take access to project {project} from user {user}",
        &[],
    ),
    Row(
        "POST",
        "/api/v4/groups/{group}/members",
        People,
        "Give user {.user_id} access to group {group}, level {.access_level}",
        &[("User", ".user_id"), ("Level", ".access_level"), ("Until", ".expires_at")],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/access_tokens",
        People,
        "Make an access token for project {project}: {'.name}",
        &[
            ("Name", ".name"),
            ("Scopes", ".scopes"),
            ("Level", ".access_level"),
            ("Until", ".expires_at"),
        ],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/deploy_keys",
        People,
        "Add a deploy key to {project}: {'.title}",
        &[("Key", ".key"), ("May push", ".can_push"), ("Title", ".title")],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/hooks",
        People,
        "Send events of {project} to {.url}",
        &[("Address", ".url"), ("Certificates checked", ".enable_ssl_verification")],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/variables",
        People,
        "Set the CI variable {.key} of {project}",
        &[
            ("Name", ".key"),
            ("Protected", ".protected"),
            ("Masked", ".masked"),
            ("Environment", ".environment_scope"),
        ],
    ),
    Row(
        "PUT",
        "/api/v4/projects/{project}/variables/{name}",
        People,
        "Set the CI variable {name} of {project}",
        &[("Protected", ".protected"), ("Masked", ".masked")],
    ),
    Row(
        "DELETE",
        "/api/v4/projects/{project}/variables/{name}",
        Destructive,
        "Delete the CI variable {name} of {project}",
        &[],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/pipeline",
        Code,
        "Run a pipeline of {project} on [{.ref}][{?ref}]",
        &[("Ref", ".ref"), ("Ref", "?ref"), ("Variables", ".variables"), ("Inputs", ".inputs")],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/jobs/{job}/play",
        Code,
        "Run job {job} of {project}",
        &[("Variables", ".job_variables_attributes")],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/pipelines/{id}/retry",
        Code,
        "Run pipeline {id} of {project} again",
        &[],
    ),
    Row(
        "PUT",
        "/api/v4/projects/{project}/merge_requests/{number}/merge",
        Write,
        "Merge merge request !{number} of {project}",
        &[
            ("Squash", ".squash"),
            ("Only if it is at", ".sha"),
            ("When its pipeline succeeds", ".merge_when_pipeline_succeeds"),
            ("Delete its branch", ".should_remove_source_branch"),
        ],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/repository/commits",
        Write,
        "Commit to branch {.branch} of {project}: {'.commit_message}",
        &[
            ("Branch", ".branch"),
            ("Message", ".commit_message"),
            ("Actions", ".actions"),
            ("Force", ".force"),
            ("From", ".start_branch"),
        ],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/repository/files/{file}",
        Write,
        "Create file {file} in {project} on branch {.branch}",
        &[("Branch", ".branch"), ("Message", ".commit_message"), ("Content", ".content")],
    ),
    Row(
        "PUT",
        "/api/v4/projects/{project}/repository/files/{file}",
        Write,
        "Write file {file} in {project} on branch {.branch}",
        &[("Branch", ".branch"), ("Message", ".commit_message"), ("Content", ".content")],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/merge_requests",
        Messages,
        "Open a merge request in {project}: {'.title}",
        &[
            ("Title", ".title"),
            ("From", ".source_branch"),
            ("Into", ".target_branch"),
            ("Text", ".description"),
        ],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/merge_requests/{number}/approve",
        Write,
        "Approve merge request !{number} of {project}",
        &[("At", ".sha")],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/merge_requests/{number}/notes",
        Messages,
        "Comment on merge request !{number} of {project}: {'.body}",
        &[("Text", ".body")],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/issues",
        Messages,
        "Open an issue in {project}: {'.title}",
        &[("Title", ".title"), ("Text", ".description"), ("Labels", ".labels")],
    ),
    Row(
        "PUT",
        "/api/v4/projects/{project}/issues/{number}",
        Write,
        "Change issue #{number} of {project}[: {.state_event}]",
        &[
            ("State", ".state_event"),
            ("Title", ".title"),
            ("Text", ".description"),
            ("Labels", ".labels"),
        ],
    ),
    Row(
        "POST",
        "/api/v4/projects/{project}/issues/{number}/notes",
        Messages,
        "Comment on issue #{number} of {project}: {'.body}",
        &[("Text", ".body")],
    ),
    Row(
        "POST",
        "/api/v4/projects",
        Write,
        "Create project {.name}",
        &[
            ("Name", ".name"),
            ("Path", ".path"),
            ("In", ".namespace_id"),
            ("Visibility", ".visibility"),
        ],
    ),
    Row("GET", "/api/v4/projects/{project}", Read, "Read project {project}", &[]),
    Row(
        "GET",
        "/api/v4/projects/{project}/variables",
        Read,
        "Read all CI variables of {project}, their values too",
        &[],
    ),
];
