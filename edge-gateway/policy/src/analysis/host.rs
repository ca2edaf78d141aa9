//! The questions about one host.

use super::asked::weaker;
use super::set::Set;
use super::solve::{Area, Budget, Clause, Spent, solve};
use super::space::{PATH, Space};
use super::{Example, Found, Kind, Witness};
use crate::Then;
use crate::channel::Channel;
use crate::rules::Rule;

/// The rules of one policy that are about the host.
pub(crate) struct Side<'a> {
    pub(crate) rules: &'a [&'a Rule],
    pub(crate) areas: &'a [Area],
    /// Which requests each rule is about.
    about: Vec<String>,
    /// Whether encoded slashes are let in.
    slashed: bool,
}

/// What has to hold of a request: all of it.
#[derive(Clone)]
struct Question<'a> {
    domains: Vec<Set>,
    clauses: Vec<Clause<'a>>,
}

impl<'a> Side<'a> {
    pub(crate) fn of(rules: &'a [&'a Rule], areas: &'a [Area]) -> Self {
        let slashed = rules.iter().any(|rule| rule.allow_encoded_slash);
        Self { rules, areas, about: rules.iter().map(|rule| rule.about()).collect(), slashed }
    }

    pub(crate) fn those<F: Fn(&Rule) -> bool>(
        &self,
        which: F,
    ) -> impl Iterator<Item = (usize, &'a Rule)> + use<'a, F> {
        self.rules.iter().copied().enumerate().filter(move |(_, rule)| which(rule))
    }

    /// Whether a rule of this kind is about the same requests as that rule of another side.
    fn same(&self, other: &Self, rule: usize, which: impl Fn(&Rule) -> bool) -> bool {
        let about = &other.about[rule];
        self.rules.iter().zip(&self.about).any(|(mine, own)| own == about && which(mine))
    }

    /// That none of these rules matches, or may.
    pub(crate) fn none<F: Fn(&Rule) -> bool>(
        &self,
        which: F,
    ) -> impl Iterator<Item = Clause<'a>> + use<'a, F> {
        let areas = self.areas;
        self.those(which).map(|(rule, _)| Clause::No(&areas[rule]))
    }

    /// That none of these rules matches for certain.
    fn none_certainly<F: Fn(&Rule) -> bool>(
        &self,
        which: F,
    ) -> impl Iterator<Item = Clause<'a>> + use<'a, F> {
        let areas = self.areas;
        self.those(which).map(|(rule, _)| Clause::NotYes(&areas[rule]))
    }
}

impl<'a> Question<'a> {
    fn about(space: &Space) -> Self {
        Self { domains: space.whole(), clauses: Vec::new() }
    }

    /// That the rule matches for certain.
    fn yes(mut self, area: &Area) -> Self {
        area.iter().for_each(|literal| self.domains[literal.dimension].keep(&literal.yes));
        self
    }

    /// That the rule matches, or may.
    fn hit(mut self, area: &Area) -> Self {
        area.iter().for_each(|literal| self.domains[literal.dimension].keep(&literal.hit));
        self
    }

    /// That the path is one of these.
    fn on(mut self, paths: &Set) -> Self {
        self.domains[PATH].keep(paths);
        self
    }

    fn and(mut self, clauses: impl Iterator<Item = Clause<'a>>) -> Self {
        self.clauses.extend(clauses);
        self
    }

    fn answer(self, budget: &mut Budget) -> Result<Option<Vec<Set>>, Spent> {
        solve(self.domains, self.clauses, budget)
    }
}

/// Whether there can be a request that both are about, each for certain if so it is asked: a quick no.
fn meet(one: (&Area, bool), other: (&Area, bool)) -> bool {
    one.0.iter().all(|own| {
        let mut others = other.0.iter();
        others.find(|literal| literal.dimension == own.dimension).is_none_or(|literal| {
            let own = if one.1 { &own.yes } else { &own.hit };
            own.meets(if other.1 { &literal.yes } else { &literal.hit })
        })
    })
}

fn passes(rule: &Rule) -> bool {
    rule.then.passes()
}

fn asks(rule: &Rule) -> bool {
    rule.then == Then::Approve
}

fn denies(rule: &Rule) -> bool {
    rule.then == Then::Deny
}

fn strict(rule: &Rule) -> bool {
    asks(rule) || denies(rule)
}

