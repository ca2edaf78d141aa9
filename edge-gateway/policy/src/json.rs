//! JSON as RFC 8259 has it, and only what every reader reads alike.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use crate::body::Undecodable;
use crate::decode::fold;

/// A JSON value. Texts without escapes are those of the document itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    Null,
    Flag(bool),
    Whole(i64),
    /// A whole number above `i64::MAX`.
    Large(u64),
    Fraction(f64),
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Object(Members<'a>),
}

/// The members of an object, in the order of the document.
pub type Members<'a> = Vec<(Cow<'a, str>, Json<'a>)>;

impl Json<'_> {
    /// The member of an object; None if it has none of this name, and of anything else.
    pub fn member(&self, wanted: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
    }

    /// How many values it is, itself and all that is in it.
    pub fn count(&self) -> usize {
        1 + match self {
            Self::List(items) => items.iter().map(Self::count).sum(),
            Self::Object(members) => members.iter().map(|(_, value)| value.count()).sum(),
            _ => 0,
        }
    }
}

const DEEPEST: usize = 64;
const MOST_VALUES: usize = 100_000;

/// Reads one document.
///
/// # Errors
/// What is not strict RFC 8259 in UTF-8; a name twice in one object, or twice but for its case; numbers that do not fit 64
/// bits; more than 64 levels or 100 000 values.
pub fn parse(bytes: &[u8]) -> Result<Json<'_>, Undecodable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Undecodable("JSON that is not UTF-8"))?;
    let mut reader = Reader::new(text);
    reader.space();
    let value = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(Undecodable("something after the end of the JSON document"));
    }
    Ok(value)
}

/// A text as JSON writes it.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for sign in text.chars() {
        match sign {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' => out.push_str(&format!("\\u{:04x}", u32::from(sign))),
            sign => out.push(sign),
        }
    }
    out.push('"');
    out
}

/// So many names are compared with each other; more are looked up.
const FEW: usize = 16;

/// Whether two names are the same one to some reader: some (Go's) ignore case.
fn same_name(one: &str, other: &str, ascii: bool) -> bool {
    match ascii {
        true => one.len() == other.len() && one.eq_ignore_ascii_case(other),
        false => fold(one) == fold(other),
    }
}

/// Where the text that an RFC 6901 pointer names is written, without its quotes, and what it says. None when there is
/// nothing, or something other than a text.
pub(crate) fn locate(
    bytes: &[u8],
    pointer: &str,
) -> Result<Option<(Range<usize>, String)>, Undecodable> {
    // All of it must be what every reader reads alike, not only the way there.
    parse(bytes)?;
    let text = std::str::from_utf8(bytes).map_err(|_| BROKEN)?;
    let mut reader = Reader::new(text);
    reader.space();
    for token in pointer.split('/').skip(1) {
        if !reader.enter(&token.replace("~1", "/").replace("~0", "~"))? {
            return Ok(None);
        }
    }
    if reader.peek() != Some(b'"') {
        return Ok(None);
    }
    let begin = reader.at + 1;
    let said = reader.string()?;
    Ok(Some((begin..reader.at - 1, said.into_owned())))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    values: usize,
    /// What objects and lists that have not ended have so far: each takes its own off at its end, in one piece.
    members: Vec<(Cow<'a, str>, Json<'a>)>,
    items: Vec<Json<'a>>,
}

