//! Request targets that two readers could take for two different things. They are refused, not repaired: what one
//! side normalises away, the other side acts on.

use std::fmt;

/// Why a target can be read in more than one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous(&'static str);

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Ambiguous {}

/// Checks path and query (without the `?`) as they would be written on the wire.
///
/// # Errors
/// Dot segments plain, percent-encoded or with a `;parameter`; `%2f`, `%5c`, `%25`, encoded control bytes and a
/// trailing encoded space in a path; `//`, `\`, `#`, bytes outside visible ASCII; `%` without two hex digits; in
/// a query, an encoded NUL.
pub fn check(path: &str, query: Option<&str>) -> Result<(), Ambiguous> {
    match judge(path, query) {
        Clarity::Clear => Ok(()),
        Clarity::EncodedSlash => Err(Ambiguous("an encoded slash (%2f) in the path")),
        Clarity::Ambiguous(why) => Err(why),
    }
}

/// As [`check`], for readers that split a path before they decode it: an encoded slash inside a segment is clear to them.
///
/// # Errors
/// Whatever else [`check`] refuses.
pub fn check_segments(path: &str, query: Option<&str>) -> Result<(), Ambiguous> {
    match judge(path, query) {
        Clarity::Clear | Clarity::EncodedSlash => Ok(()),
        Clarity::Ambiguous(why) => Err(why),
    }
}

/// How clear a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clarity {
    Clear,
    /// Clear but for `%2f`, which a rule may accept for its host.
    EncodedSlash,
    Ambiguous(Ambiguous),
}

pub(crate) fn judge(path: &str, query: Option<&str>) -> Clarity {
    match judge_path(path).and_then(|slash| query.map_or(Ok(()), judge_query).map(|()| slash)) {
        Ok(false) => Clarity::Clear,
        Ok(true) => Clarity::EncodedSlash,
        Err(why) => Clarity::Ambiguous(Ambiguous(why)),
    }
}

/// Whether the path has encoded slashes, if that is all there is to say against it.
fn judge_path(path: &str) -> Result<bool, &'static str> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("a path that does not start with /");
    };
    let mut slash = false;
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => return Err("a backslash in the path"),
            b'#' | b'?' => return Err("a # or ? in the path"),
            b'%' => match hex_pair(bytes.next(), bytes.next()) {
                None => return Err("a % without two hexadecimal digits in the path"),
                Some(b'/') => slash = true,
                Some(b'\\') => return Err("an encoded backslash (%5c) in the path"),
                Some(b'%') => {
                    return Err(
                        "an encoded percent sign (%25) in the path: it can be decoded twice",
                    );
                }
                Some(0..=0x1f | 0x7f) => return Err("an encoded control byte in the path"),
                Some(_) => {}
            },
            0x21..=0x7e => {}
            _ => return Err("a byte in the path that has to be percent-encoded"),
        }
    }
    let utf8 =
        crate::decode::percent(path).is_some_and(|bytes| std::str::from_utf8(&bytes).is_ok());
    if !utf8 {
        return Err("escapes in the path that are not UTF-8");
    }
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err("an empty segment (//) in the path");
        }
        judge_segment(segment)?;
    }
    if path.ends_with("%20") {
        return Err("an encoded space at the end of the path: some servers take it off");
    }
    Ok(slash)
}

/// Whether one segment, or a piece of it between encoded slashes, is a dot segment to some reader.
fn judge_segment(segment: &str) -> Result<(), &'static str> {
    if !segment.contains('.') && !segment.contains('%') {
        return Ok(());
    }
    let decoded = crate::decode::percent(segment).unwrap_or_default();
    let pieces: Vec<&[u8]> = decoded.split(|byte| *byte == b'/').collect();
    for piece in &pieces {
        let name = piece.split(|byte| *byte == b';').next().unwrap_or_default();
        let name = name.trim_ascii();
        if name == b"." || name == b".." {
            return Err("a dot segment in the path, plain or encoded");
        }
        if pieces.len() > 1 && piece.is_empty() {
            return Err("an encoded slash next to another slash in the path");
        }
    }
    Ok(())
}

fn judge_query(query: &str) -> Result<(), &'static str> {
    let mut bytes = query.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'#' => return Err("a # in the query"),
            b'%' => match hex_pair(bytes.next(), bytes.next()) {
                None => return Err("a % without two hexadecimal digits in the query"),
                Some(0) => return Err("an encoded NUL in the query"),
                Some(_) => {}
            },
            0x21..=0x7e => {}
            _ => return Err("a byte in the query that has to be percent-encoded"),
        }
    }
    Ok(())
}

fn hex_pair(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}
