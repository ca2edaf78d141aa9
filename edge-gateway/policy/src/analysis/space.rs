//! Every kind of request to one host, as a space of a few finite dimensions, and the rules of two policies in it.
//!
//! The dimensions are the agent, the method (with what overrides it), the path, of a database its name, the role and what
//! the text does, each name of the query that a rule asks for, and each `when`, which is Yes, No or undecidable. They are taken to be independent of each other. Where they are
//! not (a condition on the path, two names that are one to loose readers), the space has points that no request has;
//! it never lacks one that a request has.

use std::collections::BTreeSet;

use countersign_sql::Effect;

use super::paths::{self, Example};
use super::set::Set;
use super::solve::{Area, Budget, Literal, Spent};
use crate::rules::{Effects, Methods, Protocol, Rule};
use crate::truth::Truth;

pub(crate) const AGENT: usize = 0;
pub(crate) const METHOD: usize = 1;
pub(crate) const PATH: usize = 2;
pub(crate) const DATABASE: usize = 3;
pub(crate) const ROLE: usize = 4;
pub(crate) const EFFECTS: usize = 5;
const OTHERS: usize = 6;

/// The requests to one host.
#[derive(Debug)]
pub(crate) struct Space {
    /// None: one that no rule names.
    pub(crate) agents: Vec<Option<String>>,
    /// None: it is overridden, and by what is not certain.
    pub(crate) methods: Vec<Option<Methods>>,
    pub(crate) paths: Vec<Example>,
    /// None: one that no rule names.
    pub(crate) databases: Vec<Option<String>>,
    pub(crate) roles: Vec<Option<String>>,
    /// One for all when no rule asks.
    pub(crate) effects: Vec<Effects>,
    /// Each name of the query that rules ask for, and its values.
    pub(crate) names: Vec<(String, Vec<Value>)>,
    /// Each `when`.
    pub(crate) conditions: Vec<String>,
}

/// What is there of one name of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Absent,
    Doubtful,
    One(String),
}

/// What a condition may say.
pub(crate) const SAID: [Said; 3] = [Said::Yes, Said::No, Said::Undecidable];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Yes,
    No,
    Undecidable,
}

impl Space {
    /// The space that these rules, all of one host, tell apart, and the area of each. `slashed`: paths with encoded
    /// slashes may be let through.
    ///
    /// # Errors
    /// [`Spent`] when it is larger than the budget has.
    pub(crate) fn of(
        rules: &[&Rule],
        slashed: bool,
        budget: &mut Budget,
    ) -> Result<(Self, Vec<Area>), Spent> {
        let named = |list: fn(&Rule) -> &Option<Vec<String>>| {
            let named: BTreeSet<&String> =
                rules.iter().flat_map(|rule| list(rule).iter().flatten()).collect();
            [None].into_iter().chain(named.into_iter().cloned().map(Some)).collect()
        };
        let agents = named(|rule| &rule.agents);
        let databases = named(|rule| &rule.databases);
        let roles = named(|rule| &rule.roles);
        let of_database = rules.iter().any(|rule| rule.protocol == Protocol::Postgres);
        let effects = if of_database { Effects::every() } else { vec![Effects::default()] };

        let mut patterns = Vec::new();
        let mut numbers = Vec::new();
        for rule in rules {
            numbers.push(rule.path.as_ref().map(|pattern| {
                patterns.iter().position(|known| *known == pattern).unwrap_or_else(|| {
                    patterns.push(pattern);
                    patterns.len() - 1
                })
            }));
        }
        let paths = paths::examples(&patterns, slashed, budget)?;

        let asked: BTreeSet<(&str, &str)> = rules
            .iter()
            .flat_map(|rule| &rule.query)
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        let mut names: Vec<(String, Vec<Value>)> = Vec::new();
        for (name, value) in asked {
            if names.last().is_none_or(|(last, _)| last != name) {
                names.push((name.to_owned(), vec![Value::Absent, Value::Doubtful]));
            }
            if let Some((_, values)) = names.last_mut() {
                values.push(Value::One(value.to_owned()));
            }
        }
        for (_, values) in &mut names {
            let other =
                (0..).map(|n| if n == 0 { "other".to_owned() } else { format!("other{n}") });
            let mut other = other.map(Value::One).filter(|value| !values.contains(value));
            values.extend(other.next());
        }

        let conditions: BTreeSet<&str> =
            rules.iter().filter_map(|rule| Some(rule.when.as_ref()?.source())).collect();
        let space = Self {
            agents,
            methods: methods(rules),
            paths,
            databases,
            roles,
            effects,
            names,
            conditions: conditions.into_iter().map(str::to_owned).collect(),
        };
        let mut areas = Vec::new();
        for (rule, pattern) in rules.iter().zip(numbers) {
            let area = space.area(rule, pattern);
            budget.spend(area.iter().map(|literal| 8 * literal.no.cost() + 64).sum())?;
            areas.push(area);
        }
        Ok((space, areas))
    }

    /// Every point of it.
    pub(crate) fn whole(&self) -> Vec<Set> {
        (0..OTHERS + self.names.len() + self.conditions.len())
            .map(|d| Set::all(self.size(d)))
            .collect()
    }

