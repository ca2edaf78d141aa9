//! A rule that asks less often, as a change to the policy's text.
//!
//! An approve rule wins over any allow rule, so both change: the one that asks leaves out what the other one allows.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use countersign_policy::{Policy, Written};
use countersign_proto::v1;

/// Requests that could be allowed.
pub(super) struct Narrower<'a> {
    pub(super) agent: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u32,
    pub(super) method: &'a str,
    /// Of the path; None for one that differs.
    pub(super) segments: Vec<Option<&'a str>>,
}

/// The segments that paths of one length have in common; None if there are none that tell them from others.
pub(super) fn seen<'a>(paths: &[&'a str]) -> Option<Vec<Option<&'a str>>> {
    let split = |path: &'a str| path.split('/').skip(1).collect::<Vec<_>>();
    let all: Vec<Vec<&str>> = paths.iter().map(|path| split(path)).collect();
    let first = all.first()?;
    let shared = |at: usize| {
        let values: BTreeSet<&str> = all.iter().filter_map(|path| path.get(at).copied()).collect();
        (values.len() == 1).then(|| first[at])
    };
    let segments: Vec<Option<&str>> = (0..first.len()).map(shared).collect();
    segments.iter().flatten().any(|segment| !segment.is_empty()).then_some(segments)
}

/// A unified diff against the policy in force.
///
/// # Errors
/// Why the text cannot be changed so.
pub(super) fn diff(
    set: &v1::GetPolicyResponse,
    rule: &str,
    asking: &Written<'_>,
    narrower: &Narrower<'_>,
) -> Result<String, &'static str> {
    let lines: Vec<&str> = set.text.lines().collect();
    let start = asking.line.saturating_sub(1);
    let opens = |line: &&str| line.trim_start().starts_with('[');
    let inner = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("[[rule.") || line.starts_with("[rule.")
    };
    let after = lines.iter().skip(start + 1).position(|line| opens(line) && !inner(line));
    let mut end = after.map_or(lines.len(), |after| start + 1 + after);
    while end > start + 1 && blank(lines[end - 1]) {
        end -= 1;
    }
    let except = format!("!({})", condition(narrower));
    let when = match asking.when {
        Some(when) => format!("({when}) && {except}"),
        None => except,
    };
    let when = format!("when = {}", quoted(&when)?);
    let written = (start..end).find(|at| key(lines[*at]) == Some("when"));

    let mut change = Change::default();
    for (at, line) in lines.iter().enumerate().take(end) {
        if Some(at) == written {
            change.out(line);
            change.put(&when);
        } else {
            change.same(line);
        }
        if at == start && written.is_none() {
            change.put(&when);
        }
    }
    change.put("");
    for line in allowed(rule, asking, narrower)?.lines() {
        change.put(line);
    }
    lines.iter().skip(end).for_each(|line| change.same(line));

    let compiles = Policy::compile(&change.text(), "policy.toml");
    let policy = compiles.map_err(|_| "its text is written in a way that is not changed here")?;
    if policy.rule(rule).and_then(|rule| rule.when).map(|when| format!("when = '{when}'"))
        != Some(when)
    {
        return Err("its text is written in a way that is not changed here");
    }
    Ok(change.unified(
        &format!("version {}", set.version),
        &format!("version {}, and {rule:?} asks less often", set.version),
    ))
}

fn blank(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#')
}

fn key(line: &str) -> Option<&str> {
    Some(line.split_once('=')?.0.trim())
}

/// As TOML takes it literally.
fn quoted(text: &str) -> Result<String, &'static str> {
    match text.contains('\'') || text.chars().any(char::is_control) {
        true => Err("its condition has quotes that are not changed here"),
        false => Ok(format!("'{text}'")),
    }
}

/// The requests, as a condition.
fn condition(narrower: &Narrower<'_>) -> String {
    let Narrower { agent, method, segments, .. } = narrower;
    let path = if segments.iter().all(Option::is_some) {
        let exact: String =
            segments.iter().flatten().map(|segment| format!("/{segment}")).collect();
        format!("request.path == {exact:?}")
    } else {
        let mut pattern = String::from("^");
        for segment in segments {
            pattern.push('/');
            match segment {
                None => pattern.push_str("[^/]+"),
                Some(text) => text.chars().for_each(|c| {
                    if !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '%' | '~') {
                        pattern.push('\\');
                    }
                    pattern.push(c);
                }),
            }
        }
        pattern.push('$');
        format!("request.path.matches({pattern:?})")
    };
    format!("agent == {agent:?} && request.method == {method:?} && {path}")
}

/// The rule that allows them.
fn allowed(
    rule: &str,
    asking: &Written<'_>,
    narrower: &Narrower<'_>,
) -> Result<String, &'static str> {
    let Narrower { agent, host, port, method, segments } = narrower;
    let mut path = String::new();
    for (at, segment) in segments.iter().enumerate() {
        path.push('/');
        match segment {
            Some(text) => path.push_str(text),
            None => path.push_str(&format!("{{v{}}}", at + 1)),
        }
    }
    let host = if host.contains(':') { format!("[{host}]") } else { (*host).to_owned() };
    let host = if *port == 443 { host } else { format!("{host}:{port}") };
    let mut text = format!("[[rule]]\nname = {:?}\n", format!("{rule}, as always approved"));
    let _ = write!(
        text,
        "agents = [{agent:?}]\nhost = {host:?}\nmethods = [{method:?}]\npath = {path:?}\n"
    );
    if !asking.query.is_empty() {
        let pairs = asking.query.iter().map(|(name, value)| format!("{name:?} = {value:?}"));
        let _ = writeln!(text, "query = {{ {} }}", pairs.collect::<Vec<_>>().join(", "));
    }
    if let Some(when) = asking.when {
        let _ = writeln!(text, "when = {}", quoted(when)?);
    }
    text.push_str("then = \"allow\"\n");
    if let Some(credential) = asking.credential {
        let _ = writeln!(text, "credential = {credential:?}");
    }
    Ok(text)
}

/// Lines that stay, go and come.
#[derive(Default)]
struct Change {
    lines: Vec<(char, String)>,
}

impl Change {
    fn same(&mut self, line: &str) {
        self.lines.push((' ', line.to_owned()));
    }

    fn out(&mut self, line: &str) {
        self.lines.push(('-', line.to_owned()));
    }

    fn put(&mut self, line: &str) {
        self.lines.push(('+', line.to_owned()));
    }

    /// The text as it would be.
    fn text(&self) -> String {
        let kept = self.lines.iter().filter(|(mark, _)| *mark != '-');
        kept.map(|(_, line)| format!("{line}\n")).collect()
    }

    /// One hunk with everything in it.
    fn unified(&self, old: &str, new: &str) -> String {
        const AROUND: usize = 3;
        let changed = |(mark, _): &(char, String)| *mark != ' ';
        let first = self.lines.iter().position(changed).unwrap_or_default();
        let last = self.lines.iter().rposition(changed).unwrap_or_default();
        let from = first.saturating_sub(AROUND);
        let to = (last + 1 + AROUND).min(self.lines.len());
        let hunk = &self.lines[from..to];
        let count = |without: char| hunk.iter().filter(|(mark, _)| *mark != without).count();
        let start = from + 1;
        let mut text = format!(
            "--- {old}\n+++ {new}\n@@ -{start},{} +{start},{} @@\n",
            count('+'),
            count('-')
        );
        hunk.iter().for_each(|(mark, line)| {
            let _ = writeln!(text, "{mark}{line}");
        });
        text
    }
}
