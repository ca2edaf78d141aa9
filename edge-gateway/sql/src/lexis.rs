//! Text to tokens, as `scan.l` cuts it. What versions, settings or encodings of the server could cut otherwise is
//! undecidable: names outside ASCII without quotes, vertical tabs, numbers that run into letters.

use std::borrow::Cow;

use crate::Undecidable;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `B'…'` or `X'…'`.
    Bits,
    /// One of `, ( ) [ ] . ; : + - * / % ^ < > =`.
    Mark,
    /// A name in double quotes.
    Name,
    Number,
    /// Longer than one mark, or of other signs: `||`, `<>`, `~`, `::`, `:=`, `=>`, `..`.
    Operator,
    /// `$1`.
    Parameter,
    /// A text constant, however it is quoted.
    Text,
    /// A name or a keyword without quotes, folded to lower case.
    Word,
}

#[derive(Clone, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    /// What it says; of a text with escapes, what is written between its quotes.
    pub(crate) text: Cow<'a, str>,
    /// Whether a text says what is written in it, without escapes.
    pub(crate) plain: bool,
    /// Bytes.
    pub(crate) at: usize,
    pub(crate) end: usize,
}

impl Token<'_> {
    pub(crate) fn is_mark(&self, mark: &str) -> bool {
        self.kind == Kind::Mark && self.text == mark
    }

    pub(crate) fn is_operator(&self, sign: &str) -> bool {
        self.kind == Kind::Operator && self.text == sign
    }

    pub(crate) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }
}

/// Names are cut off after this many bytes (NAMEDATALEN - 1).
const LONGEST_NAME: usize = 63;
/// Signs of operators that are read without anything between them.
const LONGEST_RUN: usize = 256;

