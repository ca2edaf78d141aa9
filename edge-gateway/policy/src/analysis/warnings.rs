//! What is legal in a policy and probably not meant.

use std::collections::BTreeMap;
use std::fmt;

use super::asked::weaker;
use super::host::Side;
use super::hosts;
use super::solve::{Area, Budget, Spent, solve};
use super::space::Space;
use crate::Then;
use crate::policy::{Policy, strictness};
use crate::rules::Rule;

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where the rule is in its file, from 1; 0 when it is about all of them.
    pub line: usize,
    pub rule: String,
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "rule {:?} (line {line}) {}", self.rule, self.message),
        }
    }
}

/// What one look may cost, in words looked at.
const BUDGET: u64 = 200_000_000;

/// Rules that decide nothing, rules that say what another one says, and keys that some rules allow and others ask
/// about; by line.
pub fn warnings(policy: &Policy) -> Vec<Warning> {
    let mut warnings = keys(policy);
    warnings.extend(sockets(policy));
    let mut budget = Budget::of(BUDGET);
    match idle(policy, &mut budget) {
        Ok(idle) => warnings.extend(idle),
        Err(Spent) => warnings.push(Warning {
            line: 0,
            rule: String::new(),
            message:
                "not every rule was looked at: they are too many, or too entangled, on one host"
                    .into(),
        }),
    }
    warnings.sort_by(|a, b| (a.line, &a.rule).cmp(&(b.line, &b.rule)));
    warnings
}

/// Keys that are handed out one request at a time although an allow rule names them.
fn keys(policy: &Policy) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for credential in policy.credentials() {
        let using = policy.credential_use(&credential);
        if !using.allow || !using.approve || using.accept_edge_enforced {
            continue;
        }
        let named = |then: Then| {
            let mut rules = policy.rules().iter();
            rules.find(|rule| rule.then == then && rule.credential.as_ref() == Some(&credential))
        };
        if let (Some(allows), Some(asks)) = (named(Then::Allow), named(Then::Approve)) {
            warnings.push(Warning {
                line: allows.line,
                rule: allows.name.clone(),
                message: format!(
                    "allows what takes the key {credential:?}, and {:?} (line {}) asks before it is used: it is handed out \
                     one request at a time for both; give each a key of its own, or write accept_edge_enforced = true",
                    asks.name, asks.line
                ),
            });
        }
    }
    warnings
}

/// Rules that let requests become WebSockets whose keys are handed out one request at a time.
fn sockets(policy: &Policy) -> impl Iterator<Item = Warning> {
    let opens =
        policy.rules().iter().filter(|rule| rule.then == Then::Allow && rule.channel.is_some());
    opens.filter_map(|rule| {
        let credential = rule.credential.as_ref()?;
        let using = policy.credential_use(credential);
        (using.approve && !using.accept_edge_enforced).then(|| Warning {
            line: rule.line,
            rule: rule.name.clone(),
            message: format!(
                "never opens a WebSocket: its key {credential:?} is handed out one request at a time, because another rule \
                 asks before it is used"
            ),
        })
    })
}

/// What is known of a rule over all of its hosts.
#[derive(Default)]
struct Known {
    /// There is a request that it decides.
    decides: bool,
    /// On every host so far, another rule says the same: which ones.
    echoes: Option<Vec<usize>>,
    /// A stricter rule that is about all of its requests on some host.
    under: Option<usize>,
}

