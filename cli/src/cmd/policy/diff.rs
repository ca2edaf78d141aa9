//! `countersign policy diff`: what a new policy opens.

use std::path::PathBuf;

use countersign_policy::analysis::{Comparison, Holds, Kind, Was, Widening, compare};
use serde::Serialize;

use super::{compiled, compiled_in_force, file_name, in_force, text};
use crate::args::{Output, Show};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::print;

pub(super) async fn run(
    context: impl Fn() -> Result<Context, Failure>,
    files: &[PathBuf],
    show: &Show,
) -> Done {
    let read = |file: &PathBuf| compiled(&text(file)?, &file_name(file));
    let (old, new) = match files {
        [old, new] => (read(old)?, read(new)?),
        [new] => {
            let new = read(new)?;
            (compiled_in_force(&in_force(&context()?).await?)?, new)
        }
        _ => return Err(Failure::usage("one policy or two: OLD and NEW, or NEW alone")),
    };
    let comparison = compare(&old, &new);
    match show.output {
        Output::Json => print::json(&Compared::of(&comparison)),
        Output::Table => told(&comparison),
    }
}

fn told(comparison: &Comparison) -> Done {
    if !comparison.widens() {
        return print::line(
            "Nothing passes newly, opens more than one request newly, can be approved newly, or takes less of people.",
        );
    }
    let headings = [
        (Kind::Passes, "Passes, and did not:"),
        (Kind::Key, "Takes a key that it did not get:"),
        (Kind::Channel, "May become more than one request:"),
        (Kind::Approvable, "Can be approved, and was refused:"),
        (Kind::Weaker, "Takes less of people:"),
    ];
    for (kind, heading) in headings {
        let mut those =
            comparison.widenings.iter().filter(|widening| widening.kind == kind).peekable();
        if those.peek().is_some() {
            print::line(heading)?;
        }
        those.try_for_each(|widening| print::line(&format!("  {widening}")))?;
    }
    if comparison.widenings.iter().any(|widening| !widening.witness.conditions.is_empty()) {
        print::line(
            "Conditions are not looked into: what differs only by one may be reported and be none.",
        )?;
    }
    for host in &comparison.gave_up {
        print::line(&format!(
            "The rules about {host} are too entangled to be compared: read them as if they opened something."
        ))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Compared<'a> {
    widens: bool,
    widenings: Vec<Opened<'a>>,
    gave_up: &'a [String],
}

#[derive(Serialize)]
struct Opened<'a> {
    kind: &'static str,
    rule: &'a str,
    line: usize,
    then: &'static str,
    was: Before<'a>,
    how: &'a [String],
    example: Example<'a>,
}

#[derive(Serialize)]
struct Before<'a> {
    then: &'static str,
    rule: Option<&'a str>,
    line: Option<usize>,
}

#[derive(Serialize)]
struct Example<'a> {
    agent: Option<&'a str>,
    method: &'a str,
    overrides: &'a [String],
    url: String,
    /// Of a database: what the statements of one text do.
    #[serde(skip_serializing_if = "Option::is_none")]
    sql: Option<&'a [String]>,
    conditions: Vec<Condition<'a>>,
}

#[derive(Serialize)]
struct Condition<'a> {
    when: &'a str,
    holds: &'static str,
}

impl<'a> Compared<'a> {
    fn of(comparison: &'a Comparison) -> Self {
        Self {
            widens: comparison.widens(),
            widenings: comparison.widenings.iter().map(Opened::of).collect(),
            gave_up: &comparison.gave_up,
        }
    }
}

impl<'a> Opened<'a> {
    fn of(widening: &'a Widening) -> Self {
        let Widening { kind, now, was, how, witness } = widening;
        let nobody = |then| Before { then, rule: None, line: None };
        let condition = |condition: &'a countersign_policy::analysis::Condition| Condition {
            when: &condition.when,
            holds: match condition.holds {
                Holds::No => "no",
                Holds::Undecidable => "undecidable",
                Holds::Yes => "yes",
            },
        };
        Self {
            kind: match kind {
                Kind::Approvable => "approvable",
                Kind::Channel => "channel",
                Kind::Key => "key",
                Kind::Passes => "passes",
                Kind::Weaker => "weaker",
            },
            rule: &now.rule,
            line: now.line,
            then: now.then.word(),
            was: match was {
                Was::Decided(rule) => {
                    Before { then: rule.then.word(), rule: Some(&rule.rule), line: Some(rule.line) }
                }
                Was::Unclear => nobody("ambiguous"),
                Was::Unnamed => nobody("refuse"),
            },
            how,
            example: Example {
                agent: witness.agent.as_deref(),
                method: &witness.method,
                overrides: &witness.overrides,
                url: witness.url(),
                sql: witness.asked.as_ref().map(|asked| asked.effects.as_slice()),
                conditions: witness.conditions.iter().map(condition).collect(),
            },
        }
    }
}
