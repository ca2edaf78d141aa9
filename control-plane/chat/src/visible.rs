//! What cannot be seen, made visible.

/// `text` with every character that a reader would not see, or that moves what they see, as its number:
/// `\u{202e}`. Controls (line breaks and tabs too), format characters, separators of lines and paragraphs, private
/// use, unassigned, and what Unicode says to ignore by default (DerivedCoreProperties, Default_Ignorable_Code_Point).
pub fn visible(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut seen, character| {
        if is_hidden(character) {
            seen.extend(character.escape_unicode());
        } else {
            seen.push(character);
        }
        seen
    })
}

/// Whether a reader does not see it as a mark of its own, in its place.
pub fn is_hidden(character: char) -> bool {
    use unicode_general_category::GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, Surrogate, Unassigned,
    };
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    matches!(
        unicode_general_category::get_general_category(character),
        Control | Format | LineSeparator | ParagraphSeparator | PrivateUse | Surrogate | Unassigned
    ) || ignorable(character)
}

/// Default_Ignorable_Code_Point that is not of a category above: fillers, variation selectors, a joiner.
fn ignorable(character: char) -> bool {
    matches!(character,
        '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_6_what_turns_hides_or_steers_is_written_out() {
        for (hidden, written) in [
            ("a\u{202e}b", "a\\u{202e}b"),
            ("a\u{200b}b", "a\\u{200b}b"),
            ("a\u{e0041}b", "a\\u{e0041}b"),
            ("a\u{fe0f}b", "a\\u{fe0f}b"),
            ("a\u{1b}[2J", "a\\u{1b}[2J"),
            ("a\nb", "a\\u{a}b"),
            ("a\u{2028}b", "a\\u{2028}b"),
            ("a\u{3164}b", "a\\u{3164}b"),
            ("a\u{e000}b", "a\\u{e000}b"),
        ] {
            assert_eq!(visible(hidden), written);
        }
        assert_eq!(visible("Zürich 東京 Привет ✅"), "Zürich 東京 Привет ✅");
    }
}
