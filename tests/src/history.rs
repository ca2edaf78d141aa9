//! What people and clients did to approvals, when each call began and what it was told, and the check that one
//! approval object, taking one step at a time, could have told them so.
//!
//! A call that did not return is one whose effect may come at any time, or never: every error that is not a
//! refusal counts as that. Approvals do not influence each other, so each is checked on its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester, SequentialSpec};

/// Calls under way at once, for one approval, that are still checked: each further one multiplies the time by eight.
const WIDEST: usize = 9;

/// What is done to an approval.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// By this principal.
    Approve(String),
    Cancel,
    /// The release to this request: told as accepted when its bytes arrive upstream.
    Claim(String),
    Deny(String),
    /// The end of its time. Never returns.
    Expire,
    Read,
}

/// What was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Told {
    Accepted,
    /// By the state, for a reason of its own; not a failure on the way.
    Refused,
    State(Seen),
}

/// An approval's state as a reader sees it. What follows a release is a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seen {
    Approved,
    Cancelled,
    Denied,
    Expired,
    Pending,
    Released,
}

impl Seen {
    /// Of the word that the CLI prints.
    pub fn of(word: &str) -> Self {
        match word {
            "approved" => Self::Approved,
            "cancelled" | "revoked" => Self::Cancelled,
            "denied" => Self::Denied,
            "expired" => Self::Expired,
            "pending" => Self::Pending,
            "completed" | "released" | "unknown" => Self::Released,
            other => panic!("a state that the model does not know: {other}"),
        }
    }
}

/// One call.
#[derive(Clone, Debug)]
pub struct Operation {
    pub approval: String,
    pub op: Op,
    /// Which node it was sent to, or "edge".
    pub at: String,
    pub invoked: Instant,
    /// None: nobody knows whether it had an effect.
    pub returned: Option<(Instant, Told)>,
}

impl Operation {
    /// Whether it was told to be done.
    pub fn is_accepted(&self) -> bool {
        matches!(self.returned, Some((_, Told::Accepted)))
    }
}

/// Where everybody writes down what they do.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<Operation>>>);

impl Journal {
    /// Writes down that this call begins now. Unless the [`Call`] is told its answer, it never returned.
    pub fn invoke(&self, approval: &str, at: &str, op: Op) -> Call {
        let mut operations = self.0.lock().unwrap();
        operations.push(Operation {
            approval: approval.to_owned(),
            op,
            at: at.to_owned(),
            invoked: Instant::now(),
            returned: None,
        });
        Call { journal: self.clone(), place: operations.len() - 1 }
    }

    /// Writes down what somebody else observed.
    pub fn add(&self, operation: Operation) {
        self.0.lock().unwrap().push(operation);
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.0.lock().unwrap().clone()
    }
}

/// A call under way.
#[must_use = "a call that is told nothing never returned"]
pub struct Call {
    journal: Journal,
    place: usize,
}

impl Call {
    pub fn returned(self, told: Told) {
        let now = Instant::now();
        self.journal.0.lock().unwrap()[self.place].returned = Some((now, told));
    }

    /// Nobody knows what became of it.
    pub fn lost(self) {}
}

/// One approval, doing one thing at a time: what all its replicas together must look like.
#[derive(Clone, Debug)]
pub struct Approval {
    quorum: usize,
    votes: BTreeMap<String, bool>,
    seen: Seen,
    claimed_by: Option<String>,
}

impl Approval {
    /// Pending, and asking for so many distinct people.
    pub fn new(quorum: usize) -> Self {
        Self { quorum, votes: BTreeMap::new(), seen: Seen::Pending, claimed_by: None }
    }

    fn vote(&mut self, principal: &str, approves: bool) -> Told {
        let live = matches!(self.seen, Seen::Pending | Seen::Approved);
        if self.votes.get(principal) == Some(&approves) {
            return Told::Accepted;
        }
        if !live {
            return Told::Refused;
        }
        self.votes.insert(principal.to_owned(), approves);
        if !approves {
            self.seen = Seen::Denied;
        } else if self.votes.values().filter(|approves| **approves).count() >= self.quorum {
            self.seen = Seen::Approved;
        }
        Told::Accepted
    }

    fn settle(&mut self, to: Seen) -> Told {
        match self.seen {
            Seen::Pending | Seen::Approved => self.seen = to,
            now if now == to => {}
            _ => return Told::Refused,
        }
        Told::Accepted
    }
}

impl SequentialSpec for Approval {
    type Op = Op;
    type Ret = Told;

    fn invoke(&mut self, op: &Op) -> Told {
        match op {
            Op::Approve(principal) => self.vote(principal, true),
            Op::Cancel => self.settle(Seen::Cancelled),
            Op::Claim(request) => match (&self.seen, &self.claimed_by) {
                (Seen::Approved, _) => {
                    self.seen = Seen::Released;
                    self.claimed_by = Some(request.clone());
                    Told::Accepted
                }
                (Seen::Released, Some(first)) if first == request => Told::Accepted,
                _ => Told::Refused,
            },
            Op::Deny(principal) => self.vote(principal, false),
            Op::Expire => self.settle(Seen::Expired),
            Op::Read => Told::State(self.seen),
        }
    }
}

