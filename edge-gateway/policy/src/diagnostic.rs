//! What is wrong with a policy file, and where.

use std::fmt;
use std::ops::Range;

/// One mistake in a policy file: where it is, which rule it is in, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    file: String,
    line: usize,
    rule: Option<String>,
    message: String,
}

impl Diagnostic {
    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The name of the rule it is in, when it is in one that has a name.
    pub fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "{}:{}: rule {rule:?}: {}", self.file, self.line, self.message),
            None => write!(f, "{}:{}: {}", self.file, self.line, self.message),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// Collects every mistake in one file, in the order of its lines.
pub(crate) struct Mistakes<'a> {
    text: &'a str,
    file: &'a str,
    found: Vec<Diagnostic>,
}

impl<'a> Mistakes<'a> {
    pub(crate) fn new(text: &'a str, file: &'a str) -> Self {
        Self { text, file, found: Vec::new() }
    }

    /// The line of a byte range, from 1; the first line when there is no range.
    pub(crate) fn line(&self, span: Option<Range<usize>>) -> usize {
        let start = span.map_or(0, |span| span.start).min(self.text.len());
        1 + self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count()
    }

    pub(crate) fn add(
        &mut self,
        span: Option<Range<usize>>,
        rule: Option<&str>,
        message: impl Into<String>,
    ) {
        let line = self.line(span);
        self.add_at(line, rule, message);
    }

    pub(crate) fn add_at(&mut self, line: usize, rule: Option<&str>, message: impl Into<String>) {
        let rule = rule.map(str::to_owned);
        self.found.push(Diagnostic {
            file: self.file.to_owned(),
            line,
            rule,
            message: message.into(),
        });
    }

    /// The value, if there was no mistake; all of them otherwise.
    pub(crate) fn settle<T>(mut self, value: T) -> Result<T, Vec<Diagnostic>> {
        if self.found.is_empty() {
            return Ok(value);
        }
        self.found.sort_by_key(|mistake| mistake.line);
        Err(self.found)
    }
}
