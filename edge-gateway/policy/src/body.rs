//! What a body says, or that it cannot be said.

use std::borrow::Cow;
use std::ops::Range;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use crate::decode::coding::Coding;
use crate::query::Found;

/// A body for a person to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The decoded text, as it was written; None for bytes that are not text or could not be decoded.
    pub text: Option<String>,
    /// Whether the text is all there is to know about the body. If not, say so on the card: what the upstream
    /// acts on may be something else.
    pub complete: bool,
    pub kind: Kind,
}

/// What a body was declared to be, and is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Binary,
    Empty,
    Form,
    Json,
    Text,
}

/// The body decoded for a card.
pub fn view(headers: &HeaderMap, body: &[u8]) -> View {
    if body.is_empty() {
        return View { text: Some(String::new()), complete: true, kind: Kind::Empty };
    }
    let Ok(decoded) = decode(headers, body) else {
        return View { text: None, complete: false, kind: Kind::Binary };
    };
    let Ok(text) = std::str::from_utf8(&decoded) else {
        return View { text: None, complete: false, kind: Kind::Binary };
    };
    let (kind, complete) = match declared(headers) {
        Declared::Form => {
            (Kind::Form, form(headers, &decoded).is_ok_and(|pairs| pairs.clear().is_some()))
        }
        Declared::Json => (Kind::Json, json(headers, &decoded).is_ok()),
        Declared::Other | Declared::Multipart => (Kind::Text, false),
        Declared::Text => (Kind::Text, true),
    };
    View { text: Some(text.to_owned()), complete, kind }
}

/// A text inside a body: the bytes that it is written in, and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub at: Range<usize>,
    pub text: String,
}

/// Whether Content-Type says that the body is a form (`application/x-www-form-urlencoded`).
pub fn is_form(headers: &HeaderMap) -> bool {
    declared(headers) == Declared::Form
}

/// Whether Content-Type says that the body is JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    declared(headers) == Declared::Json
}

/// Whether Content-Type says that the body is a mail (`message/rfc822`), and nothing else of it.
pub(crate) fn is_mail(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let one = values.next().filter(|_| values.next().is_none());
    one.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"message/rfc822"))
}

/// The value of the one field of this name in a form that is not encoded further. None when there is no such field.
///
/// # Errors
/// What there is that keeps readers from agreeing on that field.
pub fn form_field(
    headers: &HeaderMap,
    body: &[u8],
    name: &str,
) -> Result<Option<Located>, &'static str> {
    bare(headers)?;
    let pairs = form(headers, body).map_err(|Undecodable(why)| why)?;
    let value = match pairs.find(name) {
        Found::Absent => return Ok(None),
        Found::Doubtful => {
            return Err("that field twice, or written so that servers read it in different ways");
        }
        Found::One((_, value)) => value,
    };
    let text = std::str::from_utf8(body).map_err(|_| "a form that is not UTF-8")?;
    let mut begin = 0;
    for pair in text.split('&') {
        let (written, raw) = pair.split_once('=').unwrap_or((pair, ""));
        let end = begin + pair.len();
        if crate::decode::form(written).is_some_and(|written| written == name) {
            return Ok(Some(Located { at: end - raw.len()..end, text: value.to_owned() }));
        }
        begin = end + 1;
    }
    Ok(None)
}

/// The text that an RFC 6901 pointer names in a JSON body that is not encoded further. None when there is nothing, or
/// something other than a text.
///
/// # Errors
/// What there is that keeps readers from agreeing on it.
pub fn json_text(
    headers: &HeaderMap,
    body: &[u8],
    pointer: &str,
) -> Result<Option<Located>, &'static str> {
    bare(headers)?;
    if !is_json(headers) {
        return Err("a body whose Content-Type is not JSON's");
    }
    let located = crate::json::locate(body, pointer).map_err(|Undecodable(why)| why)?;
    Ok(located.map(|(at, text)| Located { at, text }))
}

/// Whether this is a JSON pointer (RFC 6901 §3) to something inside a document.
pub fn is_json_pointer(text: &str) -> bool {
    let escaped = |token: &str| {
        let mut rest = token.split('~').skip(1);
        rest.all(|after| after.starts_with(['0', '1']))
    };
    text.strip_prefix('/').is_some_and(|tokens| tokens.split('/').all(escaped))
}

fn bare(headers: &HeaderMap) -> Result<(), &'static str> {
    if headers.contains_key(CONTENT_ENCODING) {
        return Err("a Content-Encoding, and keys are put into plain bodies only");
    }
    Ok(())
}

/// Why a body, or one reading of it, is not certain: a noun, as in "a form that is not UTF-8".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecodable(pub &'static str);

/// The most that a body may be once decoded, bytes.
pub const MOST_DECODED: usize = 8 * 1024 * 1024;
/// How many times larger decoding may make a body.
const MOST_RATIO: usize = 100;
/// A small body may grow this far whatever the ratio: repetitive JSON compresses well.
const ALWAYS_DECODED: usize = 4096;
const MOST_LAYERS: usize = 3;

