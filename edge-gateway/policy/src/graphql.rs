//! The GraphQL operation that a JSON body asks for, where there is no doubt which one that is.

use crate::body::Undecodable;
use crate::json::Json;

/// One operation.
#[derive(Debug, PartialEq, Eq)]
pub struct Operation {
    /// `query`, `mutation` or `subscription`.
    pub kind: &'static str,
    /// Empty when it has none.
    pub name: String,
    /// The fields it selects at the top, by their own names, not by aliases; each once.
    pub fields: Vec<String>,
    /// The same fields as often as they are there, with what they are given.
    pub calls: Vec<Call>,
    /// Some variable has a default, or the operation a directive: there is a `=` or a `@` before its selection.
    pub defaults: bool,
}

/// One field at the top, and its arguments by name.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    pub field: String,
    pub arguments: Vec<(String, Argument)>,
    /// Directives (`@include`, `@skip`) may keep it from being carried out.
    pub conditional: bool,
}

/// What an argument is given.
#[derive(Debug, PartialEq, Eq)]
pub enum Argument {
    /// A list or an object, which stands in the document.
    Block,
    /// A number, a word, or a text in quotes as the document writes it.
    Literal(String),
    /// What the variable of this name holds.
    Variable(String),
}

const UNCLEAR: Undecodable = Undecodable("a GraphQL document that is not one plain operation");

/// Reads `{"query": "…"}`.
///
/// # Errors
/// Batches, persisted queries, more than one operation and fragments at the top: what they ask for is not in the document,
/// or not one thing.
pub fn operation(body: &Json) -> Result<Operation, Undecodable> {
    let Json::Object(members) = body else { return Err(UNCLEAR) };
    let member =
        |wanted: &str| members.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
    let Some(Json::Text(source)) = member("query") else { return Err(UNCLEAR) };
    let mut reader = Reader { tokens: tokens(source).ok_or(UNCLEAR)?.into_iter().peekable() };
    let operation = reader.document().ok_or(UNCLEAR)?;
    match member("operationName") {
        None | Some(Json::Null) => Ok(operation),
        Some(Json::Text(name)) if *name == operation.name => Ok(operation),
        Some(_) => Err(UNCLEAR),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A string or a number.
    Literal(&'a str),
    Mark(u8),
    Name(&'a str),
    Spread,
}

fn tokens(source: &str) -> Option<Vec<Token<'_>>> {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let run = |start: usize, keep: fn(u8) -> bool| {
            bytes[start..]
                .iter()
                .position(|b| !keep(*b))
                .map_or(bytes.len(), |length| start + length)
        };
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b',' => at += 1,
            b'#' => at = run(at, |b| b != b'\n' && b != b'\r'),
            b'"' => {
                let end = string_end(bytes, at)?;
                found.push(Token::Literal(source.get(at..end)?));
                at = end;
            }
            b'-' | b'0'..=b'9' => {
                let end =
                    run(at + 1, |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-'));
                found.push(Token::Literal(source.get(at..end)?));
                at = end;
            }
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                let end = run(at, |b| b.is_ascii_alphanumeric() || b == b'_');
                found.push(Token::Name(source.get(at..end)?));
                at = end;
            }
            b'.' => {
                if !bytes[at..].starts_with(b"...") {
                    return None;
                }
                found.push(Token::Spread);
                at += 3;
            }
            b'!' | b'$' | b'&' | b'(' | b')' | b':' | b'=' | b'@' | b'[' | b']' | b'{' | b'|'
            | b'}' => {
                found.push(Token::Mark(byte));
                at += 1;
            }
            _ => return None,
        }
    }
    Some(found)
}

/// Where a string that starts here ends.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    if bytes[start..].starts_with(b"\"\"\"") {
        let mut at = start + 3;
        loop {
            match bytes.get(at..)? {
                rest if rest.starts_with(b"\\\"\"\"") => at += 4,
                rest if rest.starts_with(b"\"\"\"") => return Some(at + 3),
                [] => return None,
                _ => at += 1,
            }
        }
    }
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            b'\n' | b'\r' => return None,
            _ => at += 1,
        }
    }
}

struct Reader<'a> {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token<'a>>>,
}

impl<'a> Reader<'a> {
    /// One operation, and any number of fragments that it may use below the top.
    fn document(&mut self) -> Option<Operation> {
        let mut operation = None;
        while let Some(token) = self.tokens.peek().copied() {
            if token == Token::Name("fragment") {
                self.skip_to_selection()?;
                self.skip_block()?;
                continue;
            }
            if operation.is_some() {
                return None;
            }
            operation = Some(self.operation(token)?);
        }
        operation
    }

