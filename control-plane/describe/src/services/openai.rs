//! OpenAI: files and administration. Calls of models are no concern here.

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::{Risk, Said};
use Risk::{Code, Destructive, People, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let said = look_up(ask, ROWS)?;
    if said.is_some() {
        ask.fact("Organisation", "@openai-organization");
        ask.fact("Project", "@openai-project");
    }
    Ok(said)
}

const ROWS: &[Row] = &[
    Row("DELETE", "/v1/files/{file}", Destructive, "Delete file {file}", &[]),
    Row("DELETE", "/v1/models/{model}", Destructive, "Delete the fine-tuned model {model}", &[]),
    Row("DELETE", "/v1/vector_stores/{store}", Destructive, "Delete vector store {store}", &[]),
    Row(
        "DELETE",
        "/v1/vector_stores/{store}/files/{file}",
        Destructive,
        "Take file {file} out of vector store {store}",
        &[],
    ),
    Row("DELETE", "/v1/assistants/{assistant}", Destructive, "Delete assistant {assistant}", &[]),
    Row(
        "DELETE",
        "/v1/conversations/{conversation}",
        Destructive,
        "Delete conversation {conversation}",
        &[],
    ),
    Row("DELETE", "/v1/containers/{container}", Destructive, "Delete container {container}", &[]),
    Row(
        "DELETE",
        "/v1/organization/users/{user}",
        People,
        "Remove user {user} from the organisation",
        &[],
    ),
    Row(
        "POST",
        "/v1/organization/users/{user}",
        People,
        "Make user {user} {.role} of the organisation",
        &[("Role", ".role")],
    ),
    Row(
        "POST",
        "/v1/organization/invites",
        People,
        "Invite {.email} into the organisation as {.role}",
        &[("Address", ".email"), ("Role", ".role"), ("Projects", ".projects")],
    ),
    Row(
        "DELETE",
        "/v1/organization/invites/{invite}",
        People,
        "Take back invitation {invite}",
        &[],
    ),
    Row(
        "POST",
        "/v1/organization/admin_api_keys",
        People,
        "Make an administrator's API key: {'.name}",
        &[("Name", ".name")],
    ),
    Row(
        "DELETE",
        "/v1/organization/admin_api_keys/{key}",
        Destructive,
        "Delete the administrator's API key {key}",
        &[],
    ),
    Row(
        "POST",
        "/v1/organization/projects",
        Write,
        "Create project {'.name}",
        &[("Name", ".name")],
    ),
    Row(
        "POST",
        "/v1/organization/projects/{project}/archive",
        Destructive,
        "Archive project {project}, which cannot be undone",
        &[],
    ),
    Row(
        "POST",
        "/v1/organization/projects/{project}/users",
        People,
        "Put user {.user_id} into project {project} as {.role}",
        &[("User", ".user_id"), ("Role", ".role")],
    ),
    Row(
        "DELETE",
        "/v1/organization/projects/{project}/users/{user}",
        People,
        "Remove user {user} from project {project}",
        &[],
    ),
    Row(
        "POST",
        "/v1/organization/projects/{project}/service_accounts",
        People,
        "Make a service account, with a key, in project {project}: {'.name}",
        &[("Name", ".name")],
    ),
    Row(
        "DELETE",
        "/v1/organization/projects/{project}/service_accounts/{account}",
        Destructive,
        "Delete service account {account} of project {project}",
        &[],
    ),
    Row(
        "DELETE",
        "/v1/organization/projects/{project}/api_keys/{key}",
        Destructive,
        "Delete API key {key} of project {project}",
        &[],
    ),
    Row(
        "POST",
        "/v1/organization/projects/{project}/rate_limits/{limit}",
        Write,
        "Change rate limit {limit} of project {project}",
        &[],
    ),
    Row(
        "POST",
        "/v1/fine_tuning/jobs",
        Code,
        "Fine-tune {.model} with file {.training_file}",
        &[
            ("Model", ".model"),
            ("Data", ".training_file"),
            ("Check", ".validation_file"),
            ("Name", ".suffix"),
        ],
    ),
    Row(
        "POST",
        "/v1/fine_tuning/jobs/{job}/cancel",
        Destructive,
        "Cancel fine-tuning job {job}",
        &[],
    ),
    Row(
        "POST",
        "/v1/batches",
        Code,
        "Run the batch of requests in file {.input_file_id} on {.endpoint}",
        &[("File", ".input_file_id"), ("At", ".endpoint"), ("Within", ".completion_window")],
    ),
    Row("POST", "/v1/batches/{batch}/cancel", Destructive, "Cancel batch {batch}", &[]),
    Row(
        "POST",
        "/v1/vector_stores/{store}/files",
        Write,
        "Put file {.file_id} into vector store {store}",
        &[("File", ".file_id")],
    ),
    Row("POST", "/v1/files", Write, "Upload a file", &[]),
    Row("GET", "/v1/files/{file}/content", Read, "Read file {file}", &[]),
    Row("GET", "/v1/files", Read, "List files", &[("Purpose", "?purpose")]),
];
