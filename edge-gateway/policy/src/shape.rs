//! What conditions can look at of requests that were decoded further than a form or JSON: each name, and of what kind it is.

/// What is known of a value before it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// JSON, or a message: whatever its author put there.
    Any,
    /// Texts of a form by their names.
    Fields,
    Flag,
    List(&'static Self),
    Number,
    Record(&'static [(&'static str, Self)]),
    Text,
    /// A text of a form, which is read as a number beside one.
    Written,
}

use Shape::{Any, Fields, Flag, List, Number, Record, Text, Written};

/// What an expression may begin with.
pub(crate) const ROOTS: [&str; 8] =
    ["agent", "body", "git", "graphql", "grpc", "mcp", "request", "sql"];
/// In rules about HTTP.
pub(crate) const OF_HTTP: [&str; 7] = ["agent", "body", "git", "graphql", "grpc", "mcp", "request"];
/// In rules about databases.
pub(crate) const OF_DATABASES: [&str; 3] = ["agent", "request", "sql"];

/// Every name, as it is bound.
pub(crate) static NAMES: [(&str, Shape); 18] = [
    ("body.mail", Record(&MAIL)),
    ("body.multipart", Record(&MULTIPART)),
    ("git.atomic", Flag),
    ("git.options", List(&Text)),
    ("git.refs", List(&Record(&REF))),
    ("git.service", Text),
    ("graphql.operations", List(&Record(&OPERATION))),
    ("grpc.message", Any),
    ("mcp.arguments", Any),
    ("mcp.calls", List(&Record(&CALL))),
    ("mcp.kind", Text),
    ("mcp.method", Text),
    ("mcp.params", Any),
    ("mcp.tool", Text),
    ("sql.database", Text),
    ("sql.effect", Text),
    ("sql.role", Text),
    ("sql.statements", List(&STATEMENT)),
];

/// One of `sql.statements`.
pub(crate) const STATEMENT: Shape = Record(&[
    ("effect", Text),
    ("functions", List(&Text)),
    ("has_where", Flag),
    ("kind", Text),
    ("reads", List(&Text)),
    ("tables", List(&Text)),
    ("writes", List(&Text)),
]);

const CALL: [(&str, Shape); 5] =
    [("arguments", Any), ("kind", Text), ("method", Text), ("params", Any), ("tool", Text)];
const FILE: [(&str, Shape); 4] =
    [("field", Text), ("name", Text), ("size", Number), ("type", Text)];
const MAIL: [(&str, Shape); 8] = [
    ("bcc", List(&Text)),
    ("cc", List(&Text)),
    ("from", List(&Text)),
    ("parts", List(&Record(&PART))),
    ("recipients", List(&Text)),
    ("subject", Text),
    ("text", Text),
    ("to", List(&Text)),
];
const MULTIPART: [(&str, Shape); 2] = [("fields", Fields), ("files", List(&Record(&FILE)))];
const OPERATION: [(&str, Shape); 3] = [("fields", List(&Text)), ("name", Text), ("type", Text)];
const PART: [(&str, Shape); 3] = [("name", Text), ("size", Number), ("type", Text)];
const REF: [(&str, Shape); 5] =
    [("forced", Flag), ("kind", Text), ("new", Text), ("old", Text), ("ref", Text)];

/// The name that `root.field` is bound by.
pub(crate) fn name(root: &str, field: &str) -> Option<&'static (&'static str, Shape)> {
    NAMES.iter().find(|(name, _)| name.split_once('.') == Some((root, field)))
}

/// Everything below a root.
pub(crate) fn below(root: &str) -> impl Iterator<Item = &'static str> {
    NAMES
        .iter()
        .map(|(name, _)| *name)
        .filter(move |name| name.split_once('.').is_some_and(|(other, _)| other == root))
}

impl Shape {
    /// What a member of it is; None where it has none of this name.
    pub(crate) fn member(self, name: &str) -> Option<Self> {
        match self {
            Any => Some(Any),
            Fields => Some(Written),
            Record(members) => {
                members.iter().find(|(known, _)| *known == name).map(|(_, shape)| *shape)
            }
            Flag | List(_) | Number | Text | Written => None,
        }
    }

    /// What its elements are.
    pub(crate) fn element(self) -> Option<Self> {
        match self {
            Any => Some(Any),
            List(element) => Some(*element),
            Fields | Flag | Number | Record(_) | Text | Written => None,
        }
    }

    /// As an author would say it.
    pub(crate) fn word(self) -> String {
        match self {
            Any => "whatever is there".to_owned(),
            Fields => "a collection of texts".to_owned(),
            Flag => "true or false".to_owned(),
            List(_) => "a list".to_owned(),
            Number => "a number".to_owned(),
            Record(members) => {
                let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
                format!("a record of {}", names.join(", "))
            }
            Text | Written => "a text".to_owned(),
        }
    }
}