const BROKEN: Undecodable = Undecodable("a body that is not JSON");

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0, values: 0, members: Vec::new(), items: Vec::new() }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes this byte, if it is next.
    fn take(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    fn expect(&mut self, byte: u8) -> Result<(), Undecodable> {
        if self.take(byte) { Ok(()) } else { Err(BROKEN) }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, Undecodable> {
        self.values += 1;
        if depth > DEEPEST || self.values > MOST_VALUES {
            return Err(Undecodable("JSON that is nested too deeply or has too many values"));
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let (word, value) = match self.peek() {
                    Some(b'n') => ("null", Json::Null),
                    Some(b't') => ("true", Json::Flag(true)),
                    _ => ("false", Json::Flag(false)),
                };
                let there = self.text[self.at..].starts_with(word);
                self.at += word.len();
                if there { Ok(value) } else { Err(BROKEN) }
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, Undecodable> {
        self.expect(b'{')?;
        let start = self.members.len();
        let mut folded = HashSet::new();
        let mut ascii = true;
        self.space();
        if self.take(b'}') {
            return Ok(Json::Object(Vec::new()));
        }
        loop {
            self.space();
            let name = self.string()?;
            ascii &= name.is_ascii();
            let members = self.members.get(start..).unwrap_or_default();
            let twice = match members.len() {
                ..FEW => members.iter().any(|(other, _)| same_name(other, &name, ascii)),
                FEW => {
                    folded = members.iter().map(|(name, _)| fold(name).into_owned()).collect();
                    !folded.insert(fold(&name).into_owned())
                }
                _ => !folded.insert(fold(&name).into_owned()),
            };
            if twice {
                return Err(Undecodable(
                    "JSON with a name twice in one object (or twice but for its case)",
                ));
            }
            self.space();
            self.expect(b':')?;
            self.space();
            let value = self.value(depth + 1)?;
            self.members.push((name, value));
            self.space();
            if !self.take(b',') {
                self.expect(b'}')?;
                return Ok(Json::Object(self.members.drain(start..).collect()));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json<'a>, Undecodable> {
        self.expect(b'[')?;
        let start = self.items.len();
        self.space();
        if self.take(b']') {
            return Ok(Json::List(Vec::new()));
        }
        loop {
            self.space();
            let item = self.value(depth + 1)?;
            self.items.push(item);
            self.space();
            if !self.take(b',') {
                self.expect(b']')?;
                return Ok(Json::List(self.items.drain(start..).collect()));
            }
        }
    }

    /// Goes on to the member of this name, or item of this index, of the value that is next. False: it has none.
    fn enter(&mut self, token: &str) -> Result<bool, Undecodable> {
        let (object, close) = match self.peek() {
            Some(b'{') => (true, b'}'),
            Some(b'[') => (false, b']'),
            _ => return Ok(false),
        };
        self.at += 1;
        self.space();
        if self.take(close) {
            return Ok(false);
        }
        for index in 0.. {
            self.space();
            let name = if object {
                let name = self.string()?;
                self.space();
                self.expect(b':')?;
                self.space();
                name
            } else {
                Cow::Owned(index.to_string())
            };
            if name == token {
                return Ok(true);
            }
            self.value(0)?;
            self.space();
            if !self.take(b',') {
                break;
            }
        }
        Ok(false)
    }

    fn number(&mut self) -> Result<Json<'a>, Undecodable> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        let mut whole = true;
        if self.take(b'.') {
            whole = false;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            whole = false;
            self.at += 1;
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        if whole {
            let small = text.parse().map(Json::Whole);
            let number = small.or_else(|_| text.parse().map(Json::Large));
            return number
                .map_err(|_| Undecodable("JSON with a whole number that does not fit 64 bits"));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Json::Fraction(number)),
            _ => Err(Undecodable("JSON with a number that readers do not agree on")),
        }
    }

    fn digits(&mut self) -> Result<(), Undecodable> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(BROKEN) }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Undecodable> {
        self.expect(b'"')?;
        let start = self.at;
        self.at = plain_until(self.text.as_bytes(), start);
        let run = &self.text[start..self.at];
        if self.take(b'"') {
            return Ok(Cow::Borrowed(run));
        }
        let mut out = run.to_owned();
        loop {
            self.expect(b'\\')?;
            let escape = self.peek().ok_or(BROKEN)?;
            self.at += 1;
            out.push(match escape {
                b'"' | b'\\' | b'/' => char::from(escape),
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => self.escaped()?,
                _ => return Err(BROKEN),
            });
            let start = self.at;
            self.at = plain_until(self.text.as_bytes(), start);
            out.push_str(&self.text[start..self.at]);
            if self.take(b'"') {
                return Ok(Cow::Owned(out));
            }
        }
    }

    /// What follows `\u`.
    fn escaped(&mut self) -> Result<char, Undecodable> {
        let lone = Undecodable("JSON with half of a character (a lone surrogate)");
        let first = self.hex()?;
        if !(0xd800..=0xdfff).contains(&first) {
            return char::from_u32(first).ok_or(lone);
        }
        if first >= 0xdc00 || !self.take(b'\\') || !self.take(b'u') {
            return Err(lone);
        }
        let second = self.hex()?;
        if !(0xdc00..=0xdfff).contains(&second) {
            return Err(lone);
        }
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(lone)
    }

    fn hex(&mut self) -> Result<u32, Undecodable> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).ok_or(BROKEN)?;
        self.at += 4;
        digits
            .iter()
            .try_fold(0, |number, byte| Some(number * 16 + char::from(*byte).to_digit(16)?))
            .ok_or(BROKEN)
    }
}

/// Where the characters from `at` on that stand for themselves end: at a quote, a backslash, a control character, or the
/// end. Eight bytes at a time: in each test the lowest byte that it marks is one that it is about, so the lowest of all is.
fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = zero(word ^ (ONES * 0x22));
        let backslash = zero(word ^ (ONES * 0x5c));
        let marked = (control | quote | backslash) & HIGH;
        if marked != 0 {
            return at + marked.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let ends = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    at + rest.iter().position(ends).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// serde_json is off by the last bit of some fractions unless asked not to be.
    fn alike(json: &Json<'_>, serde: &serde_json::Value) -> bool {
        match (json, serde) {
            (Json::Fraction(ours), theirs) => {
                theirs.as_f64().is_some_and(|theirs| (ours - theirs).abs() <= theirs.abs() * 1e-12)
            }
            (Json::List(ours), serde_json::Value::Array(theirs)) => {
                ours.len() == theirs.len()
                    && ours.iter().zip(theirs).all(|(ours, theirs)| alike(ours, theirs))
            }
            (Json::Object(ours), serde_json::Value::Object(theirs)) => {
                let member = |(name, ours): &(Cow<'_, str>, Json<'_>)| {
                    theirs.get(&**name).is_some_and(|theirs| alike(ours, theirs))
                };
                ours.len() == theirs.len() && ours.iter().all(member)
            }
            (Json::Null, theirs) => theirs.is_null(),
            (Json::Flag(flag), theirs) => theirs.as_bool() == Some(*flag),
            (Json::Whole(number), theirs) => {
                theirs.as_i64() == Some(*number) || (*number == 0 && theirs == -0.0)
            }
            (Json::Large(number), theirs) => theirs.as_u64() == Some(*number),
            (Json::Text(text), theirs) => theirs.as_str() == Some(&**text),
            (Json::List(_) | Json::Object(_), _) => false,
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back(text in "\\PC{0,12}[\\x00-\\x7f]{0,12}") {
            let written = quoted(&text);
            prop_assert_eq!(parse(written.as_bytes()).unwrap(), Json::Text(text.into()));
        }
    }

    #[test]
    fn a_pointer_finds_the_text_and_the_bytes_that_it_is_written_in() {
        let body = r#" {"a": {"b/c": ["x", {"~": "\u006bey"}]}, "n": 1, "": "empty"} "#;
        for (pointer, written, said) in
            [("/a/b~1c/0", "x", "x"), ("/a/b~1c/1/~0", "\\u006bey", "key"), ("/", "empty", "empty")]
        {
            let (at, text) = locate(body.as_bytes(), pointer).unwrap().unwrap();
            assert_eq!((&body[at], text.as_str()), (written, said), "{pointer}");
        }
        for nothing in
            ["", "/a", "/n", "/a/b", "/a/b~1c/2", "/a/b~1c/00", "/a/b~1c/-", "/n/x", "/A"]
        {
            assert_eq!(locate(body.as_bytes(), nothing).unwrap(), None, "{nothing}");
        }
        for doubtful in [
            r#"{"key": "x", "key": "y"}"#,
            r#"{"key": "x", "KEY": "y"}"#,
            r#"{"key": "x", "other": {"a": 1, "a": 2}}"#,
            r#"{"key": "x"} {}"#,
            r#"{"key": "x", "n": 1e999}"#,
        ] {
            assert!(locate(doubtful.as_bytes(), "/key").is_err(), "{doubtful}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_read_serde_reads_alike(text in r#"[\[\]{}:,"\\u0-9d8-f.eE+\- \tna-c]{0,24}"#) {
            if let Ok(read) = parse(text.as_bytes()) {
                let serde: serde_json::Value = serde_json::from_str(&text).unwrap();
                prop_assert!(alike(&read, &serde), "{read:?} {serde:?}");
            }
        }

        #[test]
        fn plain_runs_end_where_each_byte_says_so(bytes in prop::collection::vec(prop_oneof![
            4 => 0x20_u8..=0x7e, 1 => any::<u8>(), 1 => Just(b'"'), 1 => Just(b'\\'),
        ], 0..40), at in 0_usize..8) {
            let from = at.min(bytes.len());
            let slow = bytes[from..].iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f));
            prop_assert_eq!(plain_until(&bytes, from), slow.map_or(bytes.len(), |it| from + it));
        }

        #[test]
        fn a_name_that_is_there_twice_is_found_among_few_and_among_many(
            count in 1_usize..40, first in any::<prop::sample::Index>(), upper in any::<bool>(),
        ) {
            let mut names: Vec<_> = (0..count).map(|number| format!("key{number}")).collect();
            let object = |names: &[String]| {
                let members: Vec<_> = names.iter().map(|name| format!("\"{name}\":1")).collect();
                format!("{{{}}}", members.join(","))
            };
            prop_assert!(parse(object(&names).as_bytes()).is_ok());
            // The Kelvin sign is a k to readers that fold more than ASCII.
            let again = names[first.index(count)].clone();
            names.push(if upper { again.replace('k', "\u{212a}") } else { again });
            prop_assert!(parse(object(&names).as_bytes()).is_err());
        }

        #[test]
        fn whatever_serde_writes_is_read(
            text in ".{0,20}", number in any::<i64>(), large in any::<u64>(), fraction in -1e300..1e300f64,
        ) {
            let value = serde_json::json!({"a": [text, number, null, true], "b": {"c": large, "d": fraction}});
            let written = serde_json::to_string(&value).unwrap();
            let read = parse(written.as_bytes()).unwrap();
            prop_assert!(alike(&read, &serde_json::from_str(&written).unwrap()), "{read:?}");
        }
    }
}
