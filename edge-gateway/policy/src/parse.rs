//! TOML to rules. Everything that is wrong is said at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use countersign_sql::Effect;
use toml_edit::{Document, Item, TableLike};

use crate::Then;
use crate::asking::Asking;
use crate::channel::Channel;
use crate::diagnostic::{Diagnostic, Mistakes};
use crate::fields::{Fields, Span};
use crate::fixtures::{self, Fixture};
use crate::path::Pattern;
use crate::rules::{HostPattern, Protocol, Rule};
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
    let rules: Vec<(Rule, Span)> = rules
        .iter()
        .filter_map(|(table, span)| {
            Some((rule(*table, span.clone(), &mut seen, &mut mistakes)?, span.clone()))
        })
        .collect();
    refuse_beside_tunnels(&rules, &mut mistakes);
    let rules = rules.into_iter().map(|(rule, _)| rule).collect();
    let fixtures = fixtures
        .iter()
        .filter_map(|(table, span)| fixtures::read(*table, span.clone(), &mut mistakes))
        .collect();
    mistakes.settle(Parsed { rules, fixtures })
}

/// What is tunnelled cannot be looked into, so no other rule can be about it: it would seem to be kept, and would not.
fn refuse_beside_tunnels(rules: &[(Rule, Span)], mistakes: &mut Mistakes<'_>) {
    for (tunnel, span) in rules.iter().filter(|(rule, _)| rule.then == Then::Tunnel) {
        let beside = rules.iter().find(|(rule, _)| rule.then != Then::Tunnel && rule.meets(tunnel));
        if let Some((other, _)) = beside {
            mistakes.add(
                span.clone(),
                Some(&tunnel.name),
                format!(
                    "it tunnels what rule {:?} (line {}) is about as well, and what is tunnelled cannot be looked into: \
                     give the two other hosts or other `agents`",
                    other.name, other.line
                ),
            );
        }
    }
}

const THEN: [(&str, Then); 5] = [
    ("allow", Then::Allow),
    ("observe", Then::Observe),
    ("approve", Then::Approve),
    ("deny", Then::Deny),
    ("tunnel", Then::Tunnel),
];

const HOLD: Duration = Duration::from_secs(50);
const SHORTEST_HOLD: Duration = Duration::from_secs(1);
const LONGEST_HOLD: Duration = Duration::from_secs(280);

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
    let then = fields.word("then", &THEN);
    fields.missing("then", "write \"allow\", \"observe\", \"approve\", \"deny\" or \"tunnel\"");
    let spoken = [("http", Protocol::Http), ("postgres", Protocol::Postgres)];
    let protocol = fields.word("protocol", &spoken).unwrap_or_default();
    let host = match fields.text("host") {
        None => {
            fields.missing("host", "write one host (a rule per host), exact or \"*.example.com\"");
            None
        }
        Some((text, span)) => match HostPattern::parse(&text, protocol) {
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
    let databases = fields.texts("databases").map(|(list, _)| list);
    let roles = fields.texts("roles").map(|(list, _)| list);
    let effects = fields.effects(then);
    let when = fields.text("when").and_then(|(text, span)| match When::compile(&text, protocol) {
        Ok(when) => Some(when),
        Err(errors) => {
            for error in errors {
                fields.wrong(span.clone(), format!("`when`: {error}"));
            }
            None
        }
    });
    let asks = Asking::read(&mut fields, then);
    let hold = fields.duration("hold", SHORTEST_HOLD, LONGEST_HOLD);
    let park = fields.flag("park");
    let channel = Channel::read(&mut fields, then);
    if then == Some(Then::Allow)
        && channel.is_some()
        && methods.is_some_and(|methods| !methods.names().any(|name| name == "GET"))
    {
        let span = fields.span("upgrade");
        fields.wrong(span, "`upgrade` has no place here: a WebSocket begins with a GET");
    }
    let credential = fields.name("credential");
    let accept_edge_enforced = fields.flag("accept_edge_enforced");
    let reason = fields.text("reason").map(|(text, _)| text);
    if then == Some(Then::Deny) {
        fields.misplaced(
            &["credential", "hold", "accept_edge_enforced"],
            "it denies: nothing leaves",
        );
    }
    match protocol {
        Protocol::Http => fields.misplaced(
            &["databases", "roles", "sql"],
            "it is about HTTP: write protocol = \"postgres\" for a database",
        ),
        Protocol::Postgres => {
            fields.misplaced(
                &["methods", "path", "query", "allow_encoded_slash", "upgrade", "park"],
                "it is about a database, and statements have none",
            );
            if then == Some(Then::Tunnel) {
                let span = fields.span("then");
                fields.wrong(
                    span,
                    "a database is not tunnelled: allow what is harmless, and ask about the rest",
                );
            }
            if effects.is_some_and(|effects| !effects.has(Effect::Connect)) {
                fields.misplaced(
                    &["credential"],
                    "the key opens the connection, and statements carry none: name it where `sql` has \"connect\"",
                );
            }
        }
    }
    fields.refuse_others("a rule");

    Some(Rule {
        name,
        line,
        then: then?,
        protocol,
        agents,
        host: host?,
        methods,
        path: path.map(|(pattern, ..)| pattern),
        query,
        databases,
        roles,
        effects,
        when,
        credential,
        asks,
        hold: hold.unwrap_or(HOLD),
        park,
        channel,
        accept_edge_enforced,
        allow_encoded_slash,
        reason,
    })
}
