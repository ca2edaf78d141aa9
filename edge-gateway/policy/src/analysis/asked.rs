//! Whether one approve rule asks at least what another one asks.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::requirement::Panel;
use crate::rules::Rule;

/// In what the rule `now` asks less than `was` did, each as a clause; empty when whatever satisfies it would have
/// satisfied `was`.
pub(crate) fn weaker(now: &Rule, was: &Rule) -> Vec<String> {
    let (new, old) = (&now.asks, &was.asks);
    let mut ways = Vec::new();
    if !implies(&new.panels, &old.panels) {
        ways.push(format!("{} approve it, not {}", people(&new.panels), people(&old.panels)));
    }
    if new.strength < old.strength {
        ways.push(format!(
            "votes of strength {} count, not only of {}",
            new.strength, old.strength
        ));
    }
    if new.proof < old.proof {
        ways.push(format!(
            "votes with proof {:?} count, not only {:?}",
            new.proof.word(),
            old.proof.word()
        ));
    }
    if new.owner_may_approve && !old.owner_may_approve {
        ways.push("the agent's owner may approve".to_owned());
    }
    for escalation in &new.escalations {
        for name in &escalation.to {
            let sooner =
                old.escalations.iter().any(|e| e.after <= escalation.after && has(&e.to, name));
            let always = old.panels.iter().all(|panel| has(&panel.of, name));
            if !sooner && !always {
                ways.push(format!("{name} may approve after {}", time(escalation.after)));
            }
        }
    }
    for name in new.break_glass.iter().filter(|name| !has(&old.break_glass, name)) {
        ways.push(format!("{name} may approve alone"));
    }
    if old.critical && !new.critical {
        ways.push("it is no longer critical: standing grants may answer it".to_owned());
    }
    if old.whole_card && !new.whole_card {
        ways.push("chats that cannot show all of it may answer it".to_owned());
    }
    if new.unused > old.unused {
        ways.push(format!("it stays usable for {}, not {}", time(new.unused), time(old.unused)));
    }
    if new.cool_down < old.cool_down {
        ways.push(format!(
            "a denial counts for {}, not {}",
            time(new.cool_down),
            time(old.cool_down)
        ));
    }
    if now.accept_edge_enforced && !was.accept_edge_enforced {
        ways.push("its key may be leased, so used unasked by whoever holds the edge".to_owned());
    }
    ways
}

fn time(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

/// Whether a list names somebody, or everybody.
fn has(list: &[String], name: &str) -> bool {
    list.iter().any(|known| known == "*" || known == name)
}

/// Whether people who satisfy `new` satisfy `old`, whoever belongs to the groups: each of them is given a seat in one
/// panel of `old`, and every seat is taken.
fn implies(new: &[Panel], old: &[Panel]) -> bool {
    let people: Vec<&Panel> = seats(new);
    let wanted = seats(old);
    // A person of a panel sits where everybody of that panel would.
    let fits = |person: &Panel, seat: &Panel| person.of.iter().all(|name| has(&seat.of, name));
    let mut taken: Vec<Option<usize>> = vec![None; people.len()];
    (0..wanted.len()).all(|seat| {
        seated(seat, &mut taken, &mut BTreeSet::new(), &|person, seat| {
            fits(people[person], wanted[seat])
        })
    })
}

fn seats(panels: &[Panel]) -> Vec<&Panel> {
    panels.iter().flat_map(|panel| (0..panel.quorum).map(move |_| panel)).collect()
}

/// Finds somebody for a seat, moving others if it takes that.
fn seated(
    seat: usize,
    taken: &mut Vec<Option<usize>>,
    asked: &mut BTreeSet<usize>,
    fits: &impl Fn(usize, usize) -> bool,
) -> bool {
    for person in 0..taken.len() {
        if !fits(person, seat) || !asked.insert(person) {
            continue;
        }
        let free = match taken[person] {
            None => true,
            Some(other) => seated(other, taken, asked, fits),
        };
        if free {
            taken[person] = Some(seat);
            return true;
        }
    }
    false
}

/// `1 of finance and 2 of security, oncall`.
pub(crate) fn people(panels: &[Panel]) -> String {
    let panel = |panel: &Panel| match panel.of.as_slice() {
        [name] if name == "*" => format!("{} of all approvers", panel.quorum),
        names => format!("{} of {}", panel.quorum, names.join(", ")),
    };
    panels.iter().map(panel).collect::<Vec<_>>().join(" and ")
}