/// Rules that never decide, and rules that say nothing of their own.
fn idle(policy: &Policy, budget: &mut Budget) -> Result<Vec<Warning>, Spent> {
    let rules = policy.rules();
    let mut known: BTreeMap<usize, Known> = BTreeMap::new();
    for host in hosts(&[policy]) {
        let numbers = policy.numbers(host.protocol, &host.name, host.port);
        let about: Vec<&Rule> = numbers.iter().map(|number| &rules[*number]).collect();
        let slashed = about.iter().any(|rule| rule.allow_encoded_slash);
        let (space, areas) = Space::of(&about, slashed, budget)?;
        let side = Side::of(&about, &areas);
        for (at, rule) in about.iter().enumerate() {
            let of_rule = known.entry(numbers[at]).or_default();
            let echoes = (0..about.len()).filter(|other| {
                *other != at
                    && covers((about[*other], &areas[*other]), (*rule, &areas[at]))
                    && says_as_much(about[*other], rule)
            });
            let echoes: Vec<usize> = echoes.map(|other| numbers[other]).collect();
            budget.spend(16 * about.len() as u64)?;
            of_rule.echoes = Some(match of_rule.echoes.take() {
                None => echoes,
                Some(before) => before.into_iter().filter(|other| echoes.contains(other)).collect(),
            });
            if of_rule.decides {
                continue;
            }
            let stricter = |other: &Rule| strictness(other.then) > strictness(rule.then);
            let mut domains = space.whole();
            for literal in &areas[at] {
                let own = if rule.then.passes() { &literal.yes } else { &literal.hit };
                domains[literal.dimension].keep(own);
            }
            let above: Vec<_> = side.none(stricter).collect();
            if solve(domains, above, budget)?.is_some() {
                of_rule.decides = true;
            } else {
                let mut wider = side.those(stricter);
                let under = wider.find(|(other, _)| {
                    covers((about[*other], &areas[*other]), (*rule, &areas[at]))
                });
                of_rule.under = of_rule.under.or_else(|| under.map(|(other, _)| numbers[other]));
            }
        }
    }
    let mut warnings = Vec::new();
    for (number, of_rule) in &known {
        let rule = &rules[*number];
        let named = |other: usize| format!("{:?} (line {})", rules[other].name, rules[other].line);
        // Of two that say the same, the later one is too much.
        let says = |one: usize, other: usize| {
            known
                .get(&one)
                .and_then(|of| of.echoes.as_ref())
                .is_some_and(|all| all.contains(&other))
        };
        let mut echoes = of_rule.echoes.iter().flatten().copied();
        let echo = echoes.find(|other| !says(*other, *number) || rules[*other].line < rule.line);
        let message = match (of_rule.decides, of_rule.under, echo) {
            (false, Some(other), _) => {
                format!("never decides: {} is about all of its requests", named(other))
            }
            (false, None, _) => {
                "never decides: stricter rules are about all of its requests, or no request is its"
                    .to_owned()
            }
            (true, _, Some(other)) => format!("says nothing that {} does not say", named(other)),
            (true, _, None) => continue,
        };
        warnings.push(Warning { line: rule.line, rule: rule.name.clone(), message });
    }
    Ok(warnings)
}

/// Whether one rule answers every request that another one answers.
fn covers(wider: (&Rule, &Area), narrower: (&Rule, &Area)) -> bool {
    let [certain, own_certain] = [wider.0, narrower.0].map(|rule| rule.then.passes());
    wider.1.iter().all(|literal| {
        let same = narrower.1.iter().find(|other| other.dimension == literal.dimension);
        let not = if certain { &literal.not_yes } else { &literal.no };
        same.is_some_and(|own| !if own_certain { &own.yes } else { &own.hit }.meets(not))
    })
}

/// Whether what a rule says of a request is said by the other one as well, where both are about it.
fn says_as_much(other: &Rule, rule: &Rule) -> bool {
    let key = rule.credential.is_none() || rule.credential == other.credential;
    let opens = rule.channel.is_none_or(|own| other.channel.is_some_and(|its| its.or(own) == its));
    other.then == rule.then
        && key
        && opens
        && match rule.then {
            Then::Approve => weaker(other, rule).is_empty(),
            Then::Observe => false,
            Then::Allow | Then::Deny | Then::Tunnel | Then::Unnamed => true,
        }
}