    fn operation(&mut self, first: Token<'a>) -> Option<Operation> {
        let mut read = Operation {
            kind: "query",
            name: String::new(),
            fields: Vec::new(),
            calls: Vec::new(),
            defaults: false,
        };
        if let Token::Name(kind) = first {
            read.kind =
                ["mutation", "query", "subscription"].into_iter().find(|known| *known == kind)?;
            self.tokens.next();
            if let Some(Token::Name(name)) = self.tokens.peek() {
                read.name = (*name).to_owned();
            }
            read.defaults = self.skip_to_selection()?;
        }
        self.selection(&mut read)?;
        Some(read)
    }

    /// Goes on to the `{` that starts a selection: variables may have braces in their defaults. Whether there are defaults
    /// or directives on the way.
    fn skip_to_selection(&mut self) -> Option<bool> {
        let mut depth = 0usize;
        let mut defaults = false;
        loop {
            match self.tokens.peek()? {
                Token::Mark(b'{') if depth == 0 => return Some(defaults),
                Token::Mark(b'=' | b'@') => defaults = true,
                Token::Mark(b'(' | b'[' | b'{') => depth += 1,
                Token::Mark(b')' | b']' | b'}') => depth = depth.checked_sub(1)?,
                _ => {}
            }
            self.tokens.next();
        }
    }

    /// The fields of the top selection.
    fn selection(&mut self, read: &mut Operation) -> Option<()> {
        (self.tokens.next()? == Token::Mark(b'{')).then_some(())?;
        loop {
            match self.tokens.next()? {
                Token::Mark(b'}') => return (!read.fields.is_empty()).then_some(()),
                Token::Name(name) => {
                    let aliased = self.tokens.next_if_eq(&Token::Mark(b':')).is_some();
                    let name = match aliased.then(|| self.tokens.next()) {
                        None => name,
                        Some(Some(Token::Name(name))) => name,
                        Some(_) => return None,
                    };
                    if !read.fields.iter().any(|field| field == name) {
                        read.fields.push(name.to_owned());
                    }
                    read.calls.push(self.call(name)?);
                }
                _ => return None,
            }
        }
    }

    /// Arguments, directives and the selection of one field.
    fn call(&mut self, field: &str) -> Option<Call> {
        let field = field.to_owned();
        let mut call = Call { field, arguments: Vec::new(), conditional: false };
        if self.tokens.next_if_eq(&Token::Mark(b'(')).is_some() {
            while self.tokens.next_if_eq(&Token::Mark(b')')).is_none() {
                let Token::Name(name) = self.tokens.next()? else { return None };
                (self.tokens.next()? == Token::Mark(b':')).then_some(())?;
                call.arguments.push((name.to_owned(), self.argument()?));
            }
        }
        while self.tokens.next_if_eq(&Token::Mark(b'@')).is_some() {
            matches!(self.tokens.next()?, Token::Name(_)).then_some(())?;
            call.conditional = true;
            if self.tokens.peek() == Some(&Token::Mark(b'(')) {
                self.skip_block()?;
            }
        }
        if self.tokens.peek() == Some(&Token::Mark(b'{')) {
            self.skip_block()?;
        }
        Some(call)
    }

    fn argument(&mut self) -> Option<Argument> {
        match self.tokens.peek()? {
            Token::Mark(b'[' | b'{') => {
                self.skip_block()?;
                Some(Argument::Block)
            }
            Token::Mark(b'$') => {
                self.tokens.next();
                let Token::Name(name) = self.tokens.next()? else { return None };
                Some(Argument::Variable(name.to_owned()))
            }
            Token::Literal(text) | Token::Name(text) => {
                let literal = Argument::Literal((*text).to_owned());
                self.tokens.next();
                Some(literal)
            }
            Token::Mark(_) | Token::Spread => None,
        }
    }

    /// From an opening bracket to the one that closes it.
    fn skip_block(&mut self) -> Option<()> {
        let mut open = Vec::new();
        loop {
            match self.tokens.next()? {
                Token::Mark(mark @ (b'(' | b'[' | b'{')) => open.push(mark),
                Token::Mark(mark @ (b')' | b']' | b'}')) => {
                    let opening = match mark {
                        b')' => b'(',
                        b']' => b'[',
                        _ => b'{',
                    };
                    (open.pop()? == opening).then_some(())?;
                    if open.is_empty() {
                        return Some(());
                    }
                }
                _ => {}
            }
        }
    }
}
