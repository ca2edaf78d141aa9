//! What a rule asks for before a request may leave: how many of whom, and how surely it was they.

use serde::{Deserialize, Serialize};

use super::Principal;

/// One approve rule's demand on people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    pub rule: String,
    /// Every one of them, by distinct people. At least one.
    pub panels: Vec<Panel>,
    /// What a vote must at least be to count.
    pub strength: Strength,
    pub proof: Proof,
    /// Otherwise whoever answers for the agent does not count.
    pub owner_may_approve: bool,
    /// Who else may approve when nobody has for so long; in the order of time.
    pub escalations: Vec<Escalation>,
    /// Of whom one alone may approve, with a reason that everyone hears of.
    pub break_glass: Vec<String>,
    /// People look at these very bytes: no grant and no broken glass stands in for that.
    pub critical: bool,
    /// What is said in a chat counts only on a card that shows all of the request there.
    #[serde(default)]
    pub whole_card: bool,
}

/// So many distinct principals of those named: groups, principals, or "*" for whoever has the approver role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panel {
    pub of: Vec<String>,
    pub quorum: u32,
}

/// From so long after the approval came about, these qualify for every panel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escalation {
    pub after_ms: u64,
    pub to: Vec<String>,
}

/// How surely a vote is its principal's own.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Strength {
    /// Typed text, or a reaction, of a linked account.
    L0,
    /// A button that a linked account pressed.
    #[default]
    L1,
    /// A session of the dashboard or the CLI.
    L2,
    /// A passkey, over the digest of the intent.
    L3,
}

/// What a vote carries that others can check again.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Proof {
    #[default]
    None,
    /// By a secret that the nodes share with the platform: a node could have made it.
    Shared,
    /// A signature that nobody here could have made.
    Transferable,
}

impl Requirement {
    /// Any `quorum` of those named, and nothing more.
    pub fn of(rule: &str, approvers: &[&str], quorum: u32) -> Self {
        let of = approvers.iter().map(|name| (*name).to_owned()).collect();
        Self {
            rule: rule.to_owned(),
            panels: vec![Panel { of, quorum }],
            strength: Strength::default(),
            proof: Proof::default(),
            owner_may_approve: false,
            escalations: Vec::new(),
            break_glass: Vec::new(),
            critical: false,
            whole_card: false,
        }
    }

    /// Says who is asked: "2 of finance and 1 of security, ops".
    pub(super) fn in_words(&self) -> String {
        let panel = |panel: &Panel| format!("{} of {}", panel.quorum, panel.of.join(", "));
        self.panels.iter().map(panel).collect::<Vec<_>>().join(" and ")
    }

    /// Whether it can be asked of people at all.
    pub(super) fn is_sound(&self) -> bool {
        let asked = |panel: &Panel| panel.quorum > 0 && !panel.of.is_empty();
        !self.panels.is_empty()
            && self.panels.iter().all(asked)
            && (!self.critical || self.break_glass.is_empty())
    }

    /// Whether each panel can be filled with distinct people; `people` says of each on which panels they may sit.
    pub(super) fn is_filled_by(&self, people: &[Vec<usize>]) -> bool {
        let seats: Vec<usize> = self
            .panels
            .iter()
            .enumerate()
            .flat_map(|(panel, Panel { quorum, .. })| std::iter::repeat_n(panel, *quorum as usize))
            .take(people.len() + 1)
            .collect();
        let mut seating = Seating { seats: &seats, people, seat_of: vec![None; people.len()] };
        seats.len() <= people.len()
            && (0..seats.len()).all(|seat| seating.fill(seat, &mut vec![false; people.len()]))
    }
}

/// A matching of seats and people that grows seat by seat (Kuhn's algorithm).
struct Seating<'a> {
    /// The panel of each.
    seats: &'a [usize],
    people: &'a [Vec<usize>],
    seat_of: Vec<Option<usize>>,
}

impl Seating<'_> {
    /// Finds somebody for this seat, moving others to other seats if that is what it takes.
    fn fill(&mut self, seat: usize, asked: &mut [bool]) -> bool {
        for person in 0..self.people.len() {
            if asked[person] || !self.people[person].contains(&self.seats[seat]) {
                continue;
            }
            asked[person] = true;
            if self.seat_of[person].is_none_or(|other| self.fill(other, asked)) {
                self.seat_of[person] = Some(seat);
                return true;
            }
        }
        false
    }
}

/// By group, by name, or as anyone.
pub(super) fn names(list: &[String], principal: &Principal) -> bool {
    list.iter()
        .any(|named| named == "*" || *named == principal.name || principal.groups.contains(named))
}

impl std::fmt::Display for Strength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::L0 => "L0",
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        })
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Shared => "shared",
            Self::Transferable => "transferable",
        })
    }
}