/// Takes the Content-Encoding off.
///
/// # Errors
/// Encodings other than [`Coding`], more than three of them, what is not as they say, and what would grow too far.
pub fn decode<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Cow<'a, [u8]>, Undecodable> {
    let mut layers = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let value =
            value.to_str().map_err(|_| Undecodable("a Content-Encoding that is not ASCII"))?;
        layers.extend(value.split(',').map(|name| name.trim().to_ascii_lowercase()));
    }
    layers.retain(|name| name != "identity" && !name.is_empty());
    if layers.len() > MOST_LAYERS {
        return Err(Undecodable("more than three layers of Content-Encoding"));
    }
    if body.len() > MOST_DECODED {
        return Err(Undecodable("a body of more than 8 MiB"));
    }
    let most = most_decoded(body.len());
    let mut decoded = Cow::Borrowed(body);
    for name in layers.iter().rev() {
        let coding = Coding::named(name)
            .ok_or(Undecodable("a Content-Encoding other than gzip, deflate, br and zstd"))?;
        decoded = Cow::Owned(coding.take_off(&decoded, most)?);
    }
    Ok(decoded)
}

/// How large so many bytes may become, bytes.
pub(crate) fn most_decoded(encoded: usize) -> usize {
    MOST_DECODED.min(encoded.saturating_mul(MOST_RATIO).max(ALWAYS_DECODED))
}

/// What Content-Type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    Form,
    Json,
    Multipart,
    /// Nothing, twice, in another character set, or something that is not known.
    Other,
    Text,
}

/// What the body is declared to be.
pub fn declared(headers: &HeaderMap) -> Declared {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Declared::Other };
    let Ok(value) = value.to_str() else { return Declared::Other };
    let mut parts = value.split(';').map(|part| part.trim().to_ascii_lowercase());
    let kind = parts.next().unwrap_or_default();
    if kind.starts_with("multipart/") {
        return Declared::Multipart;
    }
    let sets = parts.filter_map(|part| {
        let (name, set) = part.split_once('=')?;
        (name.trim() == "charset").then(|| set.trim().trim_matches('"').to_owned())
    });
    if sets.into_iter().any(|set| set != "utf-8" && set != "utf8" && set != "us-ascii") {
        return Declared::Other;
    }
    match kind.as_str() {
        "application/x-www-form-urlencoded" => Declared::Form,
        "application/json" => Declared::Json,
        kind if kind.starts_with("application/") && kind.ends_with("+json") => Declared::Json,
        kind if kind.starts_with("text/") => Declared::Text,
        _ => Declared::Other,
    }
}

/// The fields of a form.
///
/// # Errors
/// Another Content-Type, and what some readers take for something else.
pub fn form(headers: &HeaderMap, decoded: &[u8]) -> Result<crate::query::Pairs, Undecodable> {
    if declared(headers) != Declared::Form {
        return Err(Undecodable("a body whose Content-Type is not a form's"));
    }
    let text = std::str::from_utf8(decoded).map_err(|_| Undecodable("a form that is not UTF-8"))?;
    let sniffed = text.trim_start().bytes().next();
    if matches!(sniffed, Some(b'{' | b'[' | b'<')) {
        return Err(Undecodable("a form that some readers take for JSON or XML"));
    }
    if !text.bytes().all(|byte| matches!(byte, 0x21..=0x7e)) {
        return Err(Undecodable("a form with bytes that have to be percent-encoded"));
    }
    Ok(crate::query::Pairs::parse(text))
}

/// Whether a part of a multipart body may be called `_method`, to whoever reads part headers loosely.
pub(crate) fn multipart_may_name_method(decoded: &[u8]) -> bool {
    let word = |at: usize, word: &[u8]| {
        decoded.get(at..at + word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word))
    };
    let names =
        (0..decoded.len()).filter(|at| word(*at, b"name") && !(*at >= 4 && word(*at - 4, b"file")));
    names.into_iter().any(|at| {
        let after = &decoded[at + 4..];
        let marks = after
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t' | b'*' | b'=' | b'"' | b'\''))
            .count();
        let value = &after[marks..];
        let ends = |byte: &u8| matches!(byte, b'"' | b';' | b'\r' | b'\n');
        let value = &value[..value.iter().position(ends).unwrap_or(value.len()).min(LONGEST_NAME)];
        let escaped = value.iter().any(|byte| matches!(byte, b'\\' | b'%' | b'='));
        let method = value.windows(6).any(|window| window.eq_ignore_ascii_case(b"method"));
        marks > 0 && after[..marks].contains(&b'=') && (escaped || method)
    })
}

const LONGEST_NAME: usize = 64;

/// A JSON document.
///
/// # Errors
/// Another Content-Type, and what [`crate::json::parse`] does not read.
pub fn json<'a>(
    headers: &HeaderMap,
    decoded: &'a [u8],
) -> Result<crate::json::Json<'a>, Undecodable> {
    if declared(headers) != Declared::Json {
        return Err(Undecodable("a body whose Content-Type is not JSON's"));
    }
    crate::json::parse(decoded)
}
