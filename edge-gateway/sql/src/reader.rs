//! A text's tokens to statements: where one ends, what it begins with, and what it is found to do on the way.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::lexis::{Kind, Token};
use crate::names::Name;
use crate::{Effect, MOST_DEPTH, MOST_STATEMENTS, Object, Statement, Undecidable, words};

pub(crate) type Read<T = ()> = Result<T, Undecidable>;

pub(crate) fn statements(text: &str, tokens: &[Token<'_>]) -> Read<Vec<Statement>> {
    let mut read: Vec<Statement> = Vec::new();
    // What PREPARE named earlier in the text, and what EXECUTE of it does.
    let mut prepared: Vec<(String, Facts)> = Vec::new();
    for tokens in split(tokens)? {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { continue };
        if read.len() == MOST_STATEMENTS {
            return Err(Undecidable { why: "it has more than 256 statements", at: first.at });
        }
        let mut reader = Reader {
            tokens,
            at: 0,
            end: text.len().min(last.end),
            depth: 0,
            facts: Facts::default(),
            queries: Vec::new(),
            prepared: &mut prepared,
        };
        let kind = reader.statement()?;
        if let Some(token) = reader.peek() {
            let why = "it has words that are not known to stand where they do";
            return Err(Undecidable { why, at: token.at });
        }
        read.push(reader.facts.statement(kind, first.at..last.end));
    }
    Ok(read)
}

/// At every semicolon outside brackets.
fn split<'t, 'a>(tokens: &'t [Token<'a>]) -> Read<Vec<&'t [Token<'a>]>> {
    let mut parts = Vec::new();
    let mut open: Vec<&str> = Vec::new();
    let mut from = 0;
    for (at, token) in tokens.iter().enumerate() {
        if token.kind == Kind::Word
            && token.text == "begin"
            && tokens.get(at + 1).is_some_and(|next| next.is_word("atomic"))
        {
            let why = "it has a body of SQL, in which semicolons do not end the statement";
            return Err(Undecidable { why, at: token.at });
        }
        if token.kind != Kind::Mark {
            continue;
        }
        match token.text.as_ref() {
            "(" => open.push(")"),
            "[" => open.push("]"),
            mark @ (")" | "]") => {
                let closed = open.pop();
                if closed != Some(mark) {
                    let why = "its brackets do not match";
                    return Err(Undecidable { why, at: token.at });
                }
            }
            ";" if open.is_empty() => {
                parts.push(tokens.get(from..at).unwrap_or_default());
                from = at + 1;
            }
            _ => {}
        }
    }
    if !open.is_empty() {
        let at = tokens.last().map_or(0, |token| token.at);
        return Err(Undecidable { why: "its brackets do not match", at });
    }
    parts.push(tokens.get(from..).unwrap_or_default());
    Ok(parts)
}

/// What is found of one statement.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) effect: Effect,
    /// The gravest of what is called.
    pub(crate) called: Effect,
    pub(crate) reads: BTreeSet<String>,
    pub(crate) writes: BTreeSet<String>,
    pub(crate) functions: BTreeSet<String>,
    /// Of each UPDATE and DELETE, whether it has a WHERE.
    pub(crate) changes_where: Vec<bool>,
    /// Whether the outermost query has one.
    pub(crate) query_where: bool,
    pub(crate) object: Option<Object>,
    pub(crate) inner: Option<&'static str>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            effect: Effect::Session,
            called: Effect::Session,
            reads: BTreeSet::new(),
            writes: BTreeSet::new(),
            functions: BTreeSet::new(),
            changes_where: Vec::new(),
            query_where: false,
            object: None,
            inner: None,
        }
    }
}

impl Facts {
    pub(crate) fn at_least(&mut self, effect: Effect) {
        self.effect = self.effect.max(effect);
    }

    pub(crate) fn calls(&mut self, name: &Name) {
        self.calls_as(name, name.called());
    }

    pub(crate) fn calls_as(&mut self, name: &Name, effect: Effect) {
        self.at_least(effect);
        self.called = self.called.max(effect);
        self.functions.insert(name.written());
    }

    fn statement(self, kind: &'static str, text: Range<usize>) -> Statement {
        let has_where = match self.changes_where.is_empty() {
            true => self.query_where,
            false => self.changes_where.iter().all(|has| *has),
        };
        Statement {
            text,
            kind,
            effect: self.effect,
            reads: self.reads.into_iter().collect(),
            writes: self.writes.into_iter().collect(),
            functions: self.functions.into_iter().collect(),
            has_where,
            object: self.object,
            inner: self.inner,
        }
    }
}

/// One statement's tokens, taken one after the other.
pub(crate) struct Reader<'t, 'a, 'p> {
    pub(crate) tokens: &'t [Token<'a>],
    pub(crate) at: usize,
    /// Where the statement ends in the text.
    end: usize,
    /// How deep brackets, values and queries are nested here; 1 in the statement's own query.
    pub(crate) depth: usize,
    pub(crate) facts: Facts,
    /// The names that WITH gives to queries, for those that are being read.
    pub(crate) queries: Vec<String>,
    pub(crate) prepared: &'p mut Vec<(String, Facts)>,
}

