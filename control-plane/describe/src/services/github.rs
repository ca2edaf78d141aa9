//! GitHub: REST and GraphQL. Pushes are `git`.

use super::graphql;
use crate::ask::Ask;
use crate::table::{Row, look_up, matched};
use crate::words::word;
use crate::{Risk, Said};
use Risk::{Code, Destructive, Messages, People, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    if ask.method == "POST" && ask.segments == ["graphql"] {
        return graphql::describe(ask, "GitHub", MUTATIONS);
    }
    if ask.method == "PATCH"
        && let Some(names) = matched("/repos/{owner}/{repo}", &ask.segments)
    {
        return change_repository(ask, &names);
    }
    if ask.method == "PATCH"
        && matched("/repos/{owner}/{repo}/git/refs/{ref...}", &ask.segments).is_some()
        && ask.is(".force", "true")
    {
        return look_up(ask, FORCED);
    }
    look_up(ask, ROWS)
}

/// One call with many meanings: the worst of them is the sentence.
fn change_repository(ask: &mut Ask<'_>, names: &[(&str, String)]) -> Said {
    let whole: Vec<_> = names.iter().map(|(_, name)| name.as_str()).collect();
    let name = word(&whole.join("/"));
    ask.json()?;
    // Some clients name the repository in every change.
    let renamed = ask.text(".name").filter(|new| whole.last() != Some(&new.as_str()));
    let public = ask.is(".private", "false") || ask.is(".visibility", "public");
    let (risk, sentence) = if public {
        (People, format!("Make repository {name} public"))
    } else if ask.is(".archived", "true") {
        (Write, format!("Archive repository {name}"))
    } else if renamed.is_some() {
        (Write, format!("Rename repository {name} to {}", word(&renamed.unwrap_or_default())))
    } else if ask.has(".private") || ask.has(".visibility") || ask.has(".security_and_analysis") {
        (People, format!("Change who may see repository {name}, or its security settings"))
    } else {
        (Write, format!("Change settings of repository {name}"))
    };
    for (fact, field) in [
        ("Private", ".private"),
        ("Visibility", ".visibility"),
        ("Archived", ".archived"),
        ("New name", ".name"),
        ("Default branch", ".default_branch"),
        ("Security", ".security_and_analysis"),
    ] {
        ask.fact(fact, field);
    }
    Ok(Some((risk, sentence)))
}

const FORCED: &[Row] = &[Row(
    "PATCH",
    "/repos/{owner}/{repo}/git/refs/{ref...}",
    Destructive,
    "Overwrite {ref} of {owner}/{repo} with {.sha}, even if commits are lost",
    &[("Commit", ".sha"), ("Force", ".force")],
)];

