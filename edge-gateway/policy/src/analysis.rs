//! What a change of policy lets through that was not let through before.
//!
//! ```text
//! hosts ─▶ space of requests (space, paths) ─▶ pairs of rules ─▶ is there a request? (solve) ─▶ witness
//! ```
//!
//! For each host that rules are about, the requests to it fall into finitely many kinds that the rules of both policies
//! tell apart. Each pair of a rule that opens and a rule that was in the way (or none) is a question: is there a request
//! that the one lets through now, and the other kept before? The answer is sound: what passes newly is reported, or the
//! analysis says that it gave up. It is exact save for this: conditions (`when`) are not looked into. One that is
//! written alike is the same one; others are taken to be independent, so `a > 5` beside `a > 3` reports too much. And
//! of paths with encoded slashes strict rules are taken to say what suits.
//!
//! Targets that an edge refuses before any rule ([`Policy::check_target`]) pass under no policy.

use std::collections::BTreeSet;
use std::fmt;

use crate::Then;
use crate::policy::Policy;
use crate::rules::{Protocol, Rule};

mod asked;
mod host;
mod paths;
mod set;
mod solve;
mod space;
mod warnings;
mod witness;

pub use warnings::{Warning, warnings};
pub use witness::{Asked, Condition, Holds, Witness};

use solve::Budget;

/// What a change of policy opens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// By kind, then by where the rule is in its file.
    pub widenings: Vec<Widening>,
    /// Hosts about which it is not known: their rules are too many, or too entangled.
    pub gave_up: Vec<String>,
}

/// Requests that a change of policy opens: those that one rule lets through, or asks about, and that another one (or
/// none) answered before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Widening {
    pub kind: Kind,
    /// The rule of the new policy.
    pub now: Named,
    /// What the old policy said.
    pub was: Was,
    /// How it is wider, where the kind does not say it: each a clause.
    pub how: Vec<String>,
    /// One of them.
    pub witness: Witness,
}

/// Graver ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It passes, and did not.
    Passes,
    /// It passes as before, or is asked about as before, and may take a key that it did not get.
    Key,
    /// It passes as before, and may become what is not judged request by request: a WebSocket, or a tunnel.
    Channel,
    /// People may approve it; it was refused.
    Approvable,
    /// People are asked as before, and it takes less of them.
    Weaker,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub rule: String,
    /// Where it is in its file, from 1.
    pub line: usize,
    pub then: Then,
}

/// What the old policy said of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Was {
    /// A rule decided, or was one of those that did.
    Decided(Named),
    /// No rule let it through.
    Unnamed,
    /// Its target could be read in two ways: an encoded slash.
    Unclear,
}

/// What one comparison may cost, in words looked at: a good half second.
const BUDGET: u64 = 400_000_000;

/// What the change from one policy to the other opens.
pub fn compare(old: &Policy, new: &Policy) -> Comparison {
    let mut comparison = Comparison::default();
    let mut found = Found::default();
    let mut budget = Budget::of(BUDGET);
    for host in hosts(&[old, new]) {
        let [was, is] = [old, new].map(|policy| about(policy, &host));
        if said(&was) == said(&is) {
            continue;
        }
        if host::compare(&host, &was, &is, &mut found, &mut budget).is_err() {
            comparison.gave_up.push(format!("{}:{}", host.name, host.port));
            // Enough for what is simple elsewhere.
            budget = Budget::of(BUDGET / 16);
        }
    }
    comparison.widenings = found.widenings;
    comparison.widenings.sort_by(|a, b| {
        let of = |w: &Widening| (w.kind, w.now.line);
        of(a).cmp(&of(b))
    });
    comparison
}

impl Comparison {
    /// Whether anything passes, or can be approved, that could not, or with less; or that is not known.
    pub fn widens(&self) -> bool {
        !self.widenings.is_empty() || !self.gave_up.is_empty()
    }
}

/// A host that stands for all that the same rules are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Example {
    pub(crate) protocol: Protocol,
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// One for every host, and for every kind of names below one, that rules are about.
fn hosts(policies: &[&Policy]) -> BTreeSet<Example> {
    let all = || policies.iter().flat_map(|policy| policy.rules());
    let exact: BTreeSet<&str> = all()
        .map(|rule| &rule.host)
        .filter(|host| !host.below)
        .map(|host| host.name.as_str())
        .collect();
    let example = |rule: &Rule| {
        let host = &rule.host;
        let mut name = if host.below { format!("any.{}", host.name) } else { host.name.clone() };
        while host.below && exact.contains(name.as_str()) {
            name = format!("some-{name}");
        }
        Example { protocol: rule.protocol, name, port: host.port }
    };
    all().map(example).collect()
}

fn about<'p>(policy: &'p Policy, host: &Example) -> Vec<&'p Rule> {
    let numbers = policy.numbers(host.protocol, &host.name, host.port);
    numbers.into_iter().map(|number| &policy.rules()[number]).collect()
}

/// What rules say, whatever they are called and wherever they stand.
fn said(rules: &[&Rule]) -> Vec<String> {
    let mut said: Vec<String> = rules
        .iter()
        .map(|rule| {
            let Rule { then, asks, credential, accept_edge_enforced, channel, .. } = rule;
            format!(
                "{}{then:?}{asks:?}{credential:?}{accept_edge_enforced}{channel:?}",
                rule.about()
            )
        })
        .collect();
    said.sort();
    said.dedup();
    said
}

/// What was found so far, on whichever host.
#[derive(Default)]
struct Found {
    widenings: Vec<Widening>,
    seen: BTreeSet<(Kind, String, Option<String>, bool)>,
}

impl Found {
    /// Whether it is the first of its kind between these rules.
    fn news(&self, kind: Kind, now: &Rule, was: Option<&Rule>, unclear: bool) -> bool {
        !self.seen.contains(&Self::key(kind, now, was, unclear))
    }

    fn key(
        kind: Kind,
        now: &Rule,
        was: Option<&Rule>,
        unclear: bool,
    ) -> (Kind, String, Option<String>, bool) {
        (kind, now.name.clone(), was.map(|rule| rule.name.clone()), unclear)
    }

    fn add(
        &mut self,
        kind: Kind,
        now: &Rule,
        was: Option<&Rule>,
        unclear: bool,
        how: Vec<String>,
        witness: Witness,
    ) {
        self.seen.insert(Self::key(kind, now, was, unclear));
        let before = match was {
            Some(rule) => Was::Decided(Named::of(rule)),
            None if unclear => Was::Unclear,
            None => Was::Unnamed,
        };
        self.widenings.push(Widening { kind, now: Named::of(now), was: before, how, witness });
    }
}

impl Named {
    fn of(rule: &Rule) -> Self {
        Self { rule: rule.name.clone(), line: rule.line, then: rule.then }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {:?} (line {}, {})", self.rule, self.line, self.then.word())
    }
}

impl fmt::Display for Was {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decided(rule) => write!(f, "{rule} answered"),
            Self::Unnamed => f.write_str("no rule let through"),
            Self::Unclear => f.write_str("was refused for an encoded slash in its path"),
        }
    }
}

impl fmt::Display for Widening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.kind {
            Kind::Approvable => "asks people about",
            Kind::Channel => "opens more than one request for",
            Kind::Key => "gives a key to",
            Kind::Passes => "lets through",
            Kind::Weaker => "asks less of people about",
        };
        write!(f, "{} {verb} what {} before", self.now, self.was)?;
        if !self.how.is_empty() {
            write!(f, ": {}", self.how.join("; "))?;
        }
        write!(f, "; for example {}", self.witness)
    }
}
