//! Path patterns, and the two views of a path that they are held against: as written, and decoded once.

use std::borrow::Cow;

use countersign_gate::HOLE;

use crate::decode;
use crate::target::{self, Clarity};
use crate::truth::Truth;

/// A path pattern: `/repos/{owner}/{repo}`, `/files/{rest...}`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    pieces: Vec<Piece>,
    /// Whether it ends in `{name...}`.
    rest: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// One segment, as it is written on the wire and as loose readers take it.
    Literal {
        wire: String,
        loose: String,
    },
    One,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence's end.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some(body) = text.strip_prefix('/') else { return Err("a path starts with /".into()) };
        let mut pieces = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        let mut rest = false;
        for segment in body.split('/') {
            if rest {
                return Err("{name...} stands for the rest of the path, so it comes last".into());
            }
            let inner = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            let Some(inner) = inner.filter(|inner| !inner.contains(['{', '}'])) else {
                pieces.push(literal(segment)?);
                continue;
            };
            let name = inner.strip_suffix("...").unwrap_or(inner);
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || !name.chars().all(word) {
                return Err(format!("{segment} is not a variable: write {{name}} or {{name...}}"));
            }
            if names.contains(&name) {
                return Err(format!("{{{name}}} is there twice"));
            }
            names.push(name);
            match inner == name {
                true => pieces.push(Piece::One),
                false => rest = true,
            }
        }
        let clear = target::judge(&text.replace(HOLE, "key"), None);
        let empty = pieces
            .iter()
            .rev()
            .skip(1)
            .any(|p| matches!(p, Piece::Literal { wire, .. } if wire.is_empty()));
        match clear {
            Clarity::Ambiguous(why) => {
                Err(format!("no request with this path is let through: {why}"))
            }
            _ if empty => Err("no request with // in its path is let through".into()),
            _ => Ok(Self { pieces, rest }),
        }
    }

    /// The marks of its first segments. A path whose marks differ does not match, unless its slashes are in doubt.
    pub(crate) fn marks(&self) -> Marks {
        Marks::of(self.pieces.iter().map(|piece| match piece {
            Piece::Literal { loose, .. } => Some(loose.as_str()),
            Piece::One => None,
        }))
    }

    /// How many segments it has, without the rest.
    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// A literal segment: as it is written, and as loose readers take it.
    pub(crate) fn literal(&self, at: usize) -> Option<(&str, &str)> {
        match self.pieces.get(at)? {
            Piece::Literal { wire, loose } => Some((wire, loose)),
            Piece::One => None,
        }
    }

    /// Whether a path that was one of this pattern's up to here still is with this segment, which is not empty.
    pub(crate) fn goes_on(&self, at: usize, segment: &Segments<'_>) -> Truth {
        match self.pieces.get(at) {
            None => Truth::of(self.rest),
            Some(piece) => each(std::slice::from_ref(piece), &segment.0),
        }
    }

    /// Whether a path is one of this pattern's. Yes needs the very bytes of the pattern; what some servers treat
    /// alike (another case, needless escapes, a trailing slash, `;parameters`) is undecidable.
    pub(crate) fn matches(&self, path: &Segments<'_>) -> Truth {
        let (given, wanted) = (path.0.as_slice(), self.pieces.as_slice());
        if self.rest {
            let shared = given.len().min(wanted.len());
            return match given.len() {
                n if n > wanted.len() => each(wanted, &given[..shared]),
                n if n == wanted.len() => each(wanted, given).and(|| Truth::undecidable(SLASH)),
                _ => Truth::No,
            };
        }
        if given.len() == wanted.len() {
            return each(wanted, given);
        }
        let slashed = |longer: usize, shorter: usize| longer == shorter + 1;
        if slashed(given.len(), wanted.len())
            && given.last().is_some_and(|last| last.wire.is_empty())
        {
            return each(wanted, &given[..wanted.len()]).and(|| Truth::undecidable(SLASH));
        }
        let open = matches!(wanted.last(), Some(Piece::Literal { wire, .. }) if wire.is_empty());
        if slashed(wanted.len(), given.len()) && open {
            return each(&wanted[..given.len()], given).and(|| Truth::undecidable(SLASH));
        }
        Truth::No
    }
}

const SLASH: &str =
    "the path differs from the rule's by a trailing slash, which some servers ignore";
