//! The GraphQL operations that a request asks for, where there is no doubt which ones those are.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::body::Undecodable;
use crate::json::{self, Json};
use crate::query::{Found, Pairs};

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub field: String,
    pub arguments: Vec<(String, Argument)>,
    /// Directives (`@include`, `@skip`) may keep it from being carried out.
    pub conditional: bool,
}

/// What an argument is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A list or an object, which stands in the document.
    Block,
    /// A number, a word, or a text in quotes as the document writes it.
    Literal(String),
    /// What the variable of this name holds.
    Variable(String),
}

const UNCLEAR: Undecodable = Undecodable("a GraphQL document that is not one plain operation");
const BROKEN: Undecodable = Undecodable("a GraphQL document that is not as the language has it");
const STORED: Undecodable =
    Undecodable("a GraphQL request for a document that is not in it (a persisted query)");
/// Requests of a batch.
const MOST_REQUESTS: usize = 100;
/// Top-level fields of all operations, once fragments are put in.
const MOST_CALLS: usize = 1000;
/// Fragments inside one another.
const DEEPEST: usize = 16;

/// The one operation of `{"query": "…"}`, without fragments at its top.
///
/// # Errors
/// Batches, persisted queries, more than one operation and fragments at the top: what they ask for is not in the document,
/// or not one thing.
pub fn operation(body: &Json<'_>) -> Result<Operation, Undecodable> {
    let request = Request::of(body)?;
    let document = Document::read(request.source).ok_or(UNCLEAR)?;
    let [definition] = document.definitions.as_slice() else { return Err(UNCLEAR) };
    if request.name.is_some_and(|name| name != definition.name) {
        return Err(UNCLEAR);
    }
    let spread = |it: &Selected| !matches!(it, Selected::Field(_));
    if definition.selection.iter().any(spread) {
        return Err(UNCLEAR);
    }
    document.operation(definition, &mut 0).ok_or(UNCLEAR)
}

/// Every operation that a body has: of `{"query": "…"}` or of a list of such, whichever `operationName` picks. Fragments at
/// the top are put in, and what directives may keep from being carried out is there as well.
///
/// # Errors
/// Documents that are not in it, members that are not known, and what is not as the language has it.
pub fn operations(body: &Json<'_>) -> Result<Vec<Operation>, Undecodable> {
    let requests = match body {
        Json::List(items) if (1..=MOST_REQUESTS).contains(&items.len()) => items.as_slice(),
        Json::List(_) => {
            return Err(Undecodable("an empty batch of GraphQL, or one of more than 100"));
        }
        one => std::slice::from_ref(one),
    };
    let mut calls = 0;
    let mut found = Vec::new();
    for request in requests {
        Request::of(request)?.add(&mut found, &mut calls)?;
    }
    Ok(found)
}

/// Every operation of `?query=…`, for a request that has no body.
///
/// # Errors
/// As [`operations`], and names that can be read in more than one way.
pub fn operations_of_query(pairs: &Pairs) -> Result<Vec<Operation>, Undecodable> {
    let doubtful = Undecodable("a GraphQL query with a name that can be read in more than one way");
    let value = |name: &str| match pairs.find(name) {
        Found::Absent => Ok(None),
        Found::Doubtful => Err(doubtful),
        Found::One((_, value)) => Ok(Some(value)),
    };
    if STORES.iter().any(|name| pairs.find(name) != Found::Absent) {
        return Err(STORED);
    }
    let source = value("query")?.ok_or(STORED)?;
    let given = |name: &str| value(name).map(|text| text.filter(|text| !text.is_empty()));
    let variables = given("variables")?.map(|text| json::parse(text.as_bytes())).transpose()?;
    let extensions = given("extensions")?.map(|text| json::parse(text.as_bytes())).transpose()?;
    let name = given("operationName")?;
    let request = Request::checked(source, name, variables.as_ref(), extensions.as_ref())?;
    let mut found = Vec::new();
    request.add(&mut found, &mut 0)?;
    Ok(found)
}

