//! Fixtures: what an author expects of a policy, beside its rules.
//!
//! ```toml
//! [[test]]
//! name = "a large refund needs people"
//! agent = "bot"                       # default: the agent `test`
//! method = "POST"                     # default: GET
//! url = "https://api.stripe.com/v1/refunds"
//! headers = { content-type = "application/x-www-form-urlencoded" }
//! body = "amount=10000"               # default: none
//! expect = "approve"                  # allow, observe, approve, deny, tunnel, or refuse where no rule lets it through
//! rule = "large refunds"              # default: any
//! ```
//!
//! For a database, `url` is `postgres://role@host/database` and `sql` what is asked of it; without `sql`, to connect.

use std::ops::Range;

use countersign_gate::{Destination, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use toml_edit::TableLike;

use crate::database::{self, Written};
use crate::diagnostic::{Diagnostic, Mistakes};
use crate::fields::Fields;
use crate::parse;
use crate::policy::Policy;
use crate::rules::Methods;
use crate::{Body, Decision, Head, Subject, Then, target};

/// What became of the fixtures of one file, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Whether everything was as expected. A file without fixtures has nothing that was not.
    pub fn passed(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.failure.is_none())
    }
}

/// What became of one fixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub name: String,
    /// Where it is in its file, from 1.
    pub line: usize,
    /// What the policy says of the request; an ambiguous target is refused before any rule is asked.
    pub then: Then,
    /// The rule that decided; empty when none did.
    pub rule: String,
    /// What differs from what is expected, in one sentence; None if nothing does.
    pub failure: Option<String>,
}

/// Compiles the policy and decides about every `[[test]]` in it.
///
/// # Errors
/// Every mistake in the file, if there is one.
pub fn run_fixtures(text: &str, file: &str) -> Result<Report, Vec<Diagnostic>> {
    let parsed = parse::parse(text, file)?;
    let policy = Policy::of(parsed.rules);
    Ok(Report { outcomes: parsed.fixtures.iter().map(|fixture| fixture.run(&policy)).collect() })
}

/// One `[[test]]`.
#[derive(Debug)]
pub(crate) struct Fixture {
    name: String,
    line: usize,
    agent: String,
    destination: Destination,
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    body: String,
    expect: Expect,
    rule: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Allow,
    Approve,
    Deny,
    Observe,
    Tunnel,
    /// Denied, or not named by any rule, or not a clear target.
    Refuse,
}

impl Expect {
    fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::Observe => "observe",
            Self::Tunnel => "tunnel",
            Self::Refuse => "refuse",
        }
    }
}

impl Fixture {
    fn run(&self, policy: &Policy) -> Outcome {
        let head = Head {
            agent: &self.agent,
            destination: &self.destination,
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        };
        let refused =
            policy.check_target(&self.destination, &self.path, self.query.as_deref()).err();
        let (then, rule) = match &refused {
            Some(_) => (Then::Unnamed, String::new()),
            None => {
                let Decision { then, rule, .. } =
                    policy.decide(&Subject { head, body: Body::Whole(self.body.as_bytes()) });
                (then, rule)
            }
        };
        let failure = self.failure(then, &rule, refused);
        Outcome { name: self.name.clone(), line: self.line, then, rule, failure }
    }

    fn failure(
        &self,
        then: Then,
        rule: &str,
        refused: Option<target::Ambiguous>,
    ) -> Option<String> {
        let as_expected = matches!(
            (self.expect, then),
            (Expect::Allow, Then::Allow)
                | (Expect::Approve, Then::Approve)
                | (Expect::Deny, Then::Deny)
                | (Expect::Observe, Then::Observe)
                | (Expect::Tunnel, Then::Tunnel)
                | (Expect::Refuse, Then::Deny | Then::Unnamed)
        );
        let named = self.rule.as_deref().is_none_or(|wanted| wanted == rule);
        if as_expected && named {
            return None;
        }
        let found = match (then, refused) {
            (_, Some(why)) => format!("refuse, because of {why}"),
            (Then::Unnamed, None) => "refuse, because no rule names it".to_owned(),
            (then, None) => format!("{}, by {rule:?}", then.word()),
        };
        let by = self.rule.as_ref().map(|rule| format!(", by {rule:?}")).unwrap_or_default();
        Some(format!("expected {}{by}; it is {found}", self.expect.word()))
    }
}

