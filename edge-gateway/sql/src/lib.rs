//! What SQL statements for PostgreSQL do, judged from their text alone.
//!
//! ```text
//! text ─ lexis ─▶ tokens ─ split at ; ─▶ statement ─▶ select, change, expression, call, types ─▶ facts ─▶ Statements
//!                                           └─▶ session, data, define
//! ```
//!
//! The reader takes a part of PostgreSQL's grammar, and nothing beside it: every token of a statement has a part to play
//! in it, or the text is [`Undecidable`]. It follows `scan.l` and `gram.y` of PostgreSQL 15 to 18. That grammar gives a
//! sentence one derivation, so what this reader accepts the server derives alike, save for how tightly operators bind,
//! on which no fact that is told here depends. Where versions of the server, its settings or its encodings could cut a
//! text into other tokens, it is undecidable.
//!
//! Facts are told too gravely rather than too lightly: whatever is called and is not known to be harmless counts as
//! [`Effect::Danger`], and a name that could be a table's counts as one.
//!
//! # What a text cannot say
//!
//! Operators, casts, views, triggers, rules, policies, defaults and columns that are written `row.name` can all run
//! functions that the text does not name. They do what whoever owns the schema made of them. A statement that is
//! [`Effect::Read`] reads those relations that it names, and whatever those names stand for in that database.
//!
//! No I/O, no clock, no randomness, nothing that panics; time and memory grow with the text, which is bounded, and so is
//! the stack.

use std::fmt;
use std::ops::Range;

mod effect;
mod lexis;
mod names;
mod words;

mod reader;

mod call;
mod change;
mod expression;
mod select;
mod types;

mod data;
mod define;
mod session;

pub use effect::Effect;
pub use names::{HARMLESS_IN_SPITE_OF_VOLATILITY, WRITING, harmless};

/// The longest text that is read, bytes.
pub const MOST_TEXT: usize = 1024 * 1024;
/// The most statements that one text may have.
pub const MOST_STATEMENTS: usize = 256;
/// How deep brackets, conditions and queries may be nested.
pub const MOST_DEPTH: usize = 64;

/// Reads a text as the server does with `standard_conforming_strings` on and in UTF-8.
///
/// # Errors
/// Whatever keeps this reader from being sure that the server reads the text alike.
pub fn read(text: &str) -> Result<Statements, Undecidable> {
    if text.len() > MOST_TEXT {
        return Err(Undecidable { why: "it is longer than 1 MiB", at: MOST_TEXT });
    }
    let tokens = lexis::tokens(text)?;
    reader::statements(text, &tokens).map(|statements| Statements { statements })
}

/// Why it is not certain what a text does: a clause that goes on after "because".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecidable {
    pub why: &'static str,
    /// Where in the text, bytes.
    pub at: usize,
}

impl fmt::Display for Undecidable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.why, self.at)
    }
}

impl std::error::Error for Undecidable {}

/// What a text does. It may have no statement at all: a comment, or `;`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statements {
    statements: Vec<Statement>,
}

impl Statements {
    /// In the order of the text.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Statement> {
        self.statements.iter()
    }

    /// The gravest one; [`Effect::Session`] where nothing is done.
    pub fn effect(&self) -> Effect {
        self.iter().map(|statement| statement.effect).max().unwrap_or(Effect::Session)
    }
}

/// What one statement does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Where in the text it stands, without the semicolon.
    pub text: Range<usize>,
    /// Its verb: one of [`KINDS`].
    pub kind: &'static str,
    pub effect: Effect,
    /// Relations whose rows it asks for, each once, by name. Names are folded as the server folds them, with the schema
    /// if it is written, and in quotes where they need them: `orders`, `public.orders`, `"Order"`.
    pub reads: Vec<String>,
    /// Relations that it changes, locks or defines.
    pub writes: Vec<String>,
    /// Functions that it calls by name, and procedures.
    pub functions: Vec<String>,
    /// Whether every UPDATE and DELETE in it has a WHERE; in what has neither, whether the query itself has one.
    pub has_where: bool,
    /// What a CREATE, ALTER, DROP or the like is about.
    pub object: Option<Object>,
    /// What stands behind EXPLAIN ANALYZE, PREPARE, DECLARE and COPY, where it is not the kind itself.
    pub inner: Option<&'static str>,
}

impl Statement {
    /// What it reads and writes, each once, by name.
    pub fn tables(&self) -> Vec<&str> {
        let mut all: Vec<&str> =
            self.reads.iter().chain(&self.writes).map(String::as_str).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// What is created, altered, dropped or named by an administrative statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `table`, `materialized view`, `role`.
    pub sort: &'static str,
    /// As [`Statement::reads`] has them; empty where it has no name, or a longer one.
    pub names: Vec<String>,
}

/// Every kind of statement. TABLE and VALUES are a `select`, RESET is a `set`, MOVE a `fetch`, UNLISTEN a `listen`.
pub const KINDS: [&str; 39] = [
    "alter",
    "analyze",
    "call",
    "checkpoint",
    "close",
    "cluster",
    "comment",
    "copy",
    "create",
    "deallocate",
    "declare",
    "delete",
    "discard",
    "do",
    "drop",
    "execute",
    "explain",
    "fetch",
    "grant",
    "import",
    "insert",
    "listen",
    "load",
    "lock",
    "merge",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "revoke",
    "security",
    "select",
    "set",
    "show",
    "transaction",
    "truncate",
    "update",
    "vacuum",
];