/// Why a history does not pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// No order of the steps explains what was told.
    NotLinearizable { approval: String, history: Vec<String> },
    /// Too many calls at once to be checked: nothing is known about it, so it does not pass.
    TooWide { approval: String, calls: usize },
}

/// Checks each approval; gives how many there were.
///
/// # Errors
/// Every approval whose history does not pass.
pub fn check(operations: &[Operation], quorum: usize) -> Result<usize, Vec<Fault>> {
    let approvals: BTreeSet<&str> = operations.iter().map(|o| o.approval.as_str()).collect();
    let faults: Vec<Fault> = approvals
        .iter()
        .filter_map(|approval| check_one(approval, operations, quorum).err())
        .collect();
    if faults.is_empty() { Ok(approvals.len()) } else { Err(faults) }
}

fn check_one(approval: &str, operations: &[Operation], quorum: usize) -> Result<(), Fault> {
    // A read that never returned says nothing.
    let told: Vec<&Operation> = operations
        .iter()
        .filter(|o| o.approval == approval && (o.op != Op::Read || o.returned.is_some()))
        .collect();
    // Returns after invocations of the same moment: what may have been at once counts as at once.
    let mut events: Vec<(Instant, bool, usize)> = Vec::new();
    for (number, operation) in told.iter().enumerate() {
        events.push((operation.invoked, false, number));
        events.extend(operation.returned.as_ref().map(|(at, _)| (*at, true, number)));
    }
    events.sort();
    let (mut under_way, mut widest) = (0_usize, 0);
    for (_, returns, _) in &events {
        under_way = if *returns { under_way - 1 } else { under_way + 1 };
        widest = widest.max(under_way);
    }
    if widest > WIDEST {
        return Err(Fault::TooWide { approval: approval.to_owned(), calls: widest });
    }
    let mut tester = LinearizabilityTester::new(Approval::new(quorum));
    for (_, returns, number) in events {
        let operation = told[number];
        let added = match (&operation.returned, returns) {
            (Some((_, told)), true) => tester.on_return(number, told.clone()).map(drop),
            _ => tester.on_invoke(number, operation.op.clone()).map(drop),
        };
        added.expect("each call has a number of its own");
    }
    if tester.is_consistent() {
        return Ok(());
    }
    let start = told.iter().map(|o| o.invoked).min().expect("at least one call");
    let since = |at: Instant| at.saturating_duration_since(start).as_millis();
    let line = |o: &&Operation| match &o.returned {
        Some((at, told)) => {
            format!("{}–{} ms at {}: {:?} → {told:?}", since(o.invoked), since(*at), o.at, o.op)
        }
        None => format!("{}– ms at {}: {:?} → never returned", since(o.invoked), o.at, o.op),
    };
    Err(Fault::NotLinearizable {
        approval: approval.to_owned(),
        history: told.iter().map(line).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use Told::{Accepted, Refused, State};

    /// Calls as (from, to, op, answer); a `to` of None never returned.
    fn history(calls: &[(u64, Option<u64>, Op, Told)]) -> Vec<Operation> {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let one = |(from, to, op, told): &(u64, Option<u64>, Op, Told)| Operation {
            approval: "a".into(),
            op: op.clone(),
            at: "n1".into(),
            invoked: at(*from),
            returned: to.map(|to| (at(to), told.clone())),
        };
        calls.iter().map(one).collect()
    }

    fn passes(calls: &[(u64, Option<u64>, Op, Told)]) -> bool {
        check(&history(calls), 1).is_ok()
    }

    fn approve(who: &str) -> Op {
        Op::Approve(who.into())
    }

    fn deny(who: &str) -> Op {
        Op::Deny(who.into())
    }

    fn claim(request: &str) -> Op {
        Op::Claim(request.into())
    }

    #[test]
    fn a_race_of_approve_and_deny_may_end_either_way_but_not_both() {
        let race = |last: Seen| {
            passes(&[
                (0, Some(10), approve("ana"), Accepted),
                (0, Some(10), deny("bo"), Accepted),
                (20, Some(21), Op::Read, State(last)),
            ])
        };
        assert!(race(Seen::Denied), "the denial came second, and beats");
        assert!(!race(Seen::Approved), "an acknowledged denial does not vanish");
        assert!(!race(Seen::Pending));
        let lost = |told| {
            passes(&[
                (0, Some(10), approve("ana"), told),
                (0, Some(10), deny("bo"), Accepted),
                (20, Some(21), Op::Read, State(Seen::Denied)),
            ])
        };
        assert!(lost(Refused), "the denial came first");
    }

    #[test]
    fn a_denial_and_a_release_are_never_both_acknowledged() {
        assert!(!passes(&[
            (0, Some(1), approve("ana"), Accepted),
            (0, Some(5), deny("bo"), Accepted),
            (2, Some(4), claim("r"), Accepted),
        ]));
        assert!(
            passes(&[
                (0, Some(1), approve("ana"), Accepted),
                (0, Some(5), deny("bo"), Refused),
                (2, Some(4), claim("r"), Accepted),
            ]),
            "the release came first"
        );
    }

    #[test]
    fn a_second_release_is_rejected_and_the_first_may_be_told_again() {
        let second = |request: &str| {
            passes(&[
                (0, Some(1), approve("ana"), Accepted),
                (2, Some(3), claim("r"), Accepted),
                (4, Some(5), claim(request), Accepted),
            ])
        };
        assert!(!second("other"));
        assert!(second("r"));
    }

    #[test]
    fn a_stale_read_after_an_acknowledged_denial_is_rejected() {
        let read = |from, seen| {
            passes(&[(0, Some(10), deny("ana"), Accepted), (from, Some(20), Op::Read, State(seen))])
        };
        assert!(!read(11, Seen::Pending));
        assert!(read(11, Seen::Denied));
        assert!(read(9, Seen::Pending), "at once with the denial, either may be read");
    }

    #[test]
    fn an_unknown_approval_may_have_been_what_released_and_unknown_is_never_absent() {
        assert!(passes(
            &[(0, None, approve("ana"), Accepted), (5, Some(6), claim("r"), Accepted),]
        ));
        assert!(
            passes(&[
                (0, None, approve("ana"), Accepted),
                (5, Some(6), Op::Read, State(Seen::Pending)),
                (7, Some(8), Op::Read, State(Seen::Approved)),
            ]),
            "it may come late"
        );
        assert!(
            !passes(&[(0, None, deny("ana"), Accepted), (5, Some(6), claim("r"), Accepted)]),
            "but a denial is no approval"
        );
    }

    #[test]
    fn a_release_without_an_approval_is_rejected_also_after_a_refused_one() {
        assert!(!passes(&[(0, Some(1), claim("r"), Accepted)]));
        assert!(!passes(&[
            (0, Some(1), approve("ana"), Refused),
            (2, Some(3), claim("r"), Accepted),
        ]));
        assert!(!passes(&[
            (0, Some(1), claim("r"), Accepted),
            (2, Some(3), approve("ana"), Accepted),
        ]));
    }

    #[test]
    fn a_quorum_counts_people_not_taps() {
        let operations = history(&[
            (0, Some(1), approve("ana"), Accepted),
            (2, Some(3), approve("ana"), Accepted),
            (4, Some(5), claim("r"), Accepted),
        ]);
        assert!(check(&operations, 2).is_err(), "one person twice is one");
        let operations = history(&[
            (0, Some(1), approve("ana"), Accepted),
            (2, Some(3), approve("bo"), Accepted),
            (4, Some(5), claim("r"), Accepted),
        ]);
        assert_eq!(check(&operations, 2), Ok(1));
    }

    #[test]
    fn expiry_may_come_and_then_nothing_is_released() {
        assert!(passes(&[
            (0, None, Op::Expire, Accepted),
            (1, Some(2), approve("ana"), Refused),
            (3, Some(4), Op::Read, State(Seen::Expired)),
        ]));
        assert!(!passes(&[
            (0, None, Op::Expire, Accepted),
            (1, Some(2), approve("ana"), Accepted),
            (3, Some(4), Op::Read, State(Seen::Expired)),
            (5, Some(6), claim("r"), Accepted),
        ]));
    }

    #[test]
    fn a_history_too_wide_to_check_does_not_pass() {
        let calls: Vec<_> =
            (0..12).map(|n| (0, Some(10), approve(&format!("p{n}")), Accepted)).collect();
        let faults = check(&history(&calls), 1).unwrap_err();
        assert_eq!(faults, [Fault::TooWide { approval: "a".into(), calls: 12 }]);
    }

    #[test]
    fn approvals_are_checked_each_on_its_own_and_the_faulty_one_is_named() {
        let mut operations = history(&[(0, Some(1), deny("ana"), Accepted)]);
        let mut faulty = history(&[(0, Some(1), claim("r"), Accepted)]);
        faulty[0].approval = "b".into();
        operations.extend(faulty);
        let faults = check(&operations, 1).unwrap_err();
        assert!(
            matches!(&faults[..], [Fault::NotLinearizable { approval, .. }] if approval == "b")
        );
    }

    #[test]
    fn a_journal_remembers_what_returned_and_what_did_not() {
        let journal = Journal::default();
        journal.invoke("a", "n1", approve("ana")).returned(Accepted);
        journal.invoke("a", "n2", deny("bo")).lost();
        let operations = journal.operations();
        assert!(operations[0].is_accepted() && !operations[1].is_accepted());
        assert!(operations[1].returned.is_none());
        assert!(operations[0].invoked <= operations[0].returned.as_ref().unwrap().0);
    }
}