/// # Errors
/// What cannot be cut, or not in one way only.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Undecidable> {
    if let Some(at) = text.find('\0') {
        return Err(Undecidable { why: "it has a NUL", at });
    }
    let mut scanner = Scanner { text, bytes: text.as_bytes(), at: 0 };
    let mut tokens = Vec::with_capacity(text.len() / 5 + 4);
    while let Some(token) = scanner.next()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn wrong<T>(&self, why: &'static str) -> Result<T, Undecidable> {
        Err(Undecidable { why, at: self.at })
    }

    fn token(&self, kind: Kind, text: Cow<'a, str>, from: usize) -> Token<'a> {
        Token { kind, text, plain: true, at: from, end: self.at }
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, Undecidable> {
        self.space()?;
        let from = self.at;
        let Some(&byte) = self.bytes.get(from) else { return Ok(None) };
        let quoted = self.peek(1) == b'\'';
        let token = match byte {
            b'\'' => self.quoted(1, Quoting::Standard)?,
            b'e' | b'E' if quoted => self.quoted(2, Quoting::Escapes)?,
            b'b' | b'B' | b'x' | b'X' if quoted => {
                let text = self.quoted(2, Quoting::Standard)?;
                Token { kind: Kind::Bits, ..text }
            }
            // The server reads N'…' as NCHAR '…'.
            b'n' | b'N' if quoted => {
                self.at += 1;
                self.token(Kind::Word, Cow::Borrowed("nchar"), from)
            }
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'\'' => {
                let text = self.quoted(3, Quoting::Standard)?;
                self.uescape(text)?
            }
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'"' => {
                self.at += 2;
                let name = self.name(from)?;
                let rest = self.text.get(self.at..).unwrap_or_default().trim_start();
                let escaped = rest.get(..7).is_some_and(|w| w.eq_ignore_ascii_case("uescape"));
                if name.text.contains('\\') || escaped || rest.starts_with(['/', '-']) {
                    return Err(Undecidable { why: "a name has Unicode escapes", at: from });
                }
                name
            }
            b'"' => self.name(from)?,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.word(from)?,
            b'0'..=b'9' => self.number(from)?,
            b'.' if self.peek(1).is_ascii_digit() => self.number(from)?,
            b'$' => self.dollar(from)?,
            b':' if matches!(self.peek(1), b':' | b'=') => self.operator(2),
            b'.' if self.peek(1) == b'.' => self.operator(2),
            b',' | b'(' | b')' | b'[' | b']' | b'.' | b';' | b':' => self.operator(1),
            _ if is_operator(byte) => self.signs()?,
            0x80.. => return self.wrong("it has a sign outside ASCII that is not in quotes"),
            _ => return self.wrong("it has a sign that no token begins with"),
        };
        Ok(Some(token))
    }

    /// White space and comments.
    fn space(&mut self) -> Result<(), Undecidable> {
        loop {
            match self.peek(0) {
                b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => self.at += 1,
                // White space since PostgreSQL 16, an error before.
                0x0b => return self.wrong("it has a vertical tab"),
                b'-' if self.peek(1) == b'-' => self.line_comment(),
                b'/' if self.peek(1) == b'*' => self.block_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn line_comment(&mut self) {
        while !matches!(self.peek(0), 0 | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    fn block_comment(&mut self) -> Result<(), Undecidable> {
        let from = self.at;
        let mut depth = 0usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                (0, _) => return Err(Undecidable { why: "a comment has no end", at: from }),
                _ => self.at += 1,
            }
        }
    }

    /// From `prefix` bytes before its content to behind its last part: parts that a line break stands between are one.
    fn quoted(&mut self, prefix: usize, quoting: Quoting) -> Result<Token<'a>, Undecidable> {
        let from = self.at;
        self.at += prefix;
        let content = self.at;
        let mut plain = true;
        let mut doubled = false;
        loop {
            match self.peek(0) {
                0 => return Err(Undecidable { why: "a text has no end", at: from }),
                b'\\' if quoting == Quoting::Escapes => {
                    plain = false;
                    self.at += 1;
                    // One sign, of however many bytes.
                    let sign = self.text.get(self.at..).and_then(|rest| rest.chars().next());
                    self.at += sign.map_or(0, char::len_utf8);
                }
                b'\'' if self.peek(1) == b'\'' => {
                    doubled = true;
                    self.at += 2;
                }
                b'\'' => {
                    let end = self.at;
                    self.at += 1;
                    if self.continues() {
                        plain = false;
                        continue;
                    }
                    let text = self.text.get(content..end).unwrap_or_default();
                    let text = match doubled && plain {
                        true => Cow::Owned(text.replace("''", "'")),
                        false => Cow::Borrowed(text),
                    };
                    return Ok(Token { plain, ..self.token(Kind::Text, text, from) });
                }
                _ => self.at += 1,
            }
        }
    }

    /// Whether another part follows, in which case it is entered: white space and line comments with a line break before
    /// it, and then a quote.
    fn continues(&mut self) -> bool {
        let from = self.at;
        let mut broken = false;
        loop {
            match self.peek(0) {
                b' ' | b'\t' | b'\x0c' => self.at += 1,
                b'\n' | b'\r' => {
                    broken = true;
                    self.at += 1;
                }
                b'-' if self.peek(1) == b'-' => {
                    self.line_comment();
                    // Behind the break, a comment counts only with the break that ends it.
                    if self.peek(0) == 0 {
                        break;
                    }
                }
                b'\'' if broken => {
                    self.at += 1;
                    return true;
                }
                _ => break,
            }
        }
        self.at = from;
        false
    }

    /// Takes in the `UESCAPE '…'` behind a text with Unicode escapes.
    fn uescape(&mut self, text: Token<'a>) -> Result<Token<'a>, Undecidable> {
        let text = Token { plain: text.plain && !text.text.contains('\\'), ..text };
        let behind = self.at;
        self.space()?;
        let word = self.text.get(self.at..self.at + 7);
        let longer = self.peek(7);
        if !word.is_some_and(|word| word.eq_ignore_ascii_case("uescape"))
            || is_word(longer)
            || longer >= 0x80
        {
            self.at = behind;
            return Ok(text);
        }
        self.at += 7;
        self.space()?;
        if self.peek(0) != b'\'' {
            return self.wrong("UESCAPE has no text behind it");
        }
        self.quoted(1, Quoting::Standard)?;
        Ok(Token { plain: false, end: self.at, ..text })
    }

    fn name(&mut self, from: usize) -> Result<Token<'a>, Undecidable> {
        self.at += 1;
        let content = self.at;
        let mut doubled = false;
        loop {
            match self.peek(0) {
                0 => return Err(Undecidable { why: "a name in quotes has no end", at: from }),
                b'"' if self.peek(1) == b'"' => {
                    doubled = true;
                    self.at += 2;
                }
                b'"' => break,
                _ => self.at += 1,
            }
        }
        let text = self.text.get(content..self.at).unwrap_or_default();
        self.at += 1;
        let text = match doubled {
            true => Cow::Owned(text.replace("\"\"", "\"")),
            false => Cow::Borrowed(text),
        };
        if text.is_empty() || text.len() > LONGEST_NAME {
            let why = "a name is empty, or longer than 63 bytes, which the server cuts off";
            return Err(Undecidable { why, at: from });
        }
        Ok(self.token(Kind::Name, text, from))
    }

    fn word(&mut self, from: usize) -> Result<Token<'a>, Undecidable> {
        while is_word(self.peek(0)) {
            self.at += 1;
        }
        if self.peek(0) >= 0x80 {
            return self.wrong("it has a sign outside ASCII that is not in quotes");
        }
        let text = self.text.get(from..self.at).unwrap_or_default();
        if text.len() > LONGEST_NAME {
            let why = "a name is longer than 63 bytes, which the server cuts off";
            return Err(Undecidable { why, at: from });
        }
        let text = match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(text.to_ascii_lowercase()),
            false => Cow::Borrowed(text),
        };
        Ok(self.token(Kind::Word, text, from))
    }

    fn digits(&mut self) {
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
    }

    /// A decimal, perhaps with a fraction and an exponent.
    fn number(&mut self, from: usize) -> Result<Token<'a>, Undecidable> {
        self.digits();
        if self.peek(0) == b'.' && self.peek(1) != b'.' {
            self.at += 1;
            self.digits();
        }
        let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
        if matches!(self.peek(0), b'e' | b'E') && self.peek(1 + sign).is_ascii_digit() {
            self.at += 1 + sign;
            self.digits();
        }
        if is_word(self.peek(0)) || self.peek(0) >= 0x80 {
            return self.wrong(
                "a number runs into letters, which versions of the server read differently",
            );
        }
        let text = self.text.get(from..self.at).unwrap_or_default();
        Ok(self.token(Kind::Number, Cow::Borrowed(text), from))
    }

    /// `$1`, or a text between two `$tag$`.
    fn dollar(&mut self, from: usize) -> Result<Token<'a>, Undecidable> {
        self.at += 1;
        if self.peek(0).is_ascii_digit() {
            self.digits();
            if is_word(self.peek(0)) || self.peek(0) >= 0x80 {
                return self.wrong("a parameter runs into letters");
            }
            let text = self.text.get(from..self.at).unwrap_or_default();
            return Ok(self.token(Kind::Parameter, Cow::Borrowed(text), from));
        }
        while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == b'_' {
            self.at += 1;
        }
        if self.peek(0) != b'$' {
            return self.wrong("a $ begins neither a parameter nor a text");
        }
        self.at += 1;
        let rest = self.text.get(self.at..).unwrap_or_default();
        let delimiter = self.text.get(from..self.at).unwrap_or_default();
        let Some(length) = rest.find(delimiter) else {
            return Err(Undecidable { why: "a text between dollar signs has no end", at: from });
        };
        self.at += length + delimiter.len();
        let text = rest.get(..length).unwrap_or_default();
        Ok(self.token(Kind::Text, Cow::Borrowed(text), from))
    }

    /// As many bytes as one token.
    fn operator(&mut self, length: usize) -> Token<'a> {
        let from = self.at;
        self.at += length;
        let text = self.text.get(from..self.at).unwrap_or_default();
        let one = matches!(
            text,
            "," | "("
                | ")"
                | "["
                | "]"
                | "."
                | ";"
                | ":"
                | "+"
                | "-"
                | "*"
                | "/"
                | "%"
                | "^"
                | "<"
                | ">"
                | "="
        );
        let kind = if one { Kind::Mark } else { Kind::Operator };
        self.token(kind, Cow::Borrowed(text), from)
    }

    /// The longest run of signs that is one operator: none goes into a comment, and none of SQL's own signs alone ends
    /// with a sign of a number.
    fn signs(&mut self) -> Result<Token<'a>, Undecidable> {
        let run = self.bytes.get(self.at..).unwrap_or_default();
        // Signs that are taken off again are looked at again: without a bound that would be the run's length, squared.
        let signs = run.iter().take(LONGEST_RUN + 1).take_while(|byte| is_operator(**byte));
        let mut length = signs.count();
        let mut pairs = run.get(..length).unwrap_or_default().windows(2);
        match pairs.position(|two| two == b"--" || two == b"/*") {
            Some(at) => length = at,
            None if length > LONGEST_RUN => {
                return self.wrong("it has more than 256 signs of operators in a row");
            }
            None => {}
        }
        let signs = run.get(..length).unwrap_or_default();
        let own = |byte: &u8| b"~!@#^&|`?%".contains(byte);
        if !signs.get(..length.saturating_sub(1)).unwrap_or_default().iter().any(own) {
            while length > 1 && matches!(run.get(length - 1), Some(b'+' | b'-')) {
                length -= 1;
            }
        }
        if length == 0 || length > LONGEST_NAME {
            return self.wrong("an operator is longer than 63 signs");
        }
        Ok(self.operator(length))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    /// A backslash escapes.
    Escapes,
    /// Only two quotes are one.
    Standard,
}

fn is_operator(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}
