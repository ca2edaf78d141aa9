//! `countersign policy replay`: requests that were made, under a new policy.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_policy::Then;
use countersign_policy::replay::{Recorded, replay};
use countersign_proto::v1;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{compiled, compiled_in_force, file_name, in_force, text};
use crate::args::{Output, Show};
use crate::client;
use crate::cmd::{card, every_page};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::print;

pub(super) async fn run(
    context: impl Fn() -> Result<Context, Failure>,
    file: &Path,
    since: Duration,
    requests: Option<&Path>,
    show: &Show,
) -> Done {
    let policy = compiled(&text(file)?, &file_name(file))?;
    let made = match requests {
        Some(requests) => of_lines(&text(requests)?)?,
        None => of_approvals(&asked_since(&context()?, since).await?)?,
    };
    let (requests, before): (Vec<Recorded>, Vec<Option<Then>>) = made.into_iter().unzip();
    let before: Vec<Then> = if before.iter().all(Option::is_some) {
        before.into_iter().flatten().collect()
    } else {
        let current = compiled_in_force(&in_force(&context()?).await?)?;
        let current = replay(&current, &requests);
        before.into_iter().zip(current).map(|(said, now)| said.unwrap_or(now.then)).collect()
    };
    let after = replay(&policy, &requests);

    let mut changes: BTreeMap<Change, usize> = BTreeMap::new();
    for ((request, was), now) in requests.iter().zip(&before).zip(&after) {
        if *was != now.then {
            *changes.entry(Change::of(request, *was, now.then, &now.rule)).or_default() += 1;
        }
    }
    let unread = requests.iter().filter(|request| request.body.is_none()).count();
    let mut changes: Vec<(Change, usize)> = changes.into_iter().collect();
    changes.sort_by_key(|(change, count)| (change.grade, Reverse(*count)));
    told(Replay { requests: requests.len(), unread, changes }, show)
}

/// Approvals that were asked for in this time, newest first.
pub(super) async fn asked_since(
    context: &Context,
    since: Duration,
) -> Result<Vec<v1::Approval>, Failure> {
    let mut admin = client::connect(context).await?;
    let state = v1::ApprovalState::Unspecified.into();
    let mut all: Vec<v1::Approval> =
        every_page!(admin, list_approvals, ListApprovalsRequest { state }, approvals);
    let from = SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH);
    all.retain(|approval| {
        let created = approval.created_at.and_then(|at| SystemTime::try_from(at).ok());
        created.is_some_and(|created| created >= from)
    });
    Ok(all)
}

type Made = Vec<(Recorded, Option<Then>)>;

/// What people were asked about. What is kept of a body for them to see is the body only if it has its digest.
///
/// # Errors
/// The first that cannot be read, and why.
fn of_approvals(approvals: &[v1::Approval]) -> Result<Made, Failure> {
    let request = |approval: &v1::Approval| {
        let preview = approval.body_preview.to_vec();
        let whole = hex::encode(Sha256::digest(&preview)) == approval.body_sha256;
        let mut headers = HeaderMap::new();
        for header in &approval.headers {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(&header.name), HeaderValue::from_bytes(&header.value))
            {
                headers.append(name, value);
            }
        }
        let mut shown = approval.clone();
        if shown.host.contains(':') {
            shown.host = format!("[{}]", shown.host);
        }
        let body = whole.then_some(preview);
        Recorded::new(&approval.agent, &approval.method, &card::url(&shown), headers, body)
            .map(|request| (request, Some(Then::Approve)))
            .map_err(|why| {
                let id = &approval.approval_id;
                Failure::Refused(format!("nothing was replayed: the request of {id}: {why}"))
            })
    };
    approvals.iter().map(request).collect()
}

/// One line of a file of requests.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    agent: String,
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    body: Option<String>,
    body_base64: Option<String>,
    decision: Option<Word>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Several(Vec<String>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Allow,
    Approve,
    Deny,
    Observe,
    Refuse,
    Tunnel,
}

/// # Errors
/// The first line that is no request, and why.
fn of_lines(text: &str) -> Result<Made, Failure> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            of_line(line).map_err(|why| {
                Failure::Refused(format!("nothing was replayed: line {}: {why}", number + 1))
            })
        })
        .collect()
}

