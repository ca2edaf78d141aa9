//! `countersign policy`.

mod diff;
mod patch;
mod replay;
mod review;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use countersign_policy::analysis;
use countersign_policy::database::Written;
use countersign_policy::fixtures::{Report, run_fixtures};
use countersign_proto::v1;
use serde::Serialize;

use super::change::waits;
use crate::args::{Output, Policy, Show};
use crate::client;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::print;

pub(crate) async fn run(context: impl Fn() -> Result<Context, Failure>, command: Policy) -> Done {
    match command {
        Policy::Set { file, expected_version, show } => {
            let text = text(&file)?;
            let set = set(&context()?, &file, text, expected_version.unwrap_or_default()).await?;
            put(set, &show)
        }
        Policy::Show(show) => shown(&context()?, &show).await,
        Policy::Test { files, show } => match files.as_slice() {
            [file] => test(&text(file)?, file, &show),
            files => test_each(files, &show),
        },
        Policy::Explain { agent, method, url, sql, body: None, headers, show }
            if url.starts_with("postgres://") && headers.is_empty() =>
        {
            let written = Written::of(&url, sql.as_deref())
                .map_err(|why| Failure::Usage(format!("{url:?}: {why}")))?;
            if !method.eq_ignore_ascii_case(written.method.as_str()) {
                return Err(Failure::Usage(format!(
                    "{method} asks nothing of a database: GET is a connection, POST with --sql a statement"
                )));
            }
            let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| v1::Header {
                name: name.to_string(),
                value: Bytes::copy_from_slice(value.as_bytes()),
            };
            let request = v1::ExplainPolicyRequest {
                agent,
                method: written.method.to_string(),
                url: written.url,
                headers: written.headers.iter().map(header).collect(),
                body: written.body.into(),
            };
            explain(&context()?, request, &show).await
        }
        Policy::Explain { sql: Some(_), .. } => Err(Failure::Usage(
            "--sql is for the URL of a database: postgres://role@host/database".into(),
        )),
        Policy::Explain { agent, method, url, sql: None, body, headers, show } => {
            let request = v1::ExplainPolicyRequest {
                agent,
                method: method.to_ascii_uppercase(),
                url,
                headers: headers
                    .iter()
                    .map(|header| parse_header(header))
                    .collect::<Result<_, _>>()?,
                body: body.as_deref().map(body_of).transpose()?.unwrap_or_default(),
            };
            explain(&context()?, request, &show).await
        }
        Policy::Diff { files, show } => diff::run(context, &files, &show).await,
        Policy::Replay { file, since, requests, show } => {
            replay::run(context, &file, since, requests.as_deref(), &show).await
        }
        Policy::Review { since, least, show } => {
            review::run(&context()?, since, least, &show).await
        }
    }
}

/// The policy in force, as it was set.
async fn in_force(context: &Context) -> Result<v1::GetPolicyResponse, Failure> {
    let request = v1::GetPolicyRequest {};
    Ok(client::connect(context).await?.get_policy(request).await?.into_inner())
}

fn compiled(text: &str, file: &str) -> Result<countersign_policy::Policy, Failure> {
    countersign_policy::Policy::compile(text, file).map_err(|mistakes| diagnosed(&mistakes))
}

/// The policy in force; before one was ever set, the one that refuses everything.
fn compiled_in_force(set: &v1::GetPolicyResponse) -> Result<countersign_policy::Policy, Failure> {
    match set.version {
        0 => Ok(countersign_policy::Policy::empty()),
        version => compiled(&set.text, &format!("version {version}")),
    }
}

/// A policy's text, with its descriptors put in, which lie beside it; `-` is standard input.
pub(crate) fn text(file: &Path) -> Result<String, Failure> {
    let read = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = read.map_err(|error| {
        Failure::Refused(format!("the policy {} cannot be read: {error}", file.display()))
    })?;
    countersign_policy::descriptor::inline(&text, |name| std::fs::read(file.with_file_name(name)))
        .map_err(|why| Failure::Refused(format!("{}: {why}", file.display())))
}

/// Its name in diagnostics.
pub(crate) fn file_name(file: &Path) -> String {
    file.file_name()
        .filter(|name| *name != "-")
        .map_or_else(|| "policy.toml".into(), |name| name.to_string_lossy().into_owned())
}

async fn set(
    context: &Context,
    file: &Path,
    text: String,
    expected_version: u64,
) -> Result<v1::SetPolicyResponse, Failure> {
    let request_id = client::request_id();
    let request =
        v1::SetPolicyRequest { request_id, text, file_name: file_name(file), expected_version };
    Ok(client::connect(context).await?.set_policy(request).await?.into_inner())
}

#[derive(Serialize)]
struct Put {
    version: u64,
    sha256: String,
    warnings: Vec<String>,
    /// What waits for a second administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<u64>,
}

fn put(set: v1::SetPolicyResponse, show: &Show) -> Done {
    if show.output == Output::Json {
        return print::json(&Put {
            version: set.version,
            sha256: set.sha256,
            warnings: set.warnings,
            change: Some(set.change_id).filter(|id| *id != 0),
        });
    }
    let in_force = format!("Policy version {} is in force.", set.version);
    print::line(&waits(set.change_id).unwrap_or(in_force))?;
    set.warnings.iter().try_for_each(|warning| print::line(&format!("warning: {warning}")))
}

#[derive(Serialize)]
struct InForce {
    version: u64,
    sha256: String,
    text: String,
}

