//! Is there a point that is in none of these areas? Search in a space of finite dimensions.

use super::set::Set;

/// What an area asks of one dimension. A value is in `no` and in `hit` when it stands for points of both kinds.
#[derive(Debug)]
pub(crate) struct Literal {
    pub(crate) dimension: usize,
    /// Values for which the rule's answer can be No.
    pub(crate) no: Set,
    /// Values for which it can be Yes or undecidable.
    pub(crate) hit: Set,
    /// Values for which it can be Yes.
    pub(crate) yes: Set,
    /// Values for which it can be No or undecidable.
    pub(crate) not_yes: Set,
}

/// What a rule asks for: all of its literals. A rule without any is about every point.
pub(crate) type Area = Vec<Literal>;

/// Something that has to hold of a point.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clause<'a> {
    /// The rule's answer is No.
    No(&'a Area),
    /// The rule's answer is not Yes.
    NotYes(&'a Area),
}

/// What may be spent; what is not decided with it is not known.
#[derive(Debug)]
pub(crate) struct Budget(u64);

/// The budget is spent.
#[derive(Debug)]
pub(crate) struct Spent;

impl Budget {
    pub(crate) fn of(words: u64) -> Self {
        Self(words)
    }

    pub(crate) fn spend(&mut self, words: u64) -> Result<(), Spent> {
        self.0 = self.0.checked_sub(words).ok_or(Spent)?;
        Ok(())
    }
}

impl<'a> Clause<'a> {
    fn literals(self) -> impl Iterator<Item = (usize, &'a Set)> {
        let (area, no) = match self {
            Self::No(area) => (area, true),
            Self::NotYes(area) => (area, false),
        };
        area.iter().map(move |l| (l.dimension, if no { &l.no } else { &l.not_yes }))
    }
}

/// For each dimension the values of which any may be taken, such that every clause holds; None if there are none.
///
/// # Errors
/// [`Spent`] before it is known.
pub(crate) fn solve(
    mut domains: Vec<Set>,
    mut clauses: Vec<Clause<'_>>,
    budget: &mut Budget,
) -> Result<Option<Vec<Set>>, Spent> {
    if domains.iter().any(Set::is_empty) {
        return Ok(None);
    }
    loop {
        let mut narrowed = false;
        let mut open: Vec<(usize, Clause<'_>)> = Vec::new();
        for clause in &clauses {
            budget.spend(1)?;
            let mut possible = 0;
            let mut only = None;
            let mut holds = false;
            for (dimension, wanted) in clause.literals() {
                budget.spend(2 * wanted.cost())?;
                let domain = &domains[dimension];
                if domain.is_within(wanted) {
                    holds = true;
                    break;
                }
                if domain.meets(wanted) {
                    possible += 1;
                    only = Some((dimension, wanted));
                }
            }
            match (holds, possible, only) {
                (true, ..) => {}
                (false, 1, Some((dimension, wanted))) => {
                    domains[dimension].keep(wanted);
                    narrowed = true;
                }
                (false, 0, _) => return Ok(None),
                (false, ..) => open.push((possible, *clause)),
            }
        }
        let fewest = open.iter().enumerate().min_by_key(|(_, (possible, _))| *possible);
        let fewest = fewest.map(|(at, _)| at);
        clauses = open.iter().map(|(_, clause)| *clause).collect();
        let Some(fewest) = fewest else { return Ok(Some(domains)) };
        if narrowed {
            continue;
        }
        let tried = clauses.swap_remove(fewest);
        for (dimension, wanted) in tried.literals() {
            if !domains[dimension].meets(wanted) {
                continue;
            }
            let mut narrower = domains.clone();
            narrower[dimension].keep(wanted);
            if let Some(found) = solve(narrower, clauses.clone(), budget)? {
                return Ok(Some(found));
            }
            // Whatever has one of these values has been looked for.
            domains[dimension].drop(wanted);
            if domains[dimension].is_empty() {
                break;
            }
        }
        return Ok(None);
    }
}