/// Whether a query takes part in what a body asks for: some servers prefer what stands there.
pub fn is_in_query(pairs: &Pairs) -> bool {
    MEMBERS.iter().chain(&STORES).any(|name| pairs.find(name) != Found::Absent)
}

const MEMBERS: [&str; 4] = ["extensions", "operationName", "query", "variables"];
/// What servers know stored documents by.
const STORES: [&str; 7] =
    ["docId", "doc_id", "documentId", "hash", "id", "persistedQuery", "queryId"];

/// One request, before its document is read.
struct Request<'a> {
    source: &'a str,
    name: Option<&'a str>,
}

impl<'a> Request<'a> {
    fn of(body: &'a Json<'_>) -> Result<Self, Undecodable> {
        let Json::Object(members) = body else { return Err(UNCLEAR) };
        if !members.iter().all(|(name, _)| MEMBERS.contains(&&**name)) {
            return Err(Undecodable(
                "a GraphQL request with more than query, operationName, variables and extensions",
            ));
        }
        let Some(Json::Text(source)) = body.member("query") else { return Err(STORED) };
        let name = match body.member("operationName") {
            None | Some(Json::Null) => None,
            Some(Json::Text(name)) => Some(&**name).filter(|name| !name.is_empty()),
            Some(_) => return Err(UNCLEAR),
        };
        Self::checked(source, name, body.member("variables"), body.member("extensions"))
    }

    fn checked(
        source: &'a str,
        name: Option<&'a str>,
        variables: Option<&Json<'_>>,
        extensions: Option<&Json<'_>>,
    ) -> Result<Self, Undecodable> {
        let object = |value: &Json<'_>| matches!(value, Json::Null | Json::Object(_));
        if ![variables, extensions].into_iter().flatten().all(object) {
            return Err(BROKEN);
        }
        // A server may take the document that it has under this hash, so it must be the hash of the one that is here.
        if let Some(persisted) = extensions.and_then(|it| it.member("persistedQuery")) {
            let digest = Sha256::digest(source);
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            match persisted.member("sha256Hash") {
                Some(Json::Text(said)) if *said == hex => {}
                _ => return Err(STORED),
            }
        }
        Ok(Self { source, name })
    }

    fn add(&self, found: &mut Vec<Operation>, calls: &mut usize) -> Result<(), Undecodable> {
        let document = Document::read(self.source).ok_or(BROKEN)?;
        let names: Vec<&str> = document.definitions.iter().map(|it| it.name.as_str()).collect();
        // Of several, each has a name of its own, and one of them is picked.
        let apart = names.iter().enumerate().all(|(at, name)| {
            !name.is_empty() && !names.iter().take(at).any(|other| other == name)
        });
        let picked = match self.name {
            Some(name) => names.contains(&name),
            None => names.len() == 1,
        };
        if names.is_empty() || !picked || (names.len() > 1 && !apart) {
            return Err(Undecodable("a GraphQL document of which it is not clear what is run"));
        }
        for definition in &document.definitions {
            found.push(document.operation(definition, calls).ok_or(BROKEN)?);
        }
        Ok(())
    }
}

/// A document, as far as the tops of its operations and fragments.
struct Document {
    definitions: Vec<Definition>,
    fragments: BTreeMap<String, Vec<Selected>>,
}

struct Definition {
    kind: &'static str,
    name: String,
    selection: Vec<Selected>,
    defaults: bool,
}

enum Selected {
    Field(Call),
    /// A fragment by its name, and whether directives may leave it out.
    Fragment(String, bool),
    /// A fragment that stands there.
    Inline(Vec<Self>, bool),
}

impl Document {
    fn read(source: &str) -> Option<Self> {
        Reader { tokens: tokens(source)?.into_iter().peekable() }.document()
    }

    /// The operation with its fragments put in. None: one that there is not, that has itself in it, or too much of it.
    fn operation(&self, definition: &Definition, count: &mut usize) -> Option<Operation> {
        let mut calls = Vec::new();
        self.expand(&definition.selection, false, 0, count, &mut calls)?;
        let mut fields: Vec<String> = Vec::new();
        for call in &calls {
            if !fields.contains(&call.field) {
                fields.push(call.field.clone());
            }
        }
        let Definition { kind, name, defaults, .. } = definition;
        let name = name.clone();
        Some(Operation { kind, name, fields, calls, defaults: *defaults })
    }

