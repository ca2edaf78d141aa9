//! `multipart/form-data` (RFC 7578, RFC 2046 §5.1), and only what every reader splits alike.
//!
//! The boundary stands once in Content-Type and nowhere in the body but where a part begins or ends; nothing stands before the
//! first part or after the last; each part has a name, no two have the same one to any reader, and none is in parts itself.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::body::Undecodable;
use crate::query::Pairs;

/// A form in parts.
#[derive(Debug)]
pub struct Form<'a> {
    pub parts: Vec<Part<'a>>,
    /// The names of all parts, with the values of those that are no files.
    pub(crate) names: Pairs,
}

/// One part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    pub name: &'a str,
    /// The name of the file that it is; None for a field.
    pub file: Option<&'a str>,
    /// What its Content-Type says, as written.
    pub kind: Option<&'a str>,
    pub content: &'a [u8],
}

const UNCLEAR: Undecodable = Undecodable("a body in parts that have no clear boundaries");
const LABELS: Undecodable = Undecodable("a body with a part that is not clearly labelled");
const MOST_PARTS: usize = 200;
const MOST_HEADERS: usize = 8;

/// Reads a body. `decoded` is without its Content-Encoding.
///
/// # Errors
/// Another Content-Type, and what some reader splits or names in another way.
pub fn read<'a>(headers: &HeaderMap, decoded: &'a [u8]) -> Result<Form<'a>, Undecodable> {
    let delimiter = format!("--{}", boundary(headers)?);
    let delimiter = delimiter.as_bytes();
    let mut rest = decoded.strip_prefix(delimiter).ok_or(UNCLEAR)?;
    let mut parts = Vec::new();
    loop {
        if matches!(rest, b"--" | b"--\r\n") && !parts.is_empty() {
            break;
        }
        rest = rest.strip_prefix(b"\r\n").ok_or(UNCLEAR)?;
        let at = find(rest, delimiter).ok_or(UNCLEAR)?;
        let whole = rest[..at].strip_suffix(b"\r\n").ok_or(UNCLEAR)?;
        rest = &rest[at + delimiter.len()..];
        if parts.len() == MOST_PARTS {
            return Err(Undecodable("a body in more than 200 parts"));
        }
        parts.push(Part::read(whole)?);
    }
    let value = |part: &Part<'_>| match (part.file, std::str::from_utf8(part.content)) {
        (Some(_), _) => Ok(String::new()),
        (None, Ok(text)) => Ok(text.to_owned()),
        (None, Err(_)) => Err(Undecodable("a body with a field that is not UTF-8")),
    };
    let named = parts.iter().map(|part| Ok((part.name.to_owned(), value(part)?)));
    let names = Pairs::of(named.collect::<Result<_, _>>()?);
    if names.clear().is_none() {
        return Err(Undecodable("a body with two parts that are one to some readers"));
    }
    Ok(Form { parts, names })
}

/// The boundary, if that is the one parameter.
fn boundary(headers: &HeaderMap) -> Result<&str, Undecodable> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(UNCLEAR) };
    let value = value.to_str().map_err(|_| UNCLEAR)?;
    let (kind, parameter) = value
        .split_once(';')
        .ok_or(Undecodable("a body whose Content-Type is not that of a form in parts"))?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Err(Undecodable("a body whose Content-Type is not that of a form in parts"));
    }
    let (name, value) = parameter.trim().split_once('=').ok_or(UNCLEAR)?;
    if !name.eq_ignore_ascii_case("boundary") {
        return Err(UNCLEAR);
    }
    let (boundary, marks) = match value.strip_prefix('"') {
        Some(inner) => (inner.strip_suffix('"').ok_or(UNCLEAR)?, "'()+_,-./:=?"),
        // Without quotes it ends at what is no letter of a token (RFC 9110 §5.6.2) to some readers.
        None => (value, "'+_-."),
    };
    let letter = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    let whole = (1..=70).contains(&boundary.len()) && boundary.chars().all(letter);
    if whole { Ok(boundary) } else { Err(UNCLEAR) }
}

