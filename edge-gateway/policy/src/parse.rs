//! TOML to rules. Everything that is wrong is said at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use toml_edit::{Document, Item, TableLike};

use crate::Then;
use crate::diagnostic::{Diagnostic, Mistakes};
use crate::fixtures::{self, Fixture};
use crate::path::Pattern;
use crate::rules::{HostPattern, Methods, Rule};
use crate::target;
use crate::when::When;

/// What a policy file says.
pub(crate) struct Parsed {
    pub(crate) rules: Vec<Rule>,
    pub(crate) fixtures: Vec<Fixture>,
}

/// Reads a whole file, on a thread of its own: the parsers of TOML and CEL recurse as their source does.
///
/// # Errors
/// Every mistake in it; a file that is not TOML has only the first one.
pub(crate) fn parse(text: &str, file: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let read = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("policy".to_owned()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, || read(text, file)).ok()?;
        thread.join().ok()
    });
    read.unwrap_or_else(|| {
        let mut mistakes = Mistakes::new(text, file);
        mistakes.add(
            None,
            None,
            "the policy could not be compiled: no thread to do it on, or it cannot be parsed",
        );
        mistakes.settle(Parsed { rules: Vec::new(), fixtures: Vec::new() })
    })
}

/// Bytes; only what is used is ever taken.
const STACK: usize = 64 * 1024 * 1024;

fn read(text: &str, file: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let mut mistakes = Mistakes::new(text, file);
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            mistakes.add(error.span(), None, format!("this is not TOML: {}", error.message()));
            return mistakes.settle(Parsed { rules: Vec::new(), fixtures: Vec::new() });
        }
    };
    let mut top = Fields::new(document.as_table(), None, &mut mistakes);
    match top.item("version") {
        Some((item, _)) if item.as_integer() == Some(1) => {}
        Some((_, span)) => top.wrong(span, "the only version there is is `version = 1`"),
        None => top.wrong(None, "`version = 1` is missing"),
    }
    let rules = top.tables("rule");
    let fixtures = top.tables("test");
    top.refuse_others("a policy file");

    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let rules = rules
        .iter()
        .filter_map(|(table, span)| rule(*table, span.clone(), &mut seen, &mut mistakes))
        .collect();
    let fixtures = fixtures
        .iter()
        .filter_map(|(table, span)| fixtures::read(*table, span.clone(), &mut mistakes))
        .collect();
    mistakes.settle(Parsed { rules, fixtures })
}

const EXPIRES: Duration = Duration::from_secs(15 * 60);
const LONGEST_EXPIRES: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const HOLD: Duration = Duration::from_secs(50);
const LONGEST_HOLD: Duration = Duration::from_secs(280);
const LARGEST_QUORUM: i64 = 100;

/// Reads one `[[rule]]`; None if it cannot be one.
fn rule(
    table: &dyn TableLike,
    span: Option<Range<usize>>,
    seen: &mut BTreeMap<String, usize>,
    mistakes: &mut Mistakes<'_>,
) -> Option<Rule> {
    let line = mistakes.line(span.clone());
    let name = table.get("name").and_then(Item::as_str).unwrap_or_default().to_owned();
    let mut fields = Fields::new(table, Some(&name), mistakes);
    fields.at = span;

    match fields.text("name") {
        None => fields
            .missing("name", "it is how approvals, the audit trail and refusals call the rule"),
        Some((text, span))
            if text.trim() != text || text.is_empty() || text.chars().any(char::is_control) =>
        {
            fields.wrong(span, "a `name` is visible text without spaces around it");
        }
        Some((text, span)) => {
            if let Some(first) = seen.get(&text) {
                fields.wrong(span, format!("another rule has this name (line {first})"));
            }
            seen.entry(text).or_insert(line);
        }
    }
    let then = match fields.text("then") {
        None => {
            fields.missing("then", "write \"allow\", \"approve\" or \"deny\"");
            None
        }
        Some((text, span)) => {
            let then = match text.as_str() {
                "allow" => Some(Then::Allow),
                "approve" => Some(Then::Approve),
                "deny" => Some(Then::Deny),
                _ => None,
            };
            if then.is_none() {
                fields.wrong(
                    span,
                    format!("`then` is \"allow\", \"approve\" or \"deny\", not {text:?}"),
                );
            }
            then
        }
    };
    let host = match fields.text("host") {
        None => {
            fields.missing("host", "write one host (a rule per host), exact or \"*.example.com\"");
            None
        }
        Some((text, span)) => match HostPattern::parse(&text) {
            Ok(host) => Some(host),
            Err(why) => {
                fields.wrong(span, format!("`host` {text:?} is not one: {why}"));
                None
            }
        },
    };
    let agents = fields
        .texts("agents")
        .and_then(|(list, _)| (!list.iter().any(|name| name == "*")).then_some(list));
    let methods = fields.methods();
    let allow_encoded_slash = fields.flag("allow_encoded_slash");
    let path = fields.text("path").and_then(|(text, span)| match Pattern::parse(&text) {
        Ok(pattern) => Some((pattern, text, span)),
        Err(why) => {
            fields.wrong(span, format!("`path` {text:?}: {why}"));
            None
        }
    });
    if let Some((_, text, span)) = &path
        && matches!(
            target::judge(&text.replace(['{', '}'], ""), None),
            target::Clarity::EncodedSlash
        )
        && !allow_encoded_slash
    {
        fields.wrong(span.clone(), "a `path` with %2f needs `allow_encoded_slash = true`");
    }
    let query = fields.query();
    let when = fields.text("when").and_then(|(text, span)| match When::compile(&text) {
        Ok(when) => Some(when),
        Err(errors) => {
            for error in errors {
                fields.wrong(span.clone(), format!("`when`: {error}"));
            }
            None
        }
    });
    let approvers = fields.texts("approvers");
    let quorum = fields.quorum();
    let expires = fields.duration("expires", LONGEST_EXPIRES);
    let hold = fields.duration("hold", LONGEST_HOLD);
    let park = fields.flag("park");
    let credential = fields.name("credential");
    let accept_edge_enforced = fields.flag("accept_edge_enforced");
    let reason = fields.text("reason").map(|(text, _)| text);
    if let Some(then) = then.filter(|then| *then != Then::Approve) {
        let word = if then == Then::Allow { "allows" } else { "denies" };
        fields.misplaced(
            &["approvers", "quorum", "expires", "park"],
            &format!("it {word}: nobody is asked"),
        );
    }
    if then == Some(Then::Deny) {
        fields.misplaced(
            &["credential", "hold", "accept_edge_enforced"],
            "it denies: nothing leaves",
        );
    }
    fields.refuse_others("a rule");

    Some(Rule {
        name,
        line,
        then: then?,
        agents,
        host: host?,
        methods,
        path: path.map(|(pattern, ..)| pattern),
        query,
        when,
        credential,
        approvers: approvers.map_or_else(|| vec!["*".to_owned()], |(list, _)| list),
        quorum: quorum.unwrap_or(1),
        expires: expires.unwrap_or(EXPIRES),
        hold: hold.unwrap_or(HOLD),
        park,
        accept_edge_enforced,
        allow_encoded_slash,
        reason,
    })
}

