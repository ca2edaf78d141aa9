//! What would it do? A frozen request in, one sentence for people out.
//!
//! ```text
//! subject ─ Ask ──┬─ services::of(host) ─▶ a table of calls, or a function ─┐
//!   (policy's own ├─ git, rpc: protocols that any host may speak ───────────┼─▶ Description
//!    readers)     └─ database: the statements of a PostgreSQL ───────────────┘
//! ```
//!
//! A describer never guesses: a call that it does not know has no sentence, and one that can be read in two ways is
//! [`Undecidable`]. It never hides: whatever of the query and of the body is in no fact is listed by [`Also`], and what that
//! does not list, it counts. What people are shown is read by the readers that the policy decided with.
//!
//! A service is one file of `services` and its hosts in `services::of`; its dangerous calls come first.
//!
//! No I/O, no clock, no dice. Texts are as the agent wrote them: whoever shows them makes them visible first.

use countersign_gate::Scheme;
use countersign_policy::body::Undecodable;
use countersign_policy::decode::{self, mcp};
use countersign_policy::{Body, Subject, target};
use serde::{Deserialize, Serialize};

mod ask;
mod database;
mod git;
mod mail;
mod rpc;
mod services;
mod table;
mod words;

use ask::Ask;

/// What a request would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// "Delete repository acme/prod": one line, without a full stop.
    pub sentence: String,
    pub risk: Risk,
    /// What it is about, most important first.
    pub facts: Vec<Fact>,
    pub also: Also,
}

/// One thing that the request says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Words of ours, in which nothing of the agent's is.
    pub name: String,
    /// The agent's words, cut where they are long, which they then say.
    pub value: String,
}

/// What else the query and the body contain, which the sentence and the facts do not cover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Also {
    /// Where, as `settings.color` or `query: force`, and what, cut where it is long.
    pub listed: Vec<(String, String)>,
    /// How many more values there are.
    pub more: u64,
}

impl Also {
    /// One line for a card: what is listed, and how much more there is. None if there is nothing.
    pub fn line(&self) -> Option<String> {
        let each = self.listed.iter().map(|(name, value)| format!("{name}: {value}"));
        let more = (self.more > 0).then(|| format!("{} more values", self.more));
        let line = each.chain(more).collect::<Vec<_>>().join("; ");
        (!line.is_empty()).then_some(line)
    }
}

/// What kind of harm a mistake would be. It decides nothing; it tells a reader where to look first. What is several of them is
/// the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// It changes nothing.
    Read,
    /// It changes what can be changed back.
    Write,
    /// People, or the public, hear of it.
    Messages,
    /// It runs code or a command, or decides what will be run.
    Code,
    /// It changes who may do what: members, permissions, keys, what is public.
    People,
    /// It moves money, or promises to.
    Money,
    /// It ends or overwrites what cannot be brought back.
    Destructive,
}

impl Risk {
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Messages => "messages",
            Self::Code => "code",
            Self::People => "people",
            Self::Money => "money",
            Self::Destructive => "destructive",
        }
    }
}

/// Why it cannot be said for certain: a noun, as in "a form that is not UTF-8".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecidable(pub &'static str);

impl From<Undecodable> for Undecidable {
    fn from(Undecodable(why): Undecodable) -> Self {
        Self(why)
    }
}

/// The sentence and its risk; none for a call that is not known.
type Said = Result<Option<(Risk, String)>, Undecidable>;

/// Describes a request, as it would leave. None where nothing is known about such requests.
///
/// # Errors
/// A call that is known, and of which it cannot be said for certain what it would do.
pub fn describe(subject: &Subject<'_>) -> Result<Option<Description>, Undecidable> {
    let head = &subject.head;
    let Body::Whole(body) = subject.body else { return Ok(None) };
    if head.destination.scheme() == Scheme::Postgres {
        return database::describe(subject, body);
    }
    let service = services::of(head.destination, head.path);
    let protocol = || {
        let git = decode::git::may_be(head);
        git.then_some(git::describe as services::Describer)
            .or_else(|| mcp::is_marked(head, body).then_some(rpc::describe as _))
            .or_else(|| services::elsewhere(head.path))
    };
    let Some(describer) = service.or_else(protocol) else { return Ok(None) };
    if target::check_segments(head.path, head.query).is_err() {
        return Err(Undecidable("a target that can be read in two ways"));
    }
    if !subject.method_is_certain() {
        return Err(Undecidable("a method that something in the request may override"));
    }
    let decoded = countersign_policy::body::decode(head.headers, body);
    let mut ask = Ask::read(head, body.len(), decoded.as_deref().map_err(|why| *why))?;
    Ok(describer(&mut ask)?.map(|(risk, sentence)| ask.finish(risk, &sentence)))
}
