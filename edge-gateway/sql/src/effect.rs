//! What is at stake, from least to worst.

/// What a request to a database does at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Opens the connection. No statement does.
    Connect,
    /// Begins, ends or tunes, and touches no data: transactions, SHOW, harmless SETs.
    Session,
    /// Asks for rows.
    Read,
    /// Changes or locks rows, counts a sequence on, notifies others.
    Write,
    /// Makes, changes, empties or drops relations and types, and maintains them.
    Schema,
    /// Reaches beyond the data: roles and privileges, code, files, programs, settings, functions that are not known.
    Danger,
    /// It is not certain what it does.
    Undecidable,
}

impl Effect {
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::Session,
        Self::Read,
        Self::Write,
        Self::Schema,
        Self::Danger,
        Self::Undecidable,
    ];

    /// As policies write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Session => "session",
            Self::Read => "read",
            Self::Write => "write",
            Self::Schema => "schema",
            Self::Danger => "danger",
            Self::Undecidable => "undecidable",
        }
    }

    /// The effect of this name.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|effect| effect.word() == word)
    }
}