const ROWS: &[Row] = &[
    // What is gone for good.
    Row("DELETE", "/repos/{owner}/{repo}", Destructive, "Delete repository {owner}/{repo}", &[]),
    Row(
        "DELETE",
        "/orgs/{org}",
        Destructive,
        "Delete the organisation {org} and all of its repositories",
        &[],
    ),
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/git/refs/{ref...}",
        Destructive,
        "Delete {ref} of {owner}/{repo}",
        &[],
    ),
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/releases/{id}",
        Destructive,
        "Delete release {id} of {owner}/{repo}",
        &[],
    ),
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/releases/assets/{id}",
        Destructive,
        "Delete release asset {id} of {owner}/{repo}",
        &[],
    ),
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/contents/{path...}",
        Destructive,
        "Delete file {path} in {owner}/{repo}[ on branch {.branch}]",
        &[("Commit message", ".message"), ("Branch", ".branch"), ("Replaces", ".sha")],
    ),
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/issues/comments/{id}",
        Destructive,
        "Delete comment {id} in {owner}/{repo}",
        &[],
    ),
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/actions/runs/{id}",
        Destructive,
        "Delete workflow run {id} of {owner}/{repo}",
        &[],
    ),
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/environments/{name}",
        Destructive,
        "Delete environment {name} of {owner}/{repo}",
        &[],
    ),
    Row(
        "DELETE",
        "/orgs/{org}/packages/{kind}/{name}",
        Destructive,
        "Delete {kind} package {name} of {org}",
        &[],
    ),
    Row("DELETE", "/gists/{id}", Destructive, "Delete gist {id}", &[]),
    Row(
        "POST",
        "/repos/{owner}/{repo}/transfer",
        Destructive,
        "Give repository {owner}/{repo} away to {.new_owner}",
        &[("New owner", ".new_owner"), ("New name", ".new_name"), ("Teams", ".team_ids")],
    ),
    // Who may do what.
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/branches/{branch}/protection",
        People,
        "Remove the protection of branch {branch} in {owner}/{repo}",
        &[],
    ),
    Row(
        "PUT",
        "/repos/{owner}/{repo}/branches/{branch}/protection",
        People,
        "Set the protection of branch {branch} in {owner}/{repo}",
        &[
            ("Reviews", ".required_pull_request_reviews"),
            ("Checks", ".required_status_checks"),
            ("For administrators too", ".enforce_admins"),
            ("Who may push", ".restrictions"),
            ("Force pushes", ".allow_force_pushes"),
            ("Deletions", ".allow_deletions"),
        ],
    ),
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/rulesets/{id}",
        People,
        "Delete ruleset {id} of {owner}/{repo}",
        &[],
    ),
    Row(
        "PUT",
        "/repos/{owner}/{repo}/rulesets/{id}",
        People,
        "Change ruleset {id} of {owner}/{repo}",
        &[
            ("Enforcement", ".enforcement"),
            ("Who may bypass it", ".bypass_actors"),
            ("Rules", ".rules"),
        ],
    ),
    Row(
        "PUT",
        "/repos/{owner}/{repo}/collaborators/{user}",
        People,
        "Give {user} access to {owner}/{repo}[ as {.permission}]",
        &[("Permission", ".permission")],
    ),
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/collaborators/{user}",
        People,
        "Take access to {owner}/{repo} from {user}",
        &[],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/keys",
        People,
        "Add a deploy key to {owner}/{repo}[: {'.title}]",
        &[("Key", ".key"), ("Read only", ".read_only"), ("Title", ".title")],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/hooks",
        People,
        "Send events of {owner}/{repo} to {.config.url}",
        &[
            ("Address", ".config.url"),
            ("Events", ".events"),
            ("Certificates unchecked", ".config.insecure_ssl"),
            ("Active", ".active"),
        ],
    ),
    Row(
        "POST",
        "/orgs/{org}/hooks",
        People,
        "Send events of the organisation {org} to {.config.url}",
        &[("Address", ".config.url"), ("Events", ".events")],
    ),
    Row(
        "PUT",
        "/orgs/{org}/memberships/{user}",
        People,
        "Make {user} a member of {org}[ as {.role}]",
        &[("Role", ".role")],
    ),
    Row("DELETE", "/orgs/{org}/memberships/{user}", People, "Remove {user} from {org}", &[]),
    Row("DELETE", "/orgs/{org}/members/{user}", People, "Remove {user} from {org}", &[]),
    Row(
        "POST",
        "/orgs/{org}/invitations",
        People,
        "Invite [{.email}][account {.invitee_id}] to {org}[ as {.role}]",
        &[
            ("Address", ".email"),
            ("Account", ".invitee_id"),
            ("Role", ".role"),
            ("Teams", ".team_ids"),
        ],
    ),
    Row(
        "PUT",
        "/orgs/{org}/teams/{team}/memberships/{user}",
        People,
        "Put {user} into team {team} of {org}[ as {.role}]",
        &[("Role", ".role")],
    ),
    Row(
        "PUT",
        "/orgs/{org}/teams/{team}/repos/{owner}/{repo}",
        People,
        "Give team {team} of {org} access to {owner}/{repo}[ as {.permission}]",
        &[("Permission", ".permission")],
    ),
    Row(
        "PUT",
        "/repos/{owner}/{repo}/actions/secrets/{name}",
        People,
        "Set the secret {name} of {owner}/{repo}",
        &[("Encrypted value", ".encrypted_value"), ("For key", ".key_id")],
    ),
    Row(
        "DELETE",
        "/repos/{owner}/{repo}/actions/secrets/{name}",
        Destructive,
        "Delete the secret {name} of {owner}/{repo}",
        &[],
    ),
    Row(
        "PUT",
        "/orgs/{org}/actions/secrets/{name}",
        People,
        "Set the secret {name} of the organisation {org}",
        &[("Visible to", ".visibility"), ("Repositories", ".selected_repository_ids")],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/actions/runners/registration-token",
        People,
        "Make a token that registers runners for {owner}/{repo}",
        &[],
    ),
    Row(
        "POST",
        "/user/keys",
        People,
        "Add an SSH key to this account[: {'.title}]",
        &[("Key", ".key"), ("Title", ".title")],
    ),
    // What runs.
    Row(
        "POST",
        "/repos/{owner}/{repo}/actions/workflows/{workflow}/dispatches",
        Code,
        "Run workflow {workflow} of {owner}/{repo} on {.ref}",
        &[("Ref", ".ref"), ("Inputs", ".inputs")],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/dispatches",
        Code,
        "Start workflows of {owner}/{repo} by event {.event_type}",
        &[("Event", ".event_type"), ("Payload", ".client_payload")],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/deployments",
        Code,
        "Deploy {.ref} of {owner}/{repo}[ to {.environment}]",
        &[
            ("Ref", ".ref"),
            ("Environment", ".environment"),
            ("Required checks", ".required_contexts"),
        ],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/actions/runs/{id}/rerun",
        Code,
        "Run workflow run {id} of {owner}/{repo} again",
        &[],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/actions/runs/{id}/pending_deployments",
        Code,
        "Answer {.state} for waiting deployments of run {id} in {owner}/{repo}",
        &[("Answer", ".state"), ("Environments", ".environment_ids"), ("Comment", ".comment")],
    ),
    // Branches and code.
    Row(
        "PUT",
        "/repos/{owner}/{repo}/pulls/{number}/merge",
        Write,
        "Merge pull request #{number} of {owner}/{repo}[ by {.merge_method}]",
        &[
            ("How", ".merge_method"),
            ("Only if it is at", ".sha"),
            ("Title", ".commit_title"),
            ("Message", ".commit_message"),
        ],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/merges",
        Write,
        "Merge {.head} into {.base} in {owner}/{repo}",
        &[("From", ".head"), ("Into", ".base"), ("Message", ".commit_message")],
    ),
    Row(
        "PUT",
        "/repos/{owner}/{repo}/contents/{path...}",
        Write,
        "Write file {path} in {owner}/{repo}[ on branch {.branch}]",
        &[
            ("Commit message", ".message"),
            ("Branch", ".branch"),
            ("Replaces", ".sha"),
            ("Content, base64", ".content"),
        ],
    ),
    Row(
        "PATCH",
        "/repos/{owner}/{repo}/git/refs/{ref...}",
        Write,
        "Move {ref} of {owner}/{repo} forward to {.sha}",
        &[("Commit", ".sha"), ("Force", ".force")],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/git/refs",
        Write,
        "Create {.ref} in {owner}/{repo} at {.sha}",
        &[("Ref", ".ref"), ("Commit", ".sha")],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/releases",
        Messages,
        "Publish release {.tag_name} of {owner}/{repo}",
        &[
            ("Tag", ".tag_name"),
            ("At", ".target_commitish"),
            ("Name", ".name"),
            ("Draft", ".draft"),
            ("Text", ".body"),
        ],
    ),
    // What people read.
    Row(
        "POST",
        "/repos/{owner}/{repo}/pulls",
        Messages,
        "Open a pull request in {owner}/{repo}: {'.title}",
        &[
            ("Title", ".title"),
            ("From", ".head"),
            ("Into", ".base"),
            ("Text", ".body"),
            ("Draft", ".draft"),
        ],
    ),
    Row(
        "PATCH",
        "/repos/{owner}/{repo}/pulls/{number}",
        Write,
        "Change pull request #{number} of {owner}/{repo}[ to {.state}]",
        &[("State", ".state"), ("Title", ".title"), ("Into", ".base"), ("Text", ".body")],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/pulls/{number}/reviews",
        Messages,
        "Review pull request #{number} of {owner}/{repo}[: {.event}]",
        &[
            ("Verdict", ".event"),
            ("Text", ".body"),
            ("Comments", ".comments"),
            ("At", ".commit_id"),
        ],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/issues",
        Messages,
        "Open an issue in {owner}/{repo}: {'.title}",
        &[("Title", ".title"), ("Text", ".body"), ("Labels", ".labels"), ("For", ".assignees")],
    ),
    Row(
        "PATCH",
        "/repos/{owner}/{repo}/issues/{number}",
        Write,
        "Change issue #{number} of {owner}/{repo}[ to {.state}]",
        &[
            ("State", ".state"),
            ("Reason", ".state_reason"),
            ("Title", ".title"),
            ("Text", ".body"),
            ("Labels", ".labels"),
            ("For", ".assignees"),
        ],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/issues/{number}/comments",
        Messages,
        "Comment on #{number} of {owner}/{repo}: {'.body}",
        &[("Text", ".body")],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/issues/{number}/labels",
        Write,
        "Label #{number} of {owner}/{repo}",
        &[("Labels", ".labels")],
    ),
    Row(
        "POST",
        "/gists",
        Messages,
        "Create a gist[ ({.description})]",
        &[("Public", ".public"), ("Files", ".files"), ("Description", ".description")],
    ),
    // New places.
    Row(
        "POST",
        "/user/repos",
        Write,
        "Create repository {.name} in this account",
        &[("Name", ".name"), ("Private", ".private"), ("Description", ".description")],
    ),
    Row(
        "POST",
        "/orgs/{org}/repos",
        Write,
        "Create repository {.name} in {org}",
        &[
            ("Name", ".name"),
            ("Private", ".private"),
            ("Visibility", ".visibility"),
            ("Description", ".description"),
        ],
    ),
    Row(
        "POST",
        "/repos/{owner}/{repo}/forks",
        Write,
        "Fork {owner}/{repo}[ into {.organization}]",
        &[("Into", ".organization"), ("Name", ".name")],
    ),
    // What is read.
    Row("GET", "/repos/{owner}/{repo}", Read, "Read repository {owner}/{repo}", &[]),
    Row(
        "GET",
        "/repos/{owner}/{repo}/contents/{path...}",
        Read,
        "Read {path} in {owner}/{repo}",
        &[("At", "?ref")],
    ),
];

const MUTATIONS: graphql::Known = &[
    ("addComment", Messages, "comment on"),
    ("addPullRequestReview", Messages, "review a pull request"),
    ("closeIssue", Write, "close issue"),
    ("closePullRequest", Write, "close pull request"),
    ("createCommitOnBranch", Write, "commit to a branch"),
    ("createIssue", Messages, "open an issue"),
    ("createPullRequest", Messages, "open a pull request"),
    ("createRef", Write, "create a ref"),
    ("createRepository", Write, "create a repository"),
    ("deleteBranchProtectionRule", People, "remove a branch's protection"),
    ("deleteIssue", Destructive, "delete issue"),
    ("deleteRef", Destructive, "delete a branch or tag"),
    ("mergeBranch", Write, "merge a branch"),
    ("mergePullRequest", Write, "merge a pull request"),
    ("updateBranchProtectionRule", People, "change a branch's protection"),
    ("updateRef", Write, "move a ref (may rewrite its history)"),
    ("updateRefs", Write, "move several refs (may rewrite their history)"),
    ("updateRepository", People, "change a repository's settings"),
];