fn observes(rule: &Rule) -> bool {
    rule.then == Then::Observe
}

/// Whether it judges request by request, so that nothing else is opened where it matches or may.
fn judges(rule: &Rule) -> bool {
    strict(rule) || observes(rule)
}

/// Adds what is opened on this host.
///
/// # Errors
/// [`Spent`] when not everything was asked.
pub(crate) fn compare(
    host: &Example,
    was: &[&Rule],
    is: &[&Rule],
    found: &mut Found,
    budget: &mut Budget,
) -> Result<(), Spent> {
    let all: Vec<&Rule> = was.iter().chain(is).copied().collect();
    let slashed = is.iter().any(|rule| rule.allow_encoded_slash);
    let (space, areas) = Space::of(&all, slashed, budget)?;
    let (before, after) = areas.split_at(was.len());
    let mut hearing = Hearing {
        host,
        old: Side::of(was, before),
        new: Side::of(is, after),
        slashes: Set::those(space.paths.len(), |at| space.paths[at].slash),
        plain: Set::those(space.paths.len(), |at| !space.paths[at].slash),
        space: &space,
        found,
        budget,
    };
    hearing.opened(Kind::Passes, passes, strict)?;
    hearing.opened(Kind::Approvable, asks, denies)?;
    hearing.keys(passes, strict)?;
    hearing.keys(asks, denies)?;
    hearing.channels(|channel| channel.max_bytes)?;
    hearing.channels(|channel| channel.max_time.as_secs())?;
    hearing.weaker()
}

struct Hearing<'a> {
    host: &'a Example,
    space: &'a Space,
    old: Side<'a>,
    new: Side<'a>,
    slashes: Set,
    plain: Set,
    found: &'a mut Found,
    budget: &'a mut Budget,
}