/// The keys of one table: each is asked for once, and what was not asked for is a mistake.
pub(crate) struct Fields<'a, 'm, 't> {
    table: &'a dyn TableLike,
    rule: Option<&'a str>,
    mistakes: &'m mut Mistakes<'t>,
    known: Vec<&'static str>,
    /// Where the table starts.
    pub(crate) at: Option<Range<usize>>,
}

type Span = Option<Range<usize>>;

impl<'a, 'm, 't> Fields<'a, 'm, 't> {
    pub(crate) fn new(
        table: &'a dyn TableLike,
        rule: Option<&'a str>,
        mistakes: &'m mut Mistakes<'t>,
    ) -> Self {
        Self {
            table,
            rule: rule.filter(|name| !name.is_empty()),
            mistakes,
            known: Vec::new(),
            at: None,
        }
    }

    pub(crate) fn wrong(&mut self, span: Span, message: impl Into<String>) {
        self.mistakes.add(span.or_else(|| self.at.clone()), self.rule, message);
    }

    pub(crate) fn missing(&mut self, key: &str, advice: &str) {
        // A value of the wrong kind has been reported already.
        if !self.table.contains_key(key) {
            self.wrong(None, format!("`{key}` is missing: {advice}"));
        }
    }

    pub(crate) fn item(&mut self, key: &'static str) -> Option<(&'a Item, Span)> {
        self.known.push(key);
        let item = self.table.get(key)?;
        let span = self.table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
        Some((item, span))
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<(String, Span)> {
        let (item, span) = self.item(key)?;
        match item.as_str() {
            Some(text) => Some((text.to_owned(), span)),
            None => {
                self.wrong(span, format!("`{key}` is a text in quotes"));
                None
            }
        }
    }

    fn name(&mut self, key: &'static str) -> Option<String> {
        let (text, span) = self.text(key)?;
        if text.is_empty() || text.trim() != text {
            self.wrong(span, format!("`{key}` is a name, without spaces around it"));
            return None;
        }
        Some(text)
    }

    fn flag(&mut self, key: &'static str) -> bool {
        let Some((item, span)) = self.item(key) else { return false };
        item.as_bool().unwrap_or_else(|| {
            self.wrong(span, format!("`{key}` is true or false"));
            false
        })
    }

    /// A list of names that is not empty.
    fn texts(&mut self, key: &'static str) -> Option<(Vec<String>, Span)> {
        let (item, span) = self.item(key)?;
        let Some(array) = item.as_array() else {
            self.wrong(span, format!("`{key}` is a list: [\"…\"]"));
            return None;
        };
        if array.is_empty() {
            let so = match key {
                "approvers" => "nobody could approve; leave it out to ask everyone who may approve",
                "agents" => "the rule would be about no agent; leave it out for every agent",
                _ => "nothing would match; leave it out for all",
            };
            self.wrong(span, format!("`{key}` is empty: {so}"));
            return None;
        }
        let mut list = Vec::new();
        for value in array {
            match value.as_str() {
                Some(text) if text.is_empty() || text.trim() != text => {
                    self.wrong(
                        value.span(),
                        format!("`{key}` has a name that is empty or has spaces around it"),
                    );
                }
                Some(text) if list.iter().any(|have| have == text) => {
                    self.wrong(value.span(), format!("`{key}` has {text:?} twice"));
                }
                Some(text) => list.push(text.to_owned()),
                None => self.wrong(value.span(), format!("`{key}` is a list of texts in quotes")),
            }
        }
        Some((list, span))
    }

    fn methods(&mut self) -> Option<Methods> {
        let (list, span) = self.texts("methods")?;
        let mut methods = Methods::default();
        for name in list {
            match Methods::one(&name) {
                Some(method) => methods = methods.with(method),
                None => {
                    let known = Methods::KNOWN.join(", ");
                    let upper = name.to_ascii_uppercase();
                    let advice = match Methods::one(&upper) {
                        Some(_) => format!("write {upper:?}"),
                        None if name == "*" => "leave `methods` out for any".to_owned(),
                        None => format!("the methods are {known}"),
                    };
                    self.wrong(
                        span.clone(),
                        format!("`methods` has {name:?}, which is not one: {advice}"),
                    );
                }
            }
        }
        Some(methods)
    }

    fn query(&mut self) -> Vec<(String, String)> {
        let Some((item, span)) = self.item("query") else { return Vec::new() };
        let Some(table) = item.as_table_like() else {
            self.wrong(span, "`query` is a table: { name = \"value\" }");
            return Vec::new();
        };
        let mut conditions = Vec::new();
        for (name, value) in table.iter() {
            match value.as_str() {
                Some(text) => conditions.push((name.to_owned(), text.to_owned())),
                None => self.wrong(
                    value.span().or_else(|| span.clone()),
                    format!("`query.{name}` is a text in quotes"),
                ),
            }
        }
        conditions
    }

    fn quorum(&mut self) -> Option<u32> {
        let (item, span) = self.item("quorum")?;
        match item.as_integer() {
            Some(number @ 1..=LARGEST_QUORUM) => u32::try_from(number).ok(),
            Some(0) => {
                self.wrong(
                    span,
                    "`quorum` is 0: it would be approved by nobody; write `then = \"allow\"` if so",
                );
                None
            }
            _ => {
                self.wrong(span, format!("`quorum` is a number of people, 1 to {LARGEST_QUORUM}"));
                None
            }
        }
    }

    fn duration(&mut self, key: &'static str, longest: Duration) -> Option<Duration> {
        let (text, span) = self.text(key)?;
        let most = humantime::format_duration(longest);
        match humantime::parse_duration(&text) {
            Ok(duration) if duration >= Duration::from_secs(1) && duration <= longest => {
                Some(duration)
            }
            Ok(_) => {
                self.wrong(span, format!("`{key}` is {text:?}: it can be from 1s to {most}"));
                None
            }
            Err(_) => {
                self.wrong(
                    span,
                    format!(
                        "`{key}` is {text:?}, which is not a duration: write \"50s\" or \"15m\""
                    ),
                );
                None
            }
        }
    }

    fn misplaced(&mut self, keys: &[&str], why: &str) {
        for key in keys {
            if let Some(item) = self.table.get(key) {
                let span =
                    self.table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
                self.wrong(span, format!("`{key}` has no place in this rule: {why}"));
            }
        }
    }

    /// The tables of `[[key]]`.
    fn tables(&mut self, key: &'static str) -> Vec<(&'a dyn TableLike, Span)> {
        let Some((item, span)) = self.item(key) else { return Vec::new() };
        if let Some(tables) = item.as_array_of_tables() {
            return tables.iter().map(|table| (table as &dyn TableLike, table.span())).collect();
        }
        self.wrong(span, format!("write each {key} as a table: [[{key}]]"));
        Vec::new()
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn refuse_others(&mut self, what: &str) {
        let table = self.table;
        for (key, item) in table.iter() {
            if self.known.contains(&key) {
                continue;
            }
            let near = self.known.iter().map(|known| (distance(key, known), *known)).min();
            let advice = match near {
                _ if key == "hosts" => "write one rule per `host`".to_owned(),
                _ if key == "method" => "did you mean `methods`?".to_owned(),
                Some((0..=2, known)) => format!("did you mean `{known}`?"),
                _ => format!("the keys are {}", self.known.join(", ")),
            };
            let span = table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
            self.wrong(span, format!("{what} has no key `{key}`: {advice}"));
        }
    }
}

/// How many letters to add, drop, replace or swap to get from one word to another.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![vec![0usize; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let same = usize::from(from[i - 1] != to[j - 1]);
                    let best =
                        (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
                    let swapped =
                        i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
                    if swapped { best.min(rows[i - 2][j - 2] + 1) } else { best }
                }
            };
        }
    }
    rows[from.len()][to.len()]
}