impl<'a> Part<'a> {
    fn read(whole: &'a [u8]) -> Result<Self, Undecodable> {
        let at = find(whole, b"\r\n\r\n").ok_or(LABELS)?;
        let (head, content) = (&whole[..at], &whole[at + 4..]);
        let head = std::str::from_utf8(head).map_err(|_| LABELS)?;
        let mut disposition = None;
        let mut kind = None;
        for (count, line) in head.split("\r\n").enumerate() {
            let (name, value) = line.split_once(':').ok_or(LABELS)?;
            let plain = |c: char| !c.is_control();
            // A line that goes on in the next one begins with white space, so its name is none.
            let token =
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if count == MOST_HEADERS || !token || !value.chars().all(plain) {
                return Err(LABELS);
            }
            let value = value.trim_matches(' ');
            let first = match name.to_ascii_lowercase().as_str() {
                "content-disposition" => disposition.replace(value).is_none(),
                "content-type" => kind.replace(value).is_none(),
                "content-length" => value.parse() == Ok(content.len()),
                "content-transfer-encoding" => {
                    ["7bit", "8bit", "binary"].contains(&value.to_ascii_lowercase().as_str())
                }
                _ => false,
            };
            if !first {
                return Err(LABELS);
            }
        }
        let (name, file) = disposition.and_then(names).ok_or(LABELS)?;
        let part = Self { name, file, kind, content };
        part.is_plain().then_some(part).ok_or(LABELS)
    }

    /// Whether it is what it seems to every reader: not parts itself, and a field only if nobody takes it for a file.
    fn is_plain(&self) -> bool {
        let Some(kind) = self.kind else { return self.name != "_charset_" };
        let kind = kind.to_ascii_lowercase();
        let (name, parameters) = kind.split_once(';').unwrap_or((&kind, ""));
        let other_set = parameters.contains("charset")
            && !matches!(
                parameters.trim().trim_start_matches("charset=").trim_matches('"'),
                "utf-8" | "us-ascii"
            );
        let inner = name.starts_with("multipart/") || name.starts_with("message/");
        let file = self.file.is_some() || name.trim() != "application/octet-stream";
        self.name != "_charset_" && !inner && file && (self.file.is_some() || !other_set)
    }
}

/// `form-data; name="a"; filename="b"`, in this order or the other.
fn names(disposition: &str) -> Option<(&str, Option<&str>)> {
    let mut rest = disposition;
    let (kind, after) = rest.split_once(';')?;
    kind.trim().eq_ignore_ascii_case("form-data").then_some(())?;
    rest = after;
    let (mut name, mut file) = (None, None);
    loop {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(inner) => inner.split_once('"')?,
            None => {
                let token = |c: char| c.is_ascii_alphanumeric() || "+_-.".contains(c);
                let (value, after) = after.split_at(after.find(';').unwrap_or(after.len()));
                value.chars().all(token).then_some((value, after))?
            }
        };
        let slot = match key.trim().to_ascii_lowercase().as_str() {
            "name" => &mut name,
            "filename" => &mut file,
            // `filename*` above all: readers differ in which of the two they take.
            _ => return None,
        };
        is_clear(value).then_some(())?;
        slot.replace(value).is_none().then_some(())?;
        match after.trim_start() {
            "" => break,
            after => rest = after.strip_prefix(';')?,
        }
    }
    Some((name.filter(|name| !name.is_empty())?, file))
}

/// Whether nobody takes a backslash for an escape, or what browsers write for quotes and line ends for what it stands for.
fn is_clear(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    !value.contains(['\\', '"']) && !["%22", "%0d", "%0a", "=?"].iter().any(|it| value.contains(it))
}

/// Where `wanted` begins.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}