fn of_line(line: &str) -> Result<(Recorded, Option<Then>), String> {
    let line: Line = serde_json::from_str(line).map_err(|why| why.to_string())?;
    let mut headers = HeaderMap::new();
    for (name, values) in line.headers {
        let header = HeaderName::try_from(&name).map_err(|_| format!("{name:?} is no header"))?;
        let values = match values {
            Values::One(value) => vec![value],
            Values::Several(values) => values,
        };
        for value in values {
            let value =
                HeaderValue::try_from(value).map_err(|_| format!("{name:?} has no such value"))?;
            headers.append(header.clone(), value);
        }
    }
    let body = match (line.body, line.body_base64) {
        (Some(_), Some(_)) => return Err("it has both a body and a body_base64".into()),
        (Some(text), None) => text.into_bytes(),
        (None, Some(coded)) => {
            BASE64_STANDARD.decode(coded).map_err(|why| format!("body_base64: {why}"))?
        }
        (None, None) => Vec::new(),
    };
    let then = line.decision.map(|word| match word {
        Word::Allow => Then::Allow,
        Word::Approve => Then::Approve,
        Word::Deny => Then::Deny,
        Word::Observe => Then::Observe,
        Word::Tunnel => Then::Tunnel,
        Word::Refuse => Then::Unnamed,
    });
    Ok((Recorded::new(&line.agent, &line.method, &line.url, headers, Some(body))?, then))
}

/// Requests that are alike, and of which something else becomes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    grade: Grade,
    was: &'static str,
    now: &'static str,
    agent: String,
    request: String,
    rule: String,
}

/// Graver ones first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Passes,
    Approvable,
    Stricter,
}

impl Change {
    fn of(request: &Recorded, was: Then, now: Then, rule: &str) -> Self {
        let grade = match (was, now) {
            _ if now.passes() && !was.passes() => Grade::Passes,
            (Then::Deny | Then::Unnamed, Then::Approve) => Grade::Approvable,
            _ => Grade::Stricter,
        };
        let Recorded { method, destination, path, .. } = request;
        Self {
            grade,
            was: was.word(),
            now: now.word(),
            agent: request.agent.clone(),
            request: format!("{method} {}{path}", destination.authority()),
            rule: rule.to_owned(),
        }
    }
}

struct Replay {
    requests: usize,
    /// Of which the body is not known.
    unread: usize,
    changes: Vec<(Change, usize)>,
}

#[derive(Serialize)]
struct Printed<'a> {
    requests: usize,
    bodies_unread: usize,
    changed: usize,
    newly_allowed: usize,
    changes: Vec<PrintedChange<'a>>,
}

#[derive(Serialize)]
struct PrintedChange<'a> {
    count: usize,
    was: &'static str,
    now: &'static str,
    agent: &'a str,
    request: &'a str,
    rule: &'a str,
}

/// As many kinds of changes as a person looks at.
const SHOWN: usize = 50;

fn told(replay: Replay, show: &Show) -> Done {
    let Replay { requests, unread, changes } = replay;
    let count = |passes: bool| -> usize {
        let those = changes.iter().filter(|(change, _)| !passes || change.grade == Grade::Passes);
        those.map(|(_, count)| count).sum()
    };
    let (changed, newly_allowed) = (count(false), count(true));
    if show.output == Output::Json {
        return print::json(&Printed {
            requests,
            bodies_unread: unread,
            changed,
            newly_allowed,
            changes: changes.iter().map(|(change, count)| printed(change, *count)).collect(),
        });
    }
    print::line(&format!(
        "{requests} requests: {newly_allowed} pass newly, {} change otherwise, {} stay as they are.",
        changed - newly_allowed,
        requests - changed
    ))?;
    if unread > 0 {
        print::line(&format!(
            "Of {unread} the body was not kept whole: it counts as unread, so nothing that looks at it is allowed."
        ))?;
    }
    let row = |(change, count): &(Change, usize)| {
        let Change { was, now, agent, request, rule, .. } = change;
        vec![
            count.to_string(),
            (*was).to_owned(),
            (*now).to_owned(),
            agent.clone(),
            request.clone(),
            if rule.is_empty() { "-".into() } else { rule.clone() },
        ]
    };
    let rows: Vec<_> = changes.iter().take(SHOWN).map(row).collect();
    print::table(&["COUNT", "WAS", "NOW", "AGENT", "REQUEST", "RULE"], &rows, "Nothing changes.")?;
    match changes.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => print::line(&format!("And {more} kinds more: -o json shows them.")),
    }
}

fn printed(change: &Change, count: usize) -> PrintedChange<'_> {
    let Change { was, now, agent, request, rule, .. } = change;
    PrintedChange { count, was, now, agent, request, rule }
}
