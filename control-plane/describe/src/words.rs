//! Values as words of a sentence, and as facts.

use countersign_policy::json::Json;

/// A value in a sentence, bytes.
const IN_SENTENCE: usize = 120;
/// Names in a row before "and 5 more".
const IN_A_ROW: usize = 3;

/// A name as it is, if it cannot be taken for anything else; otherwise in quotes.
pub(crate) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@+#~=*".contains(c);
    if !text.is_empty() && text.len() <= IN_SENTENCE && text.chars().all(plain) {
        return text.to_owned();
    }
    quoted(text)
}

/// In quotes, which end where the text ends.
pub(crate) fn quoted(text: &str) -> String {
    let kept = &text[..text.floor_char_boundary(IN_SENTENCE)];
    let end = if kept.len() < text.len() { "…" } else { "" };
    format!("\"{}{end}\"", kept.replace('\\', "\\\\").replace('"', "\\\""))
}

/// "a, b and c"; "a, b, c and 5 more".
pub(crate) fn row(names: &[String]) -> String {
    let (shown, more) = names.split_at(names.len().min(IN_A_ROW));
    match (shown, more.len()) {
        ([], _) => "nothing".to_owned(),
        (shown, 1..) => format!("{} and {} more", shown.join(", "), more.len()),
        ([one], 0) => one.clone(),
        ([first @ .., last], 0) => format!("{} and {last}", first.join(", ")),
    }
}

/// "1 file", "2 files".
pub(crate) fn count(number: usize, one: &str) -> String {
    match (number, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {one}s"),
    }
}

/// A value in a sentence.
pub(crate) fn phrase(value: &Json<'_>) -> String {
    match value {
        Json::Text(text) => word(text),
        Json::List(items) if items.iter().all(is_leaf) => {
            row(&items.iter().map(phrase).collect::<Vec<_>>())
        }
        other => within(other, IN_SENTENCE),
    }
}

/// "issueDelete" is "issue delete".
pub(crate) fn apart(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(if c == '_' || c == '.' { ' ' } else { c.to_ascii_lowercase() });
    }
    words
}

/// As much of a text as there is room for, and how much that is.
pub(crate) fn cut(text: &str, room: usize) -> String {
    if text.len() <= room {
        return text.to_owned();
    }
    let shown = text.floor_char_boundary(room);
    format!("{} (shown {shown} of {} bytes)", &text[..shown], text.len())
}

/// A value for people: a text as it is, anything else as compact JSON; cut where it is longer than `room` bytes.
pub(crate) fn within(value: &Json<'_>, room: usize) -> String {
    if let Json::Text(text) = value {
        return cut(text, room);
    }
    let mut out = String::new();
    if compact(value, &mut out, room) {
        return out;
    }
    let shown = out.floor_char_boundary(room.min(out.len()));
    out.truncate(shown);
    format!("{out}… ({} in all)", count(leaves(value), "value"))
}

/// Writes until there is more than `room`; whether it is all there.
fn compact(value: &Json<'_>, out: &mut String, room: usize) -> bool {
    match value {
        Json::Null => out.push_str("null"),
        Json::Flag(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Json::Whole(number) => out.push_str(&number.to_string()),
        Json::Large(number) => out.push_str(&number.to_string()),
        Json::Fraction(number) => out.push_str(&number.to_string()),
        Json::Text(text) => in_quotes(text, out, room),
        Json::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                if !compact(item, out, room) {
                    return false;
                }
            }
            out.push(']');
        }
        Json::Object(members) => {
            out.push('{');
            for (at, (name, item)) in members.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                in_quotes(name, out, room);
                out.push_str(": ");
                if !compact(item, out, room) {
                    return false;
                }
            }
            out.push('}');
        }
    }
    out.len() <= room
}

fn in_quotes(text: &str, out: &mut String, room: usize) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            _ => out.push(c),
        }
        if out.len() > room {
            return;
        }
    }
    out.push('"');
}

pub(crate) fn is_leaf(value: &Json<'_>) -> bool {
    !matches!(value, Json::List(_) | Json::Object(_))
}

/// How many values a value is; an empty list is one.
pub(crate) fn leaves(value: &Json<'_>) -> usize {
    match value {
        Json::List(items) if !items.is_empty() => items.iter().map(leaves).sum(),
        Json::Object(members) if !members.is_empty() => {
            members.iter().map(|(_, value)| leaves(value)).sum()
        }
        _ => 1,
    }
}
