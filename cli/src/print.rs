//! The one way to stdout: text, tables and JSON, with nothing in them that could steer a terminal.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::time::{Duration, SystemTime};

use countersign_chat::visible::is_hidden;
use prost_types::Timestamp;
use serde::Serialize;

use crate::failure::{Done, Failure};

/// `text` with every character that is not plainly visible written out (`\n`, `\u{1b}`): what a server, an agent or a
/// file says must not move the cursor, change colours or reorder what is shown.
pub(crate) fn visible(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, character| {
        if is_hidden(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
        shown
    })
}

/// One line.
pub(crate) fn line(text: &str) -> Done {
    raw(&format!("{}\n", visible(text)))
}

/// Lines of text, as many as it has; each made visible.
pub(crate) fn lines(text: &str) -> Done {
    text.lines().try_for_each(line)
}

/// Columns under a heading, or a sentence when there is nothing to show.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>], nothing: &str) -> Done {
    if rows.is_empty() {
        return line(nothing);
    }
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = String::new();
    let heading = heading.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&heading).chain(&rows) {
        let mut laid = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(laid, "{cell:width$}  ");
        }
        text.push_str(laid.trim_end());
        text.push('\n');
    }
    raw(&text)
}

/// Names and values, one a line.
pub(crate) fn facts(facts: &[(&str, String)]) -> Done {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().try_for_each(|(name, value)| line(&format!("{name:width$}  {value}")))
}

/// Pretty JSON.
pub(crate) fn json(value: &impl Serialize) -> Done {
    let text = serde_json::to_string_pretty(value).map_err(Failure::refused)?;
    raw(&format!("{}\n", safe_json(&text)))
}

/// JSON on one line.
pub(crate) fn json_line(value: &impl Serialize) -> Done {
    let text = serde_json::to_string(value).map_err(Failure::refused)?;
    raw(&format!("{}\n", safe_json(&text)))
}

/// Exactly these bytes: for what is a document of our own making.
pub(crate) fn raw(text: &str) -> Done {
    bytes(text.as_bytes())
}

pub(crate) fn bytes(bytes: &[u8]) -> Done {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Left,
        _ => Failure::Refused(format!("nothing can be written to the output: {error}")),
    })
}

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn time(at: Option<&Timestamp>) -> Option<String> {
    let at = at?;
    let since = Duration::new(u64::try_from(at.seconds).ok()?, u32::try_from(at.nanos).ok()?);
    Some(humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH.checked_add(since)?).to_string())
}

/// For a table: the time, or a dash.
pub(crate) fn time_or_dash(at: Option<&Timestamp>) -> String {
    time(at).unwrap_or_else(|| "-".into())
}

/// For a table: the words, or a dash.
pub(crate) fn words(words: &[String]) -> String {
    if words.is_empty() { "-".into() } else { words.join(", ") }
}

/// The same JSON, with hidden characters inside strings as `\uXXXX`. Outside strings only line breaks occur.
fn safe_json(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, character| {
        if character != '\n' && is_hidden(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
        safe
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_8_what_steers_a_terminal_is_written_out() {
        assert_eq!(
            visible("a\x1b[31mb\r\nc\u{202e}d\u{9b}e"),
            "a\\u{1b}[31mb\\r\\nc\\u{202e}d\\u{9b}e"
        );
        assert_eq!(visible("déjà vu, 世界 \\ \"x\""), "déjà vu, 世界 \\ \"x\"");
    }

    #[test]
    fn c_8_json_says_the_same_without_hidden_characters() {
        let value = serde_json::json!({ "path": "/\u{9b}31m\u{202e}\u{e0041}\n" });
        let safe = safe_json(&value.to_string());
        assert!(!safe.contains(is_hidden), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }

    #[test]
    fn times_are_rfc_3339() {
        let at = Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 };
        assert_eq!(time(Some(&at)).as_deref(), Some("2023-11-14T22:13:20.005Z"));
        assert_eq!(time(None), None);
        assert_eq!(time(Some(&Timestamp { seconds: -1, nanos: 0 })), None);
    }
}