async fn shown(context: &Context, show: &Show) -> Done {
    let v1::GetPolicyResponse { version, text, sha256 } = in_force(context).await?;
    match show.output {
        Output::Json => print::json(&InForce { version, sha256, text }),
        Output::Table if version == 0 => {
            print::line("# No policy was ever set: everything is refused.")
        }
        Output::Table => {
            print::line(&format!("# version {version}, sha256 {sha256}"))?;
            print::lines(&text.replace('\t', "    "))
        }
    }
}

#[derive(Serialize)]
struct Tested {
    ok: bool,
    tests: Vec<Test>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Test {
    name: String,
    line: usize,
    decision: &'static str,
    rule: String,
    failure: Option<String>,
}

fn test(text: &str, file: &Path, show: &Show) -> Done {
    let file = file_name(file);
    let report = run_fixtures(text, &file).map_err(|mistakes| diagnosed(&mistakes))?;
    let ok = report.passed();
    let warnings = analysis::warnings(&compiled(text, &file)?);
    let tested = tested(report, warnings.iter().map(ToString::to_string).collect());
    let failed = tested.tests.iter().filter(|test| test.failure.is_some()).count();
    if show.output == Output::Json {
        print::json(&tested)?;
    } else {
        for test in &tested.tests {
            match &test.failure {
                None => print::line(&format!("ok      {}", test.name))?,
                Some(why) => {
                    print::line(&format!("FAILED  {} ({file}:{}): {why}", test.name, test.line))?
                }
            }
        }
        match tested.tests.len() {
            0 => print::line("The policy compiles; it has no fixtures ([[test]]).")?,
            count => print::line(&format!(
                "The policy compiles; {} of {count} fixtures hold.",
                count - failed
            ))?,
        }
        for warning in &tested.warnings {
            print::line(&format!("warning: {warning}"))?;
        }
    }
    if ok {
        Ok(())
    } else {
        Err(Failure::Refused(format!(
            "{failed} of {} fixtures of {file} do not hold",
            tested.tests.len()
        )))
    }
}

/// Several policies, each of which stands for itself. One that fails stops none of the others.
fn test_each(files: &[PathBuf], show: &Show) -> Done {
    let mut failed = Vec::new();
    for file in files {
        let name = file.display().to_string();
        if show.output == Output::Table {
            print::line(&format!("{name}:"))?;
        }
        if let Err(failure) = text(file).and_then(|text| test(&text, file, show)) {
            failed.push(format!("{name}: {failure}"));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Refused(failed.join("\n"))) }
}

fn tested(report: Report, warnings: Vec<String>) -> Tested {
    let ok = report.passed();
    let test = |outcome: countersign_policy::fixtures::Outcome| Test {
        decision: outcome.then.word(),
        name: outcome.name,
        line: outcome.line,
        rule: outcome.rule,
        failure: outcome.failure,
    };
    Tested { ok, tests: report.outcomes.into_iter().map(test).collect(), warnings }
}

/// Every mistake in a policy, one a line.
pub(crate) fn diagnosed(mistakes: &[countersign_policy::Diagnostic]) -> Failure {
    Failure::Refused(mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[derive(Serialize)]
struct Explained {
    decision: String,
    rule: String,
    policy_version: u64,
    rules: Vec<ExplainedRule>,
}

#[derive(Serialize)]
struct ExplainedRule {
    rule: String,
    matched: String,
    then: String,
    why: String,
}

async fn explain(context: &Context, request: v1::ExplainPolicyRequest, show: &Show) -> Done {
    let answer = client::connect(context).await?.explain_policy(request).await?.into_inner();
    let rule = |rule: v1::RuleExplanation| ExplainedRule {
        rule: rule.rule,
        matched: rule.matched,
        then: rule.then,
        why: rule.why,
    };
    let explained = Explained {
        decision: answer.decision,
        rule: answer.rule,
        policy_version: answer.policy_version,
        rules: answer.rules.into_iter().map(rule).collect(),
    };
    if show.output == Output::Json {
        return print::json(&explained);
    }
    let because = if explained.rule.is_empty() {
        "no rule names it".into()
    } else {
        format!("rule {:?}", explained.rule)
    };
    print::line(&format!(
        "{}: {because} (policy version {}).",
        explained.decision, explained.policy_version
    ))?;
    if explained.rules.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = explained
        .rules
        .into_iter()
        .map(|rule| vec![rule.matched, rule.then, rule.rule, rule.why])
        .collect();
    print::table(&["MATCHED", "THEN", "RULE", "WHY"], &rows, "")
}

fn parse_header(text: &str) -> Result<v1::Header, Failure> {
    let (name, value) = text.split_once(':').ok_or_else(|| {
        Failure::Usage(format!("{text:?} is not a header such as \"Name: value\""))
    })?;
    let valid = http::HeaderName::try_from(name.trim()).is_ok()
        && http::HeaderValue::try_from(value.trim()).is_ok();
    if !valid {
        return Err(Failure::Usage(format!("{text:?} is not a header such as \"Name: value\"")));
    }
    Ok(v1::Header {
        name: name.trim().to_ascii_lowercase(),
        value: Bytes::copy_from_slice(value.trim().as_bytes()),
    })
}

fn body_of(file: &Path) -> Result<Bytes, Failure> {
    let read = std::fs::read(file).map(Bytes::from);
    read.map_err(|error| {
        Failure::Refused(format!("the body {} cannot be read: {error}", file.display()))
    })
}