const SPELLING: &str =
    "the path is the rule's only to servers that ignore case, escapes or ;parameters";

fn literal(segment: &str) -> Result<Piece, String> {
    if segment.replace(HOLE, "").contains(['{', '}']) {
        let advice = "use {name} for a whole segment, and `when` (request.path.endsWith(…)) for parts of one";
        return Err(format!(
            "a variable stands for a whole segment, and {segment} is only partly one: {advice}"
        ));
    }
    if segment.contains('*') {
        return Err(
            "a * is no pattern here: write {name} for one segment and {name...} for the rest"
                .to_owned(),
        );
    }
    Ok(Piece::Literal { wire: upper_hex(segment).into_owned(), loose: loose(segment).into_owned() })
}

/// Whether every piece fits its segment; both have the same length.
fn each(wanted: &[Piece], given: &[Segment<'_>]) -> Truth {
    let mut exact = true;
    for (piece, segment) in wanted.iter().zip(given) {
        match piece {
            Piece::One if segment.wire.is_empty() => return Truth::No,
            Piece::One => {}
            Piece::Literal { loose, .. } if *loose != segment.loose => return Truth::No,
            Piece::Literal { wire, .. } => exact &= *wire == segment.wire,
        }
    }
    if exact { Truth::Yes } else { Truth::undecidable(SPELLING) }
}

/// A path split at its slashes.
#[derive(Debug)]
pub(crate) struct Segments<'a>(Vec<Segment<'a>>);

#[derive(Debug)]
struct Segment<'a> {
    wire: Cow<'a, str>,
    loose: Cow<'a, str>,
}

impl<'a> Segments<'a> {
    /// The segments as they are written: an encoded slash is part of one.
    pub(crate) fn written(path: &'a str) -> Self {
        let segment = |wire: &'a str| Segment { wire: upper_hex(wire), loose: loose(wire) };
        Self(path.strip_prefix('/').unwrap_or(path).split('/').map(segment).collect())
    }

    /// The marks of its first segments.
    pub(crate) fn marks(&self) -> Marks {
        Marks::of(self.0.iter().map(|segment| Some(&*segment.loose)))
    }

    /// The segments as a server sees them that decodes slashes first.
    pub(crate) fn opened(path: &str) -> Self {
        let opened = path.replace("%2f", "/").replace("%2F", "/");
        let segment = |wire: &str| Segment {
            wire: Cow::Owned(upper_hex(wire).into_owned()),
            loose: Cow::Owned(loose(wire).into_owned()),
        };
        Self(opened.strip_prefix('/').unwrap_or(&opened).split('/').map(segment).collect())
    }
}

/// Numbers that are the same for the same segments; 0 where any segment will do, or none is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks([u32; 4]);

impl Marks {
    fn of<'s>(segments: impl Iterator<Item = Option<&'s str>>) -> Self {
        // FNV-1a, and never 0.
        let hash = |text: &str| {
            1 | text
                .bytes()
                .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
        };
        let mut marks = Self::default();
        for (mark, segment) in marks.0.iter_mut().zip(segments) {
            *mark = segment.map_or(0, hash);
        }
        marks
    }

    /// Whether nothing tells the two apart.
    pub(crate) fn agree(self, other: Self) -> bool {
        self.0.iter().zip(other.0).all(|(one, other)| *one == 0 || other == 0 || *one == other)
    }
}

/// Hexadecimal digits of escapes in upper case: `%3a` and `%3A` are the same bytes to everyone.
fn upper_hex(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let mut after = 0;
    let upper = |c: char| {
        let escaped = after > 0;
        after = if c == '%' { 2 } else { usize::saturating_sub(after, 1) };
        if escaped { c.to_ascii_uppercase() } else { c }
    };
    Cow::Owned(segment.chars().map(upper).collect())
}

/// Decoded once, without `;parameters` and outer spaces and dots, in lower case.
pub(crate) fn loose(segment: &str) -> Cow<'_, str> {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
    };
    if segment.bytes().all(plain) {
        return Cow::Borrowed(segment);
    }
    let decoded = decode::percent(segment).unwrap_or(Cow::Borrowed(segment.as_bytes()));
    let text = String::from_utf8_lossy(&decoded);
    let name = text.split(';').next().unwrap_or_default().trim().trim_end_matches('.');
    Cow::Owned(decode::fold(name).into_owned())
}