/// Reads one `[[test]]`; None if it cannot be one.
pub(crate) fn read(
    table: &dyn TableLike,
    span: Option<Range<usize>>,
    mistakes: &mut Mistakes<'_>,
) -> Option<Fixture> {
    let line = mistakes.line(span.clone());
    let mut fields = Fields::new(table, None, mistakes);
    fields.at = span;

    let name = fields.text("name").map(|(name, _)| name).unwrap_or_else(|| format!("line {line}"));
    let agent = fields.text("agent").map_or_else(|| "test".to_owned(), |(agent, _)| agent);
    let sql = fields.text("sql");
    let method = match fields.text("method") {
        None if sql.is_some() => Some(Method::POST),
        None => Some(Method::GET),
        Some((text, span)) => {
            let method = Methods::one(&text).and_then(|_| text.parse().ok());
            if method.is_none() {
                fields.wrong(span, format!("`method` is one of {}", Methods::KNOWN.join(", ")));
            }
            method
        }
    };
    let mut headers = headers(&mut fields);
    let mut body = fields.text("body").map(|(body, _)| body).unwrap_or_default();
    let url = match fields.text("url") {
        None => {
            fields.missing("url", "write \"https://host/path\"");
            None
        }
        Some((text, span)) if text.starts_with(database::SCHEME) => {
            fields.misplaced(
                &["method", "headers", "body"],
                "it asks something of a database: write it as `sql`, or nothing to connect",
            );
            match Written::of(&text, sql.as_ref().map(|(sql, _)| sql.as_str())) {
                Ok(written) => {
                    (headers, body) = (written.headers, written.body);
                    Some((written.url, span))
                }
                Err(why) => {
                    fields.wrong(span, format!("`url` {text:?}: {why}"));
                    None
                }
            }
        }
        found => {
            fields.misplaced(
                &["sql"],
                "its `url` is no database's: write postgres://role@host/database",
            );
            found
        }
    };
    let url = url.and_then(|(text, span)| match split(&text) {
        Ok(parts) => Some(parts),
        Err(why) => {
            fields.wrong(span, format!("`url` {text:?}: {why}"));
            None
        }
    });
    let words = [
        Expect::Allow,
        Expect::Observe,
        Expect::Approve,
        Expect::Deny,
        Expect::Tunnel,
        Expect::Refuse,
    ];
    let expect = fields.word("expect", &words.map(|expect| (expect.word(), expect)));
    fields.missing(
        "expect",
        "write \"allow\", \"observe\", \"approve\", \"deny\", \"tunnel\" or \"refuse\"",
    );
    let rule = fields.text("rule").map(|(rule, _)| rule);
    fields.refuse_others("a test");

    let (destination, path, query) = url?;
    Some(Fixture {
        name,
        line,
        agent,
        destination,
        method: method?,
        path,
        query,
        headers,
        body,
        expect: expect?,
        rule,
    })
}

fn headers(fields: &mut Fields<'_, '_, '_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some((item, span)) = fields.item("headers") else { return headers };
    let Some(table) = item.as_table_like() else {
        fields.wrong(span, "`headers` is a table: { name = \"value\" }");
        return headers;
    };
    for (name, value) in table.iter() {
        let values: Option<Vec<&str>> = match value.as_array() {
            Some(array) => array.iter().map(toml_edit::Value::as_str).collect(),
            None => value.as_str().map(|text| vec![text]),
        };
        let parsed = values.and_then(|values| {
            let name: HeaderName = name.parse().ok()?;
            let values = values.into_iter().map(|value| HeaderValue::from_str(value).ok());
            values.map(|value| Some((name.clone(), value?))).collect::<Option<Vec<_>>>()
        });
        match parsed {
            Some(pairs) => pairs.into_iter().for_each(|(name, value)| {
                headers.append(name, value);
            }),
            None => fields.wrong(
                value.span().or_else(|| span.clone()),
                format!("`headers.{name}` is no header and its value"),
            ),
        }
    }
    headers
}

/// A URL, split without normalising anything.
pub(crate) fn split(url: &str) -> Result<(Destination, String, Option<String>), String> {
    let schemes = [
        ("https://", Scheme::Https, 443),
        ("http://", Scheme::Http, 80),
        ("postgres://", Scheme::Postgres, 5432),
    ];
    let known = schemes
        .into_iter()
        .find_map(|(written, scheme, port)| Some((scheme, url.strip_prefix(written)?, port)));
    let Some((scheme, rest, port)) = known else {
        return Err("it starts with https:// or postgres://".to_owned());
    };
    let start = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(start);
    let destination =
        Destination::parse(scheme, authority, Some(port)).map_err(|why| why.to_string())?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let path = if path.is_empty() { "/" } else { path };
    Ok((destination, path.to_owned(), query))
}