    fn expand(
        &self,
        selection: &[Selected],
        conditional: bool,
        depth: usize,
        count: &mut usize,
        calls: &mut Vec<Call>,
    ) -> Option<()> {
        (depth <= DEEPEST).then_some(())?;
        for selected in selection {
            // Fragments count too: each may be put in many times.
            *count += 1;
            (*count <= MOST_CALLS).then_some(())?;
            match selected {
                Selected::Field(call) => {
                    let conditional = conditional || call.conditional;
                    calls.push(Call { conditional, ..call.clone() });
                }
                Selected::Fragment(name, maybe) => {
                    let inner = self.fragments.get(name)?;
                    self.expand(inner, conditional || *maybe, depth + 1, count, calls)?;
                }
                Selected::Inline(inner, maybe) => {
                    self.expand(inner, conditional || *maybe, depth + 1, count, calls)?;
                }
            }
        }
        Some(())
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
    fn document(&mut self) -> Option<Document> {
        let mut document = Document { definitions: Vec::new(), fragments: BTreeMap::new() };
        while let Some(token) = self.tokens.peek().copied() {
            if token == Token::Name("fragment") {
                self.tokens.next();
                let Token::Name(name) = self.tokens.next()? else { return None };
                self.skip_to_selection()?;
                let selection = self.selection(0)?;
                let twice = document.fragments.insert(name.to_owned(), selection).is_some();
                (!twice).then_some(())?;
                continue;
            }
            document.definitions.push(self.definition(token)?);
        }
        Some(document)
    }

    fn definition(&mut self, first: Token<'a>) -> Option<Definition> {
        let mut read = Definition {
            kind: "query",
            name: String::new(),
            selection: Vec::new(),
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
        read.selection = self.selection(0)?;
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

    /// A selection at the top. It is not empty.
    fn selection(&mut self, depth: usize) -> Option<Vec<Selected>> {
        (depth <= DEEPEST && self.tokens.next()? == Token::Mark(b'{')).then_some(())?;
        let mut selection = Vec::new();
        loop {
            match self.tokens.next()? {
                Token::Mark(b'}') => return (!selection.is_empty()).then_some(selection),
                Token::Name(name) => {
                    let aliased = self.tokens.next_if_eq(&Token::Mark(b':')).is_some();
                    let name = match aliased.then(|| self.tokens.next()) {
                        None => name,
                        Some(Some(Token::Name(name))) => name,
                        Some(_) => return None,
                    };
                    selection.push(Selected::Field(self.call(name)?));
                }
                Token::Spread => selection.push(self.spread(depth)?),
                Token::Literal(_) | Token::Mark(_) => return None,
            }
        }
    }

    /// What follows `...`: a name, or `on Type` and directives before a selection.
    fn spread(&mut self, depth: usize) -> Option<Selected> {
        match self.tokens.peek()? {
            Token::Name("on") => {
                self.tokens.next();
                matches!(self.tokens.next()?, Token::Name(_)).then_some(())?;
            }
            Token::Name(name) => {
                let name = (*name).to_owned();
                self.tokens.next();
                return Some(Selected::Fragment(name, self.directives()?));
            }
            _ => {}
        }
        let maybe = self.directives()?;
        Some(Selected::Inline(self.selection(depth + 1)?, maybe))
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
        call.conditional = self.directives()?;
        if self.tokens.peek() == Some(&Token::Mark(b'{')) {
            self.skip_block()?;
        }
        Some(call)
    }

    /// Whether there are directives; they are gone over.
    fn directives(&mut self) -> Option<bool> {
        let mut some = false;
        while self.tokens.next_if_eq(&Token::Mark(b'@')).is_some() {
            matches!(self.tokens.next()?, Token::Name(_)).then_some(())?;
            some = true;
            if self.tokens.peek() == Some(&Token::Mark(b'(')) {
                self.skip_block()?;
            }
        }
        Some(some)
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
