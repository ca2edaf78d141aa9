//! Calls that are told apart by method and path alone, as rows of a table.

use countersign_policy::json::Json;

use crate::ask::Ask;
use crate::words::{phrase, quoted, word};
use crate::{Risk, Said, Undecidable};

/// Method, path, risk, sentence, facts.
///
/// In a path `{name}` is one segment and `{name...}` the rest. In a sentence `{name}` is what stood there, `{.field}` and
/// `{?field}` what the body and the query hold (see [`Ask`]), `{'.field}` the same in quotes, and what is in `[…]` is left
/// out where a field in it is not there. Facts are names and fields, those that are there.
pub(crate) struct Row(
    pub(crate) &'static str,
    pub(crate) &'static str,
    pub(crate) Risk,
    pub(crate) &'static str,
    pub(crate) &'static [(&'static str, &'static str)],
);

/// The first row that fits says it.
pub(crate) fn look_up(ask: &mut Ask<'_>, rows: &[Row]) -> Said {
    for Row(method, path, risk, sentence, facts) in rows {
        if *method != ask.method {
            continue;
        }
        let Some(names) = matched(path, &ask.segments) else { continue };
        let sentence = fill(ask, sentence, &names)?;
        for (name, field) in *facts {
            ask.fact(name, field);
        }
        return Ok(Some((*risk, sentence)));
    }
    Ok(None)
}

/// What the pattern's names stand for, if it fits.
pub(crate) fn matched<'p>(pattern: &'p str, segments: &[String]) -> Option<Vec<(&'p str, String)>> {
    let mut names = Vec::new();
    let mut rest = segments;
    for piece in pattern.strip_prefix('/')?.split('/') {
        let name = piece.strip_prefix('{').and_then(|piece| piece.strip_suffix('}'));
        if let Some(name) = name.and_then(|name| name.strip_suffix("...")) {
            let whole = !rest.is_empty() && rest.iter().all(|segment| !segment.is_empty());
            return whole.then(|| {
                names.push((name, rest.join("/")));
                names
            });
        }
        let (segment, others) = rest.split_first()?;
        match name {
            Some(name) if !segment.is_empty() => names.push((name, segment.clone())),
            None if segment == piece => {}
            _ => return None,
        }
        rest = others;
    }
    rest.is_empty().then_some(names)
}

/// The sentence with its values.
pub(crate) fn fill(
    ask: &Ask<'_>,
    sentence: &str,
    names: &[(&str, String)],
) -> Result<String, Undecidable> {
    let mut out = String::new();
    let mut rest = sentence;
    while let Some(at) = rest.find(['{', '[']) {
        out.push_str(&rest[..at]);
        let optional_part = rest[at..].starts_with('[');
        let (inner, after) = enclosed(&rest[at + 1..], if optional_part { ']' } else { '}' });
        if optional_part {
            out.push_str(&optional(ask, inner, names)?);
        } else {
            out.push_str(&value(ask, inner, names)?.ok_or_else(|| missing(ask))?);
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// What comes before the bracket that closes, and what after it. A field may have brackets of its own in its name.
fn enclosed(text: &str, closes: char) -> (&str, &str) {
    let mut field = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if c == closes && !field => return (&text[..at], &text[at + 1..]),
            '{' => field = true,
            '}' => field = false,
            _ => {}
        }
    }
    (text, "")
}

/// What is in brackets; nothing if one of its fields is not there.
fn optional(ask: &Ask<'_>, inner: &str, names: &[(&str, String)]) -> Result<String, Undecidable> {
    let mut out = String::new();
    let mut rest = inner;
    while let Some((before, after)) = rest.split_once('{') {
        let (field, after) = after.split_once('}').unwrap_or((after, ""));
        let Some(value) = value(ask, field, names)? else { return Ok(String::new()) };
        out.push_str(before);
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn value(
    ask: &Ask<'_>,
    field: &str,
    names: &[(&str, String)],
) -> Result<Option<String>, Undecidable> {
    if let Some((_, value)) = names.iter().find(|(name, _)| *name == field) {
        return Ok(Some(word(value)));
    }
    let (in_quotes, field) = match field.strip_prefix('\'') {
        Some(field) => (true, field),
        None => (false, field),
    };
    if in_quotes && let Some(text) = ask.text(field) {
        return Ok(Some(quoted(&text)));
    }
    match ask.find(field).as_deref() {
        None | Some(Json::Null) => Ok(None),
        Some(Json::List(_)) if ask.says_once(field) => {
            Err(Undecidable("a field that is there more than once"))
        }
        Some(value) => Ok(Some(phrase(value))),
    }
}

fn missing(ask: &Ask<'_>) -> Undecidable {
    ask.legible().err().unwrap_or(Undecidable("a call without what it is about"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(path: &str) -> Vec<String> {
        path.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn a_pattern_fits_whole_segments_only() {
        let names = matched("/repos/{owner}/{repo}", &segments("repos/acme/prod")).unwrap();
        assert_eq!(names, [("owner", "acme".to_owned()), ("repo", "prod".to_owned())]);
        for path in ["repos/acme", "repos/acme/prod/", "repos//prod", "repos/a/b/c", "Repos/a/b"] {
            assert_eq!(matched("/repos/{owner}/{repo}", &segments(path)), None, "{path}");
        }
        let rest = matched("/files/{path...}", &segments("files/a/b.txt")).unwrap();
        assert_eq!(rest, [("path", "a/b.txt".to_owned())]);
        assert_eq!(matched("/files/{path...}", &segments("files/")), None);
    }
}