impl<'t, 'a> Reader<'t, 'a, '_> {
    pub(crate) fn peek(&self) -> Option<&'t Token<'a>> {
        self.tokens.get(self.at)
    }

    pub(crate) fn ahead(&self, by: usize) -> Option<&'t Token<'a>> {
        self.tokens.get(self.at + by)
    }

    pub(crate) fn wrong<T>(&self, why: &'static str) -> Read<T> {
        Err(Undecidable { why, at: self.peek().map_or(self.end, |token| token.at) })
    }

    pub(crate) fn skip(&mut self) {
        self.at += 1;
    }

    /// Whether the next token is this word, whatever comes behind.
    pub(crate) fn sees(&self, word: &str) -> bool {
        self.peek().is_some_and(|token| token.is_word(word))
    }

    pub(crate) fn sees_any(&self, words: &[&str]) -> bool {
        self.peek().is_some_and(|t| t.kind == Kind::Word && words.contains(&t.text.as_ref()))
    }

    /// Whether the next tokens are these words.
    pub(crate) fn sees_all(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(by, word)| self.ahead(by).is_some_and(|t| t.is_word(word)))
    }

    pub(crate) fn sees_mark(&self, mark: &str) -> bool {
        self.peek().is_some_and(|token| token.is_mark(mark))
    }

    pub(crate) fn sees_kind(&self, kind: Kind) -> bool {
        self.peek().is_some_and(|token| token.kind == kind)
    }

    /// Takes the word if it is next.
    pub(crate) fn takes(&mut self, word: &str) -> bool {
        let there = self.sees(word);
        self.at += usize::from(there);
        there
    }

    pub(crate) fn takes_any(&mut self, words: &[&str]) -> bool {
        let there = self.sees_any(words);
        self.at += usize::from(there);
        there
    }

    pub(crate) fn takes_all(&mut self, words: &[&str]) -> bool {
        let there = self.sees_all(words);
        self.at += if there { words.len() } else { 0 };
        there
    }

    pub(crate) fn takes_mark(&mut self, mark: &str) -> bool {
        let there = self.sees_mark(mark);
        self.at += usize::from(there);
        there
    }

    pub(crate) fn needs(&mut self, word: &str) -> Read {
        if self.takes(word) {
            Ok(())
        } else {
            self.wrong("a word is missing that the grammar has there")
        }
    }

    pub(crate) fn needs_mark(&mut self, mark: &str) -> Read {
        if self.takes_mark(mark) {
            Ok(())
        } else {
            self.wrong("a sign is missing that the grammar has there")
        }
    }

    /// Takes a token of this kind.
    pub(crate) fn needs_kind(&mut self, kind: Kind) -> Read<&'t Token<'a>> {
        match self.peek() {
            Some(token) if token.kind == kind => {
                self.skip();
                Ok(token)
            }
            _ => self.wrong("something is missing that the grammar has there"),
        }
    }

    /// One level deeper.
    pub(crate) fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        if self.depth == MOST_DEPTH {
            return self.wrong("it is nested more than 64 deep");
        }
        self.depth += 1;
        let read = inner(self);
        self.depth -= 1;
        read
    }

    /// `one, one, one`
    pub(crate) fn list(&mut self, mut one: impl FnMut(&mut Self) -> Read) -> Read {
        loop {
            one(self)?;
            if !self.takes_mark(",") {
                return Ok(());
            }
        }
    }

    /// `( inner )`
    pub(crate) fn brackets<T>(&mut self, inner: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        self.needs_mark("(")?;
        let read = self.nested(inner)?;
        self.needs_mark(")")?;
        Ok(read)
    }

    /// The name of a column, a relation or the like: ColId.
    pub(crate) fn column_name(&mut self) -> Read<String> {
        self.name_if(words::names_columns)
    }

    /// Any word at all behind AS: ColLabel.
    pub(crate) fn label(&mut self) -> Read<String> {
        self.name_if(|_| true)
    }

    pub(crate) fn sees_name(&self, fits: fn(&str) -> bool) -> bool {
        self.peek().is_some_and(|token| match token.kind {
            Kind::Name => true,
            Kind::Word => fits(&token.text),
            _ => false,
        })
    }

    pub(crate) fn name_if(&mut self, fits: fn(&str) -> bool) -> Read<String> {
        match self.peek() {
            Some(token) if self.sees_name(fits) => {
                self.skip();
                Ok(token.text.clone().into_owned())
            }
            _ => self.wrong("a name is missing, or it is a reserved word"),
        }
    }

    /// `schema.name`, in as many parts as there are.
    pub(crate) fn qualified(&mut self, fits: fn(&str) -> bool) -> Read<Name> {
        let mut parts = vec![self.name_if(fits)?];
        while self.sees_mark(".") {
            self.skip();
            parts.push(self.label()?);
        }
        if parts.len() > 3 {
            return self.wrong("a name has more than three parts");
        }
        Ok(Name(parts))
    }

    /// A relation's name, which nothing has been found of yet.
    pub(crate) fn relation_name(&mut self) -> Read<Name> {
        self.qualified(words::names_columns)
    }

    /// A list of columns in brackets, none of which is looked into.
    pub(crate) fn columns(&mut self) -> Read {
        self.brackets(|reader| reader.list(|reader| reader.column_name().map(drop)))
    }
}
