//! Three-valued truth: what is not known is neither true nor false.

use std::borrow::Cow;

/// Whether a condition holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    No,
    Undecidable(Unknown),
    Yes,
}

/// Why a condition could not be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub(crate) why: Cow<'static, str>,
    /// Whether reading the whole body could decide it.
    pub(crate) unread: bool,
}

impl Truth {
    pub(crate) fn undecidable(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Undecidable(Unknown { why: why.into(), unread: false })
    }

    /// Undecidable only because the body is not here.
    pub(crate) fn unread(why: &'static str) -> Self {
        Self::Undecidable(Unknown { why: why.into(), unread: true })
    }

    pub(crate) fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    /// Both; one No is enough, whatever is not known of the other.
    pub(crate) fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::No => Self::No,
            Self::Yes => other(),
            Self::Undecidable(first) => match other() {
                Self::No => Self::No,
                Self::Yes => Self::Undecidable(first),
                Self::Undecidable(second) => Self::Undecidable(Unknown {
                    why: first.why,
                    unread: first.unread || second.unread,
                }),
            },
        }
    }

    /// Either; one Yes is enough, whatever is not known of the other.
    pub(crate) fn or(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Yes => Self::Yes,
            Self::No => other(),
            Self::Undecidable(first) => match other() {
                Self::Yes => Self::Yes,
                Self::No => Self::Undecidable(first),
                Self::Undecidable(second) => Self::Undecidable(Unknown {
                    why: first.why,
                    unread: first.unread || second.unread,
                }),
            },
        }
    }
}
