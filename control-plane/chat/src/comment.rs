//! Cards as comments, for the platforms that read Markdown: every word is in a fenced code block (CommonMark 0.31, section
//! 4.5), where nothing is read but its end; and the fence is longer than any run of its characters in the words.

use crate::card::Notice;
use crate::platform::TooLarge;
use crate::text::Text;

/// As many characters as are seen at once: code is not wrapped, and what is further right would not be noticed.
const COLUMNS: usize = 100;
const CONTINUED: &str = "  ↳ ";

/// A card in at most `size` bytes, answered with a code that is typed; as much of the body as one of `rooms` has space for.
pub(crate) fn markdown(
    notice: &Notice<'_>,
    size: usize,
    rooms: &[usize],
    rows: usize,
) -> Result<String, TooLarge> {
    let fits = |room: &usize| Some(with_body(notice, *room, rows)).filter(|it| it.len() <= size);
    rooms.iter().find_map(fits).ok_or(TooLarge)
}

/// The lines in a block of their own.
pub(crate) fn fenced<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let text = lines.map(wrapped).collect::<Vec<_>>().join("\n");
    let run = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(run.max(2) + 1);
    format!("{fence}text\n{text}\n{fence}")
}

fn with_body(notice: &Notice<'_>, room: usize, rows: usize) -> String {
    let card = notice.card;
    let excerpt = card.body.excerpt(room, rows);
    let mut head: Vec<_> = notice.standing().iter().map(Text::to_string).collect();
    head.push(card.sentence.to_string());
    head.extend(card.warnings.iter().map(|warning| format!("CAREFUL: {warning}")));
    head.extend(card.facts.iter().map(|(name, value)| format!("{name}: {value}")));
    head.push(format!("Fingerprint: {}. Approval {}.", card.fingerprint, card.approval));
    head.extend(notice.elsewhere(excerpt.whole).iter().map(Text::to_string));
    let mut parts =
        vec![format!("**{}**", notice.title()), fenced(head.iter().map(String::as_str))];
    if let Some(answers) = notice.buttons(excerpt.whole) {
        let code = answers.code.shown();
        parts.push(format!(
            "Answer with a comment here: `/approve {code}`, or `/deny {code} because …`"
        ));
    }
    parts.push(excerpt.label.to_string());
    if !excerpt.lines.is_empty() {
        parts.push(fenced(excerpt.lines.iter().map(Text::as_str)));
    }
    parts.join("\n\n")
}

/// Between words where there are some.
fn wrapped(line: &str) -> String {
    let (mut pieces, mut rest) = (Vec::new(), line);
    while let Some((end, _)) = rest.char_indices().nth(COLUMNS) {
        let (piece, next) = rest.split_at(rest[..end].rfind(' ').map_or(end, |space| space + 1));
        pieces.push(piece);
        rest = next;
    }
    pieces.push(rest);
    pieces.join(&format!("\n{CONTINUED}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_4_no_line_within_ends_the_block(lines in proptest::collection::vec("(`{1,9}|~{3}|[a-z <>]|\\PC){0,30}", 0..6)) {
            let block = fenced(lines.iter().map(String::as_str));
            let all: Vec<_> = block.split('\n').collect();
            let fence = all[all.len() - 1];
            prop_assert_eq!(all[0], format!("{fence}text"));
            prop_assert!(fence.len() >= 3 && fence.bytes().all(|b| b == b'`'));
            for line in &all[1..all.len() - 1] {
                prop_assert!(!line.contains(fence), "{}", line);
            }
        }
    }

    #[test]
    fn a_line_is_never_wider_than_what_is_seen() {
        let block = fenced([format!("{}{}", " ".repeat(150), "danger").as_str()].into_iter());
        assert!(block.lines().all(|line| line.chars().count() <= COLUMNS + 4));
        assert!(block.contains("  ↳ ") && block.contains("danger"));
    }
}
