//! I8, I11, I12, I13: who is out is out, and who is in serves.

use std::time::Duration;

use super::{Evidence, Violation};

/// From the end of the last fault to a completed approval.
const SERVES_WITHIN: Duration = Duration::from_secs(10);
/// From the end of the last fault to the last word about every approval.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(60);

pub(super) fn shut_out_is_out(evidence: &Evidence) -> Vec<Violation> {
    let answered = evidence.attempts.iter().filter(|attempt| attempt.answered);
    answered
        .map(|a| Violation::new(8, format!("{} is {} and yet: {}", a.node, a.shut_out, a.what)))
        .collect()
}

pub(super) fn serves_again(evidence: &Evidence) -> Vec<Violation> {
    let late = evidence.services.iter().filter_map(|service| {
        let took = service.completed.map(|at| at.saturating_duration_since(service.healed));
        match took {
            Some(took) if took <= SERVES_WITHIN => None,
            Some(took) => Some(format!("{} took {took:?} after all was well", service.what)),
            None => Some(format!("{} never completed", service.what)),
        }
    });
    late.map(|what| Violation::new(11, what)).collect()
}

pub(super) fn leases_outlive_an_outage(evidence: &Evidence) -> Vec<Violation> {
    let failed = evidence.harmless.iter().filter(|h| h.leased && !(200..300).contains(&h.status));
    failed
        .map(|h| Violation::new(12, format!("{} got {} with a valid lease", h.what, h.status)))
        .collect()
}

pub(super) fn no_orphans(evidence: &Evidence) -> Vec<Violation> {
    let orphans = evidence.nodes.iter().flat_map(|node| {
        node.cards.iter().filter(|card| card.open_ended).map(move |card| (node, card))
    });
    orphans
        .map(|(node, card)| {
            let what = format!(
                "{} shows {} as released without an end, {:?} after all was well",
                node.name, card.id, evidence.healed_for
            );
            Violation::new(13, what)
        })
        .collect()
}
