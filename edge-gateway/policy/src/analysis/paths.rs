//! Paths that stand for all others: for every path that an edge lets in, there is one here that every pattern answers
//! alike.

use std::collections::{BTreeMap, BTreeSet};

use super::solve::{Budget, Spent};
use crate::path::{Pattern, Segments};
use crate::truth::Truth;

/// A path, and what patterns say of it.
#[derive(Debug)]
pub(crate) struct Example {
    pub(crate) path: String,
    /// Whether it has an encoded slash.
    pub(crate) slash: bool,
    /// Of each pattern that does not say No, by its number: whether it says Yes.
    pub(crate) answers: BTreeMap<usize, bool>,
}

/// A path of a few segments, on its way: patterns that say no already say no to whatever goes on from it.
struct Start {
    /// As written, with a slash before each segment.
    path: String,
    slash: bool,
    /// The patterns that may still say something else, and whether it was spelled as they are so far.
    alive: Vec<(usize, bool)>,
}

/// One segment to go on with.
struct Step {
    /// As written.
    segment: String,
    slash: bool,
}

/// What each costs besides its patterns: as much as they take memory, which the budget bounds as well.
const COST: u64 = 2000;

/// Examples for these patterns, plain ones first; those with encoded slashes only if they are `slashed` at all.
///
/// # Errors
/// [`Spent`] when there are more of them than the budget has.
pub(crate) fn examples(
    patterns: &[&Pattern],
    slashed: bool,
    budget: &mut Budget,
) -> Result<Vec<Example>, Spent> {
    let mut found = Found::default();
    let all = (0..patterns.len()).map(|number| (number, true)).collect();
    let mut starts = vec![Start { path: String::new(), slash: false, alive: all }];
    let longest = patterns.iter().map(|pattern| pattern.len()).max().unwrap_or(0);
    for depth in 0..=longest + 2 {
        let mut next: BTreeMap<(Vec<(usize, bool)>, bool), Start> = BTreeMap::new();
        for start in &starts {
            budget.spend(COST + 64 * start.alive.len() as u64)?;
            if depth > 0 {
                found.add(patterns, start, start.path.clone());
            }
            found.add(patterns, start, format!("{}/", start.path));
            for step in steps(patterns, start, depth, slashed) {
                let following = follow(patterns, start, depth, &step);
                budget.spend(COST + 64 * start.alive.len() as u64)?;
                let key = (following.alive.clone(), following.slash);
                next.entry(key).or_insert(following);
            }
        }
        starts = next.into_values().collect();
    }
    found.examples.sort_by_key(|example| {
        let loose = example.answers.values().filter(|yes| !**yes).count();
        (example.slash, loose, example.path.matches('/').count())
    });
    Ok(found.examples)
}

#[derive(Default)]
struct Found {
    examples: Vec<Example>,
    seen: BTreeSet<(bool, BTreeMap<usize, bool>)>,
}

impl Found {
    fn add(&mut self, patterns: &[&Pattern], start: &Start, path: String) {
        let segments = Segments::written(&path);
        let mut answers = BTreeMap::new();
        for (number, _) in &start.alive {
            match patterns[*number].matches(&segments) {
                Truth::No => {}
                Truth::Undecidable(_) => drop(answers.insert(*number, false)),
                Truth::Yes => drop(answers.insert(*number, true)),
            }
        }
        if self.seen.insert((start.slash, answers.clone())) {
            self.examples.push(Example { path, slash: start.slash, answers });
        }
    }
}

/// Every kind of segment that the patterns tell apart here.
fn steps(patterns: &[&Pattern], start: &Start, depth: usize, slashed: bool) -> Vec<Step> {
    // The spellings of each literal, by what loose readers take it for.
    let mut literals: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (number, _) in &start.alive {
        if let Some((wire, loose)) = patterns[*number].literal(depth) {
            literals.entry(loose).or_default().insert(wire);
        }
    }
    let mut steps = Vec::new();
    let mut step = |segment: String| {
        let slash = segment.contains("%2F");
        if slashed || !slash {
            steps.push(Step { segment, slash });
        }
    };
    for (loose, wires) in &literals {
        wires.iter().filter(|wire| !wire.is_empty()).for_each(|wire| step((*wire).to_owned()));
        let any = wires.first().copied().unwrap_or_default();
        let upper = any.to_ascii_uppercase();
        let shouted = !any.contains('%') && upper != any && !wires.contains(upper.as_str());
        let another =
            if shouted { upper } else { fresh(&format!("{any};"), ";", |s| !wires.contains(s)) };
        step(another);
        if !loose.contains('/') {
            step(fresh(&format!("{any};any%2Fany"), "y", |s| !wires.contains(s)));
        }
    }
    let unlike = |segment: &str| !literals.contains_key(&*crate::path::loose(segment));
    step(fresh("any", "y", unlike));
    step(fresh("any%2Fany", "y", unlike));
    steps
}

/// The text, with as many of the ending as it takes.
fn fresh(text: &str, ending: &str, fits: impl Fn(&str) -> bool) -> String {
    let mut text = text.to_owned();
    while !fits(&text) {
        text.push_str(ending);
    }
    text
}

fn follow(patterns: &[&Pattern], start: &Start, depth: usize, step: &Step) -> Start {
    let segment = Segments::written(&step.segment);
    let goes_on = |&(number, exact): &(usize, bool)| match patterns[number].goes_on(depth, &segment)
    {
        Truth::No => None,
        Truth::Undecidable(_) => Some((number, false)),
        Truth::Yes => Some((number, exact)),
    };
    Start {
        path: format!("{}/{}", start.path, step.segment),
        slash: start.slash || step.slash,
        alive: start.alive.iter().filter_map(goes_on).collect(),
    }
}