impl<'a> Hearing<'a> {
    /// Requests that the old policy let in at all.
    fn known(&self) -> Question<'a> {
        let question = Question::about(self.space);
        if self.old.slashed { question } else { question.on(&self.plain) }
    }

    fn ask(
        &mut self,
        question: Question<'a>,
        kind: Kind,
        now: &Rule,
        was: Option<&Rule>,
        unclear: bool,
        how: Vec<String>,
    ) -> Result<(), Spent> {
        if let Some(answer) = question.answer(self.budget)? {
            let witness = Witness::of(self.space, self.host, &answer);
            self.found.add(kind, now, was, unclear, how, witness);
        }
        Ok(())
    }

    /// What `opens` lets through now that it did not, because of a rule that is `shut`, or of none.
    fn opened(
        &mut self,
        kind: Kind,
        opens: fn(&Rule) -> bool,
        shut: fn(&Rule) -> bool,
    ) -> Result<(), Spent> {
        for (index, rule) in self.new.those(opens) {
            let areas = self.new.areas;
            let area = &areas[index];
            let matches = |question: Question<'a>| match rule.then.passes() {
                true => question.yes(area),
                false => question.hit(area),
            };
            let now = matches(Question::about(self.space)).and(self.new.none(shut));
            let unclear = !self.old.slashed && self.new.slashed;
            if unclear && self.found.news(kind, rule, None, true) {
                self.ask(now.clone().on(&self.slashes), kind, rule, None, true, Vec::new())?;
            }
            let now = if self.old.slashed { now } else { now.on(&self.plain) };
            for (other, before) in self.old.those(shut) {
                self.budget.spend(4)?;
                let blocking = &self.old.areas[other];
                if !meet((area, rule.then.passes()), (blocking, false))
                    || !self.found.news(kind, rule, Some(before), false)
                    || self.new.same(&self.old, other, shut)
                {
                    continue;
                }
                let question = now.clone().hit(blocking);
                self.ask(question, kind, rule, Some(before), false, Vec::new())?;
            }
            if self.found.news(kind, rule, None, false) && !self.old.same(&self.new, index, opens) {
                let question = now.and(self.old.none(strict)).and(self.old.none_certainly(passes));
                self.ask(question, kind, rule, None, false, Vec::new())?;
            }
        }
        Ok(())
    }

    /// What gets a key now from a rule that `gives` it, and got none of that name.
    fn keys(&mut self, gives: fn(&Rule) -> bool, shut: fn(&Rule) -> bool) -> Result<(), Spent> {
        for (index, rule) in self.new.those(gives) {
            let Some(credential) = &rule.credential else { continue };
            let had = |old: &Rule| gives(old) && old.credential.as_ref() == Some(credential);
            if self.old.same(&self.new, index, had) {
                continue;
            }
            for (other, before) in self.old.those(gives) {
                self.budget.spend(4)?;
                let (now, then) = (&self.new.areas[index], &self.old.areas[other]);
                let certain = rule.then.passes();
                if !meet((now, certain), (then, certain))
                    || !self.found.news(Kind::Key, rule, Some(before), false)
                {
                    continue;
                }
                let (question, none_had): (_, Vec<Clause<'a>>) = match rule.then.passes() {
                    true => {
                        (self.known().yes(now).yes(then), self.old.none_certainly(had).collect())
                    }
                    false => (self.known().hit(now).hit(then), self.old.none(had).collect()),
                };
                let question = question
                    .and(self.new.none(shut))
                    .and(self.old.none(shut))
                    .and(none_had.into_iter());
                let how = vec![format!("it takes the key {credential:?}")];
                self.ask(question, Kind::Key, rule, Some(before), false, how)?;
            }
        }
        Ok(())
    }

    /// What passed before, and may now become more than one request, or more of it by this bound.
    fn channels(&mut self, bound: fn(&Channel) -> u64) -> Result<(), Spent> {
        for (index, rule) in self.new.those(|rule| rule.channel.is_some()) {
            let Some(channel) = &rule.channel else { continue };
            let had = |old: &Rule| {
                (old.then == rule.then || old.then == Then::Tunnel)
                    && old.channel.as_ref().is_some_and(|old| bound(old) >= bound(channel))
            };
            let watched = self.old.those(observes).next().is_some();
            if !watched && self.old.same(&self.new, index, had) {
                continue;
            }
            let how = match rule.then {
                Then::Tunnel => format!("it is tunnelled, not looked into, {channel}"),
                _ => format!("it may become a WebSocket, {channel}"),
            };
            let (areas, former) = (self.new.areas, self.old.areas);
            let now = &areas[index];
            for (other, before) in self.old.those(passes) {
                self.budget.spend(4)?;
                let then = &former[other];
                if !meet((now, true), (then, true))
                    || !self.found.news(Kind::Channel, rule, Some(before), false)
                {
                    continue;
                }
                let passed = self
                    .known()
                    .yes(now)
                    .yes(then)
                    .and(self.new.none(judges))
                    .and(self.old.none(strict));
                let question = passed.clone().and(self.old.none_certainly(had));
                self.ask(question, Kind::Channel, rule, Some(before), false, vec![how.clone()])?;
                // It would have been opened, save that each request was recorded.
                for (watching, watcher) in self.old.those(observes) {
                    if self.found.news(Kind::Channel, rule, Some(watcher), false) {
                        let question = passed.clone().hit(&former[watching]);
                        let how = vec![how.clone()];
                        self.ask(question, Kind::Channel, rule, Some(watcher), false, how)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What people are asked about as before, and no rule asks as much any more as one did.
    fn weaker(&mut self) -> Result<(), Spent> {
        for (other, before) in self.old.those(asks) {
            let then = &self.old.areas[other];
            self.budget.spend(8 * self.new.rules.len() as u64)?;
            let areas = self.new.areas;
            let beside = |(index, _): &(usize, &Rule)| meet((&areas[*index], false), (then, false));
            let asking: Vec<(usize, &Rule, Vec<String>)> = self
                .new
                .those(asks)
                .filter(beside)
                .map(|(index, rule)| (index, rule, weaker(rule, before)))
                .collect();
            let as_much = || asking.iter().filter(|(.., how)| how.is_empty());
            if as_much().any(|(index, ..)| self.new.about[*index] == self.old.about[other]) {
                continue;
            }
            let clauses: Vec<Clause<'a>> =
                as_much().map(|(index, ..)| Clause::No(&areas[*index])).collect();
            for (index, rule, how) in asking.iter().filter(|(.., how)| !how.is_empty()) {
                if self.found.news(Kind::Weaker, rule, Some(before), false) {
                    let question = self
                        .known()
                        .hit(&areas[*index])
                        .hit(then)
                        .and(self.new.none(denies))
                        .and(self.old.none(denies))
                        .and(clauses.iter().copied());
                    self.ask(question, Kind::Weaker, rule, Some(before), false, how.clone())?;
                }
            }
        }
        Ok(())
    }
}
