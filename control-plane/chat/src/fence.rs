//! Blocks of code, for platforms that read markup everywhere else.

use crate::text::Text;

/// A block of code: no mentions, links or markup are in it, and it ends at three backticks, so three in a row are never within
/// it.
pub(crate) fn fenced<'a>(lines: impl IntoIterator<Item = &'a Text>) -> String {
    let lines: Vec<_> =
        lines.into_iter().map(|line| line.as_str().replace("```", r"``\u{60}")).collect();
    format!("```text\n{}\n```", lines.join("\n"))
}