    fn size(&self, dimension: usize) -> usize {
        match dimension {
            AGENT => self.agents.len(),
            METHOD => self.methods.len(),
            PATH => self.paths.len(),
            DATABASE => self.databases.len(),
            ROLE => self.roles.len(),
            EFFECTS => self.effects.len(),
            other => self.names.get(other - OTHERS).map_or(SAID.len(), |(_, values)| values.len()),
        }
    }

    /// The dimension of a name of the query.
    pub(crate) fn name(&self, number: usize) -> usize {
        OTHERS + number
    }

    /// The dimension of a condition.
    pub(crate) fn condition(&self, number: usize) -> usize {
        OTHERS + self.names.len() + number
    }

    fn area(&self, rule: &Rule, pattern: Option<usize>) -> Area {
        let mut area = Vec::new();
        if let Some(agents) = &rule.agents {
            area.push(self.literal(AGENT, |at| {
                let named = self.agents[at].as_ref().is_some_and(|name| agents.contains(name));
                vec![Truth::of(named)]
            }));
        }
        if let Some(wanted) = rule.methods {
            area.push(self.literal(METHOD, |at| {
                vec![match self.methods[at] {
                    Some(all) if wanted.contains(all) => Truth::Yes,
                    Some(all) if !wanted.overlaps(all) => Truth::No,
                    _ => Truth::undecidable(""),
                }]
            }));
        }
        if let Some(pattern) = pattern {
            area.push(self.literal(PATH, |at| {
                let Example { slash, answers, .. } = &self.paths[at];
                let written = match answers.get(&pattern) {
                    None => Truth::No,
                    Some(false) => Truth::undecidable(""),
                    Some(true) => Truth::Yes,
                };
                match (slash, rule.allow_encoded_slash) {
                    (true, false) => vec![Truth::undecidable("")],
                    // A strict rule also looks at what a server sees that decodes slashes first.
                    (true, true) if !rule.then.passes() && written == Truth::No => {
                        vec![Truth::No, Truth::undecidable(""), Truth::Yes]
                    }
                    _ => vec![written],
                }
            }));
        }
        let listed =
            [(DATABASE, &rule.databases, &self.databases), (ROLE, &rule.roles, &self.roles)];
        for (dimension, wanted, all) in listed {
            if let Some(wanted) = wanted {
                area.push(self.literal(dimension, |at| {
                    let named = all[at].as_ref().is_some_and(|name| wanted.contains(name));
                    vec![Truth::of(named)]
                }));
            }
        }
        if rule.protocol == Protocol::Postgres {
            let passes = rule.then.passes();
            area.push(self.literal(EFFECTS, |at| {
                let found = self.effects[at];
                vec![match rule.effects {
                    _ if found == Effects::one(Effect::Undecidable) => match rule.effects {
                        None if !passes => Truth::Yes,
                        Some(wanted) if wanted.has(Effect::Undecidable) && !passes => Truth::Yes,
                        _ => Truth::undecidable(""),
                    },
                    None => Truth::Yes,
                    Some(wanted) if passes => Truth::of(wanted.contains(found)),
                    Some(wanted) => Truth::of(wanted.overlaps(found)),
                }]
            }));
        }
        for (name, wanted) in &rule.query {
            let Some(number) = self.names.iter().position(|(known, _)| known == name) else {
                continue;
            };
            area.push(self.literal(self.name(number), |at| {
                vec![match &self.names[number].1[at] {
                    Value::Doubtful => Truth::undecidable(""),
                    Value::One(value) if value == wanted => Truth::Yes,
                    Value::Absent | Value::One(_) => Truth::No,
                }]
            }));
        }
        let when = rule.when.as_ref().map(crate::when::When::source);
        if let Some(number) = self.conditions.iter().position(|known| Some(known.as_str()) == when)
        {
            area.push(self.literal(self.condition(number), |at| {
                vec![match SAID[at] {
                    Said::Yes => Truth::Yes,
                    Said::No => Truth::No,
                    Said::Undecidable => Truth::undecidable(""),
                }]
            }));
        }
        area
    }

    /// What a rule says of each value of a dimension; more than one thing of a value that stands for several.
    fn literal(&self, dimension: usize, says: impl Fn(usize) -> Vec<Truth>) -> Literal {
        let size = self.size(dimension);
        let none = || Set::none(size);
        let mut literal =
            Literal { dimension, no: none(), hit: none(), yes: none(), not_yes: none() };
        for at in 0..size {
            for truth in says(at) {
                let sets = match truth {
                    Truth::No => [&mut literal.no, &mut literal.not_yes],
                    Truth::Undecidable(_) => [&mut literal.hit, &mut literal.not_yes],
                    Truth::Yes => [&mut literal.hit, &mut literal.yes],
                };
                sets.into_iter().for_each(|set| set.insert(at));
            }
        }
        literal
    }
}

/// One set of methods for each way in which the rules can answer; single ones where there are any.
fn methods(rules: &[&Rule]) -> Vec<Option<Methods>> {
    let wanted: Vec<Methods> = rules.iter().filter_map(|rule| rule.methods).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for all in Methods::every() {
        let answers: Vec<(bool, bool)> =
            wanted.iter().map(|wanted| (wanted.contains(all), wanted.overlaps(all))).collect();
        if seen.insert(answers) {
            found.push(Some(all));
        }
    }
    found.push(None);
    found
}
