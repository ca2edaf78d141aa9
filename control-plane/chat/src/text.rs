//! Words for people, in which everything can be seen.

use std::fmt;

use crate::visible::visible;

/// One line of text without anything hidden in it: every character that a reader would not see, line breaks included, is
/// written out as its number. It is not yet escaped for any platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    pub fn of(words: &str) -> Self {
        Self(visible(words))
    }

    /// A whole line at a time: line breaks of the original stay, everything else that is hidden is written out.
    pub fn lines(words: &str) -> Vec<Self> {
        words.split('\n').map(|line| Self::of(line.strip_suffix('\r').unwrap_or(line))).collect()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For platforms that make links of plain text and cannot be told not to: no address keeps its scheme.
    pub fn defanged(&self) -> String {
        self.0.replace("://", "[:]//")
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
