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

    /// As much of it as fits into so many bytes, and then how much that is.
    pub fn within(&self, room: usize) -> Self {
        if self.0.len() <= room {
            return self.clone();
        }
        let label = |shown: usize| format!(" (shown {shown} of {} bytes)", self.0.len());
        let kept = self.0.floor_char_boundary(room.saturating_sub(label(self.0.len()).len()));
        Self(format!("{}{}", &self.0[..kept], label(kept)))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_cut_says_how_much_of_it_is_shown(words in "\\PC{0,200}", room in 64_usize..300) {
            let (whole, cut) = (Text::of(&words), Text::of(&words).within(room));
            prop_assert!(cut.as_str().len() <= room);
            if whole.as_str().len() <= room {
                prop_assert_eq!(cut, whole);
            } else {
                let (kept, label) = cut.as_str().rsplit_once(" (shown ").unwrap();
                prop_assert!(whole.as_str().starts_with(kept));
                prop_assert_eq!(label, format!("{} of {} bytes)", kept.len(), whole.as_str().len()));
            }
        }
    }

    #[test]
    fn a_8_no_address_has_its_scheme() {
        let words = Text::of("http://a.example, matrix://b and https://c");
        assert_eq!(words.defanged(), "http[:]//a.example, matrix[:]//b and https[:]//c");
    }
}
