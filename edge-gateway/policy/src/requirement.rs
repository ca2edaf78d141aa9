//! What an approve rule asks of people.

use std::fmt;
use std::time::Duration;

/// What it takes to satisfy one approve rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub rule: String,
    /// Each has to be met, and nobody counts for two. There is at least one.
    pub panels: Vec<Panel>,
    /// Weaker votes do not count.
    pub strength: Strength,
    /// Votes that carry less do not count.
    pub proof: Proof,
    /// Whether the agent's owner counts as others do.
    pub owner_may_approve: bool,
    /// Who may answer as well when nobody has for a while, by time.
    pub escalations: Vec<Escalation>,
    /// Groups or principals of whom one may approve alone, with a reason.
    pub break_glass: Vec<String>,
    /// Asked about every time: no standing grant, and nobody alone past its panels.
    pub critical: bool,
    /// Answers from a chat count only on a card that shows all of the request there.
    pub whole_card: bool,
}

/// Some people of a few groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panel {
    /// Groups or principals; `["*"]` is whoever may approve.
    pub of: Vec<String>,
    /// How many distinct people, at least 1.
    pub quorum: u32,
}

/// Who may answer as well, from some time on. They count for every panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escalation {
    /// Since the request was held; shorter than what the rule has for `expires`.
    pub after: Duration,
    /// Groups or principals.
    pub to: Vec<String>,
}

/// How well a vote shows who gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strength {
    /// A text or a reaction.
    L0,
    /// A button, by an account that is linked to the person.
    #[default]
    L1,
    /// A session of the dashboard or the command line.
    L2,
    /// A passkey.
    L3,
}

/// What a vote carries that others can check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proof {
    /// The control plane's word.
    #[default]
    None,
    /// A proof to whoever shares a secret with the voter's provider.
    Shared,
    /// A proof to anybody: a signature of the voter's own key.
    Transferable,
}

impl Strength {
    pub(crate) const ALL: [Self; 4] = [Self::L0, Self::L1, Self::L2, Self::L3];

    /// As policies write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::L0 => "L0",
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        }
    }
}

impl Proof {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Shared, Self::Transferable];

    /// As policies write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Shared => "shared",
            Self::Transferable => "transferable",
        }
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
